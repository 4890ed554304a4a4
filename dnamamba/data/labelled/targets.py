"""Labels in files as numbers: a task's labels, and targets of each kind."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.sequences import Ints, Where
from dnamamba.errors import InputError
from dnamamba.task import IGNORED_LABEL, Task, TaskKind

LabelColumns = Mapping[str, Sequence[str]]
"""Name of a column of labels -> its text in each example."""

Targets = NDArray[np.generic]

UNLABELLED = ".-"
"""Letters of a base without a label, in a per_base task."""

_MISSING = ("", "nan", "NaN")
_ZERO_OR_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "False": 0, "True": 1}


def read_task(kind: TaskKind, columns: LabelColumns, source: str) -> Task:
    """The task of training examples: classes sorted as text, numbers by the column's name.

    Raises InputError, naming `source`, for too few classes, or so many that they look like numbers.
    """
    if kind == "regression":
        return Task(kind=kind, labels=tuple(columns))
    if len(columns) > 1:
        return Task(kind=kind, labels=tuple(sorted(columns)))
    ((name, texts),) = columns.items()
    if kind == "per_base":
        return Task(kind=kind, labels=tuple(sorted(set().union(*texts) - set(UNLABELLED))))
    if kind == "multilabel":
        return Task(
            kind=kind, labels=tuple(sorted({one for text in texts for one in _parts(text)}))
        )
    labels = sorted(set(texts))
    if len(labels) > max(20, len(texts) // 2):
        raise InputError(
            f"{source} has {len(labels):,} different labels in {len(texts):,} training examples "
            f"(column {name!r}): classes have several examples each. For numbers choose --task "
            "regression"
        )
    return Task(kind=kind, labels=tuple(labels))


def read_targets(
    task: Task, columns: LabelColumns, lengths: Ints, source: str, where: Where
) -> Targets:
    """Targets of all examples: multiclass int64 (N,); multilabel and regression float32 (N, C);
    per_base int8, all sequences one after the other, IGNORED_LABEL for unlabelled bases.

    Raises InputError naming the row for missing labels, labels that are not the task's, text that
    is no number, or not one letter for each base.
    """
    one_column_a_label = task.kind == "regression" or (
        task.kind == "multilabel" and len(columns) > 1
    )
    missing = [name for name in task.labels if name not in columns]
    if one_column_a_label and missing:
        raise InputError(
            f"{source} is read with the columns {', '.join(columns)}, the model's are "
            f"{', '.join(task.labels)}: {missing[0]} is missing; name them (--label-columns "
            f"{','.join(task.labels)})"
        )
    if task.kind == "regression":
        return np.stack([_numbers(columns[name], name, where) for name in task.labels], axis=1)
    if task.kind == "multilabel" and len(columns) > 1:
        return np.stack([_flags(columns[name], name, where) for name in task.labels], axis=1)
    ((name, texts),) = columns.items()
    if task.kind == "per_base":
        return _base_labels(task, texts, lengths, source, where)
    if task.kind == "multilabel":
        return _label_sets(task, texts, source)
    _refuse_missing(texts, name, where)
    number = _numbering(task, set(texts), source)
    return np.fromiter(map(number.__getitem__, texts), np.int64, len(texts))


def _numbering(task: Task, labels: set[str], source: str) -> dict[str, int]:
    known = sorted(labels)
    return dict(zip(known, task.indices(known, source), strict=True))


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, text.split(";")) if part]


def _refuse_missing(texts: Sequence[str], name: str, where: Where) -> None:
    if missing := set(_MISSING).intersection(texts):
        i = min(texts.index(text) for text in missing)
        raise InputError(
            f"{where(i)} has no label (column {name!r} holds {texts[i]!r}): leave such rows out"
        )


def _numbers(texts: Sequence[str], name: str, where: Where) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        numbers = _each(texts, float, name, "a number", where).astype(np.float32)
    if not (finite := np.isfinite(numbers)).all():
        i = int(finite.argmin())
        raise InputError(
            f"{where(i)} column {name!r}: expected a number that is finite in float32, got "
            f"{texts[i]!r}; leave such rows out"
        )
    return numbers


def _flags(texts: Sequence[str], name: str, where: Where) -> NDArray[np.float32]:
    return _each(texts, _ZERO_OR_ONE.__getitem__, name, "0 or 1", where).astype(np.float32)


def _each(
    texts: Sequence[str], read: Callable[[str], float], name: str, expected: str, where: Where
) -> NDArray[np.float64]:
    numbers = np.empty(len(texts), np.float64)
    for i, text in enumerate(texts):
        try:
            numbers[i] = read(text)
        except (ValueError, KeyError):
            raise InputError(
                f"{where(i)} column {name!r}: expected {expected}, got {text!r}"
            ) from None
    return numbers


def _label_sets(task: Task, texts: Sequence[str], source: str) -> NDArray[np.float32]:
    sets = {text: _parts(text) for text in set(texts)}
    number = _numbering(task, {one for parts in sets.values() for one in parts}, source)
    rows = {}
    for text, parts in sets.items():
        rows[text] = np.zeros(len(task.labels), np.float32)
        rows[text][[number[one] for one in parts]] = 1
    return np.stack([rows[text] for text in texts])


def _base_labels(
    task: Task, texts: Sequence[str], lengths: Ints, source: str, where: Where
) -> NDArray[np.int8]:
    given = np.fromiter(map(len, texts), np.int64, len(texts))
    if (wrong := given != lengths).any():
        i = int(wrong.argmax())
        raise InputError(
            f"{where(i)} has {given[i]:,} labels for {lengths[i]:,} bases: a per_base label is one "
            f"letter for each base, {' or '.join(UNLABELLED)} for one without"
        )
    number = _numbering(task, _letters(texts, source), source)
    if not number:
        raise InputError(f"{source} has no labelled base: all are {' or '.join(UNLABELLED)}")
    table = np.full(256, IGNORED_LABEL, np.int8)
    for label, i in number.items():
        table[ord(label)] = i
    targets, done = np.empty(int(lengths.sum()), np.int8), 0
    for letters in _joined(texts):
        targets[done : done + len(letters)] = table[letters]
        done += len(letters)
    return targets


def _letters(texts: Sequence[str], source: str) -> set[str]:
    """The labels in texts of one letter a base."""
    if not all(map(str.isascii, texts)):
        raise InputError(f"{source}: labels of bases are plain letters (ASCII)")
    is_there = np.zeros(256, bool)
    for letters in _joined(texts):
        is_there |= np.bincount(letters, minlength=256) > 0
    return set(map(chr, np.flatnonzero(is_there))) - set(UNLABELLED)


def _joined(texts: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """The letters of all texts, thousands of texts at a time."""
    for start in range(0, len(texts), 4096):
        yield np.frombuffer("".join(texts[start : start + 4096]).encode(), np.uint8)
