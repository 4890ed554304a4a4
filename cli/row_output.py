"""What commands share that write a row for each row of their input: options, checks, messages."""

import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from dnamamba.cli.options import choice, option, size_option, typed_options
from dnamamba.errors import InputError

if TYPE_CHECKING:
    import torch

    from dnamamba.data_prep.genomes.genome import Genome
    from dnamamba.data_prep.regions.rows import RegionTable

Named = TypeVar("Named", str, Path)

_PROGRESS_SECONDS = 5

EDGE = choice(
    "--edge shift|pad|clip",
    "Windows past a contig's end are moved inside, filled up with N, or cut.",
    default="shift",
)
SEQUENCE_COLUMN = option(
    "--sequence-column", "Column of a table. [default: sequence]", metavar="NAME"
)
NAME_COLUMN = option("--name-column", "Column of a table. [default: name]", metavar="NAME")
BATCH_TOKENS = size_option(
    "--batch-tokens", "Tokens in one pass. [default: 1M on a GPU, 64k on a CPU]"
)
PRECISION = choice("--precision auto|bf16|fp32", "auto is bf16 on GPUs.", default="auto")


@dataclass(frozen=True, kw_only=True)
class RowTarget:
    """Where rows are written: --out, - for standard output, and --force."""

    out: Path
    force: bool
    output_format: Any = None

    @property
    def is_piped(self) -> bool:
        return str(self.out) == "-"

    @property
    def file(self) -> Path | BinaryIO:
        return sys.stdout.buffer if self.is_piped else self.out

    def check(self, *inputs: Path, example: str) -> None:
        """`refuse_output`; standard output is never refused."""
        if not self.is_piped:
            refuse_output(self.out, *inputs, force=self.force, example=example)


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How a model is run: --batch-tokens, --device and --precision."""

    batch_tokens: int | None
    device: str
    precision: str

    def choose(self) -> "tuple[torch.device, torch.dtype | None]":
        """The device, and the dtype of matrix products (None: float32)."""
        from dnamamba.runtime import choose_device, choose_precision

        device = choose_device(self.device)
        return device, choose_precision(self.precision, device)


def input_of(source: Named) -> Named | BinaryIO:
    """Standard input for -, else the name itself."""
    return sys.stdin.buffer if str(source) == "-" else source


def refuse_idle_options(table: "RegionTable", genome: "Genome | None", *, is_widened: bool) -> None:
    """Refuse --genome for sequences, and --edge if no window is wider than its region.

    is_widened: whether windows of regions are.
    """
    if genome is not None and not table.has_surroundings:
        raise click.UsageError(
            "--genome is for regions and variants, but the input has the sequences themselves: "
            "leave it out"
        )
    has_windows = table.has_alternatives or (table.has_surroundings and is_widened)
    if "edge" in typed_options() and not has_windows:
        raise click.UsageError(
            "--edge is for windows of a genome that are wider than the region, but here are "
            "none: leave it out"
        )


def refuse_output(out: Path, *inputs: Path, force: bool, example: str) -> None:
    """Raise InputError if --out is a folder or an input, or exists without `force`.

    example: a file's name, for the message.
    """
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file, e.g. {out / example}")
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"--out {out} is the input: name another file")
    if out.exists() and not force:
        raise InputError(f"{out} exists already: use --force to replace it, or another --out")


class RowProgress:
    """Prints progress to standard error every few seconds. what: what is counted, plural."""

    def __init__(self, what: str = "rows") -> None:
        self._what = what
        self._started = self._printed = time.monotonic()

    def __call__(self, n_rows: int) -> None:
        now = time.monotonic()
        if now - self._printed >= _PROGRESS_SECONDS:
            self._printed = now
            rate = n_rows / (now - self._started)
            click.echo(f"{n_rows:,} {self._what}, {rate:,.0f} a second", err=True)


def conclude_rows(statuses: "Counter[Any]", out: Path, *, what: str, failure: str) -> None:
    """Print how many rows have each status; exit with code 1 if no row has a result.

    what: what is counted, plural. failure: message for that exit.
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
