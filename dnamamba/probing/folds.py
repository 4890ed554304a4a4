"""Nested cross-validation: neither fits nor choices see the rows that they are evaluated on.

Rows are ordered by a hash of their content (`canonical_order`): results do not depend on the order
of a file.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.linear_models import Matrix, ProbeModel, path_losses
from dnamamba.data.hashing import hash_u64
from dnamamba.data.labelled.splits import overlap_groups, refuse_torn_groups
from dnamamba.data_prep.sequences import Ints, text_keys
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.probing.labels import MISSING, JoinedLabels
from dnamamba.runtime import logger
from dnamamba.task import Targets, Task


class FeatureSet(NamedTuple):
    """Features that can be chosen. They are read when their turn comes: one set is held at a time.

    ladder: sets of one ladder come from the smallest up; a fold stops climbing once its loss has
    risen twice.
    """

    name: str
    read: Callable[[], Matrix]
    """() -> (n, D) float32, finite, in the order of the rows."""

    ladder: str | None = None


class Fold(NamedTuple):
    """Rows to fit to, rows to evaluate on, and parts of the former to choose by."""

    name: str
    train: Ints
    test: Ints
    inner: list[tuple[Ints, Ints]]
    """(fitted, held out) parts of the training rows; empty: nothing can be chosen."""


@dataclass(frozen=True)
class Fits:
    """Every feature set (S) in every fold (F), and what was chosen in each."""

    names: list[str]
    folds: list[Fold]
    model: ProbeModel
    paths: NDArray[np.float64]
    """(S, F, strengths): mean loss over the inner parts; inf if it was not computed."""

    is_tried: NDArray[np.bool_]
    """(S, F)"""

    found: list[NDArray[np.float32]]
    """S times (n, C): scores of held-out rows; nan elsewhere and if a set was not tried."""

    @property
    def losses(self) -> NDArray[np.float64]:
        """(S, F): the least loss of a path; 0 if nothing can be chosen, inf if it was not tried."""
        least = self.paths.min(axis=2)
        return np.where(self.is_tried & np.isinf(least), 0.0, least)

    @property
    def strengths(self) -> NDArray[np.float64]:
        """(S, F): the strength with that loss."""
        chosen = np.array(self.model.strengths, float)[self.paths.argmin(axis=2)]
        can_choose = np.array([bool(fold.inner) for fold in self.folds])
        return np.where(self.is_tried & can_choose, chosen, self.model.usual_strength)

    @property
    def chosen(self) -> Ints:
        """(F,): the set of least loss in each fold's training rows, the first of equal ones."""
        return self.losses.argmin(axis=0)

    @property
    def scores(self) -> NDArray[np.float32]:
        """(n, C): scores of each held-out row by the set that its fold chose; nan elsewhere."""
        scores = np.full_like(self.found[0], np.nan)
        for fold, chosen in zip(self.folds, self.chosen, strict=True):
            scores[fold.test] = self.found[chosen][fold.test]
        return scores

    @property
    def best(self) -> tuple[int, float]:
        """The set and the strength of least mean loss over the folds' training rows."""
        i = int(self.losses.mean(axis=1).argmin())
        known = self.paths[i][np.isfinite(self.paths[i]).any(axis=1)]
        if not len(known):
            return i, float(self.strengths[i, 0])
        return i, self.model.strengths[int(known.mean(axis=0).argmin())]


def canonical_order(texts: Sequence[str], seed: int) -> Ints:
    """Rows in the order of a hash of (text, seed); equal texts keep their order."""
    return np.argsort(_keys(texts, seed), kind="stable")


def _keys(texts: Sequence[str], seed: int) -> NDArray[np.uint64]:
    return hash_u64(text_keys(list(texts)), seed)


# --- folds


def cut_folds(
    targets: Targets,
    task: Task,
    groups: Sequence[str] | None,
    n_folds: int,
    n_inner: int,
    seed: int,
) -> list[Fold]:
    """Folds of whole groups, with similar shares of classes as far as groups allow.

    targets: int64 (n,) of classes, float32 (n, 1) of numbers. Raises InputError for fewer groups
    than folds, and for a class that all training rows of a fold have.
    """
    if n_folds < 2:
        raise InputError(f"cross-validation needs 2 folds or more, got {n_folds}")
    ids = None if groups is None else _keys(groups, seed)
    things, n_things = ("rows", len(targets)) if ids is None else ("groups", len(np.unique(ids)))
    if n_things < n_folds:
        raise InputError(
            f"{n_folds} folds need {n_folds} {things} or more, there are {n_things:,}: take fewer "
            "(--folds), other groups (--group-column, --group-by), or --group-by none if rows that "
            "overlap may be on both sides, which makes results look better than they are"
        )
    folds = []
    for number, test in enumerate(_parts(targets, task, ids, n_folds), start=1):
        train = np.setdiff1d(np.arange(len(targets)), test)
        folds.append(Fold(str(number), train, test, _inner(train, targets, task, ids, n_inner)))
        _check(folds[-1], targets, task)
    return folds


def given_folds(
    splits: dict[Split, Ints],
    targets: Targets,
    task: Task,
    groups: Sequence[str] | None,
    n_inner: int,
    seed: int,
) -> list[Fold]:
    """The one fold of a column of train, valid and test.

    It is evaluated on test, else on validation. Validation rows choose if there is a test too, else
    parts of the training rows. Raises InputError if there is neither, and for a group in two
    splits.
    """
    held = Split.TEST if Split.TEST in splits else Split.VALID
    if held not in splits:
        raise InputError("no row is for test or valid in the column of splits: add some")
    if groups is not None:
        refuse_torn_groups(groups, splits, "the labels")
    train = splits[Split.TRAIN]
    if held is Split.TEST and Split.VALID in splits:
        inner = [(train, splits[Split.VALID])]
    else:
        ids = None if groups is None else _keys(groups, seed)
        inner = _inner(train, targets, task, ids, n_inner)
    fold = Fold(held.value, train, splits[held], inner)
    _check(fold, targets, task)
    return [fold]


def _inner(
    train: Ints, targets: Targets, task: Task, ids: NDArray[np.uint64] | None, n_parts: int
) -> list[tuple[Ints, Ints]]:
    own = None if ids is None else ids[train]
    n_parts = min(n_parts, len(train) if own is None else len(np.unique(own)))
    if n_parts < 2:
        return []
    parts = _parts(targets[train], task, own, n_parts)
    pairs = [(np.delete(train, part), train[part]) for part in parts]
    return [(a, b) for a, b in pairs if not task.has_classes or len(np.unique(targets[a])) > 1]


def _parts(targets: Targets, task: Task, ids: NDArray[np.uint64] | None, n: int) -> list[Ints]:
    """n parts of the rows, each row in one."""
    from sklearn import model_selection

    can_stratify = task.has_classes and np.bincount(targets).max() >= n
    if ids is None:
        splitter = model_selection.StratifiedKFold if can_stratify else model_selection.KFold
    else:
        grouped = model_selection.StratifiedGroupKFold if can_stratify else None
        splitter = grouped or model_selection.GroupKFold
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer rows than folds
        parts = [part for _, part in splitter(n).split(targets, targets.ravel(), ids)]
    if all(map(len, parts)):
        return parts
    return [part for _, part in model_selection.GroupKFold(n).split(targets, groups=ids)]


def _check(fold: Fold, targets: Targets, task: Task) -> None:
    if task.has_classes and len(seen := np.unique(targets[fold.train])) < 2:
        raise InputError(
            f"all {len(fold.train):,} training rows of fold {fold.name} are "
            f"{task.labels[int(seen[0])]!r}, so nothing can be learned: take other groups, or more "
            "folds (--folds)"
        )


# --- fits


def fit_nested(
    sets: Sequence[FeatureSet], targets: Targets, folds: Sequence[Fold], model: ProbeModel
) -> Fits:
    """Choose a strength for each feature set within the training rows of each fold, fit it to all
    training rows and score those held out."""
    fits = Fits(
        names=[features.name for features in sets],
        folds=list(folds),
        model=model,
        paths=np.full((len(sets), len(folds), len(model.strengths)), np.inf),
        is_tried=np.zeros((len(sets), len(folds)), bool),
        found=[np.full((len(targets), len(model.task.labels)), np.nan, np.float32) for _ in sets],
    )
    for s, features in enumerate(sets):
        below = [i for i in range(s) if features.ladder and sets[i].ladder == features.ladder]
        tried = [f for f in range(len(folds)) if not _has_risen(fits.losses[below, f])]
        fits.is_tried[s, tried] = True
        x = features.read() if tried else np.empty((0, 0), np.float32)
        for f in tried:
            fold = folds[f]
            fits.paths[s, f] = _path(x, targets, fold, model)
            fitted = model.fit(x[fold.train], targets[fold.train], fits.strengths[s, f])
            fits.found[s][fold.test] = fitted.scores(x[fold.test], model.task)
        if tried:
            loss = fits.losses[s, tried].mean()
            logger.info("%s: validation loss %.4f in %d folds", features.name, loss, len(tried))
    return fits


def _has_risen(losses: NDArray[np.float64]) -> bool:
    """Whether the last two are each worse than the one before; inf is worse than anything."""
    return len(losses) > 2 and bool(losses[-1] >= losses[-2] >= losses[-3])


def _path(x: Matrix, targets: Targets, fold: Fold, model: ProbeModel) -> NDArray[np.float64]:
    """The mean loss of each strength over the inner parts; inf after it has risen twice in one."""
    losses = np.full((max(1, len(fold.inner)), len(model.strengths)), np.inf)
    for row, (fitted, held) in zip(losses, fold.inner, strict=False):
        models = model.path(x[fitted], targets[fitted])
        path = path_losses(models, x[held], targets[held], model.task)
        for i, (_, loss) in enumerate(path):
            row[i] = loss
    return losses.mean(axis=0)


def fit_best(fits: Fits, features: FeatureSet, targets: Targets) -> Any:
    """The best set at its best strength, fitted to all rows that may be fitted to: the training
    rows of given splits, every row of folds. features: the set that `fits.best` names."""
    x = features.read()
    rows = np.arange(len(targets)) if len(fits.folds) > 1 else fits.folds[0].train
    return fits.model.fit(x[rows], targets[rows], fits.best[1])


# --- groups: rows that must stay in one fold, as they resemble each other or are the same row

GroupBy = Literal["chrom", "overlap", "none"]
_EDGES = ("start", "end", "window_start", "window_end")


def group_rows(
    joined: JoinedLabels, table: Mapping[str, NDArray[Any]], group_by: GroupBy | None
) -> tuple[list[str] | None, str]:
    """(group of each labelled row, None if every row is its own; a sentence on the groups).

    group_by: None takes the table's column of groups if there is one, else regions that overlap, if
    any do. Embeddings that share a row of the table are in one group.
    """
    if joined.groups is not None:
        if group_by is not None:
            raise InputError(
                "groups are those of a column (--group-column) or of regions (--group-by): leave "
                "one of the two out"
            )
        # A row without a group is a group of its own.
        names: list[str] | None = [
            f"row {row}" if name in MISSING else name
            for row, name in zip(joined.table_rows.tolist(), joined.groups, strict=True)
        ]
        about = "Groups are those of the table's column"
    elif group_by == "chrom":
        names, about = [str(table["chrom"][row]) for row in joined.rows], "Groups are contigs"
    elif group_by == "none":
        names, about = None, "Every row stands by itself, whether regions overlap or not"
    else:
        names, about = _overlapping(joined.rows, table), "Groups are regions that overlap"
        if group_by is None and names is not None and len(set(names)) == len(names):
            names = None
        if names is None:
            about = "Every row stands by itself: no regions overlap"
    if joined.counts["sharing"] and group_by != "none":
        table_rows = [str(row) for row in joined.table_rows]
        names = table_rows if names is None else merged(names, table_rows)
        about += ", and rows of one label"
    if names is None:
        return None, about + "."
    return names, f"{about}; none is torn between folds ({len(set(names)):,} groups)."


def _overlapping(rows: Ints, table: Mapping[str, NDArray[Any]]) -> list[str]:
    """Groups of regions that overlap, named by the start of the first. Rows without a region are
    grouped by name."""
    names = [str(table["name"][row]) or f"row {row + 1}" for row in rows]
    read = {name: np.asarray(table[name], np.int64)[rows] for name in table if name in _EDGES}
    starts, ends = read["start"], read["end"]
    if "window_start" in read:  # more than the region for variants, or with context
        has_window = read["window_start"] >= 0
        starts = np.where(has_window, np.minimum(starts, read["window_start"]), starts)
        ends = np.where(has_window, np.maximum(ends, read["window_end"]), ends)
    known = np.flatnonzero((starts >= 0) & (ends > starts))
    if len(known):
        contigs = [str(table["chrom"][row]) for row in rows[known]]
        groups = overlap_groups(contigs, starts[known], ends[known]).tolist()
        first: dict[int, str] = {}
        for i in sorted(range(len(known)), key=lambda i: (contigs[i], starts[known[i]])):
            first.setdefault(groups[i], f"{contigs[i]}:{starts[known[i]]}")
        for row, group in zip(known.tolist(), groups, strict=True):
            names[row] = first[group]
    return names


def merged(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Groups of rows that share a name of either kind, directly or through others.

    Each is called by the first of its names in the order of text.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first, second = (np.unique(np.array(part), return_inverse=True)[1] for part in (names, others))
    second = second + first.max() + 1
    size = int(second.max()) + 1
    graph = coo_matrix((np.ones(len(first), bool), (first, second)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][first].tolist()
    smallest: dict[int, str] = {}
    for group, name in zip(component, names, strict=True):
        smallest[group] = min(name, smallest.get(group, name))
    return [smallest[group] for group in component]
