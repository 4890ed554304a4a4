"""Words of k bases: as numbers, and how often each occurs in a sequence."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.tokenizer import FIRST_BASE_ID, Codes, is_base, token_ids

_BLOCK_BASES, _BLOCK_ROWS = 1 << 22, 512

Table = NDArray[np.float32]
Counts = NDArray[Any]  # uint32, or int64 for very large genomes

_NOT_A_BASE = 4
_DIGITS = np.where(
    is_base(np.arange(256, dtype=np.uint8)),
    token_ids(np.arange(256, dtype=np.uint8)) - np.uint8(FIRST_BASE_ID),
    _NOT_A_BASE,
).astype(np.uint8)


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

    codes: uint8 (B, L). rows, positions: (n,). Positions outside the row, and letters other than A,
    C, G and T, are four zeros.
    """
    around = positions[:, None] + np.arange(-reach, reach + 1)
    is_inside = (around >= 0) & (around < codes.shape[1])
    found = codes[rows[:, None], np.where(is_inside, around, 0)]
    bases = np.where(is_inside & is_base(found), token_ids(found), 0)
    letters = np.arange(FIRST_BASE_ID, FIRST_BASE_ID + 4)
    return (bases[:, :, None] == letters).astype(np.float32).reshape(len(rows), -1)


# --- words as numbers


def on_other_strand(table: Counts) -> Counts:
    """The table whose entry of a word is this one's of the reverse complement.

    The digits are reversed in each half of the words, and the halves swapped: far fewer strides
    than a transpose of one axis per digit. A, C, G, T are 0..3, so the complement of d is 3 - d.
    """
    length = (table.size.bit_length() - 1) // 2
    front, back = _reversed_words(length // 2), _reversed_words(length - length // 2)
    swapped = np.ascontiguousarray(table.reshape(front.size, back.size)[front].T)
    return swapped[back].ravel()[::-1]


def _reversed_words(length: int) -> NDArray[np.intp]:
    """All words of `length` digits with their digits in the other order."""
    words = np.zeros(1, np.intp)
    for _ in range(length):
        words = np.add.outer(np.arange(4), 4 * words).ravel()
    return words


def words_and_contexts(rows: Codes, max_order: int) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Per position: its word, and how much of it counts. Both have the shape of rows.

    Words are the base and the max_order bases before it as a number of base 4, oldest digit first.
    Contexts are the clean bases directly before it in its row, at most max_order; -1 if the
    position is no base. Digits of a word beyond its context are meaningless.
    """
    digits = _DIGITS.take(rows.ravel())
    position = np.arange(digits.size, dtype=np.int32)
    last_break = np.where(digits == _NOT_A_BASE, position, np.int32(-1))
    row_starts = last_break[:: rows.shape[1]]
    np.maximum(row_starts, position[:: rows.shape[1]] - 1, out=row_starts)
    np.maximum.accumulate(last_break, out=last_break)
    contexts = np.minimum(position - last_break - 1, max_order)
    words = _join_digits((digits & 3).astype(np.uint32), max_order + 1)
    return words.reshape(rows.shape), contexts.reshape(rows.shape)


def _join_digits(digits: NDArray[np.uint32], length: int) -> NDArray[np.uint32]:
    """Each position's last `length` digits as one number, by doubling."""
    words, joined = digits, 1
    for bit in f"{length:b}"[1:]:
        words = _append(words, words, joined)
        joined *= 2
        if bit == "1":
            words = _append(words, digits, 1)
            joined += 1
    return words


def _append(
    older: NDArray[np.uint32], newer: NDArray[np.uint32], n_newer: int
) -> NDArray[np.uint32]:
    """The older word that ends just before each newer one of n_newer digits, in front of it."""
    joined = newer.copy()
    joined[n_newer:] |= older[:-n_newer] << np.uint32(2 * n_newer)
    return joined
