"""What is predicted, and which positions count."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.models.recompute import Recompute
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID, SOFT_MASK_BIT, TOKEN_MASK

IGNORED = -100


def next_token_targets(codes: Tensor) -> Tensor:
    """The token after each position, int64 (B, L - 1); IGNORED where it is not A, C, G or T.

    codes: uint8 (B, L). N, ambiguity letters, padding and special tokens are never predicted.
    """
    targets = (codes[:, 1:] & TOKEN_MASK).long()
    return targets.masked_fill_(~_is_base(codes[:, 1:]), IGNORED)


def target_weights(codes: Tensor, softmask_weight: float = 1.0) -> Tensor:
    """How much each target counts, float32 (B, L - 1): 1, `softmask_weight` for a soft-masked
    (lower-case, repeat) base, 0 where nothing is predicted."""
    counted = _is_base(codes[:, 1:]).float()
    masked = (codes[:, 1:] & SOFT_MASK_BIT) != 0
    return torch.where(masked, counted * softmask_weight, counted)


def _is_base(codes: Tensor) -> Tensor:
    tokens = codes & TOKEN_MASK
    return (tokens >= FIRST_BASE_ID) & (tokens <= LAST_BASE_ID)


class Objective(nn.Module):
    """What a trainer minimises: a sum of weighted losses and the sum of their weights.

    The two come apart so that the division can be done once, by the weight of a whole batch over
    all micro-batches and ranks.

    recompute: what the backward pass makes again instead of keeping it (models/recompute.py).

    On a GPU a pass may be recorded and replayed (recorded_pass.py), so `forward` must not read a
    tensor's value in Python, nor choose by anything but shapes.
    """

    recompute: Recompute = "nothing"

    def weight(self, codes: Tensor) -> Tensor:
        """The sum of weights `forward` will return for codes uint8 (B, L), without a forward."""
        raise NotImplementedError

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of weighted losses in nats, sum of weights), float32 scalars."""
        raise NotImplementedError


class NextToken(Objective):
    """Next-base prediction with a language model.

    In training mode soft-masked targets count `softmask_weight`; in evaluation mode every base
    counts once, whatever its case.
    """

    def __init__(
        self, model: nn.Module, *, softmask_weight: float = 1.0, recompute: Recompute = "nothing"
    ):
        super().__init__()
        self.model = model
        self.softmask_weight = softmask_weight
        self.recompute = recompute

    def weight(self, codes: Tensor) -> Tensor:
        return self._weights(codes).sum()

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(codes & TOKEN_MASK, recompute=self.recompute)
        weights = self._weights(codes)
        # A target for the last position too, one that is ignored: without its logits the others
        # would be copied here and padded again in the backward.
        targets = functional.pad(next_token_targets(codes), (0, 1), value=IGNORED)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return (losses.view_as(codes)[:, :-1] * weights).sum(), weights.sum()

    def _weights(self, codes: Tensor) -> Tensor:
        return target_weights(codes, self.softmask_weight if self.training else 1.0)
