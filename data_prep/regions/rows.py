"""Rows of regions: what every reader of sequences, regions and variants gives, and their windows.

A row of the input becomes a row here whatever is wrong with it, so that what is computed for each
can be laid beside the input. Coordinates are 0-based and half-open.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, get_args

import numpy as np

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import N_ID, UNK_ID, Codes, is_base, reverse_complement, token_ids

# Letters are looked at so many at a time: a chromosome's are never held for it.
_PIECE = 1 << 20

Edge = Literal["shift", "pad", "clip"]


class RowStatus(StrEnum):
    """How a row was read; `RegionRow.note` says more of all but `ok`."""

    OK = "ok"
    SHIFTED = "shifted"
    """The window was moved, so as to lie inside its contig,"""

    PADDED = "padded"
    """or filled up with N beyond the contig's ends,"""

    CLIPPED = "clipped"
    """or fewer bases were read than asked for, or than the region has."""

    TOO_SHORT = "too short"
    """A region or record without any base; nothing was read,"""

    REF_MISMATCH = "ref mismatch"
    """nor of a variant whose REF is not what the genome has there,"""

    UNREADABLE = "unreadable"
    """nor of a row that makes no sense."""

    FAILED = "failed"
    """It was read, but the model could do nothing with it; readers never say so."""


WITHOUT_SEQUENCE = frozenset(
    (RowStatus.TOO_SHORT, RowStatus.REF_MISMATCH, RowStatus.UNREADABLE, RowStatus.FAILED)
)
"""Those of rows of which nothing is computed."""


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """How much of a region is read."""

    seq_len: int | None = None
    """Bases of a window. None: regions as they are."""

    cut: bool = True
    """Whether longer regions and records are cut to their middle of seq_len; else they are read
    whole."""

    widen: bool = False
    """Whether shorter regions get bases from around them, up to seq_len; records of a FASTA have
    none around them. Variants always do."""

    edge: Edge = "shift"
    """What becomes of a wider window that passes its contig's end: it is moved inside, filled up
    with N, or cut."""

    lazy_from: int | None = None
    """Windows of a genome that are longer than this, with padding, come without codes;
    `RegionRow.read` gives pieces of them. None: none do. Records, which are held anyway, and
    variants always have codes."""

    def __post_init__(self) -> None:
        if self.edge not in get_args(Edge):
            raise InputError(f"edge is one of {', '.join(get_args(Edge))}, got {self.edge!r}")
        if self.seq_len is not None and self.seq_len < 1:
            raise InputError(f"a window has 1 base or more, got {self.seq_len}")
        if self.widen and self.seq_len is None:
            raise InputError("widening regions needs seq_len, the bases of a window")
        if self.lazy_from is not None and self.lazy_from < 0:
            raise InputError(f"lazy_from is a number of bases, 0 or more, got {self.lazy_from}")


@dataclass(frozen=True, slots=True)
class RegionRow:
    """One row of the input (of a VCF, one alternative allele of one)."""

    line: int
    """Where it stands in the input, from 1: the line, of a FASTA the record."""

    columns: tuple[str, ...]
    """As they stand in the input, as many as the reader has names for."""

    status: RowStatus
    note: str = ""
    codes: Codes | None = None
    """What is to be given to a model, in the direction of the strand; None where there is nothing,
    and where WindowRule.lazy_from leaves it to `read`. Of a variant it has the reference allele."""

    alternative: Codes | None = None
    """The same with the alternative allele, of a variant."""

    window: Interval | None = None
    """Which bases of the contig or record `codes` are, with the strand; padding lies around it."""

    padding: tuple[int, int] = (0, 0)
    """How many N were put on the left and on the right of the window, on the forward strand."""

    variant_start: int | None = None
    """Where the alleles begin in `codes` and in `alternative`, of a variant."""

    region: Interval | None = None
    """What the row is about, in its contig, before it was widened, moved or cut to its middle: of a
    FASTA or table the whole record, of a variant REF. None where the row does not say it, or says
    what no contig has; what passes a contig's end is clipped there."""

    name: str = ""
    """What the input calls it; "" where it does not, or has BED's and VCF's `.`."""

    span: tuple[int, int] | None = None
    """Where the region lies in what is read, [start, end), padding counted, in the direction of the
    strand; all of it where the region was cut to its middle. None where nothing is read."""

    genome: Genome | None = field(default=None, repr=False, compare=False)
    """What `read` reads of where there are no codes."""

    @property
    def length(self) -> int:
        """Bases for a model to read, with padding; 0 where there is nothing."""
        if self.codes is not None:
            return len(self.codes)
        return self.window.length + sum(self.padding) if self.window is not None else 0

    def read(self, start: int, end: int) -> Codes:
        """[start, end) of what a model reads: a piece of `codes`, or of what they would be.

        uint8 (end - start,), in the direction of the strand. Raises InputError for what is not
        0 <= start <= end <= length.
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
        return read_piece(self.genome, self.window, self.padding, start, end)

    @property
    def sequences(self) -> list[Codes]:
        """None, `codes`, or `codes` and `alternative`."""
        return [codes for codes in (self.codes, self.alternative) if codes is not None]


class RowError(Exception):
    """A row from which nothing can be read: its status and why. Never leaves the readers."""

    def __init__(self, status: RowStatus, note: str):
        super().__init__(note)
        self.status, self.note = status, note


def unreadable(note: str) -> RowError:
    """What is raised for a row that makes no sense."""
    return RowError(RowStatus.UNREADABLE, note)


@dataclass(frozen=True, slots=True)
class Placed:
    """A window on a contig: [start, end) of it, with N around."""

    start: int
    end: int
    padding: tuple[int, int] = (0, 0)
    status: RowStatus = RowStatus.OK
    note: str = ""


def place_window(start: int, end: int, length: int, rule: WindowRule) -> Placed:
    """The window of a region [start, end) that lies inside a contig of `length` bases."""
    size, seq_len = end - start, rule.seq_len
    if seq_len is not None and size > seq_len and rule.cut:
        start += (size - seq_len) // 2
        note = f"the middle {seq_len:,} of {size:,} bases"
        return Placed(start, start + seq_len, status=RowStatus.CLIPPED, note=note)
    if seq_len is None or size > seq_len or not rule.widen:
        return Placed(start, end)
    start -= (seq_len - size) // 2
    return fit_window(start, start + seq_len, length, rule.edge)


def fit_window(start: int, end: int, length: int, edge: Edge) -> Placed:
    """A window [start, end), which may pass its contig's ends, made one that can be read."""
    inside = max(0, start), min(end, length)
    if inside == (start, end):
        return Placed(start, end)
    before, after = inside[0] - start, end - inside[1]
    if edge == "pad":
        note = f"{before + after:,} N beyond the contig's ends"
        return Placed(*inside, (before, after), RowStatus.PADDED, note)
    if edge == "shift" and end - start <= length:
        shift = before - after
        status, note = RowStatus.SHIFTED, shift_note(shift)
        return Placed(start + shift, end + shift, status=status, note=note)
    if edge == "shift":
        inside = 0, length
    note = f"{inside[1] - inside[0]:,} of {end - start:,} bases, then the contig ends"
    return Placed(*inside, status=RowStatus.CLIPPED, note=note)


def shift_note(shift: int) -> str:
    return f"moved {abs(shift):,} to the {'left' if shift < 0 else 'right'}, into the contig"


def span_of(region: Interval, window: Interval, padding: tuple[int, int]) -> tuple[int, int]:
    """Where a region lies in a window with N around, in the direction of the window's strand."""
    before, after = padding
    start = before + max(region.start, window.start) - window.start
    end = before + min(region.end, window.end) - window.start
    if window.strand != Strand.REVERSE:
        return start, end
    length = before + window.length + after
    return length - end, length - start


def read_piece(
    genome: Genome, window: Interval, padding: tuple[int, int], start: int, end: int
) -> Codes:
    """[start, end) of a window with N around, in the direction of the window's strand."""
    before, after = padding
    is_turned = window.strand == Strand.REVERSE
    if is_turned:
        length = before + window.length + after
        start, end = length - end, length - start
    first = min(max(start - before, 0), window.length)
    last = min(max(end - before, 0), window.length)
    codes = genome.read(window.chrom, window.start + first, window.start + last)
    left = min(max(before - start, 0), end - start)
    codes = pad(codes, (left, end - start - left - len(codes)))
    return reverse_complement(codes) if is_turned else codes


def pad(codes: Codes, padding: tuple[int, int]) -> Codes:
    """N on the left and on the right."""
    if padding == (0, 0):
        return codes
    return np.pad(codes, padding, constant_values=N_ID)


# What kind of letter each code is: a base, or none of DNA. bytes.translate looks it up six times as
# fast as arrays are compared where there are few letters.
_BASE, _FOREIGN = b"b", b"?"


def _kinds() -> bytes:
    codes = np.arange(256, dtype=np.uint8)
    unknown = np.where(token_ids(codes) == UNK_ID, _FOREIGN, b"-")
    return np.where(is_base(codes), _BASE, unknown).tobytes()


_KINDS = _kinds()


def check_bases(codes: Codes) -> str:
    """What there is to say about letters, `""` where all are well; RowError without any base."""
    starts = range(0, len(codes), _PIECE)
    return check_pieces([codes[i : i + _PIECE] for i in starts], len(codes))


def check_window(genome: Genome, window: Interval, padding: tuple[int, int]) -> str:
    """The same of a window that is not held, with N around."""
    starts = range(window.start, window.end, _PIECE)
    pieces = (genome.read(window.chrom, i, min(i + _PIECE, window.end)) for i in starts)
    return check_pieces(pieces, window.length + sum(padding))


def check_pieces(pieces: Iterable[Codes], n_letters: int) -> str:
    """The same of n_letters, of which pieces may leave out N."""
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


def join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def given_name(text: str) -> str:
    """A name as BED and VCF write it, whose `.` is none."""
    text = text.strip()
    return "" if text == "." else text


def contig_length(genome: Genome, contig: str) -> int:
    """RowError for a contig that the genome does not have; the same with or without chr is told."""
    length = genome.contigs.get(contig)
    if length is not None:
        return length
    other = contig.removeprefix("chr") if contig.startswith("chr") else f"chr{contig}"
    hint = f" (it has {other!r})" if other in genome.contigs else ""
    raise unreadable(f"the genome has no contig {contig!r}{hint}")


def parse_position(text: str, what: str) -> int:
    """A whole number written in digits, that fits into 64 bits; RowError for anything else."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise unreadable(f"{what} is a whole number, got {text[:40]!r}")
    if text.startswith("-"):
        raise unreadable(f"{what} is negative: {text[:40]}")
    if len(digits) > 18:
        raise unreadable(f"{what} is larger than any contig: {text[:40]}")
    return int(text)


def split_columns(line: str) -> list[str]:
    """By tabs; by spaces, which BED allows, where there is no tab: names hold spaces."""
    return line.split("\t") if "\t" in line else line.split()


def fit_columns(fields: list[str], n_columns: int) -> tuple[tuple[str, ...], str]:
    """Exactly so many columns, and a note where some were left out."""
    note = ""
    if len(fields) > n_columns:
        note = f"{len(fields)} columns, of which the first {n_columns} are kept"
    return tuple(fields[:n_columns] + [""] * (n_columns - len(fields))), note


class RegionTable:
    """Rows of one input, read once, in its order.

    columns: names of what `RegionRow.columns` holds. has_alternatives: whether rows are variants.
    has_surroundings: whether rows lie on a genome, and so have bases around them.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        rows: Iterator[RegionRow],
        *,
        has_alternatives: bool = False,
        has_surroundings: bool = True,
    ):
        self.columns = columns
        self.has_alternatives = has_alternatives
        self.has_surroundings = has_surroundings
        self._rows = rows

    def __iter__(self) -> Iterator[RegionRow]:
        return self._rows


# --- Rows of what a reader found: a place in a genome, or a record with its letters


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
