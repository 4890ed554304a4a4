"""VCF as rows of regions: each alternative allele, and the reference, with the bases around.

`read_vcf` starts both alleles' windows, of one length, at one base; `read_variants` gives both the
same flanks (allele_windows.py) and keeps the lines.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.allele_windows import Variant, same_flanks
from dnamamba.data_prep.regions.rows import (
    RegionRow,
    RegionTable,
    RowError,
    RowStatus,
    WindowRule,
    check_bases,
    contig_length,
    edge_status,
    fit_columns,
    given_name,
    join_notes,
    pad,
    parse_position,
    split_columns,
    unreadable,
)
from dnamamba.data_prep.regions.text_input import TextInput, format_of
from dnamamba.errors import InputError
from dnamamba.intervals import Interval
from dnamamba.tokenizer import IUPAC_AMBIGUOUS, decode, encode, is_base, token_ids

VCF_COLUMNS = ("CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
ROW_COLUMNS = (*VCF_COLUMNS, "allele")
_LETTERS = frozenset("ACGT" + IUPAC_AMBIGUOUS)

MakeRow = Callable[[int, tuple[str, ...], Variant, Genome, WindowRule], RegionRow]
"""(line, columns, variant, genome, rule) -> the row of one allele; may raise RowError."""


def read_vcf(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    """A row for each alternative allele, in the order of the file; one for a line without any.

    Columns are the first eight of a VCF, without genotypes, and `allele`, the row's one of ALT.
    Both alleles' windows have rule.seq_len bases from the same start, so more or fewer bases follow
    after the alleles.
    """
    _check_rule(text, rule)
    rows = chain.from_iterable(
        line_rows(number, line, genome, rule, _same_start)
        for number, line in text.lines()
        if not line.startswith("#")
    )
    return RegionTable(ROW_COLUMNS, rows, has_alternatives=True)


@dataclass(frozen=True, slots=True)
class VariantLine:
    """A line of a VCF, without its end, and a row for each alternative allele (one without any)."""

    text: str
    rows: tuple[RegionRow, ...]


@dataclass(frozen=True)
class VariantFile:
    """Lines of a VCF in their order, once; a fault of an allele is noted in its row.

    header: the lines before the first record, as they stand.
    """

    name: str
    header: list[str]
    lines: Iterator[VariantLine]

    def __iter__(self) -> Iterator[VariantLine]:
        return self.lines


def read_variants(text: TextInput, genome: Genome, rule: WindowRule) -> VariantFile:
    """Windows with the same flanks around both alleles (allele_windows.same_flanks).

    Columns of a row are ROW_COLUMNS. Raises InputError for other formats and without rule.seq_len.
    """
    _check_rule(text, rule)
    if format_of(text) != "vcf":
        raise InputError(
            f"{text.name} is no VCF, which begins with ##fileformat=VCFv4: variants are read from "
            "VCF alone (of BCF: bcftools view)"
        )
    header, first = list[str](), list[tuple[int, str]]()
    lines = text.lines()
    for number, line in lines:
        if not line.startswith("#"):
            first.append((number, line))
            break
        header.append(line)
    records = (
        VariantLine(line, tuple(line_rows(number, line, genome, rule, same_flanks)))
        for number, line in chain(first, lines)
        if not line.startswith("#")
    )
    return VariantFile(text.name, header, records)


def _check_rule(text: TextInput, rule: WindowRule) -> None:
    if rule.seq_len is None:
        raise InputError(
            f"{text.name} holds variants, of which a window is read: say how many bases (--seq-len)"
        )


def line_rows(
    number: int, line: str, genome: Genome, rule: WindowRule, make_row: MakeRow
) -> Iterator[RegionRow]:
    """A row for each alternative allele of a line of VCF; one without any."""
    fields = split_columns(line)
    columns, _ = fit_columns(fields[: len(VCF_COLUMNS)], len(VCF_COLUMNS))
    name = given_name(columns[2])
    alleles = fields[4].split(",") if len(fields) > 4 else [""]
    for allele in alleles:
        named, region = (*columns, allele), None
        try:
            variant = _parse(fields, allele, genome)
            region = Interval(variant.contig, variant.start, variant.end)
            _compare(variant, genome)
            row = make_row(number, named, variant, genome, rule)
            yield replace(row, region=region, name=name)
        except RowError as error:
            yield RegionRow(number, named, error.status, error.note, region=region, name=name)


def _parse(fields: list[str], allele: str, genome: Genome) -> Variant:
    if len(fields) < 5:
        raise unreadable(f"a row must have CHROM, POS, ID, REF and ALT, got {len(fields)} columns")
    contig, ref = fields[0], fields[3]
    start = parse_position(fields[1], "POS") - 1
    if start < 0:
        raise unreadable("POS counts from 1; 0 is beyond the contig")
    _check_alleles(ref, allele)
    length = contig_length(genome, contig)
    if start + len(ref) > length:
        raise unreadable(f"lies past the end of {contig}, which has {length:,} bases")
    return Variant(contig, start, encode(ref), encode(allele))


def _compare(variant: Variant, genome: Genome) -> None:
    """Raise RowError if REF is not what the genome has."""
    found = genome.read(variant.contig, variant.start, variant.end)
    # Files and genomes may have N or ambiguous letters for each other's bases.
    both = is_base(found) & is_base(variant.ref)
    if (token_ids(found) != token_ids(variant.ref))[both].any():
        shown = decode(token_ids(found[:20])) + ("..." if len(found) > 20 else "")
        raise RowError(RowStatus.REF_MISMATCH, f"the genome has {shown}: another assembly?")


def _check_alleles(ref: str, allele: str) -> None:
    if not ref or not _LETTERS.issuperset(ref.upper()):
        raise unreadable(f"REF must be letters of DNA, got {ref[:40]!r}")
    if allele in (".", ""):
        raise unreadable("no alternative allele")
    if allele == "*":
        raise unreadable("an allele that an overlapping deletion takes away (*)")
    if not _LETTERS.issuperset(allele.upper()):
        symbolic = set("<>[].") & set(allele)
        what = "a symbolic allele, whose sequence the file does not have" if symbolic else ""
        raise unreadable(what or f"ALT must be letters of DNA, got {allele[:40]!r}")


def _same_start(
    number: int, columns: tuple[str, ...], variant: Variant, genome: Genome, rule: WindowRule
) -> RegionRow:
    length = genome.contigs[variant.contig]
    window = _choose_window(variant, length, rule)
    # A deletion moves bases into its window from beyond the reference's.
    reach = window.end + max(0, len(variant.ref) - len(variant.alt))
    bases = genome.read(variant.contig, window.start, min(length, reach))
    at = variant.start - window.start
    codes = bases[: window.size]
    changed = np.concatenate([bases[:at], variant.alt, bases[at + len(variant.ref) :]])
    changed = changed[: window.size]
    status, note = _status_of(window, window.size - min(len(codes), len(changed)), rule)
    note = join_notes(note, check_bases(codes))
    end = window.start + len(codes)
    padding = (window.padding, window.size - len(codes) if rule.edge == "pad" else 0)
    return RegionRow(
        number,
        columns,
        status,
        note,
        pad(codes, padding),
        pad(changed, (padding[0], window.size - len(changed) if rule.edge == "pad" else 0)),
        Interval(variant.contig, window.start, end),
        padding,
        padding[0] + at,
        span=(padding[0] + at, padding[0] + at + len(variant.ref)),
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """The window of both alleles.

    size: bases from `start`, as far as the contig goes. padding: N before. moved: bases by which it
    was moved or cut on the left.
    """

    start: int
    size: int
    padding: int
    moved: int

    @property
    def end(self) -> int:
        return self.start + self.size


def _choose_window(variant: Variant, length: int, rule: WindowRule) -> _Window:
    seq_len, longest = rule.seq_len or 0, max(len(variant.ref), len(variant.alt))
    if longest > seq_len:
        raise unreadable(f"an allele of {longest:,} bases, longer than the window of {seq_len:,}")
    wanted = variant.start - (seq_len - longest) // 2
    if rule.edge == "shift":
        # As far to the left as keeps the longer allele inside the window.
        farthest = variant.start - (seq_len - longest)
        start = max(0, min(wanted, length - seq_len), farthest)
        return _Window(start, seq_len, 0, start - wanted)
    before = max(0, -wanted)
    padding = before if rule.edge == "pad" else 0
    return _Window(wanted + before, seq_len - before, padding, before)


def _status_of(window: _Window, missing: int, rule: WindowRule) -> tuple[RowStatus, str]:
    """missing: bases that one of the windows lacks on the right, at the contig's end."""
    if rule.edge == "pad":
        return edge_status(padded=window.padding + missing)
    if rule.edge == "clip":
        return edge_status(cut=window.moved + missing)
    return edge_status(cut=missing, shift=window.moved)
