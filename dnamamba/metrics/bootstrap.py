"""95 % intervals of numbers that have no formula for one, by drawing the examples again.

Each number is a function of how often an example counts, so what needs sorting is sorted once.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 200
MOST_SCORES = 250_000
"""Above this an interval takes longer than a second or two; it is narrow there."""

WeightedMean = Callable[[NDArray[np.float64]], float]
"""A number as a function of how often each example counts, float64 (N,); nan where it has none."""

Ids = NDArray[np.int64]

_Column = Callable[[NDArray[np.float64], NDArray[np.float64]], WeightedMean]


def interval_of(compute: WeightedMean, shape: tuple[int, ...]) -> list[float] | None:
    """[low, high] of a number of scores of `shape` (N, C), by 200 resamplings, always the same.

    None of a single example, above 250,000 scores, and where most resamplings have no number.
    """
    if math.prod(shape) > MOST_SCORES or shape[0] < 2:
        return None
    return middle_95(resampled({"it": compute}, shape[0])["it"])


def resampled(
    computes: Mapping[str, WeightedMean],
    n: int,
    groups: Ids | None = None,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, NDArray[np.float64]]:
    """Each number in the same resamplings of n examples, float64 (n_resamples,), always the same.

    groups: (n,), one number from 0 up for each example; whole groups are drawn, as often as there
    are groups, so that examples that resemble each other do not count as many. None: examples are
    independent.
    """
    drawn = _resamples(n, groups, n_resamples)
    rows = [[compute(counts) for compute in computes.values()] for counts in drawn]
    return {name: np.array(rows)[:, i] for i, name in enumerate(computes)}


def middle_95(values: NDArray[np.float64]) -> list[float] | None:
    """[low, high] of 95 % of resampled numbers; None where most of them have none."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2:
        return None
    return [float(limit) for limit in np.percentile(known, [2.5, 97.5])]


def _resamples(n: int, groups: Ids | None, n_resamples: int) -> Iterator[NDArray[np.float64]]:
    """How often each of n examples is drawn, of as many draws with replacement as there are
    examples, or groups of them."""
    random = np.random.default_rng(0)
    n_drawn = n if groups is None else int(groups.max()) + 1
    for _ in range(n_resamples):
        drawn = random.integers(0, n_drawn, n_drawn)
        counts = np.bincount(drawn, minlength=n_drawn).astype(np.float64)
        yield counts if groups is None else counts[groups]


def weighted_mean(
    column: _Column, scores: NDArray[np.float32], targets: NDArray[np.float32]
) -> WeightedMean:
    """The mean over columns of (N, C) of a number, without those whose targets are all alike."""
    columns = [
        column(scores[:, i].astype(np.float64), targets[:, i].astype(np.float64))
        for i in range(scores.shape[1])
        if np.ptp(targets[:, i]) > 0
    ]

    def mean(counts: NDArray[np.float64]) -> float:
        values = [value for value in (one(counts) for one in columns) if math.isfinite(value)]
        return sum(values) / len(values) if values else math.nan

    return mean


def weighted_r2(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """1 - squared error / variance of the targets."""
    centred, squared_error = targets - targets.mean(), (targets - found) ** 2

    def r2(counts: NDArray[np.float64]) -> float:
        total = counts @ centred**2 - (counts @ centred) ** 2 / counts.sum()
        return float(1 - counts @ squared_error / total) if total > 0 else math.nan

    return r2


def weighted_auprc(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """Average precision as scikit-learn defines it, but sorted once for all resamplings."""
    order = np.argsort(-found, kind="stable")
    is_it = targets[order] > 0.5
    # Examples of one score come in together, or the result would depend on their order.
    last = np.append(np.flatnonzero(np.diff(found[order])), len(order) - 1)

    def auprc(counts: NDArray[np.float64]) -> float:
        drawn = counts[order]
        hits, seen = np.cumsum(drawn * is_it)[last], np.cumsum(drawn)[last]
        if hits[-1] == 0 or hits[-1] == seen[-1]:
            return math.nan
        return float(np.diff(hits, prepend=0) @ (hits / np.maximum(seen, 1)) / hits[-1])

    return auprc


def weighted_auroc(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """The share of pairs with and without the label that are in order; equal scores are half."""
    value, block = np.unique(found, return_inverse=True)
    is_it = targets > 0.5

    def auroc(counts: NDArray[np.float64]) -> float:
        hits = np.bincount(block, counts * is_it, len(value))
        others = np.bincount(block, counts * ~is_it, len(value))
        if not hits.sum() or not others.sum():
            return math.nan
        below = np.cumsum(others) - others / 2
        return float(hits @ below / hits.sum() / others.sum())

    return auroc


def weighted_mae(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """The mean absolute error."""
    error = np.abs(targets - found)
    return lambda counts: float(counts @ error / counts.sum())


def weighted_pearson(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """Pearson's correlation."""
    return lambda counts: _correlation(found, targets, counts)


def weighted_spearman(found: NDArray[np.float64], targets: NDArray[np.float64]) -> WeightedMean:
    """Spearman's correlation, of ranks among the examples drawn."""
    blocks = [np.unique(column, return_inverse=True)[1] for column in (found, targets)]

    def spearman(counts: NDArray[np.float64]) -> float:
        ranks = []
        for block in blocks:
            drawn = np.bincount(block, counts)
            ranks.append((np.cumsum(drawn) - drawn / 2)[block])
        return _correlation(ranks[0], ranks[1], counts)

    return spearman


def _correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], counts: NDArray[np.float64]
) -> float:
    total = counts.sum()
    one, other = one - counts @ one / total, other - counts @ other / total
    spread = math.sqrt((counts @ one**2) * (counts @ other**2))
    return float(counts @ (one * other) / spread) if spread > 0 else math.nan


def weighted_confusion(
    told: Ids, targets: Ids, n_classes: int, compute: Callable[[NDArray[np.float64]], float]
) -> WeightedMean:
    """A number of the confusion matrix (C, C), rows true and columns predicted."""
    cell = targets * n_classes + told

    def number(counts: NDArray[np.float64]) -> float:
        cells = np.bincount(cell, counts, n_classes**2).astype(np.float64)
        return compute(cells.reshape(n_classes, n_classes))

    return number


def accuracy_of(confusion: NDArray[np.float64]) -> float:
    """The share on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy_of(confusion: NDArray[np.float64]) -> float:
    """The mean recall of the classes that there are."""
    support = confusion.sum(axis=1)
    return float((np.diag(confusion)[support > 0] / support[support > 0]).mean())


def mcc_of(confusion: NDArray[np.float64]) -> float:
    """Matthews' correlation of several classes (Gorodkin 2004); 0 where one side has one class."""
    total, right, told = confusion.sum(), confusion.sum(axis=1), confusion.sum(axis=0)
    spread = math.sqrt((total**2 - right @ right) * (total**2 - told @ told))
    return float((np.trace(confusion) * total - right @ told) / spread) if spread > 0 else 0.0


HEADLINES: Mapping[str, _Column] = {"r2": weighted_r2, "auprc": weighted_auprc}
