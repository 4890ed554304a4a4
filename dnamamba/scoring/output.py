"""Scores of variants in a VCF, which keeps all that it had, or in a table."""

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
from dnamamba.files import PACKED, format_by_ending, open_output, table_line
from dnamamba.models.language_model import DnaModel
from dnamamba.runtime import logger
from dnamamba.scoring.variants import ScoreOptions, VariantScore, score_rows

OutputFormat = Literal["vcf", "tsv"]
Scored = tuple[RegionRow, VariantScore | None]

_FORMATS: tuple[OutputFormat, ...] = ("vcf", "tsv")
_ENDINGS = {f".{kind}{packed}": kind for kind in _FORMATS for packed in ("", *PACKED)}
_TABLE_COLUMNS = (
    *(*ROW_COLUMNS, "window_start", "window_end", "status", "note"),
    *VariantScore._fields,
)
_ROWS_BETWEEN_REPORTS = 1000


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
    """Write the scores of `score_rows`, and count the alleles' statuses.

    vcf: the input's header and records, as they are but for tabs between columns, with fields in
    INFO that the header describes. Those of an earlier scoring are replaced. A line of fewer than 8
    columns or without alternative allele stays as it is.
    tsv: a row for each alternative allele: the first eight columns, the allele, [start, end) of the
    reference's window (from 0), status, note and VariantScore's fields, empty if there are none.
    out: a stream, or a file, which appears when it is whole; .gz is packed, a VCF as BGZF. about:
    settings for the VCF's header. on_rows: called with the number of alleles now and then.
    Raises InputError for a VCF without a line of column names, if a VCF is to be written.
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
                if statuses.total() % _ROWS_BETWEEN_REPORTS == 0:
                    on_rows(statuses.total())
    return statuses


def format_of_output(out: Path) -> OutputFormat:
    """The format that a file's name asks for. Raises InputError for other names."""
    return format_by_ending(out, _ENDINGS)


def _score_lines(
    model: DnaModel, lines: Iterable[VariantLine], options: ScoreOptions
) -> Iterator[tuple[VariantLine, list[Scored]]]:
    """Each line with the scores of its alleles, which are scored in batches across lines."""
    waiting: deque[VariantLine] = deque()

    def rows() -> Iterator[RegionRow]:
        for line in lines:
            waiting.append(line)
            yield from line.rows

    scored = score_rows(model, rows(), options)
    for first in scored:
        line = waiting.popleft()
        yield line, [first, *islice(scored, len(line.rows) - 1)]


def _table_rows(line: VariantLine, scored: Sequence[Scored]) -> bytes:
    rows = []
    for row, score in scored:
        window, numbers = ("", ""), [""] * len(VariantScore._fields)
        if row.window is not None:
            window = (str(row.window.start), str(row.window.end))
        if score is not None:
            numbers = ["" if np.isnan(value) else f"{value:.9g}" for value in score]
        rows.append(table_line((*row.columns, *window, row.status, row.note, *numbers)))
    return b"".join(rows)


# --- VCF


@dataclass(frozen=True)
class InfoField:
    """A field of INFO with a value for each allele. score: its name in VariantScore, if it is one
    of these."""

    id: str
    type: Literal["Float", "String"]
    description: str
    score: str = ""

    def header(self) -> str:
        return (
            f'##INFO=<ID={self.id},Number=A,Type={self.type},Description="{self.description}",'
            f'Source="dnamamba",Version="{__version__}">'
        )

    def value(self, row: RegionRow, score: VariantScore | None) -> str:
        """The value of an allele as text, `.` for none."""
        if self.score:
            number = np.nan if score is None else getattr(score, self.score)
            return "." if np.isnan(number) else f"{number:.6g}"
        if self.id == "DNAMAMBA_STATUS":
            return row.status.replace(" ", "_")
        # VCF 4.3's rule; spaces too, which 4.2 does not allow.
        return quote(row.note, safe="'()*+/<>[]!?#&@|", errors="surrogateescape") or "."


def info_fields(*, is_causal: bool) -> list[InfoField]:
    """The fields of INFO in their order."""
    ratio = (
        "log-likelihood of the window with the allele less that with the reference, natural "
        "logarithm; a sum over more bases is lower by itself: compare alleles of other lengths by "
        "DNAMAMBA_LLR_PER_BASE"
    )
    mean = (
        "mean log p of a base of the window with the allele less that of the window with the "
        "reference, natural logarithm"
    )
    if not is_causal:
        ratio = (
            "log p of the alternative base less that of the reference's, natural logarithm, where "
            "the base is hidden from the model"
        )
        mean = f"the same as DNAMAMBA_LLR: {ratio}"
    cosine = "1 - cosine of both windows' mean final hidden states"
    euclidean = "Euclidean distance between both windows' mean final hidden states"
    status = (
        "how the allele was read: ok, shifted (window moved into the contig), padded, clipped; "
        "not scored: ref_mismatch, unreadable"
    )
    note = "more of the status, percent-encoded"
    return [
        InfoField("DNAMAMBA_LLR", "Float", ratio, "llr"),
        InfoField("DNAMAMBA_LLR_PER_BASE", "Float", mean, "llr_per_base"),
        InfoField("DNAMAMBA_COSINE_DISTANCE", "Float", cosine, "cosine_distance"),
        InfoField("DNAMAMBA_EUCLIDEAN_DISTANCE", "Float", euclidean, "euclidean_distance"),
        InfoField("DNAMAMBA_STATUS", "String", status),
        InfoField("DNAMAMBA_NOTE", "String", note),
    ]


class _VcfWriter:
    """Lines of a VCF with the scores in INFO."""

    def __init__(self, is_causal: bool) -> None:
        self._fields = info_fields(is_causal=is_causal)
        self._ids = frozenset(field.id for field in self._fields)
        self._has_warned = False

    def header(self, variants: VariantFile, about: Mapping[str, str]) -> bytes:
        """The input's header without the fields of an earlier scoring, with our own."""
        *before, names = variants.header or [""]
        if not names.startswith("#CHROM\t"):
            raise InputError(
                f"{variants.name} must have a line of column names (#CHROM, POS, ...) before its "
                "first record for a VCF to be made of it: add one, or write a table (.tsv)"
            )
        own = ("##dnamamba_score=", *(f"##INFO=<ID={name}," for name in self._ids))
        settings = ";".join(f"{key}={value}" for key, value in about.items())
        lines = [
            *(line for line in before if not line.startswith(own)),
            *(field.header() for field in self._fields),
            f"##dnamamba_score=version={__version__}" + (f";{settings}" if settings else ""),
            names,
        ]
        return b"".join(map(_encode, lines))

    def line(self, line: VariantLine, scored: Sequence[Scored]) -> bytes:
        """A record with the scores of its alleles."""
        columns = split_columns(line.text)
        if len(columns) < len(VCF_COLUMNS):
            self._warn_once(scored[0][0].line)
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
            values = [field.value(row, score) for row, score in scored]
            if any(value != "." for value in values):
                yield f"{field.id}={','.join(values)}"

    def _warn_once(self, number: int) -> None:
        if not self._has_warned:
            message = "line %s has fewer than 8 columns: such lines are left as they are"
            logger.warning(message, f"{number:,}")
        self._has_warned = True


def _encode(line: str) -> bytes:
    return f"{line}\n".encode("utf-8", "surrogateescape")
