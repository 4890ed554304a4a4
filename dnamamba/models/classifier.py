"""`DnaClassifier`: a backbone with a head that answers a labelled task (task.py)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, require_fields, to_dict
from dnamamba.errors import InputError
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.models.config import ModelConfig
from dnamamba.models.language_model import DnaModel
from dnamamba.models.layers import initialise_projection
from dnamamba.models.model_folder import SavedModel
from dnamamba.models.recompute import Recompute
from dnamamba.task import Task

Pool = Literal["last", "mean", "first", "max"]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The task of a classifier and the pooling of a sequence."""

    task: Task
    """Kind and labels; the head has one output a label."""

    pool: Pool | None = None
    """Hidden state of the last or the first base, or the mean or maximum of each channel over all
    bases. None: `last` for a causal model, else `mean`. A per_base task has none."""

    dropout: float = 0.0
    """Share of the features dropped before the head in training."""

    target_means: tuple[float, ...] = ()
    """Regression: outputs are (number - mean) / scale. Empty: not standardised."""

    target_scales: tuple[float, ...] = ()
    """As many as target_means."""

    averages_strands: bool = False
    """Whether it was chosen and evaluated by the mean over both strands."""

    trained_seq_len: int | None = None
    """Longest training sequence in bases; None: unknown."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise InputError(f"HeadConfig: dropout must be >= 0 and < 1, got {self.dropout}")
        require_fields(self)
        if self.pool is not None and self.task.per_base:
            raise InputError(
                f"HeadConfig: a per_base task takes no pool, got {self.pool!r}: leave it out"
            )
        self._check_targets()

    def _check_targets(self) -> None:
        means, scales = self.target_means, self.target_scales
        if not means and not scales:
            return
        n_labels = len(self.task.labels)
        if not self.task.has_numbers or not len(means) == len(scales) == n_labels:
            raise InputError(
                "HeadConfig: target_means and target_scales must belong to a regression, one "
                f"of each for its {n_labels} numbers; got {len(means)} and {len(scales)} for a "
                f"{self.task.kind} task"
            )
        if not all(map(math.isfinite, means)):
            raise InputError(f"HeadConfig: target_means must be finite, got {means}")
        if not all(math.isfinite(scale) and scale > 0 for scale in scales):
            raise InputError(f"HeadConfig: target_scales must be finite and > 0, got {scales}")

    def fill_in(self, is_causal: bool) -> "HeadConfig":
        """A copy with the pool decided. Raises InputError for pool 'first' of a causal model."""
        if self.pool == "first" and is_causal:
            raise InputError(
                "HeadConfig: pool 'first' of a causal model sees the first base alone: use 'last' "
                "or 'mean'"
            )
        if self.pool is not None or self.task.per_base:
            return self
        return replace(self, pool="last" if is_causal else "mean")


class DnaClassifier(SavedModel):
    """Token ids (B, L) to scores: (B, C) for a sequence's task, (B, L, C) for a per_base one.

    Scores are logits of the task's labels, or (standardised) numbers of a regression. model: the
    language model, whose own head is unused. head: a linear layer in float32 (float64 if it is).
    """

    _target_means: Tensor
    _target_scales: Tensor
    feature_means: Tensor
    feature_scales: Tensor

    def __init__(self, config: ModelConfig, head: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DnaModel(config)
        self.head_config = head.fill_in(self.model.is_causal)
        n_labels = len(head.task.labels)
        self.head = nn.Linear(config.d_model, n_labels)
        initialise_projection(self.head)
        if not config.tie_embeddings:
            # DDP waits for the gradient of every parameter that wants one.
            self.model.lm_head.weight.requires_grad_(False)
        self.register_buffer("feature_means", torch.zeros(config.d_model))
        self.register_buffer("feature_scales", torch.ones(config.d_model))
        means = torch.tensor(head.target_means or (0.0,) * n_labels)
        scales = torch.tensor(head.target_scales or (1.0,) * n_labels)
        self.register_buffer("_target_means", means, persistent=False)
        self.register_buffer("_target_scales", scales, persistent=False)

    @property
    def task(self) -> Task:
        return self.head_config.task

    @classmethod
    def from_language_model(cls, source: DnaModel | str | Path, head: HeadConfig) -> Self:
        """A new head on a copy of a pretrained model, in training mode, float32, on the model's
        device. source: a model, or what `DnaModel.from_pretrained` reads, with its errors."""
        model = source if isinstance(source, DnaModel) else DnaModel.from_pretrained(source)
        classifier = cls(model.config, head)
        classifier.model.load_state_dict(model.state_dict())
        return classifier.to(next(model.parameters()).device)

    def forward(
        self, token_ids: Tensor, lengths: Tensor | None = None, recompute: Recompute = "nothing"
    ) -> Tensor:
        """token_ids: (B, L), any integer dtype, without soft-mask (code & TOKEN_MASK). lengths,
        recompute, errors: as in `DnaModel.forward`. Returns scores (B, C) or (B, L, C), float32;
        those at padding are undefined."""
        hidden_share = self.head_config.dropout if self.training else 0.0
        return self._score(self.features(token_ids, lengths, recompute), hidden_share)

    def features(
        self, token_ids: Tensor, lengths: Tensor | None = None, recompute: Recompute = "nothing"
    ) -> Tensor:
        """Input of the head: (B, D), or (B, L, D) for a per_base task, float32."""
        hidden = self.model.embed(token_ids, lengths, recompute)
        pool = self.head_config.pool
        if pool is None:
            return hidden.to(_wide(hidden))
        return pool_hidden(hidden, pool, lengths)

    @torch.no_grad()
    def predict(self, token_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Probabilities that sum to 1 over the labels (multiclass, per_base) or of each label
        (multilabel), or numbers in the table's units (regression). Shapes and errors as `forward`.
        """
        return self.interpret(self._score(self.features(token_ids, lengths)))

    def interpret(self, scores: Tensor) -> Tensor:
        """`predict`'s result from `forward`'s scores."""
        values = task_kind(self.task).scores(scores)
        if not self.task.has_numbers:
            return values
        return values * self._target_scales + self._target_means

    def standardise(self, numbers: Tensor) -> Tensor:
        """Standardise a regression's numbers (..., C)."""
        return (numbers - self._target_means) / self._target_scales

    def freeze_backbone(self) -> None:
        """Leave only the head to be trained."""
        self.model.requires_grad_(False)

    @torch.no_grad()
    def scale_features(
        self, means: NDArray[Any], scales: NDArray[Any], *, keeps_answers: bool = False
    ) -> None:
        """Standardise the head's features: means and scales (D,), scales > 0.

        Means over thousands of bases differ far less than they share, so a head on raw features
        hardly learns. keeps_answers: change the weights so that outputs stay the same.
        """
        old_means, old_scales = self.feature_means.clone(), self.feature_scales.clone()
        self.feature_means.copy_(torch.tensor(means))
        self.feature_scales.copy_(torch.tensor(scales))
        if keeps_answers:
            of_features = self.head.weight / old_scales
            self.head.bias.add_(of_features @ (self.feature_means - old_means))
            self.head.weight.copy_(of_features * self.feature_scales)

    @torch.no_grad()
    def set_head(self, weight: NDArray[Any], bias: NDArray[Any]) -> None:
        """Set a head fitted elsewhere, of raw features: weight (C, D), bias (C,)."""
        self.feature_means.zero_()
        self.feature_scales.fill_(1)
        for own, given in ((self.head.weight, weight), (self.head.bias, bias)):
            if own.shape != given.shape:
                raise ValueError(f"the head must be {tuple(own.shape)}, got {given.shape}")
            own.copy_(torch.tensor(given))

    def adopt_head(self, other: "DnaClassifier") -> bool:
        """Copy the head of a classifier of the same task and pool, but no regression; returns
        whether it did."""
        own, theirs = self.head_config, other.head_config
        if own.task != theirs.task or own.pool != theirs.pool or own.task.has_numbers:
            return False
        self.head.load_state_dict(other.head.state_dict())
        self.feature_means.copy_(other.feature_means)
        self.feature_scales.copy_(other.feature_scales)
        return True

    def _score(self, features: Tensor, hidden_share: float = 0.0) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            weight, bias, means, scales = (
                own.to(features.dtype)
                for own in (
                    *(self.head.weight, self.head.bias),
                    *(self.feature_means, self.feature_scales),
                )
            )
            features = (features - means) / scales
            features = functional.dropout(features, hidden_share)
            return functional.linear(features, weight, bias)

    def _settings(self) -> dict[str, Any]:
        return {"model": to_dict(self.config), "head": to_dict(self.head_config)}

    @classmethod
    def _builder(cls, settings: Mapping[str, Any], source: str) -> Callable[[], Self]:
        if "head" not in settings:
            raise InputError(
                f"{source} has no head, so it is of a language model: put one on it by "
                "DnaClassifier.from_language_model, and train it by `dnamamba classify train`"
            )
        config = from_dict(ModelConfig, settings.get("model"))
        return partial(cls, config, from_dict(HeadConfig, settings["head"]))


def pool_hidden(hidden: Tensor, pool: Pool, lengths: Tensor | None = None) -> Tensor:
    """Hidden states (B, L, D) to one vector a row (B, D), float32 (float64 if they are). lengths:
    (B,), real positions of each row; None: all."""
    dtype, seq_len = _wide(hidden), hidden.shape[1]
    if pool == "first":
        return hidden[:, 0].to(dtype)
    if lengths is None:
        lengths = torch.full(hidden.shape[:1], seq_len, device=hidden.device)
        padding = None
    else:
        # Lengths on a GPU are not checked: whatever they are, an index lies within its row.
        lengths = lengths.to(hidden.device, torch.int64).clamp(1, seq_len)
        positions = torch.arange(seq_len, device=hidden.device)
        padding = (positions >= lengths.unsqueeze(1)).unsqueeze(-1)
    if pool == "last":
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, hidden.shape[2])
        return hidden.gather(1, index).squeeze(1).to(dtype)
    if pool == "max":
        seen = hidden if padding is None else hidden.masked_fill(padding, -torch.inf)
        return seen.amax(1).to(dtype)
    seen = hidden if padding is None else hidden.masked_fill(padding, 0)
    # Added up in float32: in bfloat16 a sum of thousands stops growing.
    return seen.sum(1, dtype=dtype) / lengths.unsqueeze(1)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
