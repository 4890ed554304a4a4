"""BED: regions with the bases around, stretches for train, valid and test, regions with labels.

Rows are 0-based and half-open. Comments, `track`, `browser` and blank lines are skipped.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    Located,
    RegionRow,
    RegionTable,
    RowError,
    WindowRule,
    fit_columns,
    given_name,
    locate,
    located_row,
    parse_position,
    split_columns,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput, is_bed_header, is_comment, open_text
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split, Strand

_COLUMNS = (
    *("chrom", "start", "end", "name", "score", "strand"),
    *("thick_start", "thick_end", "item_rgb", "block_count", "block_sizes", "block_starts"),
)
_STRAND = _COLUMNS.index("strand")
# Rows looked at to tell how many columns there are.
_LOOK_AHEAD = 100

Row = tuple[int, list[str]]
"""Number of a line, from 1, and its cells."""


def _rows(text: TextInput) -> Iterator[Row]:
    return ((n, split_columns(line)) for n, line in text.lines() if not is_comment(line))


def _read_region(fields: list[str]) -> tuple[str, int, int, str]:
    """chrom, start, end and strand ("" without a sixth column); RowError for a row without them."""
    if len(fields) < 3:
        raise unreadable(f"a row must have chrom, start and end, got {len(fields)} columns")
    start = parse_position(fields[1].strip(), "start")
    end = parse_position(fields[2].strip(), "end")
    return fields[0].strip(), start, end, "".join(fields[_STRAND : _STRAND + 1]).strip()


# --- with the bases around


def read_bed(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each of the file, in its order; a first row may name the columns."""
    rows = _rows(text)
    first = list(islice(rows, _LOOK_AHEAD))
    has_header = bool(first) and is_bed_header(first[0][1])
    columns = _header(text, first.pop(0)[1]) if has_header else _names(first)
    made = (_bed_row(*row, len(columns), genome, rule) for row in chain(first, rows))
    return RegionTable(columns, made)


def _names(rows: list[Row]) -> tuple[str, ...]:
    widest = max([len(_COLUMNS[:3]), *(len(fields) for _, fields in rows)])
    more = [f"column_{i + 1}" for i in range(len(_COLUMNS), widest)]
    return (*_COLUMNS, *more)[:widest]


def _header(text: TextInput, fields: list[str]) -> tuple[str, ...]:
    """Names from a first row. Raises InputError for a strand that would be overlooked."""
    names = [field.strip().lower() for field in fields]
    if "strand" in names and names.index("strand") != _STRAND:
        raise InputError(
            f"{text.name} has strand in column {names.index('strand') + 1} by its header, BED has "
            f"it in column {_STRAND + 1}: move it there"
        )
    return tuple(fields)


def _bed_row(
    number: int, fields: list[str], n_columns: int, genome: Genome, rule: WindowRule
) -> RegionRow:
    columns, note = fit_columns(fields, n_columns)
    name = given_name(fields[3]) if len(fields) > 3 else ""
    return located_row(number, columns, name, partial(_locate, fields, genome), genome, rule, note)


def _locate(fields: list[str], genome: Genome) -> Located:
    chrom, start, end, strand = _read_region(fields)
    has_strand = len(fields) > _STRAND
    return locate(chrom, start, end, strand if has_strand else Strand.FORWARD, genome)


# --- for train, valid and test, or with labels


class LabelledRegion(NamedTuple):
    """One row of a BED with labels.

    line: its number, from 1. interval: with the strand of the sixth column; "." without one.
    label: stripped of spaces; "" if it is missing.
    """

    line: int
    interval: Interval
    label: str


def read_split_bed(path: Path) -> dict[Split, list[Interval]]:
    """Read chrom, start, end, split (tab-separated), plain or gzip, as Basenji publishes them.

    Columns after the fourth are ignored; rows keep their order within a split.
    Raises InputError naming the line for anything else.
    """
    rows: dict[Split, list[Interval]] = {split: [] for split in Split}
    for _, where, fields in _strict_rows(path, 4, "chrom, start, end, split"):
        split = fields[3]
        if split not in tuple(Split):
            raise InputError(f"{where}: column 4 must be train, valid or test, got {split!r}")
        rows[Split(split)].append(_strict_interval(fields, where, Strand.FORWARD))
    if not any(rows.values()):
        raise InputError(f"{path} holds no interval")
    return rows


def read_labelled_bed(path: Path, label_column: int) -> Iterator[LabelledRegion]:
    """Read regions with a label in a column, counted from 1; plain or gzip, tab-separated.

    Raises InputError naming the line for other rows, and for regions of no base.
    """
    what = f"chrom, start, end and in column {label_column} the label"
    for number, where, fields in _strict_rows(path, max(label_column, 3), what):
        strand = fields[_STRAND].strip() if len(fields) > _STRAND else "."
        if strand not in tuple(Strand):
            raise InputError(f"{where}: column 6, the strand, must be +, - or ., got {strand!r}")
        interval = _strict_interval(fields, where, Strand(strand))
        if not interval.length:
            raise InputError(f"{where}: the region has no base (start = end = {interval.start:,})")
        yield LabelledRegion(number, interval, fields[label_column - 1].strip())


def _strict_rows(path: Path, n_columns: int, what: str) -> Iterator[tuple[int, str, list[str]]]:
    """(line, origin for messages, cells) of each row; InputError for one with too few cells."""
    with open_text(path) as text:
        for number, line in text.lines(errors="replace"):
            if is_comment(line):
                continue
            fields, where = line.split("\t"), f"{path} line {number}"
            if len(fields) < n_columns:
                raise InputError(
                    f"{where}: expected {n_columns} tab-separated columns or more, {what}, got "
                    f"{len(fields)}: {line[:80]!r}"
                )
            yield number, where, fields


def _strict_interval(fields: list[str], where: str, strand: Strand) -> Interval:
    try:
        chrom, start, end, _ = _read_region(fields)
        return Interval(chrom, start, end, strand)
    except (RowError, InputError) as error:
        raise InputError(f"{where}: {error}") from error
