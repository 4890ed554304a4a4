"""Sequences, regions and variants as rows: one for every row of the input, in its order.

    with open_regions(Path("peaks.bed.gz"), genome=open_genome(["hg38.fa.gz"])) as table:
        for row in table:
            row.columns, row.status, row.codes

A row at a time is held, of a FASTA a record, of a CSV a few MB, of parquet a group of its rows.
FASTA and BED are read here, others in variant_reader, feature_reader (GFF3, GTF), region_list and
table_reader (CSV, TSV, parquet).
"""

import io
import os.path
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.gff import read_features
from dnamamba.data_prep.regions.region_list import read_region_list
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionRow,
    RegionTable,
    RowError,
    WindowRule,
    fit_columns,
    given_name,
    join_notes,
    locate,
    parse_position,
    record_row,
    region_row,
    split_columns,
    unreadable,
)
from dnamamba.data_prep.regions.sequence_table import read_sequence_table
from dnamamba.data_prep.regions.text_input import (
    RegionFormat,
    TextInput,
    format_of,
    is_bed_header,
    is_comment,
    looks_like_region,
    open_text,
)
from dnamamba.data_prep.regions.vcf import read_vcf
from dnamamba.errors import InputError
from dnamamba.intervals import Strand
from dnamamba.tokenizer import ENCODE_TABLE, Codes

_BED_COLUMNS = (
    *("chrom", "start", "end", "name", "score", "strand"),
    *("thick_start", "thick_end", "item_rgb", "block_count", "block_sizes", "block_starts"),
)
# Rows looked at to tell how many columns there are.
_LOOK_AHEAD = 100


@contextmanager
def open_regions(
    source: Path | str | BinaryIO,
    *,
    genome: Genome | None = None,
    rule: WindowRule | None = None,
    input_format: RegionFormat | None = None,
    sequence_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[RegionTable]:
    """Open FASTA, BED, VCF, GFF3, GTF, a list of regions or a table, plain, gzip or BGZF.

    source: a file; a stream such as standard input; or text, which is the name of a file if there
    is such a one, and else a region like `chr1:1-2,000`, or a contig of the genome.
    genome: what all but FASTA and tables refer to. rule: how much of a region is read; default as
    it is, which variants cannot be. input_format: default told by what the text begins with.
    sequence_column, name_column: of a table; default `sequence`, and `name` if there is one. Where
    the first is named, what would be read as BED is a table.
    Raises FileNotFoundError, and InputError for what is none of these formats, for regions without
    a genome, a VCF without a window's length, a table without the columns named, columns named of
    what is no table, and compressed data that is damaged; the last while rows are read. What is
    wrong with a row is said in the row.
    """
    rule = rule or WindowRule()
    if isinstance(source, str) and _is_region(source, genome, input_format):
        opened, input_format = _text_of_region(source), input_format or "region"
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
            yield RegionTable(columns, _read_fasta(text, rule), has_surroundings=False)
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


def _text_of_region(source: str) -> AbstractContextManager[TextInput]:
    return open_text(io.BytesIO(source.encode("utf-8", "surrogateescape")), source)


# --- FASTA


def _read_fasta(text: TextInput, rule: WindowRule) -> Iterator[RegionRow]:
    rule = replace(rule, widen=False)
    for number, (header, codes) in enumerate(_records(text), start=1):
        words = header[1:].split()
        name, description = words[0] if words else "", " ".join(words[1:])
        yield record_row(number, (name, description, str(len(codes))), name, codes, rule)


def _records(text: TextInput) -> Iterator[tuple[str, Codes]]:
    """(header line, letters) of each record."""
    # Letters become codes as they come: of a chromosome there is never more than one copy.
    header, codes, in_header = bytearray(), bytearray(), False
    for number, begins_line, piece in text.pieces():
        if begins_line:
            in_header = piece.startswith(b">")
            if in_header and header:
                yield _decode(header), np.frombuffer(codes, np.uint8)
            if in_header:
                header, codes = bytearray(), bytearray()
        if in_header:
            header += piece
        elif header:
            codes += _encode(piece)
        elif not piece.isspace():
            raise InputError(
                f"{text.name} line {number}: expected FASTA, which begins with a line starting "
                f"with '>', got {_decode(piece)[:40]!r}"
            )
    if header:
        yield _decode(header), np.frombuffer(codes, np.uint8)


def _decode(line: bytes | bytearray) -> str:
    return line.decode("utf-8", "surrogateescape").rstrip("\r\n")


def _encode(piece: bytes) -> bytes:
    """Codes of a line's letters, without spaces."""
    if not piece.isascii():
        # A letter is one, however many bytes it takes.
        piece = _decode(piece).encode("latin-1", "replace")
    return piece.translate(_TO_CODES, b"\r\n\t ")


_TO_CODES = ENCODE_TABLE.tobytes()


# --- BED


def _read_bed(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    lines = ((n, split_columns(line)) for n, line in text.lines() if not is_comment(line))
    first = list(islice(lines, _LOOK_AHEAD))
    has_header = bool(first) and is_bed_header(first[0][1])
    columns = _header(text, first.pop(0)[1]) if has_header else _names(first)
    rows = (
        _bed_row(number, fields, len(columns), genome, rule)
        for number, fields in chain(first, lines)
    )
    return RegionTable(columns, rows)


def _names(rows: list[tuple[int, list[str]]]) -> tuple[str, ...]:
    widest = max([len(_BED_COLUMNS[:3]), *(len(fields) for _, fields in rows)])
    more = [f"column_{i + 1}" for i in range(len(_BED_COLUMNS), widest)]
    return (*_BED_COLUMNS, *more)[:widest]


def _bed_row(
    number: int, fields: list[str], n_columns: int, genome: Genome, rule: WindowRule
) -> RegionRow:
    columns, cut = fit_columns(fields, n_columns)
    name = given_name(fields[3]) if len(fields) > 3 else ""
    try:
        located = _locate_bed(fields, genome)
    except RowError as error:
        return RegionRow(number, columns, error.status, join_notes(cut, error.note), name=name)
    return region_row(number, columns, name, located, genome, rule, cut)


def _header(text: TextInput, fields: list[str]) -> tuple[str, ...]:
    """Names from a first row. Raises InputError for a strand that would be overlooked."""
    names = [field.strip().lower() for field in fields]
    place = _BED_COLUMNS.index("strand")
    if "strand" in names and names.index("strand") != place:
        raise InputError(
            f"{text.name} has strand in column {names.index('strand') + 1} by its header, BED has "
            f"it in column {place + 1}: move it there"
        )
    return tuple(fields)


def _locate_bed(fields: list[str], genome: Genome) -> Located:
    if len(fields) < 3:
        raise unreadable(f"a row has chrom, start and end, this has {len(fields)} columns")
    start = parse_position(fields[1].strip(), "start")
    end = parse_position(fields[2].strip(), "end")
    strand = fields[5].strip() if len(fields) > 5 else Strand.FORWARD
    return locate(fields[0].strip(), start, end, strand, genome)


_READERS = {
    "bed": _read_bed,
    "vcf": read_vcf,
    "gtf": read_features,
    "region": read_region_list,
}
_CALLED = {
    "fasta": "FASTA",
    "bed": "BED",
    "vcf": "VCF",
    "gtf": "GFF or GTF",
    "region": "a list of regions",
}
