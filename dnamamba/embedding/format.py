"""What a file of embeddings holds, shared by its writer and its reader; docs/formats.md has it for
people. Needs neither torch nor HDF5."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError

FORMAT = "dnamamba-embeddings"
PART_FORMAT = f"{FORMAT}-part"
FORMAT_VERSION = 1

StoredDtype = Literal["float32", "float16", "bfloat16"]
_ON_DISK = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}

INTEGER_COLUMNS = ("start", "end", "window_start", "window_end", "line")
REGION_COLUMNS = (
    *("chrom", "start", "end", "strand", "name"),
    *("window_start", "window_end", "line", "status", "note"),
)
"""Datasets of /regions in the order in which tables show them."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingInfo:
    """How the embeddings of a file were made; kept in it as JSON."""

    model: str
    """As it was named."""

    model_sha256: str | None
    """Of the weights' file; None where they were never in one."""

    layers: tuple[int, ...]
    """Indices into the model's hidden states: 0 the embedding, the highest the final norm."""

    d_out: int
    """Numbers in a vector; with both strands side by side twice the model's width."""

    pooling: str
    """mean, last, max, center, bins:N or none."""

    rc: str
    """What became of the reverse complement: none, average or concat."""

    context: int | None
    """Bases that the model reads around each region, all told; None: the region alone."""

    edge: str
    """What became of windows that pass their contig's end."""

    dtype: str
    """What numbers are stored as: float32, float16 or bfloat16."""

    precision: str
    """What the model computed in."""

    source_sha256: str
    """Checksum of the text that the rows are those of, unpacked: where it came from, and how it was
    packed, changes nothing."""

    genome: tuple[Mapping[str, Any], ...]
    """Files that the bases are from: name, sha256 and whatever else is known."""

    columns: tuple[str, ...]
    """Names of the input's own columns."""

    allele: str = "ref"
    """Of a VCF: which allele was read, ref or alt."""

    def __post_init__(self) -> None:
        for name in ("layers", "genome", "columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise InputError(
                f"layers of a file are one or more different numbers from 0, got {self.layers}; "
                "count negative ones from the model's end first"
            )
        if self.dtype not in get_args(StoredDtype):
            choices = ", ".join(get_args(StoredDtype))
            raise InputError(f"embeddings are stored as one of {choices}, got {self.dtype!r}")
        if self.d_out < 1:
            raise InputError(f"a vector has 1 number or more, got {self.d_out}")
        kind, _, count = self.pooling.partition(":")
        if kind == "bins" and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise InputError(f"bins are written bins:16, got {self.pooling!r}")

    @property
    def n_bins(self) -> int | None:
        """Vectors of a row, of `bins:N`."""
        return int(self.pooling[5:]) if self.pooling.startswith("bins:") else None

    @property
    def per_position(self) -> bool:
        """Whether there is a vector for every base, so that rows differ in length."""
        return self.pooling == "none"

    @property
    def vector_shape(self) -> tuple[int, ...]:
        """(D,), or (N, D) of bins: what a row has, or with `per_position` a position."""
        return (self.d_out,) if self.n_bins is None else (self.n_bins, self.d_out)

    @property
    def stored(self) -> "np.dtype[Any]":
        """What numpy calls the numbers in the file; bfloat16 is its bits as uint16."""
        return np.dtype(_ON_DISK[self.dtype])

    @property
    def column_keys(self) -> tuple[str, ...]:
        """The input's own columns by names that are neither empty nor given twice."""
        keys: list[str] = []
        for i, name in enumerate(self.columns, start=1):
            key = name = clean_text(name) or f"column_{i}"
            number = 2
            while key in keys:
                key, number = f"{name}_{number}", number + 1
            keys.append(key)
        return tuple(keys)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str) -> "EmbeddingInfo":
        """Settings that a later version added are passed over. ValueError or KeyError for what is
        not whole."""
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"settings are no JSON object: {content!r:.40}")
        return cls(**{field.name: content[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class EmbeddedRow:
    """A row of the input and what was computed for it. Coordinates are 0-based and half-open, -1
    where unknown."""

    line: int
    """Where it stands in the input, from 1."""

    chrom: str
    start: int
    end: int
    strand: str
    name: str
    window_start: int
    window_end: int
    """What the model read, of the same contig."""

    status: str
    note: str
    columns: tuple[str, ...]
    """The input's own, as text: as many as EmbeddingInfo.columns."""

    vectors: list[NDArray[Any]] | None
    """An array a layer, in the order of EmbeddingInfo.layers: (D,), of bins (N, D), without pooling
    (L, D); None where nothing was computed. They may be memmaps larger than memory."""


def check_row(row: EmbeddedRow, info: EmbeddingInfo) -> int:
    """How many positions the row has (1 where vectors are pooled; 0 without any).

    Raises InputError for numbers of columns and shapes of vectors that are not those of `info`.
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
    """Numbers as they are stored. Halves round to the nearest, ties to even; beyond 65,504 float16
    has infinity."""
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


def clean_text(text: str) -> str:
    """Without what UTF-8 or HDF5 cannot hold: bytes of the input that were not UTF-8 are read as
    Latin-1, and NUL becomes U+FFFD."""
    if text.isascii() and "\0" not in text:
        return text
    return "".join(map(_clean_letter, text))


def _clean_letter(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":
        return chr(ord(letter) - 0xDC00)
    return "\ufffd" if letter == "\0" or "\ud800" <= letter <= "\udfff" else letter


def text_bytes(texts: Iterable[str]) -> list[bytes]:
    return [clean_text(text).encode() for text in texts]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def columns_of_rows(
    rows: Sequence[EmbeddedRow], info: EmbeddingInfo
) -> tuple[dict[str, NDArray[np.int64]], dict[str, list[bytes]], list[list[bytes]]]:
    """Integers and text of /regions by name, and the input's own columns."""
    integers = {
        name: np.array([getattr(row, name) for row in rows], np.int64) for name in INTEGER_COLUMNS
    }
    texts = {
        name: text_bytes(getattr(row, name) for row in rows)
        for name in REGION_COLUMNS
        if name not in INTEGER_COLUMNS
    }
    own = [text_bytes(row.columns[i] for row in rows) for i in range(len(info.columns))]
    return integers, texts, own
