"""Vectors that stay in their file until they are asked for."""

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba.embedding.format import EmbeddingInfo, to_float32
from dnamamba.errors import InputError
from dnamamba.runtime import available_host_bytes

_SURELY_FREE_BYTES = 1 << 27
BLOCK_BYTES = 1 << 22


def require_memory(n_bytes: int, what: str) -> None:
    """Raise InputError, with what to do instead, if `what` does not fit into memory."""
    if n_bytes < _SURELY_FREE_BYTES:
        return
    free = available_host_bytes()
    if n_bytes > 0.8 * free:
        raise InputError(
            f"{what} needs {n_bytes / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free: "
            "take some rows (embeddings.vectors[0:100_000]), a region (embeddings.overlapping), "
            "or map all of them with embeddings.to_memmap(path)"
        )


class Vectors:
    """An array (rows, ...) in HDF5 that is indexed like numpy's and read when indexed.

    The first index may be a number, a slice, a mask or row numbers in any order; each further one
    applies to its own axis. shape, dtype, ndim, size, nbytes: as of an array.
    """

    def __init__(
        self,
        dataset: Callable[[], h5py.Dataset],
        info: EmbeddingInfo,
        shape: tuple[int, ...],
        *,
        raw: bool = False,
    ):
        self._dataset, self._info, self._raw = dataset, info, raw
        self.shape = shape
        self.dtype: np.dtype[Any] = info.stored if raw else np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Vectors(shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("copy must not be False: vectors in a file become an array by copying")
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *rest = self._split(key)
        # numpy checks the index of rows and makes their numbers of it.
        rows = np.arange(len(self))[first]
        if rows.ndim > 1:
            raise IndexError(f"an index of rows must have 1 axis, got {rows.ndim}")
        vectors = self._gather(np.atleast_1d(rows), rest)
        return vectors if rows.ndim else vectors[0]

    @property
    def block_rows(self) -> int:
        """Rows of a few megabytes, in whole chunks of the file, so that none is unpacked twice."""
        row_bytes = max(1, int(np.prod(self.shape[1:])) * 4)
        step = max(1, BLOCK_BYTES // row_bytes)
        chunks = self._dataset().chunks
        return step if chunks is None else -(-step // chunks[0]) * chunks[0]

    def _split(self, key: Any) -> tuple[Any, ...]:
        keys = key if isinstance(key, tuple) else (key,)
        for i, one in enumerate(keys):
            if one is Ellipsis:
                missing = self.ndim - (len(keys) - 1)
                keys = keys[:i] + (slice(None),) * missing + keys[i + 1 :]
                break
        if not 0 < len(keys) <= self.ndim or any(one is None for one in keys):
            raise IndexError(f"an index must have up to {self.ndim} axes, got {key!r}")
        return keys

    def _gather(self, rows: NDArray[np.int64], rest: list[Any]) -> NDArray[Any]:
        """Rows in any order; each block that has some of them is read once."""
        row_shape = _index_rest(np.empty((0, *self.shape[1:]), self.dtype), rest).shape[1:]
        n_bytes = len(rows) * int(np.prod(row_shape)) * self.dtype.itemsize
        require_memory(n_bytes, f"reading {len(rows):,} vectors")
        found = np.empty((len(rows), *row_shape), self.dtype)
        order = np.argsort(rows, kind="stable")
        cuts = np.flatnonzero(np.diff(rows[order] // self.block_rows)) + 1
        for chosen in np.split(order, cuts):
            if len(chosen):
                first, last = int(rows[chosen[0]]), int(rows[chosen[-1]])
                block = _index_rest(self._read(first, last + 1), rest)
                found[chosen] = block[rows[chosen] - first]
        return found

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        try:
            values = self._dataset()[start:stop]
        except OSError as error:
            raise InputError(
                f"vectors {start:,} to {stop:,} cannot be read ({error}): the file is damaged; "
                "make or copy it again"
            ) from error
        return values if self._raw else to_float32(values, self._info)


def _index_rest(values: NDArray[Any], rest: list[Any]) -> NDArray[Any]:
    """Apply each index to its own axis, from the second on."""
    for axis, one in reversed(list(enumerate(rest, start=1))):
        values = values[(slice(None),) * axis + (one,)]
    return values
