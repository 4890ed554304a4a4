"""Lists of regions as people write them, `chr1:1,001-2,000`, one a line (intervals.match_region).

A contig's name alone is all of it. `(+)` and `(-)` are refused, since nothing tells who wrote them:
bedtools getfasta, whose starts count from 0, or samtools, whose starts count from 1.
"""

from functools import partial

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionTable,
    WindowRule,
    locate,
    located_row,
    parse_position,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput
from dnamamba.intervals import match_region


def read_region_list(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each line that does not begin with #; the name is the region as it is written."""
    rows = (
        located_row(number, (written,), written, partial(_locate, written, genome), genome, rule)
        for number, line in text.lines()
        if not line.startswith("#") and (written := line.strip())
    )
    return RegionTable(("region",), rows)


def _locate(written: str, genome: Genome) -> Located:
    """RowError for a text that is no region or that can be meant in two ways."""
    region = match_region(written)
    if written in genome.contigs:
        if region is not None and region.chrom in genome.contigs:
            raise unreadable(f"is a contig's name and a region of {region.chrom}: use a BED")
        return locate(written, 0, genome.contigs[written], "+", genome)
    if region is None:
        raise unreadable(
            f"a region must be like chr1:1,001-2,000 (from 1, end included), got {written[:60]!r}"
        )
    start, end = parse_position(region.start, "start"), parse_position(region.end, "end")
    if region.brackets:
        raise unreadable(
            f"{region.brackets} is written by bedtools after starts that count from 0, by samtools "
            f"after starts that count from 1: end it in :{region.brackets[1]} if from 1, or use a "
            "BED"
        )
    if start == 0:
        raise unreadable("start counts from 1; if from 0, as bedtools writes it, use a BED")
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    return locate(region.chrom, start - 1, end, region.strand, genome)
