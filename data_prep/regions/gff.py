"""GFF3 and GTF as rows of regions: each feature, whatever its type, with the bases around.

Both count from 1 and include the end. Columns are the nine of the file, as they stand in it; the
name is the first there is of ID, Name, gene_id and transcript_id.
"""

import re
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from urllib.parse import unquote

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionRow,
    RegionTable,
    WindowRule,
    fit_columns,
    locate,
    located_row,
    parse_position,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput, is_comment

_COLUMNS = ("seqid", "source", "type", "start", "end", "score", "strand", "phase", "attributes")
_NAMES = ("ID", "Name", "gene_id", "transcript_id")
# GFF3: ID=gene:1;Name=a%2Cb, with `;` only as an escape. GTF: gene_id "a; b"; level 2;
_GFF3 = re.compile(r'\s*[^\s=;"]+=')
_GTF_ATTRIBUTE = re.compile(r'(?:[^;"]+|"[^"]*"?)+')
# Escapes may stand for characters that would end a line or a cell of an output.
_CONTROL = dict.fromkeys([*range(32), 127], " ")


def read_features(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each feature, in the order of the file.

    Comments, directives, `track` and `browser` lines are skipped; ##FASTA, or the `>` of a record,
    ends the features. The part of a feature past the end of a circular contig is not read.
    """
    lines = takewhile(lambda line: not line[1].startswith((">", "##FASTA")), text.lines())
    rows = (
        _feature_row(number, line, genome, rule) for number, line in lines if not is_comment(line)
    )
    return RegionTable(_COLUMNS, rows)


def _feature_row(number: int, line: str, genome: Genome, rule: WindowRule) -> RegionRow:
    # Attributes hold spaces: without tabs only the first eight spaces part columns.
    fields = line.split("\t") if "\t" in line else line.split(maxsplit=len(_COLUMNS) - 1)
    columns, note = fit_columns(fields, len(_COLUMNS))
    name = feature_name(columns[-1])
    return located_row(number, columns, name, partial(_locate, fields, genome), genome, rule, note)


def _locate(fields: list[str], genome: Genome) -> Located:
    if len(fields) < 5:
        raise unreadable(f"a row must have nine columns, start and end fourth, got {len(fields)}")
    chrom = fields[0].strip()
    if chrom not in genome.contigs and "%" in chrom:
        chrom = unquote(chrom)
    start = parse_position(fields[3].strip(), "start")
    end = parse_position(fields[4].strip(), "end")
    if start == 0:
        raise unreadable("start counts from 1; 0 is beyond the contig")
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    strand = fields[6].strip() if len(fields) > 6 else "."
    return locate(chrom, start - 1, end, "." if strand == "?" else strand, genome)


def feature_name(attributes: str) -> str:
    """The name in a feature's ninth column, GFF3's without its escapes; "" without one."""
    read = _read_gff3 if _GFF3.match(attributes) else _read_gtf
    # The first of several counts.
    found = dict(reversed([(key, value) for key, value in read(attributes) if value]))
    name = next((found[key] for key in _NAMES if key in found), "")
    return name.translate(_CONTROL).strip()


def _read_gff3(attributes: str) -> Iterator[tuple[str, str]]:
    for attribute in attributes.split(";"):
        key, _, value = attribute.partition("=")
        yield key.strip(), unquote(value.strip())


def _read_gtf(attributes: str) -> Iterator[tuple[str, str]]:
    for attribute in _GTF_ATTRIBUTE.findall(attributes):
        key, _, value = attribute.strip().partition(" ")
        yield key, value.strip().strip('"')
