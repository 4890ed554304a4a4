"""Which implementation an op runs on, and why: the one place that decides."""

import functools
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("dnamamba.kernels")


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One implementation of an op.

    name: what a caller asks for.
    run: the function; every backend of an op has the same signature.
    refuse: called with the op's tensors; why it cannot take them and what to do, or None if it can.
    is_fused: False for plain PyTorch.
    unfused: what `auto` says of one that is not fused.
    """

    name: str
    run: Callable[..., Any]
    refuse: Callable[..., str | None]
    is_fused: bool
    unfused: str = "plain PyTorch and slow"


def import_on_call(definition: Callable[..., Any], module: str) -> Callable[..., Any]:
    """The function of `definition`'s name and signature in `module`, imported at the first call.

    Triton is not installed everywhere, so modules with Triton kernels load when they are needed.
    """

    @functools.wraps(definition)
    def run(*args: Any) -> Any:
        return getattr(importlib.import_module(module), definition.__name__)(*args)

    return run


def resolve_backend(
    op: str, requested: str, backends: Sequence[Backend], *tensors: Tensor
) -> Backend:
    """The backend asked for, or for `auto` the first (fastest first) that takes these tensors.

    `auto` logs once per op and choice what it took. Raises ValueError for an unknown name and
    RuntimeError for an explicit request that cannot be met: nothing is swapped silently.
    """
    refusals: list[str] = []
    if requested == "auto":
        backend = _first_that_can(backends, tensors, refusals)
    else:
        backend = _find(op, requested, backends)
        reason = backend.refuse(*tensors)
        if reason is not None:
            raise RuntimeError(f"{op}: backend {requested!r} cannot run this: {reason}")
    taken = _taken.setdefault(f"{op} on {tensors[0].device.type}", [])
    if backend.name not in taken:
        taken.append(backend.name)
        if requested == "auto":
            _log_choice(op, backend, tensors[0].device.type, refusals)
    return backend


def describe_choices() -> dict[str, list[str]]:
    """The backends this process has used so far, by op and device: for manifests and reports."""
    return {op: list(names) for op, names in _taken.items()}


def refuse_nothing(*tensors: Tensor) -> None:
    """For the backend of an op that takes everything."""


def refuse_triton(x: Tensor) -> str | None:
    """Why Triton kernels cannot take a tensor, or None if they can."""
    if x.device.type != "cuda":
        return f"it needs a CUDA device, the tensors are on {x.device.type}"
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it takes float32, bfloat16 and float16, got {x.dtype}; use backend='reference'"
    return _refuse_machine(x.device)


@functools.cache
def _refuse_machine(device: torch.device) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "it needs the package triton; pip install triton"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"Triton needs compute capability 8.0 or newer, this GPU has {major}.{minor}"
    return None


_taken: dict[str, list[str]] = {}


def _find(op: str, name: str, backends: Sequence[Backend]) -> Backend:
    for backend in backends:
        if backend.name == name:
            return backend
    names = ", ".join(["auto", *(b.name for b in backends)])
    raise ValueError(f"{op}: backend must be one of {names}, got {name!r}")


def _first_that_can(
    backends: Sequence[Backend], tensors: Sequence[Tensor], refusals: list[str]
) -> Backend:
    """The first backend that takes the tensors; adds to `refusals` why not those before it."""
    for backend in backends:
        reason = backend.refuse(*tensors)
        if reason is not None:
            refusals.append(f"{backend.name!r} cannot: {reason}")
        else:
            return backend
    raise AssertionError("the last backend of an op takes everything")


def _log_choice(op: str, backend: Backend, device_type: str, refusals: list[str]) -> None:
    kind = "a fused kernel"
    if not backend.is_fused:
        kind = "; ".join([backend.unfused, *refusals])
    logger.info("%s on %s: auto takes %r (%s)", op, device_type, backend.name, kind)
