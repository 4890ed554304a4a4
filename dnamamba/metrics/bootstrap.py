"""Metrics of weighted examples, and their 95 % intervals by resampling.

A resampling is a row of weights: how often each example is drawn. The metrics are computed for many
resamplings at once; with a weight of 1 each they are the metrics themselves (`of_all`). They are
scikit-learn's with `sample_weight` to rounding (tested); its calls take 0.4 to 4 ms each, a minute
for the 1,000 resamplings of a probe; these take a second.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 200
MOST_SCORES = 250_000
"""No interval above this: it takes longer than a second or two, and is narrow there."""

_WEIGHTS_AT_ONCE = 1 << 20

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

Metric = Callable[[Floats], Floats]
"""Weights (R, N) of resamplings to their metrics (R,); nan if undefined."""

ColumnMetric = Callable[[Floats, Floats, Floats], Floats]
"""The same from the scores (N,) and targets (N,) of one label, and weights (R, N)."""


def interval_of(
    metric: ColumnMetric, scores: NDArray[np.float32], targets: NDArray[np.floating]
) -> list[float] | None:
    """[low, high] of the mean over the columns of (N, C), by 200 resamplings, always the same ones.

    None for a single example, above 250,000 scores and if most resamplings have no value.
    """
    if scores.size > MOST_SCORES or len(scores) < 2:
        return None
    metrics = {"mean": mean_over_labels(metric, scores, targets)}
    return middle_95(resampled(metrics, len(scores))["mean"])


def resampled(
    metrics: Mapping[str, Metric],
    n: int,
    groups: Ids | None = None,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Floats]:
    """Each metric in the same resamplings of n examples, float64 (n_resamples,).

    groups: (n,), the number of each example's group from 0 up; whole groups are drawn, as many as
    there are. None: examples are independent.
    """
    values: dict[str, list[Floats]] = {name: [] for name in metrics}
    with np.errstate(divide="ignore", invalid="ignore"):
        for weights in _resamplings(n, groups, n_resamples):
            for name, metric in metrics.items():
                values[name].append(metric(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def middle_95(values: Floats) -> list[float] | None:
    """[low, high] of 95 % of resampled values; None if most of them are undefined."""
    known = values[np.isfinite(values)]
    if len(known) < len(values) / 2:
        return None
    return [float(limit) for limit in np.percentile(known, [2.5, 97.5])]


def _resamplings(n: int, groups: Ids | None, n_resamples: int) -> Iterator[Floats]:
    """Weights (R, n), a few megabytes at a time."""
    random = np.random.default_rng(0)
    n_drawn = n if groups is None else int(groups.max()) + 1
    step = max(1, _WEIGHTS_AT_ONCE // n)
    for start in range(0, n_resamples, step):
        rows = range(start, min(start + step, n_resamples))
        draws = (random.integers(0, n_drawn, n_drawn) for _ in rows)
        counts = np.array([np.bincount(draw, minlength=n_drawn) for draw in draws], np.float64)
        yield counts if groups is None else counts[:, groups]


# --- classes: the class of the largest score is predicted


class Counts(NamedTuple):
    """Examples of each class, predictions of it, and right predictions of it: (..., C)."""

    support: Floats
    predicted: Floats
    hits: Floats


def count_classes(targets: Ids, predicted: Ids, n_classes: int) -> Counts:
    """Counts (C,) of examples (N,)."""
    parts = (targets, predicted, targets[targets == predicted])
    return Counts(*(np.bincount(part, minlength=n_classes).astype(np.float64) for part in parts))


def accuracy(counts: Counts) -> Floats:
    """Share of examples that are right."""
    return np.asarray(counts.hits.sum(-1) / counts.support.sum(-1))


def balanced_accuracy(counts: Counts) -> Floats:
    """Mean recall of the classes that occur."""
    recall = counts.hits / np.maximum(counts.support, 1)
    return np.asarray(recall.sum(-1) / (counts.support > 0).sum(-1))


def mcc(counts: Counts) -> Floats:
    """Matthews' correlation, of several classes Gorodkin's (2004); 0 if all examples are of one
    class, or predicted so."""
    support, predicted, hits = counts
    total = support.sum(-1)
    spread = (total**2 - (support**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    common = hits.sum(-1) * total - (support * predicted).sum(-1)
    return np.asarray(common / np.sqrt(np.maximum(spread, 1)))


def class_metrics(scores: NDArray[np.float32], targets: Ids) -> dict[str, Metric]:
    """accuracy, balanced_accuracy, mcc; auroc and auprc, means over classes against the rest.

    scores: (N, C). targets: (N,).
    """
    classes = np.arange(scores.shape[1])
    is_class = (targets[:, None] == classes).astype(np.float64)
    is_predicted = (scores.argmax(axis=1)[:, None] == classes).astype(np.float64)
    columns = (is_class, is_predicted, is_class * is_predicted)

    def counted(metric: Callable[[Counts], Floats]) -> Metric:
        return lambda weights: metric(Counts(*(weights @ column for column in columns)))

    return {
        "accuracy": counted(accuracy),
        "balanced_accuracy": counted(balanced_accuracy),
        "mcc": counted(mcc),
        "auroc": mean_over_labels(auroc, scores, is_class),
        "auprc": mean_over_labels(auprc, scores, is_class),
    }


# --- one label or number


def of_all(metric: ColumnMetric, scores: NDArray[Any], targets: NDArray[Any]) -> float | None:
    """The metric of scores and targets (N,); None if it is undefined or all targets are alike."""
    scores, targets = scores.astype(np.float64), targets.astype(np.float64)
    if np.ptp(targets) == 0:
        return None
    value = float(metric(scores, targets, np.ones((1, len(scores))))[0])
    return value if math.isfinite(value) else None


def mean_over_labels(
    metric: ColumnMetric, scores: NDArray[np.float32], targets: NDArray[np.floating]
) -> Metric:
    """The mean over the columns of (N, C), without those whose targets are all alike."""
    columns = [
        (scores[:, i].astype(np.float64), targets[:, i].astype(np.float64))
        for i in range(scores.shape[1])
        if np.ptp(targets[:, i]) > 0
    ]

    def mean(weights: Floats) -> Floats:
        values = np.array([metric(*column, weights) for column in columns])
        values = values.reshape(-1, len(weights))
        is_known = np.isfinite(values)
        return np.where(is_known, values, 0).sum(axis=0) / is_known.sum(axis=0)

    return mean


def auprc(scores: Floats, targets: Floats, weights: Floats) -> Floats:
    """Average precision."""
    order = np.argsort(-scores, kind="stable")
    # Examples of one score come in together, or the result would depend on their order.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn = weights[:, order]
    hits = np.cumsum(drawn * (targets[order] > 0.5), axis=1)[:, last]
    seen = np.cumsum(drawn, axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0)
    area = (gained * hits / np.maximum(seen, 1)).sum(axis=1) / hits[:, -1]
    return np.where(hits[:, -1] < seen[:, -1], area, np.nan)


def auroc(scores: Floats, targets: Floats, weights: Floats) -> Floats:
    """The share of pairs with and without the label that are in order; equal scores are half."""
    is_it = targets > 0.5
    hits, others = _by_value(scores, weights * is_it), _by_value(scores, weights * ~is_it)
    below = np.cumsum(others, axis=1) - others / 2
    return (hits * below).sum(axis=1) / (hits.sum(axis=1) * others.sum(axis=1))


def _by_value(values: Floats, weights: Floats) -> Floats:
    """Weights (R, N) summed over equal values, the smallest first."""
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.append(True, np.diff(values[order]) > 0))
    return np.add.reduceat(weights[:, order], first, axis=1)


def r2(predicted: Floats, targets: Floats, weights: Floats) -> Floats:
    """1 - squared error / variance of the targets."""
    centred = targets - targets.mean()
    spread = weights @ centred**2 - (weights @ centred) ** 2 / weights.sum(axis=1)
    error = weights @ (targets - predicted) ** 2
    return np.where(spread > 0, 1 - error / spread, np.nan)


def mae(predicted: Floats, targets: Floats, weights: Floats) -> Floats:
    """Mean absolute error."""
    return (weights @ np.abs(targets - predicted)) / weights.sum(axis=1)


def pearson(predicted: Floats, targets: Floats, weights: Floats) -> Floats:
    """Pearson's correlation of columns (N,), or of (R, N) that differ between resamplings."""
    total = weights.sum(axis=1, keepdims=True)
    x = predicted - (weights * predicted).sum(axis=1, keepdims=True) / total
    y = targets - (weights * targets).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((weights * x**2).sum(axis=1) * (weights * y**2).sum(axis=1))
    common = (weights * x * y).sum(axis=1)
    return np.where(spread > 0, np.clip(common / spread, -1, 1), np.nan)


def spearman(predicted: Floats, targets: Floats, weights: Floats) -> Floats:
    """Spearman's correlation: Pearson's of the mean ranks among the examples drawn."""
    ranks = []
    for values in (predicted, targets):
        drawn = _by_value(values, weights)
        block = np.unique(values, return_inverse=True)[1]
        ranks.append((np.cumsum(drawn, axis=1) - drawn / 2)[:, block])
    return pearson(ranks[0], ranks[1], weights)
