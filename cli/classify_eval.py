"""`dnamamba classify eval`."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dnamamba.cli.label_options import SOURCES, evaluation_options, source_config
from dnamamba.cli.options import FILE


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
        _refuse_source_options(click.get_current_context())
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


def _refuse_source_options(context: click.Context) -> None:
    """Options of other sequences, where the run's own are judged."""
    own = ("run", "out", "lengths", "rc", "device", "micro_batch")
    for parameter in context.command.params:
        typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if typed and parameter.name not in own:
            raise click.UsageError(
                f"{parameter.opts[0]} is for other sequences than the run's own: name them by "
                "--species, --table, --records or --regions, or leave it out"
            )
