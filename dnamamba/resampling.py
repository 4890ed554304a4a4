"""95 % intervals of numbers that have no formula for one, by drawing the examples again."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 200
MOST_SCORES = 250_000
"""Above this an interval takes longer than a second or two; it is narrow there."""

WeightedMean = Callable[[NDArray[np.float64]], float]
"""A number as a function of how often each example counts, float64 (N,); nan where it has none."""

_Column = Callable[[NDArray[np.float64], NDArray[np.float64]], WeightedMean]


def interval_of(compute: WeightedMean, shape: tuple[int, ...]) -> list[float] | None:
    """[low, high] of a number of scores of `shape` (N, C), by 200 resamplings, always the same.

    None of a single example, above 250,000 scores, and where most resamplings have no number.
    """
    if math.prod(shape) > MOST_SCORES or shape[0] < 2:
        return None
    values = [compute(counts) for counts in _resamples(shape[0])]
    known = [value for value in values if math.isfinite(value)]
    if len(known) < len(values) / 2:
        return None
    return [float(limit) for limit in np.percentile(known, [2.5, 97.5])]


def _resamples(n: int) -> Iterator[NDArray[np.float64]]:
    """How often each of n examples is drawn, of n draws with replacement."""
    random = np.random.default_rng(0)
    for _ in range(N_RESAMPLES):
        yield np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)


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


HEADLINES: Mapping[str, _Column] = {"r2": weighted_r2, "auprc": weighted_auprc}
