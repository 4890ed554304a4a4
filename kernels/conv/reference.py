"""`causal_conv1d` in plain PyTorch: the definition, and the fallback of the kernels.

K multiply-adds of shifted views: on CPUs faster than transposing for `conv1d`, and the same code
runs on any device. Shape letters: B batch, L seq_len, D channels, K d_conv.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from dnamamba.kernels.operands import compute_dtype


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None,
    initial_state: Tensor | None = None, return_last_state: bool = False, reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.causal_conv1d`; any dtype and device."""
    if reverse:
        x = x.flip(1)
    out = _CausalConv.apply(x, weight.t(), bias, initial_state, activation == "silu")
    if reverse:
        out = out.flip(1)
    return (out, last_inputs(x, weight.shape[1] - 1, initial_state)) if return_last_state else out


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> Tensor:
    """`kernels.causal_conv1d_step` in few operations, as each costs more than its work."""
    dtype = compute_dtype(x)
    inputs = torch.cat([state, x.unsqueeze(1).to(state.dtype)], 1)  # (B, K, D)
    # Contiguous: with strided weights a step of 64 x 512 takes 74 us rather than 46.
    out = (inputs.to(dtype) * weight.t().to(dtype).contiguous()).sum(1)
    state.copy_(inputs[:, 1:])
    if bias is not None:
        out += bias.to(dtype)
    if activation == "silu":
        out = silu(out, inplace=True)
    return out.to(x.dtype)


def last_inputs(x: Tensor, count: int, initial_state: Tensor | None) -> Tensor:
    """Copy the last `count` of all inputs so far, zeros before the first.

    A view would keep all of x alive for as long as the state is.
    """
    missing = max(0, count - x.shape[1])
    tail = x[:, x.shape[1] - (count - missing) :]
    if not missing:
        return tail.clone()
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], count, x.shape[2])
    return torch.cat([initial_state[:, count - missing :].to(x.dtype), tail], 1)


class _CausalConv(torch.autograd.Function):
    """weight as (K, D), history as (B, K - 1, D). The backward remakes the sum before SiLU."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, bias, history, has_silu = args
        out = _convolve(x, weight, bias, history)
        if has_silu:
            out = silu(out, inplace=True)
        ctx.save_for_backward(x, weight, bias, history)
        ctx.has_silu = has_silu
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, history = ctx.saved_tensors
        dtype = compute_dtype(x)
        d_sum = d_out.to(dtype)
        if ctx.has_silu:
            total = _convolve(x, weight, bias, history)
            room = torch.empty_like(total)  # contiguous, unlike d_sum
            d_sum = torch.ops.aten.silu_backward.grad_input(d_sum, total, grad_input=room)
        d_x, d_weight, d_history = _transposed(d_sum, x.to(dtype), weight.to(dtype), history)
        return (
            d_x.to(x.dtype),
            d_weight.to(weight.dtype),
            None if bias is None else d_sum.sum((0, 1)).to(bias.dtype),
            None if history is None else d_history.to(history.dtype),
            None,
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor | None) -> Tensor:
    dtype, seq_len, last = compute_dtype(x), x.shape[1], weight.shape[0] - 1
    x, weight = x.to(dtype), weight.to(dtype).contiguous()
    out = x * weight[last] if bias is None else torch.addcmul(bias.to(dtype), x, weight[last])
    for lag in range(1, last + 1):
        tap, n_before = weight[last - lag], min(lag, seq_len)
        out[:, n_before:].addcmul_(x[:, : seq_len - n_before], tap)
        if history is not None:
            before = history[:, last - lag : last - lag + n_before].to(dtype)
            out[:, :n_before].addcmul_(before, tap)
    return out


def _transposed(
    d_sum: Tensor, x: Tensor, weight: Tensor, history: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and history, given that of the sum."""
    seq_len, last = x.shape[1], weight.shape[0] - 1
    weight, scratch = weight.contiguous(), d_sum.new_empty(d_sum.numel())
    d_x, d_weight = d_sum * weight[last], torch.empty_like(weight)
    d_history = x.new_zeros(x.shape[0], last, x.shape[2])
    d_weight[last] = _sum_products(d_sum, x, scratch)
    for lag in range(1, last + 1):
        tap, n_before = weight[last - lag], min(lag, seq_len)
        later, now = d_sum[:, n_before:], x[:, : seq_len - n_before]
        d_x[:, : seq_len - n_before].addcmul_(later, tap)
        d_weight[last - lag] = _sum_products(later, now, scratch)
        if history is not None:
            times = slice(last - lag, last - lag + n_before)
            d_history[:, times].addcmul_(d_sum[:, :n_before], tap)
            d_weight[last - lag] += (d_sum[:, :n_before] * history[:, times]).sum((0, 1))
    return d_x, d_weight, d_history


def _sum_products(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """Sum a * b over batch and time; a contiguous product sums several times faster."""
    product = scratch[: a.numel()].view(a.shape)
    return torch.mul(a, b, out=product).sum((0, 1))
