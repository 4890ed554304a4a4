"""Windows from a random species, chromosome and position, labelled with the species.

Which window is sample i of epoch e is a pure function of (seed, e, i), by hashes; validation and
test windows are drawn once, by keys of their own, and stay.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.configs import require_choice, require_range, require_seed
from dnamamba.data.augment import check_mutation_rate, substitute_rows
from dnamamba.data.batches import Examples, by_epoch
from dnamamba.data.hashing import U64, hash_u64
from dnamamba.data.ranges import ContigLine, Ints, Runs
from dnamamba.data.species.homology import HELD_OUT, published_split, split_by_homology, to_human
from dnamamba.data.species.sampler import WindowSampler, starts_within_limit, weigh_contigs
from dnamamba.data.splits import SplitConfig, Splits, data_warnings, keep_apart, resolve_splits
from dnamamba.data_prep.genomes.genome import Genome, open_labelled_genomes
from dnamamba.errors import InputError
from dnamamba.files import first_of
from dnamamba.intervals import Interval, Split
from dnamamba.runtime import logger
from dnamamba.task import Task
from dnamamba.tokenizer import SOFT_MASK_BIT, reverse_complement

SpeciesSplit = Literal["homology", "hyenadna", "contigs", "bed"]
ChromosomeWeights = Literal["uniform", "length", "callable"]

PAPER_EPOCH = 1024 * 64
"""Samples in an epoch of the Mamba paper: 1,024 steps of 64 windows."""

# Keys of independent random draws.
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
            raise InputError(f"a species needs a name without a slash, got {self.label!r}")
        if not self.files:
            raise InputError(f"{self.label} has no file: expected at least one FASTA or store")


@dataclass(frozen=True, kw_only=True)
class SpeciesConfig:
    """Genomes to tell apart, their split, and how windows are drawn."""

    kind: Literal["species"] = "species"
    """Distinguishes it from other sources of labelled sequences."""

    species: tuple[SpeciesFiles, ...]
    """The classes."""

    seq_len: int
    """Bases in a window."""

    split: SpeciesSplit = "homology"
    """`homology`: contigs homologous to human chromosomes 1, 3, 12, 13 are for validation, to 5, 7,
    9, 10, 11 for the test, to others for training; contigs of several splits, or of unknown
    homology, are left out. `hyenadna`: by a chromosome's own number, as published. `contigs`,
    `bed`: as named below."""

    valid_contigs: tuple[str, ...] = ()
    """Contigs for validation, with split `contigs`: `label/contig`, or a name in every species; `*`
    matches anything."""

    test_contigs: tuple[str, ...] = ()
    """Contigs for the test, likewise."""

    bed: str | None = None
    """4-column BED (label/contig, start, end, train|valid|test), with split `bed`."""

    chromosomes: ChromosomeWeights = "uniform"
    """How a species' chromosome is drawn: each alike (as the paper; bases of short ones are seen
    more often), by length, or by bases that are not N."""

    max_n_fraction: float = 0.5
    """Windows with a larger share of N (or other unreadable letters) are never drawn."""

    warmup_lengths: tuple[int, ...] = ()
    """Window lengths of the first epochs of training; the paper's: `warmup_lengths(seq_len)`."""

    rc_augment: bool = True
    """Read training windows from either strand, by a fair coin: genomes are written from either."""

    mutation_rate: float = 0.0
    """Share of bases substituted in training windows (augment.substitute)."""

    epoch_size: int = PAPER_EPOCH
    """Samples in an epoch of training."""

    n_eval: int = 1000
    """Windows of validation, and of the test, the same number of each species but for one."""

    seed: int = 0
    """The only source of the windows drawn."""

    def __post_init__(self) -> None:
        require_choice("split", self.split, SpeciesSplit)
        require_choice("chromosomes", self.chromosomes, ChromosomeWeights)
        if len(set(self.labels)) != len(self.labels):
            raise InputError(
                f"species must have different names, got {', '.join(self.labels)}; name several "
                "files of one species together: label=a.fa,b.fa"
            )
        self._check_split()
        require_range("windows", min((self.seq_len, *self.warmup_lengths)), 2, unit="bases")
        if longer := [size for size in self.warmup_lengths if size > self.seq_len]:
            raise InputError(
                f"windows grow to seq_len in warm-up: {longer[0]:,} is longer than {self.seq_len:,}"
            )
        require_range("max_n_fraction", self.max_n_fraction, 0, 1)
        check_mutation_rate(self.mutation_rate)
        require_range("epoch_size", self.epoch_size, 1, unit="sample")
        require_range("n_eval", self.n_eval, len(self.species), unit="windows, one of each species")
        require_seed(self.seed, "data seed")

    def _check_split(self) -> None:
        contigs = bool(self.valid_contigs or self.test_contigs)
        if contigs != (self.split == "contigs"):
            raise InputError(
                "the split 'contigs' alone needs contigs to hold out, got the split "
                f"{self.split!r} and {'some' if contigs else 'no'} contigs (--split contigs "
                "--valid-contigs NAMES)"
            )
        if (self.bed is not None) != (self.split == "bed"):
            raise InputError(
                f"the split 'bed' alone needs a BED, got the split {self.split!r} and "
                f"{'no BED' if self.bed is None else self.bed} (--split bed --bed FILE)"
            )

    @property
    def labels(self) -> list[str]:
        """The species' names, sorted: the classes of the task."""
        return sorted(each.label for each in self.species)


def warmup_lengths(seq_len: int) -> tuple[int, ...]:
    """The paper's lengths of the first epochs: 2^14, 2^15, ... below seq_len, in bases."""
    return tuple(1 << n for n in range(14, (seq_len - 1).bit_length()))


def open_species(config: SpeciesConfig) -> Genome:
    """All genomes as one; its contigs are called `label/contig`.

    Raises FileNotFoundError or InputError for files that cannot be used (`open_genome`).
    """
    files = {each.label: each.files for each in config.species}
    return open_labelled_genomes({label: files[label] for label in config.labels})


def resolve_species_splits(contigs: Mapping[str, int], config: SpeciesConfig) -> Splits:
    """The intervals of each split, no base in two of them.

    contigs: `label/contig` -> length in bases. Raises InputError for named contigs that are not
    there, and if nothing is left to train on.
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
    """Windows of one split, labelled with their species: a LabelledDataset (batches.py).

    Training windows of epoch e have `length(e)` bases; other splits have the same windows in every
    epoch. Bases are upper-cased: soft-masking differs by assembly and would give the species away.
    Raises InputError if a species has no window in the split.
    """

    def __init__(self, genome: Genome, config: SpeciesConfig, split: Split, task: Task):
        self.genome = genome
        self.config = config
        self.split = split
        self.task = task
        self.seq_len = config.seq_len
        self.n_examples = config.epoch_size if split is Split.TRAIN else config.n_eval
        self._line = ContigLine(genome.contigs)
        self._names = self._line.names
        number = {label: n for n, label in enumerate(config.labels)}
        species = [number[name.partition("/")[0]] for name in self._names]
        self._species_of_contig = np.array(species, np.int64)
        self._targets = np.array(task.indices(config.labels, "--species"), np.int64)
        self._samplers = self._build_samplers(resolve_species_splits(genome.contigs, config))

    def length(self, epoch: int) -> int:
        """Bases in a window of an epoch."""
        warmup = self.config.warmup_lengths
        return warmup[epoch] if self.split is Split.TRAIN and epoch < len(warmup) else self.seq_len

    def sampler(self, epoch: int) -> WindowSampler:
        """Draws the windows of an epoch; its groups are species, as indices of `config.labels`."""
        return self._samplers[self.length(epoch)]

    def __getitem__(self, samples: Sequence[int]) -> Examples:
        """A batch; samples may cross an epoch's end unless the length of windows changes."""
        parts = [self._read(epoch, i) for epoch, i in self._by_epoch(samples)]
        if len(parts) == 1:
            return parts[0]
        if len(sizes := sorted({part.codes.shape[1] for part in parts})) > 1:
            raise InputError(
                f"a batch crosses the end of an epoch, where windows grow from {sizes[0]:,} to "
                f"{sizes[-1]:,} bases: an epoch must be a whole number of batches, got epoch_size "
                f"{self.config.epoch_size:,}"
            )
        return Examples(*map(torch.cat, zip(*parts, strict=True)))

    def describe(self, samples: Sequence[int]) -> list[str]:
        """The origin of each sample: `epoch 0: human/chr1:1-1,024, reverse strand`."""
        lines = []
        for epoch, i in self._by_epoch(samples):
            size = self.length(epoch)
            contigs, starts, _ = self._draw(epoch, i)
            columns = (contigs.tolist(), starts.tolist(), self._is_reverse(epoch, i).tolist())
            for contig, start, is_reverse in zip(*columns, strict=True):
                interval = Interval(self._names[contig], start, start + size)
                strand = ", reverse strand" if is_reverse else ""
                lines.append(f"epoch {epoch}: {interval}{strand}")
        return lines

    def _by_epoch(self, samples: Sequence[int]) -> Iterator[tuple[int, Ints]]:
        return by_epoch(divmod(sample, self.n_examples) for sample in samples)

    def _read(self, epoch: int, i: Ints) -> Examples:
        size = self.length(epoch)
        contigs, starts, species = self._draw(epoch, i)
        codes = np.empty((len(i), size), np.uint8)
        names, read = self._names, self.genome.read
        for row, (contig, start) in enumerate(zip(contigs.tolist(), starts.tolist(), strict=True)):
            window = read(names[contig], start, start + size)
            np.bitwise_and(window, _UPPER_CASE, out=codes[row])
        for row in np.flatnonzero(self._is_reverse(epoch, i)).tolist():
            codes[row] = reverse_complement(codes[row])
        if self.split is Split.TRAIN:
            keys = self._hash(i, epoch, _MUTATIONS).tolist()
            substitute_rows(codes, self.config.mutation_rate, keys)
        return Examples(
            torch.from_numpy(codes),
            torch.full((len(i),), size),
            torch.from_numpy(self._targets[species]),
        )

    def _is_reverse(self, epoch: int, i: Ints) -> NDArray[np.bool_]:
        """Which windows are read from the reverse strand."""
        if self.split is not Split.TRAIN or not self.config.rc_augment:
            return np.zeros(len(i), bool)
        return self._hash(i, epoch, _STRAND) & np.uint64(1) == 1

    def _draw(self, epoch: int, i: Ints) -> tuple[Ints, Ints, Ints]:
        """Contig (index), start and species (index into labels) of samples of an epoch."""
        n_species = len(self.config.labels)
        if self.split is Split.TRAIN:
            key = epoch
            species = (self._hash(i, key, _SPECIES) % np.uint64(n_species)).astype(np.int64)
        else:
            # Negative, unlike any epoch. Species take turns, so that each has as many windows.
            key = -_EVALUATION[self.split]
            species = i % n_species
        draws = self._hash(i, key, _CONTIG), self._hash(i, key, _START)
        contigs, starts = self.sampler(epoch).draw(species, *draws)
        return contigs, starts, species

    def _hash(self, i: Ints, key: int, purpose: int) -> U64:
        return hash_u64(i, self.config.seed, key, purpose)

    def _build_samplers(self, splits: Splits) -> dict[int, WindowSampler]:
        """A sampler for each length of windows."""
        config, line = self.config, self._line
        stretches = line.lay_intervals(splits[self.split])
        n_runs = line.join({i: self.genome.n_runs(name) for i, name in enumerate(line.names)})
        weights = weigh_contigs(config.chromosomes, stretches, n_runs, line)
        warmup = config.warmup_lengths if self.split is Split.TRAIN else ()
        found = {}
        for size in {*warmup, config.seq_len}:
            most = int(config.max_n_fraction * size)
            starts = starts_within_limit(stretches, n_runs, size, most)
            found[size] = WindowSampler(starts, line, self._species_of_contig, weights)
            self._require_all_species(found[size], stretches, size)
        return found

    def _require_all_species(self, sampler: WindowSampler, stretches: Runs, size: int) -> None:
        missing = set(range(len(self.config.labels))) - set(sampler.groups.tolist())
        if not missing:
            return
        species = min(missing)
        label = self.config.labels[species]
        own = stretches[self._species_of_contig[self._line.contigs_of(stretches)] == species]
        if len(own):
            longest = int((own[:, 1] - own[:, 0]).max())
            raise InputError(
                f"{label} has no {self.split} window of {size:,} bases (its longest stretch for "
                f"it has {longest:,}, and at most {self.config.max_n_fraction:.0%} of a window may "
                "be N): use a shorter --seq-len, hold out other contigs, or leave the species out"
            )
        names = [self._names[i] for i in np.flatnonzero(self._species_of_contig == species)]
        raise InputError(
            f"{label} has nothing for {self.split} by the {self.config.split} split"
            f"{_held_out(self.config.split, self.split, names)}; its contigs are "
            f"{first_of(names)}: hold contigs out by name (--split contigs --valid-contigs NAMES "
            "--test-contigs NAMES), or leave the species out"
        )


def species_task(config: SpeciesConfig) -> Task:
    """A multiclass task with a class for each species."""
    return Task(kind="multiclass", labels=tuple(config.labels))


def build_species_datasets(genome: Genome, config: SpeciesConfig) -> dict[Split, SpeciesDataset]:
    """A dataset for each split, without the test if no species has bases for it.

    genome: from `open_species`. Logs `species_warnings`. Raises InputError if a species has no
    window in a split.
    """
    for warning in species_warnings(genome, config):
        logger.warning("%s", warning)
    task = species_task(config)
    splits = resolve_species_splits(genome.contigs, config)
    used = [split for split in Split if splits[split] or split is not Split.TEST]
    return {split: SpeciesDataset(genome, config, split, task) for split in used}


def species_warnings(genome: Genome, config: SpeciesConfig) -> list[str]:
    """splits.data_warnings of the genomes, which are never divided by fraction."""
    splits = SplitConfig(bed=config.bed, valid_fraction=0, test_fraction=0)
    return data_warnings(genome, splits)


def _held_out(rule: SpeciesSplit, split: Split, contigs: Sequence[str]) -> str:
    """The chromosomes that a rule takes for a split, as part of a sentence."""
    if rule not in ("homology", "hyenadna"):
        return ""
    if rule == "homology" and not any(to_human(contigs).values()):
        return " (no name of a contig tells its human chromosome)"
    how = "by homology to human" if rule == "homology" else "by their own numbers"
    if split is Split.TRAIN:
        return f" (chromosomes that are not held out, {how})"
    return f" (chromosomes {', '.join(sorted(HELD_OUT[split], key=int))}, {how})"
