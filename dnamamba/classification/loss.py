"""What a classifier is trained to lower."""

from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.recompute import Recompute
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import TOKEN_MASK
from dnamamba.training.loss import Loss

ClassWeights = Literal["none", "balanced"]


class LabelLoss(Loss):
    """A sum of weighted losses and the sum of their weights (`objectives.Loss`).

    multiclass: cross entropy in nats. per_base: the same of each base that has a label.
    multilabel: binary cross entropy in nats, the mean over the labels. regression: squared error of
    the standardised numbers, the mean over them.

    class_weights: (C,), above 0. Of an example of class c (multiclass, per_base) loss and weight
    are both times class_weights[c], as in torch's cross entropy. Of label c (multilabel) the loss
    of an example that has it is times class_weights[c], and its weight stays 1, as with torch's
    pos_weight. Regression has none. They count in training and in evaluation.
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
        """The sum of weights `forward` will return for these examples, without a forward."""
        if self.model.task.has_classes:
            return self._target_weights(examples.targets).sum()
        targets = examples.targets
        return torch.full((), float(targets.shape[0]), device=targets.device)

    def forward(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """(sum of weighted losses, sum of weights), float32 scalars.

        Raises ValueError for targets of another shape or dtype than the task's.
        """
        return self.of_scores(self.scores(examples), examples)

    def scores(self, examples: Examples) -> Tensor:
        """What the model's head gives, (B, C) or (B, L, C), float32."""
        found: Tensor = self.model(examples.codes & TOKEN_MASK, examples.lengths, self.recompute)
        return found

    def of_scores(self, scores: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
        """`forward` of examples whose scores are there already."""
        targets, task = examples.targets, self.model.task
        _check_targets(targets, scores, task)
        if task.has_classes:
            losses = functional.cross_entropy(
                scores.flatten(0, -2),
                targets.flatten(),
                self._class_weights,
                ignore_index=IGNORED_LABEL,
                reduction="none",
            )
        elif task.kind == "multilabel":
            losses = functional.binary_cross_entropy_with_logits(
                scores, targets.to(scores.dtype), reduction="none", pos_weight=self._class_weights
            ).mean(1)
        else:
            losses = (scores - self.model.standardise(targets)).square().mean(1)
        return losses.sum(), self.weight(examples)

    def _target_weights(self, targets: Tensor) -> Tensor:
        """What each target counts, of its shape."""
        is_labelled = targets != IGNORED_LABEL
        if self._class_weights is None:
            return is_labelled.float()
        weights = self._class_weights[targets.clamp(min=0)]
        return torch.where(is_labelled, weights, 0.0)


def _check_class_weights(weights: Tensor, task: Task) -> None:
    if task.kind == "regression":
        raise InputError("a regression has no classes, so no class weights: leave them out")
    shape = (len(task.labels),)
    if weights.shape != shape or not bool(((weights > 0) & weights.isfinite()).all()):
        raise InputError(
            f"class weights are one finite number above 0 for each of the {shape[0]} labels, got "
            f"{weights.tolist()}"
        )


def _check_targets(targets: Tensor, scores: Tensor, task: Task) -> None:
    shape = scores.shape[:-1] if task.has_classes else scores.shape
    if targets.shape != shape or targets.is_floating_point() == task.has_classes:
        numbers = "int64" if task.has_classes else "float32"
        raise ValueError(
            f"targets of a {task.kind} task are {numbers} {tuple(shape)} here, got "
            f"{targets.dtype} {tuple(targets.shape)}"
        )


def class_weights_of(
    targets: Tensor | NDArray[Any], task: Task, kind: ClassWeights
) -> Tensor | None:
    """Class weights for `LabelLoss` by what the training targets hold, float32 (C,).

    targets: all of them, as in `Examples`. balanced: examples / (classes x examples of a class), so
    that all classes count the same and the mean weight is 1, as in scikit-learn; of a label of a
    multilabel task, examples without it / examples with it, 1 where there are none of either. none:
    None. Raises InputError for a class without examples and for a regression.
    """
    if kind == "none":
        return None
    targets = torch.as_tensor(targets)
    if task.kind == "regression":
        raise InputError("a regression has no classes to be balanced: leave class weights out")
    if task.kind == "multilabel":
        having = (targets > 0.5).sum(0).double()
        ratio = (targets.shape[0] - having) / having
        return torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0).float()
    labelled = targets[targets != IGNORED_LABEL]
    counts = torch.bincount(labelled, minlength=len(task.labels)).double()
    if empty := [task.labels[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        raise InputError(
            f"no training example of {', '.join(empty)}, so there is no weight that balances the "
            "classes: add some, or leave class weights out"
        )
    return (counts.sum() / (len(task.labels) * counts)).float()
