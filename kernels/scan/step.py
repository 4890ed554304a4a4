"""`selective_scan_step`: one step of the selective scan. Check, choose a backend, call.

Shape letters: B batch, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import functools
from typing import Any

from torch import Tensor

from dnamamba.kernels.backend import Backend, refuse_nothing, refuse_triton, resolve_backend
from dnamamba.kernels.scan import reference
from dnamamba.kernels.single_step import (
    Operands,
    check_devices,
    check_shapes,
    check_writable,
    refuse_gradients,
)

OP = "selective_scan_step"

MOST_STATES_TRITON = 64


@functools.wraps(reference.selective_scan_step)  # for its signature
def _run_triton(*args: Any) -> Any:
    # Imported on first use: triton is not installed everywhere.
    from dnamamba.kernels.scan import step_gpu

    return step_gpu.selective_scan_step(*args)


def _refuse_triton(u: Tensor, A: Tensor) -> str | None:
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
    Backend(name="triton", run=_run_triton, refuse=_refuse_triton, is_fused=True),
    # On a CPU it is faster than the fused scan, whose call costs more than a step.
    Backend(
        name="reference", run=reference.selective_scan_step, refuse=refuse_nothing,
        is_fused=False, unfused="plain PyTorch, a dozen operations",
    ),
)  # fmt: skip


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
    """What `selective_scan` gives for one more step, from a state that is updated in place.

    h <- exp(dt A) h + dt B u and y = C h (+ D u) (times silu(z)), with dt = delta, plus delta_bias,
    through softplus, as asked for; y = 2 Re(C h) for complex A.

    u, delta, z: (B, D), real.
    A: (D, N), real or complex. D, delta_bias: (D,), real.
    B, C: (B, N), or grouped (B, G, N) where channel d uses group d // (D / G); complex exactly when
    A is.
    state: (B, D, N), as `selective_scan` returns it: float32, float64 if u is (complex64 and
    complex128 for complex A). Holds the state after the step when this returns; any strides.
    backend: "auto", "triton" (one kernel on CUDA; real A, N up to 64, float32 and narrower) or
    "reference" (plain PyTorch, anywhere).

    Returns y (B, D) in u's dtype; everything is computed in the state's. Not differentiable: raises
    RuntimeError for operands that require grad while grad mode is on. Raises ValueError or
    TypeError for operands that do not fit together, before the state is touched, and RuntimeError
    where the backend named cannot take them.

    Source: Gu and Dao 2023 (arXiv 2312.00752), equation 2; selective_state_update in
    state-spaces/mamba.
    """
    operands = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias,
        "state": state,
    }  # fmt: skip
    refuse_gradients(OP, "selective_scan", operands)
    check_devices(OP, operands)
    _check_shapes(operands, u, A, B, C)
    _check_dtypes(operands, u, A, state)
    check_writable(OP, state)
    run = resolve_backend(OP, backend, BACKENDS, u, A).run
    return run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, state)


def _check_shapes(operands: Operands, u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    if u.dim() != 2 or u.numel() == 0:
        raise ValueError(f"{OP}: u must be (B, D) with no size of 0, got {tuple(u.shape)}")
    batch, channels = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"{OP}: A must be (D, N) with D = {channels} as in u, got {tuple(A.shape)}"
        )
    d_state = A.shape[1]
    per_step, per_channel = (batch, channels), (channels,)
    expected = {
        "delta": per_step, "z": per_step, "D": per_channel, "delta_bias": per_channel,
        "state": (batch, channels, d_state),
    }  # fmt: skip
    check_shapes(OP, operands, expected)
    for name, weights in (("B", B), ("C", C)):
        shape = tuple(weights.shape)
        if shape == (batch, d_state):
            continue
        if len(shape) != 3 or (shape[0], shape[2]) != (batch, d_state):
            raise ValueError(
                f"{OP}: {name} must be {(batch, d_state)} or {(batch, 'groups', d_state)}, "
                f"got {shape}"
            )
        if shape[1] == 0 or channels % shape[1]:
            raise ValueError(
                f"{OP}: the {shape[1]} groups of {name} must divide the {channels} channels"
            )


def _check_dtypes(operands: Operands, u: Tensor, A: Tensor, state: Tensor) -> None:
    for name, tensor in operands.items():
        may_be_complex = name in ("A", "B", "C", "state")
        if tensor is None or tensor.is_floating_point():
            continue
        if not (may_be_complex and tensor.is_complex()):
            wanted = "floating" if may_be_complex else "real floating"
            raise TypeError(f"{OP}: {name} must be {wanted}, got {tensor.dtype}")
    for name in ("B", "C"):
        weights = operands[name]
        if weights is not None and weights.is_complex() != A.is_complex():
            raise TypeError(
                f"{OP}: A, B and C must be all real or all complex; A is {A.dtype}, {name} is "
                f"{weights.dtype}"
            )
    wanted_dtype = reference.find_state_dtype(u, A)
    if state.dtype != wanted_dtype:
        raise TypeError(
            f"{OP}: state must be {wanted_dtype} for u in {u.dtype} and A in {A.dtype}, got "
            f"{state.dtype}; give state.to({wanted_dtype})"
        )
