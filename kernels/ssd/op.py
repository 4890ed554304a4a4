"""`state_space_duality`: check, choose a backend, call. The only public function of this folder.

Shape letters: B batch, L seq_len, H heads, P d_head, G groups, N states. Capital A, B, C, D are
tensors.
"""

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, resolve_backend
from dnamamba.kernels.operands import (
    check_devices,
    check_floating,
    check_groups,
    check_leading,
    check_shapes,
)
from dnamamba.kernels.ssd import chunked, reference
from dnamamba.kernels.ssd.reference import DualityOperands, DualityOptions

OP = "state_space_duality"

# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(
        name="chunked", run=chunked.state_space_duality, is_fused=False,
        unfused="matrix products in plain PyTorch",
    ),
    Backend(name="reference", run=reference.state_space_duality, is_fused=False),
)  # fmt: skip


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
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The state space recurrence of Mamba-2 over (B, L, H, P), channels last.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t (+ D x_t), with dt (+ dt_bias)
    (through softplus) (clamped to dt_limit). Each head has a matrix for a state, which decays as a
    whole, so that the recurrence can be computed as matrix products.

    x: (B, L, H, P), real. dt: (B, L, H), real.
    A: (H,), real; negative for a state that decays. dt_bias: (H,). D: (H,) or (H, P).
    B, C: (B, L, G, N), real, with group h // (H / G) for head h.
    dt_limit: (smallest, largest) step size; None for no limits.
    initial_state: (B, H, P, N), the state before the first step; zeros if None.
    return_last_state: return (out, last state) rather than out.
    chunk_size: most steps that meet each other in one product; a backend takes fewer if that is
    faster. Any length goes with any chunk_size, and the result does not depend on it.
    backend: "auto"; "chunked" (matrix products in plain PyTorch, anywhere); or "reference" (the
    loop that defines it).

    Returns out (B, L, H, P) in x's dtype and, if asked for, the last state (B, H, P, N). The
    computation and the state are in float32, or float64 if x is, also under autocast. Products of
    float32 take TensorFloat-32 if torch is told to use it (torch.set_float32_matmul_precision).
    Differentiable (once) in every tensor; "chunked" keeps for its backward the inputs and a state
    every few chunks, nothing of L times chunk_size. Raises ValueError or TypeError for operands
    that do not fit together.

    Source: Dao and Gu 2024 (arXiv 2405.21060), sections 3 and 6.
    """
    operands = DualityOperands(x, dt, A, B, C, D, dt_bias)
    _check(operands, initial_state)
    if chunk_size < 1:
        raise ValueError(f"{OP}: chunk_size must be >= 1, got {chunk_size}")
    if dt_limit is not None and dt_limit[0] > dt_limit[1]:
        raise ValueError(f"{OP}: dt_limit must be (smallest, largest), got {dt_limit}")
    run = resolve_backend(OP, backend, BACKENDS, x).run
    options = DualityOptions(dt_softplus, dt_limit, chunk_size)
    # Autocast would round decays and states to bf16.
    with torch.autocast(x.device.type, enabled=False):
        out, last_state = run(operands, initial_state, options)
    return (out, last_state) if return_last_state else out


def _check(operands: DualityOperands, initial_state: Tensor | None) -> None:
    x, B, D = operands.x, operands.B, operands.D
    named = {**operands._asdict(), "initial_state": initial_state}
    check_floating(OP, named)
    check_devices(OP, named)
    check_leading(OP, "x", x, "(B, L, H, P)")
    batch, seq_len, heads, d_head = x.shape
    if B.dim() != 4 or B.shape[:2] != x.shape[:2] or B.numel() == 0:
        raise ValueError(f"{OP}: B must be {(batch, seq_len, 'groups', 'N')}, got {tuple(B.shape)}")
    check_groups(OP, "B", B.shape[2], heads, "heads")
    if D is not None and D.shape not in ((heads,), (heads, d_head)):
        raise ValueError(f"{OP}: D must be {(heads,)} or {(heads, d_head)}, got {tuple(D.shape)}")
    expected = {"dt": (batch, seq_len, heads), "A": (heads,), "C": tuple(B.shape)}
    state_shape = (batch, heads, d_head, B.shape[3])
    check_shapes(OP, named, {**expected, "dt_bias": (heads,), "initial_state": state_shape})
