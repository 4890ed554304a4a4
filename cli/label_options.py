"""Options for the source of labelled sequences."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import (
    LABELLED_FILES,
    SPECIES_OPTIONS,
    Decorator,
    HeldOut,
    LabelledFiles,
    absolute,
    choice,
    file_option,
    grouped,
    integer,
    number,
    option,
    refuse_typed,
    size_option,
    species_config,
    split_names,
    switch,
    whole,
)

if TYPE_CHECKING:
    from dnamamba.classification.config import LabelSource
    from dnamamba.data.labelled.config import RecordsConfig, RegionsConfig, TableConfig
    from dnamamba.data.species.dataset import SpeciesConfig

_KNOWN_BY = {
    **dict.fromkeys(
        ("split", "bed", "chromosomes", "steps_per_epoch", "eval_windows", "no_length_warmup"),
        ("species",),
    ),
    "max_n_fraction": ("species",),
    **dict.fromkeys(("genome", "label_column", "group_by"), ("regions",)),
    **dict.fromkeys(("valid_table", "test_table", "sequence_column"), ("table",)),
    **dict.fromkeys(("label_columns", "split_column", "group_column"), ("table",)),
    **dict.fromkeys(("valid_contigs", "test_contigs"), ("species", "regions")),
    **dict.fromkeys(("valid_fraction", "test_fraction"), ("table", "records", "regions")),
}
"""Sources that know an option; all know the others."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions(HeldOut):
    """Labelled sequences, and which are held out. Defaults are for commands without the option."""

    species: LabelledFiles
    split: Any
    table: Path | None
    sequence_column: str | None
    label_columns: str | None
    records: LabelledFiles
    regions: Path | None
    genome: tuple[Path, ...]
    label_column: int | None
    chromosomes: Any
    eval_windows: int | None
    task: str = "multiclass"
    group_by: Any = None
    valid_table: Path | None = None
    test_table: Path | None = None
    split_column: str | None = None
    group_column: str | None = None
    valid_fraction: float | None = None
    test_fraction: float | None = None
    rc_augment: bool | None = None
    mutation_rate: float = 0.0
    steps_per_epoch: int | None = None
    no_length_warmup: bool = False

    @property
    def named(self) -> str | None:
        """The named source: species, table, records or regions."""
        names = [name for name in ("species", "table", "records", "regions") if getattr(self, name)]
        if len(names) > 1:
            raise click.UsageError(
                f"--{names[0]} and --{names[1]} are two sources of labelled sequences: name one"
            )
        return names[0] if names else None

    def config(self) -> "LabelSource":
        """Config of the named source; without one, of the simulated great apes."""
        source = self.named or "species"
        if source == "species" and self.task != "multiclass":
            raise click.UsageError(
                f"species make a multiclass task, not {self.task}: name --table, --records or "
                "--regions"
            )
        foreign = [name for name, known_by in _KNOWN_BY.items() if source not in known_by]
        refuse_typed(foreign, f"has no meaning for --{source}")
        build: Callable[[], LabelSource] = getattr(self, f"_{source}")
        return build()

    def _species(self) -> "SpeciesConfig":
        from dnamamba.data.species.dataset import warmup_lengths

        config = species_config(self.species, self.split, self)
        return replace(
            config,
            chromosomes=self.chromosomes or config.chromosomes,
            warmup_lengths=() if self.no_length_warmup else warmup_lengths(config.seq_len),
            rc_augment=self.rc_augment is not False,
            mutation_rate=self.mutation_rate,
            n_eval=self.eval_windows or config.n_eval,
        )

    def _table(self) -> "TableConfig":
        from dnamamba.data.labelled.config import TableConfig

        named: dict[str, Any] = {
            "sequence_column": self.sequence_column,
            "split_column": self.split_column,
            "group_column": self.group_column,
            "label_columns": split_names(self.label_columns),
            "valid": self.valid_table and absolute(self.valid_table),
            "test": self.test_table and absolute(self.test_table),
        }
        given = {name: value for name, value in named.items() if value}
        return TableConfig(train=absolute(self.table or ""), **given, **self._common())

    def _records(self) -> "RecordsConfig":
        from dnamamba.data.labelled.config import LabelFiles, RecordsConfig

        named = [(label, tuple(map(absolute, files))) for label, files in self.records]
        entries = tuple(LabelFiles(label=label, files=files) for label, files in named)
        return RecordsConfig(records=entries, **self._common())

    def _regions(self) -> "RegionsConfig":
        from dnamamba.data.labelled.config import RegionsConfig

        return RegionsConfig(
            regions=absolute(self.regions or ""),
            genome=tuple(map(absolute, self.genome)),
            label_column=4 if self.label_column is None else self.label_column,
            group_by=self.group_by or "contig",
            valid_contigs=split_names(self.valid_contigs),
            test_contigs=split_names(self.test_contigs),
            **self._common(),
        )

    def _common(self) -> dict[str, Any]:
        from dnamamba.data.labelled.config import SplitShares

        shares = {"valid_fraction": self.valid_fraction, "test_fraction": self.test_fraction}
        given = {name: value for name, value in shares.items() if value is not None}
        return {
            "task_kind": self.task.replace("-", "_"),
            "shares": SplitShares(seed=self.data_seed, **given),
            "seq_len": self.seq_len,
            "rc_augment": bool(self.rc_augment),
            "mutation_rate": self.mutation_rate,
            "seed": self.data_seed,
        }


_FILES: list[Decorator] = [
    file_option("--table", "CSV, TSV or parquet with a sequence and a label in a row."),
    option("--sequence-column", "[default: sequence]", metavar="NAME"),
    option("--label-columns", "Comma-separated. [default: label]", metavar="NAMES"),
    option(
        "--records",
        "A class and a FASTA of which each record is an example. Repeat it.",
        type=LABELLED_FILES,
        multiple=True,
        metavar="LABEL=FASTA[,FASTA...]",
    ),
    file_option("--regions", "BED of which the fourth column is the label; --genome."),
    file_option("--genome", "What the regions lie on.", multiple=True),
    integer("--label-column", "Column of the BED. [default: 4]"),
]
_WINDOWS: list[Decorator] = [
    size_option("--seq-len", "Bases in a window. [default: species 1k; else the longest sequence]"),
    file_option("--bed", "Species: BED of the splits: label/contig, start, end, train|valid|test."),
    option(
        "--valid-contigs",
        "Species and regions: contigs for validation, comma-separated; * matches anything.",
        metavar="NAMES",
    ),
    option("--test-contigs", "Contigs for the test, likewise.", metavar="NAMES"),
    number("--max-n-fraction", "Species: skip windows with a larger share of N. [default: 0.5]"),
    choice(
        "--chromosomes uniform|length|callable",
        "How a chromosome of a species is drawn. [default: uniform]",
    ),
    whole("--eval-windows", "Windows of species that are evaluated. [default: 1000]"),
    integer("--data-seed", "Order, windows, and what is held out.", default=0),
]
_TASK_AND_HELD_OUT: list[Decorator] = [
    choice(
        "--task multiclass|multilabel|regression|per-base",
        "What labels are: one class a sequence, several, numbers, or one a base.",
        default="multiclass",
    ),
    choice(
        "--group-by contig|overlap",
        "Hold out all regions of a contig, or those that overlap. [default: contig]",
    ),
    file_option("--valid-table", "Another table, for validation."),
    file_option("--test-table", "Another table, for the test."),
    option("--split-column", "Column that says train, valid or test.", metavar="NAME"),
    option("--group-column", "Rows of one group are held out together.", metavar="NAME"),
    number("--valid-fraction", "Share of sequences for validation. [default: 0.1]"),
    number("--test-fraction", "Share of sequences for the test. [default: 0.1]"),
    click.option(
        "--rc-augment/--no-rc-augment",
        default=None,
        help="Train on either strand, by a coin. [default: of species]",
    ),
    number("--mutation-rate", "Share of training bases that are changed at random.", default=0.0),
    whole(
        "--steps-per-epoch", "Species: batches of an epoch. [default: 1024 on a GPU, 64 on a CPU]"
    ),
    switch("--no-length-warmup", "Species: no shorter windows (16k, 32k, ...) in early epochs."),
]

source_options = grouped(
    "source", LabelOptions, [*SPECIES_OPTIONS, *_FILES, *_WINDOWS, *_TASK_AND_HELD_OUT]
)
"""Training data: the argument `source`, a LabelOptions."""

evaluation_options = grouped("source", LabelOptions, [*SPECIES_OPTIONS, *_FILES, *_WINDOWS])
"""Data to evaluate on; the classifier knows its task."""
