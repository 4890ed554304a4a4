"""Pages of reports: templates, the files of a run, settings and numbers in words."""

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnamamba.errors import InputError
from dnamamba.files import is_number, read_json, write_text
from dnamamba.reports import figures
from dnamamba.reports.svg import draw
from dnamamba.training.metrics_log import MetricsFile

if TYPE_CHECKING:
    from jinja2 import Environment

Row = Mapping[str, Any]
Card = tuple[str, str, str]
"""Name, value and note of a box at the top of a page."""


def write_page(folder: Path, template: str, content: Row) -> Path:
    """Write `folder`/report.html, replacing an older one, and return its path.

    template: one of templates/. content: its variables; all but SVG is escaped.
    """
    path = folder / "report.html"
    write_text(path, _templates().get_template(template).render(content))
    return path


@functools.cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """The files of a run folder; {} and [] for missing ones."""

    name: str
    config: Row
    manifest: Row
    baseline: Row
    evaluation: Row
    train: Sequence[Row]
    valid: Sequence[Row]

    @classmethod
    def read(cls, folder: Path, drawn: str) -> "Run":
        if not folder.is_dir():
            raise InputError(f"expected a run folder, there is none at {folder}")
        names = ("config", "manifest", "baseline", "evaluation")
        files = {name: read_json(folder / f"{name}.json", missing_ok=True) for name in names}
        rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if "split" in row]
        train = [row for row in rows if row["split"] == "train" and is_number(row.get(drawn))]
        valid = [row for row in rows if row["split"] == "valid"]
        return cls(name=folder.resolve().name, train=train, valid=valid, **files)

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in (*self.train, *self.valid)), default=0)

    def content(self, done: str, rates: Sequence[str]) -> dict[str, Any]:
        """Return the variables that the pages of all runs have.

        done: `5 million tokens`, or "". rates: keys of the throughput (`..._per_s`); the page draws
        the first one that was logged.
        """
        model = self._model_name()
        data = self.manifest.get("data")
        described = data.get("description") if isinstance(data, Mapping) else data
        rate = next((key for key in rates if any(key in row for row in self.train)), rates[-1])
        small = {
            "learning_rate": "Learning rate",
            rate: "Throughput, " + rate.replace("_per_s", " per second"),
            "grad_norm": "Gradient norm",
        }
        return {
            "title": f"{model}: {self.name}",
            "heading": model,
            "data": described or "not recorded",
            "progress": " · ".join(filter(None, [*self._progress(), done, self._duration()])),
            "small": [
                (title, draw(title, figures.over_steps, points, size=(300, 170)))
                for key, title in small.items()
                if (points := points_of(self.train, key))
            ],
            "settings": flat_settings(self.config),
            "manifest": flat_settings(self.manifest),
        }

    def _model_name(self) -> str:
        """Mixer, layers, width and parameters, as far as they are recorded."""
        model, parameters = self.config.get("model"), self.manifest.get("parameters")
        parts = [Path(model).name] if isinstance(model, str) else []
        if isinstance(model, Mapping):
            mixers = [model["mixer"]] if model.get("mixer") else model.get("layers") or []
            kinds = [mixer["kind"] if isinstance(mixer, Mapping) else mixer for mixer in mixers]
            parts = ["+".join(dict.fromkeys(map(str, kinds)))] if kinds else []
            parts += [f"{model['n_layers']} layers"] if "n_layers" in model else []
            parts += [f"width {model['d_model']}"] if "d_model" in model else []
        if isinstance(parameters, int):
            parts.append(f"{parameters:,} parameters")
        return ", ".join(parts) or f"Run {self.name}"

    def _progress(self) -> list[str]:
        """The last step, and how and when the run ended."""
        ended = self.manifest.get("ended")
        if not isinstance(ended, Mapping) or self.last_step > ended.get("step", 0):
            ended = {}  # an earlier part ended; the run was resumed
        by, step = ended.get("stopped_by"), f"{ended.get('step', self.last_step):,}"
        if not ended:
            state = f"Running, or cut off: last seen at step {step}"
        else:
            state = f"Stopped by {by} after step {step}" if by else f"Finished after step {step}"
        train = self.config.get("train")
        planned = train.get("max_steps") if isinstance(train, Mapping) else None
        at = str(ended.get("at", "")).replace("T", " ").replace("+00:00", " UTC")
        return [state + (f" of {planned:,}" if isinstance(planned, int) else ""), at]

    def _duration(self) -> str:
        """Time of training; each resumption starts a new clock."""
        times = [row["elapsed_s"] for row in self.train if "elapsed_s" in row]
        seconds = sum(now for now, then in pairwise(times) if then < now) + sum(times[-1:])
        hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
        if minutes or hours:
            return f"{hours} h {minutes} min" if hours else f"{minutes} min {int(seconds % 60)} s"
        return f"{seconds:.0f} s" if seconds else ""


def write_run_report(
    folder: Path,
    template: str,
    content: Callable[[Run], Row],
    *,
    drawn: str,
    is_running: bool,
) -> Path:
    """Write the report of a run from its files, each of which may be missing.

    content: the template's variables. drawn: the number without which rows of training are left
    out. is_running: keep a report of the last minute, since training waits.
    Raises InputError if the folder is missing or a JSON file is damaged.
    """
    path = folder / "report.html"
    if is_running and path.exists() and time.time() - path.stat().st_mtime < 60:
        return path
    return write_page(folder, template, content(Run.read(folder, drawn)))


def points_of(rows: Sequence[Row], name: str, scale: float = 1) -> list[tuple[float, float]]:
    """Return (step, scaled number) of the rows that have the number."""
    return [(row["step"], scale * row[name]) for row in rows if is_number(row.get(name))]


def flat_settings(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Flatten nested objects and lists of objects to (dotted key, text)."""
    if isinstance(value, Mapping) and (value or not key):
        named = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        return [pair for name, item in named for pair in flat_settings(item, name)]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [pair for i, item in enumerate(value) for pair in flat_settings(item, f"{key}[{i}]")]
    if isinstance(value, list):
        return [(key, ", ".join(_plain(item) for item in value) or "none")]
    return [(key, _plain(value))]


def _plain(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def in_words(value: float, unit: str) -> str:
    """Format as `1.2 million tokens`; "" for 0."""
    scale, word = figures.scale_of(value)
    return f"{value / scale:,.3g} {word}{unit}" if value else ""
