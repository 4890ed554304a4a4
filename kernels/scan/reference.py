"""The selective scan as a plain loop over time: the definition every other backend is held to.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.selective_scan` one step at a time; real and complex A, any device."""
    compute_dtype, state_dtype = _compute_dtype(u), find_state_dtype(u, A)
    batch, seq_len, channels = u.shape

    x, dt = u.to(compute_dtype), delta.to(compute_dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(compute_dtype)
    if delta_softplus:
        dt = softplus(dt)
    A = A.to(state_dtype)
    B_steps = _unbind_steps(B.to(state_dtype), seq_len, channels)
    C_steps = _unbind_steps(C.to(state_dtype), seq_len, channels)
    # unbind, not indexing: the backward of L single indexings is quadratic in L.
    x_steps, dt_steps = x.unbind(1), dt.unbind(1)

    if initial_state is None:
        state = torch.zeros(batch, channels, A.shape[1], dtype=state_dtype, device=u.device)
    else:
        state = initial_state.to(state_dtype)
    outputs: list[Tensor] = [x] * seq_len
    for t in reversed(range(seq_len)) if reverse else range(seq_len):
        dt_t = dt_steps[t].unsqueeze(-1)  # (B, D, 1)
        state = torch.exp(dt_t * A) * state + dt_t * B_steps[t] * x_steps[t].unsqueeze(-1)
        y = (state * C_steps[t]).sum(-1)  # (B, D)
        # Complex states come in conjugate pairs of which one is kept, hence 2 Re.
        outputs[t] = 2 * y.real if y.is_complex() else y

    out = torch.stack(outputs, 1)
    if D is not None:
        out = out + D.to(compute_dtype) * x
    if z is not None:
        out = out * silu(z.to(compute_dtype))
    out = out.to(u.dtype)
    return (out, state) if return_last_state else out


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    state: Tensor,
) -> Tensor:
    """As in step.py: one turn of the loop, in few operations, as each costs more than its work."""
    compute_dtype, state_dtype = _compute_dtype(u), state.dtype
    x, dt = u.to(compute_dtype), delta.to(compute_dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(compute_dtype)
    if delta_softplus:
        dt = softplus(dt)
    channels = u.shape[1]
    B, C = (_spread_groups(weights.to(state_dtype), channels) for weights in (B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A.to(state_dtype))  # (B, D, N)
    state.mul_(decay).addcmul_((dt * x).unsqueeze(-1), B)
    y = (state * C).sum(-1)  # (B, D)
    if y.is_complex():
        y = 2 * y.real
    if D is not None:
        y = torch.addcmul(y, x, D.to(compute_dtype))
    if z is not None:
        y = y * silu(z.to(compute_dtype))
    return y.to(u.dtype)


def find_state_dtype(u: Tensor, A: Tensor) -> torch.dtype:
    """That of the states, in which all but a complex scan's inputs is computed."""
    return _compute_dtype(u).to_complex() if A.is_complex() else _compute_dtype(u)


def _compute_dtype(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _spread_groups(weights: Tensor, channels: int) -> Tensor:
    """B or C of one step, (B, N) or (B, G, N), to broadcast against (B, D, N)."""
    if weights.dim() == 2:
        return weights.unsqueeze(1)
    return weights.repeat_interleave(channels // weights.shape[1], 1)


def _unbind_steps(weights: Tensor, seq_len: int, channels: int) -> list[Tensor]:
    """B or C of any form as L tensors that broadcast against (B, D, N)."""
    if weights.dim() == 2:  # (D, N), the same at every step
        return [weights] * seq_len
    if weights.dim() == 3:  # (B, L, N), shared by all channels
        return list(weights.unsqueeze(2).unbind(1))
    group_size = channels // weights.shape[2]  # (B, L, G, N)
    return [step.repeat_interleave(group_size, 1) for step in weights.unbind(1)]
