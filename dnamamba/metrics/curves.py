"""Points of the curves that a report draws: ROC, precision and recall, predicted and true."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.metrics.bootstrap import auprc, auroc, of_all
from dnamamba.metrics.metrics import Scores
from dnamamba.task import Task

MOST_CURVES = 6
_MOST_POINTS = 100
_MOST_DOTS = 500


def curves(model: Scores, task: Task, baseline: Scores | None = None) -> dict[str, Any]:
    """Points to draw, few enough for a page.

    Numbers: `dots`, (true, predicted) of 500 examples at equal distances, one list a label.
    Other tasks: `roc` (false and true positive rate) and `pr` (recall, precision), one curve a
    label against the rest, of the six with the lowest AUROC if there are more; of two classes that
    of the second, beside the baseline's.
    """
    if task.has_numbers:
        return {"dots": _dots(model, task)}
    sources = [(label, model, i) for i, label in enumerate(task.labels)]
    if task.has_classes and len(task.labels) == 2:
        sources = [("model", model, 1)]
        sources += [("baseline", baseline, 1)] if baseline is not None else []
    found = [_curve(name, scores, i, task) for name, scores, i in sources]
    pairs = [pair for pair in found if pair is not None]
    lowest = sorted(range(len(pairs)), key=lambda n: pairs[n][0]["area"])[:MOST_CURVES]
    roc, pr = ([pairs[n][side] for n in sorted(lowest)] for side in (0, 1))
    return {"roc": roc, "pr": pr, "n_left_out": len(pairs) - len(lowest)}


def _curve(
    name: str, scores: Scores, i: int, task: Task
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(ROC, precision and recall) of label i; None if all examples have it, or none."""
    from sklearn import metrics

    is_it = scores.targets == i if task.has_classes else scores.targets[:, i] > 0.5
    found = scores.scores[:, i]
    areas = [of_all(metric, found, is_it) for metric in (auroc, auprc)]
    if areas[0] is None:
        return None
    false, true, _ = metrics.roc_curve(is_it, found)
    precision, recall, _ = metrics.precision_recall_curve(is_it, found, drop_intermediate=True)
    reached = recall > 0  # no precision before the first hit
    points = _thinned(recall[reached][::-1], precision[reached][::-1])
    return (
        {"name": name, "area": areas[0], "points": _thinned(false, true)},
        {"name": name, "area": areas[1], "share": float(is_it.mean()), "points": points},
    )


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> list[list[float]]:
    """Points of a curve about equally far apart along it, both ends among them."""
    along = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    wanted = np.linspace(0, along[-1], _MOST_POINTS)
    kept = np.unique(np.append(np.searchsorted(along, wanted).clip(0, len(x) - 1), len(x) - 1))
    return [[round(float(a), 4), round(float(b), 4)] for a, b in zip(x[kept], y[kept], strict=True)]


def _dots(scores: Scores, task: Task) -> list[dict[str, Any]]:
    n = len(scores.scores)
    kept = np.unique(np.linspace(0, n - 1, min(n, _MOST_DOTS)).astype(int))
    pairs = np.stack([scores.targets[kept], scores.scores[kept]], axis=2).astype(float)
    return [{"name": label, "points": pairs[:, i].tolist()} for i, label in enumerate(task.labels)]
