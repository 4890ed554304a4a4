"""Reading files of embeddings; docs/formats.md describes them.

embeddings = dnamamba.read_embeddings("peaks.h5")
X, table = embeddings.arrays()
adata = embeddings.to_anndata()
vectors = embeddings.to_memmap("peaks.npy")
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.store import quote_name
from dnamamba.embedding.format import (
    FORMAT,
    FORMAT_VERSION,
    REGION_COLUMNS,
    EmbeddingInfo,
    distinct_names,
)
from dnamamba.embedding.hdf5 import no_room
from dnamamba.embedding.lazy_vectors import Vectors
from dnamamba.errors import InputError
from dnamamba.files import open_existing, open_output


def read_embeddings(
    path: Path | str, layer: int | None = None, *, raw: bool = False
) -> "Embeddings":
    """Open a file of embeddings; vectors stay in it until they are asked for.

    layer: a layer of the file by its number in the model. Default: the last of them.
    raw: return numbers as they are stored (float16; bits of bfloat16 as uint16), not float32.
    Raises FileNotFoundError, and InputError for a file of another kind or of a newer format, a
    damaged one, and a layer that it does not have.
    """
    return Embeddings(Path(path), layer, raw=raw)


class Embeddings:
    """Embeddings of one layer with their regions, a row for every input row.

    path, info, layer: the file, how it was made, the layer's number.
    vectors: float32 (rows, D), bins (rows, N, D), pooling none (positions, D); NaN in rows without.
        Slicing reads only the rows it needs; np.asarray reads all.
    table: numpy columns by name, text or int64, read when first used. A column of the input whose
        name the file uses itself has `input_` before it.
    offsets: int64 (rows + 1,) of pooling none: row i has positions offsets[i] to offsets[i + 1];
        else None.
    """

    def __init__(self, path: Path, layer: int | None = None, *, raw: bool = False):
        self.path, self._raw = path.resolve(), raw
        open_existing(path).close()
        self._file: h5py.File | None = None
        self._pid = 0
        self._columns: dict[str, NDArray[Any]] = {}
        with _reading(path):
            self.info = _check_kind(path, self._open())
            self.layer = max(self.info.layers) if layer is None else layer
            if self.layer not in self.info.layers:
                there = ", ".join(map(str, sorted(self.info.layers)))
                raise InputError(
                    f"{self.path} has no layer {layer!r}; it has {there} (0 is the model's "
                    "embedding; numbers count from there, not from the end)"
                )
            regions = self._open()["regions"]
            self._n_rows = len(regions["line"])
            self.offsets = regions["offset"][:] if self.info.per_position else None
            shape = self._dataset().shape
        self.vectors = Vectors(self._dataset, self.info, shape, raw=raw)
        self.table: Mapping[str, NDArray[Any]] = _Table(self)

    def _open(self) -> h5py.File:
        """The file, opened again after a fork or unpickling."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def _dataset(self) -> h5py.Dataset:
        return self._open()[f"embeddings/layer_{self.layer}"]

    def __len__(self) -> int:
        return self._n_rows

    def __repr__(self) -> str:
        return (
            f"Embeddings({self.path.name}: {len(self):,} rows, layer {self.layer}, "
            f"{self.info.pooling}, vectors {self.vectors.shape})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; later reads open it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __reduce__(self) -> Any:
        return partial(Embeddings, raw=self._raw), (self.path, self.layer)

    # --- rows

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Mask (rows,) of the rows that have vectors."""
        return self._column("embedded").astype(bool)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            with _reading(self.path):
                self._columns[name] = _read_column(self._open()[f"regions/{name}"])
        return self._columns[name]

    def vectors_of(self, row: int) -> NDArray[Any]:
        """Vectors of a row: (D,), bins (N, D), pooling none (L, D)."""
        if not -len(self) <= row < len(self):
            raise InputError(f"row must be 0 to {len(self) - 1} in {self.path}, got {row}")
        row %= len(self)
        if self.offsets is None:
            return self.vectors[row]
        return self.vectors[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def overlapping(self, chrom: str, start: int = 0, end: int | None = None) -> NDArray[np.int64]:
        """Numbers of the rows whose region shares a base with [start, end) of a contig.

        start, end: 0-based, half-open; end None: to the contig's end. Regions count without their
        context, on either strand.
        """
        starts, ends = self.table["start"], self.table["end"]
        overlaps = (self.table["chrom"] == chrom) & (starts < ends) & (ends > start) & (starts >= 0)
        if end is not None:
            overlaps &= (starts < end) & (start < end)
        return np.flatnonzero(overlaps)

    # --- other forms

    def arrays(self, *, keep_failed: bool = False) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
        """Return X, table for scikit-learn: vectors and the table's columns of the same rows.

        Rows without vectors are left out unless `keep_failed`; the column `row` has their numbers
        in the file. X of bins is (rows, N, D). Raises InputError for pooling none, whose rows
        differ in length, and if memory is too small.
        """
        self._refuse_positions("arrays")
        rows = np.arange(len(self)) if keep_failed else np.flatnonzero(self.ok)
        table = {"row": rows} | {name: self.table[name][rows] for name in self.table}
        return self.vectors[:] if keep_failed else self.vectors[rows], table

    def to_pandas(self) -> Any:
        """Return the table, all rows, as a pandas.DataFrame. Raises InputError without pandas."""
        return import_library("pandas").DataFrame(dict(self.table))

    def to_anndata(self, *, keep_failed: bool = False) -> Any:
        """Return an anndata.AnnData: X the vectors (bins: N x D numbers a row), obs the table.

        Rows are called by their names, made unique, or by their numbers if they have none. Rows
        without vectors are left out unless `keep_failed`, as most methods cannot handle NaN.
        `uns["dnamamba"]` has the settings as JSON. Raises InputError without anndata, for pooling
        none, and if memory is too small.
        """
        anndata, pandas = import_library("anndata"), import_library("pandas")
        self._refuse_positions("to_anndata")
        values, table = self.arrays(keep_failed=keep_failed)
        labels = [name or str(row) for row, name in zip(table["row"], table["name"], strict=True)]
        # Slashes separate groups in a .h5ad.
        columns = {quote_name(name): column for name, column in table.items()}
        return anndata.AnnData(
            X=values.reshape(len(values), -1),
            obs=pandas.DataFrame(
                columns, index=anndata.utils.make_index_unique(pandas.Index(labels))
            ),
            var=pandas.DataFrame(index=number_names(self.info)),
            uns={"dnamamba": self.info.to_json(), "layer": self.layer},
        )

    def _refuse_positions(self, what: str) -> None:
        if self.info.per_position:
            raise InputError(
                f"{self.path} has a vector for every position, so that rows differ in length, and "
                f"{what} needs one a row: use vectors_of(row), or to_memmap() with .offsets; or "
                "embed with another pooling"
            )

    def to_memmap(self, path: Path | str, *, force: bool = False) -> "np.memmap[Any, Any]":
        """Copy all vectors to a .npy file, a few megabytes at a time, and map it into memory.

        The file appears when it is whole, and np.load(path, mmap_mode="r") opens it again. Raises
        InputError if it exists (without `force`) and if there is no room.
        """
        with new_file(Path(path), force) as file:
            header = {
                "descr": np.lib.format.dtype_to_descr(self.vectors.dtype),
                "fortran_order": False,
                "shape": self.vectors.shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
            for _, block in self.blocks():
                file.write(block.tobytes())
        if 0 in self.vectors.shape:
            raise InputError(f"{self.path} has no vectors, and an empty file cannot be mapped")
        return np.load(path, mmap_mode="r")

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all vectors, a few megabytes at a time, each with the number of its first."""
        step = self.vectors.block_rows
        for start in range(0, len(self.vectors), step):
            yield start, self.vectors[start : start + step]


class _Table(Mapping[str, NDArray[Any]]):
    """Columns of /regions by the names that users see."""

    def __init__(self, embeddings: Embeddings):
        self._embeddings = embeddings
        paths = embeddings.info.column_paths
        self._paths = {name: name for name in REGION_COLUMNS}
        own = distinct_names(paths, taken=REGION_COLUMNS)
        self._paths |= {name: paths[key] for name, key in own.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._paths:
            raise KeyError(f"{name!r}; there are {', '.join(self._paths)}")
        return self._embeddings._column(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _read_column(dataset: h5py.Dataset) -> NDArray[Any]:
    values = dataset[:]
    if h5py.check_string_dtype(dataset.dtype) is None:
        return values
    cells = values.tolist()
    # Contigs, strands and statuses repeat: each text is decoded once.
    texts = {cell: cell.decode("utf8", "replace") for cell in set(cells)}
    return np.array([*map(texts.__getitem__, cells), None], object)[:-1]


def number_names(info: EmbeddingInfo) -> list[str]:
    """Column names of a row's numbers: e0, e1, ...; of bins bin0_e0, ..."""
    numbers = [f"e{i}" for i in range(info.d_out)]
    if info.n_bins is None:
        return numbers
    return [f"bin{b}_{number}" for b in range(info.n_bins) for number in numbers]


def import_library(name: str, package: str = "") -> ModuleType:
    """Import an optional library. package: what to install for it; default `name`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"this needs {name}, which is not installed: pip install {package or name}"
        ) from error


# --- files


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path} is not a whole file of embeddings ({error}): it is damaged or cut off; make "
            "or copy it again"
        ) from error


def _check_kind(path: Path, file: h5py.File) -> EmbeddingInfo:
    format = file.attrs.get("format")
    if format != FORMAT:
        raise InputError(
            f"{path} is HDF5, but not embeddings (expected format {FORMAT!r}, got {format!r}); "
            "make them with `dnamamba embed`"
        )
    version = file.attrs.get("format_version")
    if not isinstance(version, int | np.integer) or version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {version!s}, this dnamamba reads {FORMAT_VERSION}; update "
            "dnamamba, or read it with plain HDF5"
        )
    try:
        return EmbeddingInfo.from_json(file.attrs["settings"])
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} has damaged settings ({error}): make it again") from error


@contextmanager
def new_file(path: Path, force: bool) -> Iterator[BinaryIO]:
    """A file to write bytes to, which appears when it is whole. Raises InputError if it exists
    (without `force`) or cannot be written."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write")
    if path.exists() and not force:
        raise InputError(f"{path} exists already; use force to replace it, or another name")
    try:
        with open_output(path) as file:
            yield file
    except OSError as error:
        raise no_room(path, error) from error
