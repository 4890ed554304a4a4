"""Choice of the implementation that an op runs on."""

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

_taken: dict[str, list[str]] = {}


def refuse_nothing(*tensors: Tensor) -> None:
    """For a backend that takes all operands."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One implementation of an op.

    name: value of the op's argument `backend`.
    run: the function; all backends of an op share its signature.
    refuse: takes the op's tensors and returns why the backend cannot run them and what to do, or
    None if it can.
    is_fused: False for plain PyTorch, which `auto` describes in its log by `unfused`.
    """

    name: str
    run: Callable[..., Any]
    refuse: Callable[..., str | None] = refuse_nothing
    is_fused: bool
    unfused: str = "plain PyTorch and slow"


def refuse_triton(x: Tensor) -> str | None:
    """Return why Triton kernels cannot take a tensor, or None if they can."""
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


def triton_backend(
    definition: Callable[..., Any], module: str, refuse: Callable[..., str | None] = refuse_triton
) -> Backend:
    """Return the backend "triton": the function of `definition`'s name in kernels/`module`.

    The module is imported at the first call, as Triton is not installed everywhere.
    """

    @functools.wraps(definition)
    def run(*args: Any) -> Any:
        loaded = importlib.import_module(f"dnamamba.kernels.{module}")
        return getattr(loaded, definition.__name__)(*args)

    return Backend(name="triton", run=run, refuse=refuse, is_fused=True)


def resolve_backend(
    op: str, requested: str, backends: Sequence[Backend], *tensors: Tensor
) -> Backend:
    """Return the backend `requested`; for "auto" the first (fastest first) that takes the tensors.

    Logs each choice of "auto" once per op and device. Raises ValueError for an unknown name, and
    RuntimeError if the backend named cannot run the tensors: none is swapped silently.
    """
    device, refusals = tensors[0].device.type, []
    for backend in backends:
        if requested not in ("auto", backend.name):
            continue
        reason = backend.refuse(*tensors)
        if reason is None:
            break
        if requested != "auto":
            raise RuntimeError(f"{op}: backend {requested!r} cannot run this: {reason}")
        refusals.append(f"{backend.name!r} cannot: {reason}")
    else:
        names = ", ".join(["auto", *(backend.name for backend in backends)])
        raise ValueError(f"{op}: backend must be one of {names}, got {requested!r}")
    taken = _taken.setdefault(f"{op} on {device}", [])
    if backend.name not in taken:
        taken.append(backend.name)
        if requested == "auto":
            kind = "a fused kernel" if backend.is_fused else "; ".join([backend.unfused, *refusals])
            logger.info("%s on %s: auto takes %r (%s)", op, device, backend.name, kind)
    return backend


def describe_choices() -> dict[str, list[str]]:
    """Return the backends this process has used so far, by op and device."""
    return {op: list(names) for op, names in _taken.items()}
