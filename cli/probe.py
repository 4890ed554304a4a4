"""`dnamamba probe`."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import FILE, typed_options


@click.command()
@click.argument("embeddings", type=FILE, metavar="EMBEDDINGS")
@click.option(
    "--labels", type=FILE, required=True, help="TSV, CSV or parquet with a label in a row."
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    default="classification",
    show_default=True,
    help="Whether labels are classes or numbers.",
)
@click.option("--label-column", metavar="NAME", default="label", show_default=True)
@click.option(
    "--join",
    type=click.Choice(["name", "region", "row"]),
    help="How rows of labels are matched to embeddings. [default: the column of names if the "
    "table has one, else chrom, start, end, else the order]",
)
@click.option(
    "--name-column", metavar="NAME", default="name", show_default=True, help="Column to join by."
)
@click.option("--group-column", metavar="NAME", help="Rows of one group stay in one fold.")
@click.option(
    "--group-by",
    type=click.Choice(["chrom", "overlap", "none"]),
    help="Groups are contigs, or regions that overlap. [default: overlap, if any do]",
)
@click.option(
    "--split-column",
    metavar="NAME",
    help="Column of train, valid and test: fit to train, evaluate on test, instead of folds.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option(
    "--model",
    type=click.Choice(["logistic", "ridge", "forest"]),
    help="[default: logistic for classes, ridge for numbers]",
)
@click.option(
    "--layer",
    default="-1",
    show_default=True,
    help="Layer of the file that is probed, -1 its last; all compares them.",
)
@click.option(
    "--genome", type=FILE, multiple=True, help="FASTA or store of the regions, for the baseline."
)
@click.option(
    "--sequences", type=FILE, help="FASTA or table (sequence, name) instead, for the baseline."
)
@click.option(
    "--max-k",
    type=click.IntRange(1, 8),
    default=6,
    show_default=True,
    help="Bases of the longest words that the baseline counts.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="How folds are cut.",
)
@click.option("--out", type=FILE, help="Folder. [default: EMBEDDINGS with .probe as its ending]")
@click.option("--force", is_flag=True, help="Replace an earlier probe in that folder.")
def probe(embeddings: Path, out: Path | None, **values: Any) -> None:
    """Probe embeddings: fit a model to labels and evaluate it on rows held out.

    EMBEDDINGS is a file of `dnamamba embed`. Penalties and layers are chosen inside the rows that
    are fitted to. If sequences are given, a linear model of k-mer frequencies is the baseline.

    \b
    Examples:
      dnamamba probe peaks.h5 --labels peaks.tsv --genome hg38.h5
      dnamamba probe peaks.h5 --labels peaks.tsv --group-by chrom --layer all
      dnamamba probe reads.h5 --labels x.csv --task regression --sequences reads.fa
    """
    from dnamamba.probing.labels import LabelTable
    from dnamamba.probing.problem import ProbeConfig
    from dnamamba.probing.report import write_probe_report
    from dnamamba.probing.run import probe_embeddings

    _refuse_idle(values)
    folder = out or embeddings.with_suffix(".probe")
    _refuse_output(folder, force=values["force"])
    layers, info = _layers(embeddings, values["layer"])
    columns = ("label_column", "name_column", "group_column", "split_column", "join")
    config = ("task", "model", "folds", "group_by", "max_k", "seed")
    result = probe_embeddings(
        layers,
        LabelTable(path=values["labels"], **{name: values[name] for name in columns}),
        ProbeConfig(**{name: values[name] for name in config}),
        sequences=_sequences(values["genome"], values["sequences"]),
        source={"file": embeddings.name, **info},
    )
    result.write(folder)
    report = write_probe_report(folder)
    for line in result.described():
        click.echo(line)
    click.echo(f"Report: {report}")


def _refuse_idle(values: dict[str, Any]) -> None:
    """Refuse options that would be ignored or contradict each other."""
    typed = typed_options()
    if values["genome"] and values["sequences"]:
        raise click.UsageError("--genome and --sequences both say what was embedded: name one")
    if "folds" in typed and values["split_column"]:
        raise click.UsageError("--folds and --split-column both say what is held out: name one")
    if "max_k" in typed and not (values["genome"] or values["sequences"]):
        raise click.UsageError(
            "--max-k is of the k-mer baseline, which needs the sequences: name --genome or "
            "--sequences too"
        )


def _refuse_output(folder: Path, *, force: bool) -> None:
    from dnamamba.errors import InputError
    from dnamamba.probing.run import FILES

    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder} is a file: name a folder")
    # Hidden ones are what a run that was killed left.
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if there - set(FILES):
        raise InputError(f"--out {folder} is a folder with other files in it: name a new one")
    if there and not force:
        raise InputError(
            f"{folder} holds a probe already: use --force to replace it, or another --out"
        )


def _layers(path: Path, wanted: str) -> tuple[Sequence[Any], dict[str, Any]]:
    """The layers to probe, and the file's description."""
    from dnamamba.embedding.reader import read_embeddings
    from dnamamba.errors import InputError
    from dnamamba.probing.problem import Layer

    if wanted != "all" and not wanted.removeprefix("-").isdigit():
        raise InputError(f"--layer must be a number or all, got {wanted!r}")
    info = read_embeddings(path).info
    there = sorted(info.layers)
    chosen = there if wanted == "all" else [there[-1] if wanted == "-1" else int(wanted)]
    if not set(chosen) <= set(there):
        raise InputError(
            f"{path} has no layer {wanted}: it has {', '.join(map(str, there))} (--layer), -1 is "
            "the last of them; embed with more (--layers)"
        )
    layers = [
        Layer(f"layer {number}", partial(read_embeddings, path, layer=number)) for number in chosen
    ]
    # Paths are of the machine that embedded.
    return layers, asdict(info) | {"model": Path(str(info.model)).name}


def _sequences(genome: Sequence[Path], file: Path | None) -> Any:
    """A reader of the baseline's sequences; None if none are named."""
    from dnamamba.data_prep.genomes.genome import open_genome
    from dnamamba.probing.sequences import sequences_in, sequences_of, span_of

    if file is not None:
        return lambda embedded, rows: sequences_in(
            file, [str(name) for name in embedded.table["name"][rows]]
        )
    if not genome:
        return None
    opened = open_genome(genome)
    return lambda embedded, rows: list(sequences_of(embedded, opened, span_of(embedded), rows))
