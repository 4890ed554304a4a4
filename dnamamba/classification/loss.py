"""The loss that a classifier is trained by."""

from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.recompute import Recompute
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import TOKEN_MASK
from dnamamba.training.loss import Loss

ClassWeights = Literal["none", "balanced"]


class LabelLoss(Loss):
    """Sum of the weighted losses of a batch, and the sum of their weights (training.loss.Loss).

    The kind of task decides the loss (metrics/task_kinds.py). multiclass: cross entropy in nats.
    per_base: the same for each labelled base. multilabel: binary cross entropy in nats, the mean
    over labels. regression: squared error of the standardised numbers, the mean over them.

    class_weights: (C,), above 0, in training and in evaluation. With classes, they multiply an
    example's loss and weight, as in torch's cross entropy; with sets of labels the loss of examples
    that have the label, as torch's pos_weight. Numbers have none.
    recompute: what the backward pass makes again instead of keeping it (models/recompute.py).
    """

    model: DnaClassifier
    _class_weights: Tensor | None

    def __init__(
        self,
        model: DnaClassifier,
        class_weights: Tensor | None = None,
        recompute: Recompute = "nothing",
    ) -> None:
        super().__init__(model, recompute=recompute)
        if class_weights is not None:
            class_weights = class_weights.detach().clone().to(model.head.weight)
            _check_class_weights(class_weights, model.task)
        self.register_buffer("_class_weights", class_weights, persistent=False)

    def weight(self, examples: Examples) -> Tensor:
        """The sum of weights that `forward` will return, without a forward pass."""
        targets = examples.targets
        if not self.model.task.has_classes:
            return torch.full((), float(targets.shape[0]), device=targets.device)
        is_labelled = targets != IGNORED_LABEL
        if self._class_weights is None:
            return is_labelled.float().sum()
        weights = self._class_weights[targets.clamp(min=0)]
        return torch.where(is_labelled, weights, 0.0).sum()

    def forward(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """(sum of weighted losses, sum of weights), float32 scalars.

        Raises ValueError for targets of another shape or dtype than the task's.
        """
        return self.of_scores(self.scores(examples), examples)

    def scores(self, examples: Examples) -> Tensor:
        """Logits of the model's head, (B, C) or (B, L, C), float32."""
        logits: Tensor = self.model(examples.codes & TOKEN_MASK, examples.lengths, self.recompute)
        return logits

    def of_scores(self, scores: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        """`forward` from logits that were computed before."""
        targets, task = examples.targets, self.model.task
        _check_targets(targets, scores, task)
        if task_kind(task).standardises:
            targets = self.model.standardise(targets)
        if task.per_base:
            scores, targets = scores.flatten(0, 1), targets.flatten()
        losses = task_kind(task).loss(scores, targets, self._class_weights)
        return losses.sum(), self.weight(examples)


def _check_class_weights(weights: Tensor, task: Task) -> None:
    if task_kind(task).class_weights is None:
        raise InputError(f"a {task.kind} task has no classes, so no class weights: leave them out")
    shape = (len(task.labels),)
    if weights.shape != shape or not bool(((weights > 0) & weights.isfinite()).all()):
        raise InputError(
            f"class weights must be one finite number above 0 for each of the {shape[0]} labels, "
            f"got {weights.tolist()}"
        )


def _check_targets(targets: Tensor, scores: Tensor, task: Task) -> None:
    shape = scores.shape[:-1] if task.has_classes else scores.shape
    if targets.shape != shape or targets.is_floating_point() == task.has_classes:
        numbers = "int64" if task.has_classes else "float32"
        raise ValueError(
            f"targets of a {task.kind} task must be {numbers} {tuple(shape)}, got "
            f"{targets.dtype} {tuple(targets.shape)}"
        )


def class_weights_of(
    targets: Tensor | NDArray[Any], task: Task, kind: ClassWeights
) -> Tensor | None:
    """Class weights for `LabelLoss` from all training targets, float32 (C,); None for `none`.

    balanced: TaskKind.class_weights. Raises InputError for a class without examples and for a kind
    of task without classes.
    """
    if kind == "none":
        return None
    balance = task_kind(task).class_weights
    if balance is None:
        raise InputError(
            f"a {task.kind} task has no classes to be balanced: leave class weights out"
        )
    return balance(torch.as_tensor(targets), task)
