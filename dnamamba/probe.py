"""A linear head fitted at once to features that a frozen model makes: what they tell of a task.

Nothing here needs torch. `DnaClassifier.features` makes features, `DnaClassifier.set_head` takes
the head.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.runtime import logger
from dnamamba.task import IGNORED_LABEL, Task

Floats = NDArray[np.floating[Any]]

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Weights of the data against the penalty on squared weights (scikit-learn's C, ridge's
1 / alpha) that are tried."""

MAX_ITERATIONS = 1000


class _Head(NamedTuple):
    weight: Floats
    """(C, D)"""

    bias: Floats
    """(C,)"""

    def scores(self, features: Floats) -> Floats:
        return features @ self.weight.T + self.bias


def fit_probe(
    features: NDArray[np.float32],
    targets: NDArray[Any],
    task: Task,
    valid: tuple[NDArray[np.float32], NDArray[Any]],
    *,
    balanced: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight (C, D) and bias (C,), float32, of a classifier's head on raw features.

    features: (N, D), finite. targets: as in `Examples`, N rows of them; per_base: (N,), of as many
    bases, those without a label being left out; regression: as the head is to give them, so
    standardised where it has target_means. valid: the same of the examples that choose how strong
    the penalty is.

    Logistic regression (one for each label of a multilabel task; ridge for a regression) on
    standardised features, at each of STRENGTHS; the one of least loss on `valid`, the weaker fit
    where two are the same. A label of a multilabel task that every example has, or none, gets its
    share alone.
    balanced: classes, or having and not having a label, count the same whatever their numbers.

    Deterministic but for the rounding of BLAS. Works on a float64 copy of the features. Raises
    ValueError for shapes that do not fit; InputError for features that are not finite, for a class
    without training examples and for a balanced regression.
    """
    if balanced and task.kind == "regression":
        raise InputError("a regression has no classes to be balanced: leave balanced out")
    x, labels = _checked(features, targets, task, "training")
    valid_x, valid_labels = _checked(*valid, task, "validation")
    if x.shape[1] != valid_x.shape[1]:
        raise ValueError(
            f"features are (N, {x.shape[1]}) in training, so also in validation; got "
            f"{valid_x.shape}"
        )
    mean, scale = spread(x)
    for part in (x, valid_x):
        part -= mean
        part /= scale
    best, least, chosen = None, math.inf, 0.0
    for strength in STRENGTHS:
        head = _FITS[task.kind](x, labels, task, strength, balanced)
        loss = _loss(head.scores(valid_x), valid_labels, task, balanced)
        if best is None or loss < least:
            best, least, chosen = head, loss, strength
    assert best is not None, "STRENGTHS are some"
    logger.info("linear probe: C = %g, validation loss %.4f", chosen, least)
    weight = (best.weight / scale).astype(np.float32)
    return weight, (best.bias - weight.astype(np.float64) @ mean).astype(np.float32)


def _checked(
    features: NDArray[Any], targets: NDArray[Any], task: Task, split: str
) -> tuple[Floats, NDArray[Any]]:
    """Features of the labelled rows in float64, and their targets."""
    features, targets = np.asarray(features), np.asarray(targets)
    shape: tuple[int, ...] = (len(features),)
    if not task.has_classes:
        shape += (len(task.labels),)
    if features.ndim != 2 or targets.shape != shape:
        raise ValueError(
            f"{split} features are (N, D) and targets of a {task.kind} task {shape}; got "
            f"{features.shape} and {targets.shape}"
        )
    if task.has_classes:
        features, targets = features[targets != IGNORED_LABEL], targets[targets != IGNORED_LABEL]
    if not len(features):
        raise InputError(f"there are no {split} examples to fit a linear probe with: add some")
    if not np.isfinite(features).all():
        raise InputError(
            f"{split} features are not all finite numbers: the model that made them is broken; try "
            "another checkpoint, or --precision fp32"
        )
    return features.astype(np.float64), targets


def spread(features: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each feature, 1 for one that does not vary."""
    mean, scale = features.mean(0), features.std(0)
    # Of a constant, rounding may leave a little more than nothing, which would be blown up.
    is_constant = scale <= 10 * np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(is_constant | (scale == 0), 1.0, scale)


# --- fits, all of standardised features


def _fit_classes(
    features: Floats, targets: NDArray[Any], task: Task, strength: float, balanced: bool
) -> _Head:
    counts = np.bincount(targets, minlength=len(task.labels))
    if empty := [task.labels[i] for i in np.flatnonzero(counts == 0)]:
        raise InputError(
            f"no training example of {', '.join(empty)}, so a linear probe cannot know it: add some"
        )
    head = _fit_logistic(features, targets, strength, balanced)
    if len(task.labels) == 2:
        # One logit, shared between the two labels: their difference is what softmax sees.
        return _Head(*(np.concatenate([-part, part]) / 2 for part in head))
    return head


def _fit_labels(
    features: Floats, targets: NDArray[Any], task: Task, strength: float, balanced: bool
) -> _Head:
    heads = []
    for has_label in targets.T > 0.5:
        count, having = len(has_label), int(has_label.sum())
        if 0 < having < count:
            heads.append(_fit_logistic(features, has_label, strength, balanced))
        else:
            # As if one half of an example more had been seen of either.
            share = math.log((having + 0.5) / (count - having + 0.5))
            heads.append(_Head(np.zeros((1, features.shape[1])), np.array([share])))
    return _Head(*(np.concatenate(parts) for parts in zip(*heads, strict=True)))


def _fit_logistic(
    features: Floats, targets: NDArray[Any], strength: float, balanced: bool
) -> _Head:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weights = "balanced" if balanced else None
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, class_weight=weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, targets)
    if caught:
        logger.info("linear probe: no convergence at C = %g: %s", strength, caught[0].message)
    return _Head(model.coef_, model.intercept_)


def _fit_numbers(
    features: Floats, targets: NDArray[Any], task: Task, strength: float, balanced: bool
) -> _Head:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(features, targets.astype(np.float64))
    return _Head(model.coef_.reshape(len(task.labels), -1), model.intercept_.reshape(-1))


_FITS: dict[str, Callable[..., _Head]] = {
    "multiclass": _fit_classes,
    "per_base": _fit_classes,
    "multilabel": _fit_labels,
    "regression": _fit_numbers,
}


# --- what is to be least on validation


def _loss(scores: Floats, targets: NDArray[Any], task: Task, balanced: bool) -> float:
    """The mean over examples; balanced, over classes of the mean over each one's examples."""
    if task.kind == "regression":
        return float(np.square(scores - targets).mean())
    if task.kind == "multilabel":
        has_label = targets > 0.5
        losses = np.logaddexp(0, np.where(has_label, -scores, scores))
        labels = zip(losses.T, has_label.T, strict=True)
        return float(np.mean([_mean(one, groups, balanced) for one, groups in labels]))
    losses = np.logaddexp.reduce(scores, 1) - scores[np.arange(len(scores)), targets]
    return _mean(losses, targets, balanced)


def _mean(losses: Floats, groups: NDArray[Any], balanced: bool) -> float:
    if not balanced:
        return float(losses.mean())
    return float(np.mean([losses[groups == group].mean() for group in np.unique(groups)]))
