"""The common ancestor of the simulated apes: background, genes, tandem arrays and repeat families.

Bases are made up; their statistics are those of real genomes. A chromosome is built as genomes
grew: background with genes, then repeats in waves from old to young, which lie inside the old, then
tandem arrays.
"""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dnamamba.configs import require_range
from dnamamba.data_prep.demo.evolution import (
    CPG_ISLAND,
    EXON,
    MASKED,
    UNIQUE,
    Bases,
    Draws,
    Integers,
    MutationRates,
    Stretch,
    alter,
    insert_pieces,
    mutate,
    random_bases,
    rate,
)
from dnamamba.errors import InputError

# Divergence (per 1,000 bases) of new copies from their subfamily, and how often each is drawn.
_YOUNG = (0, 10)
_YOUNG_MIX = {"alu": 50, "l1": 25, "sva": 10, "ltr": 15}

_LETTER = {letter: base for base, letter in enumerate("ACGT")}

# Codons AAA, AAC ... TTT in human genes, per 10,000 (Nakamura 2000, Nucleic Acids Res 28:292).
_CODON_USAGE = (
    (244, 191, 319, 170, 151, 189, 61, 131, 122, 195, 120, 121, 75, 208, 220, 160)
    + (123, 151, 342, 109, 169, 198, 69, 175, 62, 104, 114, 45, 72, 196, 396, 132)
    + (290, 251, 396, 218, 158, 277, 74, 184, 165, 222, 165, 108, 71, 145, 281, 110)
    + (0, 153, 0, 122, 122, 177, 44, 152, 0, 126, 132, 106, 77, 203, 129, 176)
)

# Frequent units of human microsatellites and how often each is drawn (after Subramanian 2003,
# Genome Biol 4:R13).
_MICROSATELLITES = {
    "A": 20, "AC": 24, "AT": 8, "AG": 6, "AAT": 5, "AAC": 4, "AAAT": 9, "AAAC": 5, "AAAG": 6,
    "AAGG": 4, "AGAT": 5, "AAAAC": 3, "AAAAT": 3, "AACCCT": 2,
}  # fmt: skip


class Shape(Enum):
    """How a family's copies differ from its consensus in extent."""

    WHOLE = "whole"
    TRUNCATED = "5' truncated, as by reverse transcription that stops early"
    INNER_DELETED = "both ends, the middle lost"
    PROVIRUS = "a lone LTR, or one time in ten LTR, inner part, LTR"
    SATELLITE = "2-5 times the same 4-8 diverged copies in a row, as higher-order alpha satellite"


@dataclass(frozen=True)
class Family:
    """A family of transposable elements.

    bases: the consensus (a PROVIRUS's LTR). inner: the part between two LTRs.
    age: youngest and oldest divergence of copies from the consensus, substitutions per 1,000 bases.
    gc_preference: 1 for GC-rich surroundings, -1 for AT-rich ones, 0 for any.
    longest_tail: A's at the 3' end, at most; 0 for families without.
    """

    bases: Bases
    shape: Shape
    age: tuple[int, int]
    gc_preference: int = 0
    longest_tail: int = 0
    inner: Bases | None = None


@dataclass(frozen=True)
class Copy:
    """A piece to insert: its sequence, age (substitutions per base) and preferred surroundings."""

    stretch: Stretch
    age: float = 0.0
    gc_preference: int = 0


@dataclass(frozen=True, kw_only=True)
class AncestorContent:
    """What the ancestral genome is made of; shares of its bases.

    alu, l1, ltr, dna: interspersed repeats like Alu, LINE-1, endogenous retroviruses (mostly lone
        LTRs) and non-autonomous DNA transposons.
    microsatellite, minisatellite: arrays of 1-6 bases; of 10-60 bases.
    satellite: arrays of 171-base monomers, like alpha satellite.
    coding: exons. lowest_gc, highest_gc: of the isochores between repeats.
    """

    alu: float = rate(0.10, "10.6 % of the human genome (Lander 2001, Nature 409:860)")
    l1: float = rate(0.17, "16.9 % (Lander 2001)")
    ltr: float = rate(0.08, "8.3 % (Lander 2001)")
    dna: float = rate(0.03, "2.8 % (Lander 2001)")
    microsatellite: float = rate(0.03, "simple repeats about 3 % (Lander 2001)")
    minisatellite: float = rate(0.01, "chosen; counted with simple repeats in Lander 2001")
    satellite: float = rate(0.03, "alpha satellite 2.8 % (Altemose 2022, Science 376:eabl4178)")
    coding: float = rate(0.02, "raised from 1.2 % (IHGSC 2004, Nature 431:931)")
    lowest_gc: float = rate(0.37, "isochores L1 to H3 (Bernardi 2000, Gene 241:3)")
    highest_gc: float = rate(0.55, "isochores L1 to H3 (Bernardi 2000)")

    def __post_init__(self) -> None:
        shares = vars(self)
        for name, share in shares.items():
            require_range(name, share, 0, 0.8)
        inserted = sum(share for name, share in shares.items() if not name.endswith("_gc"))
        if inserted > 0.8:
            raise InputError(f"shares of repeats and exons must sum to <= 0.8, got {inserted:g}")
        if self.lowest_gc > self.highest_gc:
            raise InputError(
                f"lowest_gc {self.lowest_gc} must not be above highest_gc {self.highest_gc}"
            )


def bases_of(letters: str) -> Bases:
    return np.array([_LETTER[letter] for letter in letters], np.uint8)


def build_families(draws: Draws) -> dict[str, Family]:
    """Families like those of primates: same lengths, composition and make-up, made-up sequence."""
    left_arm = random_bases(130, 0.62, draws, cpg_odds=0.8)
    right_arm = alter(left_arm, 30, draws)
    middle = random_bases(31, 0.5, draws)
    alu = np.concatenate(
        [left_arm, bases_of("AAAAATACAAAAA"), right_arm[:60], middle, right_arm[60:]]
    )
    start = random_bases(900, 0.58, draws, cpg_odds=0.6)
    l1 = np.concatenate([start, random_bases(4600, 0.40, draws), random_bases(500, 0.38, draws)])
    terminal = random_bases(40, 0.4, draws)
    dna = np.concatenate([terminal, random_bases(1200, 0.39, draws), 3 - terminal[::-1]])
    return {
        "alu": Family(alu, Shape.WHOLE, (20, 120), gc_preference=1, longest_tail=30),
        "l1": Family(l1, Shape.TRUNCATED, (20, 160), gc_preference=-1, longest_tail=25),
        "ltr": build_provirus(draws, (40, 140)),
        "dna": Family(dna, Shape.INNER_DELETED, (60, 200)),
        "satellite": Family(random_bases(171, 0.38, draws), Shape.SATELLITE, (5, 20)),
    }


def build_young_families(ancestral: dict[str, Family], draws: Draws) -> dict[str, Family]:
    """What is active at the root of the tree: Alu, L1, a first SVA-like element, a retrovirus."""
    alu, l1 = ancestral["alu"], ancestral["l1"]
    sva = np.concatenate(
        [
            np.tile(bases_of("CCCTCT"), 8),
            3 - alu.bases[:130][::-1],
            np.tile(random_bases(38, 0.66, draws, cpg_odds=0.6), 8),
            random_bases(490, 0.48, draws),
        ]
    )
    return {
        "alu": replace(alu, age=_YOUNG),
        "l1": replace(l1, age=_YOUNG),
        "sva": Family(sva, Shape.WHOLE, _YOUNG, gc_preference=1, longest_tail=30),
        "ltr": build_provirus(draws, _YOUNG),
    }


def descend(families: dict[str, Family], draws: Draws) -> dict[str, Family]:
    """A branch's subfamilies: the parent's with diagnostic mutations, and a new retrovirus.

    Alu differs by about 9 bases (AluYb8 by 8), L1 and SVA by 1 % and 3 %; the retrovirus has
    nothing in common with the parent's, as PtERV1 of chimpanzees and gorillas.
    """
    new = {"ltr": build_provirus(draws, _YOUNG)}
    for name, share in (("alu", 0.03), ("l1", 0.01), ("sva", 0.03)):
        family = families[name]
        count = round(share * len(family.bases))
        new[name] = replace(family, bases=alter(family.bases, count, draws))
    return new


def draw_young_copies(families: dict[str, Family], count: int, draws: Draws) -> list[Copy]:
    """New copies; the mix is about that of human-specific ones (Tang 2018, DNA Res 25:521)."""
    names = list(_YOUNG_MIX)
    chosen = draws.choice(_YOUNG_MIX.values(), count)
    return [draw_copy(families[names[i]], draws) for i in chosen]


def build_provirus(draws: Draws, age: tuple[int, int]) -> Family:
    ltr = np.concatenate([bases_of("TG"), random_bases(446, 0.46, draws), bases_of("CA")])
    return Family(ltr, Shape.PROVIRUS, age, inner=random_bases(3000, 0.43, draws))


def draw_copy(family: Family, draws: Draws) -> Copy:
    """One copy as it lands: its extent, tail, strand and age; its mutations come later."""
    bases = family.bases
    if family.shape is Shape.TRUNCATED:
        edges = [100, 250, 450, 700, 1200, 2500, len(bases)]
        size = int(draws.choice([30, 30, 20, 12, 6, 2], 1)[0])
        bases = bases[-draws.one(edges[size], edges[size + 1]) :]
    elif family.shape is Shape.INNER_DELETED:
        left, right = draws.one(80, 200), draws.one(80, 200)
        bases = np.concatenate([bases[:left], bases[-right:]])
    elif family.shape is Shape.SATELLITE:
        unit = np.tile(bases, draws.one(4, 8))
        bases = np.tile(alter(unit, len(unit) // 5, draws), draws.one(2, 5))
    elif family.inner is not None and draws.one(1, 10) == 1:
        bases = np.concatenate([bases, family.inner, bases])
    if family.longest_tail:
        bases = np.concatenate([bases, np.zeros(draws.one(8, family.longest_tail), np.uint8)])
    stretch = Stretch.of(bases, MASKED)
    if draws.one(0, 1):
        stretch = stretch.reverse_complement()
    return Copy(stretch, draws.one(*family.age) / 1000, family.gc_preference)


def insert_copies(
    host: Stretch, copies: list[Copy], rates: MutationRates, draws: Draws, duplicated: int = 15
) -> Stretch:
    """Age the copies and insert them anywhere but in exons, with target-site duplications."""
    if not copies:
        return host
    joined = Stretch.join([copy.stretch for copy in copies])
    sizes = np.array([copy.stretch.length for copy in copies])
    owner = np.repeat(np.arange(len(copies), dtype=np.int32), sizes)
    age = np.repeat(np.array([copy.age for copy in copies]), sizes)
    # A copy's past does not slip: its arrays are drawn with the length they have now.
    calm = replace(rates, slippage_per_substitution=0.0)
    aged = mutate(replace(joined, site=owner), age, calm, draws)
    lengths = np.bincount(np.maximum.accumulate(aged.site), minlength=len(copies))
    preference = np.array([copy.gc_preference for copy in copies])
    at = _choose_positions(host, preference, draws)
    return insert_pieces(host, at, aged, lengths, duplicated)


def _choose_positions(host: Stretch, gc_preference: Integers, draws: Draws) -> Integers:
    """The better suited of two random positions outside exons, for each copy."""
    allowed = np.flatnonzero(host.feature != EXON)
    count = len(gc_preference)
    first, second = allowed[draws.below(len(allowed), 2 * count)].reshape(2, count)
    total = np.concatenate([[0], np.cumsum((host.bases == 1) | (host.bases == 2))])

    def local_gc(position: Integers) -> NDArray[np.float64]:
        start, end = np.maximum(position - 5000, 0), np.minimum(position + 5000, host.length)
        return (total[end] - total[start]) / (end - start)

    return np.where(gc_preference * (local_gc(first) - local_gc(second)) >= 0, first, second)


def build_ancestor(
    length: int,
    families: dict[str, Family],
    content: AncestorContent,
    rates: MutationRates,
    draws: Draws,
) -> Stretch:
    """One ancestral chromosome of about `length` bases (within a few percent), with its sites."""
    genes = _draw_genes(round(content.coding * length), draws)
    repeats = _draw_repeats(length, families, content, draws)
    arrays = _draw_tandem_arrays(length, content, draws)
    inserted = sum(copy.stretch.length for copy in repeats + arrays)
    inserted += sum(exon.length for gene in genes for _, exon in gene)

    background = _draw_background(max(length - inserted, length // 10), content, draws)
    chromosome = _insert_genes(background, genes, draws)
    for youngest, oldest in ((0.12, 1.0), (0.07, 0.12), (0.0, 0.07)):
        wave = [copy for copy in repeats if youngest <= copy.age < oldest]
        chromosome = insert_copies(chromosome, wave, rates, draws)
    chromosome = insert_copies(chromosome, arrays, rates, draws, duplicated=0)
    return replace(chromosome, site=np.arange(chromosome.length, dtype=np.int32))


def _draw_background(length: int, content: AncestorContent, draws: Draws) -> Stretch:
    """Isochores, most of them poor in GC, as in mammals; 50-150 kb, and twice that with repeats."""
    gc: list[float] = []
    step = (content.highest_gc - content.lowest_gc) / 5
    while len(gc) * 250 < length:
        level = content.lowest_gc + step * int(draws.choice([30, 25, 18, 12, 9, 6], 1)[0])
        gc += [level] * draws.one(200, 600)
    bases = random_bases(length, np.array(gc[: -(-length // 250)]), draws)
    return Stretch.of(bases, UNIQUE)


def _draw_repeats(
    length: int, families: dict[str, Family], content: AncestorContent, draws: Draws
) -> list[Copy]:
    """Copies of every family until each has its share."""
    copies: list[Copy] = []
    for name, family in families.items():
        wanted = getattr(content, name) * length
        while wanted > 0:
            copies.append(draw_copy(family, draws))
            wanted -= copies[-1].stretch.length
    return copies


def _draw_tandem_arrays(length: int, content: AncestorContent, draws: Draws) -> list[Copy]:
    units = [bases_of(letters) for letters in _MICROSATELLITES]
    arrays: list[Copy] = []
    wanted = content.microsatellite * length
    while wanted > 0:
        unit = units[int(draws.choice(_MICROSATELLITES.values(), 1)[0])]
        stretch = Stretch.of(np.resize(unit, draws.one(18, 60)), MASKED + len(unit))
        stretch = stretch.reverse_complement() if draws.one(0, 1) else stretch
        arrays.append(Copy(stretch, draws.one(0, 40) / 1000))
        wanted -= stretch.length
    wanted = content.minisatellite * length
    while wanted > 0:
        unit = random_bases(draws.one(10, 60), 0.5, draws)
        stretch = Stretch.of(np.tile(unit, draws.one(8, 30)), MASKED)
        arrays.append(Copy(stretch, draws.one(20, 100) / 1000, gc_preference=1))
        wanted -= stretch.length
    return arrays


def _draw_genes(coding: int, draws: Draws) -> list[list[tuple[int, Stretch]]]:
    """Genes with `coding` bases of exons in all: for each its exons and the introns before them."""
    genes = []
    while coding > 0:
        n_codons = [draws.one(30, 70) for _ in range(draws.one(3, 10))]
        codons = [draws.choice(_CODON_USAGE, count) for count in n_codons]
        coding -= 3 * sum(n_codons)
        gene = []
        for number, codon in enumerate(codons):
            exon = np.stack([codon // 16, codon // 4 % 4, codon % 4], axis=1).astype(np.uint8)
            is_first, is_last = number == 0, number == len(codons) - 1
            pyrimidines = 1 + 2 * draws.below(2, 12).astype(np.uint8)
            start = bases_of("GCCACCATG") if is_first else np.append(pyrimidines, bases_of("CAG"))
            end = bases_of("TGAAATAAA" if is_last else "GTAAGT")
            parts = [Stretch.of(np.concatenate([start, exon.ravel(), end]), EXON)]
            if is_first:
                island = random_bases(draws.one(400, 900), 0.66, draws, cpg_odds=0.8)
                parts.insert(0, Stretch.of(island, CPG_ISLAND))
            intron = 0 if is_first else draws.one(200, 1500)
            gene.append((intron, Stretch.join(parts)))
        genes.append(gene)
    return genes


def _insert_genes(
    background: Stretch, genes: list[list[tuple[int, Stretch]]], draws: Draws
) -> Stretch:
    """Exons before positions of the background, which becomes the introns; either strand."""
    positions: list[int] = []
    exons: list[Stretch] = []
    for gene in genes:
        offsets = np.cumsum([intron for intron, _ in gene])
        pieces = [exon for _, exon in gene]
        if draws.one(0, 1):
            offsets, pieces = offsets[-1] - offsets, [each.reverse_complement() for each in pieces]
        start = draws.one(0, max(background.length - int(offsets.max()), 0))
        positions += np.minimum(start + offsets, background.length).tolist()
        exons += pieces
    if not exons:
        return background
    lengths = np.array([exon.length for exon in exons])
    return insert_pieces(background, np.array(positions), Stretch.join(exons), lengths)
