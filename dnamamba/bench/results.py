"""A benchmark's file: the machine and what was measured on it."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dnamamba.errors import InputError

# Two threads wait for each other: a third program slows them far more than by its share.
_BUSY = 0.5
_CHECKOUT = Path(__file__).resolve().parents[2]


def check_target(path: Path | None, option: str) -> None:
    """Raise InputError, before any time is spent, if a file could not be written."""
    if path is not None and path.is_dir():
        raise InputError(f"{option} {path} is a folder; name a file in it")
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(
            f"{option} {path}: there is no folder {path.parent}; make it, or name another"
        )


def write_results(path: Path, setup: Mapping[str, Any], rows: Sequence[Any], **more: Any) -> None:
    """Write setup, then `more`, then the rows (dataclasses) as JSON."""
    content = {**setup, **more, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")


def describe_setup(device: torch.device) -> dict[str, Any]:
    """Describe the machine and software, ready for JSON.

    triton: its version, None without it. commit: see `checkout_commit`. load_before: processes that
    want a CPU, a mean of the last minute; None if the system does not say.
    """
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = None
    return {
        "device": describe_device(device),
        "torch": torch.__version__,
        "triton": triton,
        "commit": checkout_commit(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def announce(setup: Mapping[str, Any], device: torch.device) -> Iterator[str]:
    """Yield lines for people about what times depend on."""
    commit = "" if setup["commit"] is None else f", commit {setup['commit']}"
    yield f"{setup['device']}, torch {setup['torch']}{commit}"
    load = setup["load_before"]
    if device.type == "cpu" and load is not None and load > _BUSY:
        yield f"other programs are at work here (load {load}), so these times are too long"


def describe_device(device: torch.device) -> str:
    """Name a device for people: `NVIDIA H100 80GB HBM3`, `AMD EPYC, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """Return the CPU's model name on Linux; else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def checkout_commit() -> str | None:
    """Return the commit of this code's checkout, `-dirty` if files differ; None outside one.

    A repository of another project that the package is installed in does not count.
    """
    if shutil.which("git") is None or _git("rev-parse", "--show-toplevel") != str(_CHECKOUT):
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(_CHECKOUT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
