"""How good labels are: one table of numbers for each kind of task, with intervals and chance.

scikit-learn computes the metrics; here is which ones, what of them is not defined where a split is
small or one-sided (None, never a guess), and how two models are compared on the same examples.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.metrics.bootstrap import HEADLINES, WeightedMean, interval_of, weighted_mean
from dnamamba.task import IGNORED_LABEL, Task

_Z_95 = 1.959964
_RELIABILITY_BINS = 10
_MOST_LENGTHS = 8

Result = dict[str, Any]


class Scores(NamedTuple):
    """What a model says of the examples of a split, and what is right."""

    scores: NDArray[np.float32]
    """(N, C): probabilities of the task's labels, or its numbers in their own units (regression).
    Of a per_base task N counts the labelled bases of all sequences."""

    targets: NDArray[Any]
    """int64 (N,): numbers of labels; float32 (N, C) for multilabel (0 or 1) and regression."""

    lengths: NDArray[np.int64]
    """(N,): bases of the sequence that each was told from."""

    names: list[str] | None = None
    """(N,): where each comes from, for people."""


def gather_scores(scored: Iterable[tuple[NDArray[Any], Examples]], task: Task) -> Scores:
    """The scores of a split from those of its batches.

    scored: (scores, batch) of every batch; scores are (B, C), (B, L, C) of a per_base task.
    Raises InputError where there is no batch, or no labelled base in any.
    """
    scores, targets, lengths = [], [], []
    for found, batch in scored:
        right, length = batch.targets.cpu().numpy(), batch.lengths.cpu().numpy()
        if task.kind == "per_base":
            is_labelled = right != IGNORED_LABEL
            length = np.broadcast_to(length[:, None], right.shape)[is_labelled]
            found, right = found[is_labelled], right[is_labelled]
        scores.append(np.asarray(found, np.float32))
        targets.append(right)
        lengths.append(length.astype(np.int64))
    if not sum(map(len, scores)):
        raise InputError("there is nothing to judge: the split has no example with a label")
    return Scores(np.concatenate(scores), np.concatenate(targets), np.concatenate(lengths))


# --- one model


def evaluate(scores: Scores, task: Task) -> Result:
    """Everything a report says of scores; numbers, lists and None, ready for JSON.

    Of every kind: kind, n, chance (what the headline is without reading a base), labels (one row a
    label). What a split does not define is None.
    multiclass and per_base: accuracy, accuracy_interval (95 %, Wilson), balanced_accuracy, mcc,
        auroc and auprc (mean over classes, each against the rest), confusion (rows: true, columns:
        predicted), ece and reliability, by_length (empty where all lengths are equal). chance is
        the share of the largest class. Intervals take examples as independent, which bases of one
        sequence are not.
    multilabel: auprc and its interval (by resampling), auroc, f1, mcc, means over the labels that
        the split has with and without; the same with _micro over all decisions at 0.5. chance is
        the mean share of such labels.
    regression: r2 and its interval (by resampling), pearson, spearman, means over the numbers; mae
        and rmse where there is one. chance is 0, the r2 of the mean.
    Raises InputError for scores that do not fit the task.
    """
    _check(scores, task)
    evaluators = {"multilabel": _evaluate_labels, "regression": _evaluate_numbers}
    result = evaluators.get(task.kind, _evaluate_classes)(scores, task)
    return {"kind": task.kind, "n": len(scores.scores), **result}


def primary_metric_name(task: Task) -> str:
    """The key of the number that a model is chosen by: accuracy, auprc or r2; larger is better."""
    return {"multilabel": "auprc", "regression": "r2"}.get(task.kind, "accuracy")


def primary_metric(result: Result, task: Task) -> tuple[str, float | None]:
    """(name, value) of the number that a model is chosen by; None where the split has it not."""
    name = primary_metric_name(task)
    return name, result[name]


def wilson_interval(right: int, n: int) -> list[float]:
    """The 95 % interval of a share of n independent trials (Wilson 1927)."""
    share, spread = right / n, _Z_95**2 / n
    middle = share + spread / 2
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4)
    return [max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))]


def _check(scores: Scores, task: Task) -> None:
    found, n_labels = scores.scores, len(task.labels)
    if found.ndim != 2 or found.shape[1] != n_labels or not len(found):
        raise InputError(f"expected scores (N, {n_labels}) with N above 0, got {found.shape}")
    shape = (len(found),) if task.has_classes else found.shape
    if scores.targets.shape != shape or scores.lengths.shape != (len(found),):
        raise InputError(
            f"expected targets {shape} and lengths ({len(found)},) beside scores {found.shape}, "
            f"got {scores.targets.shape} and {scores.lengths.shape}"
        )
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise InputError(f"expected numbers as scores, row {row} has {found[row].tolist()}")
    if task.kind == "regression":
        return
    if found.min() < -1e-6 or found.max() > 1.001:
        raise InputError(
            f"expected probabilities, got scores from {found.min():.3g} to {found.max():.3g}: give "
            "the softmax or the sigmoid of what a model computes"
        )
    sums = found.sum(axis=1)
    if task.has_classes and np.abs(sums - 1).max() > 0.02:
        raise InputError(f"expected probabilities that sum to 1, a row sums to {sums.max():.3g}")
    if task.has_classes and not 0 <= scores.targets.min() <= scores.targets.max() < n_labels:
        raise InputError(
            f"expected targets 0 to {n_labels - 1}, got {scores.targets.min()} to "
            f"{scores.targets.max()}"
        )


def _evaluate_classes(scores: Scores, task: Task) -> Result:
    from sklearn import metrics

    found, targets, numbers = scores.scores, scores.targets, range(len(task.labels))
    told = found.argmax(axis=1)
    right = told == targets
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        targets, told, labels=list(numbers), zero_division=0
    )
    rankings = [_ranking(targets == i, found[:, i]) for i in numbers]
    n_told = np.bincount(told, minlength=len(task.labels))
    return {
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson_interval(int(right.sum()), len(right)),
        "chance": float(support.max() / len(right)),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "mcc": _mcc(targets, told),
        "auroc": _mean([auroc for auroc, _ in rankings]),
        "auprc": _mean([auprc for _, auprc in rankings]),
        "labels": [
            {
                "label": task.labels[i],
                "support": int(support[i]),
                "predicted": int(n_told[i]),
                "precision": float(precision[i]) if n_told[i] else None,
                "recall": float(recall[i]) if support[i] else None,
                "f1": float(f1[i]) if support[i] or n_told[i] else None,
                "auroc": rankings[i][0],
                "auprc": rankings[i][1],
            }
            for i in numbers
        ],
        "confusion": metrics.confusion_matrix(targets, told, labels=list(numbers)).tolist(),
        **_reliability(found.max(axis=1), right),
        "by_length": _by_length(scores.lengths, right),
    }


def _ranking(is_it: NDArray[np.bool_], scores: NDArray[Any]) -> tuple[float | None, float | None]:
    """(AUROC, AUPRC) of scores; None where the split has only examples with it, or only without."""
    from sklearn import metrics

    if is_it.all() or not is_it.any():
        return None, None
    return (
        float(metrics.roc_auc_score(is_it, scores)),
        float(metrics.average_precision_score(is_it, scores)),
    )


def _reliability(confidence: NDArray[Any], right: NDArray[np.bool_]) -> Result:
    """The expected calibration error (Naeini 2015), and how often each confidence is right."""
    bins = np.minimum((confidence * _RELIABILITY_BINS).astype(int), _RELIABILITY_BINS - 1)
    rows: list[Result] = []
    for i in np.unique(bins):
        inside = bins == i
        n, n_right = int(inside.sum()), int(right[inside].sum())
        rows.append(
            {
                "from": float(i / _RELIABILITY_BINS),
                "to": float((i + 1) / _RELIABILITY_BINS),
                "n": n,
                "confidence": float(confidence[inside].mean()),
                "accuracy": n_right / n,
                "interval": wilson_interval(n_right, n),
            }
        )
    gaps = (row["n"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return {"ece": float(sum(gaps) / len(right)), "reliability": rows}


def _by_length(lengths: NDArray[np.int64], right: NDArray[np.bool_]) -> list[Result]:
    """Accuracy of each length; of lengths between powers of two where there are many."""
    different = np.unique(lengths)
    if len(different) == 1:
        return []
    groups = lengths
    if len(different) > _MOST_LENGTHS:
        groups = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    rows = []
    for group in np.unique(groups):
        inside = groups == group
        n, n_right = int(inside.sum()), int(right[inside].sum())
        rows.append(
            {
                "from": int(lengths[inside].min()),
                "to": int(lengths[inside].max()),
                "n": n,
                "accuracy": n_right / n,
                "interval": wilson_interval(n_right, n),
            }
        )
    return rows


def _evaluate_labels(scores: Scores, task: Task) -> Result:
    from sklearn import metrics

    has, told = scores.targets > 0.5, scores.scores >= 0.5
    rows: list[Result] = []
    for i, label in enumerate(task.labels):
        auroc, auprc = _ranking(has[:, i], scores.scores[:, i])
        is_evaluated = auroc is not None
        rows.append(
            {
                "label": label,
                "support": int(has[:, i].sum()),
                "predicted": int(told[:, i].sum()),
                "auroc": auroc,
                "auprc": auprc,
                "f1": float(metrics.f1_score(has[:, i], told[:, i])) if is_evaluated else None,
                "mcc": _mcc(has[:, i], told[:, i]) if is_evaluated else None,
            }
        )
    evaluated = [row for row in rows if row["auroc"] is not None]
    means = {key: _mean([row[key] for row in evaluated]) for key in ("auprc", "auroc", "f1", "mcc")}
    auroc, auprc = _ranking(has.ravel(), scores.scores.ravel())
    return {
        **means,
        "auprc_interval": _interval(scores, task),
        "chance": _mean([row["support"] / len(has) for row in evaluated]),
        "n_labels_judged": len(evaluated),
        "auprc_micro": auprc,
        "auroc_micro": auroc,
        "f1_micro": float(metrics.f1_score(has.ravel(), told.ravel(), zero_division=0)),
        "mcc_micro": _mcc(has.ravel(), told.ravel()),
        "labels": rows,
    }


def _mcc(targets: NDArray[Any], told: NDArray[Any]) -> float:
    from sklearn import metrics

    if told.min() == told.max():
        return 0.0  # its limit, and without scikit-learn's warning of a single label
    return float(metrics.matthews_corrcoef(targets, told))


def _evaluate_numbers(scores: Scores, task: Task) -> Result:
    rows: list[Result] = [
        {"label": label, **_evaluate_number(scores.scores[:, i], scores.targets[:, i])}
        for i, label in enumerate(task.labels)
    ]
    means = {key: _mean([row[key] for row in rows]) for key in ("r2", "pearson", "spearman")}
    errors = {key: rows[0][key] if len(rows) == 1 else None for key in ("mae", "rmse")}
    return {
        **means,
        **errors,  # a mean over numbers of different units would be of none
        "r2_interval": _interval(scores, task),
        "chance": 0.0,
        "labels": rows,
    }


def _evaluate_number(found: NDArray[Any], targets: NDArray[Any]) -> Result:
    from sklearn import metrics

    found, targets = found.astype(np.float64), targets.astype(np.float64)
    varies = bool(np.ptp(targets) > 0)
    result: Result = dict.fromkeys(("r2", "pearson", "pearson_interval", "spearman"))
    if varies:
        result["r2"] = float(metrics.r2_score(targets, found))
    if varies and np.ptp(found) > 0:
        from scipy import stats

        result["pearson"] = float(np.clip(np.corrcoef(found, targets)[0, 1], -1, 1))
        result["pearson_interval"] = _fisher_interval(result["pearson"], len(found))
        result["spearman"] = float(stats.spearmanr(found, targets).statistic)
    result["mae"] = float(metrics.mean_absolute_error(targets, found))
    result["rmse"] = float(np.sqrt(metrics.mean_squared_error(targets, found)))
    return result


def _fisher_interval(correlation: float, n: int) -> list[float] | None:
    if n < 4 or abs(correlation) >= 1:
        return None
    middle, half = math.atanh(correlation), _Z_95 / math.sqrt(n - 3)
    return [math.tanh(middle - half), math.tanh(middle + half)]


def _weighted_primary_metric(scores: Scores, task: Task) -> WeightedMean:
    return weighted_mean(HEADLINES[primary_metric_name(task)], scores.scores, scores.targets)


def _interval(scores: Scores, task: Task) -> list[float] | None:
    return interval_of(_weighted_primary_metric(scores, task), scores.scores.shape)


def _mean(values: list[float | None]) -> float | None:
    """None where there is nothing, or one is None: a mean over fewer would not be the same."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


# --- two models


def compare(model: Scores, baseline: Scores, task: Task) -> str:
    """A sentence: which is better on the same examples, by how much, and whether it may be luck.

    Classes: McNemar's exact test of the examples that one of the two has right. Other kinds: the
    95 % interval of the headline's difference, by resampling the examples of both alike.
    Raises InputError where the two were not judged on the same examples.
    """
    _check(model, task)
    _check(baseline, task)
    if not np.array_equal(model.targets, baseline.targets):
        raise InputError("two models are compared on the same examples in the same order")
    return (_compare_classes if task.has_classes else _compare_resampled)(model, baseline, task)


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> tuple[int, int, float]:
    """(right where the other is wrong, wrong where it is right, p of McNemar's exact test)."""
    from scipy import stats

    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return gained, lost, p


def _compare_classes(model: Scores, baseline: Scores, task: Task) -> str:
    ours = model.scores.argmax(axis=1) == model.targets
    theirs = baseline.scores.argmax(axis=1) == model.targets
    gained, lost, p = mcnemar(ours, theirs)
    things = "labelled bases" if task.kind == "per_base" else "examples"
    return (
        f"The model is right in {100 * ours.mean():.1f} % of {len(ours):,} {things}, the baseline "
        f"in {100 * theirs.mean():.1f} %: {_verdict(gained - lost, p < 0.05)} (right where the "
        f"other is wrong: {gained:,} against {lost:,}; McNemar's exact test, "
        f"{'p < 0.0001' if p < 0.0001 else f'p = {p:.2g}'})."
    )


def _compare_resampled(model: Scores, baseline: Scores, task: Task) -> str:
    name = {"r2": "R²", "auprc": "mean AUPRC"}[primary_metric_name(task)]
    n = len(model.scores)
    ours, theirs = (_weighted_primary_metric(scores, task) for scores in (model, baseline))
    one, other = ours(np.ones(n)), theirs(np.ones(n))
    if not math.isfinite(one - other):
        return f"The {n:,} examples do not define a {name}: their labels are all alike."
    sentence = f"The model's {name} is {one:.4f}, the baseline's {other:.4f}"
    interval = interval_of(lambda counts: ours(counts) - theirs(counts), model.scores.shape)
    if interval is None:
        return f"{sentence} ({n:,} examples)."
    low, high = interval
    return (
        f"{sentence}: {_verdict(one - other, low > 0 or high < 0)} (95 % interval of the "
        f"difference {low:+.4f} to {high:+.4f}, {n:,} examples resampled)."
    )


def _verdict(difference: float, is_certain: bool) -> str:
    if not is_certain:
        return "no difference beyond chance"
    return "the model is better" if difference > 0 else "the model is worse"
