"""What the ops of a single step share: no gradients, one device, a state that is written to."""

import torch
from torch import Tensor

Operands = dict[str, Tensor | None]
"""By name, the state among them."""


def refuse_gradients(op: str, whole: str, operands: Operands) -> None:
    """Raises RuntimeError where gradients are expected; `whole` is the op that has them."""
    if not torch.is_grad_enabled():
        return
    for name, tensor in operands.items():
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f"{op} has no gradients and {name} requires grad: call it under torch.no_grad(), "
                f"or use {whole}"
            )


def check_devices(op: str, operands: Operands) -> None:
    """All on the device of the first."""
    names = iter(operands.items())
    first, leading = next(names)
    assert leading is not None
    for name, tensor in names:
        if tensor is not None and tensor.device != leading.device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device}, {first} on {leading.device}; move one of them"
            )


def check_shapes(op: str, operands: Operands, expected: dict[str, tuple[int, ...]]) -> None:
    """Those that are given have the shapes expected of them."""
    first, leading = next(iter(operands.items()))
    assert leading is not None
    for name, shape in expected.items():
        tensor = operands[name]
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{op}: {name} must be {shape} to fit {first} {tuple(leading.shape)}, got "
                f"{tuple(tensor.shape)}"
            )


def check_writable(op: str, state: Tensor) -> None:
    """Raises ValueError where entries share memory, as those of an expanded tensor do."""
    for size, stride in zip(state.shape, state.stride(), strict=True):
        if size > 1 and stride == 0:
            raise ValueError(
                f"{op}: entries of state share memory, so it cannot be updated in place; give "
                "state.contiguous()"
            )


def count_write(state: Tensor) -> None:
    """Tell autograd that a kernel of ours has written: a backward that needs what was there before
    then raises rather than use the wrong numbers."""
    if not state.is_inference():
        torch.autograd.graph.increment_version(state)
