"""What is predicted, and which positions count."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.models.recompute import Recompute
from dnamamba.tokenizer import (
    FIRST_BASE_ID,
    LAST_BASE_ID,
    MASK_ID,
    SHOWN_MASK,
    SHOWN_SHIFT,
    SOFT_MASK_BIT,
    TOKEN_MASK,
    Shown,
)
from dnamamba.training.loss import Loss

IGNORED = -100


def next_token_targets(codes: Tensor) -> Tensor:
    """Return the token after each position, int64 (B, L - 1); IGNORED unless it is A, C, G or T.

    codes: uint8 (B, L).
    """
    targets = (codes[:, 1:] & TOKEN_MASK).long()
    return targets.masked_fill_(~_is_base(codes[:, 1:]), IGNORED)


def target_weights(codes: Tensor, softmask_weight: float = 1.0) -> Tensor:
    """Return the weight of each next token, float32 (B, L - 1).

    1, `softmask_weight` for a soft-masked (lower-case, repeat) base, 0 if nothing is predicted.
    """
    return _weigh(codes[:, 1:], _is_base(codes[:, 1:]), softmask_weight)


def _weigh(codes: Tensor, is_target: Tensor, softmask_weight: float) -> Tensor:
    counted = is_target.float()
    return torch.where((codes & SOFT_MASK_BIT) != 0, counted * softmask_weight, counted)


def _is_base(codes: Tensor) -> Tensor:
    tokens = codes & TOKEN_MASK
    return (tokens >= FIRST_BASE_ID) & (tokens <= LAST_BASE_ID)


class Objective(Loss):
    """Loss of a language model in nats, of codes uint8 (B, L).

    softmask_weight: weight of soft-masked targets in training mode; 1 in evaluation mode.
    """

    masks_bases = False
    """Whether it needs windows with masked bases (data/masking.py)."""

    def __init__(
        self, model: nn.Module, *, softmask_weight: float = 1.0, recompute: Recompute = "nothing"
    ):
        super().__init__(model, recompute=recompute)
        self.softmask_weight = softmask_weight

    def weight(self, codes: Tensor) -> Tensor:
        return self._weights(codes).sum()

    @property
    def _softmask_weight_now(self) -> float:
        return self.softmask_weight if self.training else 1.0

    def _weights(self, codes: Tensor) -> Tensor:
        raise NotImplementedError


class NextToken(Objective):
    """Next-base prediction with a causal language model."""

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(codes & TOKEN_MASK, recompute=self.recompute)
        weights = self._weights(codes)
        # An ignored target for the last position saves a copy of all other positions' logits.
        targets = functional.pad(next_token_targets(codes), (0, 1), value=IGNORED)
        losses = _losses(logits, targets)
        return (losses[:, :-1] * weights).sum(), weights.sum()

    def _weights(self, codes: Tensor) -> Tensor:
        return target_weights(codes, self._softmask_weight_now)


class MaskedTokens(Objective):
    """Prediction of masked bases from both sides.

    Codes mark 15 % of the bases (data/masking.py), shown as [MASK] (80 %), as a random base (10 %)
    or as they are (10 %). Evaluation counts only the first kind: the others give the base away.

    Source: Devlin et al. 2018 (arXiv 1810.04805).
    """

    masks_bases = True

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(shown_tokens(codes), recompute=self.recompute)
        weights = self._weights(codes)
        targets = (codes & TOKEN_MASK).long().masked_fill_(~self._is_target(codes), IGNORED)
        return (_losses(logits, targets) * weights).sum(), weights.sum()

    def _is_target(self, codes: Tensor) -> Tensor:
        return is_hidden(codes) if self.training else _shown(codes) == Shown.MASK

    def _weights(self, codes: Tensor) -> Tensor:
        return _weigh(codes, self._is_target(codes), self._softmask_weight_now)


def is_hidden(codes: Tensor) -> Tensor:
    """Mark the positions that a masked language model predicts, bool, as codes."""
    return _shown(codes) != Shown.NOT_HIDDEN


def shown_tokens(codes: Tensor) -> Tensor:
    """Return the token ids that a masked language model reads, uint8, as codes."""
    shown = _shown(codes)
    tokens = torch.where(shown == Shown.MASK, MASK_ID, codes & TOKEN_MASK)
    return torch.where(shown >= Shown.A, shown + (FIRST_BASE_ID - Shown.A), tokens)


def _shown(codes: Tensor) -> Tensor:
    return (codes >> SHOWN_SHIFT) & SHOWN_MASK


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropies in nats, float32, as targets (B, L); 0 where they are IGNORED."""
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses.view_as(targets)


ObjectiveName = Literal["next_token", "masked"]

OBJECTIVES: dict[ObjectiveName, type[Objective]] = {
    "next_token": NextToken,
    "masked": MaskedTokens,
}


def choose_objective(asked: ObjectiveName | None, *, is_causal: bool) -> ObjectiveName:
    """Return `asked`; for None next_token if the model is causal, else masked.

    Raises InputError for next_token with a model that is not causal.
    """
    if asked is None:
        return "next_token" if is_causal else "masked"
    if asked == "next_token" and not is_causal:
        raise InputError(
            "a model that reads both ways sees the next base, so it cannot learn to predict it: "
            "use --objective masked"
        )
    return asked
