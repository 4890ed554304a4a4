"""Launches of Triton kernels that skip Triton's lookup of the compiled kernel."""

import functools
from typing import Any

import torch
import triton
from torch import Tensor

_KNOWN = {(3, 6), (3, 7)}
"""Versions of Triton whose compiled kernels take all arguments, and are compiled for tensors' types
and alignment and numbers' values. With others, and on AMD's GPUs, kernels are launched as usual."""

_MOST_FOUND = 4096
"""Sets of arguments remembered: a few for each layer and length of sequence."""

_found: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run kernel[grid](*arguments, **constants) on the current device.

    arguments: positional, in the kernel's order, up to its constants. Triton inspects every
    argument at every launch; here a compiled kernel is found by one key of them.
    """
    if not _can_start(kernel):
        kernel[grid](*arguments, **constants)
        return
    kinds = [(x.dtype, x.data_ptr() % 16 == 0) if isinstance(x, Tensor) else x for x in arguments]
    key = (id(kernel), torch.cuda.current_device(), *constants, *constants.values(), *kinds)
    found = _found.get(key)
    if found is None:
        in_order = [constants[name] for name in kernel.arg_names[len(arguments) :]]
        if len(_found) >= _MOST_FOUND:
            _found.clear()
        _found[key] = kernel[grid](*arguments, **constants), in_order
        return
    compiled, in_order = found
    compiled[(*grid, 1, 1)[:3]](*arguments, *in_order)


def dense_or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return a pointer for the kernel, which takes no None and never follows the stand-in."""
    return stand_in if tensor is None else tensor.contiguous()


def with_dense_rows(x: Tensor) -> Tensor:
    """Return x with its last axis contiguous, as kernels walk along it."""
    return x if x.stride(-1) == 1 else x.contiguous()


@functools.cache
def _can_start(kernel: Any) -> bool:
    """Whether a kernel, and not its interpreter, can be started once compiled."""
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    is_compiled = isinstance(kernel, triton.runtime.JITFunction) and torch.version.hip is None
    return is_compiled and version in _KNOWN
