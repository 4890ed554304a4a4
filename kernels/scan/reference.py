"""The selective scan as a plain loop over time: the definition of every backend.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from dnamamba.kernels.operands import compute_dtype


class ScanOperands(NamedTuple):
    """Tensors of a scan; those of a single step have no L."""

    u: Tensor  # (B, L, D), as delta and z
    delta: Tensor
    A: Tensor  # (D, N)
    B: Tensor  # (B, L, N), (B, L, G, N), or (D, N) if constant; as C
    C: Tensor
    D: Tensor | None = None  # (D,), as delta_bias
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    state: Tensor | None = None  # (B, D, N) before the first step; None for zeros

    def step_sizes(self, dtype: torch.dtype, has_softplus: bool) -> Tensor:
        """delta with its bias, through softplus if asked for, in dtype."""
        dt = self.delta.to(dtype)
        if self.delta_bias is not None:
            dt = dt + self.delta_bias.to(dtype)
        return softplus(dt) if has_softplus else dt


def selective_scan(
    operands: ScanOperands, has_softplus: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """(out, last state) one step at a time; real and complex A, any device."""
    u, _, A, B, C, D, z, _, state = operands
    dtype, state_dtype = compute_dtype(u), find_state_dtype(u, A)
    batch, seq_len, channels = u.shape
    x, dt = u.to(dtype), operands.step_sizes(dtype, has_softplus)
    A = A.to(state_dtype)
    B_steps = _unbind_steps(B.to(state_dtype), seq_len, channels)
    C_steps = _unbind_steps(C.to(state_dtype), seq_len, channels)
    # unbind, not indexing: the backward of L single indexings is quadratic in L.
    x_steps, dt_steps = x.unbind(1), dt.unbind(1)

    if state is None:
        state = torch.zeros(batch, channels, A.shape[1], device=u.device)
    state = state.to(state_dtype)
    outputs: list[Tensor] = [x] * seq_len
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        dt_t = dt_steps[t].unsqueeze(-1)  # (B, D, 1)
        state = torch.exp(dt_t * A) * state + dt_t * B_steps[t] * x_steps[t].unsqueeze(-1)
        y = (state * C_steps[t]).sum(-1)  # (B, D)
        # Complex states come in conjugate pairs of which one is kept, hence 2 Re.
        outputs[t] = 2 * y.real if y.is_complex() else y

    out = torch.stack(outputs, 1)
    if D is not None:
        out = out + D.to(dtype) * x
    if z is not None:
        out = out * silu(z.to(dtype))
    return out.to(u.dtype), state


def selective_scan_step(operands: ScanOperands, has_softplus: bool) -> Tensor:
    """One turn of the loop, in few operations, as each costs more than its work."""
    u, _, A, B, C, D, z, _, state = operands
    assert state is not None
    dtype, channels = compute_dtype(u), u.shape[1]
    x, dt = u.to(dtype), operands.step_sizes(dtype, has_softplus)
    B, C = (_spread_groups(weights.to(state.dtype), channels) for weights in (B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A.to(state.dtype))  # (B, D, N)
    state.mul_(decay).addcmul_((dt * x).unsqueeze(-1), B)
    y = (state * C).sum(-1)  # (B, D)
    if y.is_complex():
        y = 2 * y.real
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * silu(z.to(dtype))
    return y.to(u.dtype)


def find_state_dtype(u: Tensor, A: Tensor) -> torch.dtype:
    """Return the dtype of the states: as wide as the computation, complex if A is."""
    return compute_dtype(u).to_complex() if A.is_complex() else compute_dtype(u)


def _spread_groups(weights: Tensor, channels: int) -> Tensor:
    """Make B or C of one step, (B, N) or (B, G, N), broadcast against (B, D, N)."""
    if weights.dim() == 2:
        return weights.unsqueeze(1)
    return weights.repeat_interleave(channels // weights.shape[1], 1)


def _unbind_steps(weights: Tensor, seq_len: int, channels: int) -> list[Tensor]:
    """Return B or C of any form as L tensors that broadcast against (B, D, N)."""
    if weights.dim() == 2:  # (D, N), the same at every step
        return [weights] * seq_len
    return [_spread_groups(step, channels) for step in weights.unbind(1)]
