"""Windows with the same bases on both sides of both alleles, whatever strand they are read from.

What is compared is two sequences, that of the reference and that with the alternative, so how a
file writes a variant is not to matter. Bases that both alleles have at their ends are not part of
it; and an indel in a repeat, which can be written at several places, is all of these places:

    genome  G C A A A T G      of one A less: `CA` to `C`, `AA` to `A` at either place, `AT` to `T`
                A A A          what differs, `AAA` to `AA`, with flanks as long on the left as right
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import (
    RegionRow,
    WindowRule,
    edge_status,
    pad,
    unreadable,
)
from dnamamba.intervals import Interval
from dnamamba.tokenizer import Codes, is_base, token_ids


@dataclass(frozen=True, slots=True)
class Variant:
    """One alternative allele, as a VCF has it: `ref` stands at `start` (0-based) of the contig."""

    contig: str
    start: int
    ref: Codes
    alt: Codes

    @property
    def end(self) -> int:
        return self.start + len(self.ref)


@dataclass(frozen=True, slots=True)
class _Core:
    """Where two sequences differ: [start, ref_end) of one and [start, alt_end) of the other."""

    start: int
    ref_end: int
    alt_end: int

    @property
    def longest(self) -> int:
        return max(self.ref_end, self.alt_end) - self.start


def same_flanks(
    number: int, columns: tuple[str, ...], variant: Variant, genome: Genome, rule: WindowRule
) -> RegionRow:
    """A row whose `codes` and `alternative` differ between flanks that are the same.

    Both flanks are as long, so that the window of the longer allele has rule.seq_len bases, or one
    less; `variant_start` is where they end on the left. Where the contig ends the other flank is
    made longer (edge shift), or the window is filled up with N or cut. Raises RowError for alleles
    that are the same, that leave no flanks, and with other letters than A, C, G and T.
    """
    length, seq_len = genome.contigs[variant.contig], rule.seq_len or 0
    if not (is_base(variant.ref).all() and is_base(variant.alt).all()):
        raise unreadable("an allele with N or ambiguous letters, which have no likelihood")
    # One flank may have to be as long as the window.
    before = genome.read(variant.contig, max(0, variant.start - seq_len), variant.start)
    after = genome.read(variant.contig, variant.end, min(length, variant.end + seq_len))
    # Where the genome has N or an ambiguous letter, the file's is the reference.
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
    """ref, alt: sequences with the alleles at `begin`. most: a repeat that is longer is taken as
    the file writes it."""
    n_ref, n_alt = len(variant.ref), len(variant.alt)
    shorter, size = min(n_ref, n_alt), abs(n_ref - n_alt)
    ids, other_ids = token_ids(variant.ref), token_ids(variant.alt)
    prefix = _count_true(ids[:shorter] == other_ids[:shorter])
    suffix = _count_true(ids[::-1][:shorter] == other_ids[::-1][:shorter])
    if prefix + suffix < shorter:
        return _Core(begin + prefix, begin + n_ref - suffix, begin + n_alt - suffix)
    if size == 0:
        raise unreadable("the allele is the same as REF")
    # One sequence has `size` bases more, which may stand anywhere from `first` to `last`.
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
    """How many stand at the beginning, before the first that is not."""
    return len(values) if values.all() else int(values.argmin())
