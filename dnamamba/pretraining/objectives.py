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
    """The token after each position, int64 (B, L - 1); IGNORED where it is not A, C, G or T.

    codes: uint8 (B, L). N, ambiguity letters, padding and special tokens are never predicted.
    """
    targets = (codes[:, 1:] & TOKEN_MASK).long()
    return targets.masked_fill_(~_is_base(codes[:, 1:]), IGNORED)


def target_weights(codes: Tensor, softmask_weight: float = 1.0) -> Tensor:
    """How much each next token counts, float32 (B, L - 1): 1, `softmask_weight` for a soft-masked
    (lower-case, repeat) base, 0 where nothing is predicted."""
    return _weigh(codes[:, 1:], _is_base(codes[:, 1:]), softmask_weight)


def _weigh(codes: Tensor, is_target: Tensor, softmask_weight: float) -> Tensor:
    counted = is_target.float()
    masked = (codes & SOFT_MASK_BIT) != 0
    return torch.where(masked, counted * softmask_weight, counted)


def _is_base(codes: Tensor) -> Tensor:
    tokens = codes & TOKEN_MASK
    return (tokens >= FIRST_BASE_ID) & (tokens <= LAST_BASE_ID)


class Objective(Loss):
    """The loss of a language model, in nats, of codes uint8 (B, L).

    softmask_weight: what a soft-masked target counts in training mode; in evaluation mode every
    base counts once, whatever its case.
    """

    masks_bases = False
    """Whether the windows it is given have bases hidden (data/masking.py)."""

    def __init__(
        self, model: nn.Module, *, softmask_weight: float = 1.0, recompute: Recompute = "nothing"
    ):
        super().__init__(model, recompute=recompute)
        self.softmask_weight = softmask_weight

    @property
    def _softmask_weight_now(self) -> float:
        return self.softmask_weight if self.training else 1.0


class NextToken(Objective):
    """Next-base prediction with a causal language model."""

    def weight(self, codes: Tensor) -> Tensor:
        return self._weights(codes).sum()

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(codes & TOKEN_MASK, recompute=self.recompute)
        weights = self._weights(codes)
        # A target for the last position too, one that is ignored: without its logits the others
        # would be copied here and padded again in the backward.
        targets = functional.pad(next_token_targets(codes), (0, 1), value=IGNORED)
        losses = _losses(logits, targets)
        return (losses[:, :-1] * weights).sum(), weights.sum()

    def _weights(self, codes: Tensor) -> Tensor:
        return target_weights(codes, self._softmask_weight_now)


class MaskedTokens(Objective):
    """Prediction of hidden bases, for models that see both sides of them.

    Codes say which (data/masking.py): 15 % of the bases, shown as [MASK] (80 %), as a base drawn
    from A, C, G and T (10 %) or as they are (10 %). In evaluation mode those shown as [MASK] alone
    count: of the others the model sees too much, and would seem to know more than it does.

    Source: Devlin et al. 2018 (arXiv 1810.04805).
    """

    masks_bases = True

    def weight(self, codes: Tensor) -> Tensor:
        return self._weights(codes).sum()

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
    """Where a masked language model has to predict, bool, as codes."""
    return _shown(codes) != Shown.NOT_HIDDEN


def shown_tokens(codes: Tensor) -> Tensor:
    """The token ids that a masked language model reads, uint8, as codes."""
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
    """`asked`, or for None what fits the model: next_token where it sees one side alone.

    Raises InputError for next_token with a model that sees the base to be predicted.
    """
    if asked is None:
        return "next_token" if is_causal else "masked"
    if asked == "next_token" and not is_causal:
        raise InputError(
            "a model that reads both ways sees the next base, so it cannot learn to predict it: "
            "use --objective masked"
        )
    return asked
