"""Sequences of any lengths as batches that a model reads: of like lengths, padded on the right."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.mixer_configs import HyenaConfig
from dnamamba.tokenizer import PAD_ID, Codes, token_ids

T = TypeVar("T")
R = TypeVar("R")

# Sequences are sorted by length among so many batches' tokens and so many of them, so that little
# is padding.
_BATCHES_AHEAD = 8
_ROWS_AHEAD = 4096


def in_chunks(items: Iterable[T], size: Callable[[T], int], batch_tokens: int) -> Iterator[list[T]]:
    """Lists of items, each of a few batches; size: the tokens of an item."""
    chunk, n_tokens = list[T](), 0
    for item in items:
        chunk.append(item)
        n_tokens += size(item)
        if n_tokens >= _BATCHES_AHEAD * batch_tokens or len(chunk) == _ROWS_AHEAD:
            yield chunk
            chunk, n_tokens = [], 0
    if chunk:
        yield chunk


def batches_of_like_lengths(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of like lengths, the longest first: memory runs out at once or never."""
    batch: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * _round_up(int(lengths[batch[0]])) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def stack_rows(
    sequences: Sequence[Codes], most: int | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Token ids (B, L), uint8, padded on the right, and the lengths (B,); None without padding.

    most: the longest that the model takes (`longest_possible`).
    """
    lengths = [len(sequence) for sequence in sequences]
    width = _width(lengths, most)
    ids = np.full((len(sequences), width), PAD_ID, np.uint8)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = token_ids(sequence)
    # Without padding there is nothing to mask.
    real = None if min(lengths) == width else torch.tensor(lengths, device=device)
    return torch.from_numpy(ids).to(device), real


def _width(lengths: Sequence[int], most: int | None) -> int:
    longest = max(lengths)
    if min(lengths) == longest:
        return longest
    return min(_round_up(longest), most or sys.maxsize)


def _round_up(length: int) -> int:
    """Few widths, at most a sixteenth above: allocators keep what was freed in every other size,
    and grew by half a gigabyte in 400,000 rows of 1 to 128 bases."""
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def run_in_halves(run: Callable[[Sequence[Codes]], list[R]], sequences: Sequence[Codes]) -> list[R]:
    """What a pass makes of each sequence; of halves of them where memory is too small for all."""
    try:
        return run(sequences)
    except torch.OutOfMemoryError as error:
        if len(sequences) == 1:
            raise InputError(
                f"there is no memory for a sequence of {len(sequences[0]):,} bases: read shorter "
                "windows (--seq-len), or use a device with more memory"
            ) from error
    # Outside of the except, whose traceback keeps the failed pass's tensors.
    half = len(sequences) // 2
    return run_in_halves(run, sequences[:half]) + run_in_halves(run, sequences[half:])


def longest_possible(config: ModelConfig) -> int | None:
    """The longest sequence a model can read, in bases; None where there is no limit."""
    return config.mixer.l_max if isinstance(config.mixer, HyenaConfig) else None
