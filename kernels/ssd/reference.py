"""State space duality as a plain loop over time: the definition every backend is held to.

Shape letters: B batch, L seq_len, H heads, P d_head, G groups, N states. Capital A, B, C, D are
tensors.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def state_space_duality(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    chunk_size: int = 256,
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.state_space_duality` one step at a time; there are no chunks here."""
    dtype = find_dtype(x)
    batch, seq_len, heads, d_head = x.shape
    group_size = heads // B.shape[2]
    steps = find_step_sizes(dt, dt_bias, dt_softplus, dt_limit, dtype)  # (B, L, H)
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
    out = out.to(x.dtype)
    return (out, state) if return_last_state else out


def find_dtype(x: Tensor) -> torch.dtype:
    """That in which everything is computed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def find_step_sizes(
    dt: Tensor,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    dt_limit: tuple[float, float] | None,
    dtype: torch.dtype,
) -> Tensor:
    """dt with its bias, through softplus and between the limits, (B, L, H)."""
    steps = dt.to(dtype)
    if dt_bias is not None:
        steps = steps + dt_bias.to(dtype)
    if dt_softplus:
        steps = softplus(steps)
    return steps if dt_limit is None else steps.clamp(*dt_limit)


def spread_skip(D: Tensor) -> Tensor:
    """D, (H,) or (H, P), to multiply (..., H, P)."""
    return D.unsqueeze(-1) if D.dim() == 1 else D
