"""How good a probe is on rows held out, and how much better than its baseline: with intervals by
drawing rows again, or whole groups of them where rows of a group resemble each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.metrics.bootstrap import (
    MOST_SCORES,
    Ids,
    WeightedMean,
    accuracy_of,
    balanced_accuracy_of,
    mcc_of,
    middle_95,
    resampled,
    weighted_auprc,
    weighted_auroc,
    weighted_confusion,
    weighted_mae,
    weighted_mean,
    weighted_pearson,
    weighted_r2,
    weighted_spearman,
)
from dnamamba.metrics.metrics import (
    Result,
    Scores,
    evaluate,
    mcnemar,
    primary_metric_name,
    wilson_interval,
)
from dnamamba.metrics.names import NAMES, shown
from dnamamba.task import Task

N_RESAMPLES = 1000

METRICS = {
    "multiclass": ("accuracy", "balanced_accuracy", "mcc", "auroc", "auprc"),
    "regression": ("r2", "pearson", "spearman", "mae"),
}
"""What has an interval; of mae less is better."""

_ROUGH_BELOW = 10


def evaluate_probe(
    model: Scores, baseline: Scores | None, task: Task, groups: Ids | None
) -> dict[str, Any]:
    """What probe.json keeps of the rows held out.

    model, baseline: label_metrics.judge's results with `intervals`: 95 % of each of METRICS that is
    defined. There is none of very many rows, and where every row is right one of the accuracy alone
    (Wilson's). comparison: None without a baseline, else `differences` (model less baseline, with
    intervals; both resampled alike), `test` (name, p) and `sentence`.
    groups: (n,) the number of each row's group, from 0 up: what is resampled.
    """
    parts = {"model": model} | ({} if baseline is None else {"baseline": baseline})
    numbers = {
        (who, name): number
        for who, scores in parts.items()
        for name, number in _numbers(scores, task).items()
    }
    draws = _draws(numbers, model, groups)
    evaluated: dict[str, Any] = {"model": None, "baseline": None, "comparison": None}
    for who, scores in parts.items():
        result = evaluate(scores, task)
        intervals = {
            name: _interval(name, draws.get(f"{who} {name}"), model, groups)
            for name in _names(task)
            if result[name] is not None
        }
        evaluated[who] = result | {"intervals": intervals}
    evaluated["resampled"] = _what_is_drawn(model, groups)
    if baseline is not None:
        evaluated["comparison"] = _compare(evaluated, draws, (model, baseline), task, groups)
    return evaluated


def _names(task: Task) -> tuple[str, ...]:
    return METRICS["multiclass" if task.has_classes else task.kind]


def _draws(
    numbers: Mapping[tuple[str, str], WeightedMean], scores: Scores, groups: Ids | None
) -> dict[str, Any]:
    n = len(scores.scores)
    n_drawn = n if groups is None else int(groups.max()) + 1
    if scores.scores.size > MOST_SCORES or n_drawn < 2:
        return {}
    named = {" ".join(key): number for key, number in numbers.items()}
    return resampled(named, n, groups, N_RESAMPLES)


def _interval(
    name: str, drawn: NDArray[np.float64] | None, scores: Scores, groups: Ids | None
) -> list[float] | None:
    """What resampling gives; where every row is right, or wrong, that is a point, which says
    nothing: then Wilson's of the accuracy, and none of other numbers."""
    if drawn is None:
        return None
    interval = middle_95(drawn)
    if interval is None or interval[0] < interval[1]:
        return interval
    n = len(scores.scores) if groups is None else int(groups.max()) + 1
    return wilson_interval(round(interval[0] * n), n) if name == "accuracy" else None


def _what_is_drawn(scores: Scores, groups: Ids | None) -> str:
    if groups is None:
        return f"{len(scores.scores):,} rows"
    n = int(groups.max()) + 1
    rough = ", so few that intervals are rough" if n < _ROUGH_BELOW else ""
    return f"{n:,} groups of rows{rough}"


def _numbers(scores: Scores, task: Task) -> dict[str, WeightedMean]:
    """Each of METRICS as a function of how often each row counts."""
    found, right = scores.scores, scores.targets
    if not task.has_classes:
        columns = {
            "r2": weighted_r2,
            "pearson": weighted_pearson,
            "spearman": weighted_spearman,
            "mae": weighted_mae,
        }
        return {name: weighted_mean(column, found, right) for name, column in columns.items()}
    n_classes = len(task.labels)
    told = found.argmax(axis=1)
    is_it = (right[:, None] == np.arange(n_classes)).astype(np.float32)
    matrices = {"accuracy": accuracy_of, "balanced_accuracy": balanced_accuracy_of, "mcc": mcc_of}
    return {
        **{
            name: weighted_confusion(told, right, n_classes, compute)
            for name, compute in matrices.items()
        },
        "auroc": weighted_mean(weighted_auroc, found, is_it),
        "auprc": weighted_mean(weighted_auprc, found, is_it),
    }


def _compare(
    evaluated: Mapping[str, Any],
    draws: Mapping[str, Any],
    both: tuple[Scores, Scores],
    task: Task,
    groups: Ids | None,
) -> Result:
    differences: Result = {}
    for name in _names(task):
        one, other = evaluated["model"][name], evaluated["baseline"][name]
        drawn = draws[f"model {name}"] - draws[f"baseline {name}"] if draws else None
        differences[name] = {
            "difference": None if one is None or other is None else one - other,
            "interval": None if drawn is None else middle_95(drawn),
        }
    name = primary_metric_name(task)
    is_counted = task.has_classes and groups is None
    if is_counted:
        test = _counted(both)
    else:
        drawn = draws[f"model {name}"] - draws[f"baseline {name}"] if draws else np.empty(0)
        test = _drawn(drawn, "rows" if groups is None else "groups")
    row = differences[name]
    sentence = _sentence(name, evaluated, row, test)
    return {"differences": differences, "test": test, "sentence": sentence}


def _counted(both: tuple[Scores, Scores]) -> Result:
    """Rows are independent, so those that one of the two has right can be counted."""
    ours, theirs = (scores.scores.argmax(axis=1) == scores.targets for scores in both)
    gained, lost, p = mcnemar(ours, theirs)
    note = f"right where the other is wrong: {gained:,} against {lost:,}"
    return {"name": "McNemar's exact test", "p": p, "note": note}


def _drawn(drawn: Any, things: str) -> Result:
    """Twice the share of resamplings on the other side of 0; 1 / their number is the least."""
    known = drawn[np.isfinite(drawn)]
    p = None
    if len(known) >= max(2, len(drawn) / 2):
        aside = min((known <= 0).mean(), (known >= 0).mean())
        p = float(min(1.0, max(2 * aside, 1 / len(known))))
    return {"name": f"resampling of {things}", "p": p, "note": f"{len(drawn):,} resamplings"}


def _sentence(name: str, evaluated: Mapping[str, Any], row: Result, test: Result) -> str:
    if row["difference"] is None:
        return f"The rows held out do not define {NAMES[name]}."
    values = [shown(name, evaluated[who][name]) for who in ("model", "baseline")]
    told = f"The embeddings' {NAMES[name]} is {values[0]}, the k-mer baseline's {values[1]}"
    p, interval, details = test["p"], row["interval"], []
    if interval is not None:
        low, high = (signed(name, limit) for limit in interval)
        unit = " points" if "accuracy" in name else ""
        details.append(f"95 % interval of the difference {low} to {high}{unit}")
    if p is None:
        return f"{told}."
    least = 2 / N_RESAMPLES if test["name"].startswith("resampling") else 1e-4
    details.append(f"{test['name']}: {f'p < {least:g}' if p < least else f'p = {p:.2g}'}")
    verdict = "no difference beyond chance"
    if p < 0.05:
        verdict = f"the embeddings do {'better' if row['difference'] > 0 else 'worse'}"
    return f"{told}: {verdict} ({'; '.join(details)})."


def signed(name: str, value: float) -> str:
    """A difference with its sign; of accuracies in percent points."""
    if name in ("accuracy", "balanced_accuracy"):
        return f"{100 * value:+.1f}"
    return f"{value:+.3f}"
