"""Models that are fitted to embeddings: logistic regression, ridge regression, random forest.

All are scikit-learn's behind its StandardScaler. What is chosen on validation is one number, the
strength: of linear models the weight of the data against the penalty, of a forest the least rows
in a leaf.
"""

import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.probe import STRENGTHS
from dnamamba.task import Task

Matrix = NDArray[np.float32]
ModelKind = Literal["logistic", "ridge", "forest"]

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
