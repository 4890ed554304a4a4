"""What a labelled sequence is asked for: kinds of tasks, and the names of their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dnamamba.errors import InputError

TaskKind = Literal["multiclass", "multilabel", "regression", "per_base"]
IGNORED_LABEL = -100
"""Target of a base that has no label, and of padding."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of task and its labels; saved with every model that was trained for it."""

    kind: TaskKind = "multiclass"
    """`multiclass`: one label a sequence. `multilabel`: any number of them. `regression`: numbers.
    `per_base`: one label a base."""

    labels: tuple[str, ...]
    """Names of classes, sorted, or of the numbers of a regression, as they stand in its table.
    Output i of a model is of labels[i]."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(TaskKind):
            raise InputError(f"a task is one of {get_args(TaskKind)}, got {self.kind!r}")
        if len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels have different names, got {', '.join(self.labels)}")
        if self.kind != "regression" and list(self.labels) != sorted(self.labels):
            raise InputError(f"names of classes are sorted, got {', '.join(self.labels)}")
        least = 2 if self.has_classes else 1
        if len(self.labels) < least:
            raise InputError(
                f"a {self.kind} task needs {least} labels or more, got "
                f"{', '.join(self.labels) or 'none'}: with a single one there is nothing to tell "
                "apart; add examples of another"
            )

    @property
    def has_classes(self) -> bool:
        """Whether exactly one label is right, of a sequence or of a base."""
        return self.kind in ("multiclass", "per_base")

    def indices(self, labels: Sequence[str], where: str) -> list[int]:
        """The numbers of labels; InputError, saying `where`, for one that is not the task's."""
        number = {label: i for i, label in enumerate(self.labels)}
        if unknown := sorted(set(labels) - set(number)):
            shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
            raise InputError(
                f"{where} has labels that the training examples do not have: {shown}; known are "
                f"{', '.join(self.labels)}. Correct them, or train with examples of each"
            )
        return [number[label] for label in labels]
