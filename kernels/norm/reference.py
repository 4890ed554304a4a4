"""`add_norm` in plain PyTorch: the definition, and the fallback of the kernel."""

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.kernels.operands import compute_dtype


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: str,
    residual_dtype: torch.dtype, out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.add_norm` with its dtypes resolved; any device."""
    total = x.to(residual_dtype) if residual is None else residual.to(residual_dtype) + x
    dtype = compute_dtype(total)
    rows, shape, weight = total.to(dtype), total.shape[-1:], weight.to(dtype)
    if kind == "rms":
        normed = functional.rms_norm(rows, shape, weight, eps)
    else:
        bias = None if bias is None else bias.to(dtype)
        normed = functional.layer_norm(rows, shape, weight, bias, eps)
    return normed.to(out_dtype), total
