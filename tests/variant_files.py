"""Variants and VCFs for tests."""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import RegionRow, WindowRule
from dnamamba.data_prep.regions.text_input import open_text
from dnamamba.data_prep.regions.vcf import VariantFile, read_variants
from dnamamba.tokenizer import decode, encode, reverse_complement

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


class Change(NamedTuple):
    """start: from 0."""

    start: int
    ref: str
    alt: str


def vcf_text(contig: str, changes: Iterable[tuple[int, str, str]]) -> str:
    lines = (f"{contig}\t{start + 1}\t.\t{ref}\t{alt}\t.\t.\t.\n" for start, ref, alt in changes)
    return HEADER + "".join(lines)


@contextmanager
def opened(text: str, genome: Genome, rule: WindowRule) -> Iterator[VariantFile]:
    with open_text(io.BytesIO(text.encode())) as lines:
        yield read_variants(lines, genome, rule)


def rows_of(text: str, genome: Genome, rule: WindowRule) -> list[RegionRow]:
    with opened(text, genome, rule) as variants:
        return [row for line in variants for row in line.rows]


def turned(text: str) -> str:
    return decode(reverse_complement(encode(text)))


def anchored(sequence: str, start: int, ref: str, alt: str) -> Change:
    """As VCF writes it: both alleles have a letter, and indels begin with the base before."""
    if ref and alt:
        return Change(start, ref, alt)
    before = sequence[start - 1]
    return Change(start - 1, before + ref, before + alt)


def draw_changes(sequence: str, n: int, seed: int = 0) -> list[tuple[int, str, str]]:
    """Half of them SNVs, the others insertions, deletions and both; not anchored."""
    rng = np.random.default_rng(seed)
    drawn = []
    while len(drawn) < n:
        start = int(rng.integers(1, len(sequence) - 20))
        n_ref = n_alt = 1
        if rng.random() < 0.5:
            n_ref, n_alt = rng.integers(0, 9, 2).tolist()
        ref = sequence[start : start + n_ref]
        alt = "".join(rng.choice(list("ACGT"), n_alt))
        if ref != alt and set(ref) <= set("ACGT"):
            drawn.append((start, ref, alt))
    return drawn


def turn_change(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The same change of the other strand's sequence."""
    return len(sequence) - start - len(ref), turned(ref), turned(alt)
