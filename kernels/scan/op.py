"""`selective_scan`: check, choose a backend, call. The only public function of this folder.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import torch
from torch import Tensor

from dnamamba.kernels.backend import (
    Backend,
    import_on_call,
    refuse_nothing,
    refuse_triton,
    resolve_backend,
)
from dnamamba.kernels.operands import (
    Operands,
    check_devices,
    check_floating,
    check_groups,
    check_leading,
    check_same_field,
    check_shapes,
)
from dnamamba.kernels.scan import chunked, cpu, reference


def _refuse_triton(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    if B.dim() == 2 or C.dim() == 2 or B.shape != C.shape:
        return "B and C must vary in time, in the same groups; use backend='chunked'"
    return _refuse_complex(u, A, B, C) or refuse_triton(u)


def _refuse_complex(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    return "A is complex; use backend='reference'" if A.is_complex() else None


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="cpu", run=cpu.selective_scan, refuse=cpu.refuse, is_fused=True),
    Backend(
        name="triton",
        run=import_on_call(reference.selective_scan, "dnamamba.kernels.scan.gpu"),
        refuse=_refuse_triton,
        is_fused=True,
    ),
    Backend(name="chunked", run=chunked.selective_scan, refuse=_refuse_complex, is_fused=False),
    Backend(name="reference", run=reference.selective_scan, refuse=refuse_nothing, is_fused=False),
)


def scan_backend(device: torch.device, dtype: torch.dtype, backend: str = "auto") -> str:
    """The backend that a Mamba layer's scan runs on, for operands of a dtype on a device.

    Raises ValueError and RuntimeError as `selective_scan` does for a backend named.
    """
    u = torch.empty(1, 1, 1, device=device, dtype=dtype)
    A = torch.empty(1, 1, device=device)
    return resolve_backend("selective_scan", backend, BACKENDS, u, A, u, u).name


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
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective state space recurrence of Mamba over (B, L, D), channels last.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t h_t (+ D u_t) (times silu(z_t)), with
    dt = delta, plus delta_bias, through softplus, as asked for. For complex A the states stand for
    conjugate pairs: y_t = 2 Re(C_t h_t).

    u, delta, z: (B, L, D), real.
    A: (D, N), real or complex. D, delta_bias: (D,), real.
    B, C: (B, L, N), grouped (B, L, G, N) where channel d uses group d // (D / G), or constant
    (D, N); complex exactly when A is.
    initial_state: (B, D, N), the state before the first step; zeros if None.
    return_last_state: return (out, last state) rather than out.
    reverse: run from the last step to the first; the initial state then comes before step L - 1
    and the last state is that of step 0.
    backend: "auto"; "cpu" (fused; real A, B and C that vary in time, float32 and narrower);
    "triton" (the same on CUDA); "chunked" (plain PyTorch, real A); or "reference" (the loop that
    defines it).

    Returns out (B, L, D) in u's dtype and, if asked for, the last state (B, D, N). Everything is
    computed in float32, or float64 if u is, and the state stays in it. Differentiable (once) in
    every tensor. Raises ValueError or TypeError for operands that do not fit together,
    RuntimeError where the backend named cannot take them.

    Source: Gu and Dao 2023 (arXiv 2312.00752), equations 1 and 2; state-spaces/mamba,
    mamba_ssm/ops/selective_scan_interface.py (there with L last).
    """
    operands = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias,
        "initial_state": initial_state,
    }  # fmt: skip
    check_operands("selective_scan", operands, "(B, L, D)", "initial_state")
    for name, weights in (("B", B), ("C", C)):
        if weights.shape != A.shape:  # else constant in time
            check_weights("selective_scan", name, weights, u, A)
    run = resolve_backend("selective_scan", backend, BACKENDS, u, A, B, C).run
    # Autocast would round the states to bf16 wherever a product looks like a matmul.
    with torch.autocast(u.device.type, enabled=False):
        return run(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus,
            initial_state, return_last_state, reverse,
        )  # fmt: skip


def check_operands(op: str, operands: Operands, layout: str, state_name: str) -> None:
    """What `selective_scan` and its single step ask of all operands but the shapes of B and C."""
    u, A, state = operands["u"], operands["A"], operands[state_name]
    assert u is not None
    assert A is not None
    check_floating(op, {name: operands[name] for name in ("u", "delta", "D", "z", "delta_bias")})
    check_same_field(op, A, {"B": operands["B"], "C": operands["C"], state_name: state})
    check_devices(op, operands)
    check_leading(op, "u", u, layout)
    channels = u.shape[-1]
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"{op}: A must be (D, N) with D = {channels} as in u and N >= 1, got {tuple(A.shape)}"
        )
    per_step = tuple(u.shape)
    expected = {"delta": per_step, "z": per_step, "D": (channels,), "delta_bias": (channels,)}
    check_shapes(op, operands, expected | {state_name: (u.shape[0], channels, A.shape[1])})


def check_weights(op: str, name: str, weights: Tensor, u: Tensor, A: Tensor) -> None:
    """Raise ValueError unless B or C is (..., N) or (..., G, N), with u's axes but the last."""
    lead, shape, (channels, d_state) = tuple(u.shape[:-1]), tuple(weights.shape), A.shape
    if shape == (*lead, d_state):
        return
    if len(shape) != len(lead) + 2 or shape != (*lead, shape[-2], d_state):
        constant = f" or constant {(channels, d_state)}" if len(lead) == 2 else ""
        raise ValueError(
            f"{op}: {name} must be {(*lead, d_state)} or {(*lead, 'groups', d_state)}{constant}, "
            f"got {shape}"
        )
    check_groups(op, name, shape[-2], channels, "channels")
