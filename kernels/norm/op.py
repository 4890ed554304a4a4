"""`add_norm`: the residual addition and the norm after it. Check, choose a backend, call."""

import torch
from torch import Tensor

from dnamamba.kernels.backend import (
    Backend,
    import_on_call,
    refuse_nothing,
    refuse_triton,
    resolve_backend,
)
from dnamamba.kernels.norm import reference
from dnamamba.kernels.operands import check_devices, check_floating, check_shapes

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
    Backend(
        name="triton",
        run=import_on_call(reference.add_norm, "dnamamba.kernels.norm.gpu"),
        refuse=_refuse_triton,
        is_fused=True,
    ),
    Backend(
        name="reference",
        run=reference.add_norm,
        refuse=refuse_nothing,
        is_fused=False,
        unfused="PyTorch's own fused norm, after an addition",
    ),
)


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
    """Add x to the residual stream and norm the sum over its last axis: (normed, the sum).

    kind "rms": s / sqrt(mean(s^2) + eps) * weight, without bias. kind "layer": with the mean taken
    off first, (s - mean) / sqrt(var + eps) * weight (+ bias).

    x: (..., D), what a block has made. residual: as x, or None where the stream begins with x.
    weight, bias: (D,).
    residual_in_fp32: the sum is made and returned in float32 whatever x is (float64 if x is);
    otherwise in x's dtype, and normed as it was rounded.
    out_dtype: of what is normed; None for autocast's dtype where that is on, else x's.
    backend: "auto", "triton" (CUDA, D up to 4,096) or
    "reference" (plain PyTorch, anywhere).

    The norm is computed in float32 (float64 if x is). Differentiable (once) in every tensor; kept
    for the backward is the sum alone. Raises ValueError for operands that do not fit together,
    RuntimeError where the backend named cannot take them.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467); Ba et al. 2016 (arXiv 1607.06450).
    """
    _check(x, residual, weight, bias, eps, kind)
    residual_dtype = torch.promote_types(x.dtype, torch.float32) if residual_in_fp32 else x.dtype
    if out_dtype is None:
        out_dtype = _dtype_of_products(x)
    run = resolve_backend("add_norm", backend, BACKENDS, x).run
    return run(x, residual, weight, bias, eps, kind, residual_dtype, out_dtype)


def _dtype_of_products(x: Tensor) -> torch.dtype:
    """What a matrix product of x would be computed in. Autocast leaves float64 alone."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _check(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    kind: str,
) -> None:
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"add_norm: x must be (..., D) with no size of 0, got {tuple(x.shape)}")
    if kind not in ("rms", "layer"):
        raise ValueError(f"add_norm: kind must be 'rms' or 'layer', got {kind!r}")
    if kind == "rms" and bias is not None:
        raise ValueError("add_norm: kind 'rms' has no bias; leave it out or use kind 'layer'")
    if not eps > 0:
        raise ValueError(f"add_norm: eps must be > 0, got {eps}")
    shape, row = tuple(x.shape), tuple(x.shape[-1:])
    operands = {"x": x, "residual": residual, "weight": weight, "bias": bias}
    check_shapes("add_norm", operands, {"residual": shape, "weight": row, "bias": row})
    check_floating("add_norm", operands)
    check_devices("add_norm", operands)
