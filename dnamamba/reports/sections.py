"""What the report of labels says of one split: tables and figures, as HTML."""

from collections.abc import Sequence

from dnamamba.metrics.names import shown
from dnamamba.reports.figures import (
    MOST_CLASSES_DRAWN,
    confusion_chart,
    curve_chart,
    dots_chart,
    escape,
    figure,
    key,
    length_chart,
    reliability_chart,
)
from dnamamba.reports.page import Row

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
_MOST_PAIRS = 12


def table(head: Sequence[str], lines: Sequence[Sequence[str]], style: str = "numbers") -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    body = "".join(
        f"<tr><th>{escape(line[0])}</th>{''.join(f'<td>{escape(v)}</td>' for v in line[1:])}</tr>"
        for line in lines
    )
    return (
        f'<div class="scroll"><table class="{style}"><thead><tr>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def label_table(result: Row, split: str) -> str:
    rows = result["labels"]
    names = [name for name in _COLUMNS if name in rows[0]]
    lines = []
    for row in rows:
        counts = {name: f"{row[name]:,}" for name in ("support", "predicted") if name in row}
        cells = [counts.get(name) or shown(name, row[name]) for name in names]
        lines.append([row["label"], *cells])
    return f"<h2>{split}, by label</h2>" + table(
        ["label", *(_COLUMNS[name] for name in names)], lines, "numbers labels"
    )


def confusion(result: Row, split: str) -> str:
    matrix = result.get("confusion")
    if not matrix:
        return ""
    labels = [row["label"] for row in result["labels"]]
    drawn = ""
    if len(labels) <= MOST_CLASSES_DRAWN:
        drawn = "<p>In percent of the examples of a row's class.</p><figure>" + (
            f"{confusion_chart(labels, matrix)}</figure>"
        )
    if len(labels) > 8:
        drawn += _most_confused(labels, matrix)
    return f"<h2>{split}, what is taken for what</h2>{drawn}"


def _most_confused(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    pairs = [
        (count, right, told)
        for right, row in enumerate(matrix)
        for told, count in enumerate(row)
        if right != told and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    lines = [
        [labels[right], labels[told], f"{count:,}", f"{count / sum(matrix[right]):.1%}"]
        for count, right, told in pairs[:_MOST_PAIRS]
    ]
    if not lines:
        return "<p>Nothing was taken for something else.</p>"
    return table(["true", "predicted", "examples", "of its class"], lines, "numbers labels pairs")


def curve_figures(curves: Row, split: str) -> str:
    if not curves.get("roc"):
        return ""
    charts = {
        "ROC, with the area under it": (
            curves["roc"],
            curve_chart(curves["roc"], "false positive rate", "true positive rate", diagonal=True),
        ),
        "Precision and recall, with the average precision": (
            curves["pr"],
            curve_chart(curves["pr"], "recall", "precision", diagonal=False),
        ),
    }
    figures = []
    for title, (drawn, chart) in charts.items():
        names = [(f"series{n}", f"{one['name']} {one['area']:.3f}") for n, one in enumerate(drawn)]
        figures.append(figure(title, chart, key(names)))
    n, left_out = len(curves["roc"]), curves.get("n_left_out", 0)
    about = f"<p>The {n} labels of {n + left_out} with the lowest AUROC.</p>" if left_out else ""
    return (
        f"<h2>{split}, each label against the rest</h2>{about}"
        f'<div class="pair">{"".join(figures)}</div>'
    )


def calibration(result: Row, baseline: Row, split: str) -> str:
    parts = []
    if result.get("reliability"):
        parts.append(
            f"<h2>{split}, how far probabilities can be trusted</h2><p>Dots on the diagonal are "
            f"right as often as they say; expected calibration error {result['ece']:.3f}. Bars: "
            "how many examples are predicted with such confidence.</p>"
            f'<div class="pair">{figure("", reliability_chart(result["reliability"]))}</div>'
        )
    if result.get("by_length"):
        rows, others = result["by_length"], baseline.get("by_length") or []
        names = [("series0", "model")] + ([("series1", "k-mer baseline")] if others else [])
        parts.append(
            f"<h2>{split}, accuracy by length</h2>"
            f"{figure('', length_chart(rows, others, result['chance']), key(names))}"
        )
    return "".join(parts)


def dots(curves: Row, split: str) -> str:
    dots = [one for one in curves.get("dots", []) if one["points"]][:6]
    if not dots:
        return ""
    charts = "".join(
        figure(escape(one["name"]), dots_chart(one["points"], one["name"])) for one in dots
    )
    return f'<h2>{split}, predicted and true numbers</h2><div class="pair">{charts}</div>'
