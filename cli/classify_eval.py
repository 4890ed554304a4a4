"""`dnamamba classify eval`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.label_options import LabelOptions, evaluation_options
from dnamamba.cli.options import (
    DEVICE,
    FILE,
    choice,
    echo_once,
    file_option,
    integer,
    option,
    refuse_typed,
    typed_options,
)

if TYPE_CHECKING:
    from dnamamba.classification.config import LabelSource

_OF_ALL = ("run", "out", "lengths", "rc", "device", "micro_batch")


@click.command("eval")
@click.argument("run", type=FILE, metavar="RUN")
@file_option("--out", "Folder for evaluation.json and report.html. [default: RUN/evaluation]")
@option(
    "--lengths",
    "Species: lengths of windows to be evaluated, comma-separated: 1k,4k,16k.",
    metavar="SIZES",
)
@evaluation_options
@choice("--rc none|average", "average: evaluate the mean of both strands. [default: as the run]")
@DEVICE
@integer("--micro-batch", "Sequences in one pass.")
def evaluate(
    *,
    run: Path,
    out: Path | None,
    lengths: str | None,
    source: LabelOptions,
    rc: Any,
    device: str,
    micro_batch: int | None,
) -> None:
    """Evaluate a classifier, on its own validation and test or on other labelled sequences.

    RUN: a run of `dnamamba classify train`. Without --species, --table, --records or --regions the
    sequences are those that the run held out. All rows of a table, records or regions are
    evaluated; of species the test split.

    \b
    Examples:
      dnamamba classify eval runs/classify-demo-demo
      dnamamba classify eval runs/classify-demo-demo --lengths 1k,4k,16k
      dnamamba classify eval runs/classify-train-demo --table other.csv --out other
    """
    from dnamamba.classification.evaluate import evaluate_classifier
    from dnamamba.intervals import parse_size
    from dnamamba.training.config import RunOptions

    folder = out or run / "evaluation"
    lines = evaluate_classifier(
        run,
        folder,
        _source_config(run, source),
        lengths=tuple(map(parse_size, lengths.split(","))) if lengths else (),
        rc=rc,
        options=RunOptions(device=device, micro_batch=micro_batch),
    )
    echo_once(lambda: [*lines, f"Report: {folder / 'report.html'}"])


def _source_config(run: Path, source: LabelOptions) -> "LabelSource | None":
    """Config of the named sequences; None for the run's own."""
    from dnamamba.models.loading import task_of_model

    if source.named is None:
        refuse_typed(
            typed_options().keys() - set(_OF_ALL),
            "is for other sequences than the run's own, named by --species, --table, --records or "
            "--regions",
        )
        return None
    if source.named != "species":
        refuse_typed(
            ("valid_contigs", "test_contigs", "data_seed"),
            "holds sequences out, but all of these are evaluated",
        )
    elif "lengths" in typed_options():
        refuse_typed(("seq_len",), "and --lengths both say how long windows are")
    task = task_of_model(run)
    return replace(source, task=task.kind.replace("_", "-") if task else source.task).config()
