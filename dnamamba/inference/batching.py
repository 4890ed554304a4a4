"""Batches of sequences of like lengths, padded on the right, which changes only rounding."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.strands import complement_ids, flip
from dnamamba.tokenizer import PAD_ID, TOKEN_MASK, Codes, token_ids

T = TypeVar("T")
R = TypeVar("R")

# Sequences are sorted by length within this many batches and this many rows: little is padding.
_BATCHES_AHEAD = 8
_ROWS_AHEAD = 4096


def in_chunks(items: Iterable[T], size: Callable[[T], int], batch_tokens: int) -> Iterator[list[T]]:
    """Yield items a few batches at a time, in their order. size: tokens of an item."""
    chunk, n_tokens = list[T](), 0
    for item in items:
        chunk.append(item)
        n_tokens += size(item)
        if n_tokens >= _BATCHES_AHEAD * batch_tokens or len(chunk) == _ROWS_AHEAD:
            yield chunk
            chunk, n_tokens = [], 0
    if chunk:
        yield chunk


def batches_of(lengths: NDArray[np.int64], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of sequences of like lengths, the longest first: memory runs out at once or never."""
    batch: list[int] = []
    for i in np.argsort(-lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * round_up(int(lengths[batch[0]])) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def batch_width(lengths: Sequence[int], most: int | None) -> int:
    """Positions of a padded batch. most: the longest sequence that the model takes."""
    longest = max(lengths)
    if min(lengths) == longest:
        return longest
    return min(round_up(longest), most or sys.maxsize)


def round_up(length: int) -> int:
    """Round a width up by at most a sixteenth, so that widths are few: allocators keep freed blocks
    of every size, and grew by half a gigabyte over 400,000 rows of 1 to 128 bases."""
    step = 1 << max(0, length.bit_length() - 5)
    return -(-length // step) * step


def is_no_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory; for CPUs it has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def run_in_halves(
    items: Sequence[T],
    run: Callable[[Sequence[T]], R],
    give_up: Callable[[T, RuntimeError], R],
) -> list[R]:
    """[run(items)], or the results of halves, in order, if memory is too small for all.

    give_up: makes the result of a single item that is too large for memory; it may raise.
    """
    try:
        return [run(items)]
    except RuntimeError as error:
        if not is_no_memory(error):
            raise
        if len(items) == 1:
            return [give_up(items[0], error)]
    # Outside the except block, whose traceback keeps the failed pass's tensors.
    half = len(items) // 2
    return [
        result
        for part in (items[:half], items[half:])
        for result in run_in_halves(part, run, give_up)
    ]


def map_in_batches(
    sequences: Sequence[Codes], read: Callable[[Sequence[Codes]], list[R]], batch_tokens: int
) -> list[R]:
    """Results of `read` for batches of like lengths, in the order of the sequences; halves of a
    batch if memory is too small for it. Raises InputError for a sequence without bases."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    if not lengths.all():
        raise InputError("a sequence must have 1 base or more, got one of 0")
    results: dict[int, R] = {}
    for batch in batches_of(lengths, batch_tokens):
        parts = run_in_halves([sequences[i] for i in batch], read, no_memory)
        results |= zip(batch, chain.from_iterable(parts), strict=True)
    return [results[i] for i in range(len(sequences))]


def stack_rows(
    sequences: Sequence[Codes], most: int | None, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Token ids (B, L), uint8, padded on the right, and the lengths (B,), None without padding.

    most: the longest that the model takes.
    """
    lengths = [len(sequence) for sequence in sequences]
    width = batch_width(lengths, most)
    ids = np.full((len(sequences), width), PAD_ID, np.uint8)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = token_ids(sequence)
    # Without padding there is nothing to mask.
    real = None if min(lengths) == width else upload(np.array(lengths), device)
    return upload(ids, device), real


def upload(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to the device; a GPU is not waited for."""
    tensor = torch.from_numpy(array)
    # A copy from unpinned memory would wait.
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


def no_memory(sequence: Codes, error: RuntimeError) -> NoReturn:
    """A `give_up` for `run_in_halves` if every sequence must have a result."""
    raise InputError(
        f"there is no memory for a sequence of {len(sequence):,} bases: read shorter "
        "windows (--seq-len), or use a device with more memory"
    ) from error


def predict_reverse(
    predict: Callable[[Tensor, Tensor | None], Tensor],
    token_ids: Tensor,
    lengths: Tensor | None,
    *,
    per_base: bool = False,
) -> Tensor:
    """Predictions for the reverse complements of a batch; per base in the order of the batch.

    predict: (token ids (B, L), lengths (B,) or None) -> (B, ...). token_ids: any integer dtype,
    without soft-mask, padded on the right.
    """
    complement = complement_ids(TOKEN_MASK + 1).to(token_ids.device)
    predicted = predict(complement[flip(token_ids.long(), lengths)], lengths)
    return flip(predicted, lengths) if per_base else predicted
