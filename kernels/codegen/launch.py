"""One call of a compiled kernel, on as many threads as torch uses.

Where torch's threads are those of GNU OpenMP (its Linux builds), they run the kernel too, through
the entry point that gcc's `#pragma omp parallel` calls. Threads of our own would share the cores
with torch's, which go on spinning for milliseconds after each of its operations: a training step on
two cores then takes 17 % longer. Elsewhere a pool of Python threads has to do.
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
        """Tensors that are read or written as they lie."""
        for name, tensor in tensors.items():
            self.values[name] = 0 if tensor is None else tensor.data_ptr()
            self._alive += [] if tensor is None else [tensor]

    def add_rows(self, in_time: bool = True, **tensors: Tensor | None) -> None:
        """float32 tensors (B, L, ...), see `tensors.Rows`.

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
    """Why machine code cannot have these tensors' memory, or None if it can."""
    if torch.compiler.is_compiling():
        return "torch.compile cannot see into it"
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it runs on the CPU, the tensors are on {tensor.device.type}"
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f"it needs plain tensors, got a {type(tensor).__name__}"
    return None


def channels_last(x: Tensor) -> Tensor:
    """In float32, as it is where the last axis is contiguous, else a copy."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def launch(kernel: Kernel, n_tasks: int, arguments: Arguments) -> None:
    """Run all tasks of a kernel; returns when they are done."""
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
    """GOMP_parallel of the very library that torch has loaded, or None where there is none."""
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
