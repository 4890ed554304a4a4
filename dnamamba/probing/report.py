"""report.html of a probe: how well embeddings predict a label, beside k-mers, in one file."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dnamamba.baselines.linear_models import STRENGTH_NAMES
from dnamamba.errors import InputError
from dnamamba.files import is_number, read_json
from dnamamba.metrics.evaluation import primary_metric_name
from dnamamba.metrics.names import NAMES, PRIMARY_METRICS, shown, signed
from dnamamba.probing.run import NO_BASELINE
from dnamamba.reports import figures
from dnamamba.reports.page import Card, Row, flat_settings, write_page
from dnamamba.reports.sections import chance_note, limits_note, split_content
from dnamamba.reports.svg import draw, draw_both
from dnamamba.task import Task

_SPLIT = "Held out"
_MOST_CLASSES = 5


def write_probe_report(folder: Path) -> Path:
    """Write `folder`/report.html from probe.json and return its path.

    Raises InputError if probe.json is missing or damaged.
    """
    record = read_json(folder / "probe.json", missing_ok=True)
    if not record:
        raise InputError(f"expected a folder of `dnamamba probe`, {folder} has no probe.json")
    return write_page(folder, "probing.html.j2", _content(record))


def _content(record: Row) -> dict[str, Any]:
    """Variables of templates/probing.html.j2."""
    evaluated, labels = record["judged"], record["labels"]
    model, baseline = evaluated["model"], evaluated["baseline"] or {}
    comparison = evaluated["comparison"]
    title = f"Probe of {record['source'].get('file', 'embeddings')}"
    split = split_content(_SPLIT, model, baseline, record["curves"])
    if _task(record).has_numbers:
        split["labels"] = None
    return {
        "title": title,
        "heading": title,
        "data": f"{labels['label_column']} of {labels['file']}",
        "progress": _done(record),
        "cards": _cards(record),
        "verdict": comparison["sentence"] if comparison else NO_BASELINE,
        "notes": record["notes"],
        "has_baseline": bool(baseline),
        "resampled": evaluated["resampled"],
        "metrics": _metrics(evaluated),
        "layers": _layers(record),
        "split": split,
        "components": _components(record),
        "folds": _folds(record),
        "join": labels["join"],
        "described": [line.split(" ", 1) for line in labels["described"]],
        "settings": flat_settings(_settings(record)),
    }


def _done(record: Row) -> str:
    config, folds = record["settings"], record["folds"]
    n = sum(fold["test"] for fold in folds)
    way = f"{len(folds)} folds of" if len(folds) > 1 else f"fitted to {folds[0]['train']:,} rows,"
    model = config["model"]
    name = "Random forest" if model == "forest" else f"{model.capitalize()} regression"
    details = [f"{name} on {record['chosen']['features']}", f"{way} {n:,} rows held out"]
    if source := record["source"].get("model"):
        details.append(f"model {Path(str(source)).name}")
    return " · ".join(details)


def _cards(record: Row) -> list[Card]:
    model, baseline = record["judged"]["model"], record["judged"]["baseline"]
    name = primary_metric_name(_task(record))
    second = "pearson" if name == "r2" else "auroc"
    cards = [_card(f"{_SPLIT}, {PRIMARY_METRICS[name]}", name, model, f"{model['n']:,} rows")]
    if is_number(model[second]):
        cards.append(_card(f"{_SPLIT}, {NAMES[second].removeprefix('mean ')}", second, model))
    if baseline:
        cards.append(_card(f"k-mer baseline, {PRIMARY_METRICS[name]}", name, baseline))
    return [*cards, ("Chance", shown(name, model["chance"]), chance_note(model))]


def _card(title: str, name: str, result: Row, n: str = "") -> Card:
    return title, shown(name, result[name]), limits_note(name, result["intervals"].get(name), n)


def _metrics(evaluated: Row) -> Row:
    model, baseline, comparison = (evaluated[key] for key in ("model", "baseline", "comparison"))
    head = ["", "embeddings", "95 %"]
    head += ["k-mer baseline", "95 %", "difference", "95 %"] if baseline else []
    lines = []
    for name in model["intervals"]:
        line = [NAMES[name], *_value(name, model)]
        if baseline:
            row = comparison["differences"][name]
            line += [*_value(name, baseline), _signed(name, row["difference"])]
            line.append(_range(name, row["interval"], _signed))
        lines.append(line)
    return {"head": head, "lines": lines}


def _value(name: str, result: Row) -> list[str]:
    return [shown(name, result[name]), _range(name, result["intervals"].get(name), shown)]


def _range(name: str, limits: Sequence[float] | None, show: Callable[..., str]) -> str:
    return " to ".join(show(name, limit) for limit in limits) if limits else "-"


def _signed(name: str, value: float | None) -> str:
    return "-" if value is None else signed(name, value)


def _layers(record: Row) -> Row | None:
    rows = record["layers"]
    if len(rows) < 2:
        return None
    name = primary_metric_name(_task(record))
    columns = {
        "": lambda row: row["name"],
        "validation loss": lambda row: f"{row['validation_loss']:.4f}",
        "by validation": lambda row: "best" if row["is_best"] else "",
        "folds that took it": lambda row: f"{row['chosen_in']} of {len(record['folds'])}",
        f"held out, {PRIMARY_METRICS[name]}": lambda row: shown(name, row["headline"]),
    }
    drawn = draw_both("Validation loss of each layer", figures.probe_layers, rows)
    return {"figures": drawn, **_table(rows, columns)}


def _task(record: Row) -> Task:
    return Task(kind=record["task"]["kind"], labels=tuple(record["task"]["labels"]))


def _components(record: Row) -> Row | None:
    found = record["components"]
    explained, points = found["explained"], found["points"]
    if len(explained) < 2:
        return None
    groups, names, colours = _groups(record)
    titles = [f"PC{i + 1}, {share:.1%} of the variance" for i, share in enumerate(explained)]
    size = (400, 360 + 18 * ((len(names) + 1) // 2))
    panels = []
    for i in range(0, min(4, len(explained) - 1), 2):
        data = [point[i : i + 2] for point in points], groups, names
        axes = (titles[i], titles[i + 1])
        title = f"PC{i + 2} over PC{i + 1}"
        options: Any = {"colours": colours, "axis_labels": axes, "size": size}
        panels.append(("", draw(title, figures.scatter, *data, **options)))
    is_part = len(points) < found["n"]
    rows = f"{len(points):,} of {found['n']:,} rows" if is_part else "All rows"
    return {"rows": rows, "figures": panels}


def _groups(record: Row) -> tuple[list[int], list[str], list[str]]:
    """Return the group of each dot, and the groups' names and colours."""
    task, targets = _task(record), record["components"]["targets"]
    if not task.has_classes:
        edges = np.unique(np.percentile(targets, [0, 20, 40, 60, 80, 100]))
        fifths = np.clip(np.searchsorted(edges, targets, "right") - 1, 0, len(edges) - 2)
        names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        return fifths.tolist(), names, list(figures.TONES)
    largest = sorted(i for i, _ in Counter(sorted(targets)).most_common(_MOST_CLASSES))
    names = [task.labels[i] for i in largest]
    colours = list(figures.CLASSES[: len(largest)])
    if n_others := len(set(targets)) - len(largest):
        names.append(f"{n_others} smaller classes")
        colours.append(figures.CLASSES[-1])
    group = {target: i for i, target in enumerate(largest)}
    return [group.get(target, len(largest)) for target in targets], names, colours


def _folds(record: Row) -> Row:
    rows = record["folds"]
    name = primary_metric_name(_task(record))
    strength = STRENGTH_NAMES.get(record["settings"]["model"], "C")
    columns: dict[str, Callable[[Row], str]] = {
        "fold": lambda row: row["fold"],
        "fitted to": lambda row: f"{row['train']:,}",
        "held out": lambda row: f"{row['test']:,}",
        "groups": lambda row: f"{row['groups']:,}",
        PRIMARY_METRICS[name]: lambda row: shown(name, row["model"]["headline"]),
        "features": lambda row: row["model"]["features"],
        strength: lambda row: f"{row['model']['strength']:g}",
        "k-mer baseline": lambda row: shown(name, row["baseline"]["headline"]),
        "words": lambda row: row["baseline"]["features"],
    }
    missing = [] if "groups" in rows[0] else ["groups"]
    missing += [] if "baseline" in rows[0] else ["k-mer baseline", "words"]
    return _table(rows, {title: cell for title, cell in columns.items() if title not in missing})


def _table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> dict[str, Any]:
    """columns: title -> the cell of a row."""
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    return {"head": list(columns), "lines": lines}


def _settings(record: Row) -> Row:
    strengths = {key: value for key, value in record["chosen"].items() if key != "features"}
    columns = ("label_column", "group_column", "split_column")
    return {
        "embeddings": record["source"],
        "labels": {name: record["labels"][name] for name in columns if record["labels"][name]},
        "probe": {key: value for key, value in record["settings"].items() if value is not None},
        "kept": {"features": record["chosen"]["features"], **strengths},
    }
