"""Which bases are for training, validation and test: from a BED, by contig, or by fraction."""

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnamamba.configs import require_range
from dnamamba.data.ranges import NO_RUNS, ContigLine, merge, subtract
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.genomes.statistics import foreign_letters
from dnamamba.data_prep.regions.bed import read_split_bed
from dnamamba.errors import InputError
from dnamamba.files import first_of
from dnamamba.intervals import Interval, Split

Splits = dict[Split, list[Interval]]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How the genome is divided: by a BED alone, else by named contigs, else by fractions."""

    bed: str | None = None
    """4-column BED (chrom, start, end, train|valid|test)."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs held out for validation: names, or patterns with `*`."""

    test_contigs: tuple[str, ...] = ()
    """Contigs held out for the test, likewise."""

    valid_fraction: float = 0.05
    """Share of each contig for validation, without a BED and named contigs."""

    test_fraction: float = 0.05
    """Share of each contig for the test, likewise."""

    def __post_init__(self) -> None:
        if self.bed is not None and (self.valid_contigs or self.test_contigs):
            raise InputError("name either a BED or contigs to hold out, not both")
        for name in ("valid_fraction", "test_fraction"):
            require_range(name, getattr(self, name), 0, 0.25, "of each contig")


def resolve_splits(config: SplitConfig, contigs: Mapping[str, int], seq_len: int) -> Splits:
    """The intervals of each split.

    contigs: name -> length in bases. seq_len: bases of a window. Fractions are rounded up to whole
    windows, or down to at least one if more than half of a contig would be held out; a contig too
    short for that is for training. A BED's rows stay as they are, overlaps included: WindowIndex
    keeps splits apart. Raises InputError for contigs that the genome does not have.
    """
    if config.bed is not None:
        return _from_bed(Path(config.bed), contigs)
    if config.valid_contigs or config.test_contigs:
        return _by_contig(config, contigs)
    return _by_fraction(config, contigs, seq_len)


def _from_bed(path: Path, contigs: Mapping[str, int]) -> Splits:
    splits = read_split_bed(path)
    known: Splits = {
        split: [row for row in rows if row.chrom in contigs] for split, rows in splits.items()
    }
    if not any(known.values()):
        named = sorted({row.chrom for rows in splits.values() for row in rows})
        raise InputError(
            f"no contig of {path} is in the genome: the BED has {first_of(named)}, "
            f"the genome has {first_of(contigs)}"
        )
    return known


def _by_contig(config: SplitConfig, contigs: Mapping[str, int]) -> Splits:
    split_of = held_out_contigs(config.valid_contigs, config.test_contigs, contigs)
    splits: Splits = {split: [] for split in Split}
    for name, length in contigs.items():
        splits[split_of.get(name, Split.TRAIN)].append(Interval(name, 0, length))
    if not splits[Split.TRAIN]:
        raise InputError("every contig is held out: nothing is left to train on")
    return splits


def held_out_contigs(
    valid: Sequence[str], test: Sequence[str], contigs: Mapping[str, int]
) -> dict[str, Split]:
    """The split of every contig that patterns (`match_contigs`) hold out.

    Raises InputError for a contig held out for both.
    """
    found = match_contigs(valid, contigs), match_contigs(test, contigs)
    if both := sorted(found[0] & found[1]):
        names = first_of(both)
        raise InputError(f"{names} is held out for validation and for the test: choose one")
    return dict.fromkeys(found[0], Split.VALID) | dict.fromkeys(found[1], Split.TEST)


def keep_apart(splits: Splits, contigs: Mapping[str, int]) -> Splits:
    """Remove from each split the bases of a more protected one: test, validation, training.

    Rows of a split that overlap or touch are joined.
    """
    line = ContigLine(contigs)
    taken = NO_RUNS
    apart: Splits = {}
    for split in (Split.TEST, Split.VALID, Split.TRAIN):
        rows = line.lay_intervals(splits[split])
        apart[split] = [
            Interval(line.names[contig], start, end)
            for contig, runs in line.split(subtract(rows, taken)).items()
            for start, end in runs.tolist()
        ]
        taken = merge(np.concatenate([taken, rows]))
    return apart


def match_contigs(patterns: Sequence[str], contigs: Mapping[str, int]) -> set[str]:
    """Contigs of names and `*` patterns, which also match `<genome>/<name>` of every genome.

    Raises InputError for a pattern without a match.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = (
            {pattern} & set(contigs)
            or set(fnmatch.filter(contigs, pattern))
            or {name for name in contigs if name.endswith(f"/{pattern}")}
            or set(fnmatch.filter(contigs, f"*/{pattern}"))
        )
        if not matched:
            raise InputError(f"no contig is named {pattern!r}; the genome has {first_of(contigs)}")
        found |= matched
    return found


def _by_fraction(config: SplitConfig, contigs: Mapping[str, int], seq_len: int) -> Splits:
    """Put validation around a third and the test around two thirds of each contig."""
    splits: Splits = {split: [] for split in Split}
    for name, length in contigs.items():
        valid, test = _held_out_bases(config, length, seq_len)
        valid_start, test_start = length // 3 - valid // 2, 2 * length // 3 - test // 2
        pieces = [
            (Split.TRAIN, 0, valid_start),
            (Split.VALID, valid_start, valid_start + valid),
            (Split.TRAIN, valid_start + valid, test_start),
            (Split.TEST, test_start, test_start + test),
            (Split.TRAIN, test_start + test, length),
        ]
        if valid == test == 0:
            pieces = [(Split.TRAIN, 0, length)]
        for split, start, end in pieces:
            if end > start:
                splits[split].append(Interval(name, start, end))
    return splits


def _held_out_bases(config: SplitConfig, length: int, seq_len: int) -> tuple[int, int]:
    """Bases for validation and test in whole windows; one or more unless the fraction is 0."""

    def share(fraction: float, rounded: Callable[[float], int]) -> int:
        return seq_len * max(rounded(fraction * length / seq_len), 1) if fraction > 0 else 0

    for rounded in (math.ceil, math.floor):
        valid, test = share(config.valid_fraction, rounded), share(config.test_fraction, rounded)
        if 2 * (valid + test) <= length:
            return valid, test
    return 0, 0


def data_warnings(genome: Genome, config: SplitConfig) -> list[str]:
    """Warnings about data that is allowed but seldom meant: letters that are not DNA, and
    `describe_warnings`."""
    letters = foreign_letters(genome.statistics())
    found = describe_warnings(config, genome.contigs)
    return found if letters is None else [f"the genome: {letters}", *found]


def describe_warnings(config: SplitConfig, contigs: Mapping[str, int]) -> list[str]:
    """Warnings about BED rows of contigs that the genome lacks, and about fractions of genomes that
    share contig names: training would see in one genome what is held out of its relatives."""
    if config.bed is not None:
        rows = [row for split in read_split_bed(Path(config.bed)).values() for row in split]
        names = [row.chrom for row in rows if row.chrom not in contigs]
        if not names:
            return []
        return [
            f"{len(names):,} of {len(rows):,} rows of {config.bed} are left out: the genome "
            f"has no contig {first_of(sorted(set(names)))}"
        ]
    shared = Counter(name.partition("/")[2] for name in contigs if "/" in name)
    by_fraction = not (config.valid_contigs or config.test_contigs)
    holds_out = config.valid_fraction or config.test_fraction
    if by_fraction and holds_out and max(shared.values(), default=0) > 1:
        return [
            "the genomes share contig names and are divided by fraction: related sequence may be "
            "held out in one genome and trained on in another. Hold out whole contigs instead, "
            "with --valid-contigs and --test-contigs"
        ]
    return []
