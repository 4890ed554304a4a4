"""`causal_conv1d_step`: one step of the short convolution. Check, choose a backend, call.

Shape letters: B batch, D channels, K d_conv.
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
from dnamamba.kernels.conv import reference
from dnamamba.kernels.conv.op import WIDEST_TRITON, check_taps
from dnamamba.kernels.operands import check_writable, refuse_gradients

OP = "causal_conv1d_step"


def _refuse_triton(x: Tensor, weight: Tensor) -> str | None:
    if weight.shape[1] > WIDEST_TRITON:
        return (
            f"the kernel takes at most {WIDEST_TRITON} taps, weight has {weight.shape[1]}; "
            "use backend='reference'"
        )
    return refuse_triton(x)


_run_triton = import_on_call(reference.causal_conv1d_step, "dnamamba.kernels.conv.step_gpu")

# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="triton", run=_run_triton, refuse=_refuse_triton, is_fused=True),
    # On a CPU it is faster than the fused convolution, whose call costs more than a step.
    Backend(
        name="reference", run=reference.causal_conv1d_step, refuse=refuse_nothing,
        is_fused=False, unfused="plain PyTorch, half a dozen operations",
    ),
)  # fmt: skip


def causal_conv1d_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    state: Tensor,
    backend: str = "auto",
) -> Tensor:
    """What `causal_conv1d` gives for one more step, from a state that is updated in place.

    y = weight[:, K - 1] x + sum over k < K - 1 of weight[:, k] state[:, k] (+ bias), then the
    activation; the oldest input leaves the state and x enters it.

    x: (B, D). weight: (D, K), the last column multiplies x. bias: (D,).
    activation: None or "silu".
    state: (B, K - 1, D), the inputs before x, oldest first, as `causal_conv1d` takes and returns
    them; in x's dtype or a wider one, any strides. Holds the last K - 1 inputs, x among them, when
    this returns.
    backend: "auto", "triton" (one kernel on CUDA, K up to 4, float32 and narrower) or "reference"
    (plain PyTorch, anywhere).

    Returns y (B, D) in x's dtype, computed in float32 (float64 if x is). Not differentiable: raises
    RuntimeError for operands that require grad while grad mode is on. Raises ValueError or
    TypeError for operands that do not fit together, before the state is touched, and RuntimeError
    where the backend named cannot take them.

    Source: causal_conv1d_update in Dao-AILab/causal-conv1d.
    """
    operands = {"x": x, "weight": weight, "bias": bias, "state": state}
    refuse_gradients(OP, "causal_conv1d", operands)
    check_taps(OP, operands, "(B, D)", activation, "state")
    if torch.promote_types(state.dtype, x.dtype) != state.dtype:
        raise TypeError(
            f"{OP}: state must be {x.dtype} as x is, or wider, to hold it; got {state.dtype}"
        )
    check_writable(OP, state)
    run = resolve_backend(OP, backend, BACKENDS, x, weight).run
    return run(x, weight, bias, activation, state)
