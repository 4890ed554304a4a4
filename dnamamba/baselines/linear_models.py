"""Models that are fitted to embeddings: logistic regression, ridge regression, random forest.

All are scikit-learn's behind its StandardScaler. What is chosen on validation is one number, the
strength: of linear models the weight of the data against the penalty, of a forest the least rows
in a leaf.
"""

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.runtime import logger
from dnamamba.task import IGNORED_LABEL, Task

Matrix = NDArray[np.float32]
ModelKind = Literal["logistic", "ridge", "forest"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Weights of the data against the penalty on squared weights (scikit-learn's C, ridge's
1 / alpha) that are tried."""

STRENGTHS_OF: dict[ModelKind, tuple[float, ...]] = {
    "logistic": STRENGTHS,
    "ridge": STRENGTHS,
    "forest": (1, 5, 20),
}
STRENGTH_NAMES = {"logistic": "C", "ridge": "1 / alpha", "forest": "rows in a leaf"}
_USUAL: dict[ModelKind, float] = {"logistic": 0.1, "ridge": 0.1, "forest": 5}
"""Taken where nothing can be chosen."""

N_TREES = 200
_MAX_ITERATIONS = 500


def model_kind(name: str | None, task: Task) -> ModelKind:
    """logistic or ridge by the task where none is named. InputError where the two do not fit."""
    kind: Any = name or ("ridge" if task.kind == "regression" else "logistic")
    if kind not in STRENGTHS_OF:
        raise InputError(f"a probe's model is one of {', '.join(STRENGTHS_OF)}, got {kind!r}")
    wrong = {"logistic": "regression", "ridge": "multiclass"}.get(kind)
    if task.kind == wrong:
        raise InputError(
            f"{kind} regression does not fit {'numbers' if kind == 'logistic' else 'classes'}: "
            f"choose --model {'ridge' if kind == 'logistic' else 'logistic'} or forest"
        )
    return kind


def usual_strength(kind: ModelKind) -> float:
    """What is taken where training rows cannot be divided to choose by."""
    return _USUAL[kind]


@dataclass(frozen=True)
class Fitted:
    """A pipeline of scikit-learn and the task it was fitted for."""

    pipeline: Any
    task: Task

    def scores(self, x: Matrix) -> NDArray[np.float32]:
        """(n, C): probabilities, 0 for a class that it never saw, or numbers (n, 1)."""
        if self.task.kind == "regression":
            return np.asarray(self.pipeline.predict(x), np.float32).reshape(-1, 1)
        scores = np.zeros((len(x), len(self.task.labels)), np.float32)
        scores[:, self.pipeline.classes_] = self.pipeline.predict_proba(x)
        return scores


def fit(
    kind: ModelKind, x: Matrix, targets: NDArray[Any], task: Task, strength: float, seed: int
) -> Fitted:
    """Fit one strength. x: (n, D) finite. targets: int64 (n,) of two classes or more, or float32
    (n, 1). The same arguments give the same model."""
    return next(fits(kind, x, targets, task, seed, (strength,)))


def fits(
    kind: ModelKind,
    x: Matrix,
    targets: NDArray[Any],
    task: Task,
    seed: int,
    strengths: tuple[float, ...] | None = None,
) -> Iterator[Fitted]:
    """The same for each strength. A model is good until the next one is asked for: logistic
    regressions go on from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Normal equations of alike features need float64; logistic regression does not.
    scaler = StandardScaler().fit(x.astype(np.float64) if kind == "ridge" else x)
    scaled = scaler.transform(x.astype(np.float64) if kind == "ridge" else x)
    model = _new_model(kind, task, seed)
    right = targets.ravel()
    for strength in STRENGTHS_OF[kind] if strengths is None else strengths:
        model.set_params(**_setting(kind, strength))
        with warnings.catch_warnings():
            # One that is cut off after 500 steps is a model too, and validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(scaled, right)
        yield Fitted(make_pipeline(scaler, model), task)


def _new_model(kind: ModelKind, task: Task, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    if kind == "logistic":
        return LogisticRegression(warm_start=True, max_iter=_MAX_ITERATIONS, tol=1e-3)
    if kind == "ridge":
        return Ridge()
    forest = RandomForestClassifier if task.has_classes else RandomForestRegressor
    # A third of all features, a regressor's usual share, takes ten times as long.
    return forest(N_TREES, max_features="sqrt", random_state=seed, n_jobs=-1)


def _setting(kind: ModelKind, strength: float) -> dict[str, float]:
    if kind == "forest":
        return {"min_samples_leaf": int(strength)}
    return {"C": strength} if kind == "logistic" else {"alpha": 1 / strength}


def loss(scores: NDArray[np.float32], targets: NDArray[Any], task: Task) -> float:
    """What is to be least on validation: the mean log loss in nats, or the squared error."""
    if task.kind == "regression":
        return float(np.square(scores - targets, dtype=np.float64).mean())
    right = scores[np.arange(len(scores)), targets].astype(np.float64)
    return float(-np.log(np.maximum(right, 1e-6)).mean())


# --- what is kept


@dataclass(frozen=True)
class LinearProbe:
    """The coefficients of a logistic or ridge regression, on vectors as the file has them."""

    weight: NDArray[np.float64]
    """(C, D): a row for each label (one for a number); of bins D is bins x width, flattened."""

    bias: NDArray[np.float64]
    """(C,)"""

    task: Task
    features: str
    """Which vectors: `layer 12`."""

    @classmethod
    def of(cls, fitted: Fitted, features: str) -> Self:
        """Fold the standardisation into the coefficients. fitted: no forest."""
        scaler, model = (step for _, step in fitted.pipeline.steps)
        n_labels = len(fitted.task.labels)
        weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
        weight, bias = weight.astype(np.float64), bias.astype(np.float64)
        if fitted.task.has_classes:
            here = model.classes_
            if len(here) == 2:
                # One logit, shared between the two labels: their difference is what softmax sees.
                weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
            all_weight, all_bias = np.zeros((n_labels, weight.shape[1])), np.full(n_labels, -30.0)
            all_weight[here], all_bias[here] = weight, bias
            weight, bias = all_weight, all_bias
        weight = weight / scaler.scale_
        return cls(weight, bias - weight @ scaler.mean_, fitted.task, features)

    def scores(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """(n, C) probabilities of the labels, or numbers, of vectors (n, D) or (n, bins, D)."""
        x = np.asarray(vectors, np.float64).reshape(len(vectors), -1)
        if x.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"the probe is of vectors with {self.weight.shape[1]:,} numbers ({self.features}), "
                f"these have {x.shape[1]:,}: embed with the same model, layer, pooling and --rc"
            )
        found = x @ self.weight.T + self.bias
        if not self.task.has_classes:
            return found
        found = np.exp(found - found.max(axis=1, keepdims=True))
        return found / found.sum(axis=1, keepdims=True)

    def save(self, path: Path) -> None:
        """Write a .npz of numbers and texts, which needs no pickle."""
        texts = {"kind": self.task.kind, "labels": self.task.labels, "features": self.features}
        arrays = {name: np.array(text, np.str_) for name, text in texts.items()}
        np.savez(path, weight=self.weight, bias=self.bias, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises InputError where it is damaged or something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                kind: Any = str(file["kind"])
                task = Task(kind=kind, labels=tuple(file["labels"].tolist()))
                return cls(file["weight"], file["bias"], task, str(file["features"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a probe: {error}") from error


# --- A linear head fitted at once to features that a frozen model makes: what they tell of a task

Floats = NDArray[np.floating[Any]]


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
