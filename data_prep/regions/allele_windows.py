"""Windows with the same bases on both sides of both alleles, on either strand.

However a file writes a variant, the same two sequences are compared. Bases that both alleles share
at their ends belong to the flanks, and an indel in a repeat, which can be written at several
positions, covers all of them:

    genome  G C A A A T G    one A less is written `CA` to `C`, twice `AA` to `A`, or `AT` to `T`
                A A A        here it is `AAA` to `AA`, between flanks of equal length
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import RegionRow, WindowRule, edge_status, pad, unreadable
from dnamamba.intervals import Interval
from dnamamba.tokenizer import Codes, is_base, token_ids


@dataclass(frozen=True, slots=True)
class Variant:
    """One alternative allele of a VCF; `ref` stands at `start` (0-based) of the contig."""

    contig: str
    start: int
    ref: Codes
    alt: Codes

    @property
    def end(self) -> int:
        return self.start + len(self.ref)


@dataclass(frozen=True, slots=True)
class _Core:
    """The difference of two sequences: [start, ref_end) of one, [start, alt_end) of the other."""

    start: int
    ref_end: int
    alt_end: int

    @property
    def longest(self) -> int:
        return max(self.ref_end, self.alt_end) - self.start


def same_flanks(
    number: int, columns: tuple[str, ...], variant: Variant, genome: Genome, rule: WindowRule
) -> RegionRow:
    """A row whose `codes` and `alternative` differ between equal flanks.

    The flanks are equally long, and the longer allele's window has rule.seq_len bases or one less;
    `variant_start` is the end of the left flank. A contig's end makes the other flank longer (edge
    shift), or the window padded with N or clipped. Raises RowError for equal alleles, alleles
    without room for flanks, and letters other than A, C, G and T.
    """
    length, seq_len = genome.contigs[variant.contig], rule.seq_len or 0
    if not (is_base(variant.ref).all() and is_base(variant.alt).all()):
        raise unreadable("an allele with N or ambiguous letters, which have no likelihood")
    # One flank may be as long as the window.
    before = genome.read(variant.contig, max(0, variant.start - seq_len), variant.start)
    after = genome.read(variant.contig, variant.end, min(length, variant.end + seq_len))
    # The file's REF stands for N and ambiguous letters of the genome.
    ref, alt = (np.concatenate([before, one, after]) for one in (variant.ref, variant.alt))
    core = _find_core(ref, alt, len(before), variant, seq_len // 2)
    flank = (seq_len - core.longest) // 2
    if flank < 1:
        raise unreadable(
            f"an allele of {core.longest:,} bases leaves no flanks in a window of {seq_len:,}"
        )
    left, right = min(flank, core.start), min(flank, len(ref) - core.ref_end)
    missing, padding = (flank - left, flank - right), (0, 0)
    if rule.edge == "shift":
        left = min(core.start, left + missing[1])
        right = min(len(ref) - core.ref_end, right + missing[0])
    elif rule.edge == "pad":
        padding = missing
    status, note = edge_status(
        padded=sum(padding), cut=2 * flank - left - right, shift=missing[0] - missing[1]
    )
    start, contig_start = core.start - left, variant.start - len(before)
    return RegionRow(
        number,
        columns,
        status,
        note,
        pad(ref[start : core.ref_end + right], padding),
        pad(alt[start : core.alt_end + right], padding),
        Interval(variant.contig, contig_start + start, contig_start + core.ref_end + right),
        padding,
        padding[0] + left,
        span=(padding[0] + left, padding[0] + left + core.ref_end - core.start),
    )


def _find_core(ref: Codes, alt: Codes, begin: int, variant: Variant, most: int) -> _Core:
    """ref, alt: sequences with the alleles at `begin`. most: longest repeat, in bases, that an
    indel is spread over; in a longer one it stays as the file writes it."""
    n_ref, n_alt = len(variant.ref), len(variant.alt)
    shorter, size = min(n_ref, n_alt), abs(n_ref - n_alt)
    ids, other_ids = token_ids(variant.ref), token_ids(variant.alt)
    prefix = _count_true(ids[:shorter] == other_ids[:shorter])
    suffix = _count_true(ids[::-1][:shorter] == other_ids[::-1][:shorter])
    if prefix + suffix < shorter:
        return _Core(begin + prefix, begin + n_ref - suffix, begin + n_alt - suffix)
    if size == 0:
        raise unreadable("the allele is the same as REF")
    # The extra `size` bases of one sequence may stand anywhere from `first` to `last`.
    first, last = begin + shorter - suffix, begin + prefix
    longer = ref if n_ref > n_alt else alt
    repeats = (token_ids(longer[:-size]) == token_ids(longer[size:])) & is_base(longer[:-size])
    further = _count_true(repeats[:first][::-1]), _count_true(repeats[last:])
    if last - first + size + sum(further) <= most:
        first, last = first - further[0], last + further[1]
    if n_ref > n_alt:
        return _Core(first, last + size, last)
    return _Core(first, last, last + size)


def _count_true(values: NDArray[np.bool_]) -> int:
    """Number of leading true values."""
    return len(values) if values.all() else int(values.argmin())
