"""Evaluate a model's scores beside its baseline's: metrics, intervals, a verdict.

Classifiers and probes are compared in the same way: by McNemar's exact test if examples have
classes and are independent, else by resampling the difference of the primary metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dnamamba.errors import InputError
from dnamamba.metrics.bootstrap import MOST_SCORES, N_RESAMPLES, Floats, Ids, middle_95, resampled
from dnamamba.metrics.curves import curves
from dnamamba.metrics.metrics import Result, Scores, check_scores, wilson_interval
from dnamamba.metrics.names import NAMES, shown, signed
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.task import Task

FORMAT_VERSION = 1


class Sides(NamedTuple):
    """What a comparison calls the two models."""

    model: str = "The model's"
    baseline: str = "the baseline's"
    verdict: str = "the model is"


_SIDES = Sides()


def evaluate(scores: Scores, task: Task) -> Result:
    """kind, n, and the metrics of TaskKind.evaluate; None for what a split does not define.

    Raises InputError for scores that do not fit the task.
    """
    check_scores(scores, task)
    return {"kind": task.kind, "n": len(scores.scores), **task_kind(task).evaluate(scores, task)}


def primary_metric_name(task: Task) -> str:
    """Name of the model-selection metric: accuracy, auprc or r2; larger is better."""
    return task_kind(task).primary_metric


def primary_metric(result: Result, task: Task) -> tuple[str, float | None]:
    """(name, value) of the model-selection metric; None if the split does not define it."""
    name = primary_metric_name(task)
    return name, result[name]


def evaluation_record(
    task: Task, splits: Mapping[str, tuple[Scores, Scores | None]]
) -> dict[str, Any]:
    """evaluation.json of a run.

    splits: name of each split ("valid", "test") -> scores of the model, and of the baseline on the
    same examples if there is one.
    """
    evaluated = {}
    for split, (model, baseline) in splits.items():
        evaluated[split] = evaluate_beside(model, baseline, task)
        if baseline is not None:
            evaluated[split]["comparison"] = evaluated[split]["comparison"]["sentence"]
    return {
        "format_version": FORMAT_VERSION,
        "task": {"kind": task.kind, "labels": list(task.labels)},
        "splits": evaluated,
        "curves": {
            split: curves(model, task, baseline) for split, (model, baseline) in splits.items()
        },
    }


def evaluate_beside(
    model: Scores,
    baseline: Scores | None,
    task: Task,
    groups: Ids | None = None,
    *,
    n_resamples: int = N_RESAMPLES,
    with_intervals: bool = False,
    sides: Sides = _SIDES,
) -> dict[str, Any]:
    """{"model", "baseline", "comparison"}: results of `evaluate`, and how the two compare.

    baseline: None gives None for it and for the comparison. groups: (N,), the number of each
    example's group from 0 up, if examples of a group resemble each other: groups are resampled.
    with_intervals: results have `intervals`, 95 % of each metric of TaskKind.resampled (None if
    undefined); otherwise only the primary metric is compared.
    comparison: `differences` (metric -> difference, interval), `test` (name, p, note), `sentence`.
    Raises InputError if the two were not evaluated on the same examples.
    """
    both = {"model": model} | ({} if baseline is None else {"baseline": baseline})
    results = {who: evaluate(scores, task) for who, scores in both.items()}
    if baseline is not None and not np.array_equal(model.targets, baseline.targets):
        raise InputError("two models are compared on the same examples in the same order")
    is_counted = task.has_classes and groups is None
    names = [primary_metric_name(task)]
    if with_intervals:
        names = list(task_kind(task).resampled(model))
    draws: dict[str, dict[str, Floats]] = {}
    if with_intervals or (baseline is not None and not is_counted):
        draws = _draw(both, task, names, groups, n_resamples)
    if with_intervals:
        n = _n_independent(model, groups)
        for who, result in results.items():
            result["intervals"] = {
                name: _interval(name, draws[who][name], n) if draws else None for name in names
            }
    comparison = None
    if baseline is not None:
        differences = {name: _difference(name, results, draws) for name in names}
        test = _mcnemar(model, baseline) if is_counted else _resampling(draws, task, groups)
        least = 1e-4 if is_counted else 2 / n_resamples
        sentence = _sentence(task, results, differences, test, sides, least)
        comparison = {"differences": differences, "test": test, "sentence": sentence}
    return {"model": None, "baseline": None} | results | {"comparison": comparison}


def _n_independent(scores: Scores, groups: Ids | None) -> int:
    return len(scores.scores) if groups is None else int(groups.max()) + 1


def _draw(
    both: Mapping[str, Scores],
    task: Task,
    names: Sequence[str],
    groups: Ids | None,
    n_resamples: int,
) -> dict[str, dict[str, Floats]]:
    """The same resamplings of each model; {} for too many scores or a single group."""
    scores = both["model"].scores
    if scores.size > MOST_SCORES or _n_independent(both["model"], groups) < 2:
        return {}
    draws = {}
    for who, made in both.items():
        metrics = task_kind(task).resampled(made)
        wanted = {name: metrics[name] for name in names}
        draws[who] = resampled(wanted, len(scores), groups, n_resamples)
    return draws


def _interval(name: str, drawn: Floats, n: int) -> list[float] | None:
    """If every example is right, or wrong, all resamplings are alike: then Wilson's interval of the
    accuracy, and none of other metrics."""
    interval = middle_95(drawn)
    if interval is None or interval[0] < interval[1]:
        return interval
    return wilson_interval(round(interval[0] * n), n) if name == "accuracy" else None


def _difference(
    name: str, results: Mapping[str, Result], draws: Mapping[str, Mapping[str, Floats]]
) -> Result:
    model, baseline = results["model"][name], results["baseline"][name]
    interval = middle_95(draws["model"][name] - draws["baseline"][name]) if draws else None
    difference = None if model is None or baseline is None else model - baseline
    return {"difference": difference, "interval": interval}


def _mcnemar(model: Scores, baseline: Scores) -> Result:
    """McNemar's exact test of independent examples that one of the two has right."""
    from scipy import stats

    ours, theirs = (scores.scores.argmax(axis=1) == scores.targets for scores in (model, baseline))
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    note = f"right where the other is wrong: {gained:,} against {lost:,}"
    return {"name": "McNemar's exact test", "p": p, "note": note}


def _resampling(
    draws: Mapping[str, Mapping[str, Floats]], task: Task, groups: Ids | None
) -> Result:
    """p: twice the share of resamplings on the other side of 0; None if most are undefined."""
    name = primary_metric_name(task)
    drawn = draws["model"][name] - draws["baseline"][name] if draws else np.empty(0)
    known = drawn[np.isfinite(drawn)]
    p = None
    if len(known) >= max(2, len(drawn) / 2):
        aside = min((known <= 0).mean(), (known >= 0).mean())
        p = float(min(1.0, max(2 * aside, 1 / len(known))))
    things = "rows" if groups is None else "groups"
    return {"name": f"resampling of {things}", "p": p, "note": f"{len(drawn):,} resamplings"}


def _sentence(
    task: Task,
    results: Mapping[str, Result],
    differences: Mapping[str, Result],
    test: Result,
    sides: Sides,
    least: float,
) -> str:
    """least: the smallest p that is written as a number."""
    name, n = primary_metric_name(task), results["model"]["n"]
    examples = f"{n:,} {'labelled bases' if task.per_base else 'examples'}"
    title, row, p = NAMES.get(name, name), differences[name], test["p"]
    if row["difference"] is None:
        return f"The {examples} do not define {title}: their labels are all alike."
    values = [shown(name, results[who][name]) for who in ("model", "baseline")]
    sentence = f"{sides.model} {title} is {values[0]}, {sides.baseline} {values[1]}"
    if p is None:
        return f"{sentence} ({examples})."
    evidence = test["note"]
    if row["interval"] is not None:
        low, high = (signed(name, limit) for limit in row["interval"])
        unit = " points" if "accuracy" in name else ""
        evidence = f"95 % interval of the difference {low} to {high}{unit}"
    verdict = "no difference beyond chance"
    if p < 0.05:
        verdict = f"{sides.verdict} {'better' if row['difference'] > 0 else 'worse'}"
    p_text = f"p < {least:g}" if p < least else f"p = {p:.2g}"
    return f"{sentence}: {verdict} ({examples}; {evidence}; {test['name']}: {p_text})."
