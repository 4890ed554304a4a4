"""Windows and bases of each split, and the bases that splits share, here and as published."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from dnamamba.data.ranges import NO_RUNS, ContigLine, Runs, bases_within, count_bases
from dnamamba.data.splits import data_warnings
from dnamamba.data.window_dataset import DataConfig, lay_indexes
from dnamamba.data.windows import Rule, WindowIndex, footprint
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.tokenizer import is_base, is_soft_masked

PUBLISHED_RULES: tuple[Rule, ...] = ("mamba", "hyenadna", "caduceus")


@dataclass(frozen=True)
class SplitSummary:
    """Windows of epoch 0, the bases they cover (each counted once), and N and soft-masked bases."""

    windows: int
    bases: int
    n_bases: int
    soft_masked: int


@dataclass(frozen=True)
class Layout:
    """One rule's windows: a summary of each split, and the bases that each two splits share."""

    name: str
    splits: dict[Split, SplitSummary]
    shared: dict[tuple[Split, Split], int]

    def lines(self) -> list[str]:
        lines = [self.name, f"  {'split':<6} {'windows':>10} {'bases':>15} {'N':>7} {'masked':>7}"]
        for split, row in self.splits.items():
            bases = max(1, row.bases)
            lines.append(
                f"  {split:<6} {row.windows:>10,} {row.bases:>15,} {row.n_bases / bases:>7.2%} "
                f"{row.soft_masked / bases:>7.2%}"
            )
        for (one, other), bases in self.shared.items():
            share = bases / max(1, self.splits[other].bases)
            lines.append(f"  bases in both {one} and {other}: {bases:,} ({share:.1%} of {other})")
        return lines


@dataclass(frozen=True)
class CheckResult:
    """The layout that training would use, the published ones, and splits.data_warnings."""

    used: Layout
    published: list[Layout]
    warnings: list[str]

    @property
    def leaks(self) -> bool:
        """Whether the layout that would be used shares bases between splits."""
        return any(self.used.shared.values())

    def lines(self) -> list[str]:
        verdict = "LEAK: splits share bases" if self.leaks else "No base is in two splits."
        lines = [*self.used.lines(), f"  {verdict}"]
        lines += [f"  Warning: {warning}" for warning in self.warnings]
        for layout in self.published:
            lines += ["", *layout.lines()]
        return lines


def check_splits(genome: Genome, config: DataConfig) -> CheckResult:
    """Lay out every split as configured and, with a BED, as each published rule would.

    The published rules are laid without keeping splits apart, as their loaders do.
    """
    name = f"As used: rule {config.windows.rule}, seq_len {config.windows.seq_len:,}"
    used = lay_out(name, genome, config)
    published = []
    if config.splits.bed is not None:
        for rule in PUBLISHED_RULES:
            try:
                windows = replace(config.windows, rule=rule, drop_overlap=False)
                layout = lay_out(f"As published: {rule}", genome, replace(config, windows=windows))
            except InputError as error:
                layout = Layout(f"As published: {rule} (not at this seq_len: {error})", {}, {})
            published.append(layout)
    return CheckResult(used, published, data_warnings(genome, config.splits))


def lay_out(name: str, genome: Genome, config: DataConfig) -> Layout:
    """Windows of epoch 0 of each split and the bases they share."""
    indexes = lay_indexes(genome, config)
    order = (Split.TRAIN, Split.VALID, Split.TEST)
    line, size = ContigLine(genome.contigs), config.windows.seq_len
    footprints = {
        split: line.split(footprint(indexes[split].table(), line, size)) for split in order
    }
    summaries = {split: _summarise(genome, indexes[split], footprints[split]) for split in order}
    shared = {
        (one, other): shared_bases(footprints[one], footprints[other])
        for one, other in combinations(order, 2)
    }
    return Layout(name, summaries, shared)


def shared_bases(one: Mapping[int, Runs], other: Mapping[int, Runs]) -> int:
    """Bases that two sets of ranges, by contig, both cover."""
    return sum(
        int(bases_within(runs, rows[:, 0], rows[:, 1]).sum())
        for contig, rows in one.items()
        if len(runs := other.get(contig, NO_RUNS))
    )


def _summarise(genome: Genome, index: WindowIndex, covered: Mapping[int, Runs]) -> SplitSummary:
    bases = n_bases = soft_masked = 0
    for contig, runs in covered.items():
        for start, end in runs.tolist():
            codes = genome.read(index.line.names[contig], start, end)
            n_bases += int(np.count_nonzero(~is_base(codes)))
            soft_masked += int(np.count_nonzero(is_soft_masked(codes)))
        bases += count_bases(runs)
    return SplitSummary(index.n_windows(), bases, n_bases, soft_masked)
