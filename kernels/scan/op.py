"""`selective_scan` and a single step of it: check, choose a backend, call.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, refuse_triton, resolve_backend, triton_backend
from dnamamba.kernels.operands import (
    check_devices,
    check_floating,
    check_groups,
    check_leading,
    check_same_field,
    check_shapes,
    check_writable,
    refuse_gradients,
)
from dnamamba.kernels.scan import chunked, cpu, reference
from dnamamba.kernels.scan.reference import ScanOperands

OP, STEP = "selective_scan", "selective_scan_step"

MOST_STATES_TRITON = 64


def _refuse_triton(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    if B.dim() == 2 or C.dim() == 2 or B.shape != C.shape:
        return "B and C must vary in time, in the same groups; use backend='chunked'"
    return _refuse_complex(u, A, B, C) or refuse_triton(u)


def _refuse_complex(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    return "A is complex; use backend='reference'" if A.is_complex() else None


def _refuse_triton_step(u: Tensor, A: Tensor) -> str | None:
    if A.is_complex():
        return "A is complex; use backend='reference'"
    if A.shape[1] > MOST_STATES_TRITON:
        return (
            f"the kernel takes at most {MOST_STATES_TRITON} states, A has {A.shape[1]}; "
            "use backend='reference'"
        )
    return refuse_triton(u)


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="cpu", run=cpu.selective_scan, refuse=cpu.refuse, is_fused=True),
    triton_backend(reference.selective_scan, "scan.gpu", _refuse_triton),
    Backend(name="chunked", run=chunked.selective_scan, refuse=_refuse_complex, is_fused=False),
    Backend(name="reference", run=reference.selective_scan, is_fused=False),
)
STEP_BACKENDS = (
    triton_backend(reference.selective_scan_step, "scan.step_gpu", _refuse_triton_step),
    # Faster on a CPU than the fused scan, whose call costs more than a step.
    Backend(
        name="reference", run=reference.selective_scan_step, is_fused=False,
        unfused="plain PyTorch, a dozen operations",
    ),
)  # fmt: skip


def scan_backend(device: torch.device, dtype: torch.dtype, backend: str = "auto") -> str:
    """Return the backend of a Mamba layer's scan, for operands of a dtype on a device.

    Raises ValueError and RuntimeError as `selective_scan` does.
    """
    u = torch.empty(1, 1, 1, device=device, dtype=dtype)
    A = torch.empty(1, 1, device=device)
    return resolve_backend(OP, backend, BACKENDS, u, A, u, u).name


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
    dt = delta (+ delta_bias) (through softplus). For complex A the states stand for conjugate
    pairs: y_t = 2 Re(C_t h_t).

    u, delta, z: (B, L, D), real.
    A: (D, N), real or complex. D, delta_bias: (D,), real.
    B, C: (B, L, N); grouped (B, L, G, N), with group d // (D / G) for channel d; or constant
    (D, N). Complex exactly if A is.
    initial_state: (B, D, N), the state before the first step; zeros if None.
    return_last_state: return (out, last state) rather than out.
    reverse: run from the last step to the first: the initial state comes before step L - 1, the
    last state is that of step 0.
    backend: "auto"; "cpu" (fused; real A, B and C that vary in time, float32 and narrower);
    "triton" (the same on CUDA); "chunked" (plain PyTorch, real A); or "reference" (the loop that
    defines it).

    Returns out (B, L, D) in u's dtype and, if asked for, the last state (B, D, N). The computation
    and the state are in float32, or float64 if u is. Differentiable (once) in every tensor. Raises
    ValueError or TypeError for operands that do not fit together, RuntimeError if the backend named
    cannot take them.

    Source: Gu and Dao 2023 (arXiv 2312.00752), equations 1 and 2; state-spaces/mamba,
    mamba_ssm/ops/selective_scan_interface.py (there with L last).
    """
    operands = ScanOperands(u, delta, A, B, C, D, z, delta_bias, initial_state)
    _check_operands(OP, operands, "(B, L, D)", "initial_state")
    for name, weights in (("B", B), ("C", C)):
        if weights.shape != A.shape:  # else constant in time
            _check_weights(OP, name, weights, u, A)
    run = resolve_backend(OP, backend, BACKENDS, u, A, B, C).run
    # Autocast would round the states to bf16 wherever a product looks like a matmul.
    with torch.autocast(u.device.type, enabled=False):
        out, last_state = run(operands, delta_softplus, reverse)
    return (out, last_state) if return_last_state else out


def selective_scan_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    state: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Run `selective_scan` for one more step, from a state that is updated in place.

    h <- exp(dt A) h + dt B u and y = C h (+ D u) (times silu(z)), with dt = delta (+ delta_bias)
    (through softplus); y = 2 Re(C h) for complex A.

    u, delta, z: (B, D), real.
    A: (D, N), real or complex. D, delta_bias: (D,), real.
    B, C: (B, N), or grouped (B, G, N), with group d // (D / G) for channel d; complex exactly if A
    is.
    state: (B, D, N), as `selective_scan` returns it: float32, float64 if u is (complex64 and
    complex128 for complex A); any strides. Holds the state after the step when this returns.
    backend: "auto", "triton" (one kernel on CUDA; real A, N up to 64, float32 and narrower) or
    "reference" (plain PyTorch, anywhere).

    Returns y (B, D) in u's dtype; the computation is in the state's. Not differentiable: raises
    RuntimeError for operands that require grad while grad mode is on. Raises ValueError or
    TypeError for operands that do not fit together, before the state is touched, and RuntimeError
    if the backend named cannot take them.

    Source: Gu and Dao 2023 (arXiv 2312.00752), equation 2; selective_state_update in
    state-spaces/mamba.
    """
    operands = ScanOperands(u, delta, A, B, C, D, z, delta_bias, state)
    refuse_gradients(STEP, "selective_scan", operands._asdict())
    _check_operands(STEP, operands, "(B, D)", "state")
    for name, weights in (("B", B), ("C", C)):
        _check_weights(STEP, name, weights, u, A)
    wanted_dtype = reference.find_state_dtype(u, A)
    if state.dtype != wanted_dtype:
        raise TypeError(
            f"{STEP}: state must be {wanted_dtype} for u in {u.dtype} and A in {A.dtype}, got "
            f"{state.dtype}; give state.to({wanted_dtype})"
        )
    check_writable(STEP, state)
    y: Tensor = resolve_backend(STEP, backend, STEP_BACKENDS, u, A).run(operands, delta_softplus)
    return y


def _check_operands(op: str, operands: ScanOperands, layout: str, state_name: str) -> None:
    """Check all that `selective_scan` and its single step share: all but the shapes of B and C."""
    u, _, A, B, C, *_, state = operands
    named = operands._asdict()
    named[state_name] = named.pop("state")
    check_floating(op, {name: named[name] for name in ("u", "delta", "D", "z", "delta_bias")})
    check_same_field(op, A, {"B": B, "C": C, state_name: state})
    check_devices(op, named)
    check_leading(op, "u", u, layout)
    channels = u.shape[-1]
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"{op}: A must be (D, N) with D = {channels} as in u and N >= 1, got {tuple(A.shape)}"
        )
    per_step = tuple(u.shape)
    expected = {"delta": per_step, "z": per_step, "D": (channels,), "delta_bias": (channels,)}
    check_shapes(op, named, expected | {state_name: (u.shape[0], channels, A.shape[1])})


def _check_weights(op: str, name: str, weights: Tensor, u: Tensor, A: Tensor) -> None:
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
