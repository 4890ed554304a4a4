"""report.html: what a run learned, in one file that opens anywhere.

Everything is inline (styles, figures as SVG), so the file can be mailed, archived and read without
a network. It is written from the run folder's own files and copes with those not there yet.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dnamamba.files import is_number
from dnamamba.reports import figures
from dnamamba.reports.page import Card, Run, in_words, is_recent, points_of, write_page
from dnamamba.reports.svg import draw_both

UNIFORM_BITS = 2.0
_REFERENCE_ORDER = 3


def write_report(run_folder: Path, *, is_running: bool = False) -> Path:
    """Write `run_folder`/report.html, replacing an older one, and return its path.

    Reads config.json, manifest.json, baseline.json and metrics.jsonl; each may be missing.
    is_running: keep a report of the last minute, since training waits for it.
    Raises InputError if the folder does not exist or one of the JSON files is damaged.
    """
    if is_running and is_recent(run_folder):
        return run_folder / "report.html"
    run = Run.read(run_folder, "bits_per_base")
    valid = [row for row in run.valid if is_number(row.get("bits_per_base"))]
    return write_page(run_folder, "pretraining.html.j2", _content(replace(run, valid=valid)))


def _content(run: Run) -> dict[str, Any]:
    """Variables of templates/pretraining.html.j2."""
    orders = _orders(run)
    references = _references(run)
    bits = run.valid[-1]["bits_per_base"] if run.valid else None
    if not _is_comparable(run):
        bits = None
    tokens = _tokens_per_step(run)
    done = in_words(run.last_step * (tokens or 0), "tokens")
    return run.content(done, ["bases_per_s", "tokens_per_s"]) | {
        "cards": _cards(run),
        "verdict": _verdict(run),
        "is_weighted": _is_weighted(run),
        "loss": draw_both(
            "Loss in bits per base",
            figures.learning_curve,
            points_of(run.train, "bits_per_base"),
            points_of(run.valid, "bits_per_base"),
            baselines={f"Markov order {k}": orders[k] for k in references}
            | {"uniform": UNIFORM_BITS},
            tokens_per_step=tokens,
            y_label="bits per base",
        )
        if run.train or run.valid
        else [],
        "has_difference": bits is not None,
        "markov": [
            [
                f"{order}, the best" if order == run.baseline.get("best_order") else order,
                f"{reference:.4f}",
                "" if bits is None else f"{reference - bits:+.4f}",
            ]
            for order, reference in sorted(orders.items())
        ],
    }


def _orders(run: Run) -> dict[int, float]:
    """Bits per base of each Markov order."""
    return {row["order"]: row["bits_per_base"] for row in run.baseline.get("orders", [])}


def _is_comparable(run: Run) -> bool:
    """Whether the model predicts next bases, as the Markov models do."""
    return run.config.get("objective") != "masked"


def _references(run: Run) -> dict[int, str]:
    """The Markov orders that the model is compared with, the best first."""
    best, orders = run.baseline.get("best_order"), _orders(run)
    if not _is_comparable(run):
        return {}
    names = {best: f"the best Markov model (order {best})"} if best in orders else {}
    if _REFERENCE_ORDER in orders:
        names.setdefault(_REFERENCE_ORDER, f"the Markov model of order {_REFERENCE_ORDER}")
    return names


def _tokens_per_step(run: Run) -> float | None:
    """None if no row has its number of tokens."""
    rows = [row for row in (*run.train, *run.valid) if row.get("tokens") and row["step"]]
    return rows[-1]["tokens"] / rows[-1]["step"] if rows else None


def _is_weighted(run: Run) -> bool:
    """Whether soft-masked bases count less in the training loss."""
    config = run.config.get("train")
    weight = config.get("softmask_weight") if isinstance(config, dict) else None
    return is_number(weight) and weight != 1


def _cards(run: Run) -> list[Card]:
    cards = []
    if run.valid:
        bits, step = run.valid[-1]["bits_per_base"], run.valid[-1]["step"]
        perplexity = run.valid[-1].get("perplexity", 2.0**bits)
        note = f"perplexity {perplexity:.4f}, step {step:,}"
        cards.append(("Validation, bits per base", f"{bits:.4f}", note))
    orders, best = _orders(run), run.baseline.get("best_order")
    for k in _references(run):
        title = f"Markov order {k}" + (", the best order" if k == best else "")
        cards.append((title, f"{orders[k]:.4f}", f"perplexity {2.0 ** orders[k]:.4f}"))
    return cards


def _verdict(run: Run) -> str:
    """The model beside its baselines, in words."""
    if not run.valid:
        return "No validation yet."
    bits, orders = run.valid[-1]["bits_per_base"], _orders(run)
    compared = [_comparison(bits, name, orders[k]) for k, name in _references(run).items()]
    sentences = [f"The model is {' and '.join(compared)}."] if compared else []
    if not _is_comparable(run):
        sentences = [
            "The model predicts masked bases from both sides, the Markov models next bases from "
            "one side: their numbers cannot be compared."
        ]
    lowest = min(run.valid, key=lambda row: row["bits_per_base"])
    if lowest["bits_per_base"] < bits:
        sentences.append(
            f"Its lowest validation was {lowest['bits_per_base']:.4f} at step {lowest['step']:,}."
        )
    return " ".join(sentences)


def _comparison(bits: float, name: str, reference: float) -> str:
    difference = reference - bits
    if abs(difference) < 0.00005:
        return f"level with {name}"
    word = "better" if difference > 0 else "worse"
    return f"{abs(difference):.4f} bits per base {word} than {name}"
