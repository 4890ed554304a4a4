"""The one linear fit: standardise, fit a penalised linear model, fold the standardisation in.

Probes of embeddings, the head of `classify train --tune probe` and the k-mer baseline use it. The
model is scikit-learn's, by the kind of task (metrics/task_kinds.py). Validation chooses the
strength: the weight of the data against the penalty on squared weights (C, 1 / alpha of a ridge).
"""

import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.files import building
from dnamamba.metrics.task_kinds import FitSettings, scores_of, task_kind
from dnamamba.runtime import logger
from dnamamba.task import IGNORED_LABEL, Task

Matrix = Any
"""Features (N, D): float32 array, or scipy.sparse.csr_matrix."""

Targets = NDArray[Any]
"""int64 (N,) of classes, else float32 (N, C)."""

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)

_NEVER = -30.0
"""Logit of a class that no training example has."""

_COLUMNS_AT_ONCE = 256


class LinearModel(NamedTuple):
    """Logits of raw features: features @ weight.T + bias."""

    weight: NDArray[np.float64]
    """(C, D)"""

    bias: NDArray[np.float64]
    """(C,)"""

    def scores(self, features: Matrix, task: Task) -> NDArray[np.float32]:
        """Probabilities of the labels, or numbers, float32 (N, C)."""
        logits = np.asarray(features @ self.weight.T, np.float64) + self.bias
        return scores_of(logits, task).astype(np.float32)


def fit_path(
    features: Matrix,
    targets: Targets,
    task: Task,
    strengths: Sequence[float],
    settings: FitSettings | None = None,
) -> Iterator[LinearModel]:
    """A model for each strength, each fit starting at the one before.

    features: (N, D), finite. A class that no example has gets a probability of 0, a label that all
    examples have, or none, its share alone. The same arguments give the same models.
    """
    from sklearn.exceptions import ConvergenceWarning

    settings = settings or FitSettings()
    kind = task_kind(task)
    dense = features if isinstance(features, np.ndarray) else features.toarray()
    mean, scale = spread(dense)
    dtype = np.float64 if settings.exact else np.float32
    scaled = dense.astype(dtype, copy=dense is features)
    scaled -= mean.astype(dtype)
    scaled /= scale.astype(dtype)
    if not task.has_numbers and not task.has_classes:
        targets = targets > 0.5
    columns = list(targets.T) if kind.fits_columns else [targets]
    estimators = [kind.estimator(strengths[0], settings) for _ in columns]
    for strength in strengths:
        parts = []
        with warnings.catch_warnings():
            # A fit that is cut off is a model too, and validation evaluates it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for estimator, column in zip(estimators, columns, strict=True):
                estimator.set_params(**kind.estimator(strength, settings).get_params())
                parts.append(_fit(estimator, scaled, column, task))
        weight = np.concatenate([part.weight for part in parts]) / scale
        yield LinearModel(weight, np.concatenate([part.bias for part in parts]) - weight @ mean)


def _fit(estimator: Any, x: NDArray[Any], targets: Targets, task: Task) -> LinearModel:
    """Weights of standardised features: (C, D), or (1, D) of a column that is fitted by itself."""
    n_features, present = x.shape[1], np.unique(targets)
    if not task.has_numbers and len(present) < 2:
        if task.has_classes:
            bias = np.full(len(task.labels), _NEVER)
            bias[present] = 0
            return LinearModel(np.zeros((len(bias), n_features)), bias)
        # As if one half of an example more had been seen of either.
        n, having = len(targets), int(targets.sum())
        share = math.log((having + 0.5) / (n - having + 0.5))
        return LinearModel(np.zeros((1, n_features)), np.array([share]))
    estimator.fit(x, targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets)
    weight = np.atleast_2d(estimator.coef_).astype(np.float64)
    bias = np.atleast_1d(estimator.intercept_).astype(np.float64)
    if not task.has_classes:
        return LinearModel(weight, bias)
    if len(present) == 2:
        # One logit, shared between the two labels: their difference is what softmax sees.
        weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
    model = LinearModel(np.zeros((len(task.labels), n_features)), np.full(len(task.labels), _NEVER))
    model.weight[present], model.bias[present] = weight, bias
    return model


def spread(features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column (D,), 1 for one that does not vary."""
    moments = []
    for start in range(0, features.shape[1], _COLUMNS_AT_ONCE):
        block = features[:, start : start + _COLUMNS_AT_ONCE].astype(np.float64)
        moments.append((block.mean(0), block.std(0)))
    mean, scale = (np.concatenate(parts) for parts in zip(*moments, strict=True))
    # Rounding may leave a little more than nothing of a constant, which would be blown up.
    is_constant = scale <= 10 * np.finfo(np.float32).eps * np.abs(mean)
    return mean, np.where(is_constant | (scale == 0), 1.0, scale)


# --- validation loss


def validation_loss(
    scores: NDArray[Any], targets: Targets, task: Task, *, balanced: bool = False
) -> float:
    """Mean log loss in nats, or squared error; balanced: classes, or having and not having a label,
    count the same."""
    losses = task_kind(task).score_losses(scores, targets)
    if not balanced:
        return float(losses.mean())
    columns = [(losses, targets)] if losses.ndim == 1 else zip(losses.T, targets.T, strict=True)
    means = [
        np.mean([column[groups == group].mean() for group in np.unique(groups)])
        for column, groups in columns
    ]
    return float(np.mean(means))


def path_losses(
    models: Iterable[Any], features: Matrix, targets: Targets, task: Task, balanced: bool = False
) -> Iterator[tuple[Any, float]]:
    """(model, validation loss) along a path, until the loss has risen twice in a row."""
    losses: list[float] = []
    for model in models:
        scores = model.scores(features, task)
        losses.append(validation_loss(scores, targets, task, balanced=balanced))
        yield model, losses[-1]
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            return


# --- the head of a classifier


def fit_probe(
    features: NDArray[np.float32],
    targets: Targets,
    task: Task,
    valid: tuple[NDArray[np.float32], Targets],
    *,
    balanced: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weight (C, D) and bias (C,), float32, of a classifier's head on raw features.

    features: (N, D). targets: N rows as in `Examples`, as the head is to give them (standardised if
    it has target_means); per_base: (N,), one a base. valid: the same for the examples that choose
    one of STRENGTHS by their loss. balanced: classes, or having and not having a label, count the
    same whatever their numbers.

    Deterministic but for the rounding of BLAS. Works on a float64 copy of the features. Raises
    InputError for features that are not finite, for a class without training examples and for
    balanced numbers.
    """
    if balanced and task_kind(task).class_weights is None:
        raise InputError(f"a {task.kind} task has no classes to be balanced: leave balanced out")
    features, targets = _checked(features, targets, task, "training")
    valid_features, valid_targets = _checked(*valid, task, "validation")
    if task.has_classes:
        counts = np.bincount(targets, minlength=len(task.labels))
        if empty := [task.labels[i] for i in np.flatnonzero(counts == 0)]:
            raise InputError(
                f"no training example of {', '.join(empty)}, so a linear probe cannot know it: add "
                "some"
            )
    settings = FitSettings(tol=1e-4, max_iter=1000, balanced=balanced, exact=True)
    models = fit_path(features, targets, task, STRENGTHS, settings)
    path = list(path_losses(models, valid_features, valid_targets, task, balanced))
    best = min(range(len(path)), key=lambda i: path[i][1])
    model, loss = path[best]
    logger.info("linear probe: C = %g, validation loss %.4f", STRENGTHS[best], loss)
    return model.weight.astype(np.float32), model.bias.astype(np.float32)


def _checked(
    features: NDArray[Any], targets: Targets, task: Task, split: str
) -> tuple[NDArray[Any], Targets]:
    """Features and targets of the labelled rows."""
    if task.has_classes:
        features, targets = features[targets != IGNORED_LABEL], targets[targets != IGNORED_LABEL]
    if not len(features):
        raise InputError(f"there are no {split} examples to fit a linear probe with: add some")
    if not np.isfinite(features).all():
        raise InputError(
            f"{split} features must be finite numbers: the model that made them is broken; try "
            "another checkpoint, or --precision fp32"
        )
    return features, targets


# --- models of `dnamamba probe`

FOREST = "forest"
FOREST_STRENGTHS = (1, 5, 20)
"""Least rows in a leaf."""

STRENGTH_NAMES = {"logistic": "C", "ridge": "1 / alpha", FOREST: "rows in a leaf"}
N_TREES = 200


class Forest(NamedTuple):
    """A random forest of scikit-learn."""

    estimator: Any

    def scores(self, features: Matrix, task: Task) -> NDArray[np.float32]:
        """(n, C): probabilities, 0 for a class that it never saw, or numbers (n, 1)."""
        if task.has_numbers:
            return np.asarray(self.estimator.predict(features), np.float32).reshape(-1, 1)
        scores = np.zeros((len(features), len(task.labels)), np.float32)
        scores[:, self.estimator.classes_] = self.estimator.predict_proba(features)
        return scores


@dataclass(frozen=True)
class ProbeModel:
    """How a probe fits: a linear model of the task's kind, or a forest."""

    name: str
    task: Task
    seed: int = 0

    def __post_init__(self) -> None:
        linear = task_kind(self.task).linear_model
        names = [*dict.fromkeys(("logistic", "ridge", linear)), FOREST]
        if self.name not in names:
            raise InputError(
                f"a probe's model must be one of {', '.join(names)}, got {self.name!r}"
            )
        if self.name not in (FOREST, linear):
            things = "numbers" if self.task.has_numbers else "classes"
            raise InputError(
                f"{self.name} regression does not fit {things}: choose --model {linear} or forest"
            )

    @classmethod
    def of(cls, name: str | None, task: Task, seed: int = 0) -> Self:
        """name: None for the linear model of the task's kind."""
        return cls(name or task_kind(task).linear_model, task, seed)

    @property
    def strengths(self) -> tuple[float, ...]:
        return FOREST_STRENGTHS if self.name == FOREST else STRENGTHS

    @property
    def usual_strength(self) -> float:
        """The strength if training rows cannot be divided to choose one."""
        return 5 if self.name == FOREST else 0.1

    @property
    def strength_name(self) -> str:
        return STRENGTH_NAMES.get(self.name, "C")

    def fit(self, x: NDArray[np.float32], targets: Targets, strength: float) -> Any:
        """Fit one strength; x: (n, D) finite. The same arguments give the same model."""
        return next(self.path(x, targets, (strength,)))

    def path(
        self, x: NDArray[np.float32], targets: Targets, strengths: Sequence[float] | None = None
    ) -> Iterator[Any]:
        """Models with `scores(features, task)`, one for each strength."""
        strengths = strengths or self.strengths
        if self.name != FOREST:
            # Normal equations of alike features need float64; logistic regression does not.
            settings = FitSettings(exact=self.task.has_numbers)
            yield from fit_path(x, targets, self.task, strengths, settings)
            return
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        forest = RandomForestRegressor if self.task.has_numbers else RandomForestClassifier
        for leaf in strengths:
            # A third of all features, a regressor's usual share, takes ten times as long.
            options = {"max_features": "sqrt", "random_state": self.seed, "n_jobs": -1}
            model = forest(N_TREES, min_samples_leaf=int(leaf), **options)
            yield Forest(model.fit(x, targets.ravel()))


@dataclass(frozen=True)
class LinearProbe:
    """A linear model of an embeddings file's vectors: probe.npz."""

    weight: NDArray[np.float64]
    """(C, D): a row for each label (one for a number); of bins D is bins x width, flattened."""

    bias: NDArray[np.float64]
    """(C,)"""

    task: Task
    features: str
    """Which vectors: `layer 12`."""

    def scores(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """(n, C) probabilities of the labels, or numbers, of vectors (n, D) or (n, bins, D)."""
        x = np.asarray(vectors, np.float64).reshape(len(vectors), -1)
        if x.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"the probe expects vectors with {self.weight.shape[1]:,} numbers "
                f"({self.features}), these have {x.shape[1]:,}: embed with the same model, layer, "
                "pooling and --rc"
            )
        return scores_of(x @ self.weight.T + self.bias, self.task)

    def save(self, path: Path) -> None:
        """Write a .npz of numbers and texts, which needs no pickle."""
        texts = {"kind": self.task.kind, "labels": self.task.labels, "features": self.features}
        arrays = {name: np.array(text, np.str_) for name, text in texts.items()}
        with building(path) as file:
            np.savez(file, weight=self.weight, bias=self.bias, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises InputError if it is damaged or something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                task = Task(kind=str(file["kind"]), labels=tuple(file["labels"].tolist()))
                return cls(file["weight"], file["bias"], task, str(file["features"]))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a probe: {error}") from error
