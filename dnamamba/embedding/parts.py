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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba import __version__
from dnamamba.data_prep.genomes.store import quote_name
from dnamamba.embedding.format import (
    FORMAT,
    FORMAT_VERSION,
    INTEGER_COLUMNS,
    PART_FORMAT,
    REGION_COLUMNS,
    EmbeddedRow,
    EmbeddingInfo,
    check_row,
    columns_of_rows,
    store_numbers,
)
from dnamamba.embedding.hdf5 import (
    Appender,
    as_text,
    assigning,
    create_file,
    create_integers,
    create_numbers,
    create_text,
    packing,
    text_width,
    widest,
    width_of,
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


# --- Parts of a file of embeddings, copied into one a few megabytes at a time

_TEXT_COLUMNS = tuple(name for name in REGION_COLUMNS if name not in INTEGER_COLUMNS)


@dataclass(frozen=True)
class _Sizes:
    """Of all parts together."""

    n_rows: int
    n_vectors: int
    """Rows, or without pooling positions."""

    widths: dict[str, int | None]
    """Bytes of the longest text of each column; None: not limited."""


def join_parts(
    parts: Sequence[Path],
    out: Path,
    info: EmbeddingInfo,
    pool: ThreadPoolExecutor,
    on_part: Callable[[int], None],
) -> None:
    """Write parts that are whole into a new file `out`, one after the other.

    Raises OSError where there is no room; the file is then of no use.
    """
    sizes = _sizes_of(parts, info)
    with create_file(out) as (file, check):
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        file.attrs["dnamamba"] = __version__
        file.attrs["settings"] = info.to_json()
        joined = _Joined(file, info, sizes, pool)
        for number, path in enumerate(parts):
            with h5py.File(path, "r") as part:
                joined.add(part, check)
            on_part(number)
        joined.flush()


def _text_datasets(info: EmbeddingInfo) -> dict[str, str]:
    """Datasets of text below /regions of a part, and what they are called in the whole."""
    own = enumerate(info.column_keys)
    inputs = {f"input/{i}": f"input/{quote_name(key)}" for i, key in own}
    return {name: name for name in _TEXT_COLUMNS} | inputs


def _sizes_of(parts: Sequence[Path], info: EmbeddingInfo) -> _Sizes:
    n_rows = n_vectors = 0
    widths: dict[str, list[int | None]] = {name: [] for name in _text_datasets(info)}
    for path in parts:
        with h5py.File(path, "r") as part:
            regions = part["regions"]
            n_rows += len(regions["line"])
            n_vectors += len(part[f"embeddings/layer_{info.layers[0]}"])
            for name, found in widths.items():
                found.append(width_of(regions[name]))
    return _Sizes(n_rows, n_vectors, {name: widest(found) for name, found in widths.items()})


class _Joined:
    """The datasets of the whole, each growing at its end."""

    def __init__(
        self, file: h5py.File, info: EmbeddingInfo, sizes: _Sizes, pool: ThreadPoolExecutor
    ):
        self._info = info
        regions, layers = file.create_group("regions"), file.create_group("embeddings")
        regions.create_group("input")
        self._numbers: dict[str, Appender] = {}
        for name in (*INTEGER_COLUMNS, "embedded"):
            dtype = "<u1" if name == "embedded" else "<i8"
            self._numbers[name] = assigning(create_integers(regions, name, sizes.n_rows, dtype))
        self._texts: dict[str, tuple[Appender, int | None]] = {}
        for name, key in _text_datasets(info).items():
            width = sizes.widths[name]
            dataset = create_text(regions, key, sizes.n_rows, width)
            self._texts[name] = assigning(dataset), width
        self._offset: Appender | None = None
        self._n_positions = 0
        if info.per_position:
            offset = create_integers(regions, "offset", sizes.n_rows + 1, "<i8")
            self._offset = assigning(offset)
            self._offset.add(np.zeros(1, np.int64))
        self._layers: dict[str, Appender] = {}
        for layer in info.layers:
            shape = (sizes.n_vectors, *info.vector_shape)
            dataset = create_numbers(layers, f"layer_{layer}", shape, info.stored)
            dataset.attrs["layer"] = np.int64(layer)
            dataset.attrs["dtype"] = info.dtype
            self._layers[f"layer_{layer}"] = packing(dataset, pool)

    def add(self, part: h5py.File, check: Callable[[], None]) -> None:
        regions = part["regions"]
        for name, appender in self._numbers.items():
            appender.add(regions[name][:])
        for name, (appender, width) in self._texts.items():
            appender.add(as_text(_texts_of(regions[name]), width))
        if self._offset is not None:
            ends = self._n_positions + np.cumsum(regions["positions"][:])
            self._offset.add(ends)
            self._n_positions = int(ends[-1]) if len(ends) else self._n_positions
        step = rows_in_block(self._info)
        for name, appender in self._layers.items():
            dataset = part[f"embeddings/{name}"]
            for start in range(0, len(dataset), step):
                appender.add(dataset[start : start + step])
                check()

    def flush(self) -> None:
        texts = (appender for appender, _ in self._texts.values())
        offsets = () if self._offset is None else (self._offset,)
        for appender in (*self._numbers.values(), *texts, *offsets, *self._layers.values()):
            appender.flush()


def _texts_of(dataset: h5py.Dataset) -> list[bytes]:
    values: NDArray[np.bytes_] | NDArray[np.object_] = dataset[:]
    return list(values.tolist())
