"""A probe's problem: labelled rows in canonical order, their task and folds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.linear_models import Matrix
from dnamamba.data.labelled.splits import named_splits
from dnamamba.data_prep.sequences import Ints
from dnamamba.errors import InputError
from dnamamba.metrics.metrics import Scores
from dnamamba.probing.folds import (
    Fold,
    GroupBy,
    canonical_order,
    cut_folds,
    given_folds,
    group_rows,
)
from dnamamba.probing.labels import EmbeddedTable, JoinedLabels, LabelTable, join_labels
from dnamamba.probing.sequences import region_texts
from dnamamba.runtime import logger
from dnamamba.task import Task, read_targets, read_task


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is fitted and how it is evaluated."""

    task: str = "classification"
    """classification, regression, or another kind of task with one label or number a row."""

    model: str | None = None
    """logistic, ridge or forest; None: the linear model of the task."""

    folds: int = 5
    """Parts that are held out in turn; unused with a column of splits."""

    inner_folds: int = 3
    """Parts of each fold's training rows that are held out in turn to choose by."""

    group_by: GroupBy | None = None
    """What stays in one fold; None: the table's groups, else regions that overlap."""

    max_k: int = 6
    """Bases of the longest words of the baseline."""

    seed: int = 0


@dataclass(frozen=True)
class Layer:
    """Vectors that can be probed, the same rows for every layer."""

    name: str
    """`layer 12`"""

    open: Callable[[], EmbeddedTable]


@dataclass(frozen=True)
class Problem:
    """Labelled rows in canonical order."""

    joined: JoinedLabels
    rows: Ints
    """(n,): their rows in the embeddings file."""

    table: Mapping[str, NDArray[Any]]
    task: Task
    targets: NDArray[Any]
    groups: list[str] | None
    folds: list[Fold]
    notes: list[str]

    @property
    def held(self) -> Ints:
        """Rows that some fold holds out, ascending."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))

    @property
    def fold_of(self) -> Ints:
        """(n,): the fold that holds a row out, -1 for none."""
        found = np.full(len(self.rows), -1)
        for i, fold in enumerate(self.folds):
            found[fold.test] = i
        return found

    @property
    def lengths(self) -> Ints:
        """(n,): bases of each region, 0 if they are not known."""
        starts, ends = (np.asarray(self.table[name])[self.rows] for name in ("start", "end"))
        return np.where(starts >= 0, ends - starts, 0).astype(np.int64)

    def scored(self, scores: NDArray[np.float32], rows: Ints) -> Scores:
        return Scores(scores[rows], self.targets[rows], self.lengths[rows])


def pose(embedded: EmbeddedTable, labels: LabelTable, config: ProbeConfig) -> Problem:
    """Join labels to rows and cut folds; log how many rows are used. Raises InputError as
    `probe_embeddings`."""
    joined = join_labels(embedded, labels)
    logger.info("labels are joined by %s: %s", joined.join, "; ".join(joined.described()))
    n = len(joined.rows)
    columns = {labels.label_column: joined.labels}
    kind = "multiclass" if config.task == "classification" else config.task
    task = read_task(kind, columns, labels.path.name)
    lengths = np.zeros(n, np.int64)
    targets = read_targets(task, columns, lengths, labels.path.name, joined.where)
    if task.has_numbers and np.ptp(targets) == 0:
        raise InputError(f"all {n:,} labels are {targets[0, 0]:g}: there is nothing to predict")
    groups, about = group_rows(joined, embedded.table, config.group_by)
    notes = [about]
    logger.info("%s", about)
    order = canonical_order(region_texts(embedded.table, joined.rows), config.seed)
    targets = targets[order]
    if groups is not None:
        groups = [groups[i] for i in order]
    if joined.splits is None:
        folds = cut_folds(targets, task, groups, config.folds, config.inner_folds, config.seed)
    else:
        named = named_splits(joined.splits, labels.split_column or "", joined.where)
        number = np.argsort(order)
        splits = {split: np.sort(number[rows]) for split, rows in named.items()}
        folds = given_folds(splits, targets, task, groups, config.inner_folds, config.seed)
    if task.has_classes and joined.splits is None:
        notes += _rare(targets, task, config.folds)
    return Problem(joined, joined.rows[order], embedded.table, task, targets, groups, folds, notes)


def _rare(targets: NDArray[Any], task: Task, n_folds: int) -> list[str]:
    counts = np.bincount(targets, minlength=len(task.labels))
    rare = [f"{task.labels[i]} ({counts[i]})" for i in np.flatnonzero(counts < n_folds)]
    if not rare:
        return []
    return [f"Classes with fewer rows than folds are hardly evaluated: {', '.join(rare)}."]


def read_vectors(layer: Layer, rows: Ints) -> Matrix:
    """(n, D) float32 of rows in any order, bins flattened; InputError if they are not finite."""
    embedded, name = layer.open(), layer.name
    vectors = embedded.vectors
    if len(vectors) != len(embedded.ok):
        raise InputError(
            f"{name} has {len(vectors):,} vectors for {len(embedded.ok):,} rows: a probe reads one "
            "row of numbers for each; embed with --pooling mean, or another that pools"
        )
    # Files are read by ascending rows.
    ascending = np.sort(rows)
    found = np.asarray(vectors[ascending], np.float32).reshape(len(rows), -1)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        bad = ascending[~finite]
        names = ", ".join(repr(str(embedded.table["name"][row])) for row in bad[:3])
        raise InputError(
            f"{len(bad):,} of {len(rows):,} labelled rows have vectors in {name} that are not "
            f"finite (rows {', '.join(str(row + 1) for row in bad[:3])}: {names}): a bin without a "
            "base has none. Embed with fewer bins, or leave those rows out of the labels"
        )
    return found[np.searchsorted(ascending, rows)]
