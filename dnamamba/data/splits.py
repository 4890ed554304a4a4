"""Which bases are for training, validation and test: from a BED, by contig, or by fraction."""

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnamamba.data.ranges import NO_RUNS, ContigLine, merge, subtract
from dnamamba.data.windows import index_intervals
from dnamamba.data_prep.regions.bed import read_split_bed
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split

Splits = dict[Split, list[Interval]]


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How the genome is divided. A BED rules alone; contigs named come before fractions."""

    bed: str | None = None
    """4-column BED (chrom, start, end, train|valid|test)."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs held out for validation: names, or patterns with `*`."""

    test_contigs: tuple[str, ...] = ()
    """Contigs held out for the test."""

    valid_fraction: float = 0.05
    """Share of each contig for validation; used where neither a BED nor contigs are named."""

    test_fraction: float = 0.05
    """Share of each contig for the test; likewise."""

    def __post_init__(self) -> None:
        if self.bed is not None and (self.valid_contigs or self.test_contigs):
            raise InputError("name either a BED or contigs to hold out, not both")
        for name in ("valid_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) <= 0.25:
                raise InputError(
                    f"{name} is a share of each contig between 0 and 0.25, "
                    f"got {getattr(self, name)}"
                )


def resolve_splits(config: SplitConfig, contigs: Mapping[str, int], seq_len: int) -> Splits:
    """The intervals of each split, as the config describes them.

    contigs: name -> length in bases. seq_len: window length in bases; fractions are rounded up to
    whole windows of it, or down to at least one where held-out bases would be more than half of a
    contig. One without room for that is for training as a whole.
    A BED's rows come back as they are, overlaps included: windows.py keeps splits apart.
    Raises InputError for contigs that the genome does not have.
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
            f"no contig of {path} is in the genome: the BED has {_some(named)}, "
            f"the genome has {_some(contigs)}"
        )
    return known


def _by_contig(config: SplitConfig, contigs: Mapping[str, int]) -> Splits:
    valid = match_contigs(config.valid_contigs, contigs)
    test = match_contigs(config.test_contigs, contigs)
    if both := sorted(valid & test):
        raise InputError(f"{_some(both)} held out for validation and for the test: choose one")
    splits: Splits = {split: [] for split in Split}
    for name, length in contigs.items():
        split = Split.VALID if name in valid else Split.TEST if name in test else Split.TRAIN
        splits[split].append(Interval(name, 0, length))
    if not splits[Split.TRAIN]:
        raise InputError("every contig is held out: nothing is left to train on")
    return splits


def keep_apart(splits: Splits, contigs: Mapping[str, int]) -> Splits:
    """Each split without what is in a more protected one: test, then validation, then training.

    Rows of a split that overlap or touch are joined.
    """
    names, line = list(contigs), ContigLine(np.array(list(contigs.values()), np.int64))
    taken = NO_RUNS
    apart: Splits = {}
    for split in (Split.TEST, Split.VALID, Split.TRAIN):
        rows = line.place(*index_intervals(splits[split], names).T)
        apart[split] = [
            Interval(names[contig], start, end)
            for contig, runs in line.split(subtract(rows, taken)).items()
            for start, end in runs.tolist()
        ]
        taken = merge(np.concatenate([taken, rows]))
    return apart


def match_contigs(patterns: Sequence[str], contigs: Mapping[str, int]) -> set[str]:
    """Contigs meant by names and `*` patterns.

    A name or pattern also stands for `<genome>/<name>` of every genome, as contigs are called
    where several genomes share names. Raises InputError for a pattern that means none.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {pattern} & set(contigs)
        if not matched:
            matched = set(fnmatch.filter(contigs, pattern))
        if not matched:
            matched = {name for name in contigs if name.endswith(f"/{pattern}")}
        if not matched:
            matched = set(fnmatch.filter(contigs, f"*/{pattern}"))
        if not matched:
            raise InputError(f"no contig is named {pattern!r}; the genome has {_some(contigs)}")
        found |= matched
    return found


def _by_fraction(config: SplitConfig, contigs: Mapping[str, int], seq_len: int) -> Splits:
    """Validation around a third and test around two thirds of each contig, away from its ends."""
    splits: Splits = {split: [] for split in Split}
    for name, length in contigs.items():
        valid = _held_out(config.valid_fraction, length, seq_len, math.ceil)
        test = _held_out(config.test_fraction, length, seq_len, math.ceil)
        if 2 * (valid + test) > length:
            valid = _held_out(config.valid_fraction, length, seq_len, math.floor)
            test = _held_out(config.test_fraction, length, seq_len, math.floor)
        if 2 * (valid + test) > length:
            valid = test = 0
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


def _held_out(fraction: float, length: int, seq_len: int, rounded: Callable[[float], int]) -> int:
    """A fraction of a contig in whole windows; at least one, unless the fraction is 0."""
    return seq_len * max(rounded(fraction * length / seq_len), 1) if fraction > 0 else 0


def describe_warnings(config: SplitConfig, contigs: Mapping[str, int]) -> list[str]:
    """What of a division is allowed but hardly meant, a sentence each.

    That is BED rows of contigs the genome lacks, and fractions of genomes that share contig names:
    what is held out of one is trained on in its relatives.
    """
    if config.bed is not None:
        rows = [row for split in read_split_bed(Path(config.bed)).values() for row in split]
        names = [row.chrom for row in rows if row.chrom not in contigs]
        if names:
            return [
                f"{len(names):,} of {len(rows):,} rows of {config.bed} are left out: the genome "
                f"has no contig {_some(sorted(set(names)))}"
            ]
        return []
    shared = Counter(name.partition("/")[2] for name in contigs if "/" in name)
    by_fraction = not (config.valid_contigs or config.test_contigs)
    if (
        by_fraction
        and (config.valid_fraction or config.test_fraction)
        and max(shared.values(), default=0) > 1
    ):
        return [
            "the genomes share contig names and are divided by fraction: related sequence may be "
            "held out in one genome and trained on in another. Hold out whole contigs instead, "
            "with --valid-contigs and --test-contigs"
        ]
    return []


def _some(names: Sequence[str] | Mapping[str, int]) -> str:
    shown = list(names)
    more = f", ... ({len(shown)} in all)" if len(shown) > 5 else ""
    return ", ".join(shown[:5]) + more
