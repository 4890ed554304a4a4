"""Embeddings as npz, parquet or text, for small jobs and other programs."""

import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dnamamba.configs import require_choice
from dnamamba.embedding.config import OutputFormat
from dnamamba.embedding.format import distinct_names
from dnamamba.embedding.lazy_vectors import require_memory
from dnamamba.embedding.reader import (
    Embeddings,
    import_library,
    new_file,
    number_names,
    read_embeddings,
)
from dnamamba.errors import InputError
from dnamamba.files import clean_cell

_ENDINGS: dict[str, OutputFormat] = {
    **dict.fromkeys((".h5", ".hdf5"), "h5"),
    ".npz": "npz",
    ".parquet": "parquet",
    **dict.fromkeys((".tsv", ".tsv.gz"), "tsv"),
}


def export(
    path: Path | str,
    out: Path | str,
    format: OutputFormat | None = None,
    *,
    layer: int | None = None,
    force: bool = False,
) -> Path:
    """Write one layer of a file of embeddings, all rows in their order, with the table.

    format: default by the end of `out`: .npz (arrays `vectors`, `ok`, `offsets` of pooling none,
        `settings`, and one a column), .parquet (a column a number; needs pyarrow), .tsv or .tsv.gz.
        Numbers of rows without vectors are NaN, empty in text. Parquet and tsv of pooling none have
        a row a position, with the columns `row` and `position` (0-based, in the region).
    The file appears when it is whole. Raises InputError if it exists (without `force`), cannot be
    written, or is too large for memory when it is read again.
    """
    out = Path(out)
    kind = format_of(out, format)
    if kind == "h5":
        raise InputError("an .h5 file is exported to npz, parquet or tsv: name one of these")
    write = {"npz": _write_npz, "parquet": _write_parquet, "tsv": _write_tsv}[kind]
    with read_embeddings(path, layer) as embeddings:
        # A number takes about 12 letters.
        n_bytes = embeddings.vectors.size * 12 if kind == "tsv" else embeddings.vectors.nbytes
        require_memory(n_bytes, f"{out} with {len(embeddings.vectors):,} vectors")
        with new_file(out, force) as file:
            write(embeddings, file)
    return out


def format_of(out: Path, given: OutputFormat | None = None) -> OutputFormat:
    """The format of a file, by its name if it is not given. Raises InputError for an unknown one,
    and for one that needs a library that is missing."""
    name = out.name.lower()
    kind = given or next((kind for end, kind in _ENDINGS.items() if name.endswith(end)), None)
    if kind is None:
        raise InputError(
            f"{out} must end in one of {', '.join(_ENDINGS)}: name it so, or give the format "
            "(--format)"
        )
    require_choice("format", kind, OutputFormat)
    if kind == "parquet":
        import_library("pyarrow", "dnamamba[parquet]")
    return kind


# --- npz


def _write_npz(embeddings: Embeddings, file: BinaryIO) -> None:
    arrays = {
        "vectors": embeddings.vectors[:],
        "ok": embeddings.ok,
        "settings": np.array(embeddings.info.to_json()),
        "layer": np.array(embeddings.layer),
    }
    if embeddings.offsets is not None:
        arrays["offsets"] = embeddings.offsets
    for name, column in embeddings.table.items():
        # Text becomes cells of one size, as object arrays would be pickled.
        key = f"column_{name}" if name in arrays else name
        arrays[key.replace("/", "%2F")] = column.astype("U") if column.dtype == object else column
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


# --- rows of tables


def _column_names(embeddings: Embeddings) -> dict[str, str]:
    """Names of the exported columns before the numbers, each with its name in the table."""
    taken = {"row", "position", *number_names(embeddings.info)}
    shown = {"row": "row", "position": "position"} if embeddings.info.per_position else {}
    return shown | distinct_names(embeddings.table, taken)


def _pieces(embeddings: Embeddings) -> Iterator[tuple[list[NDArray[Any]], NDArray[Any]]]:
    """Yield blocks of rows: their columns, and their numbers (n, numbers of a row)."""
    names = list(_column_names(embeddings).values())
    for start, block in embeddings.blocks():
        rows = positions = np.arange(start, start + len(block))
        columns: list[NDArray[Any]] = []
        if (offsets := embeddings.offsets) is not None:
            rows = np.searchsorted(offsets, positions, side="right") - 1
            columns = [rows, positions - offsets[rows]]
        columns += [embeddings.table[name][rows] for name in names[len(columns) :]]
        yield columns, block.reshape(len(block), -1)


def _write_tsv(embeddings: Embeddings, file: BinaryIO) -> None:
    names = map(clean_cell, _column_names(embeddings))
    file.write(("\t".join([*names, *number_names(embeddings.info)]) + "\n").encode())
    for columns, numbers in _pieces(embeddings):
        cells = [[clean_cell(str(value)) for value in column] for column in columns]
        for *row, values in zip(*cells, numbers.tolist(), strict=True):
            texts = ("" if value != value else f"{value:.9g}" for value in values)
            file.write(("\t".join(chain(row, texts)) + "\n").encode())


def _write_parquet(embeddings: Embeddings, file: BinaryIO) -> None:
    pyarrow, parquet = import_library("pyarrow"), import_library("pyarrow.parquet")
    fields = []
    for shown, name in _column_names(embeddings).items():
        is_text = name in embeddings.table and embeddings.table[name].dtype == object
        fields.append((shown, pyarrow.string() if is_text else pyarrow.int64()))
    fields += [(name, pyarrow.float32()) for name in number_names(embeddings.info)]
    schema = pyarrow.schema(fields, metadata={"dnamamba": embeddings.info.to_json()})
    with parquet.ParquetWriter(file, schema) as writer:
        for columns, numbers in _pieces(embeddings):
            writer.write_table(pyarrow.table([*columns, *numbers.T], schema=schema))
