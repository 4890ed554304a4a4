"""Where labelled sequences come from, and which of them are held out."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from dnamamba.data.augment import check_mutation_rate
from dnamamba.errors import InputError
from dnamamba.task import TaskKind


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """What is cut off the training examples where no file for it is given."""

    valid_fraction: float = 0.1
    """Share of examples for validation."""

    test_fraction: float = 0.1
    """Share of examples for the test; 0 for none."""

    seed: int = 0
    """Decides which. It is not the seed of training, so that the test stays the same."""

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction <= 0.5 or not 0 <= self.test_fraction <= 0.5:
            raise InputError(
                "valid_fraction is a share of the examples above 0 and up to 0.5, test_fraction "
                f"one from 0 to 0.5, got {self.valid_fraction} and {self.test_fraction}"
            )
        _refuse_seed("the shares' seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """What all sources of labelled sequences have in common; not used by itself."""

    task_kind: TaskKind = "multiclass"
    """What the labels are: one class a sequence, any number of them, numbers, or one a base."""

    shares: SplitShares = field(default_factory=SplitShares)
    """What is held out where the source does not say."""

    seq_len: int | None = None
    """Bases of a row of a batch; None for the longest sequence. Of longer ones training takes a
    stretch at random, evaluation the middle; shorter ones are padded on the right."""

    rc_augment: bool = False
    """Read each training sequence from either strand, by a fair coin; no other split's. Off: many
    labels belong to a strand."""

    mutation_rate: float = 0.0
    """Share of the bases of training sequences that are changed, see augment.substitute."""

    seed: int = 0
    """Decides order, stretch, strand and changes of training examples; nothing else does."""

    def __post_init__(self) -> None:
        if self.task_kind not in get_args(TaskKind):
            raise InputError(f"task_kind is one of {get_args(TaskKind)}, got {self.task_kind!r}")
        if self.seq_len is not None and self.seq_len < 1:
            raise InputError(f"seq_len is 1 base or more, got {self.seq_len}")
        check_mutation_rate(self.mutation_rate)
        _refuse_seed("data seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class TableConfig(LabelledConfig):
    """A table with a column of sequences, or one for each split.

    A given file is for its split alone. Without `valid` validation is cut from the training
    examples; without both `valid` and `test` a test is too.
    """

    kind: Literal["table"] = "table"

    train: str
    """CSV, TSV or parquet, plain or gzip."""

    valid: str | None = None
    """The same for validation."""

    test: str | None = None
    """The same for the test, which nothing is chosen by."""

    sequence_column: str = "sequence"
    """Name of the column of sequences."""

    label_columns: tuple[str, ...] = ("label",)
    """Names of the columns of labels. One for classes and for a letter a base; for several labels
    a sequence one like `a;b` or several of 0 and 1; for numbers one or more."""

    split_column: str | None = None
    """A column that says train, valid or test, instead of other files."""

    group_column: str | None = None
    """Examples of one group (a gene, a patient, a species) are held out together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_columns:
            raise InputError("name at least one column of labels (--label-columns)")
        if len(self.label_columns) > 1 and self.task_kind in ("multiclass", "per_base"):
            raise InputError(
                f"a {self.task_kind} task has one column of labels, got "
                f"{', '.join(self.label_columns)}; several are for multilabel and regression"
            )
        if self.split_column is not None and (self.valid or self.test):
            raise InputError("give either a column of splits or files of their own, not both")
        names = [self.sequence_column, *self.label_columns, self.split_column, self.group_column]
        given = [name for name in names if name is not None]
        if len(set(given)) != len(given):
            raise InputError(f"each column has one use, got {', '.join(given)}")


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
    """A label and its files, for each class; files of one label may come in several entries."""

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
                    f"records are a label and its files, got {entry.label!r} with "
                    f"{len(entry.files)} files"
                )


@dataclass(frozen=True, kw_only=True)
class RegionsConfig(LabelledConfig):
    """Regions of a genome with labels. A region on the - strand is read from there."""

    kind: Literal["regions"] = "regions"

    regions: str
    """BED, plain or gzip. Its sixth column, where there is one, is the strand. A letter a base
    (per_base) runs in the direction of the strand."""

    genome: tuple[str, ...]
    """FASTA (plain or BGZF) or store; several are joined."""

    label_column: int = 4
    """The column of labels, counted from 1."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs whose regions are for validation: names, or patterns with `*`."""

    test_contigs: tuple[str, ...] = ()
    """Contigs whose regions are for the test."""

    group_by: Literal["contig", "overlap"] = "contig"
    """What is held out together where no contigs are named: all regions of a contig, or only those
    that overlap each other (for genomes of one contig)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_column < 4 or self.label_column == 6:
            raise InputError(
                "label_column is a column of the BED from the fourth on, and not the sixth, which "
                f"is the strand, got {self.label_column}"
            )
        if not self.genome:
            raise InputError("regions need the genome they lie on (--genome)")


def _refuse_seed(what: str, seed: int) -> None:
    if not 0 <= seed < 1 << 63:
        raise InputError(f"{what} is 0 or more and below 2^63, got {seed}")
