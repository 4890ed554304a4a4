"""95 % intervals of metrics, by drawing the examples, or whole groups of them, again.

A resampling is a row of weights: how often each example is drawn. The metrics here are computed for
many resamplings at once. They are scikit-learn's with `sample_weight` to rounding (tested), whose
calls take 0.4 to 4 ms each: a minute for the 1,000 resamplings of a probe, which take a second so.
"""

import math
from collections.abc import Callable, Iterator, Mapping

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


def interval_of(metric: Metric, shape: tuple[int, ...]) -> list[float] | None:
    """[low, high] of a metric of scores (N, C), by 200 resamplings, always the same ones.

    None for a single example, above 250,000 scores and if most resamplings have no value.
    """
    if math.prod(shape) > MOST_SCORES or shape[0] < 2:
        return None
    return middle_95(resampled({"it": metric}, shape[0])["it"])


def resampled(
    metrics: Mapping[str, Metric],
    n: int,
    groups: Ids | None = None,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, Floats]:
    """Each metric in the same resamplings of n examples, float64 (n_resamples,).

    groups: (n,), the number of each example's group from 0 up. Whole groups are drawn, as many as
    there are, so that examples that resemble each other do not count as many. None: examples are
    independent.
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
        draws = [
            random.integers(0, n_drawn, n_drawn) for _ in range(min(step, n_resamples - start))
        ]
        counts = np.array([np.bincount(draw, minlength=n_drawn) for draw in draws], np.float64)
        yield counts if groups is None else counts[:, groups]


# --- classes: what is predicted is the label of the largest score


def class_metrics(scores: NDArray[np.float32], targets: Ids) -> dict[str, Metric]:
    """accuracy, balanced_accuracy, mcc; auroc and auprc, means over classes against the rest.

    scores: (N, C). targets: (N,).
    """
    n_classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    is_class = (targets[:, None] == np.arange(n_classes)).astype(np.float64)
    is_predicted = (predicted[:, None] == np.arange(n_classes)).astype(np.float64)
    is_right = (predicted == targets).astype(np.float64)

    def balanced_accuracy(weights: Floats) -> Floats:
        support = weights @ is_class
        recall = (weights @ (is_class * is_right[:, None])) / np.maximum(support, 1)
        return recall.sum(axis=1) / (support > 0).sum(axis=1)

    def mcc(weights: Floats) -> Floats:
        """Several classes: Gorodkin 2004; 0 if all are of one class, or predicted so."""
        support, predicted_as, total = (
            weights @ is_class,
            weights @ is_predicted,
            weights.sum(axis=1),
        )
        spread = (total**2 - (support**2).sum(axis=1)) * (total**2 - (predicted_as**2).sum(axis=1))
        common = (weights @ is_right) * total - (support * predicted_as).sum(axis=1)
        return np.where(spread > 0, common / np.sqrt(spread), 0.0)

    return {
        "accuracy": lambda weights: (weights @ is_right) / weights.sum(axis=1),
        "balanced_accuracy": balanced_accuracy,
        "mcc": mcc,
        "auroc": mean_over_labels(auroc, scores, is_class),
        "auprc": mean_over_labels(auprc, scores, is_class),
    }


# --- one label or number


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
    return np.where(spread > 0, (weights * x * y).sum(axis=1) / spread, np.nan)


def spearman(predicted: Floats, targets: Floats, weights: Floats) -> Floats:
    """Spearman's correlation, with ranks among the examples drawn."""
    ranks = [_ranks(column, weights) for column in (predicted, targets)]
    return pearson(ranks[0], ranks[1], weights)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(R, N): mean ranks among the examples drawn."""
    drawn = _by_value(values, weights)
    block = np.unique(values, return_inverse=True)[1]
    return (np.cumsum(drawn, axis=1) - drawn / 2)[:, block]
