"""`selective_scan_step`: one step of the selective scan. Check, choose a backend, call.

Shape letters: B batch, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

from torch import Tensor

from dnamamba.kernels.backend import (
    Backend,
    import_on_call,
    refuse_nothing,
    refuse_triton,
    resolve_backend,
)
from dnamamba.kernels.operands import check_writable, refuse_gradients
from dnamamba.kernels.scan import reference
from dnamamba.kernels.scan.op import check_operands, check_weights

OP = "selective_scan_step"

MOST_STATES_TRITON = 64


def _refuse_triton(u: Tensor, A: Tensor) -> str | None:
    if A.is_complex():
        return "A is complex; use backend='reference'"
    if A.shape[1] > MOST_STATES_TRITON:
        return (
            f"the kernel takes at most {MOST_STATES_TRITON} states, A has {A.shape[1]}; "
            "use backend='reference'"
        )
    return refuse_triton(u)


_run_triton = import_on_call(reference.selective_scan_step, "dnamamba.kernels.scan.step_gpu")

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
    check_operands(OP, operands, "(B, D)", "state")
    for name, weights in (("B", B), ("C", C)):
        check_weights(OP, name, weights, u, A)
    wanted_dtype = reference.find_state_dtype(u, A)
    if state.dtype != wanted_dtype:
        raise TypeError(
            f"{OP}: state must be {wanted_dtype} for u in {u.dtype} and A in {A.dtype}, got "
            f"{state.dtype}; give state.to({wanted_dtype})"
        )
    check_writable(OP, state)
    run = resolve_backend(OP, backend, BACKENDS, u, A).run
    return run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, state)
