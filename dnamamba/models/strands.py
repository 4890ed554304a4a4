"""Both strands of DNA: reverse complements of batches whose rows are padded on the right.

A model of both strands runs a batch and its reverse complement as one of 2B rows. Outputs are sums
of the same two numbers, so those of the reverse complement are exactly the same, reversed.

Source: Schiff et al. 2024 (arXiv 2403.03234), sections 3.2 and 3.3, whose blocks take both strands
as halves of the channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.tokenizer import COMPLEMENT_TABLE


def complement_ids(n_ids: int) -> Tensor:
    """Complement of each token id below n_ids (int64); other ids than bases are their own."""
    return torch.from_numpy(COMPLEMENT_TABLE[:n_ids].astype("int64"))


def flip(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """x (B, L, ...) with the first lengths[row] positions of each row, by default all, reversed."""
    if lengths is None:
        return x.flip(1)
    positions = torch.arange(x.shape[1], device=x.device)
    # Lengths on a GPU are not checked: whatever they are, an index lies within its row.
    mirrored = lengths.long().clamp(0, x.shape[1]).unsqueeze(1) - 1 - positions
    mirrored = torch.where(mirrored < 0, positions, mirrored)
    index = mirrored.view(*mirrored.shape, *[1] * (x.dim() - 2)).expand_as(x)
    return _Mirror.apply(x, index)


class _Mirror(torch.autograd.Function):
    """x.gather(1, index) for an index that is its own inverse, without atomics in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.gather(1, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.gather(1, index), None


def both_strands(token_ids: Tensor, complement: Tensor, lengths: Tensor | None = None) -> Tensor:
    """token_ids (B, L) and, below, their reverse complement: (2B, L), int64."""
    token_ids = token_ids.long()
    return torch.cat([token_ids, complement[flip(token_ids, lengths)]])


def predict(
    hidden: Tensor, weight: Tensor, bias: Tensor, complement: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Logits (B, L, V) of both strands' hidden states (2B, L, D) by a head's weight (V, D) and bias
    (V,): the other strand votes for complements."""
    own, other = hidden.chunk(2)
    votes = functional.linear(other, weight[complement], bias)
    return functional.linear(own, weight, bias) + flip(votes, lengths)


def join_hidden(hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Hidden states of both strands (2B, L, D) in Caduceus' layout (B, L, 2D): the other strand's
    half is reversed in position and channel."""
    own, other = hidden.chunk(2)
    return torch.cat([own, flip(other, lengths).flip(-1)], -1)


def mean_hidden(hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean (B, L, D) of both strands' hidden states (2B, L, D) at each base."""
    own, other = hidden.chunk(2)
    return (own + flip(other, lengths)) / 2
