"""report.html: what a run learned, in one file that opens anywhere.

Everything is inline (styles, charts as SVG), so the file can be mailed, archived and read without a
network. It is written from the run folder's own files and copes with those that are not there yet.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dnamamba.charts import Frame, Point, escape, scale_of, smoothed, smoothing_reach, ticks
from dnamamba.errors import InputError
from dnamamba.metrics import MetricsFile
from dnamamba.report_style import STYLE

Row = Mapping[str, Any]

UNIFORM_BITS = 2.0
_REFERENCE_ORDER = 3


def write_report(run_folder: Path) -> Path:
    """Write `run_folder`/report.html, replacing an older one, and return its path.

    Reads config.json, manifest.json, baseline.json and metrics.jsonl; each may be missing.
    Raises InputError where the folder does not exist or one of the JSON files is damaged.
    """
    if not run_folder.is_dir():
        raise InputError(f"expected a run folder, there is none at {run_folder}")
    path = run_folder / "report.html"
    building = run_folder / ".report.building"
    building.write_text(_page(_read_run(run_folder)), encoding="utf8")
    os.replace(building, path)
    return path


# --- what is in the folder


@dataclass(frozen=True)
class _Run:
    name: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    orders: Mapping[int, float]
    """Bits per base of each Markov order."""

    best_order: int | None
    train: Sequence[Row]
    valid: Sequence[Row]

    @property
    def is_comparable(self) -> bool:
        """Whether the Markov models do what the model does: they predict next bases."""
        return self.config.get("objective") != "masked"

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in (*self.train, *self.valid)), default=0)

    @property
    def tokens_per_step(self) -> float | None:
        """None where no row says how many tokens it stands for."""
        rows = [row for row in (*self.train, *self.valid) if row.get("tokens") and row["step"]]
        return rows[-1]["tokens"] / rows[-1]["step"] if rows else None

    @property
    def elapsed_s(self) -> float:
        """Seconds of training; the clock of a resumed run starts over."""
        times = [row["elapsed_s"] for row in self.train if "elapsed_s" in row]
        ends = [now for now, then in pairwise(times) if then < now]
        return sum(ends) + sum(times[-1:])


def _read_run(folder: Path) -> _Run:
    baseline = _read_json(folder / "baseline.json")
    rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if _is_usable(row)]
    return _Run(
        name=folder.resolve().name,
        config=_read_json(folder / "config.json"),
        manifest=_read_json(folder / "manifest.json"),
        orders={row["order"]: row["bits_per_base"] for row in baseline.get("orders", [])},
        best_order=baseline.get("best_order"),
        train=[row for row in rows if row["split"] == "train"],
        valid=[row for row in rows if row["split"] == "valid"],
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold one JSON object, got a {type(content).__name__}")
    return content


def _is_usable(row: Any) -> bool:
    """A row that can be drawn: it has a step, a split and a finite loss."""
    if not isinstance(row, dict) or not {"step", "split", "bits_per_base"} <= row.keys():
        return False
    return _is_number(row["bits_per_base"])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# --- the page


def _page(run: _Run) -> str:
    model, data = _model_name(run), _data_name(run)
    parts = [
        f"<header><h1>{escape(model)}</h1>",
        f'<p class="data">Data: <strong>{escape(data)}</strong></p>',
        f'<p class="quiet">{escape(_progress(run))}</p></header>',
        _headline(run),
        _loss_figure(run),
        _small_figures(run),
        _markov_table(run),
        _settings("Settings", run.config, "config.json is not there yet."),
        _settings("Manifest", run.manifest, "manifest.json is not there yet."),
    ]
    title = escape(f"{model}: {run.name}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _model_name(run: _Run) -> str:
    model = run.config.get("model")
    parts = [model] if isinstance(model, str) else []
    if isinstance(model, Mapping):
        mixer = model.get("mixer")
        kind = mixer.get("kind") if isinstance(mixer, Mapping) else mixer
        parts = [str(kind)] if kind else []
        if "n_layers" in model:
            parts.append(f"{model['n_layers']} layers")
        if "d_model" in model:
            parts.append(f"width {model['d_model']}")
    parameters = run.manifest.get("parameters")
    if isinstance(parameters, int):
        parts.append(f"{parameters:,} parameters")
    return ", ".join(parts) or f"Run {run.name}"


def _data_name(run: _Run) -> str:
    data = run.manifest.get("data")
    described = data.get("description") if isinstance(data, Mapping) else data
    return str(described) if described else "not recorded"


def _progress(run: _Run) -> str:
    """How far the run came and how it ended, in a line."""
    ended = run.manifest.get("ended")
    if not isinstance(ended, Mapping) or run.last_step > ended.get("step", 0):
        ended = {}  # still going, or going again: what ended was an earlier part
    by, step = ended.get("stopped_by"), f"{ended.get('step', run.last_step):,}"
    if not ended:
        state = f"Running, or cut off: last seen at step {step}"
    else:
        state = f"Stopped by {by} after step {step}" if by else f"Finished after step {step}"
    train_config = run.config.get("train")
    planned = train_config.get("max_steps") if isinstance(train_config, Mapping) else None
    facts = [state + (f" of {planned:,}" if isinstance(planned, int) else "")]
    if ended.get("at"):
        facts.append(str(ended["at"]).replace("T", " ").replace("+00:00", " UTC"))
    if run.tokens_per_step:
        facts.append(_in_words(run.last_step * run.tokens_per_step, "tokens"))
    if run.elapsed_s:
        facts.append(_duration(run.elapsed_s))
    return " · ".join(facts)


def _headline(run: _Run) -> str:
    if not run.valid:
        return '<p class="verdict">No validation yet.</p>' + _cards(_baseline_cards(run))
    last = run.valid[-1]
    bits = last["bits_per_base"]
    perplexity = last.get("perplexity", 2.0**bits)
    note = f"perplexity {perplexity:.4f}, step {last['step']:,}"
    cards = [("Validation, bits per base", f"{bits:.4f}", note)]
    compared = [_comparison(bits, name, run.orders[k]) for k, name in _references(run).items()]
    sentences = [f"The model is {' and '.join(compared)}."] if compared else []
    if not run.is_comparable:
        sentences = [
            "The model predicts hidden bases from both sides, the Markov models next bases from "
            "one: their numbers are no measure of each other."
        ]
    lowest = min(run.valid, key=lambda row: row["bits_per_base"])
    if lowest["bits_per_base"] < bits:
        sentences.append(
            f"Its lowest validation was {lowest['bits_per_base']:.4f} at step {lowest['step']:,}."
        )
    verdict = f'<p class="verdict">{escape(" ".join(sentences))}</p>'
    return _cards(cards + _baseline_cards(run)) + verdict


def _references(run: _Run) -> dict[int, str]:
    """The Markov orders a model is held against, best first."""
    names: dict[int, str] = {}
    if not run.is_comparable:
        return names
    if run.best_order is not None and run.best_order in run.orders:
        names[run.best_order] = f"the best Markov model (order {run.best_order})"
    if _REFERENCE_ORDER in run.orders:
        names.setdefault(_REFERENCE_ORDER, f"the Markov model of order {_REFERENCE_ORDER}")
    return names


def _comparison(bits: float, name: str, reference: float) -> str:
    difference = reference - bits
    if abs(difference) < 0.00005:
        return f"level with {name}"
    return (
        f"{abs(difference):.4f} bits per base {'better' if difference > 0 else 'worse'} than {name}"
    )


def _baseline_cards(run: _Run) -> list[tuple[str, str, str]]:
    return [
        (
            f"Markov order {k}" + (", the best order" if k == run.best_order else ""),
            f"{run.orders[k]:.4f}",
            f"perplexity {2.0 ** run.orders[k]:.4f}",
        )
        for k in _references(run)
    ]


def _cards(cards: Sequence[tuple[str, str, str]]) -> str:
    boxes = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for name, value, note in cards
    )
    return f'<dl class="cards">{"".join(boxes)}</dl>' if cards else ""


def _markov_table(run: _Run) -> str:
    if not run.orders:
        return "<h2>Markov models</h2><p>baseline.json is not there yet.</p>"
    bits = run.valid[-1]["bits_per_base"] if run.valid and run.is_comparable else None
    meaning = "" if bits is None else " A positive difference means the model is better."
    lines = []
    for order, reference in sorted(run.orders.items()):
        name = f"{order}, the best" if order == run.best_order else str(order)
        gain = "" if bits is None else f"{reference - bits:+.4f}"
        lines.append(f"<tr><th>{name}</th><td>{reference:.4f}</td><td>{gain}</td></tr>")
    return (
        "<h2>Markov models</h2><p>Counted on the training windows, judged on the validation "
        f'windows of the model.{meaning}</p><table class="numbers">'
        "<thead><tr><th>order</th><th>bits per base</th><th>difference</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _settings(title: str, nested: Mapping[str, Any], missing: str) -> str:
    if not nested:
        return f"<h2>{title}</h2><p>{missing}</p>"
    lines = (
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in _flatten(nested)
    )
    return f'<h2>{title}</h2><table class="settings"><tbody>{"".join(lines)}</tbody></table>'


def _flatten(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Nested objects and lists of objects as (dotted key, text)."""
    if isinstance(value, Mapping) and value:
        named = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        return [pair for name, item in named for pair in _flatten(item, name)]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [pair for i, item in enumerate(value) for pair in _flatten(item, f"{key}[{i}]")]
    if isinstance(value, list):
        return [(key, ", ".join(_plain(item) for item in value) or "none")]
    return [(key, _plain(value))]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def _in_words(value: float, unit: str) -> str:
    scale, word = scale_of(value)
    return f"{value / scale:,.3g} {word}{unit}"


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def _loss_figure(run: _Run) -> str:
    if not run.train and not run.valid:
        return "<h2>Loss</h2><p>No step has been logged yet.</p>"
    wide = Frame(880, 400, (30, 190, 42, 52), *_loss_ranges(run))
    narrow = Frame(380, 330, (30, 84, 42, 44), *_loss_ranges(run))
    training = "training (weighted)" if _is_weighted(run) else "training"
    named = [("smooth", training), ("valid", "validation")]
    if smoothing_reach(run.train):
        named = [("raw", training), ("smooth", "smoothed"), ("valid", "validation")]
    key = "".join(
        f'<span><svg class="key" viewBox="0 0 24 10"><line class="{style}" x1="1" y1="5" x2="23" '
        f'y2="5"/></svg> {name}</span>'
        for style, name in named
    )
    return (
        f'<h2>Loss, bits per base</h2><figure><figcaption class="keys">{key}</figcaption>'
        f"{_loss_chart(run, wide, 'wide')}{_loss_chart(run, narrow, 'narrow')}</figure>"
    )


def _is_weighted(run: _Run) -> bool:
    """Whether soft-masked bases count less in the training loss; in validation all count alike."""
    config = run.config.get("train")
    weight = config.get("softmask_weight") if isinstance(config, Mapping) else None
    return _is_number(weight) and weight != 1


def _loss_points(run: _Run, rows: Sequence[Row]) -> list[Point]:
    per_step = run.tokens_per_step or 1.0
    return [(row["step"] * per_step, row["bits_per_base"]) for row in rows]


def _loss_ranges(run: _Run) -> tuple[Point, Point]:
    """The axes: all tokens; and bits without the fall of the first steps, which hides the rest."""
    train, valid = _loss_points(run, run.train), _loss_points(run, run.valid)
    settled = sorted(y for _, y in train[len(train) // 10 :])
    spare = len(settled) // 50  # a few of the noisiest rows may leave the frame
    bits = settled[spare : len(settled) - spare] + [y for _, y in valid[1:] or valid]
    bits += [*(run.orders[k] for k in _references(run)), UNIFORM_BITS]
    pad = max(0.01, 0.06 * (max(bits) - min(bits)))
    last = max(x for x, _ in train + valid)
    return (0, last or 1.0), (min(bits) - pad, max(bits) + pad)


def _loss_chart(run: _Run, frame: Frame, style: str) -> str:
    train, valid = _loss_points(run, run.train), _loss_points(run, run.valid)
    per_step = run.tokens_per_step
    parts = [frame.grid("tokens" if per_step else "steps")]
    if per_step:
        steps = ticks(0, frame.x_range[1] / per_step, int(frame.width / 140))
        parts += [frame.text(frame.x(n * per_step), 20, f"step {label}") for n, label in steps]
    lines = {UNIFORM_BITS: ("uniform", "uniform", "uniform")}
    for k in sorted(_references(run)):
        kind = "best" if k == run.best_order else "reference"
        lines[run.orders[k]] = (kind, f"order {k}", f"Markov order {k}")
    label_y = 0.0
    for bits, (kind, short, long) in sorted(lines.items(), reverse=True):
        parts.append(frame.across(bits, kind))
        label_y = max(label_y + 15, frame.y(bits) + 4)
        text = f"{long} {bits:.4f}" if style == "wide" else short
        parts.append(frame.text(frame.width - frame.margins[1] + 6, label_y, text, "start"))
    curves = frame.line(smoothed(train), "smooth") + frame.line(valid, "valid")
    if smoothing_reach(train):
        curves = frame.line(train, "raw") + curves
    parts.append(frame.clipped(curves))
    for row, (x, bits) in zip(run.valid, valid, strict=True):
        if frame.y_range[0] <= bits <= frame.y_range[1]:
            spot = f'class="spot" cx="{frame.x(x):.1f}" cy="{frame.y(bits):.1f}" r="3.5"'
            tip = f"step {row['step']:,}: {bits:.4f} bits per base"
            parts.append(f"<circle {spot}><title>{tip}</title></circle>")
    return frame.svg("".join(parts), "Loss in bits per base over tokens", style)


def _small_figures(run: _Run) -> str:
    rate = "bases_per_s" if any("bases_per_s" in row for row in run.train) else "tokens_per_s"
    wanted = (
        ("learning_rate", "Learning rate"),
        (rate, "Throughput, " + rate.replace("_per_s", " per second")),
        ("grad_norm", "Gradient norm"),
    )
    figures = [_small_figure(run, key, title) for key, title in wanted]
    return f'<div class="small">{"".join(figures)}</div>'


def _small_figure(run: _Run, key: str, title: str) -> str:
    rows = [row for row in run.train if _is_number(row.get(key))]
    if not rows:
        return ""
    points = [(row["step"], row[key]) for row in rows]
    top = max(y for _, y in points) * 1.08 or 1.0
    frame = Frame(300, 170, (8, 12, 40, 58), (0, max(1, run.last_step)), (0, top))
    drawing = frame.grid("steps", y_ticks=3) + frame.clipped(frame.line(points, "smooth"))
    return f"<figure><figcaption>{title}</figcaption>{frame.svg(drawing, title, 'one')}</figure>"
