"""Sections of reports on a labelled task: metrics with intervals, and figures of one split."""

from collections.abc import Mapping, Sequence
from typing import Any

from dnamamba.metrics.names import shown
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.reports import figures
from dnamamba.reports.page import Row
from dnamamba.reports.svg import draw, draw_both

_COLUMNS = {
    "support": "examples",
    "predicted": "predicted",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "r2": "R²",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "mean abs. error",
    "rmse": "RMSE",
}
_MOST_PAIRS, _MOST_NUMBERS = 12, 6


def split_content(name: str, result: Row, baseline: Row, curves: Row) -> dict[str, Any]:
    """Return the variables of templates/split.html.j2.

    name: of the split. result, baseline: metrics of the model, and of the baseline or {}.
    """
    bins, lengths = result.get("reliability"), result.get("by_length")
    others, chance = baseline.get("by_length") or [], result["chance"]
    by_length, over_true = figures.accuracy_by_length, figures.predicted_over_true
    dots = [(row["name"], row["points"]) for row in curves.get("dots", []) if row["points"]]
    return {
        "name": name,
        "ece": result.get("ece"),
        "labels": _label_table(result["labels"]),
        **_confusion(result),
        **_curves(curves),
        "reliability": draw("Reliability", figures.reliability, bins) if bins else "",
        "by_length": draw_both("Accuracy by length", by_length, lengths, others, chance=chance)
        if lengths
        else [],
        "dots": [
            (name, draw(f"Predicted and true {name}", over_true, points, name=name))
            for name, points in dots[:_MOST_NUMBERS]
        ],
    }


def _label_table(rows: Sequence[Row]) -> Row:
    columns = {name: title for name, title in _COLUMNS.items() if name in rows[0]}

    def cell(name: str, value: Any) -> str:
        return f"{value:,}" if name in ("support", "predicted") else shown(name, value)

    lines = [[row["label"], *(cell(name, row[name]) for name in columns)] for row in rows]
    return {"head": ["label", *columns.values()], "lines": lines}


def _confusion(result: Row) -> dict[str, Any]:
    """The matrix, and for many classes a table of the pairs most often confused."""
    matrix, labels = result.get("confusion"), [row["label"] for row in result["labels"]]
    if not matrix:
        return {"confusion": None, "pairs": None, "width": 0}
    size = figures.confusion_size(labels)
    pairs = [
        (count, i, j)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    lines = [
        [labels[i], labels[j], f"{count:,}", f"{count / sum(matrix[i]):.1%}"]
        for count, i, j in sorted(pairs, key=lambda pair: -pair[0])[:_MOST_PAIRS]
    ]
    drawn: Any = ""
    if len(labels) <= figures.MOST_CLASSES_DRAWN:
        drawn = draw("Confusion matrix", figures.confusion_matrix, labels, matrix, size=size)
    return {"confusion": drawn, "width": size[0], "pairs": lines if len(labels) > 8 else None}


def _curves(curves: Row) -> dict[str, Any]:
    roc, pr = curves.get("roc", []), curves.get("pr", [])
    size = (400, 370 + 12 * len(roc))
    titled = (
        ("ROC, with the area under it", figures.roc_curves, roc),
        ("Precision and recall, with the average precision", figures.precision_recall_curves, pr),
    )
    return {
        "n_drawn": len(roc),
        "n_left_out": curves.get("n_left_out", 0),
        "curves": [(title, draw(title, f, rows, size=size)) for title, f, rows in titled if rows],
    }


def limits_note(name: str, interval: Sequence[float] | None, n: str = "") -> str:
    """Format as `95 %: 0.71 to 0.79, 200 examples`. n: `200 examples`."""
    limits = [f"95 %: {shown(name, interval[0])} to {shown(name, interval[1])}"] if interval else []
    return ", ".join(filter(None, [*limits, n]))


def chance_note(result: Mapping[str, Any]) -> str:
    """How the chance of a result is reached."""
    return task_kind(result["kind"]).chance(result)
