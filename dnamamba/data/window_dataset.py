"""Windows of a genome as batches of codes (tokenizer.py): uint8 (n, seq_len), one byte a base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dnamamba.configs import require_seed
from dnamamba.data.batches import by_epoch
from dnamamba.data.masking import mask_bases
from dnamamba.data.ranges import NO_RUNS, ContigLine, merge
from dnamamba.data.splits import SplitConfig, Splits, data_warnings, resolve_splits
from dnamamba.data.windows import WindowConfig, WindowIndex, footprint
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from dnamamba.tokenizer import PAD_ID, Codes, reverse_complement


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The windows a model is trained and evaluated on."""

    windows: WindowConfig
    """Length, rule, edge and N limit of the windows."""

    splits: SplitConfig = field(default_factory=SplitConfig)
    """The bases for training, validation and test."""

    rc_augment: bool = True
    """Read each training window from either strand, by a fair coin; no other split's."""

    seed: int = 0
    """The only source of the order, phase and strand of training windows."""

    def __post_init__(self) -> None:
        require_seed(self.seed, "data seed")
        if self.windows.rule != "tile" and self.splits.bed is None:
            raise InputError(
                f"the {self.windows.rule} rule lays windows on the rows of a BED: name one "
                "(--bed), or use the tile rule"
            )


class WindowDataset(torch.utils.data.Dataset[torch.Tensor]):
    """Windows of one split by running sample number; a pure function of that number.

    An item is asked for with several sample numbers and is a batch, uint8 (n, seq_len).
    masks_bases: mark bases for a masked language model to predict (masking.py).
    """

    def __init__(
        self,
        genome: Genome,
        index: WindowIndex,
        *,
        rc_augment: bool = False,
        masks_bases: bool = False,
    ):
        self.genome = genome
        self.index = index
        self.rc_augment = rc_augment
        self.masks_bases = masks_bases

    def __getitem__(self, samples: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(self.read(samples))

    def read(self, samples: Sequence[int]) -> Codes:
        """Codes (n, seq_len) of samples, which may cross an epoch's end."""
        batch = np.empty((len(samples), self.index.config.seq_len), np.uint8)
        done = 0
        for epoch, i in by_epoch(map(self.index.locate, samples)):
            self._fill(batch[done : done + len(i)], epoch, i)
            done += len(i)
        return batch

    def describe(self, samples: Sequence[int]) -> list[str]:
        """The origin of each sample, for people: `epoch 0: chr1:1-1,024 (-)`."""
        lines = []
        for epoch, i in by_epoch(map(self.index.locate, samples)):
            picked = self.index.windows(epoch, i)
            for row, reverse in enumerate(self._reversed(epoch, i).tolist()):
                interval = self.index.interval(picked, row)
                lines.append(f"epoch {epoch}: {interval} ({'-' if reverse else '+'})")
        return lines

    def _reversed(self, epoch: int, i: np.ndarray) -> np.ndarray:
        if not self.rc_augment:
            return np.zeros(len(i), bool)
        return self.index.reversed_strand(epoch, i)

    def _fill(self, batch: Codes, epoch: int, i: np.ndarray) -> None:
        picked = self.index.windows(epoch, i)
        names, read = self.index.line.names, self.genome.read
        columns = (picked.contig, picked.start, picked.n_bases, picked.left_pad)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        reverse = self._reversed(epoch, i).tolist()
        keys = self.index.masking_keys(epoch, i).tolist() if self.masks_bases else []
        for row, (contig, start, n_bases, left_pad) in enumerate(rows):
            codes = read(names[contig], start, start + n_bases)
            if n_bases < batch.shape[1]:
                batch[row] = PAD_ID
            batch[row, left_pad : left_pad + n_bases] = codes
            if reverse[row]:
                # With its padding, which changes sides with the bases.
                batch[row] = reverse_complement(batch[row])
            if self.masks_bases:
                batch[row] = mask_bases(batch[row], keys[row])


def evaluation_samples(dataset: WindowDataset, eval_tokens: int) -> list[int]:
    """Windows spread evenly over a split: about `eval_tokens` tokens, at least one window."""
    n_windows = dataset.index.n_windows()
    wanted = min(n_windows, max(1, eval_tokens // dataset.index.config.seq_len))
    return [i * n_windows // wanted for i in range(wanted)]


def build_indexes(genome: Genome, config: DataConfig) -> dict[Split, WindowIndex]:
    """The window index of every split; no base of one is in another's windows.

    Test is laid out first, then validation, then training, each without the bases of those before
    it unless `windows.drop_overlap` is off. Logs `warnings`. Raises InputError if training or
    validation gets no window.
    """
    for warning in data_warnings(genome, config.splits):
        logger.warning("%s", warning)
    return lay_indexes(genome, config)


def lay_indexes(genome: Genome, config: DataConfig) -> dict[Split, WindowIndex]:
    """`build_indexes` without warnings."""
    splits = resolve_splits(config.splits, genome.contigs, config.windows.seq_len)
    n_runs = {i: runs for i, name in enumerate(genome.contigs) if len(runs := genome.n_runs(name))}
    protected, line = NO_RUNS, ContigLine(genome.contigs)
    indexes: dict[Split, WindowIndex] = {}
    for split in (Split.TEST, Split.VALID, Split.TRAIN):
        index = indexes[split] = WindowIndex(
            config.windows,
            splits[split],
            genome.contigs,
            n_runs,
            protected=line.split(protected),
            seed=config.seed,
            shuffled=split is Split.TRAIN,
        )
        if split is not Split.TRAIN:
            # The rows too: rows without a window are not trained on either.
            rows = line.lay_intervals(splits[split])
            covered = footprint(index.table(), line, config.windows.seq_len)
            protected = merge(np.concatenate([protected, covered, rows]))
    _require_windows(indexes, splits, genome, config)
    return indexes


def build_datasets(
    genome: Genome, config: DataConfig, *, masks_bases: bool = False
) -> dict[Split, WindowDataset]:
    """A dataset for each split; augmentation on the training one only.

    masks_bases: mark bases for a masked language model to predict (masking.py).
    """
    return {
        split: WindowDataset(
            genome,
            index,
            rc_augment=config.rc_augment and split is Split.TRAIN,
            masks_bases=masks_bases,
        )
        for split, index in build_indexes(genome, config).items()
    }


def _require_windows(
    indexes: Mapping[Split, WindowIndex], splits: Splits, genome: Genome, config: DataConfig
) -> None:
    seq_len, lengths = config.windows.seq_len, genome.contigs.values()
    n_long = sum(length >= seq_len for length in lengths)
    contigs = (
        f"{n_long:,} of {len(lengths):,} contigs are that long, the longest has "
        f"{max(lengths, default=0):,}"
    )
    if not indexes[Split.TRAIN].n_windows() and not n_long:
        raise InputError(
            f"no contig is as long as a window of {seq_len:,} bases ({contigs}): use a shorter "
            "--seq-len, or --edge pad to pad short contigs"
        )
    for split, advice in (
        (Split.TRAIN, "use a shorter --seq-len, hold out less, or raise --max-n-fraction"),
        (Split.VALID, _how_to_validate(config.splits, splits)),
    ):
        if not indexes[split].n_windows():
            bases = sum(interval.length for interval in splits[split])
            raise InputError(
                f"the {split} split has no window of {seq_len:,} bases ({bases:,} bases in "
                f"{len(splits[split]):,} stretches, before windows over the N limit and windows "
                f"that touch another split are dropped; {contigs}): {advice}"
            )


def _how_to_validate(config: SplitConfig, splits: Splits) -> str:
    if config.bed is not None and not splits[Split.VALID]:
        return (
            "the BED has no valid row on the contigs of this genome; use one that has, or hold out "
            "contigs with --valid-contigs instead"
        )
    if config.bed is not None:
        return "use a shorter --seq-len, --edge pad, or a BED with other rows"
    if config.valid_contigs or config.test_contigs:
        return "use a shorter --seq-len, --edge pad, or name other contigs with --valid-contigs"
    if config.valid_fraction == 0:
        return "use a --valid-fraction above 0, or --valid-contigs"
    if splits[Split.VALID]:
        return "use a shorter --seq-len, a larger --valid-fraction, or --valid-contigs"
    n_windows = 4 if config.test_fraction else 2
    return (
        f"use a shorter --seq-len (a contig is divided if it has room for {n_windows} windows), or "
        "hold out whole contigs with --valid-contigs"
    )
