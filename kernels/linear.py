"""`linear`: x W^T by oneDNN on AMD's CPUs.

PyTorch multiplies float32 matrices with MKL, which does not use AVX-512 there. Its oneDNN does:
twice as fast at the shapes of Mamba's projections.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dnamamba.kernels.codegen.compiler import find_host, why_no_host
from dnamamba.kernels.codegen.launch import refuse_unseen

# With fewer, oneDNN's 10 us a call are more than it saves.
FEWEST_ROWS = 256


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `torch.nn.functional.linear`, by oneDNN if that is faster.

    x: (..., I), any float dtype and device. weight: (O, I). bias: (O,). Returns (..., O).
    Differentiable, by oneDNN once. Raises as `functional.linear` does.
    """
    if x.device.type == "cpu" and _suits_onednn(x, weight, bias):
        return _OneDnnLinear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    # The cheapest check first: single tokens end here.
    if x.numel() < FEWEST_ROWS * weight.shape[-1]:
        return False
    tensors = [x, weight] if bias is None else [x, weight, bias]
    return (
        refuse_unseen(*tensors) is None
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        # Products are then in autocast's dtype.
        and not torch.is_autocast_enabled("cpu")
        # `functional.linear` raises for operands that do not fit.
        and weight.numel() > 0
        and x.shape[-1:] == weight.shape[1:]
        and (bias is None or bias.shape == weight.shape[:1])
        and _has_faster_onednn()
    )


@functools.cache
def _has_faster_onednn() -> bool:
    """Whether this is an AMD CPU with AVX-512 (Zen 4 and later) and PyTorch has oneDNN."""
    if why_no_host() is not None or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    host = find_host()
    return host.cpu.startswith("znver") and "+avx512f" in host.features.split(",")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (needs_x, needs_weight, needs_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = d_out.flatten(0, -2)
        return (
            _multiply(d_out, weight.t()) if needs_x else None,
            _weight_gradient(rows, x.flatten(0, -2)) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def _weight_gradient(d_out: Tensor, x: Tensor) -> Tensor:
    """Return d_out^T x, with the wider as oneDNN's weight: a third faster than the other way."""
    if d_out.shape[1] > x.shape[1]:
        return _multiply(x.t(), d_out.t()).t()
    return _multiply(d_out.t(), x.t())


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T by torch.compile's operator for linear layers. Both may be transposed."""
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        # Columns of a wider matrix take a path that is a hundred times slower.
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
