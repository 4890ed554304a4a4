"""Tables of sequences (CSV, TSV, parquet) as rows, each like a record of a FASTA."""

from dataclasses import replace
from itertools import chain
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
from dnamamba.data_prep.tables import find_column, read_rows
from dnamamba.tokenizer import encode

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
    sequence = find_column(path, header, sequence_column or DEFAULT_SEQUENCE_COLUMN, _OPTIONS)
    name: int | None = None
    if name_column is not None or header.count("name") == 1:
        name = find_column(path, header, name_column or "name", _OPTIONS)
    columns = tuple(header[:sequence] + header[sequence + 1 :])
    rule = replace(rule, widen=False)

    def make_row(number: int, row: list[str]) -> RegionRow:
        fields, _ = fit_columns(row, len(header))
        cells = fields[:sequence] + fields[sequence + 1 :]
        called = fields[name].strip() if name is not None else ""
        if len(row) != len(header):
            note = f"{len(row)} columns, the header has {len(header)}"
            return RegionRow(number, cells, RowStatus.UNREADABLE, note, name=called)
        letters = fields[sequence].encode("latin-1", "replace").translate(None, b"\r\n\t ")
        return record_row(number, cells, called, encode(letters), rule)

    rows = chain.from_iterable(map(make_row, *block) for block in blocks)
    return RegionTable(columns, rows, has_surroundings=False)
