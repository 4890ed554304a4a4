"""report.html of a pretraining run: its loss beside Markov models, in one file without links."""

from pathlib import Path
from typing import Any

from dnamamba.files import is_number
from dnamamba.reports import figures
from dnamamba.reports.page import Card, Row, Run, in_words, points_of, write_run_report
from dnamamba.reports.svg import draw_both


def write_report(run_folder: Path, *, is_running: bool = False) -> Path:
    """Write `run_folder`/report.html and return its path; see write_run_report."""
    template = "pretraining.html.j2"
    return write_run_report(
        run_folder, template, _content, drawn="bits_per_base", is_running=is_running
    )


def _content(run: Run) -> dict[str, Any]:
    """Variables of templates/pretraining.html.j2."""
    valid = [row for row in run.valid if is_number(row.get("bits_per_base"))]
    orders = {row["order"]: row["bits_per_base"] for row in run.baseline.get("orders", [])}
    best = run.baseline.get("best_order")
    # A masked model sees both sides, so it is not compared with models of the next base.
    is_comparable = run.config.get("objective") != "masked"
    references = {k: orders[k] for k in (best, 3) if k in orders} if is_comparable else {}
    bits = valid[-1]["bits_per_base"] if valid else None
    train = run.config.get("train")
    weight = train.get("softmask_weight") if isinstance(train, dict) else None
    counted = [row for row in (*run.train, *valid) if row.get("tokens") and row["step"]]
    tokens = counted[-1]["tokens"] / counted[-1]["step"] if counted else None
    levels = {f"Markov order {k}": value for k, value in references.items()}
    loss = draw_both(
        "Loss in bits per base",
        figures.learning_curve,
        points_of(run.train, "bits_per_base"),
        points_of(valid, "bits_per_base"),
        baselines=levels | {"uniform": 2.0},
        tokens_per_step=tokens,
        y_label="bits per base",
    )
    compared = bits if is_comparable else None
    cards = [_validation_card(valid[-1])] if valid else []
    for k, value in references.items():
        title = f"Markov order {k}" + (", the best order" if k == best else "")
        cards.append((title, f"{value:.4f}", f"perplexity {2.0**value:.4f}"))
    return run.content(
        in_words(run.last_step * (tokens or 0), "tokens"), ["bases_per_s", "tokens_per_s"]
    ) | {
        "cards": cards,
        "verdict": _verdict(valid, references, best, is_comparable=is_comparable),
        "is_weighted": is_number(weight) and weight != 1,
        "loss": loss if run.train or valid else [],
        "has_difference": compared is not None,
        "markov": [
            [
                f"{k}, the best" if k == best else k,
                f"{value:.4f}",
                "" if compared is None else f"{value - compared:+.4f}",
            ]
            for k, value in sorted(orders.items())
        ],
    }


def _validation_card(row: Row) -> Card:
    bits = row["bits_per_base"]
    note = f"perplexity {row.get('perplexity', 2.0**bits):.4f}, step {row['step']:,}"
    return "Validation, bits per base", f"{bits:.4f}", note


def _verdict(
    valid: list[Any], references: dict[Any, float], best: Any, *, is_comparable: bool
) -> str:
    """The model beside its baselines, in words."""
    if not valid:
        return "No validation yet."
    bits, compared = valid[-1]["bits_per_base"], []
    for k, value in references.items():
        name = f"best Markov model (order {k})" if k == best else f"Markov model of order {k}"
        by = f"{abs(value - bits):.4f} bits per base {'better' if bits < value else 'worse'} than"
        compared.append(f"{'level with' if abs(value - bits) < 0.00005 else by} the {name}")
    sentences = [f"The model is {' and '.join(compared)}."] if compared else []
    if not is_comparable:
        sentences = [
            "The model predicts masked bases from both sides, the Markov models next bases from "
            "one side: their numbers cannot be compared."
        ]
    lowest = min(valid, key=lambda row: row["bits_per_base"])
    if lowest["bits_per_base"] < bits:
        sentences.append(
            f"Its lowest validation was {lowest['bits_per_base']:.4f} at step {lowest['step']:,}."
        )
    return " ".join(sentences)
