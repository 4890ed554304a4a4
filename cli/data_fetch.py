"""`dnamamba data fetch`: public genomes by name."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]

# Without a terminal a line is written per tenth of a file, or per so many bytes of unknown length.
STEP_BYTES = 100_000_000


@click.command(name="fetch")
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("."),
    show_default="the current folder",
    metavar="FOLDER",
    help="Where the files go; made if missing.",
)
@click.option(
    "--mirror",
    metavar="URL",
    help="Look for the same file names below this http, https or file address instead.",
)
@click.option("--force", is_flag=True, help="Download even what is there already.")
@click.option("--list", "list_all", is_flag=True, help="Show what there is, and stop.")
def fetch(
    names: tuple[str, ...], out: Path, mirror: str | None, force: bool, list_all: bool
) -> None:
    """Download public genomes and splits, and check them.

    \b
    Examples:
      dnamamba data fetch --list
      dnamamba data fetch hg38 hg38-splits --out genomes

    A download that was interrupted goes on where it stopped when the same command runs again. On
    machines without a network use --mirror with a copy inside, such as file:///shared/genomes, or
    copy the files into FOLDER by hand: the command then checks them.
    """
    from dnamamba.data_prep.download import download
    from dnamamba.data_prep.registry import dataset, describe_checks

    if list_all:
        _print_list()
        return
    if not names:
        raise click.UsageError("name at least one data set; --list shows what there is")
    for chosen in [dataset(name) for name in dict.fromkeys(names)]:
        for remote in chosen.files:
            with _show_progress(remote.name) as (progress, say):
                path = download(remote, out, mirror=mirror, force=force, progress=progress, say=say)
            click.echo(f"{path} ({describe_checks(remote)})")
            if path.name.endswith(".fa.gz"):
                # Plain gzip has no random access.
                store = path.with_name(path.name.removesuffix(".fa.gz") + ".h5")
                command = shlex.join(
                    ["dnamamba", "data", "prepare", f"{path}", "--out", f"{store}"]
                )
                click.echo(f"next: {command}")


def _print_list() -> None:
    from dnamamba.data_prep.registry import dataset, dataset_names

    for name in dataset_names():
        entry = dataset(name)
        click.echo(f"{name}: {entry.description}")
        for remote in entry.files:
            digests = {"md5": remote.md5, "sha256": remote.sha256}
            known = " and ".join(label for label, digest in digests.items() if digest)
            size = _in_megabytes(remote.size) if remote.size else "size unknown"
            note = f"; {remote.note}" if remote.note else ""
            click.echo(f"    {remote.name}, {size}, {known or 'no checksum'} known{note}")
            click.echo(f"    {remote.url}")


@contextmanager
def _show_progress(name: str) -> Iterator[tuple[Progress, Say]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(name), partial(click.echo, err=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(name, total=None, visible=False)

        def move(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total, visible=True)

        yield move, partial(console.print, markup=False, highlight=False, soft_wrap=True)


def _plain_progress(name: str) -> Progress:
    last = 0

    def move(done: int, total: int | None) -> None:
        nonlocal last
        step = done * 10 // total if total else done // STEP_BYTES
        if step > last:
            whole = f" of {_in_megabytes(total)}" if total else ""
            click.echo(f"{name}: {_in_megabytes(done)}{whole}", err=True)
        last = step

    return move


def _in_megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
