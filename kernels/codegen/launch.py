"""One call of a compiled kernel, on as many threads as torch uses.

If torch's threads are GNU OpenMP's (its Linux builds), they run the kernel too, through the entry
point of gcc's `#pragma omp parallel`. Our own threads would share the cores with torch's, which
spin for milliseconds after each operation: a training step on two cores takes 17 % longer.
Elsewhere a pool of Python threads runs it.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.codegen.compiler import Kernel
from dnamamba.kernels.codegen.emitter import FLOAT_BYTES

NEXT_TASK, N_TASKS = "next_task", "n_tasks"


class Arguments:
    """Names and values of a kernel's arguments; keeps the tensors alive that they point into."""

    def __init__(self, reverse: bool, **values: int) -> None:
        self.values = values
        self._reverse = reverse
        self._alive: list[Tensor] = []

    def add(self, **tensors: Tensor | None) -> None:
        """Add the addresses of tensors, 0 for None."""
        for name, tensor in tensors.items():
            self.values[name] = 0 if tensor is None else tensor.data_ptr()
            self._alive += [] if tensor is None else [tensor]

    def add_rows(self, in_time: bool = True, **tensors: Tensor | None) -> None:
        """Add float32 tensors (B, L, ...) for `tensors.Rows`.

        in_time: in reverse, the kernel's first row is the tensor's last.
        """
        for name, tensor in tensors.items():
            self.add(**{name: tensor})
            batch_stride, step = (0, 0) if tensor is None else tensor.stride()[:2]
            if tensor is not None and self._reverse and in_time:
                self.values[name] += FLOAT_BYTES * (tensor.shape[1] - 1) * step
                step = -step
            self.values |= {f"{name}_batch": batch_stride, f"{name}_step": step}


def refuse_unseen(*tensors: Tensor) -> str | None:
    """Return why machine code cannot have these tensors' memory, or None if it can."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot see into it"
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, the tensors are on {tensor.device.type}"
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"it needs plain tensors, got a {type(tensor).__name__}"
    return None


def channels_last(x: Tensor) -> Tensor:
    """Return x in float32 with a contiguous last axis, copied only if needed."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def launch(kernel: Kernel, n_tasks: int, arguments: Arguments) -> None:
    """Run all tasks of a kernel and wait for them."""
    taken = ctypes.c_int64(0)
    values = {**arguments.values, NEXT_TASK: ctypes.addressof(taken), N_TASKS: n_tasks}
    packed = (ctypes.c_int64 * len(kernel.arguments))(*(values[n] for n in kernel.arguments))
    n_threads = min(torch.get_num_threads(), n_tasks)
    if n_threads == 1:
        kernel.run(packed)
    elif (run_parallel := _openmp()) is not None:
        run_parallel(kernel.address, packed, n_threads, 0)
    else:
        others = [_threads(os.getpid()).submit(kernel.run, packed) for _ in range(n_threads - 1)]
        kernel.run(packed)
        for other in others:
            other.result()


@functools.cache
def _openmp() -> Callable[..., Any] | None:
    """Return GOMP_parallel of the library that torch has loaded, or None without one."""
    if not sys.platform.startswith("linux"):
        return None
    root = Path(torch.__file__).parent
    for path in [*root.glob("lib/libgomp*.so*"), *root.parent.glob("torch.libs/libgomp*.so*")]:
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
        run = library.GOMP_parallel
        run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        run.restype = None
        return run
    return None


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """One pool a process: a fork has none of its parent's threads."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="dnamamba-kernel")


# --- memory that kernels write

# From this size malloc gives memory back after each use, and taking it again page by page of 4 KiB
# costs more than a kernel's arithmetic.
_LARGE = 4 << 20
_PAGE = 4096
_USE_LARGE_PAGES = 14  # MADV_HUGEPAGE


def new_tensor(*shape: int) -> Tensor:
    """Return a float32 tensor, not filled in, in large pages if Linux lends them."""
    # dtype and device are given, as torch's defaults may be others.
    tensor = torch.empty(shape, dtype=torch.float32, device="cpu")
    size = tensor.numel() * FLOAT_BYTES
    if size >= _LARGE and (advise := _madvise()) is not None:
        start = -(-tensor.data_ptr() // _PAGE) * _PAGE
        # Only a hint: if it is refused, the pages are small ones.
        advise(start, (tensor.data_ptr() + size - start) // _PAGE * _PAGE, _USE_LARGE_PAGES)
    return tensor


@functools.cache
def _madvise() -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
