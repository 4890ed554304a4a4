"""Hold out labelled sequences by whole groups, so that related ones stay on one side."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.hashing import hash_u64
from dnamamba.data_prep.sequences import Ints, text_keys
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from dnamamba.task import Where

Keys = NDArray[np.uint64]
"""A number for each example, equal within a group, or for the same bases."""

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("valid", "validation", "val", "dev"), Split.VALID),
    **dict.fromkeys(("test", "testing"), Split.TEST),
}


def cut_shares(
    groups: Keys, shown: NDArray[np.bool_], fractions: Mapping[Split, float], seed: int
) -> dict[Split, Ints]:
    """Numbers of the examples of each split, in their order; the rest is for training.

    groups: of examples that stay together; they and the seed alone decide the split.
    shown: (N, C), the labels of each example; training keeps a group of every label.
    fractions: shares of examples to hold out, in this order.
    Raises InputError if no group can be held out.
    """
    names, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(hash_u64(names, seed), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    order = order[~np.isin(order, order[_last_ranks(rank[group], shown)])]
    split_of = np.full(len(names), len(fractions))
    for number, (split, fraction) in enumerate(fractions.items()):
        free = order[split_of[order] == len(fractions)]
        taken = _about(size[free], fraction * len(groups))
        if not taken:
            raise InputError(
                f"no example is left for the {split} split: {len(groups):,} examples are in "
                f"{len(names):,} groups that must stay together, and training keeps one of every "
                "label. Give more examples, smaller groups, or a file of their own for each split"
            )
        split_of[free[taken]] = number
    splits = [*fractions, Split.TRAIN]
    return {split: np.flatnonzero(split_of[group] == i) for i, split in enumerate(splits)}


def _last_ranks(rank: Ints, shown: NDArray[np.bool_]) -> Ints:
    """For each label, the rank of the last group that has it."""
    last = [int(rank[column].max()) for column in shown.T if column.any()]
    return np.array(last or [int(rank.max())], np.int64)


def _about(sizes: Ints, wanted: float) -> list[int]:
    """The first groups that together come closest to `wanted` examples; at least one."""
    taken, total = [], 0
    for i, size in enumerate(sizes.tolist()):
        if total >= wanted:
            break
        if abs(total + size - wanted) <= abs(total - wanted):
            taken.append(i)
            total += size
    return taken or ([int(sizes.argmin())] if len(sizes) else [])


def named_splits(names: Sequence[str], column: str, where: Where) -> dict[Split, Ints]:
    """The examples of each split by a column of train, valid (val, dev) and test, in any case.

    Raises InputError for other names and without rows for training.
    """
    splits = {name: _SPLIT_NAMES.get(name.lower()) for name in set(names)}
    if unknown := {name for name, split in splits.items() if split is None}:
        i = next(i for i, name in enumerate(names) if name in unknown)
        raise InputError(
            f"{where(i)} column {column!r}: expected train, valid or test, got {names[i]!r}"
        )
    of = np.array([splits[name] for name in names], object)
    found = {split: np.flatnonzero(of == split) for split in Split}
    if not len(found[Split.TRAIN]):
        raise InputError(f"no row has train in column {column!r}: nothing is left to train on")
    return {split: rows for split, rows in found.items() if len(rows)}


def refuse_torn_groups(
    groups: Sequence[str] | NDArray[Any], splits: Mapping[Split, Ints], source: str
) -> None:
    """Raise InputError if rows of one group are in several splits. groups: (N,)."""
    names = np.asarray(groups)
    found = {split: set(names[rows].tolist()) for split, rows in splits.items()}
    for one, other in itertools.combinations(found, 2):
        if torn := found[one] & found[other]:
            raise InputError(
                f"each group of {source} must be in one split, {len(torn):,} have rows in "
                f"{one.value} and in {other.value}: change the column of splits, or group rows "
                "otherwise"
            )


def overlap_groups(contigs: Sequence[str], starts: Ints, ends: Ints) -> Keys:
    """A number for each region, equal for regions that overlap, directly or through others.

    starts, ends: 0-based, half-open, one base or more.
    """
    _, contig = np.unique(np.array(contigs), return_inverse=True)
    # All contigs on one line.
    shift = contig * (int(ends.max()) + 1)
    order = np.argsort(starts + shift, kind="stable")
    first, reach = (starts + shift)[order], np.maximum.accumulate((ends + shift)[order])
    begins = np.concatenate([[False], first[1:] >= reach[:-1]])
    groups = np.empty(len(starts), np.uint64)
    # Named by their start, so that regions elsewhere do not change which are held out.
    leaders = order[np.flatnonzero(np.concatenate([[True], begins[1:]]))].tolist()
    groups[order] = text_keys([f"{contigs[i]}:{starts[i]}" for i in leaders])[np.cumsum(begins)]
    return groups


def warn_of_shared_sequences(keys: Mapping[Split, Keys]) -> None:
    """Log the number of sequences, on either strand, in more than one split."""
    for one, other in itertools.combinations(keys, 2):
        shared = np.intersect1d(keys[one], keys[other])
        if len(shared):
            rows = int(np.isin(keys[other], shared).sum())
            logger.warning(
                "%s sequences of %s stand in %s too, %s of its %s examples: results on it will "
                "look better than they are. Take them out of one",
                *(f"{len(shared):,}", one, other, f"{rows:,}", f"{len(keys[other]):,}"),
            )
