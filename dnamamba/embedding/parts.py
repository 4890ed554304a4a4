"""Parts of an unfinished file of embeddings: plain files that know their checksum.

A part is 512 bytes with a line of JSON (size, CRC-32 of all that follows, digest of the settings),
a line with its sizes (PartSizes), a line with its columns, and the vectors of each layer as they
are stored in the end, one layer after the other.
"""

import json
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.embedding.format import (
    INTEGER_COLUMNS,
    TEXT_COLUMNS,
    EmbeddedRow,
    EmbeddingInfo,
    check_row,
    clean_text,
    store_numbers,
)
from dnamamba.runtime import logger

_HEADER = 512
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class PartSizes:
    rows: int
    vectors: int
    """Vectors of a layer: rows, or positions of pooling none."""

    widths: dict[str, int]
    """Bytes of the longest text of each column."""


def write_part(
    path: Path, rows: Sequence[EmbeddedRow], info: EmbeddingInfo, settings_digest: str
) -> None:
    """Write rows to a new file, vectors in blocks. Raises InputError for rows that do not fit
    `info`, and OSError, which leaves a useless file, if there is no room."""
    n_vectors = [check_row(row, info) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [int(getattr(row, name)) for row in rows] for name in INTEGER_COLUMNS
    }
    columns["positions"] = n_vectors
    columns["embedded"] = [int(row.vectors is not None) for row in rows]
    texts = {name: [clean_text(getattr(row, name)) for row in rows] for name in TEXT_COLUMNS}
    for i in range(len(info.columns)):
        texts[f"input/{i}"] = [clean_text(row.columns[i]) for row in rows]
    widths = {
        name: max((len(text.encode()) for text in cells), default=0)
        for name, cells in texts.items()
    }
    sizes = PartSizes(len(rows), sum(n_vectors) if info.per_position else len(rows), widths)
    checksum = 0
    with open(path, "wb") as file:

        def put(data: bytes) -> None:
            nonlocal checksum
            file.write(data)
            checksum = zlib.crc32(data, checksum)

        file.write(bytes(_HEADER))
        put(json.dumps(asdict(sizes)).encode() + b"\n")
        put(json.dumps(columns | texts).encode() + b"\n")
        for i, layer in enumerate(info.layers):
            for block in _blocks(rows, i, info):
                stored = store_numbers(block, info)
                _warn_of_infinity(layer, block, stored, info)
                put(stored.tobytes())
        header = {"bytes": file.tell(), "crc32": checksum, "settings": settings_digest}
        file.seek(0)
        file.write(json.dumps(header).encode() + b"\n")


def vectors_in_block(info: EmbeddingInfo) -> int:
    """Vectors that are held at a time, a few megabytes."""
    return max(1, _BLOCK_BYTES // (int(np.prod(info.vector_shape)) * 4))


def _blocks(rows: Sequence[EmbeddedRow], i: int, info: EmbeddingInfo) -> Iterator[NDArray[Any]]:
    """Vectors (n, ...) of layer number i, of all rows; without pooling a row's own blocks."""
    step = vectors_in_block(info)
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


def _warn_of_infinity(
    layer: int, values: NDArray[Any], stored: NDArray[Any], info: EmbeddingInfo
) -> None:
    if info.dtype == "float16" and (np.isinf(stored) & np.isfinite(values)).any():
        logger.warning(
            "layer_%s has numbers beyond float16's 65,504, stored as infinity: use float32 or "
            "bfloat16",
            layer,
        )


# --- reading


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


def sizes_of(path: Path) -> PartSizes:
    with open(path, "rb") as file:
        file.seek(_HEADER)
        return PartSizes(**json.loads(file.readline()))


class Part:
    """A part that is whole. columns: by name, those of write_part; sizes: see PartSizes."""

    def __init__(self, path: Path, info: EmbeddingInfo) -> None:
        self._path, self._info = path, info
        with open(path, "rb") as file:
            file.seek(_HEADER)
            self.sizes = PartSizes(**json.loads(file.readline()))
            self.columns: dict[str, list[Any]] = json.loads(file.readline())
            self._start = file.tell()

    def blocks(self, i: int) -> Iterator[NDArray[Any]]:
        """Stored vectors (n, ...) of layer number i, a few megabytes at a time."""
        shape, dtype = self._info.vector_shape, self._info.stored
        size, step = int(np.prod(shape)), vectors_in_block(self._info)
        for first in range(0, self.sizes.vectors, step):
            count = min(step, self.sizes.vectors - first) * size
            offset = self._start + (i * self.sizes.vectors + first) * size * dtype.itemsize
            yield np.fromfile(self._path, dtype, count, offset=offset).reshape(-1, *shape)
