"""What a kind of task decides: loss, scores, metrics, baseline and cells of a table.

A new kind of task is one object:

    register_task_kind(TaskKind(labels=LabelKind(name="counts", ...), loss=poisson_loss, ...))

Then `Task(kind="counts", ...)` is trained, evaluated, predicted and probed like those below: see
tests/test_task_kinds.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.metrics import bootstrap
from dnamamba.metrics.metrics import (
    Result,
    Scores,
    evaluate_classes,
    evaluate_numbers,
    evaluate_sets,
)
from dnamamba.task import (
    IGNORED_LABEL,
    LABEL_KINDS,
    MULTICLASS,
    MULTILABEL,
    PER_BASE,
    REGRESSION,
    LabelKind,
    Task,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How exactly a linear model is fitted."""

    tol: float = 1e-3
    """Gradient (logistic) at which a fit ends, scikit-learn's tol."""

    max_iter: int = 500
    """Steps after which a fit ends; validation evaluates what is cut off too."""

    balanced: bool = False
    """Whether classes count the same, however many examples they have."""

    exact: bool = False
    """Features in float64; ridge by normal equations, logistic regression not started at the fit
    before."""


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """All that a kind of task decides. Logits are what a model's head gives, (..., C)."""

    labels: LabelKind
    """Name of the kind, and how files hold its labels."""

    scores: Callable[["Tensor"], "Tensor"]
    """Logits -> probabilities, or numbers."""

    loss: Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]
    """(logits (B, C), targets, class weights (C,)) -> losses (B,). Per base, B counts the bases of
    all sequences, and one without a label has a loss of 0."""

    score_losses: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]
    """(scores, targets) -> losses (N,) or (N, C), without weights: what a baseline is chosen by."""

    class_weights: Callable[["Tensor", Task], "Tensor"] | None = None
    """(training targets, task) -> the weights (C,) that balance classes; None: has no classes."""

    primary_metric: str
    """Key of `evaluate` that models are chosen by; larger is better."""

    evaluate: Callable[[Scores, Task], Result]
    """Metrics, `labels` (a row each) and `chance`, the primary metric without reading a base."""

    resampled: Callable[[Scores], Mapping[str, bootstrap.Metric]]
    """Metrics that have an interval by resampling, the primary one among them."""

    chance: Callable[[Mapping[str, Any]], str] = lambda result: "always predicting the mean"
    """(result) -> how `chance` is reached, in words."""

    linear_model: str
    """Name of the baseline's linear model: logistic, ridge."""

    estimator: Callable[[float, FitSettings], Any]
    """(strength, settings) -> scikit-learn's linear model, not fitted; its linear predictor is the
    logits. Strength: weight of the data against the penalty."""

    fits_columns: bool = False
    """Whether each column of targets is fitted by itself."""

    standardises: bool = False
    """Whether a head learns numbers less their mean, divided by their spread."""

    columns: Callable[[Sequence[str]], list[str]]
    """Labels -> names of the cells of a predicted sequence; numbers of each label come last."""

    cells: Callable[[Sequence[str], NDArray[np.float32]], list[str]]
    """(labels, scores (C,)) -> their texts."""


_TASK_KINDS: dict[str, TaskKind] = {}


def register_task_kind(kind: TaskKind) -> None:
    """Make a kind known. Raises ValueError if another one has its name."""
    name = kind.labels.name
    known = (LABEL_KINDS.setdefault(name, kind.labels), _TASK_KINDS.setdefault(name, kind))
    if known[0] is not kind.labels or known[1] is not kind:
        raise ValueError(f"a kind of task needs a name of its own, {name!r} is taken")


def task_kind(task: Task | str) -> TaskKind:
    """The kind of a task, or of that name."""
    return _TASK_KINDS[task if isinstance(task, str) else task.kind]


def scores_of(logits: NDArray[Any], task: Task) -> NDArray[Any]:
    """TaskKind.scores of numpy arrays, in their dtype."""
    import torch

    scores: NDArray[Any] = task_kind(task).scores(torch.from_numpy(logits)).numpy()
    return scores


# --- classes


def _class_loss(logits: "Tensor", targets: "Tensor", weights: "Tensor | None") -> "Tensor":
    from torch.nn import functional

    return functional.cross_entropy(
        logits, targets, weights, ignore_index=IGNORED_LABEL, reduction="none"
    )


def _class_score_losses(scores: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    return _log_losses(scores[np.arange(len(scores)), targets])


def _log_losses(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    return -np.log(np.maximum(probabilities.astype(np.float64), 1e-6))


def _class_weights(targets: "Tensor", task: Task) -> "Tensor":
    """examples / (classes x examples of a class), as in scikit-learn: the mean weight is 1."""
    labelled = targets[targets != IGNORED_LABEL]
    counts = labelled.long().bincount(minlength=len(task.labels)).double()
    if empty := [task.labels[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        raise InputError(
            f"no training example of {', '.join(empty)}, so there is no weight that balances the "
            "classes: add some, or leave class weights out"
        )
    return (counts.sum() / (len(task.labels) * counts)).float()


def _logistic(strength: float, settings: FitSettings) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(
        C=strength,
        tol=settings.tol,
        max_iter=settings.max_iter,
        class_weight="balanced" if settings.balanced else None,
        warm_start=not settings.exact,
    )


def _largest_class(result: Mapping[str, Any]) -> str:
    largest = max(result["labels"], key=lambda row: row["support"])
    return f"always predicting {largest['label']}, the largest class"


def _texts(scores: NDArray[np.float32]) -> list[str]:
    return [f"{score:.6g}" for score in scores]


def _class_kind(labels: LabelKind) -> TaskKind:
    return TaskKind(
        labels=labels,
        scores=lambda logits: logits.softmax(-1),
        loss=_class_loss,
        score_losses=_class_score_losses,
        class_weights=_class_weights,
        primary_metric="accuracy",
        evaluate=evaluate_classes,
        chance=_largest_class,
        resampled=lambda scores: bootstrap.class_metrics(scores.scores, scores.targets),
        linear_model="logistic",
        estimator=_logistic,
        columns=lambda labels: ["label", *(f"p_{label}" for label in labels)],
        cells=lambda labels, scores: [labels[int(scores.argmax())], *_texts(scores)],
    )


# --- any number of labels


def _set_loss(logits: "Tensor", targets: "Tensor", weights: "Tensor | None") -> "Tensor":
    from torch.nn import functional

    losses = functional.binary_cross_entropy_with_logits(
        logits, targets.to(logits.dtype), reduction="none", pos_weight=weights
    )
    return losses.mean(1)


def _set_weights(targets: "Tensor", task: Task) -> "Tensor":
    """Examples without a label / examples with it; 1 if there are none of either."""
    having = (targets > 0.5).sum(0).double()
    ratio = (len(targets) - having) / having
    return ratio.where((ratio > 0) & ratio.isfinite(), 1.0).float()


def _set_cells(labels: Sequence[str], scores: NDArray[np.float32]) -> list[str]:
    likely = [label for label, score in zip(labels, scores, strict=True) if score >= 0.5]
    return [";".join(likely), *_texts(scores)]


# --- numbers


def _ridge(strength: float, settings: FitSettings) -> Any:
    from sklearn.linear_model import Ridge

    solver = "auto" if settings.exact else "lsqr"
    return Ridge(alpha=1 / strength, solver=solver, tol=1e-5, copy_X=False)


def _columnwise(
    **metrics: bootstrap.ColumnMetric,
) -> Callable[[Scores], dict[str, bootstrap.Metric]]:
    return lambda scores: {
        name: bootstrap.mean_over_labels(metric, scores.scores, scores.targets)
        for name, metric in metrics.items()
    }


register_task_kind(_class_kind(MULTICLASS))
register_task_kind(_class_kind(PER_BASE))
register_task_kind(
    TaskKind(
        labels=MULTILABEL,
        scores=lambda logits: logits.sigmoid(),
        loss=_set_loss,
        score_losses=lambda scores, targets: _log_losses(
            np.where(targets > 0.5, scores, 1 - scores)
        ),
        class_weights=_set_weights,
        primary_metric="auprc",
        evaluate=evaluate_sets,
        chance=lambda result: "the mean share of examples with a label",
        resampled=_columnwise(auprc=bootstrap.auprc, auroc=bootstrap.auroc),
        linear_model="logistic",
        estimator=_logistic,
        fits_columns=True,
        columns=lambda labels: ["labels", *(f"p_{label}" for label in labels)],
        cells=_set_cells,
    )
)
register_task_kind(
    TaskKind(
        labels=REGRESSION,
        scores=lambda logits: logits,
        loss=lambda logits, targets, weights: (logits - targets).square().mean(1),
        score_losses=lambda scores, targets: np.square(scores - targets, dtype=np.float64),
        primary_metric="r2",
        evaluate=evaluate_numbers,
        resampled=_columnwise(
            r2=bootstrap.r2,
            pearson=bootstrap.pearson,
            spearman=bootstrap.spearman,
            mae=bootstrap.mae,
        ),
        linear_model="ridge",
        estimator=_ridge,
        standardises=True,
        columns=lambda labels: [f"predicted_{label}" for label in labels],
        cells=lambda labels, scores: _texts(scores),
    )
)
