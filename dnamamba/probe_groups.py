"""Which labelled rows must stay in one fold: what resembles each other, or is the same row."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnamamba.data.label_splits import overlap_groups
from dnamamba.data_prep.sequences import Ints
from dnamamba.embedding_labels import MISSING, JoinedLabels
from dnamamba.errors import InputError

GroupBy = Literal["chrom", "overlap", "none"]


def group_rows(
    joined: JoinedLabels, table: Mapping[str, NDArray[Any]], group_by: GroupBy | None
) -> tuple[list[str] | None, str]:
    """The name of the group of each labelled row, None where every row stands by itself; and a
    sentence that says what the groups are.

    group_by: None takes the table's column of groups where one was asked for, else regions that
    overlap, where there are any. Embeddings that share a row of the table are in one group.
    """
    if joined.groups is not None:
        if group_by is not None:
            raise InputError(
                "groups are those of a column (--group-column) or of regions (--group-by): leave "
                "one of the two out"
            )
        names: list[str] | None = _column_groups(joined)
        about = "Groups are those of the table's column"
    elif group_by == "chrom":
        names, about = [str(table["chrom"][row]) for row in joined.rows], "Groups are contigs"
    elif group_by == "none":
        names, about = None, "Every row stands by itself, whether regions overlap or not"
    else:
        names, about = _overlapping(joined.rows, table), "Groups are regions that overlap"
        if group_by is None and names is not None and len(set(names)) == len(names):
            names = None
        if names is None:
            about = "Every row stands by itself: no regions overlap"
    if joined.counts["sharing"] and group_by != "none":
        names = merged(names, [str(row) for row in joined.table_rows])
        about += ", and rows of one label"
    if names is None:
        return None, about + "."
    return names, f"{about}; none is torn between folds ({len(set(names)):,} groups)."


def _column_groups(joined: JoinedLabels) -> list[str]:
    """A row without a group is one of its own."""
    assert joined.groups is not None, "asked for"
    return [
        f"row {joined.table_rows[i]}" if name in MISSING else name
        for i, name in enumerate(joined.groups)
    ]


def _overlapping(rows: Ints, table: Mapping[str, NDArray[Any]]) -> list[str]:
    """Regions named by where the first they overlap with begins; rows without one are alone, but
    for those of one name."""
    names = [str(table["name"][row]) or f"row {row + 1}" for row in rows]
    starts, ends = _bases_read(rows, table)
    placed = np.flatnonzero((starts >= 0) & (ends > starts))
    if len(placed):
        contigs = [str(table["chrom"][row]) for row in rows[placed]]
        groups = overlap_groups(contigs, starts[placed], ends[placed])
        first: dict[int, str] = {}
        order = sorted(range(len(placed)), key=lambda i: (contigs[i], starts[placed[i]]))
        for i in order:
            first.setdefault(int(groups[i]), f"{contigs[i]}:{starts[placed[i]]}")
        for i, place in enumerate(placed.tolist()):
            names[place] = first[int(groups[i])]
    return names


def _bases_read(rows: Ints, table: Mapping[str, NDArray[Any]]) -> tuple[Ints, Ints]:
    """From where to where: of variants and of regions with context more than the region."""
    starts, ends = (np.asarray(table[name], np.int64)[rows] for name in ("start", "end"))
    if "window_start" not in table:
        return starts, ends
    first, last = (
        np.asarray(table[name], np.int64)[rows] for name in ("window_start", "window_end")
    )
    is_read = first >= 0
    return (
        np.where(is_read, np.minimum(starts, first), starts),
        np.where(is_read, np.maximum(ends, last), ends),
    )


def merged(names: Sequence[str] | None, others: Sequence[str]) -> list[str]:
    """Groups of rows that share a name of either kind, directly or through others.

    Named by the first of their names in the order of text, whatever the order of rows.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    names = others if names is None else names
    n = len(names)
    columns = [np.unique(np.array(part), return_inverse=True)[1] for part in (names, others)]
    columns[1] = columns[1] + columns[0].max() + 1
    rows = np.tile(np.arange(n), 2)
    edges = (rows, np.concatenate(columns) + n)
    size = n + int(columns[1].max()) + 1
    graph = coo_matrix((np.ones(2 * n, bool), edges), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:n]
    smallest: dict[int, str] = {}
    for group, name in zip(component.tolist(), names, strict=True):
        smallest[group] = min(name, smallest.get(group, name))
    return [smallest[group] for group in component.tolist()]


def numbered(names: Sequence[str]) -> Ints:
    """(n,): the number of each row's group, from 0 up."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
