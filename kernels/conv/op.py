"""`causal_conv1d`: the short depthwise convolution of Mamba and Hyena, channels last.

Check, choose a backend, call. Shape letters: B batch, L seq_len, D channels, K d_conv.
"""

from torch import Tensor

from dnamamba.kernels.backend import (
    Backend,
    import_on_call,
    refuse_nothing,
    refuse_triton,
    resolve_backend,
)
from dnamamba.kernels.conv import cpu, reference
from dnamamba.kernels.operands import (
    Operands,
    check_devices,
    check_floating,
    check_leading,
    check_shapes,
)

WIDEST_TRITON = 4


def _refuse_triton(x: Tensor, weight: Tensor) -> str | None:
    if weight.shape[1] > WIDEST_TRITON:
        return (
            f"the kernels take at most {WIDEST_TRITON} taps, weight has {weight.shape[1]}; "
            "use backend='reference'"
        )
    return refuse_triton(x)


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="cpu", run=cpu.causal_conv1d, refuse=cpu.refuse, is_fused=True),
    Backend(
        name="triton",
        run=import_on_call(reference.causal_conv1d, "dnamamba.kernels.conv.gpu"),
        refuse=_refuse_triton,
        is_fused=True,
    ),
    Backend(name="reference", run=reference.causal_conv1d, refuse=refuse_nothing, is_fused=False),
)


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
    """y_t = sum over k of weight[:, k] x_{t - K + 1 + k} (+ bias), then the activation.

    x: (B, L, D). weight: (D, K), the last column multiplies the current step. bias: (D,).
    activation: None or "silu".
    initial_state: (B, K - 1, D), the inputs before the first, oldest first; zeros if None.
    return_last_state: return (y, the last K - 1 inputs (B, K - 1, D)) rather than y.
    reverse: anti-causal, as if time were flipped: step t sees x_t ... x_{t + K - 1}. Both states
    are then in that order of time: the initial one holds x_{L + K - 2} ... x_L, the last one ends
    with x_0.
    backend: "auto", "cpu" (fused, K up to 8, float32 and narrower), "triton" (CUDA, K up to 4)
    or "reference" (plain PyTorch, anywhere).

    Returns y (B, L, D) in x's dtype, computed in float32 (float64 if x is). Differentiable (once)
    in every tensor. Raises ValueError for operands that do not fit together, RuntimeError where the
    backend named cannot take them.

    Source: Dao-AILab/causal-conv1d (there with L last).
    """
    operands = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    check_taps("causal_conv1d", operands, "(B, L, D)", activation, "initial_state")
    run = resolve_backend("causal_conv1d", backend, BACKENDS, x, weight).run
    return run(x, weight, bias, activation, initial_state, return_last_state, reverse)


def check_taps(
    op: str, operands: Operands, layout: str, activation: str | None, state_name: str
) -> None:
    """What `causal_conv1d` and its single step ask of operands: x, weight, bias and a state."""
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
    check_shapes(op, operands, {"bias": (channels,), state_name: state_shape})
    check_floating(op, operands)
    check_devices(op, operands)
