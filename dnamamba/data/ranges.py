"""Arithmetic on ranges of contigs: merge, subtract, count.

A set of ranges is an int64 array of rows (start, end), 0-based half-open, shape (k, 2). Ranges on
many contigs are handled at once by laying the contigs on one line (`ContigLine`).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from dnamamba.data_prep.genomes.statistics import Runs
from dnamamba.data_prep.sequences import Ints
from dnamamba.intervals import Interval

NO_RUNS: Runs = np.empty((0, 2), np.int64)


def merge(runs: Iterable[tuple[int, int]] | Runs) -> Runs:
    """Sort ranges, join those that overlap or touch, drop empty ones."""
    given = runs if isinstance(runs, np.ndarray) else list(runs)
    rows = np.asarray(given, np.int64).reshape(-1, 2)
    rows = rows[rows[:, 1] > rows[:, 0]]
    if len(rows) < 2:
        return rows
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    reach = np.maximum.accumulate(rows[:, 1])
    first = np.flatnonzero(np.append(True, rows[1:, 0] > reach[:-1]))
    return np.stack([rows[first, 0], np.maximum.reduceat(rows[:, 1], first)], axis=1)


def subtract(runs: Runs, taken: Runs) -> Runs:
    """The part of merged `runs` outside merged `taken`."""
    edges = np.concatenate([runs[:, 0], runs[:, 1], taken[:, 0], taken[:, 1]])
    steps = np.repeat([1, -1, 2, -2], [len(runs), len(runs), len(taken), len(taken)])
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(steps[order])
    # Depth 1 after an edge: inside one of `runs`, outside `taken`.
    left = np.flatnonzero(depth == 1)
    return merge(np.stack([edges[left], edges[left + 1]], axis=1))


def count_bases(runs: Runs) -> int:
    """Bases in merged ranges."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def bases_within(runs: Runs, starts: Ints, ends: Ints) -> Ints:
    """Bases of merged `runs` in each [start, end), int64 (n,)."""
    if not len(runs):
        return np.zeros(len(starts), np.int64)
    return _bases_before(runs, ends) - _bases_before(runs, starts)


def _bases_before(runs: Runs, positions: Ints) -> Ints:
    lengths = np.append(0, np.cumsum(runs[:, 1] - runs[:, 0]))
    begun = np.searchsorted(runs[:, 0], positions, side="right")
    # The last range begun may reach past the position: take off what lies beyond.
    beyond = runs[np.maximum(begun - 1, 0), 1] - positions
    return lengths[begun] - np.where(begun > 0, np.maximum(beyond, 0), 0)


class ContigLine:
    """Contigs laid end to end, a base apart, so that one sorted set holds ranges of them all.

    names: of the contigs. lengths: bases of each. starts: where each begins on the line.
    """

    def __init__(self, contigs: Mapping[str, int]):
        self.names = list(contigs)
        self.lengths: Ints = np.array(list(contigs.values()), np.int64)
        self.starts: Ints = np.cumsum(self.lengths + 1) - (self.lengths + 1)

    def lay(self, contig: Ints, start: Ints, end: Ints) -> Runs:
        """Ranges of contigs (by index) as merged ones on the line, clipped to the contigs."""
        begin, length = self.starts[contig], self.lengths[contig]
        spans = [begin + np.clip(start, 0, length), begin + np.clip(end, 0, length)]
        return merge(np.stack(spans, axis=1))

    def index(self, intervals: Iterable[Interval]) -> Ints:
        """Intervals as rows (contig index, start, end), shape (n, 3)."""
        number = {name: i for i, name in enumerate(self.names)}
        rows = [(number[row.chrom], row.start, row.end) for row in intervals]
        return np.array(rows, np.int64).reshape(-1, 3)

    def lay_intervals(self, intervals: Iterable[Interval]) -> Runs:
        """`lay` for intervals."""
        return self.lay(*self.index(intervals).T)

    def contigs_of(self, runs: Runs) -> Ints:
        """The contig of each range on the line."""
        return np.searchsorted(self.starts, runs[:, 0], side="right") - 1

    def join(self, by_contig: Mapping[int, Runs]) -> Runs:
        """Ranges by contig as one set on the line."""
        if not by_contig:
            return NO_RUNS
        contig = np.repeat(list(by_contig), [len(runs) for runs in by_contig.values()])
        rows = np.concatenate(list(by_contig.values()))
        return self.lay(contig, rows[:, 0], rows[:, 1])

    def split(self, runs: Runs) -> dict[int, Runs]:
        """One set on the line as ranges by contig, without contigs that have none."""
        contig = self.contigs_of(runs)
        contigs, first = np.unique(contig, return_index=True)
        rows = runs - self.starts[contig][:, None]
        return dict(zip(contigs.tolist(), np.split(rows, first)[1:], strict=True))
