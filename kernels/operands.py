"""Checks of an op's operands: shapes, devices, dtypes, and the state of a single step.

Each check takes the op's name and its tensors by name, the leading one (`x` or `u`) first, and
raises an error with the operand's name, what it must be and what it is.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

Operands = Mapping[str, Tensor | None]
"""By name, the leading tensor first; None if left out."""


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype an op of x is computed in: float64 if x is, else float32."""
    return torch.promote_types(x.dtype, torch.float32)


def given(operands: Operands) -> Iterable[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in operands.items() if tensor is not None)


def check_leading(op: str, name: str, tensor: Tensor, layout: str) -> None:
    """Raise ValueError unless a tensor has the axes of `layout`, none of size 0."""
    if tensor.dim() != layout.count(",") + 1 or tensor.numel() == 0:
        raise ValueError(
            f"{op}: {name} must be {layout} with no size of 0, got {tuple(tensor.shape)}"
        )


def check_devices(op: str, operands: Operands) -> None:
    """Raise ValueError unless all are on the device of the first."""
    first, leading = next(iter(given(operands)))
    for name, tensor in given(operands):
        if tensor.device != leading.device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}, {first} on {leading.device}; move one of them"
            )


def check_shapes(op: str, operands: Operands, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the tensors that are given have their expected shapes."""
    first, leading = next(iter(given(operands)))
    for name, shape in expected.items():
        tensor = operands[name]
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{op}: {name} must be {shape} to fit {first} {tuple(leading.shape)}, got "
                f"{tuple(tensor.shape)}"
            )


def check_floating(op: str, operands: Operands) -> None:
    """Raise TypeError unless all are real floating."""
    for name, tensor in given(operands):
        if not tensor.is_floating_point():
            raise TypeError(f"{op}: {name} must be real floating, got {tensor.dtype}")


def check_real(op: str, operands: Operands, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless all are real floating, on one device and of their expected shapes."""
    check_shapes(op, operands, expected)
    check_floating(op, operands)
    check_devices(op, operands)


def check_same_field(op: str, A: Tensor, operands: Operands) -> None:
    """Raise TypeError unless A and all others are floating, and all real or all complex."""
    for name, tensor in given({"A": A, **operands}):
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"{op}: {name} must be floating, got {tensor.dtype}")
        if tensor.is_complex() != A.is_complex():
            raise TypeError(
                f"{op}: A, {', '.join(operands)} must be all real or all complex; A is {A.dtype}, "
                f"{name} is {tensor.dtype}"
            )


def check_groups(op: str, name: str, n_groups: int, n_channels: int, what: str) -> None:
    """Raise ValueError unless the groups of B or C divide the channels (or heads)."""
    if n_groups == 0 or n_channels % n_groups:
        raise ValueError(
            f"{op}: the {n_groups} groups of {name} must divide the {n_channels} {what}"
        )


# --- a single step


def refuse_gradients(op: str, whole: str, operands: Operands) -> None:
    """Raise RuntimeError if gradients are expected; `whole` is the op that has them."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in given(operands):
        if tensor.requires_grad:
            raise RuntimeError(
                f"{op} has no gradients and {name} requires grad: call it under torch.no_grad(), "
                f"or use {whole}"
            )


def check_writable(op: str, state: Tensor) -> None:
    """Raise ValueError if entries share memory, as those of an expanded tensor do."""
    if any(size > 1 and not step for size, step in zip(state.shape, state.stride(), strict=True)):
        raise ValueError(
            f"{op}: entries of state share memory, so it cannot be updated in place; give "
            "state.contiguous()"
        )


def count_write(state: Tensor) -> None:
    """Record a kernel's write to `state`, so that a backward that needs its old values raises."""
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
