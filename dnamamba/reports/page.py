"""What reports of all kinds of runs share: the page, its head, cards, settings, small charts."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dnamamba.files import is_number
from dnamamba.reports.figures import Frame, escape, scale_of

Row = Mapping[str, Any]


def replace_page(run_folder: Path, page: str) -> Path:
    """Write `run_folder`/report.html whole or not at all; returns its path."""
    path = run_folder / "report.html"
    building = run_folder / ".report.building"
    building.write_text(page, encoding="utf8")
    os.replace(building, path)
    return path


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


def progress_line(config: Row, manifest: Row, last_step: int, details: Sequence[str]) -> str:
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
    return " · ".join([*parts, *filter(None, details)])


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


# --- How charts and report.html look: light and dark, wide and narrow, on paper

LIGHT = {
    "paper": "#fff",
    "ink": "#1b1f24",
    "quiet": "#5a6470",
    "rule": "#d9dee4",
    "box": "#f5f7f9",
    "blue": "#0072b2",
    "orange": "#c44e00",
    "green": "#00795a",
    "purple": "#94507e",
}
DARK = {
    "paper": "#14181d",
    "ink": "#e6e9ec",
    "quiet": "#a3adb8",
    "rule": "#343c45",
    "box": "#1d232a",
    "blue": "#5bb6ec",
    "orange": "#f0a03c",
    "green": "#2fc79d",
    "purple": "#dd94c3",
}


def _as_variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def with_fixed_colours(css: str) -> str:
    """The same in light colours, for files that viewers without CSS variables open."""
    return re.sub(r"var\(--(\w+)\)", lambda found: LIGHT[found[1]], css)


CHARTS = """
text { font-size: 12px; fill: var(--quiet); }
polyline, line, circle { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.grid { stroke: var(--rule); stroke-width: 1; }
"""

_COLOURS = f"""
:root {{ color-scheme: light dark; {_as_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_as_variables(DARK)} }} }}
"""

_PAGE = """
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p { margin: .25rem 0; } .quiet, figcaption, thead th, dt, dd + dd { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: .75rem;
  margin: 1.25rem 0 .75rem; }
.cards div { background: var(--box); border: 1px solid var(--rule); border-radius: 8px;
  padding: .6rem .9rem; }
dt, dd + dd { font-size: .85rem; } dd { margin: 0; } dt + dd { font-size: 1.7rem; font-weight: 600;
  font-variant-numeric: tabular-nums; line-height: 1.3; }
.verdict { font-weight: 600; }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; } .narrow { display: none; }
.raw { stroke: var(--blue); stroke-opacity: .45; stroke-width: 1; }
.smooth { stroke: var(--blue); stroke-width: 2; } .valid { stroke: var(--orange); }
.spot { fill: var(--orange); stroke: var(--paper); }
.best { stroke: var(--green); stroke-dasharray: 8 4; }
.reference { stroke: var(--purple); stroke-dasharray: 3 3; }
.uniform { stroke: var(--quiet); stroke-dasharray: 1 4; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.25rem; font-size: .85rem; }
.key { display: inline; width: 24px; height: 10px; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 1rem;
  margin-top: 1.5rem; } .small figcaption { font-size: .85rem; }
.small svg { max-width: 370px; }
table { border-collapse: collapse; font-size: .9rem; margin-top: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; font-weight: 400;
  border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
.numbers td, .numbers th { text-align: right; font-variant-numeric: tabular-nums; }
.settings { width: 100%; } .settings th { width: 40%; color: var(--quiet); }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; } }
@media print { body { font-size: 13px; } main { max-width: none; padding: 0; }
  .small { grid-template-columns: repeat(3, 1fr); } h2 { break-after: avoid; }
  figure, .cards div, tr { break-inside: avoid; }
  .wide { display: block; } .narrow { display: none; } }
"""

# Curves differ in their dashes too, for eyes and printers without colours.
_LABELS = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 1.5rem; }
.pair svg { max-width: 440px; } .pair .keys { margin-top: .2rem; }
.series0 { stroke: var(--blue); stroke-width: 2; }
.series1 { stroke: var(--orange); stroke-width: 2; stroke-dasharray: 7 3; }
.series2 { stroke: var(--green); stroke-width: 2; stroke-dasharray: 2 3; }
.series3 { stroke: var(--purple); stroke-width: 2; stroke-dasharray: 9 3 2 3; }
.series4 { stroke: var(--ink); stroke-dasharray: 4 4; }
.series5 { stroke: var(--quiet); stroke-dasharray: 12 4; }
.whole { stroke-dasharray: none; stroke-width: 1.5; }
.series0.dot { fill: var(--blue); } .series1.dot { fill: var(--paper); stroke-dasharray: none; }
.speck { fill: var(--blue); fill-opacity: .5; stroke: none; } .bar { fill: var(--rule); }
.point0 { stroke: var(--blue); fill: var(--blue); }
.point1 { stroke: var(--orange); fill: var(--orange); }
.point2 { stroke: var(--green); fill: var(--green); }
.point3 { stroke: var(--purple); fill: var(--purple); }
.point4 { stroke: var(--ink); fill: var(--ink); }
.point5 { stroke: var(--rule); fill: var(--rule); }
.tone0 { --tone: var(--blue); }
.tone1 { --tone: color-mix(in srgb, var(--blue) 75%, var(--orange)); }
.tone2 { --tone: color-mix(in srgb, var(--blue) 50%, var(--orange)); }
.tone3 { --tone: color-mix(in srgb, var(--blue) 25%, var(--orange)); }
.tone4 { --tone: var(--orange); }
.tone { stroke: var(--tone); fill: var(--tone); }
circle.point { stroke: none; fill-opacity: .6; } line.tone { stroke-width: 4; }
.matrix { max-width: 640px; } .cell { fill: var(--box); } .heat { fill: var(--blue); }
.matrix .strong { fill: var(--paper); font-weight: 600; } .matrix .weak { fill: var(--ink); }
.scroll { overflow-x: auto; } .labels th, .labels td { white-space: nowrap; }
.labels th:first-child, .pairs td:nth-child(2), .pairs th:nth-child(2) { text-align: left; }
"""

STYLE = _COLOURS + CHARTS + _PAGE + _LABELS
