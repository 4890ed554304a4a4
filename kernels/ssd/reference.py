"""State space duality as a plain loop over time: the definition of every backend.

Shape letters: B batch, L seq_len, H heads, P d_head, G groups, N states. Capital A, B, C, D are
tensors.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from dnamamba.kernels.operands import compute_dtype


class DualityOperands(NamedTuple):
    """Tensors of a call, of a part of its time, or their gradients."""

    x: Tensor  # (B, L, H, P)
    dt: Tensor  # (B, L, H)
    A: Tensor  # (H,)
    B: Tensor  # (B, L, G, N)
    C: Tensor  # (B, L, G, N)
    D: Tensor | None = None  # (H,) or (H, P)
    dt_bias: Tensor | None = None  # (H,)


class DualityOptions(NamedTuple):
    """Options of a call; see `kernels.state_space_duality`."""

    dt_softplus: bool = False
    dt_limit: tuple[float, float] | None = None
    chunk_size: int = 256


def state_space_duality(
    operands: DualityOperands, initial_state: Tensor | None, options: DualityOptions
) -> tuple[Tensor, Tensor]:
    """(out, last state) one step at a time, without chunks."""
    x, _, A, B, C, D, _ = operands
    dtype = compute_dtype(x)
    batch, seq_len, heads, d_head = x.shape
    group_size = heads // B.shape[2]
    steps = find_step_sizes(operands, options, dtype)  # (B, L, H)
    wide, A = x.to(dtype), A.to(dtype)
    # unbind, not indexing: the backward of L single indexings is quadratic in L.
    B_steps, C_steps = (
        weights.to(dtype).repeat_interleave(group_size, 2).unsqueeze(3).unbind(1)
        for weights in (B, C)
    )  # (B, H, 1, N)
    x_steps, dt_steps = wide.unsqueeze(-1).unbind(1), steps[..., None, None].unbind(1)

    if initial_state is None:
        state = wide.new_zeros(batch, heads, d_head, B.shape[3])
    else:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(seq_len):
        decay = torch.exp(dt_steps[t] * A[:, None, None])  # (B, H, 1, 1)
        state = decay * state + dt_steps[t] * x_steps[t] * B_steps[t]
        outputs.append((state * C_steps[t]).sum(-1))
    out = torch.stack(outputs, 1)
    if D is not None:
        out = out + spread_skip(D.to(dtype)) * wide
    return out.to(x.dtype), state


def find_step_sizes(
    operands: DualityOperands, options: DualityOptions, dtype: torch.dtype
) -> Tensor:
    """Return dt with its bias, through softplus and between the limits, (B, L, H)."""
    steps = operands.dt.to(dtype)
    if operands.dt_bias is not None:
        steps = steps + operands.dt_bias.to(dtype)
    if options.dt_softplus:
        steps = softplus(steps)
    return steps if options.dt_limit is None else steps.clamp(*options.dt_limit)


def spread_skip(D: Tensor) -> Tensor:
    """Make D, (H,) or (H, P), broadcast against (..., H, P)."""
    return D.unsqueeze(-1) if D.dim() == 1 else D
