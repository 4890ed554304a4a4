"""Whether the scan is right, before its times say anything.

An error is the largest of a tensor's over its largest entry: one wrong step of a million shows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.bench.operators import Where, run_scan, scan_case
from dnamamba.bench.shapes import ScanShape
from dnamamba.errors import WrongResultError
from dnamamba.kernels.scan import chunked, reference

# Of tensors stored in these dtypes. float32: sums over 100,000 steps round to a few 1e-6. The
# narrower ones are computed in float32 and rounded once, by half of this.
LIMITS = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 2**-10,
    torch.bfloat16: 2**-7,
}
SMALL = ScanShape(2, 48, 300)
# Channels of a large shape are independent given B and C; so many are compared.
_CHANNELS = 4
# Longer ones are compared up to here, where outputs do not depend on what follows.
CHECKED_STEPS = 131_072
_PER_STEP = ("u", "delta", "z")
_PER_CHANNEL = ("A", "D", "delta_bias")


def worst_error(found: Tensor, expected: Tensor) -> float:
    """The largest error over the largest entry; NaN where one is."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def check_scan(where: Where, shape: ScanShape = SMALL) -> float:
    """The worst error of output and every gradient, against the definition: for small shapes.

    Raises WrongResultError where one is above LIMITS.
    """
    case = scan_case(shape, where)
    out = case.forward()
    found = {"out": out.detach(), **_gradients(case.backward(out))}
    return _check(found, _expected(case.inputs, case.d_out, reference.selective_scan), where, shape)


def check_shape(
    inputs: Mapping[str, Tensor],
    d_out: Tensor,
    found: Mapping[str, Tensor],
    where: Where,
) -> float:
    """The worst error of a scan at its own shape, on some channels; see check_scan.

    found: "out" and "d_u" and so on, as `scan_case` gives them. Beyond CHECKED_STEPS the outputs of
    the first are compared, without gradients; those of B and C, sums over all channels, never are.
    """
    batch, seq_len, channels = inputs["u"].shape
    shape = ScanShape(batch, channels, seq_len)
    some = torch.linspace(0, channels - 1, min(_CHANNELS, channels)).round().long()
    some, steps = some.to(where.device), slice(CHECKED_STEPS)
    part = {name: inputs[name][:, steps, some] for name in _PER_STEP}
    part |= {name: inputs[name][some] for name in _PER_CHANNEL}
    part |= {name: inputs[name][:, steps] for name in ("B", "C")}
    compared = {"out": found["out"][:, steps, some]}
    if seq_len <= CHECKED_STEPS:
        compared |= {f"d_{name}": found[f"d_{name}"][..., some] for name in _PER_STEP}
        compared |= {f"d_{name}": found[f"d_{name}"][some] for name in _PER_CHANNEL}
        expected = _expected(part, d_out[..., some], chunked.selective_scan)
    else:
        expected = {"out": run_scan(_in_float64(part), chunked.selective_scan).detach()}
    return _check(compared, expected, where, shape)


def _gradients(of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"d_{name}": gradient for name, gradient in of.items()}


def _in_float64(inputs: Mapping[str, Tensor], *, leaves: bool = False) -> dict[str, Tensor]:
    return {
        name: tensor.detach().double().requires_grad_(leaves) for name, tensor in inputs.items()
    }


def _expected(
    inputs: Mapping[str, Tensor], d_out: Tensor, definition: Callable[..., Any]
) -> dict[str, Tensor]:
    wide = _in_float64(inputs, leaves=True)
    out = run_scan(wide, definition)
    gradients = torch.autograd.grad(out, list(wide.values()), d_out.double())
    return {"out": out.detach(), **_gradients(dict(zip(wide, gradients, strict=True)))}


def _check(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: Where, shape: ScanShape
) -> float:
    errors = {name: worst_error(tensor, expected[name]) for name, tensor in found.items()}
    for name, error in errors.items():
        limit = LIMITS[found[name].dtype]
        if not error <= limit:  # NaN is not
            raise WrongResultError(
                f"selective_scan {where.backend!r} is wrong on {where.device} at {shape} (batch x "
                f"channels x steps): {name} is off by {error:.1e} of its largest entry, expected "
                f"{limit:.1e} at most against float64. Its times would say nothing; choose another "
                "--backend, `dnamamba doctor` checks them all"
            )
    return max(errors.values())
