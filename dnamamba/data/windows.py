"""Which window is sample i of epoch e: a pure function of (seed, epoch, i).

A split's windows are kept as rows of equally spaced windows (a tiled contig is one row), so a
3-Gb genome needs kilobytes however short its windows are. What a rule proposes passes three sieves
in order: the edge policy, the limit on N, and the bases that belong to a more protected split.
"""

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.regions import NO_RUNS, Runs, bases_within, merge, subtract
from dnamamba.data.shuffle import hash_u64, permute
from dnamamba.errors import InputError
from dnamamba.intervals import Interval

Ints = NDArray[np.int64]
Rule = Literal["tile", "mamba", "hyenadna", "caduceus"]
Edge = Literal["shift", "pad", "skip"]

CADUCEUS_SEGMENT = 1 << 20
# Keys that keep the random draws of different purposes apart.
_PHASE, _ORDER, _STRAND = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How windows are laid over the intervals of a split."""

    seq_len: int
    """Bases in a window."""

    rule: Rule = "tile"
    """`tile`: non-overlapping windows inside the intervals, shifted together by a random phase in
    each epoch. The others lay windows on the rows of a BED as published: `mamba` cuts a row into
    row_length / seq_len windows, or takes one that begins and one that ends with it when seq_len is
    longer; `hyenadna` takes one window a row, its first bases or a centred extension; `caduceus`
    extends a row to the right to 2^20 bases and cuts that."""

    edge: Edge = "shift"
    """A window past the end of its contig is moved inside, padded with [PAD] or skipped; one that
    lies past it as a whole is dropped. Contigs shorter than a window are padded under `pad` and
    skipped otherwise."""

    max_n_fraction: float = 0.5
    """Windows with a larger share of N (or other unreadable letters) are skipped."""

    drop_overlap: bool = True
    """Drop windows that share a base with a more protected split (test, then validation). False
    reproduces what is published, leaks included."""

    def __post_init__(self) -> None:
        if self.seq_len < 2:
            raise InputError(f"seq_len is at least 2 bases, got {self.seq_len}")
        if self.rule not in get_args(Rule):
            raise InputError(f"window rule is one of {get_args(Rule)}, got {self.rule!r}")
        if self.edge not in get_args(Edge):
            raise InputError(f"edge is one of {get_args(Edge)}, got {self.edge!r}")
        if not 0 <= self.max_n_fraction <= 1:
            raise InputError(f"max_n_fraction is between 0 and 1, got {self.max_n_fraction}")
        if self.rule == "caduceus" and self.seq_len > CADUCEUS_SEGMENT:
            raise InputError(f"the caduceus rule cuts 2^20 bases, got seq_len {self.seq_len}")


@dataclass(frozen=True)
class Windows:
    """Rows of equally spaced windows; every array has one entry a row.

    contig: index into the contig list. start: first real base of the row's first window.
    count: windows in the row, each starting `seq_len` after the last. n_bases: real bases in each
    window (below seq_len only where it is padded). left_pad: padding before the first real base.
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
        one = self.take(row)
        start = one.start + (i - first[row]) * seq_len
        return replace(one, start=start, count=np.ones_like(start))


def propose(
    config: WindowConfig, intervals: Sequence[tuple[int, int, int]], phases: Ints | None = None
) -> Windows:
    """Windows as the rule lays them, before any sieve; they may reach past contig ends.

    intervals: (contig index, start, end). phases: bases by which `tile` moves each interval's
    windows, at most seq_len - 1 and what the interval has to spare; None for none.
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
    # The padding stands to the right: what follows the interval belongs to another split.
    short = ~full & (length > 0)
    ones, zeros = np.ones_like(start[short]), np.zeros_like(start[short])
    return Windows.join([tiled, Windows(contig[short], start[short], ones, length[short], zeros)])


def largest_phases(config: WindowConfig, intervals: Sequence[tuple[int, int, int]]) -> Ints:
    """The most each interval's tiling can move without losing its last whole window."""
    rows = np.array(intervals, np.int64).reshape(-1, 3)
    spare = rows[:, 2] - rows[:, 1] - config.seq_len
    return np.clip(spare, 0, config.seq_len - 1)


def apply_edge(windows: Windows, config: WindowConfig, lengths: Ints) -> Windows:
    """Move, pad or skip windows that reach past their contig; lengths: bases of each contig.

    Windows without a base of their contig are dropped: moved inside, they would all be its last.
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
    over = _last_windows(windows, windows.count - inside, size)
    over = over.take((over.start < lengths[over.contig]) & (over.start + size > 0))
    length = lengths[over.contig]
    if config.edge == "shift":
        fits = length >= size
        start = np.clip(over.start, 0, np.maximum(length - size, 0))
        return Windows.join([kept, replace(over, start=start).take(fits)])
    start, end = np.maximum(over.start, 0), np.minimum(over.start + size, length)
    padded = replace(over, start=start, n_bases=end - start, left_pad=start - over.start)
    return Windows.join([kept, padded])


def _last_windows(windows: Windows, n_last: Ints, seq_len: int) -> Windows:
    """The last n windows of each row, as rows of one window."""
    row = np.repeat(np.arange(len(n_last)), n_last)
    back = np.concatenate([np.arange(n) for n in n_last.tolist()] or [np.empty(0)]).astype(np.int64)
    one = windows.take(row)
    start = one.start + (one.count - 1 - back) * seq_len
    return replace(one, start=start, count=np.ones_like(start))


def drop_covered(
    windows: Windows, covered: Mapping[int, Runs], seq_len: int, limit: float
) -> Windows:
    """Drop windows of which more than `limit` (a share of seq_len) lies in `covered`.

    covered: contig index -> merged stretches. Rows are split around the windows dropped.
    """
    most = limit * seq_len
    keep_whole = np.ones(len(windows.start), bool)
    for contig, rows in _rows_by_contig(windows):
        runs = covered.get(contig, NO_RUNS)
        if len(runs):
            some = windows.take(rows)
            keep_whole[rows] = bases_within(runs, some.start, some.ends(seq_len)) <= most
    if keep_whole.all():
        return windows
    parts = [windows.take(keep_whole)]
    single = ~keep_whole & (windows.count == 1)
    # A row of one window that is covered too much is simply gone; longer rows are looked into.
    for row in np.flatnonzero(~keep_whole & ~single).tolist():
        one = windows.take(np.array([row]))
        runs = covered.get(int(one.contig[0]), NO_RUNS)
        starts = one.start + np.arange(one.count[0]) * seq_len
        keep = bases_within(runs, starts, starts + one.n_bases) <= most
        edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).reshape(-1, 2)
        pieces = one.take(np.zeros(len(edges), np.int64))
        parts.append(replace(pieces, start=starts[edges[:, 0]], count=edges[:, 1] - edges[:, 0]))
    return Windows.join(parts)


def footprint(windows: Windows, seq_len: int) -> dict[int, Runs]:
    """The bases that any window covers, merged, by contig index."""
    spans = np.stack([windows.start, windows.ends(seq_len)], axis=1)
    return {contig: merge(spans[rows]) for contig, rows in _rows_by_contig(windows)}


def _rows_by_contig(windows: Windows) -> Iterator[tuple[int, Ints]]:
    order = np.argsort(windows.contig, kind="stable")
    contigs, first = np.unique(windows.contig[order], return_index=True)
    yield from zip(contigs.tolist(), np.split(order, first)[1:], strict=True)


class WindowIndex:
    """The windows of one split, addressable as (epoch, i) or by one running sample number.

    shuffled: a new order, and for `tile` a new phase, in every epoch (training); else windows come
    row by row in genome order, the same in every epoch (validation and test).
    protected: contig index -> bases of more protected splits that no window may touch.
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
        self.names = list(contigs)
        self.seed = seed
        self.shuffled = shuffled
        self._lengths = np.array(list(contigs.values()), np.int64)
        self._n_runs = dict(n_runs)
        self._protected = dict(protected or {}) if config.drop_overlap else {}
        self._intervals = self._index_intervals(intervals)
        self._phases = largest_phases(config, self._intervals)
        self._tables: dict[int, Windows] = {}
        self._epoch_starts = [0]

    def _index_intervals(self, intervals: Sequence[Interval]) -> list[tuple[int, int, int]]:
        number = {name: i for i, name in enumerate(self.names)}
        rows = [(number[row.chrom], row.start, row.end) for row in intervals]
        if self.config.rule != "tile":
            return rows
        # Tiling works on bases, so rows that overlap are joined and protected bases cut out first.
        by_contig: dict[int, list[tuple[int, int]]] = {}
        for contig, start, end in rows:
            by_contig.setdefault(contig, []).append((start, min(end, int(self._lengths[contig]))))
        return [
            (contig, start, end)
            for contig, spans in sorted(by_contig.items())
            for start, end in subtract(merge(spans), self._protected.get(contig, NO_RUNS)).tolist()
        ]

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
            self._tables[key] = self._sieve(propose(self.config, self._intervals, phases))
        return self._tables[key]

    def _sieve(self, windows: Windows) -> Windows:
        size = self.config.seq_len
        windows = apply_edge(windows, self.config, self._lengths)
        windows = drop_covered(windows, self._n_runs, size, self.config.max_n_fraction)
        windows = drop_covered(windows, self._protected, size, 0.0)
        return windows.take(np.lexsort((windows.start, windows.contig)))

    def n_windows(self, epoch: int = 0) -> int:
        return self.table(epoch).total

    def windows(self, epoch: int, i: Ints) -> Windows:
        """Windows i (each in 0..n_windows(epoch)-1) of an epoch, one a row, in that order."""
        table = self.table(epoch)
        if self.shuffled:
            i = permute(i, table.total, self.seed, epoch, _ORDER)
        return table.pick(np.asarray(i, np.int64), self.config.seq_len)

    def reversed_strand(self, epoch: int, i: Ints) -> NDArray[np.bool_]:
        """A fair coin for each sample: whether augmentation reads its other strand."""
        return hash_u64(i, self.seed, epoch, _STRAND) & np.uint64(1) == 1

    def locate(self, sample: int) -> tuple[int, int]:
        """The (epoch, i) of a running sample number; the samples of epoch 0 come first."""
        if not self.n_windows(0):
            raise InputError("this split has no window")
        while self._epoch_starts[-1] <= sample:
            epoch = len(self._epoch_starts) - 1
            # An epoch's phase may leave none; epoch 0 has some, so the stream does go on.
            self._epoch_starts.append(self._epoch_starts[-1] + self.n_windows(epoch))
        epoch = bisect.bisect_right(self._epoch_starts, sample) - 1
        return epoch, sample - self._epoch_starts[epoch]

    def interval(self, windows: Windows, row: int) -> Interval:
        """The real bases of one picked window."""
        start = int(windows.start[row])
        return Interval(self.names[windows.contig[row]], start, start + int(windows.n_bases[row]))
