"""Tables of metrics for classes, for sets of labels and for numbers.

What a split that is small or one-sided does not define is None, never a guess. To add a metric, add
it to the result of `evaluate_classes`, `evaluate_sets` or `evaluate_numbers`, and its name to
metrics/names.py; if it needs an interval, add it to bootstrap.py and to a kind's `resampled`
(task_kinds.py) too.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.metrics import bootstrap
from dnamamba.metrics.bootstrap import count_classes, interval_of, of_all
from dnamamba.task import IGNORED_LABEL, Task

_Z_95 = 1.959964
_RELIABILITY_BINS = 10
_MOST_LENGTHS = 8

Result = dict[str, Any]
"""Numbers, lists and None, ready for JSON."""


class Scores(NamedTuple):
    """What a model predicts for the examples of a split, and their targets."""

    scores: NDArray[np.float32]
    """(N, C): probabilities of the task's labels, or numbers in their own units. N counts the
    labelled bases of all sequences in a per_base task."""

    targets: NDArray[Any]
    """int64 (N,): numbers of labels; float32 (N, C) for tasks without classes."""

    lengths: NDArray[np.int64]
    """(N,): bases of the sequence that each was predicted from."""

    names: list[str] | None = None
    """(N,): sources of the examples, for people."""


Part = tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]
"""scores, targets and lengths of a batch: (B, C), or (B, L, C) in a per_base task."""


def gather_scores(parts: Iterable[Part], task: Task, names: list[str] | None = None) -> Scores:
    """The scores of a split from those of its batches, labelled bases one after the other.

    Raises InputError if there is no batch, or no labelled base in any.
    """
    gathered = [labelled_bases(*part) if task.per_base else part for part in parts]
    if not sum(len(scores) for scores, _, _ in gathered):
        raise InputError("there is nothing to evaluate: the split has no example with a label")
    scores, targets, lengths = (np.concatenate(column) for column in zip(*gathered, strict=True))
    names = None if task.per_base else names
    return Scores(scores.astype(np.float32), targets, lengths.astype(np.int64), names)


def labelled_bases(scores: NDArray[Any], targets: NDArray[Any], lengths: NDArray[np.int64]) -> Part:
    """Rows (n, C), targets (n,) and lengths (n,) of the bases of a batch that have a label."""
    is_labelled = targets != IGNORED_LABEL
    lengths = np.broadcast_to(lengths[:, None], targets.shape)[is_labelled]
    return scores[is_labelled], targets[is_labelled], lengths


def check_scores(scores: Scores, task: Task) -> None:
    """Raise InputError for scores that do not fit the task."""
    found, n_labels = scores.scores, len(task.labels)
    n = len(found)
    expected = [(n, n_labels), (n,) if task.has_classes else (n, n_labels), (n,)]
    given = [array.shape for array in (found, scores.targets, scores.lengths)]
    if not n or given != expected:
        raise InputError(
            f"scores, targets and lengths must be {expected} with N above 0, got {given}"
        )
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise InputError(f"scores must be finite, row {row} has {found[row].tolist()}")
    if task.has_numbers:
        return
    if found.min() < -1e-6 or found.max() > 1.001:
        raise InputError(
            f"expected probabilities, got scores from {found.min():.3g} to {found.max():.3g}: give "
            "the softmax or the sigmoid of logits"
        )
    sums = found.sum(axis=1)
    if task.has_classes and np.abs(sums - 1).max() > 0.02:
        raise InputError(f"expected probabilities that sum to 1, a row sums to {sums.max():.3g}")
    if task.has_classes and not 0 <= scores.targets.min() <= scores.targets.max() < n_labels:
        raise InputError(
            f"expected targets 0 to {n_labels - 1}, got {scores.targets.min()} to "
            f"{scores.targets.max()}"
        )


def wilson_interval(right: int, n: int) -> list[float]:
    """The 95 % interval of a share of n independent trials (Wilson 1927)."""
    share, spread = right / n, _Z_95**2 / n
    middle = share + spread / 2
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4)
    return [max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))]


# --- classes


def evaluate_classes(scores: Scores, task: Task) -> Result:
    """accuracy, accuracy_interval (95 %, Wilson), balanced_accuracy, mcc, auroc and auprc (means
    over classes, each against the rest), confusion (rows: true, columns: predicted), ece and
    reliability, by_length (empty if all lengths are equal), labels; chance is the share of the
    largest class. Intervals take examples as independent, which bases of one sequence are not."""
    from sklearn import metrics

    numbers = list(range(len(task.labels)))
    predicted = scores.scores.argmax(axis=1)
    right = predicted == scores.targets
    counts = count_classes(scores.targets, predicted, len(task.labels))
    rankings = [_ranking(scores.scores[:, i], scores.targets == i) for i in numbers]
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson_interval(int(right.sum()), len(right)),
        "chance": float(counts.support.max() / len(right)),
        "balanced_accuracy": float(bootstrap.balanced_accuracy(counts)),
        "mcc": float(bootstrap.mcc(counts)),
        **{name: _mean([row[name] for row in rankings]) for name in ("auroc", "auprc")},
        "labels": [
            {
                "label": label,
                "support": int(support),
                "predicted": int(n_predicted),
                "precision": _share(hits, n_predicted),
                "recall": _share(hits, support),
                "f1": _share(2 * hits, support + n_predicted),
                **ranking,
            }
            for label, ranking, support, n_predicted, hits in zip(
                task.labels, rankings, *counts, strict=True
            )
        ],
        "confusion": metrics.confusion_matrix(scores.targets, predicted, labels=numbers).tolist(),
        **_reliability(scores.scores.max(axis=1), right),
        "by_length": _by_length(scores.lengths, right),
    }


def _ranking(scores: NDArray[Any], has: NDArray[np.bool_]) -> dict[str, float | None]:
    """None if the split has only examples with the label, or only without."""
    return {
        "auroc": of_all(bootstrap.auroc, scores, has),
        "auprc": of_all(bootstrap.auprc, scores, has),
    }


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _reliability(confidence: NDArray[Any], right: NDArray[np.bool_]) -> Result:
    """The expected calibration error (Naeini 2015), and how often each confidence is right."""
    bins = np.minimum((confidence * _RELIABILITY_BINS).astype(int), _RELIABILITY_BINS - 1)
    rows = []
    for inside, row in _accuracy_by(bins, right):
        i = int(bins[inside][0])
        row |= {"from": i / _RELIABILITY_BINS, "to": (i + 1) / _RELIABILITY_BINS}
        rows.append(row | {"confidence": float(confidence[inside].mean())})
    gaps = (row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return {"ece": float(sum(gaps) / len(right)), "reliability": rows}


def _by_length(lengths: NDArray[np.int64], right: NDArray[np.bool_]) -> list[Result]:
    """Accuracy at each length; between powers of two if there are many."""
    different = np.unique(lengths)
    if len(different) == 1:
        return []
    groups = lengths
    if len(different) > _MOST_LENGTHS:
        groups = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    return [
        {"from": int(lengths[inside].min()), "to": int(lengths[inside].max()), **row}
        for inside, row in _accuracy_by(groups, right)
    ]


def _accuracy_by(
    groups: NDArray[Any], right: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[np.bool_], Result]]:
    """(members, accuracy with its interval) of each group, in their order."""
    for group in np.unique(groups):
        inside = groups == group
        n, n_right = int(inside.sum()), int(right[inside].sum())
        row = {"n": n, "accuracy": n_right / n, "interval": wilson_interval(n_right, n)}
        yield inside, row


# --- any number of labels


def evaluate_sets(scores: Scores, task: Task) -> Result:
    """auprc and its interval (by resampling), auroc, f1, mcc, means over the labels that the split
    has with and without; the same with _micro over all decisions at 0.5; labels. chance is the mean
    share of examples with a label."""
    has = scores.targets > 0.5
    rows: list[Result] = []
    for i, label in enumerate(task.labels):
        row = {"label": label, **_evaluate_set(scores.scores[:, i], has[:, i])}
        rows.append(row if row["auroc"] is not None else row | {"f1": None, "mcc": None})
    defined = [row for row in rows if row["auroc"] is not None]
    micro = _evaluate_set(scores.scores.ravel(), has.ravel())
    return {
        **{key: _mean([row[key] for row in defined]) for key in ("auprc", "auroc", "f1", "mcc")},
        "auprc_interval": interval_of(bootstrap.auprc, scores.scores, scores.targets),
        "chance": _mean([row["support"] / len(has) for row in defined]),
        "n_labels_judged": len(defined),
        **{f"{key}_micro": micro[key] for key in ("auroc", "auprc", "f1", "mcc")},
        "labels": rows,
    }


def _evaluate_set(scores: NDArray[Any], has: NDArray[np.bool_]) -> Result:
    """Metrics of one label; f1 and mcc of decisions at 0.5."""
    counts = count_classes(has.astype(np.int64), (scores >= 0.5).astype(np.int64), 2)
    support, predicted, hits = (float(count[1]) for count in counts)
    return {
        "support": int(support),
        "predicted": int(predicted),
        **_ranking(scores, has),
        "f1": _share(2 * hits, support + predicted) or 0.0,
        "mcc": float(bootstrap.mcc(counts)),
    }


# --- numbers


def evaluate_numbers(scores: Scores, task: Task) -> Result:
    """r2 and its interval (by resampling), pearson, spearman, means over the numbers; mae and rmse
    if there is one; labels. chance is 0, the r2 of the mean."""
    rows: list[Result] = [
        {"label": label, **_evaluate_number(scores.scores[:, i], scores.targets[:, i])}
        for i, label in enumerate(task.labels)
    ]
    # A mean error over numbers of different units would have none.
    errors = {key: rows[0][key] if len(rows) == 1 else None for key in ("mae", "rmse")}
    return {
        **{key: _mean([row[key] for row in rows]) for key in ("r2", "pearson", "spearman")},
        **errors,
        "r2_interval": interval_of(bootstrap.r2, scores.scores, scores.targets),
        "chance": 0.0,
        "labels": rows,
    }


def _evaluate_number(found: NDArray[Any], targets: NDArray[Any]) -> Result:
    errors = found.astype(np.float64) - targets
    pearson = spearman = None
    if np.ptp(found) > 0:
        pearson = of_all(bootstrap.pearson, found, targets)
        spearman = of_all(bootstrap.spearman, found, targets)
    return {
        "r2": of_all(bootstrap.r2, found, targets),
        "pearson": pearson,
        "pearson_interval": None if pearson is None else _fisher_interval(pearson, len(found)),
        "spearman": spearman,
        "mae": float(np.abs(errors).mean()),
        "rmse": math.sqrt(np.square(errors).mean()),
    }


def _fisher_interval(correlation: float, n: int) -> list[float] | None:
    if n < 4 or abs(correlation) >= 1:
        return None
    middle, half = math.atanh(correlation), _Z_95 / math.sqrt(n - 3)
    return [math.tanh(middle - half), math.tanh(middle + half)]


def _mean(values: list[float | None]) -> float | None:
    """None if there is nothing, or one is None: a mean over fewer would not be the same."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
