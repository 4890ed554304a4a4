"""Tables of sequences (CSV, TSV, parquet) as rows, each like a record of a FASTA."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dnamamba.data_prep.regions.rows import (
    RegionRow,
    RegionTable,
    RowStatus,
    WindowRule,
    fit_columns,
    record_row,
)
from dnamamba.data_prep.regions.text_input import DEFAULT_SEQUENCE_COLUMN, TextInput
from dnamamba.data_prep.tables import Block, place_column, read_rows
from dnamamba.tokenizer import Codes, encode

_OPTIONS = "--sequence-column and --name-column"


def read_sequence_table(
    text: TextInput, rule: WindowRule, sequence_column: str | None, name_column: str | None
) -> RegionTable:
    """A row for each of the table, in its order, numbered as in a spreadsheet.

    Columns are the table's without the sequence; in parquet those of text and numbers.
    sequence_column: default `sequence`. name_column: default `name`, if there is one.
    Raises InputError for a missing column.
    """
    path = Path(text.name)
    # Bytes that are not UTF-8 stay in names.
    header, blocks = read_rows(text, errors="surrogateescape")
    sequence = place_column(path, header, sequence_column or DEFAULT_SEQUENCE_COLUMN, _OPTIONS)
    name: int | None = None
    if name_column is not None or header.count("name") == 1:
        name = place_column(path, header, name_column or "name", _OPTIONS)
    columns = tuple(header[:sequence] + header[sequence + 1 :])
    rule = replace(rule, widen=False)
    rows = _rows(blocks, len(header), sequence, name, rule)
    return RegionTable(columns, rows, has_surroundings=False)


def _rows(
    blocks: Iterator[Block],
    n_columns: int,
    sequence: int,
    name: int | None,
    rule: WindowRule,
) -> Iterator[RegionRow]:
    for numbers, rows in blocks:
        for number, row in zip(numbers, rows, strict=True):
            fields, _ = fit_columns(row, n_columns)
            columns = fields[:sequence] + fields[sequence + 1 :]
            called = fields[name].strip() if name is not None else ""
            if len(row) != n_columns:
                note = f"{len(row)} columns, the header has {n_columns}"
                yield RegionRow(number, columns, RowStatus.UNREADABLE, note, name=called)
            else:
                yield record_row(number, columns, called, _codes(fields[sequence]), rule)


def _codes(letters: str) -> Codes:
    return encode(letters.encode("latin-1", "replace").translate(None, b"\r\n\t "))
