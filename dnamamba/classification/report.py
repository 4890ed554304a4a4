"""report.html of a classifier's run: its metrics beside baseline and chance, in one file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnamamba.files import is_number
from dnamamba.metrics.names import NAMES, PRIMARY_METRICS, shown
from dnamamba.reports import figures
from dnamamba.reports.page import Card, Row, Run, in_words, points_of, write_run_report
from dnamamba.reports.sections import chance_note, limits_note, split_content
from dnamamba.reports.svg import draw_both

_LOSSES = {
    "accuracy": "nats",
    "auprc": "nats a label",
    "r2": "squared error of standardised numbers",
}
_SPLITS = {"test": "Test", "valid": "Validation"}


def write_label_report(run_folder: Path, *, is_running: bool = False) -> Path:
    """Write `run_folder`/report.html and return its path; see write_run_report."""
    template = "classification.html.j2"
    return write_run_report(run_folder, template, _content, drawn="loss", is_running=is_running)


def _content(run: Run) -> dict[str, Any]:
    """Variables of templates/classification.html.j2."""
    seen = next((row["examples"] for row in reversed(run.train) if "examples" in row), 0)
    found = run.evaluation.get("splits", {})
    splits = {name: found[name] for name in (*_SPLITS, *found) if name in found}
    validated = run.baseline.get("valid") or splits.get("valid", {}).get("baseline")
    baseline = validated if isinstance(validated, Mapping) else {}
    name = _primary_metric(*(split["model"] for split in splits.values()), baseline, *run.valid)
    cards, verdict = (
        _evaluated_cards(splits, name) if splits else _running_cards(run, name, baseline)
    )
    return run.content(in_words(seen, "examples"), ["examples_per_s", "tokens_per_s"]) | {
        "cards": cards,
        "verdict": verdict,
        "overview": _overview(splits),
        "baseline_description": run.baseline.get("description"),
        "split": _drawn_split(run, splits),
        "training": _training(run, name, baseline),
    }


def _primary_metric(*rows: Row) -> str:
    """Name of the model-selection metric."""
    for row in rows:
        for name in PRIMARY_METRICS:
            if name in row and (name != "auprc" or "accuracy" not in row):
                return name
    return "accuracy"


def _drawn_split(run: Run, splits: Mapping[str, Row]) -> Row | None:
    """Figures of one split: test if there is one."""
    if not splits:
        return None
    split, evaluated = next(iter(splits.items()))
    curves = run.evaluation.get("curves", {}).get(split, {})
    baseline = evaluated.get("baseline") or {}
    return split_content(_SPLITS.get(split, split), evaluated["model"], baseline, curves)


def _card(title: str, name: str, result: Row) -> Card:
    things = "labelled bases" if result.get("kind") == "per_base" else "examples"
    note = limits_note(name, result.get(f"{name}_interval"), f"{result['n']:,} {things}")
    return title, shown(name, result[name]), note


def _evaluated_cards(splits: Mapping[str, Row], name: str) -> tuple[list[Card], str]:
    cards = [
        _card(f"{_SPLITS.get(split, split)}, {PRIMARY_METRICS[name]}", name, evaluated["model"])
        for split, evaluated in splits.items()
    ]
    first, evaluated = next(iter(splits.items()))
    split, model = _SPLITS.get(first, first).lower(), evaluated["model"]
    if evaluated.get("baseline"):
        cards.append(_card(f"k-mer baseline, {split}", name, evaluated["baseline"]))
    cards.append((f"Chance, {split}", shown(name, model["chance"]), chance_note(model)))
    verdict = evaluated.get("comparison") or ""
    if first == "valid":
        verdict += " There is no test split: the model was chosen by these numbers."
    return cards, verdict.strip()


def _running_cards(run: Run, name: str, baseline: Row) -> tuple[list[Card], str]:
    cards, verdict = [], "No validation yet."
    rows = [row for row in run.valid if is_number(row.get(name))]
    if rows:
        last, best = rows[-1], max(rows, key=lambda row: row[name])
        title = f"Validation, {PRIMARY_METRICS[name]}"
        cards.append((title, shown(name, last[name]), f"step {last['step']:,}"))
        verdict = f"Best so far: {shown(name, best[name])} at step {best['step']:,}."
    if baseline:
        cards.append(_card("k-mer baseline", name, baseline))
        cards.append(("Chance", shown(name, baseline["chance"]), chance_note(baseline)))
    return cards, verdict


def _overview(splits: Mapping[str, Row]) -> Row | None:
    """Metrics of model and baseline on each split."""
    columns = {
        f"{_SPLITS.get(split, split)}, {title}": evaluated[who]
        for split, evaluated in splits.items()
        for who, title in (("model", "model"), ("baseline", "k-mer baseline"))
        if evaluated.get(who)
    }
    lines = [
        [title, *(shown(name, column.get(name)) for column in columns.values())]
        for name, title in NAMES.items()
        if any(is_number(column.get(name)) for column in columns.values())
    ]
    return {"head": ["", *columns], "lines": lines} if splits else None


def _training(run: Run, name: str, baseline: Row) -> list[tuple[str, list[Any]]]:
    """Titles and figures of the loss and the primary metric."""
    scale, metric = (100.0, "accuracy, %") if name == "accuracy" else (1.0, PRIMARY_METRICS[name])
    levels = {
        title: scale * baseline[key]
        for title, key in (("k-mer baseline", name), ("chance", "chance"))
        if is_number(baseline.get(key))
    }
    loss = points_of(run.train, "loss"), points_of(run.valid, "loss")
    scores: Any = ([], points_of(run.valid, name, scale))
    return [
        (title, draw_both(title, figures.learning_curve, *data, y_label=unit, baselines=lines))
        for title, data, unit, lines in (
            (f"Loss, {_LOSSES[name]}", loss, _LOSSES[name], {}),
            (f"Validation, {metric}", scores, metric, levels),
        )
        if any(data)
    ]
