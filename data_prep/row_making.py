"""Rows of what a reader found: a place in a genome, or a record with its letters."""

from collections.abc import Sequence
from typing import NamedTuple

from dnamamba.data_prep.genome import Genome
from dnamamba.data_prep.region_rows import (
    RegionRow,
    RowError,
    RowStatus,
    WindowRule,
    check_bases,
    check_window,
    contig_length,
    join_notes,
    place_window,
    read_piece,
    span_of,
    unreadable,
)
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import Codes


class Located(NamedTuple):
    """A region inside its contig, what there is to say of it, and whether a contig's end cut it."""

    region: Interval
    notes: Sequence[str]
    is_clipped: bool


def locate(chrom: str, start: int, end: int, strand: str, genome: Genome) -> Located:
    """A region as it was given, 0-based and half-open; RowError where no contig has it."""
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    length = contig_length(genome, chrom)
    if start > length or start == length < end:
        raise unreadable(f"lies past the end of {chrom}, which has {length:,} bases")
    notes = []
    if end > length:
        notes.append(f"end {end:,} lies past the end of {chrom}, which has {length:,} bases")
    if strand not in _STRANDS:
        notes.append(f"strand is +, - or ., got {strand[:40]!r}: read as +")
    region = Interval(chrom, start, min(end, length), _STRANDS.get(strand, Strand.FORWARD))
    return Located(region, notes, end > length)


_STRANDS = {str(strand): strand for strand in Strand}


def region_row(
    line: int,
    columns: tuple[str, ...],
    name: str,
    located: Located,
    genome: Genome,
    rule: WindowRule,
    note: str = "",
) -> RegionRow:
    """The row of a region and its window. note: what else there is to say, first of all."""
    region = located.region
    placed = place_window(region.start, region.end, genome.contigs[region.chrom], rule)
    window, padding = (
        Interval(region.chrom, placed.start, placed.end, region.strand),
        placed.padding,
    )
    length = window.length + sum(padding)
    codes = None
    try:
        if rule.lazy_from is not None and length > rule.lazy_from:
            letters = check_window(genome, window, padding)
        else:
            codes = read_piece(genome, window, padding, 0, length)
            letters = check_bases(codes)
    except RowError as error:
        note = join_notes(note, error.note)
        return RegionRow(line, columns, error.status, note, region=region, name=name)
    status = placed.status
    if located.is_clipped and status == RowStatus.OK:
        status = RowStatus.CLIPPED
    return RegionRow(
        line,
        columns,
        status,
        join_notes(note, *located.notes, placed.note, letters),
        codes,
        window=window,
        padding=padding,
        region=region,
        name=name,
        span=span_of(region, window, padding),
        genome=genome,
    )


def record_row(
    number: int, columns: tuple[str, ...], name: str, codes: Codes, rule: WindowRule
) -> RegionRow:
    """The row of a record with its letters. rule: one that does not widen, as nothing is around."""
    n_bases = len(codes)
    region = Interval(name, 0, n_bases)
    try:
        placed = place_window(0, n_bases, n_bases, rule)
        codes = codes[placed.start : placed.end]
        note = join_notes(placed.note, check_bases(codes))
    except RowError as error:
        return RegionRow(number, columns, error.status, error.note, region=region, name=name)
    return RegionRow(
        number,
        columns,
        placed.status,
        note,
        codes,
        window=Interval(name, placed.start, placed.end),
        region=region,
        name=name,
        span=(0, len(codes)),
    )
