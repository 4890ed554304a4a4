"""`add_norm`: the residual addition and the norm after it. Check, choose a backend, call."""

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, refuse_triton, resolve_backend, triton_backend
from dnamamba.kernels.norm import reference
from dnamamba.kernels.operands import Operands, check_real

WIDEST_TRITON = 4096


def _refuse_triton(x: Tensor) -> str | None:
    if x.shape[-1] > WIDEST_TRITON:
        return (
            f"the kernels take rows of at most {WIDEST_TRITON}, got {x.shape[-1]}; "
            "use backend='reference'"
        )
    return refuse_triton(x)


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    triton_backend(reference.add_norm, "norm.gpu", _refuse_triton),
    Backend(
        name="reference", run=reference.add_norm, is_fused=False,
        unfused="PyTorch's own fused norm, after an addition",
    ),
)  # fmt: skip


def add_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    kind: str = "rms",
    residual_in_fp32: bool = True,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Add x to the residual stream and norm the sum s over its last axis: return (normed, s).

    kind "rms": s / sqrt(mean(s^2) + eps) * weight, without bias. kind "layer": (s - mean) /
    sqrt(var + eps) * weight (+ bias).

    x: (..., D), a block's output. residual: as x, or None at the start of the stream.
    weight, bias: (D,).
    residual_in_fp32: make and return s in float32 (float64 if x is); otherwise in x's dtype, and
    norm it as rounded.
    out_dtype: dtype of normed; None for autocast's if that is on, else x's.
    backend: "auto", "triton" (CUDA, D up to 4,096) or "reference" (plain PyTorch, anywhere).

    The norm is computed in float32 (float64 if x is). Differentiable (once) in every tensor; only s
    is kept for the backward. Raises ValueError for operands that do not fit together, RuntimeError
    if the backend named cannot take them.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467); Ba et al. 2016 (arXiv 1607.06450).
    """
    _check({"x": x, "residual": residual, "weight": weight, "bias": bias}, eps, kind)
    residual_dtype = torch.promote_types(x.dtype, torch.float32) if residual_in_fp32 else x.dtype
    if out_dtype is None:
        # Autocast leaves float64 alone.
        is_cast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
        out_dtype = torch.get_autocast_dtype(x.device.type) if is_cast else x.dtype
    run = resolve_backend("add_norm", backend, BACKENDS, x).run
    normed, total = run(x, residual, weight, bias, eps, kind, residual_dtype, out_dtype)
    return normed, total


def _check(operands: Operands, eps: float, kind: str) -> None:
    x = operands["x"]
    assert x is not None
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"add_norm: x must be (..., D) with no size of 0, got {tuple(x.shape)}")
    if kind not in ("rms", "layer"):
        raise ValueError(f"add_norm: kind must be 'rms' or 'layer', got {kind!r}")
    if kind == "rms" and operands["bias"] is not None:
        raise ValueError("add_norm: kind 'rms' has no bias; leave it out or use kind 'layer'")
    if not eps > 0:
        raise ValueError(f"add_norm: eps must be > 0, got {eps}")
    shape, row = tuple(x.shape), tuple(x.shape[-1:])
    check_real("add_norm", operands, {"residual": shape, "weight": row, "bias": row})
