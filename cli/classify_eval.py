"""`dnamamba classify eval`."""

from pathlib import Path
from typing import Any

import click

from dnamamba.cli.label_options import SOURCES, evaluation_options, source_config
from dnamamba.cli.options import FILE, typed_options


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
    from dnamamba.intervals import parse_size
    from dnamamba.judging import judge_classifier
    from dnamamba.pretraining import RunOptions
    from dnamamba.runtime import read_ranks

    named = any(values[name] for name in SOURCES)
    if not named:
        _refuse_source_options()
    sizes = tuple(parse_size(text) for text in lengths.split(",")) if lengths else ()
    folder = out or run / "evaluation"
    lines = judge_classifier(
        run,
        folder,
        source_config(values, epoch_size=1) if named else None,
        lengths=sizes,
        rc=values["rc"],
        options=RunOptions(device=values["device"], micro_batch=values["micro_batch"]),
    )
    if read_ranks().is_main:
        for line in lines:
            click.echo(line)
        click.echo(f"Report: {folder / 'report.html'}")


def _refuse_source_options() -> None:
    """Options of other sequences, where the run's own are judged."""
    own = ("run", "out", "lengths", "rc", "device", "micro_batch")
    for name, flag in typed_options().items():
        if name not in own:
            raise click.UsageError(
                f"{flag} is for other sequences than the run's own: name them by "
                "--species, --table, --records or --regions, or leave it out"
            )
