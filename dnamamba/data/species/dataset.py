"""Telling species apart: windows from a random species, chromosome and place, labelled with it.

Which window is sample i of epoch e is a pure function of (seed, e, i), by hashes; validation and
test windows are drawn once, by keys of their own, and stay.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.augment import check_mutation_rate, substitute_each
from dnamamba.data.batches import Examples
from dnamamba.data.hashing import U64, hash_u64
from dnamamba.data.ranges import ContigLine, Ints, Runs
from dnamamba.data.species.homology import HELD_OUT, published_split, split_by_homology, to_human
from dnamamba.data.species.sampler import Places, starts_within_limit, weigh_contigs
from dnamamba.data.splits import SplitConfig, Splits, describe_warnings, keep_apart, resolve_splits
from dnamamba.data.windows import index_intervals
from dnamamba.data_prep.genomes.genome import Genome, open_labelled_genomes
from dnamamba.data_prep.genomes.statistics import foreign_letters
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split
from dnamamba.runtime import logger
from dnamamba.task import Task
from dnamamba.tokenizer import SOFT_MASK_BIT, Codes, reverse_complement

SpeciesSplit = Literal["homology", "hyenadna", "contigs", "bed"]
ChromosomeWeights = Literal["uniform", "length", "callable"]

PAPER_EPOCH = 1024 * 64
"""Samples in an epoch of the Mamba paper: 1,024 steps of 64 windows."""

_FIRST_WARMUP = 1 << 14
# Keys that keep the random draws of different purposes apart.
_SPECIES, _CONTIG, _START, _STRAND, _MUTATIONS = 11, 12, 13, 14, 15
_EVALUATION = {Split.VALID: 21, Split.TEST: 22}
_UPPER_CASE = np.uint8(0xFF ^ SOFT_MASK_BIT)


@dataclass(frozen=True)
class SpeciesFiles:
    """A species and the FASTA files and stores that are its genome."""

    label: str
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.label.strip() or "/" in self.label:
            raise InputError(f"a species has a name without a slash, got {self.label!r}")
        if not self.files:
            raise InputError(f"{self.label} has no file: expected at least one FASTA or store")


@dataclass(frozen=True, kw_only=True)
class SpeciesConfig:
    """Genomes to tell apart, what of them is held out, and how windows are drawn."""

    kind: Literal["species"] = "species"
    """Tells it from other sources of labelled sequences."""

    species: tuple[SpeciesFiles, ...]
    """The classes."""

    seq_len: int
    """Bases in a window."""

    split: SpeciesSplit = "homology"
    """`homology`: what is homologous to human chromosomes 1, 3, 12, 13 is for validation, to 5, 7,
    9, 10, 11 for the test, to others for training; contigs that are homologous to several splits,
    or to nothing known, are in none. `hyenadna`: by a chromosome's own number, as published.
    `contigs` and `bed`: as named below."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs for validation: `label/contig`, or a contig's name for that of every species; `*`
    matches anything. With split `contigs` only."""

    test_contigs: tuple[str, ...] = ()
    """Contigs for the test, likewise."""

    bed: str | None = None
    """4-column BED (label/contig, start, end, train|valid|test). With split `bed` only."""

    chromosomes: ChromosomeWeights = "uniform"
    """How a chromosome of the species is drawn: each alike (the paper's, so a base of a short one
    is seen more often), by length, or by its bases that are not N."""

    max_n_fraction: float = 0.5
    """Windows with a larger share of N (or other unreadable letters) are never drawn."""

    warmup_lengths: tuple[int, ...] = ()
    """Window lengths of the first epochs of training; `warmup_lengths(seq_len)` is the paper's."""

    rc_augment: bool = True
    """Read each training window from either strand, by a fair coin: a genome is written down from
    either. No other split's."""

    mutation_rate: float = 0.0
    """Share of the bases of training windows that are changed, see augment.substitute."""

    epoch_size: int = PAPER_EPOCH
    """Samples in an epoch of training."""

    n_eval: int = 1000
    """Windows of validation, and of the test; as many of each species, but for the remainder."""

    seed: int = 0
    """Decides which windows are drawn, and nothing else does."""

    def __post_init__(self) -> None:
        for name, choices in (("split", SpeciesSplit), ("chromosomes", ChromosomeWeights)):
            if (given := getattr(self, name)) not in get_args(choices):
                raise InputError(f"{name} is one of {get_args(choices)}, got {given!r}")
        self._check_species()
        self._check_split()
        if wrong := [size for size in (self.seq_len, *self.warmup_lengths) if size < 2]:
            raise InputError(f"a window has at least 2 bases, got {wrong[0]}")
        if longer := [size for size in self.warmup_lengths if size > self.seq_len]:
            raise InputError(
                f"windows grow to seq_len in warm-up: {longer[0]:,} is longer than {self.seq_len:,}"
            )
        if not 0 <= self.max_n_fraction <= 1:
            raise InputError(f"max_n_fraction is between 0 and 1, got {self.max_n_fraction}")
        check_mutation_rate(self.mutation_rate)
        if self.epoch_size < 1:
            raise InputError(f"epoch_size is 1 sample or more, got {self.epoch_size}")
        if self.n_eval < len(self.species):
            raise InputError(
                f"n_eval is at least one window of each species ({len(self.species)}), got "
                f"{self.n_eval}"
            )
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"data seed is 0 or more and below 2^63, got {self.seed}")

    def _check_species(self) -> None:
        if len(set(self.labels)) != len(self.labels):
            raise InputError(
                f"species have different names, got {', '.join(self.labels)}; name several files "
                "of one species together: label=a.fa,b.fa"
            )

    def _check_split(self) -> None:
        contigs = bool(self.valid_contigs or self.test_contigs)
        if contigs != (self.split == "contigs"):
            raise InputError(
                f"contigs held out belong to the split 'contigs', got the split {self.split!r} and "
                f"{'some' if contigs else 'no'} contigs (--split contigs --valid-contigs NAMES)"
            )
        if (self.bed is not None) != (self.split == "bed"):
            raise InputError(
                f"a BED belongs to the split 'bed', got the split {self.split!r} and "
                f"{'no BED' if self.bed is None else self.bed} (--split bed --bed FILE)"
            )

    @property
    def labels(self) -> list[str]:
        """The species' names, sorted: the classes of the task."""
        return sorted(each.label for each in self.species)


def warmup_lengths(seq_len: int) -> tuple[int, ...]:
    """The paper's lengths of the first epochs: 2^14, 2^15, ... below seq_len, in bases."""
    lengths = itertools.takewhile(
        lambda size: size < seq_len, (_FIRST_WARMUP << n for n in itertools.count())
    )
    return tuple(lengths)


def open_species(config: SpeciesConfig) -> Genome:
    """All genomes as one; its contigs are called `label/contig`.

    Raises FileNotFoundError or InputError for files that cannot be used (`open_genome`).
    """
    files = {each.label: each.files for each in config.species}
    return open_labelled_genomes({label: files[label] for label in config.labels})


def resolve_species_splits(contigs: Mapping[str, int], config: SpeciesConfig) -> Splits:
    """The intervals of each split, no base in two of them.

    contigs: `label/contig` -> length in bases. Raises InputError for contigs named that are not
    there, or where nothing is left to train on.
    """
    if config.split == "contigs":
        named = SplitConfig(valid_contigs=config.valid_contigs, test_contigs=config.test_contigs)
        return resolve_splits(named, contigs, config.seq_len)
    if config.split == "bed":
        rows = resolve_splits(SplitConfig(bed=config.bed), contigs, config.seq_len)
        return keep_apart(rows, contigs)
    if config.split == "hyenadna":
        by_contig = {name: published_split(*name.split("/", 1)) for name in contigs}
    else:
        by_contig = {name: split_by_homology(human) for name, human in to_human(contigs).items()}
    splits: Splits = {split: [] for split in Split}
    for name, split in by_contig.items():
        if split is not None:
            splits[split].append(Interval(name, 0, contigs[name]))
    return splits


class SpeciesDataset(torch.utils.data.Dataset[Examples]):
    """Windows of one split, labelled with their species: a LabelledDataset (examples.py).

    In training sample e x n_examples + i is sample i of epoch e, and windows of epoch e have
    `length(e)` bases. Other splits have n_examples windows, the same in every epoch. Bases are
    upper-cased: soft-masking differs by assembly and would give the species away.
    Raises InputError where a species has no window in the split.
    """

    def __init__(self, genome: Genome, config: SpeciesConfig, split: Split, task: Task):
        self.genome = genome
        self.config = config
        self.split = split
        self.task = task
        self.seq_len = config.seq_len
        self.n_examples = config.epoch_size if split is Split.TRAIN else config.n_eval
        self._names = list(genome.contigs)
        self._targets = np.array(task.indices(config.labels, "--species"), np.int64)
        self._places = self._find_places(resolve_species_splits(genome.contigs, config))

    def length(self, epoch: int) -> int:
        """Bases in a window of an epoch."""
        warmup = self.config.warmup_lengths
        return warmup[epoch] if self.split is Split.TRAIN and epoch < len(warmup) else self.seq_len

    def places(self, epoch: int) -> Places:
        """Where windows of an epoch may begin; its groups are species, by their place in
        `config.labels`."""
        return self._places[self.length(epoch)]

    def __getitem__(self, samples: Sequence[int]) -> Examples:
        """A batch; samples may cross an epoch's end where lengths of windows do not change."""
        parts = [self._read(epoch, i) for epoch, i in self._by_epoch(samples)]
        if len(parts) == 1:
            return parts[0]
        if len(sizes := sorted({part.codes.shape[1] for part in parts})) > 1:
            raise InputError(
                f"a batch crosses the end of an epoch, where windows grow from {sizes[0]:,} to "
                f"{sizes[-1]:,} bases: an epoch is a whole number of batches, got epoch_size "
                f"{self.config.epoch_size:,}"
            )
        return Examples(*map(torch.cat, zip(*parts, strict=True)))

    def describe(self, samples: Sequence[int]) -> list[str]:
        """Where each sample comes from: `epoch 0: human/chr1:1-1,024, reverse strand`."""
        lines = []
        for epoch, i in self._by_epoch(samples):
            size = self.length(epoch)
            contigs, starts, _ = self._draw(epoch, i)
            turned = np.zeros(len(i), bool)
            if self.split is Split.TRAIN and self.config.rc_augment:
                turned = self._turned(epoch, i)
            columns = (contigs.tolist(), starts.tolist(), turned.tolist())
            for contig, start, is_turned in zip(*columns, strict=True):
                place = Interval(self._names[contig], start, start + size)
                strand = ", reverse strand" if is_turned else ""
                lines.append(f"epoch {epoch}: {place}{strand}")
        return lines

    def _by_epoch(self, samples: Sequence[int]) -> Iterator[tuple[int, Ints]]:
        places = (divmod(sample, self.n_examples) for sample in samples)
        for epoch, group in itertools.groupby(places, key=lambda place: place[0]):
            yield epoch, np.array([i for _, i in group], np.int64)

    def _read(self, epoch: int, i: Ints) -> Examples:
        size = self.length(epoch)
        contigs, starts, species = self._draw(epoch, i)
        codes = np.empty((len(i), size), np.uint8)
        names, read = self._names, self.genome.read
        for row, (contig, start) in enumerate(zip(contigs.tolist(), starts.tolist(), strict=True)):
            window = read(names[contig], start, start + size)
            np.bitwise_and(window, _UPPER_CASE, out=codes[row])
        if self.split is Split.TRAIN:
            self._augment(codes, epoch, i)
        return Examples(
            torch.from_numpy(codes),
            torch.full((len(i),), size),
            torch.from_numpy(self._targets[species]),
        )

    def _augment(self, codes: Codes, epoch: int, i: Ints) -> None:
        """Turn and change training windows (B, L), in place."""
        if self.config.rc_augment:
            for row in np.flatnonzero(self._turned(epoch, i)).tolist():
                codes[row] = reverse_complement(codes[row])
        keys = self._hash(i, epoch, _MUTATIONS).tolist()
        substitute_each(codes, self.config.mutation_rate, keys)

    def _turned(self, epoch: int, i: Ints) -> NDArray[np.bool_]:
        """Which training windows are read from the other strand."""
        return self._hash(i, epoch, _STRAND) & np.uint64(1) == 1

    def _draw(self, epoch: int, i: Ints) -> tuple[Ints, Ints, Ints]:
        """Contig (index), start and species (index into labels) of samples of an epoch."""
        n_species = len(self.config.labels)
        if self.split is Split.TRAIN:
            key = epoch
            species = (self._hash(i, key, _SPECIES) % np.uint64(n_species)).astype(np.int64)
        else:
            # Below every epoch: keys of training are 0 or more. In turn, so that each has as many.
            key = -_EVALUATION[self.split]
            species = i % n_species
        draws = self._hash(i, key, _CONTIG), self._hash(i, key, _START)
        contigs, starts = self.places(epoch).draw(species, *draws)
        return contigs, starts, species

    def _hash(self, i: Ints, key: int, purpose: int) -> U64:
        return hash_u64(i, self.config.seed, key, purpose)

    def _find_places(self, splits: Splits) -> dict[int, Places]:
        """By length of windows."""
        genome, config = self.genome, self.config
        line = ContigLine(np.array(list(genome.contigs.values()), np.int64))
        stretches = line.place(*index_intervals(splits[self.split], self._names).T)
        n_runs = line.join({i: genome.n_runs(name) for i, name in enumerate(self._names)})
        weights = weigh_contigs(config.chromosomes, stretches, n_runs, line)
        groups = self._species_of_contigs()
        warmup = config.warmup_lengths if self.split is Split.TRAIN else ()
        found = {}
        for size in {*warmup, config.seq_len}:
            most = int(config.max_n_fraction * size)
            starts = starts_within_limit(stretches, n_runs, size, most)
            found[size] = Places(starts, line, groups, weights)
            self._require_all(found[size], stretches, line, size)
        return found

    def _species_of_contigs(self) -> NDArray[np.int64]:
        number = {label: n for n, label in enumerate(self.config.labels)}
        return np.array([number[name.partition("/")[0]] for name in self._names], np.int64)

    def _require_all(self, places: Places, stretches: Runs, line: ContigLine, size: int) -> None:
        missing = set(range(len(self.config.labels))) - set(places.groups.tolist())
        if not missing:
            return
        species = min(missing)
        label = self.config.labels[species]
        own = np.flatnonzero(self._species_of_contigs() == species)
        mine = np.isin(line.contigs_of(stretches), own)
        if mine.any():
            longest = int((stretches[mine, 1] - stretches[mine, 0]).max())
            raise InputError(
                f"{label} has no {self.split} window of {size:,} bases (its longest stretch for "
                f"it has {longest:,}, and at most {self.config.max_n_fraction:.0%} of a window may "
                "be N): use a shorter --seq-len, hold out other contigs, or leave the species out"
            )
        names = [self._names[i] for i in own]
        raise InputError(
            f"{label} has nothing for {self.split} by the {self.config.split} split"
            f"{_held_out(self.config.split, self.split, names)}; its contigs are {_some(names)}: "
            "hold contigs out by name (--split contigs --valid-contigs NAMES --test-contigs "
            "NAMES), or leave the species out"
        )


def species_task(config: SpeciesConfig) -> Task:
    """Which species: one label a window."""
    return Task(kind="multiclass", labels=tuple(config.labels))


def build_species_datasets(genome: Genome, config: SpeciesConfig) -> dict[Split, SpeciesDataset]:
    """A dataset for each split; without one for the test where no species has any.

    genome: as `open_species` gives it. Logs what `species_doubts` finds. Raises InputError where a
    species has no window of a split.
    """
    for warning in species_warnings(genome, config):
        logger.warning("%s", warning)
    task = species_task(config)
    splits = resolve_species_splits(genome.contigs, config)
    used = [split for split in Split if splits[split] or split is not Split.TEST]
    return {split: SpeciesDataset(genome, config, split, task) for split in used}


def species_warnings(genome: Genome, config: SpeciesConfig) -> list[str]:
    """What is allowed but hardly meant, a sentence each: letters that are not DNA, and BED rows of
    contigs that are not there."""
    letters = foreign_letters(genome.statistics())
    found = describe_warnings(SplitConfig(bed=config.bed), genome.contigs) if config.bed else []
    return found if letters is None else [f"the genomes: {letters}", *found]


def _held_out(rule: SpeciesSplit, split: Split, contigs: Sequence[str]) -> str:
    """What a rule by chromosome wants for a split, as part of a sentence."""
    if rule not in ("homology", "hyenadna"):
        return ""
    if rule == "homology" and not any(to_human(contigs).values()):
        return " (no name of a contig tells its human chromosome)"
    how = "by homology to human" if rule == "homology" else "by their own numbers"
    if split is Split.TRAIN:
        return f" (chromosomes that are not held out, {how})"
    return f" (chromosomes {', '.join(sorted(HELD_OUT[split], key=int))}, {how})"


def _some(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
