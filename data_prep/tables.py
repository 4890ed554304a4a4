"""Tables of labelled sequences: CSV, TSV and parquet, plain or gzip, told apart by their content.

Rows are numbered as a spreadsheet shows them: in a text file the header is row 1.
"""

import contextlib
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnamamba.data_prep.sequences import Ints, PackedSequences, Packer
from dnamamba.errors import InputError
from dnamamba.files import compression_of, open_input

# A field may hold a chromosome. The limit is a C long, which has 32 bits on some systems.
_LONGEST_FIELD = (1 << 31) - 1
_BLOCK_CHARACTERS = 1 << 22

Block = tuple[list[int], list[list[str]]]
"""Numbers of some rows, and the wanted columns of them."""

RowBlock = tuple[list[int], list[list[str]]]
"""Numbers of some rows, and the rows."""


@dataclass(frozen=True)
class Table:
    """The columns of a table that were asked for; sequences are packed, others are text."""

    path: Path
    sequences: PackedSequences
    columns: dict[str, list[str]]
    """Stripped of spaces; "" where a value is missing."""

    rows: Ints
    """The number of each row, for people."""

    def where(self, i: int) -> str:
        """`train.csv row 12`."""
        return _row(self.path, self.rows, i)


def _row(path: Path, numbers: Sequence[int] | Ints, i: int) -> str:
    return f"{path.name} row {numbers[i]}"


def read_table(path: Path, sequence_column: str, columns: Sequence[str]) -> Table:
    """Read the sequences and some other columns of a table.

    Text is UTF-8 with a header; its columns are separated by tabs if the header has one, else by
    commas, else by semicolons. Blank lines are passed over. Both cases, U and IUPAC letters are
    read as tokenizer.encode does; the soft-mask is dropped.
    Raises FileNotFoundError, or InputError naming file and row: no such column, no rows, rows of
    other lengths than the header, no or empty sequences, damaged files, Excel workbooks.
    """
    wanted = list(dict.fromkeys([sequence_column, *columns]))
    packer, rows = Packer(), []
    kept: dict[str, list[str]] = {name: [] for name in columns}
    for numbers, block in _blocks(path, wanted):
        texts = [list(map(str.strip, column)) for column in block]
        lengths = np.fromiter(map(len, texts[0]), np.int64, len(numbers))
        letters = "".join(texts[0]).encode("latin-1", "replace")
        packer.add(letters, lengths, partial(_row, path, numbers))
        for name in kept:
            kept[name] += texts[wanted.index(name)]
        rows.append(np.array(numbers, np.int64))
    if not rows:
        raise InputError(f"{path} has no rows: expected a header and labelled sequences below it")
    return Table(path, packer.finish(path.name), kept, np.concatenate(rows))


def read_columns(path: Path, columns: Sequence[str]) -> tuple[dict[str, list[str]], Ints]:
    """Columns of a table without its sequences, and the number of each row for people.

    Values are text, stripped of spaces, "" where one is missing. Read as by `read_table`, whose
    errors it raises; a table without rows has empty columns.
    """
    wanted = list(dict.fromkeys(columns))
    kept: dict[str, list[str]] = {name: [] for name in wanted}
    rows = [np.empty(0, np.int64)]
    for numbers, block in _blocks(path, wanted):
        for name, column in zip(wanted, block, strict=True):
            kept[name] += map(str.strip, column)
        rows.append(np.array(numbers, np.int64))
    return kept, np.concatenate(rows)


def column_names(path: Path) -> list[str]:
    """What the header of a table names, in its order. Raises what `read_table` does of a file."""
    with _open_table(path) as (stream, is_parquet):
        if not is_parquet:
            return read_text_rows(path, stream)[0]
        with _refuse_bad_parquet(path):
            return list(_open_parquet(stream).schema_arrow.names)


def _blocks(path: Path, wanted: list[str]) -> Iterator[Block]:
    with _open_table(path) as (stream, is_parquet):
        read = _parquet_blocks if is_parquet else _text_blocks
        yield from read(path, stream, wanted)


@contextlib.contextmanager
def _open_table(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Its unpacked bytes, and whether they are parquet."""
    with open_input(path) as stream:
        head = stream.peek(8)[:8]
        is_parquet = head.startswith(b"PAR1")
        if is_parquet and compression_of(path) != "none":
            # Parquet is read from its end, which gzip can reach only by unpacking everything.
            yield io.BytesIO(stream.read()), True
            return
        if not is_parquet:
            _refuse_other_formats(path, head)
        yield stream, is_parquet


def _refuse_other_formats(path: Path, head: bytes) -> None:
    if not head:
        raise InputError(f"{path} is empty")
    if head.startswith(b"PK"):
        raise InputError(f"{path} is an Excel workbook or a zip: save the sheet as CSV (UTF-8)")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} is text in UTF-16: save it as CSV in UTF-8")
    if head.startswith(b">"):
        raise InputError(
            f"{path} is a FASTA: expected a table with a header. A FASTA for each class is given "
            "with --records LABEL=FILE"
        )


# --- text


def _text_blocks(path: Path, stream: BinaryIO, wanted: list[str]) -> Iterator[Block]:
    header, blocks = read_text_rows(path, stream)
    places = [place_column(path, header, name) for name in wanted]
    for numbers, rows in blocks:
        _refuse_lengths(path, numbers, rows, len(header))
        yield numbers, [list(map(itemgetter(i), rows)) for i in places]


def read_text_rows(
    path: Path, stream: BinaryIO, *, errors: str = "strict"
) -> tuple[list[str], Iterator[RowBlock]]:
    """The header of a CSV or TSV, and its rows, which may have more or fewer columns.

    A few MB are held at a time. path: for messages. errors: as of str.encode, for what is not
    UTF-8. Raises InputError, also while rows are read, for what is no such text.
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline="")
    with _refuse_bad_text(path), _long_fields():
        blank = 0
        while (first := text.readline()) and not first.strip():
            blank += 1
        delimiter = next((mark for mark in "\t,;" if mark in first), ",")
        # Strict: a quote that is never closed would swallow the rest of the file.
        reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
    if not header:
        raise InputError(f"{path} is empty")
    return header, _row_blocks(path, reader, blank + 2, len(header))


def _row_blocks(
    path: Path, reader: Iterator[list[str]], number: int, n_columns: int
) -> Iterator[RowBlock]:
    n_rows = 256
    with _refuse_bad_text(path), _long_fields():
        while rows := list(itertools.islice(reader, n_rows)):
            numbers = list(range(number, number + len(rows)))
            number += len(rows)
            if set(map(len, rows)) != {n_columns}:
                numbers, rows = _without_blanks(numbers, rows)
            if rows:
                yield numbers, rows
                size = sum(map(len, itertools.chain.from_iterable(rows))) // len(rows) + 1
                n_rows = min(max(_BLOCK_CHARACTERS // size, 1), 1 << 14)


@contextlib.contextmanager
def _refuse_bad_text(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def place_column(
    path: Path,
    header: Sequence[str],
    name: str,
    options: str = "--sequence-column and --label-columns",
) -> int:
    """Which column is called so; InputError where none or several are. options: name others."""
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise InputError(f"{path} has {header.count(name)} columns named {name!r}: rename them")
    shown = ", ".join(repr(one[:30]) for one in header[:12])
    more = f", ... ({len(header)} in all)" if len(header) > 12 else ""
    raise InputError(
        f"{path} has no column {name!r}; its first line names {shown}{more}. Name yours with "
        f"{options}, or add a first line with the names of the columns"
    )


def _without_blanks(numbers: list[int], rows: list[list[str]]) -> RowBlock:
    pairs = zip(numbers, rows, strict=True)
    kept = [(number, row) for number, row in pairs if len(row) > 1 or "".join(row).strip()]
    return [number for number, _ in kept], [row for _, row in kept]


def _refuse_lengths(path: Path, numbers: list[int], rows: list[list[str]], n_columns: int) -> None:
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != n_columns:
            raise InputError(
                f"{path.name} row {number} has {len(row)} columns, the header has {n_columns}: "
                f"{', '.join(row)[:60]!r}"
            )


# --- parquet


def _parquet_blocks(path: Path, stream: BinaryIO, wanted: list[str]) -> Iterator[Block]:
    with _refuse_bad_parquet(path):
        file = _open_parquet(stream)
        for name in wanted:
            place_column(path, file.schema_arrow.names, name)
        yield from _parquet_columns(path, file, wanted)


def read_parquet_rows(path: Path, stream: BinaryIO) -> tuple[list[str], Iterator[RowBlock]]:
    """The columns of text and numbers of a parquet file, and its rows, from 1.

    What is held is what pyarrow does of a row group, and a few MB. path: for messages. Raises
    InputError, also while rows are read, for what is no such file.
    """
    with _refuse_bad_parquet(path):
        file = _open_parquet(stream)
        names = file.schema_arrow.names
        plain = [field.name for field in file.schema_arrow if _is_plain(field.type)]
        header = [name for name in plain if names.count(name) == 1]
    return header, _parquet_rows(path, file, header)


def _parquet_rows(path: Path, file: Any, header: list[str]) -> Iterator[RowBlock]:
    with _refuse_bad_parquet(path):
        for numbers, columns in _parquet_columns(path, file, header):
            yield numbers, [list(row) for row in zip(*columns, strict=True)]


def _parquet_columns(path: Path, file: Any, wanted: list[str]) -> Iterator[Block]:
    number = 1
    for batch in file.iter_batches(batch_size=_batch_rows(file), columns=wanted):
        numbers = list(range(number, number + batch.num_rows))
        number += batch.num_rows
        if numbers:
            yield numbers, [_as_text(path, name, batch.column(name)) for name in wanted]


def _batch_rows(file: Any) -> int:
    """So many rows that about _BLOCK_CHARACTERS bytes are read at a time, at most 1024."""
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    size = max((one.total_byte_size // max(one.num_rows, 1) for one in groups), default=0)
    return min(max(_BLOCK_CHARACTERS // (size + 1), 1), 1024)


def _open_parquet(stream: BinaryIO) -> Any:
    from pyarrow import parquet

    return parquet.ParquetFile(stream)


@contextlib.contextmanager
def _refuse_bad_parquet(path: Path) -> Iterator[None]:
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"reading {path} needs pyarrow (pip install dnamamba[parquet]), which is not "
            "installed; a CSV is read without it"
        ) from error
    try:
        yield
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _as_text(path: Path, name: str, column: Any) -> list[str]:
    values = column.to_pylist()
    if any(isinstance(value, list | dict | bytes) for value in values):
        raise InputError(f"{path} column {name!r} holds {column.type}: expected text or numbers")
    return ["" if value is None else str(value) for value in values]
