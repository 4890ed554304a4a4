"""What commands that write a row for each of their input's have in common: options and words."""

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from dnamamba.cli.options import SIZE, typed_options
from dnamamba.errors import InputError

if TYPE_CHECKING:
    from dnamamba.data_prep.genomes.genome import Genome
    from dnamamba.data_prep.regions.rows import RegionTable

Named = TypeVar("Named", str, Path)

_PROGRESS_SECONDS = 5

EDGE = click.option(
    "--edge",
    type=click.Choice(["shift", "pad", "clip"]),
    default="shift",
    show_default=True,
    help="Windows past a contig's end: moved inside, filled up with N or cut.",
)
SEQUENCE_COLUMN = click.option(
    "--sequence-column", metavar="NAME", help="Of a table. [default: sequence]"
)
NAME_COLUMN = click.option("--name-column", metavar="NAME", help="Of a table.")
BATCH_TOKENS = click.option(
    "--batch-tokens", type=SIZE, help="Tokens in one pass. [default: 1M on a GPU, 64k on a CPU]"
)
DEVICE = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32"]),
    default="auto",
    show_default=True,
    help="auto is bf16 on GPUs.",
)


def input_of(source: Named) -> Named | BinaryIO:
    """Standard input for -, else what was named."""
    return sys.stdin.buffer if str(source) == "-" else source


def refuse_idle_options(table: "RegionTable", genome: "Genome | None", *, is_widened: bool) -> None:
    """--genome beside sequences, which lie on none, and --edge where no window is wider than its
    region. is_widened: whether those of regions are."""
    if genome is not None and not table.has_surroundings:
        raise click.UsageError(
            "--genome is of regions and variants, and here are the sequences themselves: leave it "
            "out"
        )
    has_windows = table.has_alternatives or (table.has_surroundings and is_widened)
    if "edge" in typed_options() and not has_windows:
        raise click.UsageError(
            "--edge is of windows of a genome that are wider than the region, and here are none: "
            "leave it out"
        )


def refuse_output(out: Path, *inputs: Path, force: bool, example: str) -> None:
    """Raises InputError for a folder, one of the inputs itself and, without force, what exists.

    example: a file's name, for the message.
    """
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file, e.g. {out / example}")
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"--out {out} is the input: name another file")
    if out.exists() and not force:
        raise InputError(f"{out} exists already: use --force to replace it, or another --out")


class RowProgress:
    """Says on standard error every few seconds how far it is. what: the name of what is counted."""

    def __init__(self, what: str = "rows") -> None:
        self._what = what
        self._started = self._said = time.monotonic()

    def __call__(self, n_rows: int) -> None:
        now = time.monotonic()
        if now - self._said >= _PROGRESS_SECONDS:
            self._said = now
            rate = n_rows / (now - self._started)
            click.echo(f"{n_rows:,} {self._what}, {rate:,.0f} a second", err=True)


def conclude_rows(statuses: "Counter[Any]", out: Path, *, what: str, failure: str) -> None:
    """Say how many rows there are of each status; exit code 1 where nothing came out of any.

    what: the name of what is counted, in the plural. failure: what is said then.
    """
    from dnamamba.data_prep.regions.rows import WITHOUT_SEQUENCE

    total = statuses.total()
    if total == 0:
        click.echo(f"{out}: the input has no rows, so the file has none either", err=True)
        return
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
    counted = what.removesuffix("s") if total == 1 else what
    click.echo(f"{out}: {total:,} {counted}: {counts}", err=True)
    if not set(statuses) - WITHOUT_SEQUENCE:
        click.echo(f"Error: {failure}", err=True)
        click.get_current_context().exit(1)
