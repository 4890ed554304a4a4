"""`long_conv`: a causal depthwise convolution with a filter as long as the sequence.

Check, choose a backend, call. Shape letters: B batch, L seq_len, D channels.
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
from dnamamba.kernels.longconv import fft, reference
from dnamamba.kernels.operands import (
    Operands,
    check_devices,
    check_floating,
    check_leading,
    check_shapes,
)

# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(
        name="triton",
        run=import_on_call(reference.long_conv, "dnamamba.kernels.longconv.gpu"),
        refuse=refuse_triton,
        is_fused=True,
    ),
    # torch's FFTs are fused kernels themselves; gates and bias are passes beside them.
    Backend(name="fft", run=fft.long_conv, refuse=refuse_nothing, is_fused=True),
    Backend(name="reference", run=reference.long_conv, refuse=refuse_nothing, is_fused=False),
)


def long_conv(
    x: Tensor,
    filter: Tensor,
    bias: Tensor | None = None,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    decay: Tensor | None = None,
    shift: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """y_t = gate_out_t (sum over s <= t of filter_{t - s} u_s + bias u_t), with u = gate_in x.

    x: (B, L, D). filter: (L, D), the first row multiplies the current step.
    bias: (D,), a skip connection; none if None.
    gate_in, gate_out: (B, L, D), as x; ones if None. Here rather than outside, so that no product
    with a gate is kept for the backward.
    decay, shift: where decay (D,) is given, row n of the filter is multiplied by
    exp(-decay n) + shift, constants without a gradient. Here rather than outside, so that it takes
    no pass over memory on a GPU.
    backend: "auto", "triton" (CUDA, float32 and narrower), "fft" (anywhere) or "reference" (the
    definition, for short sequences).

    Returns y (B, L, D) in x's dtype, computed in float32 (float64 if x is). Differentiable (once)
    in every tensor but decay; kept for the backward are the operands, and on a GPU the output
    before gate_out and spectra of up to 1 GiB. Channels are taken a few at a time, so that other
    memory does not grow with D: about 1 GiB on a GPU. By FFT a position is rounded like the
    largest one of its channel, and how depends on L.
    Raises ValueError for operands that do not fit together, RuntimeError where the backend named
    cannot take them.

    Source: Poli et al. 2023 (arXiv 2302.10866), section 3.
    """
    _check(
        {"x": x, "filter": filter, "bias": bias, "gate_in": gate_in, "gate_out": gate_out}
        | {"decay": decay}
    )
    run = resolve_backend("long_conv", backend, BACKENDS, x).run
    # Autocast would round the definition's products to bf16.
    with torch.autocast(x.device.type, enabled=False):
        result: Tensor = run(x, filter, bias, gate_in, gate_out, decay, shift)
    return result


def _check(operands: Operands) -> None:
    x, decay = operands["x"], operands["decay"]
    assert x is not None
    check_leading("long_conv", "x", x, "(B, L, D)")
    shape = tuple(x.shape)
    check_shapes(
        "long_conv",
        operands,
        {"filter": shape[1:], "bias": shape[2:], "gate_in": shape, "gate_out": shape}
        | {"decay": shape[2:]},
    )
    check_floating("long_conv", operands)
    check_devices("long_conv", operands)
    if decay is not None and decay.requires_grad:
        raise ValueError("long_conv: decay must not require grad: give decay.detach()")
