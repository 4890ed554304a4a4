"""Versions and devices of this machine, and kernels checked on it."""

import importlib.metadata
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnamamba import __version__
from dnamamba.bench.checks import worst_error
from dnamamba.errors import InputError
from dnamamba.kernels import selective_scan
from dnamamba.kernels.backend import resolve_backend
from dnamamba.kernels.scan.op import BACKENDS
from dnamamba.runtime import cache_folder, choose_device, describe_machine

# float32 against the float64 definition: rounding over 300 steps adds up to a few 1e-6.
_TOLERANCE = 1e-4
_WRITE_BYTES = 64 << 20
_PACKAGES = ("triton", "llvmlite", "h5py", "pyfaidx", "biopython", "safetensors", "scikit-learn")


@dataclass(frozen=True)
class Finding:
    """One line of the output. ok: False if something does not work."""

    name: str
    detail: str
    ok: bool = True


def examine(device: str = "auto", out: Path = Path("runs")) -> list[Finding]:
    """Report versions, devices, checked kernels, and the write speed of a run folder."""
    used = f"auto takes {choose_device()}"
    chosen = choose_device(device)
    if device != "auto":
        used += f"; this check uses {chosen}, as --device asks"
    return [
        *_versions(),
        *_devices(),
        Finding("device", used),
        Finding("cache folder", str(cache_folder())),
        *_kernels(chosen),
        _write_speed(out),
    ]


def _versions() -> Iterator[Finding]:
    machine = describe_machine()
    yield Finding("dnamamba", __version__)
    yield Finding("python", f"{machine['python']} on {machine['platform']}")
    yield Finding("torch", f"{machine['torch']}, CUDA {machine['cuda'] or 'not built in'}")
    for name in _PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            needed = "FASTA input needs it" if name in ("pyfaidx", "biopython") else "not installed"
            yield Finding(name, f"missing ({needed})", ok=name not in ("h5py", "safetensors"))


def _devices() -> Iterator[Finding]:
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        memory = f"{gpu.total_memory / 2**30:.1f} GiB"
        yield Finding(f"cuda:{i}", f"{gpu.name}, {memory}, sm_{gpu.major}{gpu.minor}")
    yield Finding("cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")


def _kernels(device: torch.device) -> Iterator[Finding]:
    operands = _scan_operands(device)
    choosing = [operands[name] for name in ("u", "A", "B", "C")]
    taken = resolve_backend("selective_scan", "auto", BACKENDS, *choosing)
    speed = "fused" if taken.is_fused else "plain PyTorch, slow; why not another is said below"
    yield Finding("selective_scan", f"auto takes {taken.name!r} ({speed})")
    expected = _run_scan(_scan_operands(device, torch.float64), "reference")
    for backend in BACKENDS:
        refusal = backend.refuse(*choosing)
        if refusal is not None:
            yield Finding(f"  {backend.name}", f"not here: {refusal}")
            continue
        found = _run_scan(_scan_operands(device), backend.name)
        errors = [worst_error(f, e) for f, e in zip(found, expected, strict=True)]
        error = float(torch.tensor(errors).max())  # NaN if one is, unlike Python's max
        yield Finding(
            f"  {backend.name}",
            f"worst relative error of output and gradients against float64: {error:.1e} "
            f"(limit {_TOLERANCE:.0e})",
            ok=error < _TOLERANCE,
        )


def _scan_operands(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Operands as of a Mamba layer, equal at every call; B 2, L 300, D 24, N 16."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float32)
        return values.to(device, dtype).requires_grad_()

    A = -torch.arange(1.0, 17.0).repeat(24, 1).to(device, dtype)
    return {
        "u": draw(2, 300, 24),
        "delta": draw(2, 300, 24),
        "A": A.requires_grad_(),
        "B": draw(2, 300, 16),
        "C": draw(2, 300, 16),
        "D": draw(24),
        "z": draw(2, 300, 24),
        "delta_bias": draw(24),
        "initial_state": draw(2, 24, 16),
    }


def _run_scan(operands: dict[str, Tensor], backend: str) -> list[Tensor]:
    """Return output, last state and the gradient of every operand."""
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    arguments: dict[str, Any] = operands | options
    out, last = selective_scan(**arguments)
    gradients = torch.autograd.grad(out.square().sum() + last.sum(), list(operands.values()))
    return [out.detach(), last.detach(), *gradients]


def _write_speed(out: Path) -> Finding:
    existing = out
    while not existing.exists():
        existing = existing.absolute().parent
    if not existing.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            for _ in range(_WRITE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("run folder", f"{existing} cannot be written: {error}", ok=False)
    rate = _WRITE_BYTES / (time.perf_counter() - started)
    return Finding("run folder", f"{existing.absolute()}: {rate / 1e6:,.0f} MB/s written")
