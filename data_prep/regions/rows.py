"""Rows of regions, which every reader of sequences, regions and variants gives, and their windows.

Every row of the input becomes a row here, also a bad one, so that results match the input line by
line. Coordinates are 0-based and half-open.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np

from dnamamba.configs import require_choice, require_range
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import N_ID, UNK_ID, Codes, is_base, reverse_complement, token_ids

RegionEdge = Literal["shift", "pad", "clip"]

_PIECE = 1 << 20
"""Letters checked at a time, so that a chromosome's are never held for it."""


class RowStatus(StrEnum):
    """How a row was read; `RegionRow.note` explains every status but `ok`.

    SHIFTED: the window was moved to lie inside its contig. PADDED: it has N beyond the contig's
    ends. CLIPPED: fewer bases were read than asked for, or than the region has.
    Rows without a sequence are TOO_SHORT (a region or record without any base), REF_MISMATCH (the
    genome has other bases than a variant's REF) or UNREADABLE. FAILED: the row was read, but the
    model could do nothing with it; readers never give it.
    """

    OK = "ok"
    SHIFTED = "shifted"
    PADDED = "padded"
    CLIPPED = "clipped"
    TOO_SHORT = "too short"
    REF_MISMATCH = "ref mismatch"
    UNREADABLE = "unreadable"
    FAILED = "failed"


WITHOUT_SEQUENCE = frozenset(
    (RowStatus.TOO_SHORT, RowStatus.REF_MISMATCH, RowStatus.UNREADABLE, RowStatus.FAILED)
)
"""Statuses of rows for which nothing is computed."""


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """How much of a region is read."""

    seq_len: int | None = None
    """Bases of a window; None reads regions as they are."""

    cut: bool = True
    """Cut longer regions and records to their middle seq_len bases."""

    widen: bool = False
    """Widen shorter regions on both sides to seq_len. Variants always are, records never."""

    edge: RegionEdge = "shift"
    """A window past its contig's end is moved inside, padded with N, or clipped."""

    lazy_from: int | None = None
    """Longer windows of a genome come without codes; `RegionRow.read` gives pieces of them. None:
    all come with codes, as records and variants always do."""

    def __post_init__(self) -> None:
        require_choice("edge", self.edge, RegionEdge)
        if self.seq_len is not None:
            require_range("seq_len", self.seq_len, 1, unit="base")
        elif self.widen:
            raise InputError("widening regions needs seq_len, the bases of a window")
        if self.lazy_from is not None:
            require_range("lazy_from", self.lazy_from, 0, unit="bases")


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One row of the input (in a VCF, one alternative allele).

    line: number in the input, from 1: the line; in a FASTA the record.
    columns: cells as they stand in the input, one for each of the table's `columns`.
    codes: the model's input, in the direction of the strand, with a variant's reference allele.
        None without a sequence, and for windows past WindowRule.lazy_from.
    alternative: the same with a variant's alternative allele.
    window: bases of the contig or record in `codes`, with the strand; padding lies around it.
    padding: N on the left and on the right of the window, on the forward strand.
    variant_start: where a variant's alleles begin in `codes` and in `alternative`.
    region: what the row is about, before it was widened, moved or cut: the whole record, a
        variant's REF, else the region up to its contig's end. None if it lies on no contig.
    name: the input's name for it; "" without one, and for BED's and VCF's `.`.
    span: [start, end) of the region in what is read, padding counted, in the direction of the
        strand; all of it if the region was cut to its middle. None without a sequence.
    genome: what `read` reads from without codes.
    """

    line: int
    columns: tuple[str, ...]
    status: RowStatus
    note: str = ""
    codes: Codes | None = None
    alternative: Codes | None = None
    window: Interval | None = None
    padding: tuple[int, int] = (0, 0)
    variant_start: int | None = None
    region: Interval | None = None
    name: str = ""
    span: tuple[int, int] | None = None
    genome: Genome | None = field(default=None, repr=False, compare=False)

    @property
    def length(self) -> int:
        """Bases for a model to read, with padding; 0 without a sequence."""
        if self.codes is not None:
            return len(self.codes)
        return self.window.length + sum(self.padding) if self.window is not None else 0

    def read(self, start: int, end: int) -> Codes:
        """[start, end) of the model's input, uint8 (end - start,), in the direction of the strand.

        Raises InputError unless 0 <= start <= end <= length.
        """
        if not 0 <= start <= end <= self.length:
            raise InputError(
                f"line {self.line}: expected 0 <= start <= end <= {self.length:,}, the bases that "
                f"are read, got start {start:,}, end {end:,}"
            )
        if self.codes is not None:
            return self.codes[start:end]
        if self.window is None or self.genome is None:
            return np.empty(0, np.uint8)
        return _read_piece(self.genome, self.window, self.padding, start, end)

    @property
    def sequences(self) -> list[Codes]:
        """No sequence, `codes`, or `codes` and `alternative`."""
        return [codes for codes in (self.codes, self.alternative) if codes is not None]


@dataclass(frozen=True)
class RegionTable:
    """Rows of one input, read once, in its order.

    columns: names of `RegionRow.columns`. has_alternatives: whether rows are variants.
    has_surroundings: whether rows lie on a genome, and so have bases around them.
    """

    columns: tuple[str, ...]
    rows: Iterator[RegionRow]
    has_alternatives: bool = False
    has_surroundings: bool = True

    def __iter__(self) -> Iterator[RegionRow]:
        return self.rows


class RowError(Exception):
    """A row from which nothing can be read: its status and why. Never leaves the readers."""

    def __init__(self, status: RowStatus, note: str):
        super().__init__(note)
        self.status, self.note = status, note


def unreadable(note: str) -> RowError:
    return RowError(RowStatus.UNREADABLE, note)


def split_columns(line: str) -> list[str]:
    """Split by tabs; without a tab by spaces, which BED allows but names may hold."""
    return line.split("\t") if "\t" in line else line.split()


def fit_columns(fields: list[str], n_columns: int) -> tuple[tuple[str, ...], str]:
    """Exactly `n_columns` cells, and a note if some were left out."""
    extra = len(fields) > n_columns
    note = f"{len(fields)} columns, of which the first {n_columns} are kept" if extra else ""
    return tuple(fields[:n_columns] + [""] * (n_columns - len(fields))), note


def given_name(text: str) -> str:
    """A name as BED and VCF write it; their `.` is no name."""
    text = text.strip()
    return "" if text == "." else text


def parse_position(text: str, what: str) -> int:
    """A whole number written in digits that fits into 64 bits; RowError for anything else."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise unreadable(f"{what} must be a whole number, got {text[:40]!r}")
    if text.startswith("-"):
        raise unreadable(f"{what} is negative: {text[:40]}")
    if len(digits) > 18:
        raise unreadable(f"{what} is larger than any contig: {text[:40]}")
    return int(text)


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


# --- windows


class PlacedWindow(NamedTuple):
    """[start, end) of a contig, with N around."""

    start: int
    end: int
    padding: tuple[int, int] = (0, 0)
    status: RowStatus = RowStatus.OK
    note: str = ""


def choose_window(start: int, end: int, length: int, rule: WindowRule) -> PlacedWindow:
    """The window of a region [start, end) that lies inside a contig of `length` bases."""
    size, seq_len = end - start, rule.seq_len
    if seq_len is not None and size > seq_len and rule.cut:
        start += (size - seq_len) // 2
        note = f"the middle {seq_len:,} of {size:,} bases"
        return PlacedWindow(start, start + seq_len, (0, 0), RowStatus.CLIPPED, note)
    if seq_len is None or size > seq_len or not rule.widen:
        return PlacedWindow(start, end)
    start -= (seq_len - size) // 2
    return _fit_window(start, start + seq_len, length, rule.edge)


def _fit_window(start: int, end: int, length: int, edge: RegionEdge) -> PlacedWindow:
    """A window that can be read, from one that may pass its contig's ends."""
    inside = max(0, start), min(end, length)
    before, after = inside[0] - start, end - inside[1]
    if not before and not after:
        return PlacedWindow(start, end)
    if edge == "pad":
        return PlacedWindow(*inside, (before, after), *edge_status(padded=before + after))
    if edge == "shift":
        if end - start <= length:
            shift = before - after
            return PlacedWindow(start + shift, end + shift, (0, 0), *edge_status(shift=shift))
        inside = 0, length
    note = f"{inside[1] - inside[0]:,} of {end - start:,} bases, then the contig ends"
    return PlacedWindow(*inside, (0, 0), RowStatus.CLIPPED, note)


def edge_status(*, padded: int = 0, cut: int = 0, shift: int = 0) -> tuple[RowStatus, str]:
    """Status and note of a window by what its contig's ends did to it, in bases."""
    if padded:
        return RowStatus.PADDED, f"{padded:,} N beyond the contig's ends"
    if cut:
        return RowStatus.CLIPPED, f"the contig ends {cut:,} bases before the window"
    if shift:
        side = "left" if shift < 0 else "right"
        return RowStatus.SHIFTED, f"moved {abs(shift):,} to the {side}, into the contig"
    return RowStatus.OK, ""


def _span_of(region: Interval, window: Interval, padding: tuple[int, int]) -> tuple[int, int]:
    """Where a region lies in a padded window, in the direction of the window's strand."""
    start = padding[0] + max(region.start, window.start) - window.start
    end = padding[0] + min(region.end, window.end) - window.start
    return _turn(start, end, window, padding)


def _turn(start: int, end: int, window: Interval, padding: tuple[int, int]) -> tuple[int, int]:
    """[start, end) of a padded window, from its other end if it is reversed."""
    if window.strand != Strand.REVERSE:
        return start, end
    length = window.length + sum(padding)
    return length - end, length - start


def _read_piece(
    genome: Genome, window: Interval, padding: tuple[int, int], start: int, end: int
) -> Codes:
    """[start, end) of a padded window, in the direction of the window's strand."""
    before = padding[0]
    start, end = _turn(start, end, window, padding)
    first = min(max(start - before, 0), window.length)
    last = min(max(end - before, 0), window.length)
    codes = genome.read(window.chrom, window.start + first, window.start + last)
    left = min(max(before - start, 0), end - start)
    codes = pad(codes, (left, end - start - left - len(codes)))
    return reverse_complement(codes) if window.strand == Strand.REVERSE else codes


def pad(codes: Codes, padding: tuple[int, int]) -> Codes:
    """Put N on the left and on the right."""
    return np.pad(codes, padding, constant_values=N_ID) if any(padding) else codes


# Kind of letter by code. bytes.translate is six times as fast as comparing small arrays.
_CODES = np.arange(256, dtype=np.uint8)
_BASE, _FOREIGN = b"b", b"?"
_KINDS = np.select(
    [is_base(_CODES), token_ids(_CODES) == UNK_ID], [_BASE, _FOREIGN], b"-"
).tobytes()


def check_bases(codes: Codes) -> str:
    """A note about letters that are not DNA, "" without any; RowError if there is no base."""
    pieces = (codes[i : i + _PIECE] for i in range(0, len(codes), _PIECE))
    return _check_pieces(pieces, len(codes))


def _check_pieces(pieces: Iterable[Codes], n_letters: int) -> str:
    """`check_bases` for n_letters in pieces, which may leave out N."""
    if not n_letters:
        raise RowError(RowStatus.TOO_SHORT, "no base at all")
    has_base, foreign = False, 0
    for piece in pieces:
        kinds = piece.tobytes().translate(_KINDS)
        has_base = has_base or _BASE in kinds
        foreign += kinds.count(_FOREIGN)
    if not has_base:
        raise unreadable(f"no A, C, G or T among {n_letters:,} letters")
    return f"{foreign:,} letters that are not DNA" if foreign else ""


# --- rows from a place in a genome, or from a record with its letters


class Located(NamedTuple):
    """A region inside its contig, notes about it, and whether a contig's end clipped it."""

    region: Interval
    notes: Sequence[str]
    is_clipped: bool


def contig_length(genome: Genome, contig: str) -> int:
    """Bases of a contig; RowError, with a hint about `chr`, if the genome does not have it."""
    if contig in genome.contigs:
        return genome.contigs[contig]
    other = contig.removeprefix("chr") if contig.startswith("chr") else f"chr{contig}"
    hint = f" (it has {other!r})" if other in genome.contigs else ""
    raise unreadable(f"the genome has no contig {contig!r}{hint}")


def locate(chrom: str, start: int, end: int, strand: str, genome: Genome) -> Located:
    """A region as it was given, 0-based and half-open; RowError if no contig has it."""
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    length = contig_length(genome, chrom)
    if start > length or start == length < end:
        raise unreadable(f"lies past the end of {chrom}, which has {length:,} bases")
    notes = []
    if end > length:
        notes.append(f"end {end:,} lies past the end of {chrom}, which has {length:,} bases")
    if strand not in tuple(Strand):
        notes.append(f"strand must be +, - or ., got {strand[:40]!r}: read as +")
        strand = Strand.FORWARD
    return Located(Interval(chrom, start, min(end, length), Strand(strand)), notes, end > length)


def located_row(
    line: int,
    columns: tuple[str, ...],
    name: str,
    find: Callable[[], Located],
    genome: Genome,
    rule: WindowRule,
    note: str = "",
) -> RegionRow:
    """The row of a region and its window.

    find: locates the region; it may raise RowError. note: comes before all others.
    """
    region: Interval | None = None
    try:
        located = find()
        region = located.region
        placed = choose_window(region.start, region.end, genome.contigs[region.chrom], rule)
        window = Interval(region.chrom, placed.start, placed.end, region.strand)
        codes, letters = _read_window(genome, window, placed.padding, rule)
    except RowError as error:
        note = join_notes(note, error.note)
        return RegionRow(line, columns, error.status, note, region=region, name=name)
    is_clipped = located.is_clipped and placed.status == RowStatus.OK
    return RegionRow(
        line,
        columns,
        RowStatus.CLIPPED if is_clipped else placed.status,
        join_notes(note, *located.notes, placed.note, letters),
        codes,
        window=window,
        padding=placed.padding,
        region=region,
        name=name,
        span=_span_of(region, window, placed.padding),
        genome=genome,
    )


def _read_window(
    genome: Genome, window: Interval, padding: tuple[int, int], rule: WindowRule
) -> tuple[Codes | None, str]:
    """Codes of a padded window, None past lazy_from, and a note about its letters."""
    length = window.length + sum(padding)
    if rule.lazy_from is None or length <= rule.lazy_from:
        codes = _read_piece(genome, window, padding, 0, length)
        return codes, check_bases(codes)
    starts = range(window.start, window.end, _PIECE)
    pieces = (genome.read(window.chrom, i, min(i + _PIECE, window.end)) for i in starts)
    return None, _check_pieces(pieces, length)


def record_row(
    number: int, columns: tuple[str, ...], name: str, codes: Codes, rule: WindowRule
) -> RegionRow:
    """The row of a record with its letters. rule: one that does not widen."""
    region = Interval(name, 0, len(codes))
    try:
        placed = choose_window(0, len(codes), len(codes), rule)
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
