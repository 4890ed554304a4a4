"""Parts of a file of embeddings, copied into one a few megabytes at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba import __version__
from dnamamba.data_prep.store import quote_name
from dnamamba.embedding_datasets import (
    Appender,
    as_text,
    assigning,
    create_file,
    create_integers,
    create_numbers,
    create_text,
    packing,
    widest,
    width_of,
)
from dnamamba.embedding_layout import (
    FORMAT,
    FORMAT_VERSION,
    INTEGER_COLUMNS,
    REGION_COLUMNS,
    EmbeddingInfo,
)
from dnamamba.embedding_parts import rows_in_block

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
