"""Batches: codes alone, or labelled sequences, wherever they come from."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dnamamba.data.ranges import Ints
from dnamamba.task import Task


class Examples(NamedTuple):
    """A batch of labelled sequences.

    codes: uint8 (B, L), codes (tokenizer.py), padded on the right with [PAD].
    lengths: int64 (B,), real bases of each row, 1 to L.
    targets: by the task's kind: multiclass int64 (B,); multilabel float32 (B, C), 0 or 1;
        regression float32 (B, C); per_base int64 (B, L), IGNORED_LABEL for unlabelled bases.
    """

    codes: Tensor
    lengths: Tensor
    targets: Tensor


Batch = Tensor | Examples
"""What a loss takes: codes uint8 (B, L), or labelled sequences."""

B = TypeVar("B", bound=Batch)


def tensors_of(batch: Batch) -> tuple[Tensor, ...]:
    """The batch's tensors, always in the same order."""
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def with_tensors(batch: B, tensors: Sequence[Tensor]) -> B:
    """A batch of the same kind from other tensors."""
    if isinstance(batch, Tensor):
        return tensors[0]  # type: ignore[return-value]
    return Examples(*tensors)  # type: ignore[return-value]


def to_device(batch: B, device: torch.device) -> B:
    """Copy a batch to a device; from pinned memory without waiting."""
    moved = [tensor.to(device, non_blocking=True) for tensor in tensors_of(batch)]
    return with_tensors(batch, moved)


def by_epoch(samples: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Ints]]:
    """Group neighbouring samples (epoch, number in it) as (epoch, numbers int64 (n,))."""
    for epoch, group in itertools.groupby(samples, key=lambda sample: sample[0]):
        yield epoch, np.array([number for _, number in group], np.int64)


class LabelledDataset(Protocol):
    """Labelled sequences of one split by running sample number.

    An item is asked for with several sample numbers and is a batch, a pure function of them in any
    process. They may cross the end of an epoch unless the length of windows changes there. Safe to
    pickle and to fork.
    """

    @property
    def task(self) -> Task: ...

    @property
    def seq_len(self) -> int:
        """The longest L of a batch."""
        ...

    @property
    def n_examples(self) -> int:
        """Examples in an epoch. Sample e x n_examples + i is example i of epoch e; training
        shuffles each epoch anew, other splits keep the order of their file."""
        ...

    def __getitem__(self, samples: Sequence[int]) -> Examples: ...

    def describe(self, samples: Sequence[int]) -> list[str]:
        """The origin of each sample, for people: `train.csv row 12`, `human/chr1:1-1,024`."""
        ...
