"""What `dnamamba embed` writes: the datasets of its HDF5 file, and what its rows and settings are.

    /regions/chrom, start, ...   a column of text or int64 each (REGION_COLUMNS), a row of the input
    /regions/embedded            uint8, 1 for rows that have vectors
    /regions/offset              int64 (rows + 1,), only of pooling none
    /regions/input/NAME          the input's own columns, as text
    /embeddings/layer_K          vectors: (rows, D), bins (rows, N, D), pooling none (positions, D)

docs/formats.md describes the file for people.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.configs import require_choice, require_range
from dnamamba.data_prep.genomes.store import quote_name
from dnamamba.errors import InputError

FORMAT = "dnamamba-embeddings"
FORMAT_VERSION = 1

StoredDtype = Literal["float32", "float16", "bfloat16"]
_ON_DISK = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}

_INTEGER_COLUMNS = ("start", "end", "window_start", "window_end", "line")
REGION_COLUMNS = (
    *("chrom", "start", "end", "strand", "name"),
    *("window_start", "window_end", "line", "status", "note"),
)
"""Datasets of /regions in the order in which tables show them."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingInfo:
    """How the embeddings of a file were made; kept in it as JSON.

    docs/formats.md describes each setting. layers: indices into the model's hidden states, 0 for
    the embedding, the highest for the final norm. d_out: numbers in a vector. context: None if the
    region alone was read. model_sha256: None if the weights were never in a file.
    """

    model: str
    model_sha256: str | None
    layers: tuple[int, ...]
    d_out: int
    pooling: str
    rc: str
    context: int | None
    edge: str
    dtype: str
    precision: str
    source_sha256: str
    genome: tuple[Mapping[str, Any], ...]
    columns: tuple[str, ...]
    allele: str = "ref"

    def __post_init__(self) -> None:
        for name in ("layers", "genome", "columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise InputError(
                f"layers must be one or more different numbers >= 0, got {self.layers}; count "
                "negative ones from the model's end first"
            )
        require_choice("dtype", self.dtype, StoredDtype)
        require_range("d_out", self.d_out, 1)
        kind, _, count = self.pooling.partition(":")
        if kind == "bins" and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise InputError(f"bins must be written like bins:16, got {self.pooling!r}")

    @property
    def n_bins(self) -> int | None:
        """N of pooling `bins:N`."""
        return int(self.pooling[5:]) if self.pooling.startswith("bins:") else None

    @property
    def per_position(self) -> bool:
        """Whether there is a vector for every base, so that rows differ in length."""
        return self.pooling == "none"

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """Shape of a row's vectors, (D,) or of bins (N, D); with `per_position` of a position's."""
        return (self.d_out,) if self.n_bins is None else (self.n_bins, self.d_out)

    @property
    def stored(self) -> "np.dtype[Any]":
        """numpy's dtype of the numbers in the file; bfloat16 is stored as its bits in uint16."""
        return np.dtype(_ON_DISK[self.dtype])

    @property
    def column_paths(self) -> dict[str, str]:
        """Where /regions has the input's own columns, by names that are neither empty nor given
        twice."""
        paths: dict[str, str] = {}
        for i, name in enumerate(self.columns, start=1):
            key = name = clean_text(name) or f"column_{i}"
            number = 2
            while key in paths:
                key, number = f"{name}_{number}", number + 1
            paths[key] = f"input/{quote_name(key)}"
        return paths

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> "EmbeddingInfo":
        """Read settings; those that a later version added are ignored. Raises ValueError or
        KeyError for damaged ones."""
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"expected a JSON object, got {content!r:.40}")
        return cls(**{field.name: content[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class EmbeddedRow:
    """A row of the input with its vectors. Coordinates are 0-based and half-open, -1 if unknown.

    line: from 1; of a FASTA the number of the record. window_start, window_end: what the model read
    of the contig. columns: the input's own, as text, as many as EmbeddingInfo.columns. vectors: an
    array a layer, in the order of EmbeddingInfo.layers: (D,), bins (N, D), pooling none (L, D);
    None for rows that could not be embedded. They may be memmaps larger than memory.
    """

    line: int
    chrom: str
    start: int
    end: int
    strand: str
    name: str
    window_start: int
    window_end: int
    status: str
    note: str
    columns: tuple[str, ...]
    vectors: list[NDArray[Any]] | None


class Column(NamedTuple):
    dtype: str | None
    """numpy's; None for text."""

    value: Callable[[EmbeddedRow], Any]


def region_columns(info: EmbeddingInfo) -> dict[str, Column]:
    """The datasets of /regions that have a cell a row, by name."""

    def text(read: Callable[[EmbeddedRow], str]) -> Column:
        return Column(None, lambda row: clean_text(read(row)))

    def own(i: int) -> Column:
        return text(lambda row: row.columns[i])

    columns = {name: Column("<i8", attrgetter(name)) for name in _INTEGER_COLUMNS}
    columns["embedded"] = Column("<u1", lambda row: int(row.vectors is not None))
    for name in REGION_COLUMNS:
        columns.setdefault(name, text(attrgetter(name)))
    for i, path in enumerate(info.column_paths.values()):
        columns[path] = own(i)
    return columns


def distinct_names(names: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """Names that differ from `taken` and from each other, by `input_` before them, each with the
    name that it stands for."""
    found: dict[str, str] = {}
    for name in names:
        new = name
        while new in taken or new in found or (new != name and new in names):
            new = f"input_{new}"
        found[new] = name
    return found


def check_row(row: EmbeddedRow, info: EmbeddingInfo) -> int:
    """Return the number of the row's vectors: 0 for none, 1 if pooled, else its positions.

    Raises InputError for columns and vectors of other numbers and shapes than those of `info`.
    """
    where = f"the row of line {row.line}"
    if len(row.columns) != len(info.columns):
        raise InputError(f"{where} has {len(row.columns)} columns, expected {len(info.columns)}")
    if row.vectors is None:
        return 0
    if len(row.vectors) != len(info.layers):
        raise InputError(
            f"{where} has {len(row.vectors)} arrays, expected one for each of the layers "
            f"{', '.join(map(str, info.layers))}"
        )
    shape = row.vectors[0].shape
    expected = (shape[:1] if info.per_position else ()) + info.vector_shape
    if any(vector.shape != expected for vector in row.vectors):
        got = ", ".join(str(np.shape(vector)) for vector in row.vectors)
        raise InputError(f"{where} has vectors of the shape {got}, expected {expected}")
    return shape[0] if info.per_position else 1


# --- numbers


def store_numbers(values: NDArray[Any], info: EmbeddingInfo) -> NDArray[Any]:
    """Convert numbers to the file's dtype, rounding to the nearest, ties to even; float16 has
    infinity beyond 65,504."""
    if info.dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.asarray(values, dtype=info.stored)
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding would carry some NaN over into the sign.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(info.stored)


def to_float32(stored: NDArray[Any], info: EmbeddingInfo) -> NDArray[np.float32]:
    if info.dtype != "bfloat16":
        return stored.astype(np.float32, copy=False)
    return (stored.astype(np.uint32) << 16).view(np.float32)


# --- text


_CLEAN = dict.fromkeys((0, *range(0xD800, 0xE000)), "\ufffd")
_CLEAN |= {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}


def clean_text(text: str) -> str:
    """Replace what UTF-8 or HDF5 cannot hold: bytes of the input that were not UTF-8 are read as
    Latin-1, and NUL becomes U+FFFD."""
    return text.translate(_CLEAN) if "\0" in text or not text.isascii() else text
