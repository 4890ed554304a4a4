"""Which window is sample i of epoch e: a pure function of (seed, epoch, i).

A split's windows are kept as rows of equally spaced windows (a tiled contig is one row), so a
3-Gb genome needs kilobytes however short its windows are. The windows a rule proposes pass three
filters in order: the contig's edges, the limit on N, the bases of a more protected split.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.configs import require_choice, require_range
from dnamamba.data.hashing import hash_u64, permute
from dnamamba.data.ranges import ContigLine, Ints, Runs, bases_within, subtract
from dnamamba.errors import InputError
from dnamamba.intervals import Interval

Rule = Literal["tile", "mamba", "hyenadna", "caduceus"]
WindowEdge = Literal["shift", "pad", "skip"]
Stretches = Sequence[tuple[int, int, int]] | Ints
"""Rows (contig index, start, end), shape (n, 3)."""

CADUCEUS_SEGMENT = 1 << 20
# Keys that keep the random draws of different purposes apart.
_PHASE, _ORDER, _STRAND, _MASKING = 1, 2, 3, 4
# Bounds the memory of looking into rows, which may hold millions of short windows.
_WINDOWS_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How windows are laid over the intervals of a split."""

    seq_len: int
    """Bases in a window."""

    rule: Rule = "tile"
    """`tile`: non-overlapping windows inside the intervals, shifted together by a random phase in
    each epoch. The others lay windows on the rows of a BED as published: `mamba` cuts a row into
    windows, or takes one that begins and one that ends with a row shorter than seq_len; `hyenadna`
    takes the first bases of a row, or extends it around its centre; `caduceus` extends a row to the
    right to 2^20 bases and cuts that."""

    edge: WindowEdge = "shift"
    """A window past its contig's end is moved inside, padded with [PAD] or skipped; one without a
    base of the contig is dropped. `pad` also pads contigs shorter than a window."""

    max_n_fraction: float = 0.5
    """Windows with a larger share of N (or other unreadable letters) are skipped."""

    drop_overlap: bool = True
    """Drop windows that share a base with a more protected split (test, then validation). False
    reproduces the published splits, leaks included."""

    def __post_init__(self) -> None:
        require_range("seq_len", self.seq_len, 2, unit="bases")
        require_choice("window rule", self.rule, Rule)
        require_choice("edge", self.edge, WindowEdge)
        require_range("max_n_fraction", self.max_n_fraction, 0, 1)
        if self.rule == "caduceus" and self.seq_len > CADUCEUS_SEGMENT:
            raise InputError(f"seq_len must be <= 2^20 for caduceus, got {self.seq_len}")


@dataclass(frozen=True)
class Windows:
    """Rows of equally spaced windows; every array has one entry a row.

    contig: index of the contig. start: first real base of the row's first window. count: windows,
    each `seq_len` after the last. n_bases: real bases in each, below seq_len only with padding.
    left_pad: padding before the first real base.
    """

    contig: Ints
    start: Ints
    count: Ints
    n_bases: Ints
    left_pad: Ints

    @classmethod
    def of(cls, contig: Ints, start: Ints, count: Ints, seq_len: int) -> Self:
        return cls(contig, start, count, np.full_like(start, seq_len), np.zeros_like(start))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        columns = zip(*(part.columns() for part in parts), strict=True)
        return cls(*(np.concatenate(column).astype(np.int64) for column in columns))

    def columns(self) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        return self.contig, self.start, self.count, self.n_bases, self.left_pad

    def take(self, rows: NDArray[np.bool_] | Ints) -> "Windows":
        return Windows(*(column[rows] for column in self.columns()))

    @property
    def total(self) -> int:
        return int(self.count.sum())

    def ends(self, seq_len: int) -> Ints:
        """One past the last real base of each row's last window."""
        return self.start + (self.count - 1) * seq_len + self.n_bases

    def pick(self, i: Ints, seq_len: int) -> "Windows":
        """Windows i (0..total-1, in row order) as rows of one window each."""
        first = np.append(0, np.cumsum(self.count))
        row = np.searchsorted(first, i, side="right") - 1
        return self.single(row, i - first[row], seq_len)

    def single(self, row: Ints, number: Ints, seq_len: int) -> "Windows":
        """Window `number` of each `row`, as rows of one window."""
        start = self.start[row] + number * seq_len
        return replace(self.take(row), start=start, count=np.ones_like(start))


def propose(config: WindowConfig, intervals: Stretches, phases: Ints | None = None) -> Windows:
    """Windows as the rule lays them, before any filter; they may reach past contig ends.

    intervals: (contig index, start, end). phases: bases by which `tile` moves each interval's
    windows, at most `largest_phases`; None for none.
    """
    rows = np.array(intervals, np.int64).reshape(-1, 3)
    contig, start, length = rows[:, 0], rows[:, 1], rows[:, 2] - rows[:, 1]
    size = config.seq_len
    if config.rule == "tile":
        return _tile(config, contig, start, length, phases)
    if config.rule == "caduceus":
        return Windows.of(contig, start, np.full_like(start, CADUCEUS_SEGMENT // size), size)
    if config.rule == "hyenadna":
        left = np.maximum(size - length, 0) // 2
        return Windows.of(contig, start - left, np.ones_like(start), size)
    cut, long = length >= size, length < size
    inside = Windows.of(contig[cut], start[cut], length[cut] // size, size)
    ones = np.ones_like(start[long])
    forward = Windows.of(contig[long], start[long], ones, size)
    backward = Windows.of(contig[long], (start + length - size)[long], ones, size)
    return Windows.join([inside, forward, backward])


def _tile(
    config: WindowConfig, contig: Ints, start: Ints, length: Ints, phases: Ints | None
) -> Windows:
    size = config.seq_len
    phase = np.zeros_like(start) if phases is None else phases
    full = length >= size
    tiled = Windows.of(contig[full], (start + phase)[full], (length - phase)[full] // size, size)
    if config.edge != "pad" or full.all():
        return tiled
    # Padding on the right: the bases after the interval belong to another split.
    short = ~full & (length > 0)
    ones, zeros = np.ones_like(start[short]), np.zeros_like(start[short])
    return Windows.join([tiled, Windows(contig[short], start[short], ones, length[short], zeros)])


def largest_phases(config: WindowConfig, intervals: Stretches) -> Ints:
    """The most each interval's tiling can move without losing its last whole window."""
    rows = np.array(intervals, np.int64).reshape(-1, 3)
    spare = rows[:, 2] - rows[:, 1] - config.seq_len
    return np.clip(spare, 0, config.seq_len - 1)


def apply_edge(windows: Windows, config: WindowConfig, lengths: Ints) -> Windows:
    """Move, pad or skip windows that reach past their contig, of `lengths` bases.

    Drops windows without a base of their contig: moved inside, all would be its last one.
    """
    size = config.seq_len
    past = (windows.start < 0) | (windows.ends(size) > lengths[windows.contig])
    if not past.any():
        return windows
    inside = np.where(
        past & (windows.start >= 0), (lengths[windows.contig] - windows.start) // size, 0
    )
    inside = np.where(past, np.clip(inside, 0, windows.count), windows.count)
    kept = replace(windows, count=inside).take(inside > 0)
    if config.edge == "skip":
        return kept
    row = np.repeat(np.arange(len(inside)), windows.count - inside)
    over = windows.single(row, windows.count[row] - 1 - _count_up(windows.count - inside), size)
    over = over.take((over.start < lengths[over.contig]) & (over.start + size > 0))
    length = lengths[over.contig]
    if config.edge == "shift":
        fits = length >= size
        start = np.clip(over.start, 0, np.maximum(length - size, 0))
        return Windows.join([kept, replace(over, start=start).take(fits)])
    start, end = np.maximum(over.start, 0), np.minimum(over.start + size, length)
    padded = replace(over, start=start, n_bases=end - start, left_pad=start - over.start)
    # A contig without a base has none to pad.
    return Windows.join([kept, padded.take(end > start)])


def drop_covered(
    windows: Windows, covered: Runs, line: ContigLine, seq_len: int, limit: float
) -> Windows:
    """Drop windows with more than `limit` (a share of seq_len) of their bases in `covered`.

    covered: merged ranges on the line. Rows are split around the windows dropped.
    """
    most = limit * seq_len
    begin = line.starts[windows.contig]
    ends = begin + windows.ends(seq_len)
    keep_whole = bases_within(covered, begin + windows.start, ends) <= most
    if keep_whole.all():
        return windows
    # Rows of one window are dropped whole; longer rows are looked into.
    long = windows.take(~keep_whole & (windows.count > 1))
    parts = [windows.take(keep_whole)]
    group = np.cumsum(long.count) // _WINDOWS_AT_ONCE
    for rows in np.split(np.arange(len(group)), np.flatnonzero(np.diff(group)) + 1):
        row = np.repeat(rows, long.count[rows])
        single = long.single(row, _count_up(long.count[rows]), seq_len)
        begin = line.starts[single.contig] + single.start
        keep = bases_within(covered, begin, begin + single.n_bases) <= most
        parts.append(_rows_of(single, keep, row))
    return Windows.join(parts)


def _rows_of(single: Windows, keep: NDArray[np.bool_], row: Ints) -> Windows:
    """Windows kept, as rows again. row: the row of each before."""
    kept = np.flatnonzero(keep)
    follows = (np.diff(kept) == 1) & (np.diff(row[kept]) == 0)
    first = np.flatnonzero(np.append(True, ~follows)) if len(kept) else kept
    count = np.diff(np.append(first, len(kept)))
    return replace(single.take(kept[first]), count=count)


def _count_up(counts: Ints) -> Ints:
    """0 to n - 1 for each n, one after the other."""
    first = np.cumsum(counts) - counts
    return np.arange(int(counts.sum())) - np.repeat(first, counts)


def footprint(windows: Windows, line: ContigLine, seq_len: int) -> Runs:
    """The bases covered by any window, merged, on the line."""
    return line.lay(windows.contig, windows.start, windows.ends(seq_len))


class WindowIndex:
    """The windows of one split by (epoch, i), or by a running sample number.

    shuffled: every epoch has a new order, and for `tile` a new phase; else all have genome order.
    n_runs: contig index -> ranges without readable bases. protected: contig index -> ranges of more
    protected splits, which no window may touch.
    """

    def __init__(
        self,
        config: WindowConfig,
        intervals: Sequence[Interval],
        contigs: Mapping[str, int],
        n_runs: Mapping[int, Runs],
        *,
        protected: Mapping[int, Runs] | None = None,
        seed: int = 0,
        shuffled: bool = False,
    ):
        self.config = config
        self.seed = seed
        self.shuffled = shuffled
        self.line = ContigLine(contigs)
        self._n_runs = self.line.join(n_runs)
        self._protected = self.line.join(protected or {} if config.drop_overlap else {})
        self._intervals = self.line.index(intervals)
        if config.rule == "tile":
            # Tiling works on bases: overlapping rows are joined and protected bases cut out first.
            runs = subtract(self.line.lay_intervals(intervals), self._protected)
            contig = self.line.contigs_of(runs)
            self._intervals = np.column_stack([contig, runs - self.line.starts[contig][:, None]])
        self._phases = largest_phases(config, self._intervals)
        self._tables: dict[int, Windows] = {}
        self._epoch_starts = [0]

    def table(self, epoch: int = 0) -> Windows:
        """All windows of an epoch as rows, before shuffling."""
        moving = self.shuffled and self.config.rule == "tile" and self._phases.any()
        key = epoch if moving else 0
        if key not in self._tables:
            phases = None
            if moving:
                draws = hash_u64(np.arange(len(self._phases)), self.seed, epoch, _PHASE)
                phases = (draws % (self._phases + 1).astype(np.uint64)).astype(np.int64)
            # Only the newest epochs are kept: a stream moves forward.
            self._tables = dict(list(self._tables.items())[-1:])
            self._tables[key] = self._filter(propose(self.config, self._intervals, phases))
        return self._tables[key]

    def _filter(self, windows: Windows) -> Windows:
        size, limit = self.config.seq_len, self.config.max_n_fraction
        windows = apply_edge(windows, self.config, self.line.lengths)
        windows = drop_covered(windows, self._n_runs, self.line, size, limit)
        windows = drop_covered(windows, self._protected, self.line, size, 0.0)
        return windows.take(np.lexsort((windows.start, windows.contig)))

    def n_windows(self, epoch: int = 0) -> int:
        return self.table(epoch).total

    def windows(self, epoch: int, i: Ints) -> Windows:
        """Windows i (0 to n_windows(epoch) - 1) of an epoch, one a row, in that order."""
        table = self.table(epoch)
        if self.shuffled:
            i = permute(i, table.total, self.seed, epoch, _ORDER)
        return table.pick(np.asarray(i, np.int64), self.config.seq_len)

    def reversed_strand(self, epoch: int, i: Ints) -> NDArray[np.bool_]:
        """A fair coin for each sample: whether augmentation reads its other strand."""
        return hash_u64(i, self.seed, epoch, _STRAND) & np.uint64(1) == 1

    def masking_keys(self, epoch: int, i: Ints) -> NDArray[np.uint64]:
        """The key of each sample's masking (masking.mask_bases)."""
        return hash_u64(i, self.seed, epoch, _MASKING)

    def locate(self, sample: int) -> tuple[int, int]:
        """The (epoch, i) of a running sample number."""
        if not self.n_windows(0):
            raise InputError("this split has no window")
        while self._epoch_starts[-1] <= sample:
            epoch = len(self._epoch_starts) - 1
            # An epoch's phase may leave no window, but epoch 0 has some: the loop ends.
            self._epoch_starts.append(self._epoch_starts[-1] + self.n_windows(epoch))
        epoch = bisect.bisect_right(self._epoch_starts, sample) - 1
        return epoch, sample - self._epoch_starts[epoch]

    def interval(self, windows: Windows, row: int) -> Interval:
        """The real bases of one picked window."""
        start = int(windows.start[row])
        chrom = self.line.names[windows.contig[row]]
        return Interval(chrom, start, start + int(windows.n_bases[row]))
