"""Join labels of a table to the rows of an embeddings file: by name, by region or by order.

Rows without a match, repeated rows and rows without a label are counted for the report.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.sequences import Ints
from dnamamba.data_prep.tables import column_names, read_columns
from dnamamba.errors import InputError
from dnamamba.files import first_of

Join = Literal["name", "region", "row"]

MISSING = frozenset(("", "nan", "NaN", "NA", "N/A", "None", "null"))
"""Texts of a label that is not known."""

_REGION = (
    ("chrom", "#chrom", "chr", "#chr", "contig", "seqname", "seqnames", "chromosome"),
    ("start", "chromStart", "chrom_start", "Start"),
    ("end", "chromEnd", "chrom_end", "End", "stop"),
)
"""Names of the columns of a region."""

COUNTS = {
    "rows": "rows of embeddings",
    "table_rows": "rows of the table of labels",
    "used": "rows with an embedding and a label, which are used",
    "failed": "rows whose embedding failed, left out",
    "without_label_row": "embeddings that no row of the table belongs to, left out",
    "without_label": "embeddings whose label is missing, left out",
    "without_embedding": "rows of the table that no row of embeddings belongs to, left out",
    "repeated": "rows of the table that repeat an earlier one, left out",
    "contradicting": "rows of the table whose key also has other values there, left out",
    "sharing": "embeddings that share their row of the table with another; they stay in one fold",
}
"""What is counted of a join, in words."""


class EmbeddedTable(Protocol):
    """What a probe reads from an embeddings file (embedding/reader.py has it)."""

    @property
    def vectors(self) -> Any:
        """(N, D) or (N, bins, D) of one layer: an array, or what numpy makes one of."""
        ...

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(N,): whether a row has vectors."""
        ...

    @property
    def table(self) -> Mapping[str, NDArray[Any]]:
        """Columns of N values: chrom, start, end, strand, name, status; -1 for a coordinate that
        is not known."""
        ...


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The columns of a table that are read, and how its rows are joined to embeddings."""

    path: Path
    label_column: str = "label"
    name_column: str = "name"
    group_column: str | None = None
    split_column: str | None = None
    join: Join | None = None
    """None: by name if the table has such a column, else by region if it has chrom, start and end,
    else by order."""

    def __post_init__(self) -> None:
        if self.join is not None and self.join not in get_args(Join):
            raise InputError(f"join must be one of {', '.join(get_args(Join))}, got {self.join!r}")


@dataclass(frozen=True)
class JoinedLabels:
    """Rows of embeddings that have a label, in the file's order."""

    source: Path
    join: Join
    rows: Ints
    """(n,): which rows of the embeddings file."""

    table_rows: Ints
    """(n,): their rows in the table, counted as people do."""

    labels: list[str]
    groups: list[str] | None
    splits: list[str] | None
    counts: dict[str, int]
    """By the names of COUNTS."""

    def where(self, i: int) -> str:
        """`labels.tsv row 12`."""
        return f"{self.source.name} row {self.table_rows[i]}"

    def described(self) -> list[str]:
        """A line for each kind of row there is."""
        return [f"{self.counts[key]:,} {text}" for key, text in COUNTS.items() if self.counts[key]]


def join_labels(embedded: EmbeddedTable, labels: LabelTable) -> JoinedLabels:
    """Find the row of the table that belongs to each row of embeddings.

    A row of the table may belong to several embeddings. Raises InputError for columns that are not
    there, for different numbers of rows to join by order, and if nothing matches, with examples of
    both sides.
    """
    names = column_names(labels.path)
    join = labels.join or _choose_join(names, labels, len(embedded.ok))
    keys: list[str] = []
    if join == "name":
        keys = [labels.name_column]
    elif join == "region":
        keys = [next((a for a in aliases if a in names), aliases[0]) for aliases in _REGION]
    values = [labels.label_column, *filter(None, (labels.group_column, labels.split_column))]
    for name in (*keys, *values):
        _require(name, names, labels.path)
    columns, numbers = read_columns(labels.path, [*keys, *values])
    if not len(numbers):
        raise InputError(f"{labels.path} has no rows: expected a header and labels below it")
    counts = dict.fromkeys(COUNTS, 0) | {"rows": len(embedded.ok), "table_rows": len(numbers)}
    texts = [tuple(row) for row in zip(*(columns[name] for name in values), strict=True)]
    own, theirs = _keys(embedded, columns, keys, join, labels.path, numbers)
    index = _index(theirs, texts, counts)
    match = np.array([index.get(key, -1) for key in own], np.int64)
    if not (match >= 0).any():
        _refuse_no_match(own, theirs, join, labels.path)
    found = set(own)
    counts["without_embedding"] = sum(key not in found for key in theirs)
    return _joined(embedded, labels, join, match, (columns, numbers), counts)


def _joined(
    embedded: EmbeddedTable,
    labels: LabelTable,
    join: Join,
    match: Ints,
    table: tuple[dict[str, list[str]], Ints],
    counts: dict[str, int],
) -> JoinedLabels:
    """match: (N,) the table's row of each embedding, -1 for none."""
    columns, numbers = table
    ok = np.asarray(embedded.ok, bool)
    missing = np.array([text in MISSING for text in columns[labels.label_column]])
    has_row, has_label = match >= 0, (match >= 0) & ~missing[match]
    counts["failed"] = int((~ok).sum())
    counts["without_label_row"] = int((ok & ~has_row).sum())
    counts["without_label"] = int((ok & has_row & ~has_label).sum())
    rows = np.flatnonzero(ok & has_label)
    counts["used"] = len(rows)
    if not len(rows):
        raise InputError(
            f"no embedding has a label: of {len(ok):,} rows {counts['failed']:,} failed, "
            f"{counts['without_label_row']:,} are not in {labels.path.name} and "
            f"{counts['without_label']:,} have nothing in column {labels.label_column!r}"
        )
    taken = match[rows]
    counts["sharing"] = int(np.sum(np.bincount(taken)[taken] > 1))

    def picked(name: str | None) -> list[str] | None:
        return None if name is None else [columns[name][i] for i in taken]

    return JoinedLabels(
        source=labels.path,
        join=join,
        rows=rows,
        table_rows=numbers[taken],
        labels=picked(labels.label_column) or [],
        groups=picked(labels.group_column),
        splits=picked(labels.split_column),
        counts=counts,
    )


# --- which row belongs to which


def _choose_join(names: Sequence[str], labels: LabelTable, n_rows: int) -> Join:
    if labels.name_column in names:
        return "name"
    if labels.name_column != LabelTable.name_column:
        _require(labels.name_column, names, labels.path)
    if all(set(aliases) & set(names) for aliases in _REGION):
        return "region"
    _, numbers = read_columns(labels.path, [])
    if len(numbers) == n_rows:
        return "row"
    raise InputError(
        f"{labels.path} has no column {labels.name_column!r}, none of chrom, start and end, and "
        f"{len(numbers):,} rows for {n_rows:,} embeddings, so its rows cannot be "
        f"joined to any. Its columns are {_list_keys(names)}: name one with --name-column"
    )


def _require(name: str, names: Sequence[str], path: Path) -> None:
    if name not in names:
        raise InputError(
            f"{path} has no column {name!r}; its first line names {_list_keys(names)}. Name yours "
            "with --label-column, --name-column, --group-column or --split-column, or add a first "
            "line with the names of the columns"
        )


def _keys(
    embedded: EmbeddedTable,
    columns: Mapping[str, Sequence[str]],
    keys: Sequence[str],
    join: Join,
    path: Path,
    numbers: Ints,
) -> tuple[list[Any], list[Any]]:
    """The key of every embedding (None of those without one) and of every row of the table."""
    table, n = embedded.table, len(embedded.ok)
    if join == "row":
        if n != len(numbers):
            raise InputError(
                f"rows are joined by their order only if both sides have as many: {n:,} rows of "
                f"embeddings, {len(numbers):,} in {path}. Join by name or by region"
            )
        return list(range(n)), list(range(n))
    if join == "name":
        own = [str(name) or None for name in table["name"].tolist()]
        return own, list(columns[keys[0]])
    chroms, starts, ends = (columns[name] for name in keys)
    theirs = []
    for i, (chrom, start, end) in enumerate(zip(chroms, starts, ends, strict=True)):
        try:
            theirs.append((chrom, int(start.replace(",", "")), int(end.replace(",", ""))))
        except ValueError:
            raise InputError(
                f"{path.name} row {numbers[i]}: expected whole numbers as {keys[1]} and {keys[2]}, "
                f"got {start!r} and {end!r}"
            ) from None
    regions = zip(*(table[name].tolist() for name in ("chrom", "start", "end")), strict=True)
    return [(str(c), int(s), int(e)) if s >= 0 else None for c, s, e in regions], theirs


def _index(
    keys: Sequence[Any], texts: Sequence[tuple[str, ...]], counts: dict[str, int]
) -> dict[Any, int]:
    """Key -> row of the table, for keys that are there once or always with the same values."""
    index: dict[Any, int] = {}
    contradicted: dict[Any, int] = {}
    for i, key in enumerate(keys):
        if key in contradicted:
            contradicted[key] += 1
        elif key not in index:
            index[key] = i
        elif texts[index[key]] == texts[i]:
            counts["repeated"] += 1
        else:
            # Which row of that key is right is unknown, so none is used.
            contradicted[key] = 2
    counts["contradicting"] = sum(contradicted.values())
    for key in contradicted:
        del index[key]
    return index


def _refuse_no_match(own: Sequence[Any], theirs: Sequence[Any], join: Join, path: Path) -> None:
    ours = list(dict.fromkeys(key for key in own if key is not None))
    if not ours:
        raise InputError(
            f"the embeddings have no {join}s to join {path.name} by: join by "
            f"{'region or row' if join == 'name' else 'name or row'} (--join)"
        )
    message = (
        f"no {join} of {path.name} is one of the embeddings': it has "
        f"{_list_keys(dict.fromkeys(theirs))}, the embeddings have {_list_keys(ours)}"
    )
    if set(theirs) & set(ours):
        message += ". The table has several values for each that both have"
    elif join == "region" and {(c, s - 1, e) for c, s, e in theirs} & set(ours):
        message += ". The table counts from 1, but starts must be 0-based: take 1 off each"
    else:
        message += ". Name the column that holds them (--name-column), or choose another --join"
    raise InputError(message)


def _list_keys(keys: Iterable[Any]) -> str:
    texts = (key if isinstance(key, str) else "{} {} {}".format(*key) for key in keys)
    return first_of((repr(text[:40]) for text in texts), 4)
