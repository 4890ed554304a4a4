"""Device, precision, ranks, logging and folders: the only reader of environment variables.

Functions import torch themselves, so that `--help` and data preparation do without it.
"""

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dnamamba.errors import InputError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("dnamamba")

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of torchrun; local: of this machine."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_ranks() -> Ranks:
    """Read RANK, LOCAL_RANK, WORLD_SIZE and LOCAL_WORLD_SIZE, as torchrun sets them."""
    defaults = {"rank": 0, "local_rank": 0, "world_size": 1, "local_world_size": 1}
    return Ranks(**{key: int(os.environ.get(key.upper(), n)) for key, n in defaults.items()})


def cache_folder() -> Path:
    """Folder of indexes, scans, demo genomes and machine code: DNAMAMBA_CACHE, else XDG's."""
    if named := os.environ.get("DNAMAMBA_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dnamamba"


def is_running(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def set_up_logging() -> None:
    """Send the library's messages to standard error; called by entry points only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers[:] = [handler]
    # Other ranks log only what is wrong.
    logger.setLevel(logging.INFO if read_ranks().is_main else logging.WARNING)
    logger.propagate = False


def choose_device(name: str = "auto", local_rank: int = 0) -> "torch.device":
    """Return the device: `auto` is CUDA if there is one, else the CPU; or cpu, cuda, cuda:N.

    Raises InputError if there is no such device.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"device {name} was asked for, but torch sees {count} CUDA devices; "
                "use --device cpu, or run `dnamamba doctor` to see why"
            )
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise InputError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device


def choose_precision(name: str, device: "torch.device") -> "torch.dtype | None":
    """Return the autocast dtype: bfloat16, or None for float32.

    `auto` is bf16 on GPUs and fp32 on CPUs. Parameters stay float32.
    """
    import torch

    if name == "auto":
        name = "bf16" if device.type == "cuda" else "fp32"
    if name not in ("bf16", "fp32"):
        raise InputError(f"--precision must be auto, bf16 or fp32, got {name!r}")
    return torch.bfloat16 if name == "bf16" else None


@dataclass(frozen=True)
class Compute:
    """Where a run computes: device, autocast dtype (None: plain float32) and ranks."""

    device: "torch.device"
    autocast_dtype: "torch.dtype | None"
    ranks: Ranks

    def autocast(self) -> "torch.autocast":
        """Return the context of forward passes."""
        import torch

        enabled = self.autocast_dtype is not None
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=enabled)

    def sum_over_ranks(self, values: "torch.Tensor") -> "torch.Tensor":
        """Add a tensor up over all ranks, in place."""
        import torch.distributed

        if self.ranks.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def any_rank(self, value: bool) -> bool:
        """Whether it is true on any rank; every rank has to ask."""
        import torch

        if self.ranks.world_size == 1:
            return value
        return bool(self.sum_over_ranks(torch.tensor(float(value), device=self.device)) > 0)

    def wait_for_ranks(self) -> None:
        import torch.distributed

        if self.ranks.world_size > 1:
            torch.distributed.barrier()

    def on_main_first(self, action: Callable[[], T]) -> T | None:
        """Run on rank 0 while the others wait; return the result there, None elsewhere.

        An InputError or OSError of rank 0 stops all ranks, with its message on rank 0.
        """
        result, failure = None, None
        if self.ranks.is_main:
            try:
                result = action()
            except (InputError, OSError) as error:
                failure = error
        failed = self.any_rank(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise InputError("rank 0 could not start the run; its message says why")
        return result


@contextlib.contextmanager
def open_compute(
    device: str = "auto", precision: str = "auto", patience: timedelta | None = None
) -> Iterator[Compute]:
    """Choose device and precision and, under torchrun, join the other ranks until the exit.

    patience: how long a rank waits for the others; None: torch's default, for ranks in step.
    """
    import torch.distributed

    ranks = read_ranks()
    chosen = choose_device(device, ranks.local_rank)
    compute = Compute(chosen, choose_precision(precision, chosen), ranks)
    if ranks.world_size == 1:
        yield compute
        return
    backends = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backends, timeout=patience)
    try:
        yield compute
    finally:
        torch.distributed.destroy_process_group()


def available_bytes(device: "torch.device", ranks: Ranks) -> int:
    """Return a GPU's free memory, including torch's cache, or a rank's share of the host's."""
    import torch

    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    return available_host_bytes() // ranks.local_world_size


def available_host_bytes() -> int:
    """Return the memory that can be had without swapping, within a container's limit.

    Guesses half of the machine's memory if it is not Linux.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found = [int(rows["MemAvailable"].split()[0]) * 1024]
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        statistics = group / "memory.stat"
        lines = statistics.read_text().splitlines() if statistics.exists() else []
        # Inactive pages of files count as used, but are given back when needed.
        given_back = dict(line.split() for line in lines).get("inactive_file", "0")
        found.append(int(text) - int(used.read_text()) + int(given_back))
    return max(0, min(found))


def describe_machine() -> dict[str, object]:
    """Return versions and devices, for manifests and `dnamamba doctor`."""
    import numpy
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": numpy.__version__,
        "gpus": gpus,
        "cpu_threads": torch.get_num_threads(),
    }
