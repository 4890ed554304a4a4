"""`long_conv`: a causal depthwise convolution with a filter as long as the sequence.

Check, choose a backend, call. Shape letters: B batch, L seq_len, D channels.
"""

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, resolve_backend, triton_backend
from dnamamba.kernels.longconv import fft, reference
from dnamamba.kernels.longconv.reference import ConvOperands
from dnamamba.kernels.operands import check_leading, check_real

# Fastest first: `auto` takes the first that can.
BACKENDS = (
    triton_backend(reference.long_conv, "longconv.gpu"),
    # torch's FFTs are fused kernels themselves; gates and bias are passes beside them.
    Backend(name="fft", run=fft.long_conv, is_fused=True),
    Backend(name="reference", run=reference.long_conv, is_fused=False),
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
    """Return y_t = gate_out_t (sum over s <= t of filter_{t - s} u_s + bias u_t), u = gate_in x.

    x: (B, L, D). filter: (L, D), the first row multiplies the current step.
    bias: (D,), a skip connection; none if None.
    gate_in, gate_out: (B, L, D), as x; ones if None. Part of the op so that no product with a gate
    is kept for the backward.
    decay, shift: with decay (D,), row n of the filter is multiplied by exp(-decay n) + shift,
    constants without a gradient. Part of the op so that it takes no pass over memory on a GPU.
    backend: "auto", "triton" (CUDA, float32 and narrower), "fft" (anywhere) or "reference" (the
    definition, for short sequences).

    Returns y (B, L, D) in x's dtype, computed in float32 (float64 if x is). Differentiable (once)
    in every tensor but decay; keeps for the backward the operands, and on a GPU the output before
    gate_out and spectra of up to 1 GiB. Takes a few channels at a time, so other memory does not
    grow with D: about 1 GiB on a GPU. By FFT the rounding at a position is relative to the largest
    value of its channel and depends on L.
    Raises ValueError for operands that do not fit together, RuntimeError if the backend named
    cannot take them.

    Source: Poli et al. 2023 (arXiv 2302.10866), section 3.
    """
    operands = ConvOperands(x, filter, bias, gate_in, gate_out, decay, shift)
    _check(operands)
    run = resolve_backend("long_conv", backend, BACKENDS, x).run
    # Autocast would round the definition's products to bf16.
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = run(operands)
    return y


def _check(operands: ConvOperands) -> None:
    x, decay = operands.x, operands.decay
    named = operands._asdict()
    del named["shift"]
    check_leading("long_conv", "x", x, "(B, L, D)")
    whole, row = tuple(x.shape), tuple(x.shape[2:])
    expected = {"filter": whole[1:], "bias": row, "gate_in": whole, "gate_out": whole, "decay": row}
    check_real("long_conv", named, expected)
    if decay is not None and decay.requires_grad:
        raise ValueError("long_conv: decay must not require grad: give decay.detach()")
