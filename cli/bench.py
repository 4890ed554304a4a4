"""`dnamamba bench ...`: how fast this machine is, after a check that what is timed is right."""

from typing import Any

import click

from dnamamba.cli.main import LazyGroup
from dnamamba.cli.options import FILE

bench = LazyGroup(
    {
        "scan": ("bench_scan.scan", "The selective scan beside attention and FFT."),
        "train": ("bench_train.train", "Whole training steps of named models."),
    },
    name="bench",
    help="""Measure how fast operators and training steps are here; nothing wrong is timed.

    \b
    Examples:
      dnamamba bench scan --plot scan.svg
      dnamamba bench train --run mamba-1.4m:8x128k
    """,
)

DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
JSON = click.option(
    "--json", "json_path", type=FILE, metavar="FILE", help="Write the numbers, too."
)


def precision_option(flag: str, help: str) -> Any:
    """auto, bf16 or fp32, as `precision`."""
    return click.option(
        flag,
        "precision",
        type=click.Choice(["auto", "bf16", "fp32"]),
        default="auto",
        show_default=True,
        help=help,
    )
