"""`dnamamba bench ...`: speed of this machine, after a check of the results."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import click

from dnamamba.cli.main import LazyGroup
from dnamamba.cli.options import Decorator, choice, file_option

bench = LazyGroup(
    {
        "scan": ("bench_scan.scan", "The selective scan beside attention and FFT."),
        "train": ("bench_train.train", "Whole training steps of named models."),
    },
    name="bench",
    help="""Measure the speed of operators and training steps; wrong results are not timed.

    \b
    Examples:
      dnamamba bench scan --plot scan.svg
      dnamamba bench train --run mamba-1.4m:8x128k
    """,
)

Row = TypeVar("Row")

JSON = file_option("--json json_path", "Write the numbers as JSON.", metavar="FILE")


def precision_option(flag: str, help: str) -> Decorator:
    """Return the option of auto, bf16 or fp32, stored as `precision`."""
    return choice(f"{flag} precision auto|bf16|fp32", help, default="auto")


def print_rows(header: str, rows: Iterable[Row], describe: Callable[[Row], str]) -> list[Row]:
    """Print each row as soon as it is there; return all."""
    click.echo(f"\n{header}")
    printed = []
    for row in rows:
        click.echo(describe(row))
        printed.append(row)
    return printed
