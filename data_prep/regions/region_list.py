"""Lists of regions as people write them, `chr1:1,001-2,000`, one a line.

Positions count from 1 and the end is included, as in samtools and genome browsers. A contig's name
alone is all of it. The strand may follow: `:+`, `:-` and `:*` as Bioconductor writes it, `/rc` as
`samtools faidx -i` does. `(+)` and `(-)` are refused, since nothing tells who wrote them: bedtools
getfasta, whose starts count from 0, or samtools, whose starts count from 1.
"""

import re

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionRow,
    RegionTable,
    RowError,
    WindowRule,
    locate,
    parse_position,
    region_row,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput

# The last :start-end is the range, so names may hold colons: HLA:1-2:5-10.
_REGION = re.compile(r"(.+):([\d,_]+)-([\d,_]+)(?::([-+.*])|(\([-+.*]\))|(/rc))?", re.ASCII)


def read_region_list(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each line that does not begin with #; the name is the region as it is written."""
    rows = (
        _list_row(number, line.strip(), genome, rule)
        for number, line in text.lines()
        if not line.startswith("#")
    )
    return RegionTable(("region",), rows)


def _list_row(number: int, written: str, genome: Genome, rule: WindowRule) -> RegionRow:
    try:
        located = locate_written(written, genome)
    except RowError as error:
        return RegionRow(number, (written,), error.status, error.note, name=written)
    return region_row(number, (written,), written, located, genome, rule)


def locate_written(written: str, genome: Genome) -> Located:
    """Where `chr1:1,001-2,000:-` lies; RowError for what cannot be read or be meant two ways."""
    match = _REGION.fullmatch(written)
    if written in genome.contigs:
        if match is not None and match[1] in genome.contigs:
            raise unreadable(f"is a contig's name and a region of {match[1]}: use a BED")
        return locate(written, 0, genome.contigs[written], "+", genome)
    if match is None:
        raise unreadable(
            f"a region looks like chr1:1,001-2,000 (from 1, end included), got {written[:60]!r}"
        )
    chrom, first, last, strand, bracketed, reverse = match.groups()
    start, end = _position(first, "start"), _position(last, "end")
    if bracketed:
        raise unreadable(
            f"{bracketed} is written by bedtools after starts that count from 0, by samtools after "
            f"starts that count from 1: end it in :{bracketed[1]} if from 1, or use a BED"
        )
    if start == 0:
        raise unreadable("start counts from 1; if from 0, as bedtools writes it, use a BED")
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    strand = "-" if reverse else {"*": "."}.get(strand, strand or "+")
    return locate(chrom, start - 1, end, strand, genome)


def _position(text: str, what: str) -> int:
    return parse_position(re.sub("[,_]", "", text), what)
