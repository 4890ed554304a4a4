"""Sequences, regions and variants as rows: one for every row of the input, in its order.

    with open_regions(Path("peaks.bed.gz"), genome=open_genome(["hg38.fa.gz"])) as table:
        for row in table:
            row.columns, row.status, row.codes

One row is held at a time: of a FASTA a record, of a CSV a few MB, of parquet a group of its rows.
"""

import io
import os.path
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from dnamamba.data_prep.genomes.fasta import read_records
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.bed import read_bed
from dnamamba.data_prep.regions.columns import is_table, read_region_columns
from dnamamba.data_prep.regions.gff import read_features
from dnamamba.data_prep.regions.region_list import read_region_list
from dnamamba.data_prep.regions.rows import RegionRow, RegionTable, WindowRule, record_row
from dnamamba.data_prep.regions.sequence_table import read_sequence_table
from dnamamba.data_prep.regions.text_input import (
    RegionFormat,
    TextInput,
    format_of,
    looks_like_region,
    open_text,
)
from dnamamba.data_prep.regions.vcf import read_vcf
from dnamamba.errors import InputError

_READERS = {"bed": read_bed, "vcf": read_vcf, "gtf": read_features, "region": read_region_list}
_CALLED = {
    "fasta": "FASTA",
    "bed": "BED",
    "vcf": "VCF",
    "gtf": "GFF or GTF",
    "region": "a list of regions",
}


@contextmanager
def open_regions(
    source: Path | str | BinaryIO | Any,
    *,
    genome: Genome | None = None,
    rule: WindowRule | None = None,
    input_format: RegionFormat | None = None,
    sequence_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[RegionTable]:
    """Open FASTA, BED, VCF, GFF3, GTF, a list of regions or a table, plain, gzip or BGZF.

    source: a file; a stream such as standard input; text: the name of a file that exists, else a
        region like `chr1:1-2,000` or a contig of the genome; or a table in memory with the columns
        chrom, start, end and perhaps strand (columns.py).
    genome: needed by all formats but FASTA and tables.
    rule: how much of a region is read; default all of it, which variants refuse.
    input_format: default by how the text begins (text_input.format_of).
    sequence_column, name_column: of a table; default `sequence`, and `name` if there is one. With
        a sequence_column, a text that would be read as BED is a table.

        with dnamamba.open_regions("peaks.bed", genome=dnamamba.open_genome("hg38.fa")) as rows:
            for row in rows: row.columns, row.status, row.codes

    Raises FileNotFoundError, and InputError for other formats, regions without a genome, a VCF
    without seq_len, wrong columns, and damaged compressed data. A bad row has a note instead.
    """
    rule = rule or WindowRule()
    if is_table(source):
        if genome is None:
            raise InputError(
                "a table of regions says where sequences lie, not what they are: name the genome"
            )
        yield read_region_columns(source, genome, rule)
        return
    if isinstance(source, str) and _is_region(source, genome, input_format):
        written = io.BytesIO(source.encode("utf-8", "surrogateescape"))
        opened, input_format = open_text(written, source), "region"
    else:
        opened = open_text(Path(source) if isinstance(source, str) else source)
    with opened as text:
        found = input_format or format_of(text, sequence_column)
        if text.is_parquet and found != "table":
            raise InputError(f"{text.name} is parquet, a table, but was to be read as {found}")
        if found != "table" and (column := sequence_column or name_column):
            raise InputError(
                f"column {column!r} is of a table, but {text.name} is read as {_CALLED[found]}: "
                "name no column, or say that it is a table"
            )
        if found == "fasta":
            columns = ("name", "description", "bases")
            yield RegionTable(columns, _fasta_rows(text, rule), has_surroundings=False)
        elif found == "table":
            yield read_sequence_table(text, rule, sequence_column, name_column)
        elif genome is None:
            raise InputError(
                f"{text.name} is read as {_CALLED[found]}, which says where sequences lie but not "
                "what they are: name the genome (--genome), or give a FASTA"
            )
        else:
            yield _READERS[found](text, genome, rule)


def _is_region(source: str, genome: Genome | None, input_format: RegionFormat | None) -> bool:
    if os.path.exists(source):
        return False
    is_contig = genome is not None and source in genome.contigs
    if is_contig or looks_like_region(source):
        return input_format in (None, "region")
    raise FileNotFoundError(
        f"no such file: {source}; nor is it a region, which looks like chr1:1-2,000"
    )


def _fasta_rows(text: TextInput, rule: WindowRule) -> Iterator[RegionRow]:
    rule = replace(rule, widen=False)
    for number, (header, codes) in enumerate(read_records(text.blocks(), text.name), start=1):
        words = header.decode("utf-8", "surrogateescape")[1:].split()
        name, description = words[0] if words else "", " ".join(words[1:])
        yield record_row(number, (name, description, str(len(codes))), name, codes, rule)
