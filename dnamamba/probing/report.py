"""report.html of a probe: what embeddings tell of a label, beside words of a few bases.

One file with everything inline, made from probe.json alone.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dnamamba.baselines.linear_models import STRENGTH_NAMES
from dnamamba.errors import InputError
from dnamamba.files import is_number, read_json
from dnamamba.metrics.metrics import primary_metric_name
from dnamamba.metrics.names import HEADLINES, NAMES, shown
from dnamamba.probing.evaluation import METRICS, signed
from dnamamba.probing.run import NO_BASELINE
from dnamamba.reports.figures import escape, figure, key, scatter_chart
from dnamamba.reports.page import Row, cards, header, replace_page, settings, whole_page
from dnamamba.reports.sections import (
    calibration,
    confusion,
    curve_figures,
    dots,
    label_table,
    table,
)
from dnamamba.task import Task

_SPLIT = "Held out"
_COLOURS = 5
_MODELS = {
    "logistic": "logistic regression",
    "ridge": "ridge regression",
    "forest": "random forest",
}


def write_probe_report(folder: Path) -> Path:
    """Write `folder`/report.html, replacing an older one, and return its path.

    Raises InputError where the folder has no probe.json, or a damaged one.
    """
    record = read_json(folder / "probe.json")
    if not record:
        raise InputError(f"expected a folder of `dnamamba probe`, {folder} has no probe.json")
    return replace_page(folder, _page(record))


def _page(record: Row) -> str:
    evaluated, source = record["judged"], record["source"]
    model, baseline = evaluated["model"], evaluated["baseline"] or {}
    labels = record["labels"]
    title = f"Probe of {source.get('file', 'embeddings')}"
    data = f"{labels['label_column']} of {labels['file']}"
    parts = [
        header(title, data, _done(record)),
        _headline(record),
        _metrics(evaluated),
        _layers(record),
        confusion(model, _SPLIT),
        label_table(model, _SPLIT) if model["kind"] != "regression" else "",
        curve_figures(record["curves"], _SPLIT),
        calibration(model, baseline, _SPLIT),
        dots(record["curves"], _SPLIT),
        _components(record),
        _folds(record),
        _rows(record),
        settings("Settings", _settings(record), ""),
    ]
    return whole_page(title, parts)


def _done(record: Row) -> str:
    config, folds = record["settings"], record["folds"]
    n = sum(fold["test"] for fold in folds)
    way = f"{len(folds)} folds of" if len(folds) > 1 else f"fitted to {folds[0]['train']:,} rows,"
    details = [
        f"{_MODELS[config['model']].capitalize()} on {record['chosen']['features']}",
        f"{way} {n:,} rows held out",
    ]
    model = record["source"].get("model")
    return " · ".join([*details, *([f"model {Path(str(model)).name}"] if model else [])])


# --- how good


def _headline(record: Row) -> str:
    evaluated = record["judged"]
    model, baseline, comparison = (evaluated[key] for key in ("model", "baseline", "comparison"))
    name = primary_metric_name(Task(kind=model["kind"], labels=tuple(record["task"]["labels"])))
    boxes = [(f"{_SPLIT}, {HEADLINES[name]}", shown(name, model[name]), _note(name, model, "rows"))]
    second = "pearson" if name == "r2" else "auroc"
    if is_number(model[second]):
        title = f"{_SPLIT}, {NAMES[second].removeprefix('mean ')}"
        boxes.append((title, shown(second, model[second]), _note(second, model)))
    if baseline:
        title = f"k-mer baseline, {HEADLINES[name]}"
        boxes.append((title, shown(name, baseline[name]), _note(name, baseline)))
    boxes.append(("Chance", shown(name, model["chance"]), _chance_note(model)))
    verdict = comparison["sentence"] if comparison else NO_BASELINE
    notes = "".join(f'<p class="quiet">{escape(note)}</p>' for note in record["notes"])
    return f'{cards(boxes)}<p class="verdict">{escape(verdict)}</p>{notes}'


def _note(name: str, result: Row, things: str = "") -> str:
    n = f"{result['n']:,} {things}" if things else ""
    interval = result["intervals"].get(name)
    if not interval:
        return n
    return ", ".join(
        filter(None, [f"95 %: {shown(name, interval[0])} to {shown(name, interval[1])}", n])
    )


def _chance_note(result: Row) -> str:
    if result["kind"] == "regression":
        return "saying the mean of all"
    largest = max(result["labels"], key=lambda row: row["support"])
    return f"always saying {largest['label']}, the largest class"


def _metrics(evaluated: Row) -> str:
    model, baseline, comparison = (evaluated[key] for key in ("model", "baseline", "comparison"))
    head = ["", "embeddings", "95 %"]
    head += ["k-mer baseline", "95 %", "difference", "95 %"] if baseline else []
    lines = []
    for name in METRICS[model["kind"]]:
        line = [NAMES[name], *_value(name, model)]
        if baseline:
            row = comparison["differences"][name]
            line += [*_value(name, baseline), _signed(name, row["difference"])]
            line.append(_range(name, row["interval"], _signed))
        lines.append(line)
    about = (
        f"Intervals are those of {evaluated['resampled']}, drawn again 1,000 times"
        f"{'; for the difference (of accuracies in points) both alike' if baseline else ''}."
    )
    return f"<h2>Embeddings{' and baseline' if baseline else ''}</h2><p>{escape(about)}</p>" + (
        table(head, lines, "numbers labels")
    )


def _value(name: str, result: Row) -> list[str]:
    return [shown(name, result[name]), _range(name, result["intervals"].get(name), shown)]


def _range(name: str, limits: Sequence[float] | None, show: object) -> str:
    assert callable(show)
    return " to ".join(show(name, limit) for limit in limits) if limits else "-"


def _signed(name: str, value: float | None) -> str:
    return "-" if value is None else signed(name, value)


def _layers(record: Row) -> str:
    rows = record["layers"]
    if len(rows) < 2:
        return ""
    name = HEADLINES[primary_metric_name(_task(record))]
    n_folds = len(record["folds"])
    lines = [
        [
            row["name"],
            f"{row['validation_loss']:.4f}",
            "best" if row["is_best"] else "",
            f"{row['chosen_in']} of {n_folds}",
            shown(primary_metric_name(_task(record)), row["headline"]),
        ]
        for row in rows
    ]
    about = (
        "Each fold takes the layer of least loss on validation, inside its training rows; what is "
        "judged above is what the folds took. The last column is shown, not chosen by."
    )
    head = ["", "validation loss", "by validation", "folds that took it", f"held out, {name}"]
    return f"<h2>Layers</h2><p>{about}</p>" + table(head, lines, "numbers labels")


def _task(record: Row) -> Task:
    return Task(kind=record["task"]["kind"], labels=tuple(record["task"]["labels"]))


# --- what embeddings look like


def _components(record: Row) -> str:
    found = record["components"]
    explained, points = found["explained"], found["points"]
    if len(explained) < 2:
        return ""
    styles, legend = _colours(record)
    titles = [f"PC{i + 1}, {share:.1%} of the variance" for i, share in enumerate(explained)]
    panels = []
    for first in (0, 2):
        if len(explained) >= first + 2:
            pairs = [point[first : first + 2] for point in points]
            drawn = scatter_chart(pairs, styles, titles[first], titles[first + 1])
            panels.append(figure("", drawn))
    some = f"{len(points):,} of {found['n']:,} rows" if len(points) < found["n"] else "All rows"
    return (
        f"<h2>Principal components of the embeddings</h2><p>{some}, coloured by label, which the "
        f'components know nothing of.</p><div class="keys">{key(legend)}</div>'
        f'<div class="pair">{"".join(panels)}</div>'
    )


def _colours(record: Row) -> tuple[list[str], list[tuple[str, str]]]:
    """The style of each dot, and the legend."""
    task, targets = _task(record), record["components"]["targets"]
    if not task.has_classes:
        edges = np.unique(np.percentile(targets, [0, 20, 40, 60, 80, 100]))
        fifths = np.clip(np.searchsorted(edges, targets, "right") - 1, 0, len(edges) - 2)
        legend = [
            (f"tone tone{i}", f"{low:.3g} to {high:.3g}")
            for i, (low, high) in enumerate(pairwise(edges))
        ]
        return [f"tone tone{i}" for i in fifths.tolist()], legend
    largest = [i for i, _ in Counter(sorted(targets)).most_common(_COLOURS)]
    colour = {target: f"point{place}" for place, target in enumerate(sorted(largest))}
    legend = [(colour[i], task.labels[i]) for i in sorted(largest)]
    if n_others := len(set(targets)) - len(largest):
        legend.append(("point5", f"{n_others} smaller classes"))
    return [colour.get(target, "point5") for target in targets], legend


# --- what was done


def _folds(record: Row) -> str:
    rows = record["folds"]
    name = primary_metric_name(_task(record))
    has_groups, has_baseline = "groups" in rows[0], "baseline" in rows[0]
    head = ["fold", "fitted to", "held out", *(["groups"] if has_groups else [])]
    head += [HEADLINES[name], "features", STRENGTH_NAMES[record["settings"]["model"]]]
    head += ["k-mer baseline", "words"] if has_baseline else []
    lines = []
    for row in rows:
        line = [row["fold"], f"{row['train']:,}", f"{row['test']:,}"]
        line += [f"{row['groups']:,}"] if has_groups else []
        model = row["model"]
        line += [shown(name, model["headline"]), model["features"], f"{model['strength']:g}"]
        if has_baseline:
            line += [shown(name, row["baseline"]["headline"]), row["baseline"]["features"]]
        lines.append(line)
    about = (
        "Features and the penalty (of a forest the size of its leaves) are chosen inside the rows "
        "that are fitted to; those held out are judged once."
    )
    return f"<h2>Folds</h2><p>{about}</p>" + table(head, lines, "numbers labels")


def _rows(record: Row) -> str:
    labels = record["labels"]
    lines = [line.split(" ", 1) for line in labels["described"]]
    return f"<h2>Rows and labels</h2><p>Joined by {escape(labels['join'])}.</p>" + table(
        ["rows", "what became of them"], lines, "labels"
    )


def _settings(record: Row) -> Row:
    strengths = {key: value for key, value in record["chosen"].items() if key != "features"}
    columns = ("label_column", "group_column", "split_column")
    return {
        "embeddings": record["source"],
        "labels": {name: record["labels"][name] for name in columns if record["labels"][name]},
        "probe": {key: value for key, value in record["settings"].items() if value is not None},
        "kept": {"features": record["chosen"]["features"], **strengths},
    }
