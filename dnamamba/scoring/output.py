"""Scores of variants, written into the VCF that they come from, or as a table."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import quote

import numpy as np

from dnamamba import __version__
from dnamamba.data_prep.regions.rows import RegionRow, RowStatus, split_columns
from dnamamba.data_prep.regions.vcf import ROW_COLUMNS, VCF_COLUMNS, VariantFile, VariantLine
from dnamamba.errors import InputError
from dnamamba.files import PACKED, open_output, table_line
from dnamamba.models.language_model import DnaModel
from dnamamba.runtime import logger
from dnamamba.scoring.variants import ScoreOptions, VariantScore, score_rows

OutputFormat = Literal["vcf", "tsv"]
Scored = tuple[RegionRow, VariantScore | None]


@dataclass(frozen=True)
class InfoField:
    """A field of INFO, one value an allele. score: its name in VariantScore and in a table."""

    id: str
    type: Literal["Float", "String"]
    description: str
    score: str = ""

    def header(self) -> str:
        return (
            f'##INFO=<ID={self.id},Number=A,Type={self.type},Description="{self.description}",'
            f'Source="dnamamba",Version="{__version__}">'
        )


_OF_BOTH_WAYS = (
    "log p of the alternative base less that of the reference's, natural logarithm, where the base "
    "is hidden from the model"
)


def info_fields(*, is_causal: bool) -> list[InfoField]:
    """What is written into INFO, in this order."""
    ratio = (
        "log-likelihood of the window with the allele less that with the reference, natural "
        "logarithm; a sum over more bases is lower by itself: compare alleles of other lengths by "
        "DNAMAMBA_LLR_PER_BASE"
    )
    mean = (
        "mean log p of a base of the window with the allele less that of the window with the "
        "reference, natural logarithm"
    )
    cosine = "1 - cosine of both windows' mean final hidden states"
    euclidean = "Euclidean distance between both windows' mean final hidden states"
    status = (
        "how the allele was read: ok, shifted (window moved into the contig), padded, clipped; "
        "not scored: ref_mismatch, unreadable"
    )
    note = "more of the status, percent-encoded"
    if not is_causal:
        ratio, mean = _OF_BOTH_WAYS, f"the same as DNAMAMBA_LLR: {_OF_BOTH_WAYS}"
    return [
        InfoField("DNAMAMBA_LLR", "Float", ratio, "llr"),
        InfoField("DNAMAMBA_LLR_PER_BASE", "Float", mean, "llr_per_base"),
        InfoField("DNAMAMBA_COSINE_DISTANCE", "Float", cosine, "cosine_distance"),
        InfoField("DNAMAMBA_EUCLIDEAN_DISTANCE", "Float", euclidean, "euclidean_distance"),
        InfoField("DNAMAMBA_STATUS", "String", status),
        InfoField("DNAMAMBA_NOTE", "String", note),
    ]


def format_of_output(out: Path) -> OutputFormat:
    """vcf or tsv, by a file's name. Raises InputError for other names."""
    name = out.with_suffix("").name if out.suffix in PACKED else out.name
    for ending in ("vcf", "tsv"):
        if name.endswith(f".{ending}"):
            return ending
    raise InputError(
        f"{out} is named neither .vcf nor .tsv (or .vcf.gz, .tsv.gz): name it so, or say which "
        "(--format)"
    )


def write_scores(
    model: DnaModel,
    variants: VariantFile,
    out: Path | BinaryIO,
    options: ScoreOptions | None = None,
    *,
    output_format: OutputFormat,
    about: Mapping[str, str] | None = None,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> Counter[RowStatus]:
    """Write what `score_rows` finds, and count the alleles' statuses.

    vcf: the header and the records of the input in their order, as they are but for tabs between
    columns and fields added to INFO, which the header describes; those of an earlier scoring are
    replaced. Packed as BGZF where `out` ends in .gz. A line of fewer than 8 columns, or without
    alternative allele, stays as it is.
    tsv: a row for each alternative allele: the first eight columns, the allele, where the window of
    the reference lies (0-based, half-open), status, note and VariantScore's fields, empty where
    there are none.
    out: a file, which is there once it is whole; or an open stream. about: what the VCF's header
    says of the scoring. on_rows: called with the number of alleles now and then.
    Raises InputError for a VCF without a line of column names, of which no VCF can be made.
    """
    options = options or ScoreOptions()
    if output_format == "vcf":
        writer = _VcfWriter(model.is_causal)
        head, write = writer.header(variants, about or {}), writer.line
    else:
        head, write = table_line(_TABLE_COLUMNS), _table_rows
    statuses: Counter[RowStatus] = Counter()
    with open_output(out, in_blocks=output_format == "vcf") as file:
        file.write(head)
        for line, scored in _score_lines(model, variants, options):
            file.write(write(line, scored))
            for row, _ in scored:
                statuses[row.status] += 1
                if statuses.total() % 1000 == 0:
                    on_rows(statuses.total())
    return statuses


def _score_lines(
    model: DnaModel, lines: Iterable[VariantLine], options: ScoreOptions
) -> Iterator[tuple[VariantLine, list[Scored]]]:
    """Lines with the scores of their alleles; batches know nothing of lines."""
    waiting: deque[VariantLine] = deque()

    def rows() -> Iterator[RegionRow]:
        for line in lines:
            waiting.append(line)
            yield from line.rows

    scored = score_rows(model, rows(), options)
    for first in scored:
        line = waiting.popleft()
        yield line, [first, *islice(scored, len(line.rows) - 1)]


# --- VCF


class _VcfWriter:
    def __init__(self, is_causal: bool):
        self._fields = info_fields(is_causal=is_causal)
        self._ids = frozenset(field.id for field in self._fields)
        self._n_short = 0

    def header(self, variants: VariantFile, about: Mapping[str, str]) -> bytes:
        *before, names = variants.header or [""]
        if not names.startswith("#CHROM\t"):
            raise InputError(
                f"{variants.name} has no line of column names (#CHROM, POS, ...) before its first "
                "record, so no VCF can be made of it: ask for a table (.tsv)"
            )
        own = ("##dnamamba_score=", *(f"##INFO=<ID={name}," for name in self._ids))
        said = ";".join(
            f"{key}={value}" for key, value in [("version", __version__), *about.items()]
        )
        lines = [
            *(line for line in before if not line.startswith(own)),
            *(field.header() for field in self._fields),
            f"##dnamamba_score={said}",
            names,
        ]
        return b"".join(map(_encode, lines))

    def line(self, line: VariantLine, scored: Sequence[Scored]) -> bytes:
        columns = split_columns(line.text)
        if len(columns) < len(VCF_COLUMNS):
            self._n_short += 1
            if self._n_short == 1:
                message = (
                    "line %s has fewer than 8 columns: it and any other such are left as they are"
                )
                logger.warning(message, f"{scored[0][0].line:,}")
        elif columns[4] not in (".", ""):
            kept = [
                entry
                for entry in columns[7].split(";")
                if entry not in (".", "") and entry.partition("=")[0] not in self._ids
            ]
            columns[7] = ";".join([*kept, *self._entries(scored)])
        return _encode("\t".join(columns))

    def _entries(self, scored: Sequence[Scored]) -> Iterator[str]:
        for field in self._fields:
            values = [_info_value(field, row, score) for row, score in scored]
            if any(value != "." for value in values):
                yield f"{field.id}={','.join(values)}"


def _info_value(field: InfoField, row: RegionRow, score: VariantScore | None) -> str:
    if field.score:
        return _number(getattr(score, field.score)) if score is not None else "."
    if field.id == "DNAMAMBA_STATUS":
        return row.status.replace(" ", "_")
    # VCF 4.3's rule; spaces too, which 4.2 does not allow.
    return quote(row.note, safe="'()*+/<>[]!?#&@|", errors="surrogateescape") or "."


def _number(value: float) -> str:
    return "." if np.isnan(value) else f"{value:.6g}"


def _encode(line: str) -> bytes:
    return f"{line}\n".encode("utf-8", "surrogateescape")


# --- table

_TABLE_COLUMNS = (
    *(*ROW_COLUMNS, "window_start", "window_end", "status", "note"),
    *VariantScore._fields,
)


def _table_rows(line: VariantLine, scored: Sequence[Scored]) -> bytes:
    rows = []
    for row, score in scored:
        where, numbers = ("", ""), [""] * len(VariantScore._fields)
        if row.window is not None:
            where = (str(row.window.start), str(row.window.end))
        if score is not None:
            numbers = ["" if np.isnan(value) else f"{value:.9g}" for value in score]
        rows.append(table_line((*row.columns, *where, row.status, row.note, *numbers)))
    return b"".join(rows)
