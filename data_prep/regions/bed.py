"""BED files: stretches of a genome for train, valid and test, or with labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dnamamba.errors import InputError
from dnamamba.files import open_input
from dnamamba.intervals import Interval, Split, Strand


def read_split_bed(path: Path) -> dict[Split, list[Interval]]:
    """Read chrom, start, end, split (tab-separated, 0-based half-open), as Basenji publishes them.

    Plain or gzip. Comments, `track` and `browser` lines and blank lines are passed over; columns
    after the fourth are ignored; rows keep their order within a split.
    Raises InputError naming the line for anything else.
    """
    rows: dict[Split, list[Interval]] = {split: [] for split in Split}
    for number, line in _lines(path):
        interval, split = _parse_row(line, f"{path} line {number}")
        rows[split].append(interval)
    if not any(rows.values()):
        raise InputError(f"{path} holds no interval")
    return rows


class LabelledRegion(NamedTuple):
    """One row of a BED with labels."""

    line: int
    """Its number, from 1."""

    interval: Interval
    """With the strand of the sixth column; "." where there is none."""

    label: str
    """Stripped of spaces; "" where it is missing."""


def read_labelled_bed(path: Path, label_column: int) -> Iterator[LabelledRegion]:
    """Read regions with a label in a column, counted from 1; the strand is the sixth column.

    Plain or gzip; tab-separated, 0-based half-open. Comments, `track`, `browser` and blank lines
    are passed over. Raises InputError naming the line for other rows, and for regions of no base.
    """
    for number, line in _lines(path):
        where = f"{path.name} line {number}"
        fields = line.split("\t")
        if len(fields) < max(label_column, 3):
            raise InputError(
                f"{where}: expected {max(label_column, 3)} tab-separated columns or more, chrom, "
                f"start, end and in column {label_column} the label, got {len(fields)}: "
                f"{line[:80]!r}"
            )
        strand = fields[5].strip() if len(fields) > 5 else "."
        if strand not in tuple(Strand):
            raise InputError(f"{where}: the sixth column is the strand (+, - or .), got {strand!r}")
        try:
            interval = Interval(fields[0], int(fields[1]), int(fields[2]), Strand(strand))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if not interval.length:
            raise InputError(f"{where}: the region has no base (start = end = {interval.start:,})")
        yield LabelledRegion(number, interval, fields[label_column - 1].strip())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_input(path) as lines:
        for number, line in enumerate(lines, start=1):
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if text.strip() and not text.startswith(("#", "track ", "browser ")):
                yield number, text


def _parse_row(line: str, where: str) -> tuple[Interval, Split]:
    fields = line.split("\t")
    if len(fields) < 4:
        raise InputError(
            f"{where}: expected four tab-separated columns chrom, start, end, split, "
            f"got {len(fields)}: {line[:80]!r}"
        )
    chrom, start, end, split = fields[:4]
    try:
        interval = Interval(chrom, int(start), int(end))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if split not in tuple(Split):
        raise InputError(f"{where}: the fourth column is train, valid or test, got {split!r}")
    return interval, Split(split)
