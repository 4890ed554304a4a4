"""Tables of labelled sequences: CSV, TSV and parquet, plain or gzip, told apart by their content.

Rows are numbered as a spreadsheet shows them: in a text file the header is row 1.
"""

import contextlib
import csv
import gzip
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

import numpy as np

from dnamamba.data_prep.fasta import compression_of, open_existing, refuse_damage
from dnamamba.data_prep.sequences import Ints, PackedSequences, Packer
from dnamamba.errors import InputError

# A field may hold a chromosome. The limit is a C long, which has 32 bits on some systems.
_LONGEST_FIELD = (1 << 31) - 1
_BLOCK_CHARACTERS = 1 << 22

Block = tuple[list[int], list[list[str]]]
"""Numbers of some rows, and the wanted columns of them."""


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
    names: list[str] = []
    for _ in _blocks(path, [], names):
        break
    return names


def _blocks(path: Path, wanted: list[str], names: list[str] | None = None) -> Iterator[Block]:
    """names: a list that the header's names are put into before the first block."""
    names = [] if names is None else names
    with open_existing(path) as raw, refuse_damage(path):
        packed = compression_of(path) != "none"
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
        head = stream.peek(8)[:8]  # type: ignore[attr-defined]
        if head.startswith(b"PAR1"):
            # Parquet is read from its end, which gzip can reach only by unpacking everything.
            whole = io.BytesIO(stream.read()) if packed else stream
            yield from _parquet_blocks(path, whole, wanted, names)
        else:
            _refuse_other_formats(path, head)
            yield from _text_blocks(path, stream, wanted, names)


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


def _text_blocks(
    path: Path, stream: BinaryIO, wanted: list[str], names: list[str]
) -> Iterator[Block]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        with _long_fields():
            yield from _csv_blocks(path, text, wanted, names)
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


def _csv_blocks(path: Path, text: TextIO, wanted: list[str], names: list[str]) -> Iterator[Block]:
    blank = 0
    while (first := text.readline()) and not first.strip():
        blank += 1
    delimiter = next((mark for mark in "\t,;" if mark in first), ",")
    # Strict: a quote that is never closed would swallow the rest of the file.
    reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise InputError(f"{path} is empty")
    names += header
    places = [_place(path, header, name) for name in wanted]
    number, n_rows = blank + 2, 256
    while block := list(itertools.islice(reader, n_rows)):
        numbers = list(range(number, number + len(block)))
        number += len(block)
        if set(map(len, block)) != {len(header)}:
            numbers, block = _without_blanks(path, numbers, block, len(header))
        if block:
            yield numbers, [list(map(itemgetter(i), block)) for i in places]
            size = sum(map(len, itertools.chain.from_iterable(block))) // len(block) + 1
            n_rows = min(max(_BLOCK_CHARACTERS // size, 1), 1 << 14)


def _place(path: Path, header: list[str], name: str) -> int:
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise InputError(f"{path} has {header.count(name)} columns named {name!r}: rename them")
    _refuse_column(path, header, name)


def _refuse_column(path: Path, there: Sequence[str], name: str) -> NoReturn:
    shown = ", ".join(repr(one[:30]) for one in there[:12])
    more = f", ... ({len(there)} in all)" if len(there) > 12 else ""
    raise InputError(
        f"{path} has no column {name!r}; its first line names {shown}{more}. Name yours with "
        "--sequence-column and --label-columns, or add a first line with the names of the columns"
    )


def _without_blanks(
    path: Path, numbers: list[int], block: list[list[str]], n_columns: int
) -> tuple[list[int], list[list[str]]]:
    rows = zip(numbers, block, strict=True)
    kept = [(number, row) for number, row in rows if len(row) > 1 or "".join(row).strip()]
    for number, row in kept:
        if len(row) != n_columns:
            raise InputError(
                f"{path.name} row {number} has {len(row)} columns, the header has {n_columns}: "
                f"{', '.join(row)[:60]!r}"
            )
    return [number for number, _ in kept], [row for _, row in kept]


# --- parquet


def _parquet_blocks(
    path: Path, stream: BinaryIO, wanted: list[str], names: list[str]
) -> Iterator[Block]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"reading {path} needs pyarrow (pip install dnamamba[parquet]), which is not "
            "installed; a CSV is read without it"
        ) from error
    try:
        file = parquet.ParquetFile(stream)
        names += file.schema_arrow.names
        for name in wanted:
            _place(path, names, name)
        number = 1
        for batch in file.iter_batches(batch_size=1024, columns=wanted):
            numbers = list(range(number, number + batch.num_rows))
            number += batch.num_rows
            if numbers:
                yield numbers, [_as_text(path, name, batch.column(name)) for name in wanted]
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as parquet: {error}") from error


def _as_text(path: Path, name: str, column: Any) -> list[str]:
    values = column.to_pylist()
    if any(isinstance(value, list | dict | bytes) for value in values):
        raise InputError(f"{path} column {name!r} holds {column.type}: expected text or numbers")
    return ["" if value is None else str(value) for value in values]
