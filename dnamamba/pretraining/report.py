"""report.html: what a run learned, in one file that opens anywhere.

Everything is inline (styles, charts as SVG), so the file can be mailed, archived and read without a
network. It is written from the run folder's own files and copes with those that are not there yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnamamba.errors import InputError
from dnamamba.files import is_number, read_json
from dnamamba.reports.figures import Frame, Point, escape, smoothed, smoothing_reach, ticks
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
from dnamamba.training.metrics_log import MetricsFile

UNIFORM_BITS = 2.0
_REFERENCE_ORDER = 3


def write_report(run_folder: Path) -> Path:
    """Write `run_folder`/report.html, replacing an older one, and return its path.

    Reads config.json, manifest.json, baseline.json and metrics.jsonl; each may be missing.
    Raises InputError where the folder does not exist or one of the JSON files is damaged.
    """
    if not run_folder.is_dir():
        raise InputError(f"expected a run folder, there is none at {run_folder}")
    return replace_page(run_folder, _page(_read_run(run_folder)))


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


def _read_run(folder: Path) -> _Run:
    baseline = read_json(folder / "baseline.json")
    rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if _is_usable(row)]
    return _Run(
        name=folder.resolve().name,
        config=read_json(folder / "config.json"),
        manifest=read_json(folder / "manifest.json"),
        orders={row["order"]: row["bits_per_base"] for row in baseline.get("orders", [])},
        best_order=baseline.get("best_order"),
        train=[row for row in rows if row["split"] == "train"],
        valid=[row for row in rows if row["split"] == "valid"],
    )


def _is_usable(row: Any) -> bool:
    """A row that can be drawn: it has a step, a split and a finite loss."""
    if not isinstance(row, dict) or not {"step", "split", "bits_per_base"} <= row.keys():
        return False
    return is_number(row["bits_per_base"])


# --- the page


def _page(run: _Run) -> str:
    model = model_name(run.config, run.manifest, f"Run {run.name}")
    rate = "bases_per_s" if any("bases_per_s" in row for row in run.train) else "tokens_per_s"
    parts = [
        header(model, data_name(run.manifest), _progress(run)),
        _headline(run),
        _loss_figure(run),
        small_figures(run.train, run.last_step, rate),
        _markov_table(run),
        settings("Settings", run.config, "config.json is not there yet."),
        settings("Manifest", run.manifest, "manifest.json is not there yet."),
    ]
    return whole_page(f"{model}: {run.name}", parts)


def _progress(run: _Run) -> str:
    tokens, seconds = run.tokens_per_step, elapsed_s(run.train)
    details = [
        in_words(run.last_step * tokens, "tokens") if tokens else "",
        duration(seconds) if seconds else "",
    ]
    return progress_line(run.config, run.manifest, run.last_step, details)


def _headline(run: _Run) -> str:
    if not run.valid:
        return '<p class="verdict">No validation yet.</p>' + cards(_baseline_cards(run))
    last = run.valid[-1]
    bits = last["bits_per_base"]
    perplexity = last.get("perplexity", 2.0**bits)
    note = f"perplexity {perplexity:.4f}, step {last['step']:,}"
    boxes = [("Validation, bits per base", f"{bits:.4f}", note)]
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
    return cards(boxes + _baseline_cards(run)) + verdict


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
    return is_number(weight) and weight != 1


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
