"""evaluation.json: what a trained model was judged to be, and the points its report draws."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.metrics.metrics import Scores, compare, evaluate
from dnamamba.task import Task

FORMAT_VERSION = 1
MOST_CURVES = 6
_MOST_POINTS = 100
_MOST_DOTS = 500


def evaluation_record(
    task: Task, splits: Mapping[str, tuple[Scores, Scores | None]]
) -> dict[str, Any]:
    """What a run keeps as evaluation.json.

    splits: of each split's name ("valid", "test") the model's scores and those of the baseline on
    the same examples, if there is one.
    """
    evaluated: dict[str, Any] = {}
    for split, (model, baseline) in splits.items():
        evaluated[split] = {"model": evaluate(model, task), "baseline": None, "comparison": None}
        if baseline is not None:
            evaluated[split]["baseline"] = evaluate(baseline, task)
            evaluated[split]["comparison"] = compare(model, baseline, task)
    return {
        "format_version": FORMAT_VERSION,
        "task": {"kind": task.kind, "labels": list(task.labels)},
        "splits": evaluated,
        "curves": {
            split: curves(model, task, baseline) for split, (model, baseline) in splits.items()
        },
    }


def curves(model: Scores, task: Task, baseline: Scores | None = None) -> dict[str, Any]:
    """Points to draw, few enough for a page.

    Of classes and labels `roc` (false and true positive rate) and `pr` (recall, precision): one
    curve a label against the rest, of the six with the lowest AUROC where there are more; of two
    classes that of the second, and the baseline's beside it. Of numbers `dots` (true, predicted),
    one list a label, of 500 examples in equal distances.
    """
    if task.kind == "regression":
        return {"dots": _dots(model, task)}
    if task.has_classes and len(task.labels) == 2:
        sources = [("model", model, 1)]
        sources += [("baseline", baseline, 1)] if baseline is not None else []
        return _curves_of(sources, task)
    return _curves_of([(label, model, i) for i, label in enumerate(task.labels)], task)


def _curves_of(sources: list[tuple[str, Scores, int]], task: Task) -> dict[str, Any]:
    from sklearn import metrics

    roc: list[dict[str, Any]] = []
    pr: list[dict[str, Any]] = []
    for name, scores, i in sources:
        is_it = scores.targets == i if task.has_classes else scores.targets[:, i] > 0.5
        found = scores.scores[:, i]
        if is_it.all() or not is_it.any():
            continue
        false, true, _ = metrics.roc_curve(is_it, found)
        precision, recall, _ = metrics.precision_recall_curve(is_it, found, drop_intermediate=True)
        reached = recall > 0  # before the first hit there is nothing to be precise about
        auroc = float(metrics.auc(false, true))
        auprc = float(metrics.average_precision_score(is_it, found))
        share = float(is_it.mean())
        roc.append({"name": name, "area": auroc, "points": _thinned(false, true)})
        pr.append(
            {
                "name": name,
                "area": auprc,
                "share": share,
                "points": _thinned(recall[reached][::-1], precision[reached][::-1]),
            }
        )
    order = sorted(range(len(roc)), key=lambda n: roc[n]["area"])[:MOST_CURVES]
    shown = sorted(order)
    return {
        "roc": [roc[n] for n in shown],
        "pr": [pr[n] for n in shown],
        "n_left_out": len(roc) - len(shown),
    }


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> list[list[float]]:
    """Points of a curve about equally far apart along it, both ends among them."""
    along = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    wanted = np.linspace(0, along[-1], _MOST_POINTS)
    kept = np.unique(np.append(np.searchsorted(along, wanted).clip(0, len(x) - 1), len(x) - 1))
    return [[round(float(a), 4), round(float(b), 4)] for a, b in zip(x[kept], y[kept], strict=True)]


def _dots(scores: Scores, task: Task) -> list[dict[str, Any]]:
    n = len(scores.scores)
    kept = np.unique(np.linspace(0, n - 1, min(n, _MOST_DOTS)).astype(int))
    return [
        {
            "name": label,
            "points": [
                [float(scores.targets[row, i]), float(scores.scores[row, i])] for row in kept
            ],
        }
        for i, label in enumerate(task.labels)
    ]
