"""How a simulated sequence changes: exact random draws, substitutions, indels and insertions.

Every step is an array operation over all bases, the same on every platform and numpy: random
numbers are the raw words of PCG64, whose stream numpy keeps (NEP 19), and the arithmetic on them is
integers and single IEEE operations.

Bases are 0, 1, 2, 3 for A, C, G, T here, so that `3 - base` is the complement and `base ^ 2` the
transition.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.configs import require_range

Bases = NDArray[np.uint8]
Integers = NDArray[np.int64]
PerBase = float | NDArray[np.float64]
"""A number for all bases, or one for each."""

# What a base belongs to. From MASKED on it is a repeat, written in lower case; MASKED + n is a
# microsatellite with a unit of n bases.
UNIQUE, EXON, CPG_ISLAND, MASKED = 0, 1, 2, 10
GONE = 255

# Indel lengths 1-30 follow about 1 / length^2 (Cartwright 2009, Mol Biol Evol 26:473: 1.8).
_INDEL_WEIGHTS = [10**6 // length**2 for length in range(1, 31)]

# Dinucleotide odds (observed / expected) outside repeats, both strands, rows and columns A C G T:
# human chr22, 43 % GC; Burge et al. 1992 (PNAS 89:1358) and Karlin's group print much the same.
_DINUCLEOTIDE_ODDS = (
    (1.10, 0.83, 1.22, 0.87),
    (1.22, 1.22, 0.20, 1.22),
    (1.02, 0.98, 1.22, 0.83),
    (0.72, 1.02, 1.22, 1.10),
)
_CHAIN = 250


def rate(default: float, source: str) -> Any:
    """A dataclass field with a default and its source (`metadata["source"]`)."""
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True, kw_only=True)
class MutationRates:
    """How fast bases change.

    substitutions_per_base_year: the mean over all bases that are not in exons.
    transition_share: part of the substitutions outside CpG that are transitions.
    cpg_transition_factor: how many times faster transitions are in CpG, islands apart.
    indels_per_substitution: small insertions and deletions, half each, 1-30 bases.
    slippage_per_substitution: changes by one unit in microsatellites, per base.
    exon_factor: substitutions in exons, relative to elsewhere; exons have no indels.
    """

    substitutions_per_base_year: float = rate(
        1e-9, "human-chimpanzee 1.23 % (CSAC 2005, Nature 437:69) over 2 x 6.5 My"
    )
    transition_share: float = rate(
        2 / 3, "transitions twice the transversions (1000 Genomes 2010, Nature 467:1061)"
    )
    cpg_transition_factor: float = rate(
        10.0, "CpG mutates about ten times faster (Nachman and Crowell 2000, Genetics 156:297)"
    )
    indels_per_substitution: float = rate(
        0.125, "35 million substitutions and 5 million indels, human-chimpanzee (CSAC 2005)"
    )
    slippage_per_substitution: float = rate(
        20.0, "chosen; real loci are faster still (Ellegren 2004, Nat Rev Genet 5:435)"
    )
    exon_factor: float = rate(
        0.4, "chosen from a mean Ka/Ki of 0.23 between human and chimpanzee (CSAC 2005)"
    )

    def __post_init__(self) -> None:
        limits = {"substitutions_per_base_year": 1e-7, "transition_share": 1.0, "exon_factor": 1.0}
        for name, value in vars(self).items():
            require_range(name, value, 0, limits.get(name, 1000.0))


class Draws:
    """A stream of random integers, fixed by its key: numbers and names, in order."""

    def __init__(self, *key: int | str) -> None:
        words = [int.from_bytes(k.encode()) if isinstance(k, str) else k for k in key]
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def words(self, count: int) -> NDArray[np.uint32]:
        """Uniform 32-bit words (count,)."""
        raw = self._bits.random_raw((count + 1) // 2)
        return raw.astype("<u8").view("<u4")[:count]

    def below(self, limit: int, count: int) -> Integers:
        """Integers (count,) from 0 to limit - 1; limit at most 2^32."""
        scaled = self.words(count).astype(np.uint64) * np.uint64(limit)
        return (scaled >> np.uint64(32)).astype(np.int64)

    def one(self, low: int, high: int) -> int:
        """One integer from low to high, both included."""
        return low + int(self.below(high - low + 1, 1)[0])

    def chance(self, probability: PerBase, count: int) -> NDArray[np.bool_]:
        """True (count,) with this probability, or one for each."""
        limit = (np.asarray(probability, np.float64) * 2.0**32).astype(np.uint64)
        return self.words(count) < limit

    def choice(self, weights: Iterable[int], count: int) -> Integers:
        """Positions (count,) in `weights`, each as often as its weight says."""
        bounds = np.cumsum(np.asarray(list(weights), np.int64))
        return np.searchsorted(bounds, self.below(int(bounds[-1]), count), side="right")


@dataclass(frozen=True)
class Stretch:
    """A piece of simulated sequence, three arrays of one length.

    bases: 0-3 for A, C, G, T. feature: UNIQUE, EXON, ..., see above.
    site: the base's position in the common ancestor (int32), -1 for none.
    """

    bases: Bases
    feature: NDArray[np.uint8]
    site: NDArray[np.int32]

    @classmethod
    def of(cls, bases: Bases, feature: int) -> "Stretch":
        """Bases of one feature, without sites."""
        count = len(bases)
        return cls(bases, np.full(count, feature, np.uint8), np.full(count, -1, np.int32))

    @classmethod
    def join(cls, stretches: Iterable["Stretch"]) -> "Stretch":
        parts = list(stretches)
        return cls(
            np.concatenate([part.bases for part in parts]),
            np.concatenate([part.feature for part in parts]),
            np.concatenate([part.site for part in parts]),
        )

    @property
    def length(self) -> int:
        return len(self.bases)

    def take(self, index: NDArray[Any]) -> "Stretch":
        """The bases at these positions, in this order."""
        return Stretch(self.bases[index], self.feature[index], self.site[index])

    def reverse_complement(self) -> "Stretch":
        return Stretch(3 - self.bases[::-1], self.feature[::-1], self.site[::-1])


def random_bases(length: int, gc: PerBase, draws: Draws, cpg_odds: float = 0.2) -> Bases:
    """Bases (length,) of a first-order Markov chain with human dinucleotide odds.

    gc: share of G and C, for all or for every 250 bases; CpG depletion lowers it by a few percent.
    The chain starts anew every 250 bases, so that many run at once.
    """
    n_chains = -(-length // _CHAIN)
    odds = np.array(_DINUCLEOTIDE_ODDS)
    odds[1, 2] = cpg_odds
    levels, level = np.unique(np.broadcast_to(gc, n_chains), return_inverse=True)
    composition = np.stack([1 - levels, levels, levels, 1 - levels], axis=1) / 2
    cumulative = np.cumsum(odds * composition[:, None, :], axis=2)
    share = cumulative[:, :, :3] / cumulative[:, :, 3:]
    limits = (share * 2.0**32).astype(np.uint64)

    chains = np.empty((min(_CHAIN, length), n_chains), np.uint8)
    state = draws.below(4, n_chains)
    for position in range(len(chains)):
        word = draws.words(n_chains)
        state = np.count_nonzero(word[:, None] >= limits[level, state], axis=1)
        chains[position] = state
    return chains.T.ravel()[:length]


def alter(bases: Bases, count: int, draws: Draws) -> Bases:
    """A subfamily's consensus: `count` draws of a position, each set to another base."""
    altered = bases.copy()
    position = draws.below(len(bases), count)
    altered[position] = (bases[position] + 1 + draws.below(3, count)) % 4
    return altered


def mutate(stretch: Stretch, substitutions: PerBase, rates: MutationRates, draws: Draws) -> Stretch:
    """Substitutions and then indels; `substitutions` is the mean number a base, or one for each.

    A base changes once at most, so this is for branches and ages of well below one.
    """
    substituted = _substitute(stretch, substitutions, rates, draws)
    return _insert_and_delete(substituted, substitutions, rates, draws)


def _substitute(
    stretch: Stretch, substitutions: PerBase, rates: MutationRates, draws: Draws
) -> Stretch:
    is_cpg = _find_cpg(stretch)
    share = rates.transition_share
    cpg_speed = share * rates.cpg_transition_factor + 1 - share
    mean_speed = 1 + (cpg_speed - 1) * (np.count_nonzero(is_cpg) / stretch.length)
    probability = substitutions / mean_speed * np.where(is_cpg, cpg_speed, 1.0)
    probability *= np.where(stretch.feature == EXON, rates.exon_factor, 1.0)

    hit = np.flatnonzero(draws.chance(probability, stretch.length))
    cpg_share = share * rates.cpg_transition_factor / cpg_speed
    is_transition = draws.chance(np.where(is_cpg[hit], cpg_share, share), len(hit))
    transversion = 1 + 2 * draws.below(2, len(hit))
    bases = stretch.bases.copy()
    bases[hit] ^= np.where(is_transition, 2, transversion).astype(np.uint8)
    return Stretch(bases, stretch.feature, stretch.site)


def _find_cpg(stretch: Stretch) -> NDArray[np.bool_]:
    """Both bases of every CpG outside islands, which are not methylated."""
    bases, is_cpg = stretch.bases, np.zeros(stretch.length, bool)
    pair = (bases[:-1] == 1) & (bases[1:] == 2) & (stretch.feature[:-1] != CPG_ISLAND)
    is_cpg[:-1] |= pair
    is_cpg[1:] |= pair
    return is_cpg


def _insert_and_delete(
    stretch: Stretch, substitutions: PerBase, rates: MutationRates, draws: Draws
) -> Stretch:
    """Insertions repeat the bases before them, as most small ones do (Messer and Arndt 2007)."""
    unit = np.maximum(stretch.feature.astype(np.int64) - MASKED, 0)
    speed = np.where(unit > 0, rates.slippage_per_substitution, rates.indels_per_substitution)
    speed[stretch.feature == EXON] = 0
    start = np.flatnonzero(draws.chance(substitutions * speed, stretch.length))
    small = 1 + draws.choice(_INDEL_WEIGHTS, len(start))
    lengths = np.where(unit[start] > 0, unit[start], small)

    # The second of two that overlap is dropped, so that microsatellites keep whole units.
    is_apart = np.diff(start, prepend=0) >= np.append(0, lengths)[:-1]
    start, lengths = start[is_apart], lengths[is_apart]
    is_deletion = draws.chance(0.5, len(start))
    ends = np.minimum(start + lengths, stretch.length)[is_deletion]
    edges = np.bincount(start[is_deletion], minlength=stretch.length + 1)
    edges = edges - np.bincount(ends, minlength=stretch.length + 1)
    deleted = (np.cumsum(edges)[:-1] > 0) & (stretch.feature != EXON)

    at = start[~is_deletion]
    copied = np.minimum(lengths[~is_deletion], at)
    index, is_new = _splice(stretch.length, np.repeat(at, copied), _ranges(at - copied, copied))
    keep = is_new | ~deleted[index]
    return _without_sites(stretch.take(index[keep]), is_new[keep])


def insert_pieces(
    host: Stretch, at: Integers, pieces: Stretch, lengths: Integers, duplicated: int = 0
) -> Stretch:
    """Put pieces of these lengths (one after the other in `pieces`) before positions `at`.

    duplicated: bases before the position to repeat behind the piece, as transposable elements do.
    """
    before = np.minimum(at, duplicated)
    starts = np.stack([host.length + np.cumsum(lengths) - lengths, at - before], axis=1)
    source = _ranges(starts.ravel(), np.stack([lengths, before], axis=1).ravel())
    index, is_new = _splice(host.length, np.repeat(at, lengths + before), source)
    return _without_sites(Stretch.join([host, pieces]).take(index), is_new)


def _splice(length: int, at: Integers, source: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Index 0 ... length - 1 with `source` inserted before positions `at`, and a mask of those."""
    index = np.insert(np.arange(length), at, source)
    return index, np.insert(np.zeros(length, bool), at, True)


def _ranges(starts: Integers, lengths: Integers) -> Integers:
    """start, start + 1, ... of each length, joined."""
    offsets = np.arange(int(lengths.sum()))
    return np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + offsets


def _without_sites(stretch: Stretch, is_new: NDArray[np.bool_]) -> Stretch:
    site = np.where(is_new, np.int32(-1), stretch.site)
    return Stretch(stretch.bases, stretch.feature, site)


def align_to_ancestor(stretch: Stretch, ancestor_length: int) -> Bases:
    """The base (ancestor_length,) of each ancestral site here, GONE if it was deleted."""
    aligned = np.full(ancestor_length, GONE, np.uint8)
    has_site = stretch.site >= 0
    aligned[stretch.site[has_site]] = stretch.bases[has_site]
    return aligned
