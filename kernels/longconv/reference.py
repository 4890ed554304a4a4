"""`long_conv` by its definition, a sum over all pairs of positions: what FFTs are compared with.

L^2 D memory. Shape letters: B batch, L seq_len, D channels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnamamba.kernels.operands import compute_dtype


class ConvOperands(NamedTuple):
    """Arguments of `kernels.long_conv`, of all channels or of a block."""

    x: Tensor  # (B, L, D), as gate_in and gate_out
    filter: Tensor | None  # (L, D); None if its spectrum is kept instead
    bias: Tensor | None = None  # (D,), as decay
    gate_in: Tensor | None = None
    gate_out: Tensor | None = None
    decay: Tensor | None = None
    shift: float = 0.0

    def cut(self, channels: slice) -> "ConvOperands":
        """Return views of a block of channels."""
        views: Any = {
            name: value[..., channels]
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return self._replace(**views)


def long_conv(operands: ConvOperands) -> Tensor:
    """`kernels.long_conv` for short sequences."""
    x, filter, bias, gate_in, gate_out, decay, shift = operands
    assert filter is not None
    filter = apply_window(filter, decay, shift)
    dtype = compute_dtype(x)
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
    """Multiply row n of a filter (L, D) by exp(-decay n) + shift, in float32 or wider."""
    if decay is None:
        return filter
    dtype = compute_dtype(filter)
    lags = torch.arange(len(filter), dtype=dtype, device=filter.device).unsqueeze(1)
    return filter * (lags * -decay.to(dtype)).exp_().add_(shift)
