"""What a linear model without context sees of DNA: how often each short word occurs."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.markov import on_other_strand, words_and_contexts
from dnamamba.tokenizer import FIRST_BASE_ID, Codes, is_base, token_ids

_BLOCK_BASES, _BLOCK_ROWS = 1 << 22, 512

Table = NDArray[np.float32]


def word_frequencies(codes: Codes, max_k: int, both_strands: bool = False) -> dict[int, Table]:
    """Shares of the words of k bases, for k = 1 to max_k: float32 (B, 4^k), each row sums to 1.

    codes: uint8 (B, L). Only words of A, C, G and T count, of either case: N, padding and the like
    break them. A row without a word of k bases is all 0. Column i is the word whose bases, A, C, G,
    T as 0 to 3 and the first the most significant digit, are i. With both_strands a word and its
    reverse complement are one column, so there are fewer.
    """
    tables: dict[int, list[Table]] = {k: [] for k in range(1, max_k + 1)}
    for rows in _blocks(codes):
        for k, counts in _count(rows, max_k).items():
            tables[k].append(_frequencies(counts, k, both_strands))
    return {k: np.concatenate(parts) for k, parts in tables.items()}


def _blocks(codes: Codes) -> Iterator[Codes]:
    n_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BASES // codes.shape[1]))
    for start in range(0, len(codes), n_rows):
        yield codes[start : start + n_rows]


def _count(rows: Codes, max_k: int) -> dict[int, NDArray[np.int64]]:
    """Words of each k in each row, int64 (B, 4^k).

    Each position is counted once, with its longest word; a word also occurs wherever a longer one
    ends with it, so shorter words are sums of those.
    """
    words, contexts = words_and_contexts(rows, max_k - 1)
    row_of = np.broadcast_to(np.arange(len(rows), dtype=np.int64)[:, None], rows.shape)
    tables: dict[int, NDArray[np.int64]] = {}
    for k in range(max_k, 0, -1):
        here = contexts == k - 1
        keys = row_of[here] * 4**k + (words[here] & np.uint32(4**k - 1))
        counts = np.bincount(keys, minlength=len(rows) * 4**k).reshape(len(rows), 4**k)
        if k < max_k:
            counts += tables[k + 1].reshape(len(rows), 4, -1).sum(axis=1)
        tables[k] = counts
    return tables


def _frequencies(counts: NDArray[np.int64], k: int, both_strands: bool) -> Table:
    if both_strands:
        other = on_other_strand(np.arange(4**k))
        counts = (counts + counts[:, other])[:, other >= np.arange(4**k)]
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return (counts / totals).astype(np.float32)


def surrounding_bases(
    codes: Codes, rows: NDArray[np.intp], positions: NDArray[np.intp], reach: int
) -> Table:
    """The bases around positions, one-hot: float32 (n, (2 reach + 1) x 4).

    codes: uint8 (B, L). rows, positions: (n,), where. What is no A, C, G or T, or lies outside the
    row, is four zeros.
    """
    around = positions[:, None] + np.arange(-reach, reach + 1)
    is_inside = (around >= 0) & (around < codes.shape[1])
    found = codes[rows[:, None], np.where(is_inside, around, 0)]
    bases = np.where(is_inside & is_base(found), token_ids(found), 0)
    letters = np.arange(FIRST_BASE_ID, FIRST_BASE_ID + 4)
    return (bases[:, :, None] == letters).astype(np.float32).reshape(len(rows), -1)
