"""Batches in order, from any number of workers, for any number of ranks.

The position of a stream is one integer, the number of the next batch: batch b holds samples
b x batch_size to (b + 1) x batch_size - 1, whichever worker or rank reads it.
"""

import signal
from collections.abc import Iterator, Sequence
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


class BatchRanges(Sampler[range]):
    """This rank's micro-batches of each global batch, as ranges of sample numbers.

    Rank r of w reads samples r x n to (r + 1) x n - 1 of a batch of w x n, so the ranks' rows
    joined are the same batch for any w.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        micro_batch_size: int,
        first_batch: int,
        last_batch: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size % (micro_batch_size * world_size):
            raise InputError(
                f"a batch of {batch_size} windows cannot be shared by {world_size} ranks in "
                f"micro-batches of {micro_batch_size}: choose --batch-tokens or --micro-batch so "
                f"that {micro_batch_size} x {world_size} divides it"
            )
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.first_batch = first_batch
        self.last_batch = last_batch
        self.rank = rank
        self.share = batch_size // world_size

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
