"""`dnamamba classify eval`."""

from pathlib import Path
from typing import Any

import click

from dnamamba.cli.label_options import SOURCES, evaluation_options, source_config
from dnamamba.cli.options import FILE, typed_options

_OF_ALL = ("run", "out", "lengths", "rc", "device", "micro_batch")
_NOT_THE_OWN = (
    "is for other sequences than the run's own: name them by --species, --table, --records or "
    "--regions, or leave it out"
)
_ALL_ARE_EVALUATED = "holds some sequences out, and of these all are judged: leave it out"
_TWO_LENGTHS = "and --lengths both say how long windows are: leave one out"


@click.command("eval")
@click.argument("run", type=FILE, metavar="RUN")
@click.option(
    "--out", type=FILE, help="Folder for evaluation.json and report.html. [default: RUN/evaluation]"
)
@click.option(
    "--lengths",
    metavar="SIZES",
    help="Species: lengths of windows to be judged, comma-separated: 1k,4k,16k.",
)
@evaluation_options
@click.option(
    "--rc",
    type=click.Choice(["none", "average"]),
    help="average: judge by the mean of both strands. [default: as the run]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--micro-batch", type=int, help="Sequences in one pass.")
def evaluate(run: Path, out: Path | None, lengths: str | None, **values: Any) -> None:
    """Judge a classifier, on its own validation and test or on other labelled sequences.

    RUN: a run of `dnamamba classify train`. Without --species, --table, --records or --regions it
    is judged on what the run held out. Of a table, records or regions all are judged, of species
    the test split.

    \b
    Examples:
      dnamamba classify eval runs/classify-demo
      dnamamba classify eval runs/classify-demo --lengths 1k,4k,16k
      dnamamba classify eval runs/classify-train-demo --table other.csv --out other
    """
    from dnamamba.classification.evaluate import evaluate_classifier
    from dnamamba.intervals import parse_size
    from dnamamba.runtime import read_ranks
    from dnamamba.training.config import RunOptions

    sizes = tuple(parse_size(text) for text in lengths.split(",")) if lengths else ()
    folder = out or run / "evaluation"
    lines = evaluate_classifier(
        run,
        folder,
        _source(run, values),
        lengths=sizes,
        rc=values["rc"],
        options=RunOptions(device=values["device"], micro_batch=values["micro_batch"]),
    )
    if read_ranks().is_main:
        for line in lines:
            click.echo(line)
        click.echo(f"Report: {folder / 'report.html'}")


def _source(run: Path, values: dict[str, Any]) -> Any:
    """The config of the sequences that are named; None for the run's own."""
    from dnamamba.models.classifier import DnaClassifier

    typed = typed_options()
    if not any(values[name] for name in SOURCES):
        _refuse(typed, set(typed) - set(_OF_ALL), _NOT_THE_OWN)
        return None
    if values["species"]:
        _refuse(typed, {"seq_len"} if "lengths" in typed else set(), _TWO_LENGTHS)
    else:
        _refuse(typed, {"valid_contigs", "test_contigs", "data_seed"}, _ALL_ARE_EVALUATED)
    kind = DnaClassifier.from_pretrained(run).task.kind
    return source_config(values | {"task": kind.replace("_", "-")}, epoch_size=1)


def _refuse(typed: dict[str, str], names: set[str], why: str) -> None:
    """Options that would be ignored."""
    for name, flag in typed.items():
        if name in names:
            raise click.UsageError(f"{flag} {why}")
