"""HDF5 files that are written front to back: text, numbers in packed chunks, and full disks.

What is written depends on the content alone: the same content gives the same bytes.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError

CHUNK_BYTES = 1 << 18
_LONGEST_FIXED = 256
"""Bytes of the longest text of a column that is stored in cells of one size, which compress."""

_TEXTS_IN_CHUNK = 4096
_CHUNKS_AT_ONCE = 16
_SAMPLE = 1 << 14
_WORTH = 0.95


def no_room(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path} cannot be written ({error.strerror or error}). Make room, or choose another "
        "--out; what was written before is kept, and the same command goes on from there"
    )


# --- files


class _Unfailing(io.RawIOBase):
    """A file for HDF5 to write to, which keeps the first error to itself: HDF5 cannot close a file
    whose last bytes it could not write, and may end the process."""

    def __init__(self, path: Path):
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self._file.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        found = self._file.readinto(buffer)
        return 0 if found is None else found

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


Check = Callable[[], None]


@contextmanager
def create_file(path: Path, userblock: int = 0) -> Iterator[tuple[h5py.File, Check]]:
    """A new HDF5 file and a function that raises the OSError of the first byte that could not be
    written, as leaving the context does. The file is not removed then.

    It is of the oldest format that holds it, so that old readers do. userblock: bytes left for
    others in front of it, 0 or a power of two from 512.
    """
    options = {"userblock_size": userblock} if userblock else {}
    with _Unfailing(path) as raw:

        def check() -> None:
            if raw.error is not None:
                raise raw.error

        try:
            with h5py.File(raw, "w", libver=("earliest", "v110"), **options) as file:
                yield file, check
        except (OSError, RuntimeError):
            # HDF5 may have missed what it believed to be written.
            check()
            raise
        check()


# --- text


def text_width(texts: list[bytes]) -> int | None:
    """Bytes of a cell that holds any of them; None: too many for cells of one size."""
    longest = max(map(len, texts), default=0)
    return max(1, longest) if longest <= _LONGEST_FIXED else None


def widest(widths: list[int | None]) -> int | None:
    known = [width for width in widths if width is not None]
    return max(known, default=1) if len(known) == len(widths) else None


def create_text(group: h5py.Group, name: str, n_rows: int, width: int | None) -> h5py.Dataset:
    """A column of text in UTF-8: cells of `width` bytes, or of any length."""
    dtype = h5py.string_dtype("utf-8", width)
    n = min(n_rows, _TEXTS_IN_CHUNK if width is None else max(1, CHUNK_BYTES // width))
    return group.create_dataset(name, (n_rows,), dtype, **_packed((n,)))


def as_text(texts: list[bytes], width: int | None) -> NDArray[Any]:
    """What is to be assigned to a part of such a column."""
    if width is None:
        return np.array([*texts, None], object)[:-1]
    return np.array(texts, f"S{width}").view(h5py.string_dtype("utf-8", width))


def width_of(dataset: h5py.Dataset) -> int | None:
    return h5py.check_string_dtype(dataset.dtype).length


def create_integers(group: h5py.Group, name: str, n_rows: int, dtype: str) -> h5py.Dataset:
    n = min(n_rows, CHUNK_BYTES // np.dtype(dtype).itemsize)
    return group.create_dataset(name, (n_rows,), dtype, **_packed((n,)))


def _packed(chunks: tuple[int, ...]) -> dict[str, Any]:
    # Nothing to pack, which HDF5 has no chunks for.
    if 0 in chunks:
        return {}
    return {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True}


# --- numbers


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole rows, about CHUNK_BYTES of them; of rows that are longer, a part of one."""
    inner = shape[1:]
    row_bytes = int(np.prod(inner)) * itemsize
    if row_bytes <= CHUNK_BYTES or len(inner) == 1:
        return (min(shape[0], max(1, CHUNK_BYTES // row_bytes)), *inner)
    n_bins = max(1, CHUNK_BYTES // (inner[-1] * itemsize))
    return (1, n_bins, inner[-1])


def create_numbers(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: "np.dtype[Any]"
) -> h5py.Dataset:
    return group.create_dataset(name, shape, dtype, **_packed(chunk_shape(shape, dtype.itemsize)))


class Appender:
    """Gathers blocks of rows and hands on whole chunks, so that each is written once and where
    blocks end changes nothing. put: called with the first row and the rows."""

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
        self._put(
            self._start, self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
        )
        self._start += self._n_held
        self._n_held, self._held = 0, []


def assigning(dataset: h5py.Dataset) -> Appender:
    """Rows of text or integers."""

    def put(start: int, block: NDArray[Any]) -> None:
        dataset[start : start + len(block)] = block

    return Appender(dataset.chunks[0] if dataset.chunks else 1, put)


def packing(dataset: h5py.Dataset, pool: ThreadPoolExecutor) -> Appender:
    """Rows of numbers, of which chunks are packed in the pool's threads."""
    if dataset.chunks is None:
        return Appender(1, lambda start, block: None)
    chunks = dataset.chunks
    inner = [range(0, n, step) for n, step in zip(dataset.shape[1:], chunks[1:], strict=True)]

    def put(start: int, block: NDArray[Any]) -> None:
        places = list(product(range(0, len(block), chunks[0]), *inner))

        def packed(place: tuple[int, ...]) -> bytes:
            cut = tuple(slice(n, n + step) for n, step in zip(place, chunks, strict=True))
            return pack_chunk(_filled(block[cut], chunks))

        for (row, *rest), data in zip(places, pool.map(packed, places), strict=True):
            dataset.id.write_direct_chunk((start + row, *rest), data)

    return Appender(chunks[0] * _CHUNKS_AT_ONCE, put)


def _filled(some: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A chunk at an edge: the file holds it whole."""
    if some.shape == shape:
        return some
    return np.pad(some, [(0, want - got) for want, got in zip(shape, some.shape, strict=True)])


def pack_chunk(values: NDArray[Any]) -> bytes:
    """What HDF5's filters shuffle and gzip would read back as these numbers.

    Bytes are put by their place in a number. Of float32 signs and exponents (one byte in four) take
    a third of their size, and mantissas cannot be packed: the time goes into the first alone, and
    the others are stored. Four times as fast as gzip on all, and smaller, as a code by frequencies
    beats searching for repeats that are not there.
    """
    size = values.dtype.itemsize
    planes = np.ascontiguousarray(np.ascontiguousarray(values).view(np.uint8).reshape(-1, size).T)
    pieces = [b"\x78\x01"]
    for plane in planes:
        if len(_deflate(plane[:_SAMPLE])) < _WORTH * len(plane[:_SAMPLE]):
            pieces.append(_deflate(plane))
        else:
            pieces += _stored(plane.tobytes())
    # A last block, empty, and the checksum.
    pieces += [b"\x01\x00\x00\xff\xff", zlib.adler32(planes.data).to_bytes(4, "big")]
    return b"".join(pieces)


def _deflate(plane: NDArray[np.uint8]) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_RLE)
    return packer.compress(plane.data) + packer.flush(zlib.Z_SYNC_FLUSH)


def _stored(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 0xFFFF):
        some = data[start : start + 0xFFFF]
        yield b"\x00" + len(some).to_bytes(2, "little") + (len(some) ^ 0xFFFF).to_bytes(2, "little")
        yield some
