"""Options that say where labelled sequences come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import FILE, SIZE, Command, apply_options

SOURCES = ("species", "table", "records", "regions")
_SPECIES_OPTIONS = {
    "split": "--split",
    "bed": "--bed",
    "chromosomes": "--chromosomes",
    "steps_per_epoch": "--steps-per-epoch",
    "eval_windows": "--eval-windows",
    "no_length_warmup": "--no-length-warmup",
}
_TABLE_OPTIONS = {
    "valid_table": "--valid-table",
    "test_table": "--test-table",
    "sequence_column": "--sequence-column",
    "label_columns": "--label-columns",
    "split_column": "--split-column",
    "group_column": "--group-column",
}


def source_options(command: Command) -> Command:
    """Where labelled sequences come from, and what of them is held out."""
    return apply_options([*_what_to_read(), *_what_to_hold_out()], command)


def evaluation_options(command: Command) -> Command:
    """Where labelled sequences come from that are all judged."""
    return apply_options(_what_to_read(), command)


def _what_to_read() -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--species",
            multiple=True,
            metavar="LABEL=FILE[,FILE...]",
            help="A species and its genome (FASTA or store): windows of it are drawn. Repeat it.",
        ),
        click.option(
            "--table", type=FILE, help="CSV, TSV or parquet with a sequence and a label in a row."
        ),
        click.option("--sequence-column", metavar="NAME", help="[default: sequence]"),
        click.option("--label-columns", metavar="NAMES", help="Comma-separated. [default: label]"),
        click.option(
            "--records",
            multiple=True,
            metavar="LABEL=FASTA",
            help="A class and a FASTA of which each record is an example. Repeat it.",
        ),
        click.option(
            "--regions", type=FILE, help="BED of which the fourth column is the label; --genome."
        ),
        click.option("--genome", multiple=True, type=FILE, help="What the regions lie on."),
        click.option("--label-column", type=int, help="Column of the BED. [default: 4]"),
        click.option(
            "--task",
            type=click.Choice(["multiclass", "multilabel", "regression", "per-base"]),
            default="multiclass",
            show_default=True,
            help="What labels are: one class a sequence, several, numbers, or one a base.",
        ),
        click.option(
            "--seq-len",
            type=SIZE,
            help="Bases in a window. [default: species 1k; else the longest sequence]",
        ),
        click.option(
            "--split",
            type=click.Choice(["homology", "hyenadna"]),
            help="What of species is held out: by homology to human chromosomes, or as published. "
            "[default: homology]",
        ),
        click.option(
            "--bed", type=FILE, help="Or a BED (label/contig, start, end, train|valid|test)."
        ),
        click.option("--valid-contigs", metavar="NAMES", help="Or contigs for validation ..."),
        click.option("--test-contigs", metavar="NAMES", help="... and for the test; * matches."),
        click.option(
            "--chromosomes",
            type=click.Choice(["uniform", "length", "callable"]),
            help="How a chromosome of a species is drawn. [default: uniform]",
        ),
        click.option(
            "--eval-windows",
            type=click.IntRange(min=1),
            help="Windows of species that are judged. [default: 1000]",
        ),
        click.option(
            "--data-seed", type=int, default=0, show_default=True, help="Order and windows."
        ),
    ]


def _what_to_hold_out() -> list[Callable[[Command], Command]]:
    return [
        click.option("--valid-table", type=FILE, help="Another table, for validation."),
        click.option("--test-table", type=FILE, help="Another table, for the test."),
        click.option(
            "--split-column", metavar="NAME", help="Column that says train, valid or test."
        ),
        click.option(
            "--group-column", metavar="NAME", help="Rows of one group are held out together."
        ),
        click.option(
            "--valid-fraction", type=float, help="Share of sequences for validation. [default: 0.1]"
        ),
        click.option(
            "--test-fraction", type=float, help="Share of sequences for the test. [default: 0.1]"
        ),
        click.option("--rc-augment", is_flag=True, help="Train on either strand, by a coin."),
    ]


def source_config(values: dict[str, Any], *, epoch_size: int) -> Any:
    """The config that `source_options` describe; the simulated great apes where none is named.

    epoch_size: windows of species that make an epoch.
    """
    named = [name for name in SOURCES if values[name]]
    if len(named) > 1:
        raise click.UsageError(
            f"--{named[0]} and --{named[1]} are two sources of labelled sequences: name one"
        )
    source = named[0] if named else "species"
    _refuse_strangers(values, source)
    if source == "species":
        return _species(values, epoch_size)
    return {"table": _table, "records": _records, "regions": _regions}[source](values)


def _refuse_strangers(values: dict[str, Any], source: str) -> None:
    """An option that the source does not know would be ignored."""
    of_others: dict[str, str] = {}
    if source != "species":
        of_others |= _SPECIES_OPTIONS
    if source != "table":
        of_others |= _TABLE_OPTIONS
    if source != "regions":
        of_others |= {"genome": "--genome", "label_column": "--label-column"}
    if source not in ("species", "regions"):
        of_others |= {"valid_contigs": "--valid-contigs", "test_contigs": "--test-contigs"}
    if source == "species":
        of_others |= {
            "valid_fraction": "--valid-fraction",
            "test_fraction": "--test-fraction",
            "rc_augment": "--rc-augment",
        }
        if values["task"] != "multiclass":
            raise click.UsageError("species are classes: --task is for other sources")
    for name, option in of_others.items():
        if values.get(name):
            raise click.UsageError(f"{option} has no meaning for --{source}: leave it out")


def _species(values: dict[str, Any], epoch_size: int) -> Any:
    from dnamamba.classify_config import demo_species
    from dnamamba.data.species import SpeciesConfig, SpeciesFiles, warmup_lengths

    valid, test = (_names(values[key]) for key in ("valid_contigs", "test_contigs"))
    if values["species"]:
        species = tuple(SpeciesFiles(*pair) for pair in _labelled_files(values["species"]))
    else:
        species = demo_species()
        if not (valid or test or values["bed"] or values["split"]):
            # Chromosomes of one name are homologous; those of pretraining are held out here too.
            valid, test = ("chr5",), ("chr4",)
    split = values["split"]
    if split is None:
        split = "bed" if values["bed"] else "contigs" if valid or test else "homology"
    seq_len = values["seq_len"] or 1024
    return SpeciesConfig(
        species=species,
        seq_len=seq_len,
        split=split,
        valid_contigs=valid,
        test_contigs=test,
        bed=None if values["bed"] is None else str(values["bed"].resolve()),
        chromosomes=values["chromosomes"] or "uniform",
        warmup_lengths=() if values.get("no_length_warmup") else warmup_lengths(seq_len),
        epoch_size=epoch_size,
        n_eval=values["eval_windows"] or 1000,
        seed=values["data_seed"],
    )


def _table(values: dict[str, Any]) -> Any:
    from dnamamba.data.label_configs import TableConfig

    named: dict[str, Any] = {
        name: values[name]
        for name in ("sequence_column", "split_column", "group_column")
        if values.get(name)
    }
    for name in ("valid", "test"):
        if path := values.get(f"{name}_table"):
            named[name] = _path(path)
    if values["label_columns"]:
        named["label_columns"] = _names(values["label_columns"])
    return TableConfig(
        train=_path(values["table"]),
        **named,
        **_common(values),
    )


def _records(values: dict[str, Any]) -> Any:
    from dnamamba.data.label_configs import LabelFiles, RecordsConfig

    pairs = _labelled_files(values["records"])
    entries = tuple(LabelFiles(label=label, files=files) for label, files in pairs)
    return RecordsConfig(records=entries, **_common(values))


def _regions(values: dict[str, Any]) -> Any:
    from dnamamba.data.label_configs import RegionsConfig

    return RegionsConfig(
        regions=_path(values["regions"]),
        genome=tuple(_path(path) for path in values["genome"]),
        label_column=values["label_column"] or 4,
        valid_contigs=_names(values["valid_contigs"]),
        test_contigs=_names(values["test_contigs"]),
        **_common(values),
    )


def _common(values: dict[str, Any]) -> dict[str, Any]:
    from dnamamba.data.label_configs import SplitShares

    shares = {
        name: values[name]
        for name in ("valid_fraction", "test_fraction")
        if values.get(name) is not None
    }
    return {
        "task_kind": values["task"].replace("-", "_"),
        "shares": SplitShares(**shares),
        "seq_len": values["seq_len"],
        "rc_augment": bool(values.get("rc_augment")),
        "seed": values["data_seed"],
    }


def _labelled_files(texts: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """`label=a.fa,b.fa`, each."""
    pairs = []
    for text in texts:
        label, equals, files = text.partition("=")
        paths = tuple(_path(Path(name)) for name in files.split(",") if name.strip())
        if not equals or not label.strip() or not paths:
            raise click.UsageError(f"a class is written label=file.fa, got {text!r}")
        pairs.append((label.strip(), paths))
    return pairs


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _path(path: Path) -> str:
    return str(Path(path).expanduser().resolve())
