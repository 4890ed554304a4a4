"""`long_conv` by its definition, a sum over all pairs of positions: what FFTs are judged by.

L^2 D memory. Shape letters: B batch, L seq_len, D channels.
"""

import torch
from torch import Tensor


def long_conv(
    x: Tensor,
    filter: Tensor,
    bias: Tensor | None,
    gate_in: Tensor | None,
    gate_out: Tensor | None,
    decay: Tensor | None = None,
    shift: float = 0.0,
) -> Tensor:
    """As in op.py."""
    filter = apply_window(filter, decay, shift)
    dtype = torch.promote_types(x.dtype, torch.float32)
    inputs = x.to(dtype) if gate_in is None else x.to(dtype) * gate_in.to(dtype)
    seq_len = x.shape[1]
    lags = torch.arange(seq_len, device=x.device)
    lags = lags.unsqueeze(1) - lags  # of output t and input s
    taps = filter.to(dtype)[lags.clamp(min=0)] * (lags >= 0).unsqueeze(-1)  # (L, L, D)
    out = torch.einsum("tsd,bsd->btd", taps, inputs)
    if bias is not None:
        out = out + bias.to(dtype) * inputs
    if gate_out is not None:
        out = out * gate_out.to(dtype)
    return out.to(x.dtype)


def apply_window(filter: Tensor, decay: Tensor | None, shift: float) -> Tensor:
    """The filter times exp(-decay n) + shift, n its rows' numbers, in float32 or wider."""
    if decay is None:
        return filter
    dtype = torch.promote_types(filter.dtype, torch.float32)
    lags = torch.arange(len(filter), dtype=dtype, device=filter.device).unsqueeze(1)
    return filter * (lags * -decay.to(dtype)).exp_().add_(shift)
