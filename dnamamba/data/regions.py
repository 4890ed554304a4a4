"""Arithmetic on stretches of one contig: merge, subtract, count.

A set of stretches is an int64 array of rows (start, end), 0-based half-open, shape (k, 2).
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Runs = NDArray[np.int64]

NO_RUNS: Runs = np.empty((0, 2), np.int64)


def merge(runs: Iterable[tuple[int, int]] | Runs) -> Runs:
    """Sorted, without overlaps; stretches that touch are joined, empty ones dropped."""
    rows = np.array(list(runs), np.int64).reshape(-1, 2)
    rows = rows[rows[:, 1] > rows[:, 0]]
    if not len(rows):
        return NO_RUNS
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    reach = np.maximum.accumulate(rows[:, 1])
    first = np.flatnonzero(np.append(True, rows[1:, 0] > reach[:-1]))
    return np.stack([rows[first, 0], np.maximum.reduceat(rows[:, 1], first)], axis=1)


def subtract(runs: Runs, taken: Runs) -> Runs:
    """What of merged `runs` lies outside merged `taken`."""
    pieces = []
    for start, end in runs.tolist():
        for taken_start, taken_end in taken.tolist():
            if taken_end <= start or taken_start >= end:
                continue
            if taken_start > start:
                pieces.append((start, taken_start))
            start = max(start, taken_end)
        pieces.append((start, end))
    return merge(pieces)


def count_bases(runs: Runs) -> int:
    """Bases in merged stretches."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def bases_within(runs: Runs, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Runs:
    """How many bases of merged `runs` lie in each [start, end). Shape (n,), int64."""
    if not len(runs):
        return np.zeros(len(starts), np.int64)
    return _bases_before(runs, ends) - _bases_before(runs, starts)


def _bases_before(runs: Runs, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = np.append(0, np.cumsum(runs[:, 1] - runs[:, 0]))
    begun = np.searchsorted(runs[:, 0], positions, side="right")
    # The last stretch begun may reach past the position: take off what lies beyond.
    beyond = runs[np.maximum(begun - 1, 0), 1] - positions
    return lengths[begun] - np.where(begun > 0, np.maximum(beyond, 0), 0)
