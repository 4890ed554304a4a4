"""Tables of sequences and labels: CSV, TSV and parquet, plain or gzip, told apart by content.

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
from typing import Any

import numpy as np

from dnamamba.data_prep.regions.text_input import TextInput, open_text
from dnamamba.data_prep.sequences import Ints, PackedSequences, Packer
from dnamamba.errors import InputError
from dnamamba.files import first_of, refuse_damage

# A field may hold a chromosome. The limit is a C long, which has 32 bits on some systems.
_LONGEST_FIELD = (1 << 31) - 1
_BLOCK_CHARACTERS = 1 << 22

Block = tuple[list[int], list[list[str]]]
"""Numbers of thousands of rows, and their rows or columns."""


@dataclass(frozen=True)
class Table:
    """Columns of a table.

    columns: text, stripped of spaces; "" for missing values. rows: the number of each, for people.
    """

    path: Path
    sequences: PackedSequences
    columns: dict[str, list[str]]
    rows: Ints

    def where(self, i: int) -> str:
        """`train.csv row 12`."""
        return _row(self.path, self.rows, i)


def _row(path: Path, numbers: Sequence[int] | Ints, i: int) -> str:
    return f"{path.name} row {numbers[i]}"


def read_table(path: Path, sequence_column: str, columns: Sequence[str]) -> Table:
    """Read the sequences and some other columns of a table.

    Text is UTF-8 with a header; tabs separate its columns if the header has one, else commas, else
    semicolons. Blank lines are skipped. Letters are read by tokenizer.encode, without soft-mask.
    Raises FileNotFoundError, or InputError naming file and row for missing columns, no rows, uneven
    rows, empty or unreadable sequences, damaged files and other formats.
    """
    wanted = list(dict.fromkeys([sequence_column, *columns]))
    packer, rows = Packer(), []
    kept: dict[str, list[str]] = {name: [] for name in columns}
    for numbers, block in _read_blocks(path, wanted):
        lengths = np.fromiter(map(len, block[0]), np.int64, len(numbers))
        letters = "".join(block[0]).encode("latin-1", "replace")
        packer.add(letters, lengths, partial(_row, path, numbers))
        for name in kept:
            kept[name] += block[wanted.index(name)]
        rows.append(np.array(numbers, np.int64))
    if not rows:
        raise InputError(f"{path} has no rows: expected a header and labelled sequences below it")
    return Table(path, packer.finish(path.name), kept, np.concatenate(rows))


def read_columns(path: Path, columns: Sequence[str]) -> tuple[dict[str, list[str]], Ints]:
    """Columns of a table as stripped text, "" if missing, and the number of each row for people.

    Reads and raises as `read_table` does, but gives empty columns for a table without rows.
    """
    kept: dict[str, list[str]] = {name: [] for name in columns}
    rows = [np.empty(0, np.int64)]
    for numbers, block in _read_blocks(path, list(kept)):
        for values, column in zip(kept.values(), block, strict=True):
            values += column
        rows.append(np.array(numbers, np.int64))
    return kept, np.concatenate(rows)


def column_names(path: Path) -> list[str]:
    """Names in the header of a table, in order. Raises as `read_table` does for files."""
    with _open_table(path) as text:
        return read_rows(text)[0]


@contextlib.contextmanager
def _open_table(path: Path) -> Iterator[TextInput]:
    with open_text(path) as text:
        if text.head.startswith(b">"):
            raise InputError(
                f"{path} is a FASTA: expected a table with a header. A FASTA for each class is "
                "given with --records LABEL=FILE"
            )
        yield text


def _read_blocks(path: Path, wanted: list[str]) -> Iterator[Block]:
    """Numbers of rows and the wanted columns of them, stripped; InputError for uneven rows."""
    with _open_table(path) as text:
        header, blocks = read_rows(text, wanted)
        positions = [find_column(path, header, name) for name in wanted]
        for numbers, rows in blocks:
            for number, row in zip(numbers, rows, strict=True):
                if len(row) != len(header):
                    raise InputError(
                        f"{path.name} row {number} has {len(row)} columns, the header has "
                        f"{len(header)}: {', '.join(row)[:60]!r}"
                    )
            yield numbers, [list(map(str.strip, map(itemgetter(i), rows))) for i in positions]


def read_rows(
    text: TextInput, columns: Sequence[str] | None = None, *, errors: str = "strict"
) -> tuple[list[str], Iterator[Block]]:
    """The header of a table, and its rows, which may be uneven in a text; a few MB at a time.

    columns: those to read of parquet; default all of text and numbers. errors: as in bytes.decode,
    for bytes that are not UTF-8. Raises InputError, also while rows are read, for damaged files and
    texts that are no tables.
    """
    path = Path(text.name)
    return _read_parquet(path, text, columns) if text.is_parquet else _read_csv(path, text, errors)


def find_column(
    path: Path,
    header: Sequence[str],
    name: str,
    options: str = "--sequence-column and --label-columns",
) -> int:
    """The position of a column; InputError unless there is just one. options: to name others."""
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise InputError(f"{path} has {header.count(name)} columns named {name!r}: rename them")
    shown = first_of([repr(other[:30]) for other in header], 12)
    raise InputError(
        f"{path} has no column {name!r}; its first line names {shown}. Name yours with "
        f"{options}, or add a first line with the names of the columns"
    )


# --- text


def _read_csv(path: Path, table: TextInput, errors: str) -> tuple[list[str], Iterator[Block]]:
    text = io.TextIOWrapper(table.stream, encoding="utf-8-sig", errors=errors, newline="")
    with _refuse_bad_text(path):
        blank = 0
        while (first := text.readline()) and not first.strip():
            blank += 1
        delimiter = next((mark for mark in "\t,;" if mark in first), ",")
        # Strict: a quote that is never closed would swallow the rest of the file.
        reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
    if not header:
        raise InputError(f"{path} is empty")
    return header, _csv_blocks(path, reader, blank + 2, len(header))


def _csv_blocks(
    path: Path, reader: Iterator[list[str]], number: int, n_columns: int
) -> Iterator[Block]:
    n_rows = 256
    with _refuse_bad_text(path):
        while rows := list(itertools.islice(reader, n_rows)):
            numbers = list(range(number, number + len(rows)))
            number += len(rows)
            if set(map(len, rows)) != {n_columns}:
                blank = [len(row) < 2 and not "".join(row).strip() for row in rows]
                numbers = [n for n, is_blank in zip(numbers, blank, strict=True) if not is_blank]
                rows = [row for row, is_blank in zip(rows, blank, strict=True) if not is_blank]
            if rows:
                yield numbers, rows
                size = sum(map(len, itertools.chain.from_iterable(rows))) // len(rows) + 1
                n_rows = min(max(_BLOCK_CHARACTERS // size, 1), 1 << 14)


@contextlib.contextmanager
def _refuse_bad_text(path: Path) -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with refuse_damage(path):
            yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    finally:
        csv.field_size_limit(before)


# --- parquet


def _read_parquet(
    path: Path, text: TextInput, columns: Sequence[str] | None
) -> tuple[list[str], Iterator[Block]]:
    with _refuse_bad_parquet(path):
        from pyarrow import parquet, types

        file = parquet.ParquetFile(text.seekable())
        names = file.schema_arrow.names
        for name in columns or ():
            find_column(path, names, name)
        has_no_text = (types.is_nested, types.is_binary, types.is_large_binary)
        header = [
            field.name
            for field in file.schema_arrow
            if names.count(field.name) == 1 and not any(test(field.type) for test in has_no_text)
        ]
    header = header if columns is None else list(columns)
    return header, _parquet_blocks(path, file, header)


def _parquet_blocks(path: Path, file: Any, header: list[str]) -> Iterator[Block]:
    # About _BLOCK_CHARACTERS bytes at a time, at most 1024 rows.
    groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    size = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    n_rows = min(max(_BLOCK_CHARACTERS // (size + 1), 1), 1024)
    number = 1
    with _refuse_bad_parquet(path):
        for batch in file.iter_batches(batch_size=n_rows, columns=header):
            numbers = list(range(number, number + batch.num_rows))
            number += batch.num_rows
            if numbers:
                columns = [_as_text(path, name, batch.column(name)) for name in header]
                rows = [list(row) for row in zip(*columns, strict=True)]
                yield numbers, rows or [[] for _ in numbers]


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
        with refuse_damage(path):
            yield
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def _as_text(path: Path, name: str, column: Any) -> list[str]:
    values = column.to_pylist()
    if any(isinstance(value, list | dict | bytes) for value in values):
        raise InputError(f"{path} column {name!r} holds {column.type}: expected text or numbers")
    return ["" if value is None else str(value) for value in values]
