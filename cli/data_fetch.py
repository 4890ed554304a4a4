"""`dnamamba data fetch`: public genomes by name."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dnamamba.data_prep.downloads.catalogue import ApeAssembly, RemoteFile
    from dnamamba.data_prep.downloads.transfer import Progress, Say

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
@click.option(
    "--assembly",
    type=click.Choice(["t2t", "ucsc"]),
    help="great-apes: the complete genomes (t2t, the default) or UCSC's older ones.",
)
@click.option("--species", multiple=True, help="great-apes: take this one; may be repeated.")
@click.option("--list", "list_all", is_flag=True, help="Show what there is, and stop.")
def fetch(
    names: tuple[str, ...],
    out: Path,
    mirror: str | None,
    force: bool,
    assembly: str | None,
    species: tuple[str, ...],
    list_all: bool,
) -> None:
    """Download public genomes and splits, and check them.

    \b
    Examples:
      dnamamba data fetch --list
      dnamamba data fetch hg38 hg38-splits --out genomes
      dnamamba data fetch great-apes --species human --species gorilla

    A download that was interrupted goes on where it stopped when the same command runs again. On
    machines without a network use --mirror with a copy inside, such as file:///shared/genomes, or
    copy the files into FOLDER by hand: the command then checks them.
    """
    from dnamamba.data_prep.downloads.catalogue import GREAT_APES_NAME, dataset
    from dnamamba.data_prep.downloads.ncbi import ApeDownload

    if list_all:
        _print_list()
        return
    if not names:
        raise click.UsageError("name at least one data set; --list shows what there is")
    if (assembly or species) and GREAT_APES_NAME not in names:
        raise click.UsageError(f"--assembly and --species are for {GREAT_APES_NAME} alone")
    chosen = [dataset(name) for name in dict.fromkeys(names) if name != GREAT_APES_NAME]
    apes = _chosen_apes(assembly or "t2t", species) if GREAT_APES_NAME in names else []
    get = partial(_fetch_one, out=out, mirror=mirror, force=force)
    for entry in chosen:
        path = get(entry.file)
        if path.name.endswith(".fa.gz"):
            # Plain gzip has no random access.
            _print_prepare(path, path.with_name(path.name.removesuffix(".fa.gz") + ".h5"))
    say = partial(click.echo, err=True)
    ways = ApeDownload(folder=out, fetch=get, say=say, mirror=mirror, force=force)
    # The commands stand together at the end, after what may be hours.
    for files in [ways.run(ape) for ape in apes]:
        kind = "ucsc" if files.ape.database else "t2t"
        _print_prepare(files.fasta, out / f"{files.ape.species}-{kind}.h5", files.aliases)


def _fetch_one(remote: "RemoteFile", *, out: Path, mirror: str | None, force: bool) -> Path:
    from dnamamba.data_prep.downloads.catalogue import describe_checks
    from dnamamba.data_prep.downloads.transfer import download

    with _show_progress(remote.name) as (progress, say):
        path = download(remote, out, mirror=mirror, force=force, progress=progress, say=say)
    click.echo(f"{path} ({describe_checks(remote)})")
    return path


def _chosen_apes(assembly: str, species: tuple[str, ...]) -> list["ApeAssembly"]:
    from dnamamba.data_prep.downloads.catalogue import great_apes

    apes = great_apes()[assembly]
    if unknown := [name for name in species if name not in apes]:
        raise click.UsageError(
            f"great-apes --assembly {assembly} has no {unknown[0]!r}; it has {', '.join(apes)}"
        )
    return [ape for name, ape in apes.items() if not species or name in species]


def _print_prepare(fasta: Path, store: Path, aliases: Path | None = None) -> None:
    words = ["dnamamba", "data", "prepare", f"{fasta}"]
    words += ["--aliases", f"{aliases}"] if aliases is not None else []
    click.echo(f"next: {shlex.join([*words, '--out', f'{store}'])}")


def _print_list() -> None:
    from dnamamba.data_prep.downloads.catalogue import GREAT_APES_NAME, datasets, great_apes

    for entry in datasets().values():
        remote = entry.file
        click.echo(f"{entry.name}: {entry.description}")
        digests = {"md5": remote.md5, "sha256": remote.sha256}
        known = " and ".join(label for label, digest in digests.items() if digest)
        checks = f"{known or 'no checksum'} known{_note(remote.note)}"
        click.echo(f"    {remote.name}, {_in_megabytes(remote.size)}, {checks}")
        click.echo(f"    {remote.url}")
    for assembly, apes in great_apes().items():
        origin = "complete genomes, NCBI" if assembly == "t2t" else "older assemblies, UCSC"
        click.echo(
            f"{GREAT_APES_NAME} --assembly {assembly}: {origin}; md5 from the server's own list"
        )
        for ape in apes.values():
            place = ape.database or ape.accession
            size = _in_megabytes(ape.size)
            click.echo(f"    {ape.species}, {ape.name} ({place}), {size}{_note(ape.note)}")


@contextmanager
def _show_progress(name: str) -> Iterator[tuple["Progress", "Say"]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    from rich import progress as bars
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(name), partial(click.echo, err=True)
        return
    columns = bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn()
    text = bars.TextColumn("{task.description}")
    with bars.Progress(text, bars.BarColumn(), *columns, console=console) as shown:
        task = shown.add_task(name, total=None, visible=False)

        def move(done: int, total: int | None) -> None:
            shown.update(task, completed=done, total=total, visible=True)

        yield move, partial(console.print, markup=False, highlight=False, soft_wrap=True)


def _plain_progress(name: str) -> "Progress":
    last = 0

    def move(done: int, total: int | None) -> None:
        nonlocal last
        step = done * 10 // total if total else done // STEP_BYTES
        if step > last:
            whole = f" of {_in_megabytes(total)}" if total else ""
            click.echo(f"{name}: {_in_megabytes(done)}{whole}", err=True)
        last = step

    return move


def _note(text: str) -> str:
    return f"; {text}" if text else ""


def _in_megabytes(size: int | None) -> str:
    return f"{size / 1e6:,.1f} MB" if size else "size unknown"
