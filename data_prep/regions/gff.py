"""GFF3 and GTF as rows of regions: each feature, whatever its type, with the bases around.

Both count from 1 and include the end. Columns are the nine of the file, as they stand in it; the
name is the first there is of ID, Name, gene_id and transcript_id.
"""

import re
from collections.abc import Iterator
from itertools import takewhile
from urllib.parse import unquote

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionRow,
    RegionTable,
    RowError,
    WindowRule,
    fit_columns,
    join_notes,
    locate,
    parse_position,
    region_row,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput, is_comment

_COLUMNS = (
    *("seqid", "source", "type"),
    *("start", "end", "score", "strand", "phase", "attributes"),
)
_NAMES = ("ID", "Name", "gene_id", "transcript_id")
# ID=gene:1;Name=a%2Cb of GFF3, whose values have no ; but an escaped one,
_GFF3 = re.compile(r'\s*[^\s=;"]+=')
# against gene_id "a; b"; level 2; of GTF.
_GTF_ATTRIBUTE = re.compile(r'(?:[^;"]+|"[^"]*"?)+')
# Escapes may stand for what would end a line or a cell where names are written.
_CONTROL = dict.fromkeys([*range(32), 127], " ")


def read_features(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each feature, in the order of the file.

    Comments, directives, `track` and `browser` lines are passed over; ##FASTA, or the `>` of a
    record, ends the features. What a circular contig's feature has past its end is not read.
    """
    lines = takewhile(lambda numbered: not _ends_features(numbered[1]), text.lines())
    return RegionTable(_COLUMNS, _rows(lines, genome, rule))


def _ends_features(line: str) -> bool:
    return line.startswith((">", "##FASTA"))


def _rows(
    lines: Iterator[tuple[int, str]], genome: Genome, rule: WindowRule
) -> Iterator[RegionRow]:
    for number, line in lines:
        if is_comment(line):
            continue
        # Attributes hold spaces: where these are for tabs, only the first eight part columns.
        fields = line.split("\t") if "\t" in line else line.split(maxsplit=len(_COLUMNS) - 1)
        columns, cut = fit_columns(fields, len(_COLUMNS))
        name = feature_name(columns[-1])
        try:
            located = _locate(fields, genome)
        except RowError as error:
            note = join_notes(cut, error.note)
            yield RegionRow(number, columns, error.status, note, name=name)
        else:
            yield region_row(number, columns, name, located, genome, rule, cut)


def _locate(fields: list[str], genome: Genome) -> Located:
    if len(fields) < 5:
        raise unreadable(f"a row has nine columns, start and end fourth, this has {len(fields)}")
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
    """What a feature's ninth column calls it, of GFF3 without its escapes; "" where it does not."""
    read = _read_gff3 if _GFF3.match(attributes) else _read_gtf
    found: dict[str, str] = {}
    for key, value in read(attributes):
        if key in _NAMES and value:
            found.setdefault(key, value)
    name = next((found[key] for key in _NAMES if key in found), "")
    return name.translate(_CONTROL).strip()


def _read_gff3(attributes: str) -> Iterator[tuple[str, str]]:
    for one in attributes.split(";"):
        key, _, value = one.partition("=")
        yield key.strip(), unquote(value.strip())


def _read_gtf(attributes: str) -> Iterator[tuple[str, str]]:
    for one in _GTF_ATTRIBUTE.findall(attributes):
        key, _, value = one.strip().partition(" ")
        yield key, value.strip().strip('"')
