"""Batches in order, from any number of workers, for any number of ranks.

The position of a stream is one integer, the number of the next batch: batch b holds samples
b x batch_size to (b + 1) x batch_size - 1, whichever worker or rank reads it.
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from dnamamba.data.batches import Batch
from dnamamba.errors import InputError


class DescribedDataset(Protocol):
    """Batches by sample numbers: `WindowDataset`, `LabelledDataset`."""

    def __getitem__(self, samples: Sequence[int]) -> Batch: ...

    def describe(self, samples: Sequence[int]) -> list[str]:
        """The origin of each sample, for people."""
        ...


@dataclass(frozen=True, kw_only=True)
class BatchRanges(Sampler[range]):
    """This rank's micro-batches of each global batch, as ranges of sample numbers.

    Rank r of w reads samples r x n to (r + 1) x n - 1 of a batch of w x n, so the ranks' rows
    joined are the same batch for any w.
    """

    batch_size: int
    micro_batch_size: int
    first_batch: int
    last_batch: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % (self.micro_batch_size * self.world_size):
            raise InputError(
                f"a batch of {self.batch_size} windows cannot be shared by {self.world_size} ranks "
                f"in micro-batches of {self.micro_batch_size}: choose --batch-tokens or "
                f"--micro-batch so that {self.micro_batch_size} x {self.world_size} divides it"
            )

    @property
    def share(self) -> int:
        """Samples of this rank in one global batch."""
        return self.batch_size // self.world_size

    @property
    def n_micro_batches(self) -> int:
        """Micro-batches of this rank in one global batch."""
        return self.share // self.micro_batch_size

    def __len__(self) -> int:
        return max(0, self.last_batch - self.first_batch) * self.n_micro_batches

    def __iter__(self) -> Iterator[range]:
        for batch in range(self.first_batch, self.last_batch):
            start = batch * self.batch_size + self.rank * self.share
            for first in range(start, start + self.share, self.micro_batch_size):
                yield range(first, first + self.micro_batch_size)


def build_loader(
    dataset: DescribedDataset,
    batches: BatchRanges,
    *,
    n_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """A DataLoader over micro-batches, as the dataset gives them.

    n_workers: processes that read ahead; 0 reads in this one. The batches are the same either way.
    """
    indexed: Any = dataset  # enough for a DataLoader with a sampler
    return DataLoader(
        indexed,
        batch_size=None,
        sampler=batches,
        num_workers=n_workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if n_workers else None,
        worker_init_fn=_leave_signals_to_the_loop,
        # The loader draws a seed for its workers: keep it off the global stream.
        generator=torch.Generator().manual_seed(0),
    )


def _leave_signals_to_the_loop(_: int) -> None:
    # Schedulers and torchrun signal whole process groups. A worker that died would end the run
    # before the loop could save; the loop ends its workers itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
