"""`dnamamba bench ...`: how fast this machine is, after a check that what is timed is right."""

from dnamamba.cli.main import LazyGroup
from dnamamba.cli.options import Decorator, choice, file_option

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

JSON = file_option("--json json_path", "Write the numbers, too.", metavar="FILE")


def precision_option(flag: str, help: str) -> Decorator:
    """auto, bf16 or fp32, as `precision`."""
    return choice(f"{flag} precision auto|bf16|fp32", help, default="auto")
