"""What reports of all kinds of runs share: the page, its head, cards, settings, small charts."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dnamamba.charts import Frame, escape, scale_of
from dnamamba.errors import InputError
from dnamamba.report_style import STYLE

Row = Mapping[str, Any]


def replace_page(run_folder: Path, page: str) -> Path:
    """Write `run_folder`/report.html whole or not at all; returns its path."""
    path = run_folder / "report.html"
    building = run_folder / ".report.building"
    building.write_text(page, encoding="utf8")
    os.replace(building, path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file. Raises InputError for a damaged one."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold one JSON object, got a {type(content).__name__}")
    return content


def is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def elapsed_s(rows: Sequence[Row]) -> float:
    """Seconds of training; the clock of a resumed run starts over."""
    times = [row["elapsed_s"] for row in rows if "elapsed_s" in row]
    ends = [now for now, then in pairwise(times) if then < now]
    return sum(ends) + sum(times[-1:])


# --- the page


def whole_page(title: str, parts: Sequence[str]) -> str:
    """An HTML file of its own. title: plain text. parts: HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def header(model: str, data: str, progress: str) -> str:
    return (
        f"<header><h1>{escape(model)}</h1>\n"
        f'<p class="data">Data: <strong>{escape(data)}</strong></p>\n'
        f'<p class="quiet">{escape(progress)}</p></header>'
    )


def model_name(config: Row, manifest: Row, otherwise: str) -> str:
    """The mixer, layers, width and parameters, as far as they are recorded."""
    model = config.get("model")
    # A path names the machine it was on; its last part names the run or the model.
    parts = [Path(model).name] if isinstance(model, str) else []
    if isinstance(model, Mapping):
        mixer = model.get("mixer")
        kind = mixer.get("kind") if isinstance(mixer, Mapping) else mixer
        parts = [str(kind)] if kind else []
        if "n_layers" in model:
            parts.append(f"{model['n_layers']} layers")
        if "d_model" in model:
            parts.append(f"width {model['d_model']}")
    parameters = manifest.get("parameters")
    if isinstance(parameters, int):
        parts.append(f"{parameters:,} parameters")
    return ", ".join(parts) or otherwise


def data_name(manifest: Row) -> str:
    data = manifest.get("data")
    described = data.get("description") if isinstance(data, Mapping) else data
    return str(described) if described else "not recorded"


def progress_line(config: Row, manifest: Row, last_step: int, facts: Sequence[str]) -> str:
    """How far a run came and how it ended. facts: what else belongs into the line; "" is none."""
    ended = manifest.get("ended")
    if not isinstance(ended, Mapping) or last_step > ended.get("step", 0):
        ended = {}  # still going, or going again: what ended was an earlier part
    by, step = ended.get("stopped_by"), f"{ended.get('step', last_step):,}"
    if not ended:
        state = f"Running, or cut off: last seen at step {step}"
    else:
        state = f"Stopped by {by} after step {step}" if by else f"Finished after step {step}"
    train_config = config.get("train")
    planned = train_config.get("max_steps") if isinstance(train_config, Mapping) else None
    parts = [state + (f" of {planned:,}" if isinstance(planned, int) else "")]
    if ended.get("at"):
        parts.append(str(ended["at"]).replace("T", " ").replace("+00:00", " UTC"))
    return " · ".join([*parts, *filter(None, facts)])


def cards(boxes: Sequence[tuple[str, str, str]]) -> str:
    """Boxes of (name, value, note)."""
    drawn = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for name, value, note in boxes
    )
    return f'<dl class="cards">{"".join(drawn)}</dl>' if boxes else ""


def settings(title: str, nested: Row, missing: str) -> str:
    """A table of nested settings with dotted keys; the sentence `missing` where there are none."""
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


def in_words(value: float, unit: str) -> str:
    """`1.2 million tokens`."""
    scale, word = scale_of(value)
    return f"{value / scale:,.3g} {word}{unit}"


def duration(seconds: float) -> str:
    """`2 h 5 min`, `5 min 3 s`, `3 s`."""
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {int(seconds % 60)} s" if minutes else f"{seconds:.0f} s"


def small_figures(train: Sequence[Row], last_step: int, rate: str) -> str:
    """Learning rate, throughput (the key `rate`, `..._per_s`) and gradient norm over steps."""
    wanted = (
        ("learning_rate", "Learning rate"),
        (rate, "Throughput, " + rate.replace("_per_s", " per second")),
        ("grad_norm", "Gradient norm"),
    )
    figures = [_small_figure(train, last_step, key, title) for key, title in wanted]
    return f'<div class="small">{"".join(figures)}</div>'


def _small_figure(train: Sequence[Row], last_step: int, key: str, title: str) -> str:
    rows = [row for row in train if is_number(row.get(key))]
    if not rows:
        return ""
    points = [(row["step"], row[key]) for row in rows]
    top = max(y for _, y in points) * 1.08 or 1.0
    frame = Frame(300, 170, (8, 12, 40, 58), (0, max(1, last_step)), (0, top))
    drawing = frame.grid("steps", y_ticks=3) + frame.clipped(frame.line(points, "smooth"))
    return f"<figure><figcaption>{title}</figcaption>{frame.svg(drawing, title, 'one')}</figure>"
