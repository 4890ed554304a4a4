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
from dnamamba.embedding.format import FORMAT, FORMAT_VERSION, EmbeddingInfo, region_columns
from dnamamba.embedding.parts import Part
from dnamamba.errors import InputError

_CHUNK_BYTES = 1 << 18
_CHUNKS_AT_ONCE = 16


def no_room(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({error.strerror or error}). Make room, or choose another "
        "--out; what was written before is kept, and the same command goes on from there"
    )


def join_parts(
    paths: Sequence[Path],
    out: Path,
    info: EmbeddingInfo,
    pool: ThreadPoolExecutor,
    on_part: Callable[[int], None],
) -> None:
    """Write parts that are whole into a new file `out`, one after the other. Raises OSError, which
    leaves a useless file, if there is no room."""
    parts = [Part(path, info) for path in paths]
    positions = [np.zeros(1, np.int64)]
    with create_file(out) as (file, check):
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = np.int64(FORMAT_VERSION)
        file.attrs["dnamamba"] = __version__
        file.attrs["settings"] = info.to_json()
        columns = _create_columns(file, info, parts)
        layers = _create_layers(file, info, sum(part.n_vectors for part in parts), pool)
        for number, part in enumerate(parts):
            values = part.columns()
            positions.append(np.array(values.pop("positions", []), np.int64))
            for name, appender in columns.items():
                appender.add(_cells(values[name], appender.dataset.dtype))
            for i, appender in enumerate(layers):
                for block in part.blocks(i):
                    appender.add(block)
                    check()
            on_part(number)
        for appender in (*columns.values(), *layers):
            appender.flush()
        if info.per_position:
            offsets = np.cumsum(np.concatenate(positions))
            _create(file["regions"], "offset", offsets.shape, offsets.dtype)[:] = offsets


def _create_columns(
    file: h5py.File, info: EmbeddingInfo, parts: Sequence[Part]
) -> dict[str, "_Appender"]:
    regions = file.create_group("regions")
    regions.create_group("input")
    n_rows = sum(part.n_rows for part in parts)
    appenders = {}
    for name, column in region_columns(info).items():
        longest = max((part.widths.get(name, 0) for part in parts), default=0)
        # Cells of one size compress; beyond 256 bytes they have any length.
        width = max(1, longest) if longest <= 256 else None
        dtype = np.dtype(column.dtype or h5py.string_dtype("utf-8", width))
        appenders[name] = _Appender(_create(regions, name, (n_rows,), dtype))
    return appenders


def _create_layers(
    file: h5py.File, info: EmbeddingInfo, n_vectors: int, pool: ThreadPoolExecutor
) -> list["_Appender"]:
    group = file.create_group("embeddings")
    appenders = []
    for layer in info.layers:
        shape = (n_vectors, *info.vector_shape)
        dataset = _create(group, f"layer_{layer}", shape, info.stored)
        dataset.attrs["layer"] = np.int64(layer)
        dataset.attrs["dtype"] = info.dtype
        appenders.append(_Appender(dataset, pool))
    return appenders


# --- files


class _Unfailing(io.FileIO):
    """A file that hides failed writes from HDF5, which cannot close a file after one and may end
    the process; `check` raises the first."""

    error: OSError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

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
    """Create an HDF5 file of the oldest version that can hold it. Yields it and a function that
    raises the OSError of the first failed write, as leaving the context does."""
    with _Unfailing(path, "w+") as raw:
        try:
            with h5py.File(raw, "w", libver=("earliest", "v110")) as file:
                yield file, raw.check
        except (OSError, RuntimeError):
            # HDF5's own error may follow from a write that failed unnoticed.
            raw.check()
            raise
        raw.check()


# --- datasets


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
    if 0 in shape:
        return group.create_dataset(name, shape, dtype)
    # A text of any length counts as 64 bytes.
    chunks = _chunk_shape(shape, 64 if dtype.kind == "O" else dtype.itemsize)
    return group.create_dataset(
        name, shape, dtype, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True
    )


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole rows, about _CHUNK_BYTES of them; of longer rows a part of one."""
    inner = shape[1:]
    row_bytes = int(np.prod(inner)) * itemsize
    if row_bytes <= _CHUNK_BYTES or len(inner) == 1:
        return (min(shape[0], max(1, _CHUNK_BYTES // row_bytes)), *inner)
    return (1, max(1, _CHUNK_BYTES // (inner[-1] * itemsize)), inner[-1])


class _Appender:
    """Gathers blocks of rows and writes whole chunks at a dataset's end, so that each is written
    once and the division into blocks changes nothing. pool: packs the chunks of numbers."""

    def __init__(self, dataset: h5py.Dataset, pool: ThreadPoolExecutor | None = None) -> None:
        self.dataset, self._pool = dataset, pool
        chunk_rows = dataset.chunks[0] if dataset.chunks else 1
        self._size = chunk_rows * (1 if pool is None else _CHUNKS_AT_ONCE)
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
        if self._n_held and self.dataset.chunks:
            rows = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            if self._pool is None:
                self.dataset[self._start : self._start + len(rows)] = rows
            else:
                self._write_packed(rows, self._pool)
        self._start += self._n_held
        self._n_held, self._held = 0, []

    def _write_packed(self, rows: NDArray[Any], pool: ThreadPoolExecutor) -> None:
        chunks = self.dataset.chunks
        corners = list(
            product(*(range(0, n, step) for n, step in zip(rows.shape, chunks, strict=True)))
        )

        def packed(corner: tuple[int, ...]) -> bytes:
            values = rows[tuple(slice(n, n + step) for n, step in zip(corner, chunks, strict=True))]
            # The file holds chunks at an edge whole.
            missing = [(0, full - n) for full, n in zip(chunks, values.shape, strict=True)]
            return pack_chunk(np.pad(values, missing) if any(map(sum, missing)) else values)

        for (row, *rest), data in zip(corners, pool.map(packed, corners), strict=True):
            self.dataset.id.write_direct_chunk((self._start + row, *rest), data)


# --- packing


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
        sample = plane[: 1 << 14]
        if len(_deflate(sample)) < 0.95 * len(sample):
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
