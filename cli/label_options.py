"""Options that say where labelled sequences come from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import (
    FILE,
    LABELLED_FILES,
    SIZE,
    Command,
    apply_options,
    species_config,
    species_options,
    split_names,
)

SOURCES = ("species", "table", "records", "regions")
_SPECIES_OPTIONS = {
    "split": "--split",
    "bed": "--bed",
    "chromosomes": "--chromosomes",
    "steps_per_epoch": "--steps-per-epoch",
    "eval_windows": "--eval-windows",
    "no_length_warmup": "--no-length-warmup",
    "max_n_fraction": "--max-n-fraction",
}
_REGION_OPTIONS = {
    "genome": "--genome",
    "label_column": "--label-column",
    "group_by": "--group-by",
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
    return apply_options([*_what_to_read(), *_what_labels_are(), *_what_to_hold_out()], command)


def evaluation_options(command: Command) -> Command:
    """Where labelled sequences come from that a classifier, which knows its task, is judged on."""
    return apply_options(_what_to_read(), command)


def _what_to_read() -> list[Callable[[Command], Command]]:
    return [species_options, *_labelled_files(), *_windows()]


def _labelled_files() -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--table", type=FILE, help="CSV, TSV or parquet with a sequence and a label in a row."
        ),
        click.option("--sequence-column", metavar="NAME", help="[default: sequence]"),
        click.option("--label-columns", metavar="NAMES", help="Comma-separated. [default: label]"),
        click.option(
            "--records",
            type=LABELLED_FILES,
            multiple=True,
            metavar="LABEL=FASTA[,FASTA...]",
            help="A class and a FASTA of which each record is an example. Repeat it.",
        ),
        click.option(
            "--regions", type=FILE, help="BED of which the fourth column is the label; --genome."
        ),
        click.option("--genome", multiple=True, type=FILE, help="What the regions lie on."),
        click.option("--label-column", type=int, help="Column of the BED. [default: 4]"),
    ]


def _windows() -> list[Callable[[Command], Command]]:
    """How long they are, which of species and regions are held out, how species are drawn."""
    return [
        click.option(
            "--seq-len",
            type=SIZE,
            help="Bases in a window. [default: species 1k; else the longest sequence]",
        ),
        click.option(
            "--bed",
            type=FILE,
            help="Species: a BED that rules the splits (label/contig, start, end, "
            "train|valid|test).",
        ),
        click.option(
            "--valid-contigs",
            metavar="NAMES",
            help="Of species and regions: contigs for validation, comma-separated; * matches "
            "anything.",
        ),
        click.option("--test-contigs", metavar="NAMES", help="Contigs for the test, likewise."),
        click.option(
            "--max-n-fraction",
            type=float,
            help="Windows of species with a larger share of N are never drawn. [default: 0.5]",
        ),
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
            "--data-seed",
            type=int,
            default=0,
            show_default=True,
            help="Order, windows, and what is cut off for validation and test.",
        ),
    ]


def _what_labels_are() -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--task",
            type=click.Choice(["multiclass", "multilabel", "regression", "per-base"]),
            default="multiclass",
            show_default=True,
            help="What labels are: one class a sequence, several, numbers, or one a base.",
        ),
    ]


def _what_to_hold_out() -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--group-by",
            type=click.Choice(["contig", "overlap"]),
            help="Regions that are held out together: of a contig, or those that overlap. "
            "[default: contig]",
        ),
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
        click.option(
            "--rc-augment/--no-rc-augment",
            default=None,
            help="Train on either strand, by a coin. [default: of species]",
        ),
        click.option(
            "--mutation-rate",
            type=float,
            default=0.0,
            show_default=True,
            help="Share of training bases that are changed at random.",
        ),
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
        of_others |= _REGION_OPTIONS
    if source not in ("species", "regions"):
        of_others |= {"valid_contigs": "--valid-contigs", "test_contigs": "--test-contigs"}
    if source == "species":
        of_others |= {
            "valid_fraction": "--valid-fraction",
            "test_fraction": "--test-fraction",
        }
        if values["task"] != "multiclass":
            raise click.UsageError(
                f"species make a multiclass task, not {values['task']}: name --table, --records or "
                "--regions"
            )
    for name, option in of_others.items():
        value = values.get(name)
        # 0 equals False, but is a value that was named.
        if not (value is None or value is False or value == ()):
            raise click.UsageError(f"{option} has no meaning for --{source}: leave it out")


def _species(values: dict[str, Any], epoch_size: int) -> Any:
    from dnamamba.classification.config import demo_species
    from dnamamba.data.species.dataset import warmup_lengths

    seq_len = values["seq_len"] or 1024
    limit = values["max_n_fraction"]
    chosen = values | {"seq_len": seq_len, "max_n_fraction": 0.5 if limit is None else limit}
    if not values["species"]:
        chosen["species"] = [(each.label, each.files) for each in demo_species()]
        if not any(values[name] for name in ("split", "bed", "valid_contigs", "test_contigs")):
            # Chromosomes of one name are homologous; those of pretraining are held out here too.
            chosen |= {"valid_contigs": "chr5", "test_contigs": "chr4"}
    return replace(
        species_config(chosen),
        chromosomes=values["chromosomes"] or "uniform",
        warmup_lengths=() if values.get("no_length_warmup") else warmup_lengths(seq_len),
        rc_augment=values.get("rc_augment") is not False,
        mutation_rate=values.get("mutation_rate", 0.0),
        epoch_size=epoch_size,
        n_eval=values["eval_windows"] or 1000,
    )


def _table(values: dict[str, Any]) -> Any:
    from dnamamba.data.labelled.config import TableConfig

    named: dict[str, Any] = {
        name: values[name]
        for name in ("sequence_column", "split_column", "group_column")
        if values.get(name)
    }
    for name in ("valid", "test"):
        if path := values.get(f"{name}_table"):
            named[name] = _path(path)
    if values["label_columns"]:
        named["label_columns"] = split_names(values["label_columns"])
    return TableConfig(
        train=_path(values["table"]),
        **named,
        **_common(values),
    )


def _records(values: dict[str, Any]) -> Any:
    from dnamamba.data.labelled.config import LabelFiles, RecordsConfig

    entries = tuple(
        LabelFiles(label=label, files=tuple(map(_path, files)))
        for label, files in values["records"]
    )
    return RecordsConfig(records=entries, **_common(values))


def _regions(values: dict[str, Any]) -> Any:
    from dnamamba.data.labelled.config import RegionsConfig

    return RegionsConfig(
        regions=_path(values["regions"]),
        genome=tuple(_path(path) for path in values["genome"]),
        label_column=4 if values["label_column"] is None else values["label_column"],
        group_by=values.get("group_by") or "contig",
        valid_contigs=split_names(values["valid_contigs"]),
        test_contigs=split_names(values["test_contigs"]),
        **_common(values),
    )


def _common(values: dict[str, Any]) -> dict[str, Any]:
    from dnamamba.data.labelled.config import SplitShares

    shares = {
        name: values[name]
        for name in ("valid_fraction", "test_fraction")
        if values.get(name) is not None
    }
    return {
        "task_kind": values["task"].replace("-", "_"),
        "shares": SplitShares(seed=values["data_seed"], **shares),
        "seq_len": values["seq_len"],
        "rc_augment": bool(values.get("rc_augment")),
        "mutation_rate": values.get("mutation_rate", 0.0),
        "seed": values["data_seed"],
    }


def _path(path: Path | str) -> str:
    return str(Path(path).resolve())
