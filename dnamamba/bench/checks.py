"""Checks of the scan before its times count.

An error is a tensor's largest over its largest entry: one wrong step of a million shows.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.bench.operators import Case, Where, name_gradients, scan_case
from dnamamba.bench.shapes import ScanShape
from dnamamba.errors import WrongResultError
from dnamamba.kernels.scan import chunked, reference
from dnamamba.kernels.scan.reference import ScanOperands

# By dtype of the result. float32: sums over 100,000 steps round to a few 1e-6. Narrower ones are
# computed in float32 and rounded once, by half of this.
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2**-10, torch.bfloat16: 2**-7}
SMALL = ScanShape(2, 48, 300)
# Channels compared at a large shape; they are independent given B and C.
_CHANNELS = 4
# Steps compared of a longer sequence, whose outputs do not depend on what follows.
CHECKED_STEPS = 131_072
_PER_STEP = ("u", "delta", "z")
_PER_CHANNEL = ("A", "D", "delta_bias")


def worst_error(found: Tensor, expected: Tensor) -> float:
    """Return the largest error over the largest entry; NaN if one is."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def check_scan(where: Where, shape: ScanShape = SMALL) -> float:
    """Return the worst error of output and every gradient against the definition, at a small shape.

    Raises WrongResultError if one is above LIMITS.
    """
    case = scan_case(shape, where)
    found = case.results()
    return _check(found, _expected(case.inputs, case.d_out, reference.selective_scan), where, shape)


def check_shape(case: Case, found: Mapping[str, Tensor], where: Where) -> float:
    """Return the worst error of a scan's `case.results()` on a few channels; see check_scan.

    Beyond CHECKED_STEPS the outputs of the first are compared, without gradients; those of B and C,
    sums over all channels, never are.
    """
    inputs = case.inputs
    batch, seq_len, channels = inputs["u"].shape
    shape = ScanShape(batch, channels, seq_len)
    chosen = torch.linspace(0, channels - 1, min(_CHANNELS, channels)).round().long()
    chosen, steps = chosen.to(where.device), slice(CHECKED_STEPS)
    part = {name: inputs[name][:, steps, chosen] for name in _PER_STEP}
    part |= {name: inputs[name][chosen] for name in _PER_CHANNEL}
    part |= {name: inputs[name][:, steps] for name in ("B", "C")}
    compared = {"out": found["out"][:, steps, chosen]}
    if seq_len <= CHECKED_STEPS:
        compared |= {f"d_{name}": found[f"d_{name}"][..., chosen] for name in _PER_STEP}
        compared |= {f"d_{name}": found[f"d_{name}"][chosen] for name in _PER_CHANNEL}
        d_out: Tensor | None = case.d_out[..., chosen]
    else:
        d_out = None
    return _check(compared, _expected(part, d_out, chunked.selective_scan), where, shape)


def _expected(
    inputs: Mapping[str, Tensor], d_out: Tensor | None, definition: Callable[..., Any]
) -> dict[str, Tensor]:
    """Return the output and, given its gradient, all gradients in float64."""
    wide = {
        name: tensor.detach().double().requires_grad_(d_out is not None)
        for name, tensor in inputs.items()
    }
    out, _ = definition(ScanOperands(**wide), True, False)
    if d_out is None:
        return {"out": out}
    gradients = torch.autograd.grad(out, list(wide.values()), d_out.double())
    return {"out": out.detach(), **name_gradients(dict(zip(wide, gradients, strict=True)))}


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
