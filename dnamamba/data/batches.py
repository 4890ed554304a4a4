"""Batches: codes alone, or labelled sequences, wherever they come from."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from dnamamba.task import Task


class Examples(NamedTuple):
    """A batch of labelled sequences."""

    codes: Tensor
    """uint8 (B, L): codes (tokenizer.py), padded on the right with [PAD]."""

    lengths: Tensor
    """int64 (B,): real bases of each row, 1 to L."""

    targets: Tensor
    """By the task's kind: multiclass int64 (B,); multilabel float32 (B, C), 0 or 1; regression
    float32 (B, C); per_base int64 (B, L), IGNORED_LABEL where there is none."""


Batch = Tensor | Examples
"""What a loss is given: codes uint8 (B, L), or these with labels."""

B = TypeVar("B", bound=Batch)


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    """Of a batch, in an order that is always the same."""
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def with_tensors(batch: B, tensors: Sequence[Tensor]) -> B:
    """A batch of the same kind made of others."""
    if isinstance(batch, Tensor):
        return tensors[0]  # type: ignore[return-value]
    return Examples(*tensors)  # type: ignore[return-value]


def to_device(batch: B, device: torch.device) -> B:
    """A copy there, which pinned memory need not wait for."""
    moved = [tensor.to(device, non_blocking=True) for tensor in tensors_of(batch)]
    return with_tensors(batch, moved)


class LabelledDataset(Protocol):
    """Labelled sequences of one split by running sample number.

    An item is asked for with a sequence of sample numbers and is a batch: a pure function of them,
    in any process. They may cross the end of an epoch unless the length of windows changes there.
    Safe to pickle and to fork.
    """

    @property
    def task(self) -> Task: ...

    @property
    def seq_len(self) -> int:
        """The longest L it gives."""
        ...

    @property
    def n_examples(self) -> int:
        """Of an epoch. Samples 0 to n_examples - 1 of a split that is not trained on are its
        examples, each once, in the order of the file they come from; in training sample
        e x n_examples + i is example i of epoch e, shuffled anew in each."""
        ...

    def __getitem__(self, samples: Sequence[int]) -> Examples: ...

    def describe(self, samples: Sequence[int]) -> list[str]:
        """Where each comes from, for people: `train.csv row 12`, `human/chr1:1-1,024`."""
        ...
