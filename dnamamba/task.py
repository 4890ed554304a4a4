"""Labelled tasks: what a model predicts from a sequence, and how files hold its labels.

`LabelKind` says how the labels of a kind of task are read; metrics/task_kinds.py adds loss, metrics
and baseline, and registers new kinds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.files import first_of

IGNORED_LABEL = -100
"""Target of a base that has no label, and of padding."""

UNLABELLED = ".-"
"""Letters of a base without a label, in a per_base task."""

LabelColumns = Mapping[str, Sequence[str]]
"""Name of each column of labels -> its text in each example."""

Targets = NDArray[np.generic]

Where = Callable[[int], str]
"""Where example i comes from, for people: `train.csv row 12`."""

_MISSING = ("", "nan", "NaN")
_ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "False": 0, "True": 1}


@dataclass(frozen=True, kw_only=True)
class LabelKind:
    """How files and batches hold the labels of a kind of task.

    Targets are int64 (N,), the numbers of labels, if `has_classes`, else float32 (N, C). With
    `per_base` they are int64 (N, L), and int8 while they are stored, one sequence after the other.
    """

    name: str
    """As in `Task.kind` and in saved files."""

    has_classes: bool = False
    """Exactly one label is right, of a sequence or of a base."""

    per_base: bool = False
    """Each base has a label of its own; needs has_classes."""

    has_numbers: bool = False
    """Labels are the columns of a table, whose numbers are predicted. Otherwise they are classes,
    sorted as text, and scores are probabilities."""

    read_labels: Callable[[LabelColumns, str], Iterable[str]]
    """(columns, source) -> names of the labels of training examples, in any order of classes."""

    read_targets: Callable[["Task", LabelColumns, NDArray[np.int64], str, Where], Targets]
    """(task, columns, bases of each sequence, source, where) -> targets of all examples."""


LABEL_KINDS: dict[str, LabelKind] = {}
"""Those below and those of `register_task_kind` (metrics/task_kinds.py)."""


def label_kind(name: str) -> LabelKind:
    """The kind of that name; InputError for an unknown one."""
    if name not in LABEL_KINDS:
        raise InputError(f"task kind must be one of {', '.join(LABEL_KINDS)}, got {name!r}")
    return LABEL_KINDS[name]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of task and its labels; saved with every model that was trained for it."""

    kind: str = "multiclass"
    """`multiclass`: one label a sequence. `multilabel`: any number of them. `regression`: numbers.
    `per_base`: one label a base. Others can be registered (metrics/task_kinds.py)."""

    labels: tuple[str, ...]
    """Names of classes, sorted, or of the columns of numbers in their table's order. Output i of a
    model belongs to labels[i]."""

    def __post_init__(self) -> None:
        kind = label_kind(self.kind)
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels must have different names, got {', '.join(self.labels)}")
        if not kind.has_numbers and list(self.labels) != sorted(self.labels):
            raise InputError(f"names of classes must be sorted, got {', '.join(self.labels)}")
        least = 2 if kind.has_classes else 1
        if len(self.labels) < least:
            raise InputError(
                f"a {self.kind} task needs {least} labels or more, got "
                f"{', '.join(self.labels) or 'none'}: with a single one there is nothing to tell "
                "apart; add examples of another"
            )

    @property
    def has_classes(self) -> bool:
        """LabelKind.has_classes"""
        return label_kind(self.kind).has_classes

    @property
    def per_base(self) -> bool:
        """LabelKind.per_base"""
        return label_kind(self.kind).per_base

    @property
    def has_numbers(self) -> bool:
        """LabelKind.has_numbers"""
        return label_kind(self.kind).has_numbers

    def empty_targets(self, n: int, seq_len: int) -> Targets:
        """Targets of n sequences of seq_len bases, as in a batch, all 0."""
        if not self.has_classes:
            return np.zeros((n, len(self.labels)), np.float32)
        return np.zeros((n, seq_len) if self.per_base else n, np.int64)

    def indices(self, labels: Sequence[str], where: str) -> list[int]:
        """Numbers of labels. Raises InputError, naming `where`, for unknown ones."""
        number = {label: i for i, label in enumerate(self.labels)}
        if unknown := sorted(set(labels) - set(number)):
            raise InputError(
                f"{where} has labels that the training examples do not have: "
                f"{first_of(map(repr, unknown))}; known are {', '.join(self.labels)}. Correct "
                "them, or train with examples of each"
            )
        return [number[label] for label in labels]


def read_task(kind: str, columns: LabelColumns, source: str) -> Task:
    """The task of training examples: classes sorted as text, numbers by name of their column.

    Raises InputError, saying `source`, if there are too few classes, or so many that they look
    like numbers.
    """
    labels = label_kind(kind).read_labels(columns, source)
    return Task(kind=kind, labels=tuple(labels if label_kind(kind).has_numbers else sorted(labels)))


def read_targets(
    task: Task, columns: LabelColumns, lengths: NDArray[np.int64], source: str, where: Where
) -> Targets:
    """Targets of all examples: multiclass int64 (N,); multilabel and regression float32 (N, C);
    per_base int8, those of all sequences one after the other, IGNORED_LABEL for none.

    Raises InputError naming the row of a label that is missing, no number, not one of the task's
    or not one letter a base.
    """
    return label_kind(task.kind).read_targets(task, columns, lengths, source, where)


# --- one class a sequence


def _class_names(columns: LabelColumns, source: str) -> set[str]:
    ((name, texts),) = columns.items()
    labels = set(texts)
    if len(labels) > max(20, len(texts) // 2):
        raise InputError(
            f"{source} has {len(labels):,} different labels in {len(texts):,} training examples "
            f"(column {name!r}): classes have several examples each. For numbers choose --task "
            "regression"
        )
    return labels


def _class_targets(
    task: Task, columns: LabelColumns, lengths: NDArray[np.int64], source: str, where: Where
) -> NDArray[np.int64]:
    ((name, texts),) = columns.items()
    if missing := set(_MISSING).intersection(texts):
        i = min(texts.index(text) for text in missing)
        raise InputError(
            f"{where(i)} has no label (column {name!r} holds {texts[i]!r}): leave such rows out"
        )
    number = _numbering(task, set(texts), source)
    return np.fromiter(map(number.__getitem__, texts), np.int64, len(texts))


def _numbering(task: Task, labels: set[str], source: str) -> dict[str, int]:
    """Label -> its number."""
    known = sorted(labels)
    return dict(zip(known, task.indices(known, source), strict=True))


# --- several labels a sequence: one column like `a;b`, or one of 0 and 1 for each label


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(";")) if part]


def _set_names(columns: LabelColumns, source: str) -> set[str]:
    if len(columns) > 1:
        return set(columns)
    ((_, texts),) = columns.items()
    return {label for text in texts for label in _parts(text)}


def _set_targets(
    task: Task, columns: LabelColumns, lengths: NDArray[np.int64], source: str, where: Where
) -> NDArray[np.float32]:
    if len(columns) > 1:
        return _column_targets(task, columns, source, _ZERO_OR_ONE.__getitem__, "0 or 1", where)
    ((_, texts),) = columns.items()
    sets = {text: _parts(text) for text in set(texts)}
    number = _numbering(task, set().union(*sets.values()), source)
    rows = {text: np.zeros(len(task.labels), np.float32) for text in sets}
    for text, row in rows.items():
        row[[number[label] for label in sets[text]]] = 1
    return np.stack([rows[text] for text in texts])


# --- numbers


def number_targets(
    task: Task, columns: LabelColumns, lengths: NDArray[np.int64], source: str, where: Where
) -> NDArray[np.float32]:
    """The numbers of a table, float32 (N, C). Raises InputError for one that is not finite."""
    return _column_targets(task, columns, source, float, "a number", where)


def _column_targets(
    task: Task,
    columns: LabelColumns,
    source: str,
    read: Callable[[str], float],
    expected: str,
    where: Where,
) -> NDArray[np.float32]:
    """A column of targets for each label, read from the column of its name."""
    if missing := [name for name in task.labels if name not in columns]:
        raise InputError(
            f"{source} is read with the columns {', '.join(columns)}, the model's are "
            f"{', '.join(task.labels)}: {missing[0]} is missing; name them (--label-columns "
            f"{','.join(task.labels)})"
        )
    values = np.empty((len(columns[task.labels[0]]), len(task.labels)))
    for i, name in enumerate(task.labels):
        for row, text in enumerate(columns[name]):
            try:
                values[row, i] = read(text)
            except (ValueError, KeyError):
                raise InputError(
                    f"{where(row)} column {name!r}: expected {expected}, got {text!r}"
                ) from None
    with np.errstate(over="ignore"):
        targets = values.astype(np.float32)
    for i, row in np.argwhere(~np.isfinite(targets.T))[:1].tolist():
        name = task.labels[i]
        raise InputError(
            f"{where(row)} column {name!r}: expected a number that is finite in float32, got "
            f"{columns[name][row]!r}; leave such rows out"
        )
    return targets


# --- one class a base


def _base_names(columns: LabelColumns, source: str) -> set[str]:
    ((_, texts),) = columns.items()
    return set().union(*texts) - set(UNLABELLED)


def _base_targets(
    task: Task, columns: LabelColumns, lengths: NDArray[np.int64], source: str, where: Where
) -> NDArray[np.int8]:
    ((_, texts),) = columns.items()
    given = np.fromiter(map(len, texts), np.int64, len(texts))
    if (wrong := given != lengths).any():
        i = int(wrong.argmax())
        raise InputError(
            f"{where(i)} has {given[i]:,} labels for {lengths[i]:,} bases: a per_base label is one "
            f"letter for each base, {' or '.join(UNLABELLED)} for one without"
        )
    if not all(map(str.isascii, texts)):
        raise InputError(f"{source}: labels of bases must be plain letters (ASCII)")
    letters = set().union(*texts) - set(UNLABELLED)
    number = _numbering(task, letters, source)
    if not number:
        raise InputError(f"{source} has no labelled base: all are {' or '.join(UNLABELLED)}")
    table = np.full(256, IGNORED_LABEL, np.int8)
    for label, i in number.items():
        table[ord(label)] = i
    # 4,096 texts at a time
    blocks = ("".join(texts[i : i + 4096]) for i in range(0, len(texts), 4096))
    return np.concatenate([table[np.frombuffer(block.encode(), np.uint8)] for block in blocks])


MULTICLASS = LabelKind(
    name="multiclass", has_classes=True, read_labels=_class_names, read_targets=_class_targets
)
MULTILABEL = LabelKind(name="multilabel", read_labels=_set_names, read_targets=_set_targets)
REGRESSION = LabelKind(
    name="regression",
    has_numbers=True,
    read_labels=lambda columns, source: tuple(columns),
    read_targets=number_targets,
)
PER_BASE = LabelKind(
    name="per_base",
    has_classes=True,
    per_base=True,
    read_labels=_base_names,
    read_targets=_base_targets,
)
LABEL_KINDS.update({kind.name: kind for kind in (MULTICLASS, MULTILABEL, REGRESSION, PER_BASE)})
