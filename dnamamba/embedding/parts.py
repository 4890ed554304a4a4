"""Parts of an unfinished file of embeddings: plain files that know their checksum.

A part is 512 bytes with a line of JSON (size, CRC-32 of all that follows, digest of the settings),
a line with its sizes, a line with its columns, and the vectors of each layer as they are stored in
the end, one layer after the other.
"""

import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.embedding.format import (
    EmbeddedRow,
    EmbeddingInfo,
    check_row,
    region_columns,
    store_numbers,
)
from dnamamba.runtime import logger

_HEADER = 512
_BLOCK_BYTES = 1 << 22


def write_part(
    path: Path, rows: Sequence[EmbeddedRow], info: EmbeddingInfo, settings_digest: str
) -> None:
    """Write rows to a new file, vectors in blocks. Raises InputError for rows that do not fit
    `info`, and OSError, which leaves a useless file, if there is no room."""
    n_vectors = [check_row(row, info) for row in rows]
    columns = {
        name: [column.value(row) for row in rows] for name, column in region_columns(info).items()
    }
    widths = {
        name: max((len(text.encode()) for text in columns[name]), default=0)
        for name, column in region_columns(info).items()
        if column.dtype is None
    }
    if info.per_position:
        columns["positions"] = n_vectors
    sizes = {
        "rows": len(rows),
        "vectors": sum(n_vectors) if info.per_position else len(rows),
        "widths": widths,
    }
    checksum = 0
    with open(path, "wb") as file:

        def put(data: bytes) -> None:
            nonlocal checksum
            file.write(data)
            checksum = zlib.crc32(data, checksum)

        file.write(bytes(_HEADER))
        put(json.dumps(sizes).encode() + b"\n")
        put(json.dumps(columns).encode() + b"\n")
        for i, layer in enumerate(info.layers):
            for block in _blocks(rows, i, info):
                stored = store_numbers(block, info)
                if info.dtype == "float16" and (np.isinf(stored) & np.isfinite(block)).any():
                    logger.warning(
                        "layer_%s has numbers beyond float16's 65,504, stored as infinity: use "
                        "float32 or bfloat16",
                        layer,
                    )
                put(stored.tobytes())
        header = {"bytes": file.tell(), "crc32": checksum, "settings": settings_digest}
        file.seek(0)
        file.write(json.dumps(header).encode() + b"\n")


def _vectors_in_block(info: EmbeddingInfo) -> int:
    return max(1, _BLOCK_BYTES // (int(np.prod(info.vector_shape)) * 4))


def _blocks(rows: Sequence[EmbeddedRow], i: int, info: EmbeddingInfo) -> Iterator[NDArray[Any]]:
    """Vectors (n, ...) of layer number i, of all rows; without pooling a row's own blocks."""
    step = _vectors_in_block(info)
    if info.per_position:
        for row in rows:
            if row.vectors is not None:
                yield from _blocks_of_row(row.vectors[i], step)
        return
    missing = np.full(info.vector_shape, np.nan, np.float32)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        yield np.stack([missing if row.vectors is None else row.vectors[i] for row in block])


def _blocks_of_row(vectors: NDArray[Any], step: int) -> Iterator[NDArray[Any]]:
    """Blocks of an array. A memmap's pages are released after use, as they count as memory used
    until somebody needs it."""
    mapped = vectors.base if isinstance(vectors, np.memmap) and vectors.mode != "c" else None
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        yield block
        if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
            first = vectors.offset % mmap.ALLOCATIONGRANULARITY + start * vectors[0].nbytes
            page = first - first % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_DONTNEED, page, first + block.nbytes - page)


def is_whole(path: Path, settings_digest: str) -> bool:
    """Whether the file is an undamaged part with these settings; reads all of it."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(_HEADER).partition(b"\n")[0])
            if header["settings"] != settings_digest or header["bytes"] != os.stat(path).st_size:
                return False
            checksum = 0
            while block := file.read(_BLOCK_BYTES):
                checksum = zlib.crc32(block, checksum)
        return checksum == header["crc32"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


class Part:
    """A part that is whole. widths: bytes of the longest text of each column."""

    def __init__(self, path: Path, info: EmbeddingInfo) -> None:
        self._path, self._info = path, info
        sizes = self._read_line(0)
        self.n_rows: int = sizes["rows"]
        self.n_vectors: int = sizes["vectors"]
        self.widths: dict[str, int] = sizes["widths"]

    def _read_line(self, number: int) -> Any:
        with open(self._path, "rb") as file:
            file.seek(_HEADER)
            for _ in range(number):
                file.readline()
            return json.loads(file.readline())

    def columns(self) -> dict[str, list[Any]]:
        """Values by the names of `region_columns`, and with pooling none `positions`."""
        return self._read_line(1)

    def blocks(self, i: int) -> Iterator[NDArray[Any]]:
        """Stored vectors (n, ...) of layer number i, a few megabytes at a time."""
        dtype = np.dtype((self._info.stored, self._info.vector_shape))
        n_after = (len(self._info.layers) - i) * self.n_vectors
        start = os.stat(self._path).st_size - n_after * dtype.itemsize
        step = _vectors_in_block(self._info)
        for first in range(0, self.n_vectors, step):
            count = min(step, self.n_vectors - first)
            yield np.fromfile(self._path, dtype, count, offset=start + first * dtype.itemsize)
