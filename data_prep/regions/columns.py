"""Regions and variants in the columns of a table in memory, as rows.

A table is a DataFrame of pandas or polars, a table of pyarrow, or a mapping of names to sequences.
Its rows were written by a program, so one that makes no sense raises InputError with its number.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import index
from typing import Any

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.allele_windows import same_flanks
from dnamamba.data_prep.regions.rows import (
    WITHOUT_SEQUENCE,
    Located,
    RegionRow,
    RegionTable,
    WindowRule,
    locate,
    located_row,
    unreadable,
)
from dnamamba.data_prep.regions.vcf import line_rows
from dnamamba.errors import InputError
from dnamamba.intervals import Strand

REGION_COLUMNS = ("chrom", "start", "end", "strand")
VARIANT_COLUMNS = ("chrom", "pos", "ref", "alt")


def is_table(source: object) -> bool:
    """Whether an object has named columns."""
    return isinstance(source, Mapping) or hasattr(source, "columns")


def read_region_columns(table: Any, genome: Genome, rule: WindowRule) -> RegionTable:
    """Rows of a table of regions; `line` counts from 0.

    Columns chrom, start and end, 0-based and half-open as in BED, and perhaps strand (+, - or .).
    Raises InputError for a table without them and, while rows are read, for a region that does not
    lie on its contig.
    """
    has_strand = "strand" in _names(table)
    columns = _columns(table, REGION_COLUMNS[: 4 if has_strand else 3], "regions")
    if not has_strand:
        columns.append(["."] * len(columns[0]))
    return RegionTable(REGION_COLUMNS, _region_rows(columns, genome, rule))


def _region_rows(
    columns: Sequence[Sequence[Any]], genome: Genome, rule: WindowRule
) -> Iterator[RegionRow]:
    for number, (chrom, start, end, strand) in enumerate(zip(*columns, strict=True)):
        find = partial(_locate, chrom, start, end, strand, genome)
        cells = (str(chrom), str(start), str(end), str(strand))
        row = located_row(number, cells, "", find, genome, rule)
        if row.status in WITHOUT_SEQUENCE:
            raise InputError(f"row {number} ({chrom}:{start}-{end}): {row.note}")
        yield row


def _locate(chrom: Any, start: Any, end: Any, strand: Any, genome: Genome) -> Located:
    first, last = _whole_number(start, "start"), _whole_number(end, "end")
    if strand not in tuple(Strand):
        raise unreadable(f"strand must be +, - or ., got {strand!r}")
    located = locate(str(chrom), first, last, strand, genome)
    if located.is_clipped:
        raise unreadable("; ".join(located.notes))
    return located


def _whole_number(value: Any, name: str) -> int:
    try:
        number = index(value)
    except TypeError:
        raise unreadable(f"{name} must be a whole number, got {value!r}") from None
    if number < 0:
        raise unreadable(f"{name} must be >= 0, got {number}")
    return number


def read_variant_columns(table: Any, genome: Genome, rule: WindowRule) -> Iterator[RegionRow]:
    """A row for each of a table of variants, in its order; `line` counts from 0.

    Columns chrom, pos (from 1, as in VCF), ref and alt (one allele a row). A fault of a row, such
    as a ref that the genome does not have, is noted in the row. Raises InputError for a table
    without these columns, and for several alleles in a row.
    """
    columns = _columns(table, VARIANT_COLUMNS, "variants")
    for number, (chrom, pos, ref, alt) in enumerate(zip(*columns, strict=True)):
        line = f"{chrom}\t{pos}\t.\t{ref}\t{alt}"
        rows = list(line_rows(number, line, genome, rule, same_flanks))
        if len(rows) != 1:
            raise InputError(f"row {number}: alt must be one allele, got {alt!r}: give each a row")
        yield from rows


def _columns(table: Any, names: Sequence[str], what: str) -> list[Sequence[Any]]:
    found = _names(table)
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"a table of {what} needs the columns {', '.join(names)}, but there is no "
            f"{', '.join(missing)} among {', '.join(map(str, found)) or 'none'}: rename them; for "
            "sequences give their column alone"
        )
    columns = [_column(table, name) for name in names]
    if len({len(column) for column in columns}) > 1:
        sizes = ", ".join(
            f"{name} {len(column)}" for name, column in zip(names, columns, strict=True)
        )
        raise InputError(f"columns of a table must be equally long, got {sizes}")
    return columns


def _names(table: Any) -> list[Any]:
    # In pyarrow `columns` are the values.
    if hasattr(table, "column_names"):
        return list(table.column_names)
    return list(table.columns if hasattr(table, "columns") else table)


def _column(table: Any, name: str) -> Sequence[Any]:
    values = table[name]
    for method in ("tolist", "to_pylist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)
