"""Fresh memory for what kernels write, in large pages where Linux lends them."""

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.codegen.emitter import FLOAT_BYTES

# From here on malloc gives memory back after each use, and taking it again page by page of 4 KiB
# costs more than a kernel's arithmetic.
_LARGE = 4 << 20
_PAGE = 4096
_USE_LARGE_PAGES = 14  # MADV_HUGEPAGE


def new_tensor(*shape: int) -> Tensor:
    """A float32 tensor, not filled in."""
    # Named, as torch's defaults may be others and machine code asks nothing.
    tensor = torch.empty(shape, dtype=torch.float32, device="cpu")
    size = tensor.numel() * FLOAT_BYTES
    if size >= _LARGE and (advise := _madvise()) is not None:
        start = -(-tensor.data_ptr() // _PAGE) * _PAGE
        # Only a hint: where it is refused, the pages are small ones.
        advise(start, (tensor.data_ptr() + size - start) // _PAGE * _PAGE, _USE_LARGE_PAGES)
    return tensor


@functools.cache
def _madvise() -> Callable[..., Any] | None:
    if not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
