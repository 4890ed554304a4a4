"""`add_norm` in plain PyTorch: the definition, and what runs where no kernel can."""

import torch
from torch import Tensor
from torch.nn import functional


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kind: str,
    residual_dtype: torch.dtype,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """As in op.py."""
    total = x.to(residual_dtype) if residual is None else residual.to(residual_dtype) + x
    dtype = torch.promote_types(residual_dtype, torch.float32)
    rows, shape, weight = total.to(dtype), total.shape[-1:], weight.to(dtype)
    if kind == "rms":
        normed = functional.rms_norm(rows, shape, weight, eps)
    else:
        bias = None if bias is None else bias.to(dtype)
        normed = functional.layer_norm(rows, shape, weight, bias, eps)
    return normed.to(out_dtype), total
