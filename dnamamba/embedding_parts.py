"""One part of a file of embeddings while it is being made: an HDF5 file that knows its checksum.

In front of HDF5 stand 512 bytes with a line of JSON: the size, the CRC-32 of all that follows, and
the digest of the settings that it was made with. The rest is laid out like the whole file, but not
packed, and with /regions/positions (int64, 0 or more for a row) in place of offsets.
"""

import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba.embedding_datasets import Appender, as_text, create_file, text_width
from dnamamba.embedding_layout import (
    PART_FORMAT,
    EmbeddedRow,
    EmbeddingInfo,
    check_row,
    columns_of_rows,
    store_numbers,
)
from dnamamba.runtime import logger

_HEADER = 512
BLOCK_BYTES = 1 << 22
"""Of vectors that are held at a time."""


def write_part(
    path: Path, rows: Sequence[EmbeddedRow], info: EmbeddingInfo, settings_digest: str
) -> None:
    """Write rows to a new file; vectors are copied in blocks. Raises InputError for rows that are
    not as `info` says, and OSError where there is no room; the file is then of no use."""
    positions = np.array([check_row(row, info) for row in rows], np.int64)
    with create_file(path, userblock=_HEADER) as (file, check):
        file.attrs["format"] = PART_FORMAT
        _write_regions(file.create_group("regions"), rows, positions, info)
        layers = file.create_group("embeddings")
        n = int(positions.sum()) if info.per_position else len(rows)
        for i, layer in enumerate(info.layers):
            dataset = layers.create_dataset(f"layer_{layer}", (n, *info.vector_shape), info.stored)
            appender = Appender(rows_in_block(info), _storing(dataset, info, check))
            for vectors in _vectors(rows, i, info):
                appender.add(vectors)
            appender.flush()
    _write_header(path, settings_digest)


def rows_in_block(info: EmbeddingInfo) -> int:
    row_bytes = int(np.prod(info.vector_shape)) * 4
    return max(1, BLOCK_BYTES // row_bytes)


def _vectors(rows: Sequence[EmbeddedRow], i: int, info: EmbeddingInfo) -> Iterator[NDArray[Any]]:
    """Those of a layer, (rows, ...) of some rows, or without pooling (L, D) of each."""
    if info.per_position:
        for row in rows:
            if row.vectors is not None:
                yield from _blocks(row.vectors[i], rows_in_block(info))
        return
    missing, step = np.full(info.vector_shape, np.nan, np.float32), rows_in_block(info)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        yield np.stack([missing if row.vectors is None else row.vectors[i] for row in some])


def _blocks(vectors: NDArray[Any], step: int) -> Iterator[NDArray[Any]]:
    """Rows of an array, some at a time. Of a memmap those that were taken are let go: pages of a
    file that are mapped count as memory used, until somebody needs it."""
    mapped = vectors.base if isinstance(vectors, np.memmap) and vectors.mode != "c" else None
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step]
        if not isinstance(mapped, mmap.mmap) or not hasattr(mapped, "madvise"):
            yield block
            continue
        yield np.array(block)
        first = vectors.offset % mmap.ALLOCATIONGRANULARITY + start * vectors[0].nbytes
        page = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page, first + block.nbytes - page)


def _storing(
    dataset: h5py.Dataset, info: EmbeddingInfo, check: Callable[[], None]
) -> Callable[[int, NDArray[Any]], None]:
    def put(start: int, block: NDArray[Any]) -> None:
        stored = store_numbers(block, info)
        if info.dtype == "float16" and (np.isinf(stored) & np.isfinite(block)).any():
            logger.warning(
                "%s has numbers beyond float16's 65,504, stored as infinity: use float32 or "
                "bfloat16",
                dataset.name.removeprefix("/embeddings/"),
            )
        dataset[start : start + len(block)] = stored
        check()

    return put


def _write_regions(
    group: h5py.Group,
    rows: Sequence[EmbeddedRow],
    positions: NDArray[np.int64],
    info: EmbeddingInfo,
) -> None:
    integers, texts, own = columns_of_rows(rows, info)
    for name, values in integers.items():
        group[name] = values
    group["positions"] = positions
    group["embedded"] = np.array([row.vectors is not None for row in rows], np.uint8)
    named = list(texts.items()) + [(f"input/{i}", texts_of) for i, texts_of in enumerate(own)]
    for name, cells in named:
        width = text_width(cells)
        dataset = group.create_dataset(name, (len(rows),), h5py.string_dtype("utf-8", width))
        if cells:
            dataset[:] = as_text(cells, width)


# --- the header


def _write_header(path: Path, settings_digest: str) -> None:
    size, checksum = _measure(path)
    header = {"bytes": size, "crc32": checksum, "settings": settings_digest}
    line = json.dumps(header).encode() + b"\n"
    with open(path, "r+b") as file:
        file.write(line.ljust(_HEADER, b"\0"))


def _measure(path: Path) -> tuple[int, int]:
    """Bytes of the file, and CRC-32 of those after the header."""
    checksum = 0
    with open(path, "rb") as file:
        file.seek(_HEADER)
        while block := file.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
        return file.tell(), checksum


def is_whole(path: Path, settings_digest: str) -> bool:
    """Whether the file is a part with these settings, as it was written; reads all of it."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(_HEADER).partition(b"\n")[0])
        expected = header["bytes"], header["crc32"], header["settings"]
        if expected[0] != os.stat(path).st_size or expected[2] != settings_digest:
            return False
        return _measure(path) == expected[:2]
    except (OSError, ValueError, KeyError, TypeError):
        return False
