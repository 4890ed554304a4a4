"""Settings: sources of labelled sequences, and the examples that are held out."""

from dataclasses import dataclass, field
from typing import Literal

from dnamamba.configs import require_range, require_seed
from dnamamba.data.augment import check_mutation_rate
from dnamamba.errors import InputError
from dnamamba.task import label_kind


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """Shares of the training examples for splits without a file of their own."""

    valid_fraction: float = 0.1
    """Share of examples for validation."""

    test_fraction: float = 0.1
    """Share of examples for the test; 0 for no test."""

    seed: int = 0
    """Chooses the examples; apart from the seed of training, so that the test stays the same."""

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction <= 0.5 or not 0 <= self.test_fraction <= 0.5:
            raise InputError(
                "valid_fraction must be > 0 and <= 0.5 of the examples, test_fraction >= 0 and "
                f"<= 0.5, got {self.valid_fraction} and {self.test_fraction}"
            )
        require_seed(self.seed, "the shares' seed")


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Settings of all sources of labelled sequences; not used by itself."""

    task_kind: str = "multiclass"
    """Kind of labels (task.py)."""

    shares: SplitShares = field(default_factory=SplitShares)
    """Examples held out if the source does not name splits."""

    seq_len: int | None = None
    """Bases of a row of a batch; None for the longest sequence. Training takes a random part of a
    longer sequence, evaluation its middle; shorter ones are padded on the right."""

    rc_augment: bool = False
    """Read training sequences from either strand, by a fair coin. Off, as many labels belong to a
    strand."""

    mutation_rate: float = 0.0
    """Share of bases substituted in training sequences (augment.substitute)."""

    seed: int = 0
    """The only source of order, part, strand and substitutions of training examples."""

    def __post_init__(self) -> None:
        label_kind(self.task_kind)
        if self.seq_len is not None:
            require_range("seq_len", self.seq_len, 1, unit="base")
        check_mutation_rate(self.mutation_rate)
        require_seed(self.seed, "data seed")


@dataclass(frozen=True, kw_only=True)
class TableConfig(LabelledConfig):
    """A table with a column of sequences, or one for each split.

    A split with a file has no other examples. Without `valid`, validation is cut from the training
    examples; without `valid` and `test`, both are.
    """

    kind: Literal["table"] = "table"

    train: str
    """CSV, TSV or parquet, plain or gzip."""

    valid: str | None = None
    """Validation, likewise."""

    test: str | None = None
    """Test, likewise; nothing is chosen by it."""

    sequence_column: str = "sequence"
    """Name of the column of sequences."""

    label_columns: tuple[str, ...] = ("label",)
    """Names of the columns of labels: one for multiclass and per_base; for multilabel one like
    `a;b`, or several of 0 and 1; for regression one or more of numbers."""

    split_column: str | None = None
    """A column of train, valid and test, instead of files."""

    group_column: str | None = None
    """A column of groups (gene, patient, species), each of which stays in one split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_columns:
            raise InputError("name at least one column of labels (--label-columns)")
        if len(self.label_columns) > 1 and label_kind(self.task_kind).has_classes:
            raise InputError(
                f"a {self.task_kind} task needs one column of labels, got "
                f"{', '.join(self.label_columns)}; several are for multilabel and regression"
            )
        if self.split_column is not None and (self.valid or self.test):
            raise InputError("give either a column of splits or files of their own, not both")
        names = [self.sequence_column, *self.label_columns, self.split_column, self.group_column]
        given = [name for name in names if name is not None]
        if len(set(given)) != len(given):
            raise InputError(f"columns must have one use each, got {', '.join(given)}")


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """A class and its sequences."""

    label: str
    """Its name."""

    files: tuple[str, ...]
    """FASTA files, plain, gzip or BGZF; every record is an example."""


@dataclass(frozen=True, kw_only=True)
class RecordsConfig(LabelledConfig):
    """FASTA files for each class."""

    kind: Literal["records"] = "records"

    records: tuple[LabelFiles, ...]
    """A label and its files for each class; a label may have several entries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task_kind != "multiclass":
            raise InputError(
                f"FASTA files for each class make a multiclass task, not {self.task_kind}: give a "
                "table for others"
            )
        if not self.records:
            raise InputError("name FASTA files for each class (--records LABEL=FASTA)")
        for entry in self.records:
            if not entry.label.strip() or not entry.files:
                raise InputError(
                    f"records must be a label and its files, got {entry.label!r} with "
                    f"{len(entry.files)} files"
                )


@dataclass(frozen=True, kw_only=True)
class RegionsConfig(LabelledConfig):
    """Regions of a genome with labels. A region on the - strand is read from there."""

    kind: Literal["regions"] = "regions"

    regions: str
    """BED, plain or gzip; the sixth column is the strand, and per_base labels run along it."""

    genome: tuple[str, ...]
    """FASTA files (plain or BGZF) and stores, joined."""

    label_column: int = 4
    """The column of labels, counted from 1."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs whose regions are for validation: names, or patterns with `*`."""

    test_contigs: tuple[str, ...] = ()
    """Contigs whose regions are for the test, likewise."""

    group_by: Literal["contig", "overlap"] = "contig"
    """Regions held out together if no contigs are named: those of a contig, or only those that
    overlap (for genomes of one contig)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_column < 4 or self.label_column == 6:
            raise InputError(
                "label_column must be a column of the BED from the fourth on, and not the sixth, "
                f"which is the strand, got {self.label_column}"
            )
        if not self.genome:
            raise InputError("regions need the genome they lie on (--genome)")
