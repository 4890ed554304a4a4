"""`dnamamba data ...`: prepare and check genomes."""

from pathlib import Path

import click

from dnamamba.cli.main import LazyGroup
from dnamamba.cli.options import (
    FILE,
    SPECIES_OPTIONS,
    LabelledFiles,
    WindowOptions,
    species_config,
    window_options,
)

data = LazyGroup(
    {
        "info": ("data.info", "Contigs, letters, N and soft-masking of a file."),
        "prepare": ("data.prepare", "Write FASTA files into one fast store (HDF5)."),
        "check": ("data.check", "Windows of each split, and bases they share."),
        "fetch": ("data_fetch.fetch", "Download public genomes and splits."),
        "demo": ("data.demo", "Make the simulated great-ape demo genomes."),
    },
    name="data",
    help="""Look into, download, prepare, simulate and check genomes.

    \b
    Examples:
      dnamamba data fetch hg38-chr22
      dnamamba data prepare hg38-chr22.fa.gz --out chr22.h5
      dnamamba data info chr22.h5
    """,
)


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option(
    "--contigs",
    "n_contigs",
    type=int,
    default=20,
    show_default=True,
    help="Contigs shown, longest first.",
)
def info(files: tuple[Path, ...], n_contigs: int) -> None:
    """Contigs, letters, N and soft-masking of FASTA files (plain, gzip or BGZF) and stores.

    \b
    Example:
      dnamamba data info genome.fa.gz
    """
    from dnamamba.data_prep.genomes.summary import summarise_file

    for file in files:
        for line in summarise_file(file, n_contigs):
            click.echo(line)


@click.command()
@click.argument("files", nargs=-1, required=True, type=FILE)
@click.option("--out", type=FILE, required=True, help="The store to write, e.g. genome.h5.")
@click.option(
    "--aliases",
    type=FILE,
    metavar="TABLE",
    help="Rename contigs to chr1, chr2A ...: by NCBI's assembly report, UCSC's chromAlias or two "
    "columns, old and new name.",
)
@click.option("--force", is_flag=True, help="Replace a store that exists.")
def prepare(files: tuple[Path, ...], out: Path, aliases: Path | None, force: bool) -> None:
    """Write FASTA files (plain, gzip or BGZF) into one store that every worker maps into memory.

    Files of one call are one genome; prepare one store for each genome.

    \b
    Examples:
      dnamamba data prepare chr1.fa.gz chr2.fa.gz --out genome.h5
      dnamamba data prepare ape.fna.gz --aliases assembly_report.txt --out ape.h5
    """
    from dnamamba.data_prep.genomes.statistics import foreign_letters
    from dnamamba.data_prep.genomes.store import GenomeStore, prepare_store
    from dnamamba.data_prep.genomes.summary import count_contigs

    store = GenomeStore(prepare_store(files, out, force=force, aliases=aliases))
    n_contigs, n_bases = count_contigs(len(store.contigs)), sum(store.contigs.values())
    click.echo(f"{out}: {n_contigs}, {n_bases:,} bases, {out.stat().st_size:,} bytes")
    if warning := foreign_letters(store.statistics()):
        click.echo(f"{out}: {warning}", err=True)
    click.echo(f"Next: dnamamba pretrain {out}")


@click.command()
@click.argument("files", nargs=-1)
@SPECIES_OPTIONS[0]
@SPECIES_OPTIONS[1]
@window_options
def check(
    files: tuple[str, ...], species: LabelledFiles, split: str | None, windows: WindowOptions
) -> None:
    """Windows, bases, N and soft-masking of each split, and the bases that splits share.

    Shows the splits as training would use them and, with a BED, as the published window rules
    would. FILES as for pretrain; without any, the simulated demo genomes. Exit code 1 if training
    windows share bases with held-out ones.

    With --species: the contigs of each species and split, and contigs that are homologous to those
    of another split; exit code 1 if there are any, or if a species has no window.

    \b
    Examples:
      dnamamba data check hg38.h5 --bed hg38-splits.bed --seq-len 1M
      dnamamba data check --species human=human.h5 --species gorilla=gorilla.h5 --seq-len 16k
    """
    if species:
        lines, failed = _check_species(files, species, split, windows)
    elif split:
        raise click.UsageError("--split divides species: name them with --species LABEL=FILE")
    else:
        lines, failed = _check_windows(files, windows)
    for line in lines:
        click.echo(line)
    if failed:
        click.get_current_context().exit(1)


def _check_windows(files: tuple[str, ...], windows: WindowOptions) -> tuple[list[str], bool]:
    """Lines to print, and whether splits leak."""
    from dnamamba.data.split_check import check_splits
    from dnamamba.pretraining.config import DEMO
    from dnamamba.pretraining.run import open_named_genome

    names = files or (DEMO,)
    result = check_splits(open_named_genome(names), windows.data_config(names))
    return result.lines(), result.leaks


def _check_species(
    files: tuple[str, ...], species: LabelledFiles, split: str | None, windows: WindowOptions
) -> tuple[list[str], bool]:
    """Lines to print, and whether splits leak or cannot be used."""
    from dnamamba.data.species.check import check_species
    from dnamamba.data.species.dataset import open_species

    if files:
        raise click.UsageError(
            f"name genomes either with --species or as files, got both ({', '.join(files)})"
        )
    config = species_config(species, split, windows)
    result = check_species(open_species(config), config)
    return result.lines(), result.leaks or result.problem is not None


@click.command()
@click.option("--out", type=FILE, required=True, help="A new folder for the FASTA files.")
def demo(out: Path) -> None:
    """Make the simulated great-ape genomes: five species, five chromosomes, about 2 Mb each.

    They are simulated, not real sequence; the same files come out everywhere.

    \b
    Example:
      dnamamba data demo --out demo-genomes
    """
    from dnamamba.data_prep.demo.simulate import write_demo_genomes

    for species, path in write_demo_genomes(out).items():
        click.echo(f"simulated {species}: {path} ({path.stat().st_size:,} bytes)")
    click.echo(f"How they were made: {out / 'README.txt'}")
