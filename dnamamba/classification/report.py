"""report.html of a run that learned labels: how good it is, beside its baseline and chance.

One file with everything inline, made from the run folder's own files, each of which may be
missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dnamamba.errors import InputError
from dnamamba.files import is_number, read_json
from dnamamba.metrics.names import HEADLINES, NAMES, shown
from dnamamba.reports.figures import Frame, Point, escape, figure, key, steps_chart, training_lines
from dnamamba.reports.page import (
    Row,
    cards,
    data_name,
    duration,
    elapsed_s,
    header,
    in_words,
    model_name,
    progress_line,
    replace_page,
    settings,
    small_figures,
    whole_page,
)
from dnamamba.reports.sections import (
    calibration,
    confusion,
    curve_figures,
    dots,
    label_table,
    table,
)
from dnamamba.training.metrics_log import MetricsFile

_LOSSES = {
    "accuracy": "nats",
    "auprc": "nats a label",
    "r2": "squared error of standardised numbers",
}
_SPLITS = {"test": "Test", "valid": "Validation"}


def write_label_report(run_folder: Path) -> Path:
    """Write `run_folder`/report.html, replacing an older one, and return its path.

    Reads config.json, manifest.json, baseline.json, metrics.jsonl and evaluation.json
    (label_curves.evaluation_record); each may be missing.
    Raises InputError where the folder does not exist or one of the JSON files is damaged.
    """
    if not run_folder.is_dir():
        raise InputError(f"expected a run folder, there is none at {run_folder}")
    return replace_page(run_folder, _page(_read_run(run_folder)))


# --- what is in the folder


@dataclass(frozen=True)
class _Run:
    name: str
    config: Row
    manifest: Row
    baseline: Row
    evaluation: Row
    train: Sequence[Row]
    valid: Sequence[Row]

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in (*self.train, *self.valid)), default=0)

    @property
    def splits(self) -> Mapping[str, Row]:
        """What was judged, the most telling split first."""
        found = self.evaluation.get("splits", {})
        return {name: found[name] for name in (*_SPLITS, *found) if name in found}

    @property
    def validated_baseline(self) -> Row:
        """What the baseline was judged to be on validation; empty where it is not known."""
        evaluated = self.baseline.get("valid") or self.splits.get("valid", {}).get("baseline")
        return evaluated if isinstance(evaluated, Mapping) else {}

    @property
    def primary_metric(self) -> str:
        """The key of the number that models are chosen by."""
        evaluated = [split["model"] for split in self.splits.values()]
        for row in (*evaluated, self.validated_baseline, *self.valid):
            for name in HEADLINES:
                if name in row and (name != "auprc" or "accuracy" not in row):
                    return name
        return "accuracy"


def _read_run(folder: Path) -> _Run:
    rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if "split" in row]
    return _Run(
        name=folder.resolve().name,
        config=read_json(folder / "config.json"),
        manifest=read_json(folder / "manifest.json"),
        baseline=read_json(folder / "baseline.json"),
        evaluation=read_json(folder / "evaluation.json"),
        train=[row for row in rows if row["split"] == "train" and is_number(row.get("loss"))],
        valid=[row for row in rows if row["split"] == "valid"],
    )


# --- the page


def _page(run: _Run) -> str:
    model = model_name(run.config, run.manifest, f"Run {run.name}")
    rate = "examples_per_s" if any("examples_per_s" in row for row in run.train) else "tokens_per_s"
    seconds = elapsed_s(run.train)
    seen = next((row["examples"] for row in reversed(run.train) if "examples" in row), None)
    details = [in_words(seen, "examples") if seen else "", duration(seconds) if seconds else ""]
    parts = [
        header(
            model,
            data_name(run.manifest),
            progress_line(run.config, run.manifest, run.last_step, details),
        ),
        _headline(run),
        _overview(run),
        *(part for split in list(run.splits)[:1] for part in _evaluated_parts(run, split)),
        _training(run),
        small_figures(run.train, run.last_step, rate),
        settings("Settings", run.config, "config.json is not there yet."),
        settings("Manifest", run.manifest, "manifest.json is not there yet."),
    ]
    return whole_page(f"{model}: {run.name}", parts)


def _evaluated_parts(run: _Run, split: str) -> list[str]:
    """What is drawn of one split, test where there is one."""
    evaluated = run.splits[split]
    result, name = evaluated["model"], escape(_SPLITS.get(split, split))
    curves = run.evaluation.get("curves", {}).get(split, {})
    return [
        confusion(result, name),
        label_table(result, name),
        curve_figures(curves, name),
        calibration(result, evaluated.get("baseline") or {}, name),
        dots(curves, name),
    ]


def _note(name: str, result: Row) -> str:
    n = f"{result['n']:,} {_things(result)}"
    interval = result.get(f"{name}_interval")
    if not interval:
        return n
    return f"95 %: {shown(name, interval[0])} to {shown(name, interval[1])}, {n}"


def _things(result: Row) -> str:
    return "labelled bases" if result.get("kind") == "per_base" else "examples"


def _headline(run: _Run) -> str:
    name = run.primary_metric
    if not run.splits:
        return _running_headline(run)
    boxes = []
    for split, evaluated in run.splits.items():
        title = f"{_SPLITS.get(split, split)}, {HEADLINES[name]}"
        boxes.append(
            (title, shown(name, evaluated["model"][name]), _note(name, evaluated["model"]))
        )
    first, evaluated = next(iter(run.splits.items()))
    split = _SPLITS.get(first, first).lower()
    baseline, model = evaluated.get("baseline"), evaluated["model"]
    if baseline:
        title = f"k-mer baseline, {split}"
        boxes.append((title, shown(name, baseline[name]), _note(name, baseline)))
    boxes.append((f"Chance, {split}", shown(name, model["chance"]), _chance_note(model)))
    verdict = evaluated.get("comparison") or ""
    if first == "valid":
        verdict += " There is no test split: the model was chosen by these numbers."
    return cards(boxes) + (f'<p class="verdict">{escape(verdict.strip())}</p>' if verdict else "")


def _chance_note(result: Row) -> str:
    if result.get("kind") == "regression":
        return "saying the mean of all"
    if result.get("kind") == "multilabel":
        return "the mean share of examples with a label"
    largest = max(result["labels"], key=lambda row: row["support"])
    return f"always saying {largest['label']}, the largest class"


def _running_headline(run: _Run) -> str:
    name, evaluated = run.primary_metric, run.validated_baseline
    boxes = []
    rows = [row for row in run.valid if is_number(row.get(name))]
    verdict = "No validation yet."
    if rows:
        last, best = rows[-1], max(rows, key=lambda row: row[name])
        note = f"step {last['step']:,}"
        boxes.append((f"Validation, {HEADLINES[name]}", shown(name, last[name]), note))
        verdict = f"Best so far: {shown(name, best[name])} at step {best['step']:,}."
    if evaluated:
        boxes.append(("k-mer baseline", shown(name, evaluated[name]), _note(name, evaluated)))
        boxes.append(("Chance", shown(name, evaluated["chance"]), _chance_note(evaluated)))
    return cards(boxes) + f'<p class="verdict">{escape(verdict)}</p>'


def _overview(run: _Run) -> str:
    """The model's numbers beside the baseline's, split by split."""
    if not run.splits:
        return ""
    head, columns = [""], []
    for split, evaluated in run.splits.items():
        for who, title in (("model", "model"), ("baseline", "k-mer baseline")):
            if evaluated.get(who):
                head.append(f"{_SPLITS.get(split, split)}, {title}")
                columns.append(evaluated[who])
    names = [name for name in NAMES if any(is_number(column.get(name)) for column in columns)]
    lines = [
        [NAMES[name], *(shown(name, column.get(name)) for column in columns)] for name in names
    ]
    described = run.baseline.get("description")
    about = f"<p>{escape(described)}.</p>" if described else ""
    return "<h2>Model and baseline</h2>" + about + table(head, lines, "numbers labels")


# --- training


def _training(run: _Run) -> str:
    if not run.train and not run.valid:
        return "<h2>Training</h2><p>No step has been logged yet.</p>"
    return "<h2>Training</h2>" + _loss_figure(run) + _headline_figure(run)


def _points(rows: Sequence[Row], name: str, scale: float = 1) -> list[Point]:
    return [(row["step"], scale * row[name]) for row in rows if is_number(row.get(name))]


def _frames(x_max: int, limits: Point, right: int) -> list[tuple[str, Frame]]:
    """Of a wide page and of a phone's; right: room for names beside the wide one."""
    x_range = (0, max(1, x_max))
    return [
        ("wide", Frame(880, 320, (12, right, 44, 58), x_range, limits)),
        ("narrow", Frame(380, 290, (12, min(right, 96), 44, 52), x_range, limits)),
    ]


def _loss_figure(run: _Run) -> str:
    train, valid = _points(run.train, "loss"), _points(run.valid, "loss")
    if not train and not valid:
        return ""
    settled = sorted(y for _, y in train[len(train) // 10 :])
    spare = len(settled) // 50  # a few of the noisiest rows may leave the frame
    values = settled[spare : len(settled) - spare] + [y for _, y in valid[1:] or valid]
    pad = 0.06 * (max(values) - min(values)) or 0.01
    limits = (min(values) - pad, max(values) + pad)
    lines = [*training_lines(train), ("valid", valid)]
    names = {"raw": "training", "smooth": "training", "valid": "validation"}
    if len(lines) == 3:
        names["smooth"] = "smoothed"
    title = f"Loss, {_LOSSES[run.primary_metric]}"
    charts = [
        steps_chart(frame, style, "Loss over steps", lines)
        for style, frame in _frames(run.last_step, limits, 16)
    ]
    return figure(title, "".join(charts), key([(style, names[style]) for style, _ in lines]))


def _headline_figure(run: _Run) -> str:
    name = run.primary_metric
    scale = 100.0 if name == "accuracy" else 1.0
    points = _points(run.valid, name, scale)
    if not points:
        return ""
    evaluated = run.validated_baseline
    levels = [
        (style, title, scale * evaluated[of])
        for style, title, of in (("best", "k-mer baseline", name), ("uniform", "chance", "chance"))
        if is_number(evaluated.get(of))
    ]
    values = [y for _, y in points] + [value for _, _, value in levels]
    pad = 0.06 * (max(values) - min(values)) or 0.01
    limits = (min(values) - pad, max(values) + pad)
    title = f"Validation, {HEADLINES[name]}" + (", %" if scale == 100 else "")
    charts = [
        steps_chart(frame, style, title, [("valid", points)], levels)
        for style, frame in _frames(run.last_step, limits, 110 if levels else 16)
    ]
    return figure(title, "".join(charts))
