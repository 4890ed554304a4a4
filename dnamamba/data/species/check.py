"""Whether the splits of several species share homologues of human chromosomes."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnamamba.data.species.dataset import (
    SpeciesConfig,
    build_species_datasets,
    resolve_species_splits,
    species_warnings,
)
from dnamamba.data.species.homology import to_human
from dnamamba.data.splits import Splits
from dnamamba.data.windows import WindowConfig, WindowIndex
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.errors import InputError
from dnamamba.files import first_of
from dnamamba.intervals import Split

_ORDER = (Split.TRAIN, Split.VALID, Split.TEST)
# Small contigs hold together this share of a species' bases; half of its windows is too often.
_SMALL_SHARE, _TOO_OFTEN = 0.05, 0.5
_SHOWN = 6

Matches = dict[str, dict[Split, list[str]]]
"""Human chromosome -> split -> contigs of it that are homologous to the chromosome."""


@dataclass(frozen=True)
class SpeciesRow:
    """One species in one split: contigs, bases, and windows laid side by side."""

    species: str
    split: Split
    contigs: int
    bases: int
    windows: int


@dataclass(frozen=True)
class SpeciesCheck:
    """The splits of several genomes by contig.

    unused: species -> its contigs in no split. matches: human chromosomes by split. unknown:
    contigs of unknown homology in a split. published: `matches` of the hyenadna split. problem:
    why no dataset can be made of this; None if one can.
    """

    config: SpeciesConfig
    rows: list[SpeciesRow]
    unused: dict[str, list[str]]
    matches: Matches
    unknown: list[str]
    published: Matches
    warnings: list[str]
    problem: str | None

    @property
    def shared(self) -> Matches:
        """Human chromosomes with homologues in several splits."""
        return _shared(self.matches)

    @property
    def leaks(self) -> bool:
        """Whether chromosomes of two splits are homologous. False for a BED, which may divide
        chromosomes between homologous regions."""
        return self.config.split != "bed" and bool(self.shared)

    def lines(self) -> list[str]:
        width = max(map(len, ["species", *self.config.labels]))
        lines = [
            f"As used: split {self.config.split}, seq_len {self.config.seq_len:,}",
            f"  {'species':<{width}} {'split':<6} {'contigs':>8} {'bases':>15} {'windows':>10}",
        ]
        lines += [
            f"  {row.species:<{width}} {row.split:<6} {row.contigs:>8,} {row.bases:>15,} "
            f"{row.windows:>10,}"
            for row in self.rows
        ]
        lines += [
            f"  in no split, of {species}: {first_of(names, _SHOWN)}"
            for species, names in self.unused.items()
        ]
        lines += [
            f"  Human chromosomes for {split}: {', '.join(names)}"
            for split in _ORDER
            if (names := [name for name, by_split in self.matches.items() if split in by_split])
        ]
        lines += [f"  {line}" for line in self._verdict()]
        lines += [f"  Warning: {warning}" for warning in self.warnings]
        if self.problem is not None:
            lines.append(f"  Cannot be used: {self.problem}")
        if self.config.split != "hyenadna" and (shared := _shared(self.published)):
            lines += ["", "As published: hyenadna, by a chromosome's own number"]
            lines += _describe(shared)
        return lines

    def _verdict(self) -> list[str]:
        lines = []
        if self.unknown:
            lines.append(
                f"Warning: {len(self.unknown):,} contigs are homologous to nothing known "
                f"({first_of(self.unknown, _SHOWN)}): whether they match others cannot be told"
            )
        if self.shared and not self.leaks:
            names = ", ".join(self.shared)
            return [*lines, f"The BED divides homologues of human {names}: look at its rows"]
        if self.shared:
            lines.append("LEAK: splits share homologous chromosomes")
            return lines + _describe(self.shared)
        if self.matches:
            lines.append("No chromosome is homologous to one of another split.")
        return lines


def check_species(genome: Genome, config: SpeciesConfig) -> SpeciesCheck:
    """Divide the genomes as configured and, beside it, by HyenaDNA's lists.

    genome: from `open_species`.
    """
    splits = resolve_species_splits(genome.contigs, config)
    human = to_human(genome.contigs)
    by_name = replace(config, split="hyenadna", valid_contigs=(), test_contigs=(), bed=None)
    used = {row.chrom for rows in splits.values() for row in rows}
    unused = defaultdict(list)
    for name in genome.contigs:
        if name not in used:
            label, _, contig = name.partition("/")
            unused[label].append(contig)
    try:
        # A division that cannot be trained on is shown too: the table tells why.
        build_species_datasets(genome, config)
        problem = None
    except InputError as error:
        problem = str(error)
    return SpeciesCheck(
        config=config,
        rows=_count(genome, config, splits),
        unused=dict(unused),
        matches=_match(splits, human),
        unknown=[name for name in genome.contigs if name in used and human[name] is None],
        published=_match(resolve_species_splits(genome.contigs, by_name), human),
        warnings=[
            *species_warnings(genome, config),
            *_small_contigs(config, splits),
            *_namesakes(splits, human),
        ],
        problem=problem,
    )


def leak_warning(contigs: Mapping[str, int], config: SpeciesConfig) -> str | None:
    """A training run's warning about splits that share homologous chromosomes; None without any,
    and for a BED, as in `SpeciesCheck.leaks`."""
    if config.split == "bed":
        return None
    shared = _shared(_match(resolve_species_splits(contigs, config), to_human(contigs)))
    if not shared:
        return None
    return (
        f"splits share homologues of human {first_of(shared, _SHOWN)}: what is learned from one is "
        "found again in the others, and results will look better than they are. `dnamamba data "
        "check` says which contigs; --split homology keeps them apart"
    )


def _count(genome: Genome, config: SpeciesConfig, splits: Splits) -> list[SpeciesRow]:
    windows = WindowConfig(seq_len=config.seq_len, max_n_fraction=config.max_n_fraction)
    n_runs = {i: genome.n_runs(name) for i, name in enumerate(genome.contigs)}
    rows = []
    for label in config.labels:
        for split in _ORDER:
            own = [row for row in splits[split] if row.chrom.partition("/")[0] == label]
            n_windows = WindowIndex(windows, own, genome.contigs, n_runs).n_windows()
            bases = sum(row.length for row in own)
            n_contigs = len({row.chrom for row in own})
            rows.append(SpeciesRow(label, split, n_contigs, bases, n_windows))
    return rows


def _match(splits: Splits, human: Mapping[str, tuple[str, ...] | None]) -> Matches:
    found: Matches = {}
    for split in _ORDER:
        # Once each, in order: a BED has several rows on a contig.
        for name in dict.fromkeys(row.chrom for row in splits[split]):
            for chromosome in human[name] or ():
                found.setdefault(chromosome, {}).setdefault(split, []).append(name)
    # 2 before 10, X and Y last.
    return dict(sorted(found.items(), key=lambda item: (item[0].isalpha(), len(item[0]), item[0])))


def _shared(matches: Matches) -> Matches:
    return {name: by_split for name, by_split in matches.items() if len(by_split) > 1}


def _describe(shared: Matches) -> list[str]:
    return [
        f"  human {name}: "
        + "; ".join(f"{split} {first_of(contigs, _SHOWN)}" for split, contigs in by_split.items())
        for name, by_split in shared.items()
    ]


def _small_contigs(config: SpeciesConfig, splits: Splits) -> list[str]:
    """Warn of species whose windows come mostly from scaffolds, if contigs are drawn alike."""
    if config.chromosomes != "uniform":
        return []
    by_label: dict[str, list[int]] = defaultdict(list)
    for row in splits[Split.TRAIN]:
        if row.length >= config.seq_len:
            by_label[row.chrom.partition("/")[0]].append(row.length)
    found = []
    for label, own in by_label.items():
        lengths = np.sort(own)
        n_small = np.searchsorted(np.cumsum(lengths), _SMALL_SHARE * lengths.sum(), side="right")
        if n_small > _TOO_OFTEN * len(lengths):
            found.append(
                f"{n_small / len(lengths):.0%} of {label}'s windows for training come from contigs "
                f"with {_SMALL_SHARE:.0%} of its bases, as contigs are drawn alike: draw them by "
                "length (--chromosomes length), or use the homology split, which takes no scaffolds"
            )
    return found


def _namesakes(splits: Splits, human: Mapping[str, tuple[str, ...] | None]) -> list[str]:
    """Warn of unknown contigs with one name in two species that are in different splits."""
    by_name: dict[str, dict[Split, str]] = defaultdict(dict)
    for split in _ORDER:
        for row in splits[split]:
            if human[row.chrom] is None:
                by_name[row.chrom.partition("/")[2]].setdefault(split, row.chrom)
    apart = [list(names.values()) for names in by_name.values() if len(names) > 1]
    return [
        f"contigs of one name are in different splits, which may be homologous: "
        f"{first_of([' and '.join(names) for names in apart], _SHOWN)}"
    ][: len(apart)]
