"""One call of a compiled kernel, on as many threads as torch uses.

Where torch's threads are those of GNU OpenMP (its Linux builds), they run the kernel too, through
the entry point that gcc's `#pragma omp parallel` calls. Threads of our own would share the cores
with torch's, which go on spinning for milliseconds after each of its operations: on two cores that
makes a backward pass five times slower. Elsewhere a pool of Python threads has to do.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dnamamba.kernels.codegen.compiler import Kernel

NEXT_TASK, N_TASKS = "next_task", "n_tasks"


def launch(kernel: Kernel, n_tasks: int, arguments: Mapping[str, int]) -> None:
    """Run all tasks of a kernel; returns when they are done."""
    taken = ctypes.c_int64(0)
    values = {**arguments, NEXT_TASK: ctypes.addressof(taken), N_TASKS: n_tasks}
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
