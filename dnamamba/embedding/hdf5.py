"""Parts joined into one HDF5 file, front to back: the same content gives the same bytes."""

import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
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
    TEXT_COLUMNS,
    EmbeddingInfo,
)
from dnamamba.embedding.parts import Part, sizes_of
from dnamamba.errors import InputError

CHUNK_BYTES = 1 << 18
_LONGEST_FIXED = 256
"""Bytes of the longest text of a column that has cells of one size."""

_BYTES_OF_TEXT = 64
"""What a text of any length counts as, for the size of chunks."""

_CHUNKS_AT_ONCE = 16
_SAMPLE = 1 << 14
_WORTH = 0.95


def no_room(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({error.strerror or error}). Make room, or choose another "
        "--out; what was written before is kept, and the same command goes on from there"
    )


# --- the whole file


def join_parts(
    parts: Sequence[Path],
    out: Path,
    info: EmbeddingInfo,
    pool: ThreadPoolExecutor,
    on_part: Callable[[int], None],
) -> None:
    """Write parts that are whole into a new file `out`, one after the other. Raises OSError, which
    leaves a useless file, if there is no room."""
    with create_file(out) as (file, check):
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        file.attrs["dnamamba"] = __version__
        file.attrs["settings"] = info.to_json()
        joined = _Joined(file, info, parts, pool)
        for number, path in enumerate(parts):
            joined.add(Part(path, info), check)
            on_part(number)
        joined.flush()


class _Joined:
    """The datasets of the file, each growing at its end."""

    def __init__(
        self, file: h5py.File, info: EmbeddingInfo, parts: Sequence[Path], pool: ThreadPoolExecutor
    ):
        sizes = [sizes_of(path) for path in parts]
        n_rows, n_vectors = sum(one.rows for one in sizes), sum(one.vectors for one in sizes)
        dtypes = dict.fromkeys(INTEGER_COLUMNS, np.dtype("<i8")) | {"embedded": np.dtype("<u1")}
        own = {f"input/{i}": f"input/{quote_name(k)}" for i, k in enumerate(info.column_keys)}
        for name in (*TEXT_COLUMNS, *own):
            longest = max((one.widths[name] for one in sizes), default=0)
            dtypes[name] = _text_dtype(longest)
        regions, layers = file.create_group("regions"), file.create_group("embeddings")
        regions.create_group("input")
        self._columns = {
            name: _appending(_create(regions, own.get(name, name), (n_rows,), dtype))
            for name, dtype in dtypes.items()
        }
        self._dtypes = dtypes
        self._n_positions = 0
        if info.per_position:
            dtypes["offset"] = np.dtype("<i8")
            offset = _create(regions, "offset", (n_rows + 1,), dtypes["offset"])
            self._columns["offset"] = _appending(offset)
            self._columns["offset"].add(np.zeros(1, np.int64))
        self._layers: list[Appender] = []
        for layer in info.layers:
            shape = (n_vectors, *info.vector_shape)
            dataset = _create(layers, f"layer_{layer}", shape, info.stored)
            dataset.attrs["layer"] = np.int64(layer)
            dataset.attrs["dtype"] = info.dtype
            self._layers.append(_packing(dataset, pool))

    def add(self, part: Part, check: Callable[[], None]) -> None:
        ends = self._n_positions + np.cumsum(part.columns["positions"], dtype=np.int64)
        self._n_positions = int(ends[-1]) if len(ends) else self._n_positions
        columns = part.columns | {"offset": ends}
        for name, appender in self._columns.items():
            appender.add(_cells(columns[name], self._dtypes[name]))
        for i, appender in enumerate(self._layers):
            for block in part.blocks(i):
                appender.add(block)
                check()

    def flush(self) -> None:
        for appender in (*self._columns.values(), *self._layers):
            appender.flush()


# --- files


class _Unfailing(io.FileIO):
    """A file for HDF5 to write to that keeps the first error to itself: HDF5 cannot close a file
    whose last bytes it could not write, and may end the process."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def create_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file, and a function that raises the OSError of the first byte that could not be
    written, as leaving the context does. It has the oldest format version that holds it, for old
    readers."""
    with _Unfailing(path, "w+") as raw:

        def check() -> None:
            if raw.error is not None:
                raise raw.error

        try:
            with h5py.File(raw, "w", libver=("earliest", "v110")) as file:
                yield file, check
        except (OSError, RuntimeError):
            # HDF5's own error may follow from one that it was not told.
            check()
            raise
        check()


# --- datasets


def _text_dtype(longest: int) -> "np.dtype[Any]":
    """UTF-8 in cells of `longest` bytes, which compress, or of any length if that is too wide."""
    width = max(1, longest) if longest <= _LONGEST_FIXED else None
    return h5py.string_dtype("utf-8", width)


def _cells(values: Any, dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Integers or texts of a column as the file has them."""
    text = h5py.check_string_dtype(dtype)
    if text is None:
        return np.asarray(values, dtype)
    encoded = [value.encode() for value in values]
    if text.length is None:
        return np.array([*encoded, None], object)[:-1]
    return np.array(encoded, f"S{text.length}").view(dtype)


def _create(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: "np.dtype[Any]"
) -> h5py.Dataset:
    """A dataset in compressed chunks; HDF5 has none for an empty one."""
    chunks = chunk_shape(shape, _BYTES_OF_TEXT if dtype.kind == "O" else dtype.itemsize)
    options: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    return group.create_dataset(
        name, shape, dtype, **({} if 0 in chunks else {"chunks": chunks, **options})
    )


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole rows, about CHUNK_BYTES of them; of longer rows a part of one."""
    inner = shape[1:]
    row_bytes = int(np.prod(inner)) * itemsize
    if row_bytes <= CHUNK_BYTES or len(inner) == 1:
        return (min(shape[0], max(1, CHUNK_BYTES // row_bytes)), *inner)
    return (1, max(1, CHUNK_BYTES // (inner[-1] * itemsize)), inner[-1])


class Appender:
    """Gathers blocks of rows and passes on whole chunks, so that each is written once and the
    division into blocks changes nothing. put: called with the number of the first row and the
    rows."""

    def __init__(self, rows_at_once: int, put: Callable[[int, NDArray[Any]], None]):
        self._size, self._put = max(1, rows_at_once), put
        self._start = self._n_held = 0
        self._held: list[NDArray[Any]] = []

    def add(self, block: NDArray[Any]) -> None:
        while len(block):
            taken = block[: self._size - self._n_held]
            block = block[len(taken) :]
            self._held.append(taken)
            self._n_held += len(taken)
            if self._n_held == self._size:
                self.flush()

    def flush(self) -> None:
        if not self._n_held:
            return
        rows = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        self._put(self._start, rows)
        self._start += self._n_held
        self._n_held, self._held = 0, []


def _appending(dataset: h5py.Dataset) -> Appender:
    """Appends rows of text or integers."""

    def put(start: int, block: NDArray[Any]) -> None:
        dataset[start : start + len(block)] = block

    return Appender(dataset.chunks[0] if dataset.chunks else 1, put)


# --- vectors


def _packing(dataset: h5py.Dataset, pool: ThreadPoolExecutor) -> Appender:
    """Appends vectors, whose chunks are packed in the pool's threads."""
    if dataset.chunks is None:
        return Appender(1, lambda start, block: None)
    chunks = dataset.chunks
    inner = [range(0, n, step) for n, step in zip(dataset.shape[1:], chunks[1:], strict=True)]

    def put(start: int, block: NDArray[Any]) -> None:
        corners = list(product(range(0, len(block), chunks[0]), *inner))

        def packed(corner: tuple[int, ...]) -> bytes:
            values = block[
                tuple(slice(n, n + step) for n, step in zip(corner, chunks, strict=True))
            ]
            # The file holds chunks at an edge whole.
            missing = [(0, full - n) for full, n in zip(chunks, values.shape, strict=True)]
            return pack_chunk(np.pad(values, missing) if any(map(sum, missing)) else values)

        for (row, *rest), data in zip(corners, pool.map(packed, corners), strict=True):
            dataset.id.write_direct_chunk((start + row, *rest), data)

    return Appender(chunks[0] * _CHUNKS_AT_ONCE, put)


def pack_chunk(values: NDArray[Any]) -> bytes:
    """A stream that HDF5's shuffle and gzip filters read back as these numbers.

    Bytes are grouped by their place in a number. A float32's signs and exponents (one byte in four)
    shrink to a third, its mantissas do not compress: time goes into the former, and the others are
    stored. Huffman codes alone serve better than a search for repeats that are not there.
    """
    size = values.dtype.itemsize
    planes = np.ascontiguousarray(np.ascontiguousarray(values).view(np.uint8).reshape(-1, size).T)
    pieces = [b"\x78\x01"]
    for plane in planes:
        if len(_deflate(plane[:_SAMPLE])) < _WORTH * len(plane[:_SAMPLE]):
            pieces.append(_deflate(plane))
        else:
            pieces += _stored(plane.tobytes())
    # A last, empty block and the checksum.
    pieces += [b"\x01\x00\x00\xff\xff", zlib.adler32(planes.data).to_bytes(4, "big")]
    return b"".join(pieces)


def _deflate(plane: NDArray[np.uint8]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return packer.compress(plane.data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _stored(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 0xFFFF):
        block = data[start : start + 0xFFFF]
        size = len(block)
        yield b"\x00" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
        yield block
