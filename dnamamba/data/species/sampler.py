"""Random starts of windows of one length, by group and contig.

Nothing is drawn and thrown away: the starts with few enough N are known as ranges, so a draw is
one number, and a genome without any start is refused before training.
"""

import numpy as np

from dnamamba.data.hashing import U64
from dnamamba.data.ranges import ContigLine, Ints, Runs, bases_within, count_bases, merge


def starts_within_limit(stretches: Runs, covered: Runs, size: int, most: int) -> Runs:
    """Starts, as merged ranges, of windows of `size` bases inside a range of `stretches`, with at
    most `most` bases in `covered`. Both sets are merged."""
    ranges = stretches + np.array([0, 1 - size])
    ranges = ranges[ranges[:, 1] > ranges[:, 0]]
    if not len(ranges):
        return ranges
    edges = covered.ravel()
    points = np.unique(np.concatenate([ranges.ravel(), edges, edges - size]))
    first, last = points[:-1], points[1:]
    row = np.searchsorted(ranges[:, 0], first, side="right") - 1
    inside = (row >= 0) & (first < ranges[row, 1])
    first, last = first[inside], last[inside]
    # Between two neighbouring points the count grows or falls by one a base, or stays.
    before = bases_within(covered, first, first + size)
    slope = (bases_within(covered, last, last + size) - before) // (last - first)
    excess, length = before - most, last - first
    begin = np.where(slope < 0, excess, np.where((slope == 0) & (excess > 0), length, 0))
    end = np.where(slope > 0, 1 - excess, length)
    begin, end = np.clip(begin, 0, length), np.clip(end, 0, length)
    return merge(np.stack([first + begin, first + end], axis=1))


class WindowSampler:
    """Draws the contigs and starts of windows of one length.

    starts: allowed starts, merged, on the line. groups: the group (species) of every contig of the
    line. weights: of every contig of the line, above 0; None for equal ones.
    """

    def __init__(self, starts: Runs, line: ContigLine, groups: Ints, weights: Ints | None = None):
        contig = line.contigs_of(starts)
        order = np.lexsort((starts[:, 0], contig, groups[contig]))
        contig = contig[order]
        self._first = (starts[:, 0] - line.starts[line.contigs_of(starts)])[order]
        self._starts = _Urns(contig, (starts[:, 1] - starts[:, 0])[order])
        self.contigs = self._starts.keys
        """Contigs with a start, group by group."""
        each = np.ones_like(self.contigs) if weights is None else weights[self.contigs]
        self._contigs = _Urns(groups[self.contigs], each)
        self.groups = self._contigs.keys
        """Groups with a start."""
        self.n_starts: Ints = self._starts.totals
        """Starts on each of `contigs`."""

    def draw(self, groups: Ints, contig_draws: U64, start_draws: U64) -> tuple[Ints, Ints]:
        """Contigs, by weight within the group, and starts in them, 0-based, all equally likely.

        groups: members of `self.groups`. draws: uniform 64-bit integers. Shapes (n,).
        """
        urn = np.searchsorted(self.groups, groups)
        row, _ = self._contigs.draw(urn, contig_draws)
        stretch, rest = self._starts.draw(row, start_draws)
        return self.contigs[row], self._first[stretch] + rest


class _Urns:
    """Items of integer weight in urns; the items of an urn stand together.

    keys: the urns' keys. totals: the weight in each urn.
    """

    def __init__(self, urn_of_item: Ints, weights: Ints):
        self._end = np.cumsum(weights)
        change = np.append(True, urn_of_item[1:] != urn_of_item[:-1])[: len(urn_of_item)]
        items = np.flatnonzero(change)
        self.keys: Ints = urn_of_item[items]
        self._before = self._end[items] - weights[items]
        self.totals = np.diff(np.append(self._before, self._end[-1:]))

    def draw(self, urn: Ints, draws: U64) -> tuple[Ints, Ints]:
        """An item of each urn by weight, and a number below its weight."""
        target = self._before[urn] + (draws % self.totals[urn].astype(np.uint64)).astype(np.int64)
        item = np.searchsorted(self._end, target, side="right")
        before = np.where(item > 0, self._end[item - 1], 0)
        return item, target - before


def weigh_contigs(rule: str, stretches: Runs, covered: Runs, line: ContigLine) -> Ints | None:
    """Weights of contigs by their bases in merged `stretches`; `callable`: not in `covered`."""
    if rule == "uniform":
        return None
    weights = np.zeros(len(line.lengths), np.int64)
    for contig, runs in line.split(stretches).items():
        own = runs + line.starts[contig]
        n_covered = bases_within(covered, own[:, 0], own[:, 1]).sum() if rule == "callable" else 0
        weights[contig] = count_bases(own) - n_covered
    # A contig of N alone has starts if any share of N is allowed.
    return np.maximum(weights, 1)
