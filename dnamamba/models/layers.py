"""Layers that every kind of model shares."""

from typing import Any

import torch
from torch import Tensor, nn

from dnamamba.kernels import add_norm
from dnamamba.kernels.linear import linear


class Linear(nn.Linear):
    """nn.Linear by `kernels.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class TokenEmbedding(nn.Embedding):
    """nn.Embedding for a vocabulary of a few tokens.

    Its gradient is one product with the one-hot tokens. torch's own adds up rows, which on GPUs is
    slower where a million tokens share 12 rows, and not in the same order on every run.
    """

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: any integer dtype and shape. Returns (*shape, D)."""
        return _Lookup.apply(token_ids.int(), self.weight)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token_ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(token_ids)
        ctx.n_rows = weight.shape[0]
        return nn.functional.embedding(token_ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (token_ids,) = ctx.saved_tensors
        rows = torch.arange(ctx.n_rows, device=token_ids.device)
        one_hot = (token_ids.flatten() == rows.unsqueeze(1)).to(gradient.dtype)
        return None, one_hot @ gradient.flatten(0, -2)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, of the residual stream with x added.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        residual_in_fp32: bool = True,
        out_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x: (B, L, D). residual: the stream so far; None where x is the stream.

        Returns what is normed, in `out_dtype` or that of autocast's products, and the stream.
        """
        return add_norm(
            x,
            residual,
            self.weight,
            eps=self.eps,
            residual_in_fp32=residual_in_fp32,
            out_dtype=out_dtype,
        )
