"""FASTA, BED and VCF as rows of regions: one for every row of the input, in its order.

    with open_regions(Path("peaks.bed.gz"), genome=open_genome(["hg38.fa.gz"])) as table:
        for row in table:
            row.columns, row.status, row.codes

A row at a time is held, of a FASTA a record.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

from dnamamba.data_prep.genome import Genome
from dnamamba.data_prep.region_rows import (
    RegionRow,
    RegionTable,
    RowError,
    RowStatus,
    WindowRule,
    check_bases,
    contig_length,
    fit_columns,
    join_notes,
    parse_position,
    place_window,
    read_window,
    split_columns,
    unreadable,
)
from dnamamba.data_prep.text_input import RegionFormat, TextInput, format_of, open_text
from dnamamba.data_prep.variant_reader import read_vcf
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import Codes, encode

_BED_COLUMNS = (
    *("chrom", "start", "end", "name", "score", "strand"),
    *("thick_start", "thick_end", "item_rgb", "block_count", "block_sizes", "block_starts"),
)
# Rows looked at to tell how many columns there are.
_LOOK_AHEAD = 100


@contextmanager
def open_regions(
    source: Path | BinaryIO,
    *,
    genome: Genome | None = None,
    rule: WindowRule | None = None,
    input_format: RegionFormat | None = None,
) -> Iterator[RegionTable]:
    """Open FASTA, BED or VCF, plain, gzip or BGZF, from a file or a stream such as standard input.

    genome: what BED and VCF refer to. rule: how much of a region is read; default as it is, which
    variants cannot be. input_format: default told by what the text begins with.
    Raises FileNotFoundError, and InputError for what is none of these formats, for a BED or VCF
    without a genome, a VCF without a window's length, and compressed data that is damaged; the last
    while rows are read. What is wrong with a row is said in the row.
    """
    rule = rule or WindowRule()
    with open_text(source) as text:
        found = input_format or format_of(text)
        if found == "fasta":
            yield RegionTable(("name", "description", "bases"), _read_fasta(text, rule))
            return
        if genome is None:
            raise InputError(
                f"{text.name} is read as {found.upper()}, which says where sequences lie but not "
                "what they are: name the genome (--genome), or give a FASTA"
            )
        read = read_vcf if found == "vcf" else _read_bed
        yield read(text, genome, rule)


# --- FASTA


def _read_fasta(text: TextInput, rule: WindowRule) -> Iterator[RegionRow]:
    for number, (header, codes) in enumerate(_records(text), start=1):
        words = header[1:].split()
        name, description = words[0] if words else "", " ".join(words[1:])
        columns = (name, description, str(len(codes)))
        try:
            placed = place_window(0, len(codes), len(codes), _as_it_is(rule))
            codes = codes[placed.start : placed.end]
            note = join_notes(placed.note, check_bases(codes))
        except RowError as error:
            yield RegionRow(number, columns, error.status, error.note)
            continue
        window = Interval(name, placed.start, placed.end)
        yield RegionRow(number, columns, placed.status, note, codes, window=window)


def _as_it_is(rule: WindowRule) -> WindowRule:
    return WindowRule(seq_len=rule.seq_len)


def _records(text: TextInput) -> Iterator[tuple[str, Codes]]:
    """(header line, letters) of each record."""
    header, letters = "", bytearray()
    for number, line in text.lines():
        if line.startswith(">"):
            if header:
                yield header, _bases(letters)
            header, letters = line, bytearray()
        elif not header:
            raise InputError(
                f"{text.name} line {number}: expected FASTA, which begins with a line starting "
                f"with '>', got {line[:40]!r}"
            )
        else:
            letters += line.encode("latin-1", "replace")
    if header:
        yield header, _bases(letters)


def _bases(letters: bytearray) -> Codes:
    return encode(letters.translate(None, b"\r\t "))


# --- BED


def _read_bed(text: TextInput, genome: Genome, rule: WindowRule) -> RegionTable:
    lines = ((n, split_columns(line)) for n, line in text.lines() if not _is_comment(line))
    first = list(islice(lines, _LOOK_AHEAD))
    columns = tuple(first.pop(0)[1]) if first and _is_header(first[0][1]) else _names(first)
    rows = (
        _bed_row(number, fields, len(columns), genome, rule)
        for number, fields in chain(first, lines)
    )
    return RegionTable(columns, rows)


def _names(rows: list[tuple[int, list[str]]]) -> tuple[str, ...]:
    widest = max([len(_BED_COLUMNS[:3]), *(len(fields) for _, fields in rows)])
    more = [f"column_{i + 1}" for i in range(len(_BED_COLUMNS), widest)]
    return (*_BED_COLUMNS, *more)[:widest]


def _is_comment(line: str) -> bool:
    return line.startswith("#") or line.split(maxsplit=1)[0] in ("track", "browser")


def _is_header(fields: list[str]) -> bool:
    """Whether a first row names the columns, as tables saved with their header do."""
    names = [field.strip().lower() for field in fields[1:3]]
    return names in (["start", "end"], ["chromstart", "chromend"], ["start", "stop"])


def _bed_row(
    number: int, fields: list[str], n_columns: int, genome: Genome, rule: WindowRule
) -> RegionRow:
    columns, cut = fit_columns(fields, n_columns)
    try:
        region, notes, clipped = _parse_bed(fields, genome)
        length = genome.contigs[region.chrom]
        placed = place_window(region.start, region.end, length, rule)
        codes = read_window(genome, region.chrom, placed, region.strand)
        note = join_notes(cut, *notes, placed.note, check_bases(codes))
    except RowError as error:
        return RegionRow(number, columns, error.status, join_notes(cut, error.note))
    status = placed.status
    if clipped and status == RowStatus.OK:
        status = RowStatus.CLIPPED
    window = Interval(region.chrom, placed.start, placed.end, region.strand)
    return RegionRow(number, columns, status, note, codes, window=window, padding=placed.padding)


def _parse_bed(fields: list[str], genome: Genome) -> tuple[Interval, list[str], bool]:
    """The region inside its contig, what there is to say of it, and whether it was cut."""
    if len(fields) < 3:
        raise unreadable(f"a row has chrom, start and end, this has {len(fields)} columns")
    chrom = fields[0].strip()
    start, end = (parse_position(fields[i].strip(), what) for i, what in ((1, "start"), (2, "end")))
    if start > end:
        raise unreadable(f"start {start:,} is after end {end:,}")
    length = contig_length(genome, chrom)
    if start > length or start == length < end:
        raise unreadable(f"lies past the end of {chrom}, which has {length:,} bases")
    notes, strand = [], Strand.FORWARD
    if end > length:
        notes.append(f"end {end:,} lies past the end of {chrom}, which has {length:,} bases")
    if len(fields) > 5:
        given = fields[5].strip()
        if given in tuple(Strand):
            strand = Strand(given)
        else:
            notes.append(f"strand is +, - or ., got {given[:40]!r}: read as +")
    return Interval(chrom, start, min(end, length), strand), notes, end > length
