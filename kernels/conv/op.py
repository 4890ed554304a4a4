"""`causal_conv1d`, the short depthwise convolution of Mamba and Hyena, and a single step of it.

Check, choose a backend, call. Shape letters: B batch, L seq_len, D channels, K d_conv.
"""

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, refuse_triton, resolve_backend, triton_backend
from dnamamba.kernels.conv import cpu, reference
from dnamamba.kernels.operands import (
    Operands,
    check_leading,
    check_real,
    check_writable,
    refuse_gradients,
)

OP, STEP = "causal_conv1d", "causal_conv1d_step"

WIDEST_TRITON = 4


def _refuse_triton(x: Tensor, weight: Tensor) -> str | None:
    """`refuse_triton`, and more taps than the kernels take."""
    if weight.shape[1] > WIDEST_TRITON:
        return (
            f"the kernels take at most {WIDEST_TRITON} taps, weight has {weight.shape[1]}; "
            "use backend='reference'"
        )
    return refuse_triton(x)


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="cpu", run=cpu.causal_conv1d, refuse=cpu.refuse, is_fused=True),
    triton_backend(reference.causal_conv1d, "conv.gpu", _refuse_triton),
    Backend(name="reference", run=reference.causal_conv1d, is_fused=False),
)
STEP_BACKENDS = (
    triton_backend(reference.causal_conv1d_step, "conv.step_gpu", _refuse_triton),
    # Faster on a CPU than the fused convolution, whose call costs more than a step.
    Backend(
        name="reference", run=reference.causal_conv1d_step, is_fused=False,
        unfused="plain PyTorch, half a dozen operations",
    ),
)  # fmt: skip


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return y_t = sum over k of weight[:, k] x_{t - K + 1 + k} (+ bias), then the activation.

    x: (B, L, D). weight: (D, K), the last column multiplies the current step. bias: (D,).
    activation: None or "silu".
    initial_state: (B, K - 1, D), the inputs before the first, oldest first; zeros if None.
    return_last_state: return (y, the last K - 1 inputs (B, K - 1, D)) rather than y.
    reverse: anti-causal, as if time were flipped: step t sees x_t ... x_{t + K - 1}. States follow
    that order: the initial one holds x_{L + K - 2} ... x_L, the last one ends with x_0.
    backend: "auto", "cpu" (fused, K up to 8, float32 and narrower), "triton" (CUDA, K up to 4)
    or "reference" (plain PyTorch, anywhere).

    Returns y (B, L, D) in x's dtype, computed in float32 (float64 if x is). Differentiable (once)
    in every tensor. Raises ValueError for operands that do not fit together, RuntimeError if the
    backend named cannot take them.

    Source: Dao-AILab/causal-conv1d (there with L last).
    """
    operands = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    _check_taps(OP, operands, "(B, L, D)", activation, "initial_state")
    run = resolve_backend(OP, backend, BACKENDS, x, weight).run
    return run(x, weight, bias, activation, initial_state, return_last_state, reverse)


def causal_conv1d_step(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    state: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Run `causal_conv1d` for one more step, from a state that is updated in place.

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
    if the backend named cannot take them.

    Source: causal_conv1d_update in Dao-AILab/causal-conv1d.
    """
    operands = {"x": x, "weight": weight, "bias": bias, "state": state}
    refuse_gradients(STEP, "causal_conv1d", operands)
    _check_taps(STEP, operands, "(B, D)", activation, "state")
    if torch.promote_types(state.dtype, x.dtype) != state.dtype:
        raise TypeError(
            f"{STEP}: state must be {x.dtype} as x is, or wider, to hold it; got {state.dtype}"
        )
    check_writable(STEP, state)
    run = resolve_backend(STEP, backend, STEP_BACKENDS, x, weight).run
    return run(x, weight, bias, activation, state)


def _check_taps(
    op: str, operands: Operands, layout: str, activation: str | None, state_name: str
) -> None:
    """Check x, weight, bias and the state of `causal_conv1d` or its single step."""
    x, weight = operands["x"], operands["weight"]
    assert x is not None
    assert weight is not None
    check_leading(op, "x", x, layout)
    channels = x.shape[-1]
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(
            f"{op}: weight must be (D, K) with D = {channels} as in x, got {tuple(weight.shape)}"
        )
    if activation not in (None, "silu"):
        raise ValueError(f"{op}: activation must be None or 'silu', got {activation!r}")
    state_shape = (x.shape[0], weight.shape[1] - 1, channels)
    check_real(op, operands, {"bias": (channels,), state_name: state_shape})
