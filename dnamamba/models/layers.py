"""Layers that every kind of model shares."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in at least float32.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return nn.functional.rms_norm(x.to(dtype), x.shape[-1:], self.weight, self.eps)
