"""Labelled sequences from tables, FASTA files and BED regions, as batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data.augment import substitute
from dnamamba.data.batches import Examples, by_epoch
from dnamamba.data.hashing import hash_u64, permute
from dnamamba.data.labelled.config import LabelledConfig
from dnamamba.data.labelled.sources import (
    AnyLabelledConfig,
    LabelledSource,
    RowNames,
    read_sources,
    read_undivided,
)
from dnamamba.data.labelled.splits import (
    Keys,
    cut_shares,
    refuse_torn_groups,
    warn_of_shared_sequences,
)
from dnamamba.data_prep.sequences import Ints, sequence_keys
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from dnamamba.task import IGNORED_LABEL, Targets, Task, read_targets, read_task
from dnamamba.tokenizer import PAD_ID, Codes, reverse_complement

_STRETCH, _STRAND, _MUTATIONS = 1, 2, 3
"""Keys of independent draws for the same sample."""


@dataclass(frozen=True)
class LabelledSequences:
    """Sequences in one array, with targets; `take` copies no bases.

    codes: of all sequences, upper case. starts: (N,), where each begins in codes. lengths: (N,),
    bases of each, 1 or more. targets: multiclass int64 (N,); multilabel and regression float32
    (N, C); per_base int8 like codes.
    """

    codes: Codes
    starts: Ints
    lengths: Ints
    targets: Targets
    origins: RowNames

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, examples: Ints) -> "LabelledSequences":
        """Examples by number."""
        is_per_base = self.targets.dtype == np.int8
        return replace(
            self,
            starts=self.starts[examples],
            lengths=self.lengths[examples],
            targets=self.targets if is_per_base else self.targets[examples],
            origins=self.origins.take(examples),
        )


class _Picked(NamedTuple):
    """What is read of an example: [start, end) of all codes, reversed or not."""

    example: int
    start: int
    end: int
    is_reverse: bool
    mutation_key: int


class SequenceDataset(torch.utils.data.Dataset[Examples]):
    """Labelled sequences of one split by running sample number (batches.LabelledDataset).

    is_training: shuffle each epoch anew, take a random part of sequences longer than seq_len, the
    strand by a coin if rc_augment, and substitute bases by mutation_rate. Otherwise examples come
    in order, the middle of longer ones; samples past the last begin again. A batch may cross the
    end of an epoch. Per-base targets are cut and reversed with their bases.
    """

    def __init__(
        self,
        task: Task,
        sequences: LabelledSequences,
        seq_len: int,
        *,
        is_training: bool = False,
        rc_augment: bool = False,
        mutation_rate: float = 0.0,
        seed: int = 0,
    ):
        self.task = task
        self.sequences = sequences
        self.seq_len = seq_len
        self.is_training = is_training
        self.rc_augment = rc_augment and is_training
        self.mutation_rate = mutation_rate if is_training else 0.0
        self.seed = seed

    @property
    def n_examples(self) -> int:
        return len(self.sequences)

    def __getitem__(self, samples: Sequence[int]) -> Examples:
        codes = np.full((len(samples), self.seq_len), PAD_ID, np.uint8)
        picked = self._pick(samples)
        for row, one in zip(codes, picked, strict=True):
            bases = self.sequences.codes[one.start : one.end]
            row[: len(bases)] = reverse_complement(bases) if one.is_reverse else bases
            if self.mutation_rate:
                substitute(row[: len(bases)], self.mutation_rate, one.mutation_key)
        lengths = torch.tensor([one.end - one.start for one in picked])
        return Examples(torch.from_numpy(codes), lengths, torch.from_numpy(self._targets(picked)))

    def describe(self, samples: Sequence[int]) -> list[str]:
        """`train.csv row 12`, with the part (1-based) and the strand of what was read."""
        lines = []
        for one in self._pick(samples):
            begin, length = self.sequences.starts[one.example], self.sequences.lengths[one.example]
            line = self.sequences.origins.of(one.example)
            if one.end - one.start < length:
                line += f", bases {one.start - begin + 1:,}-{one.end - begin:,} of {length:,}"
            lines.append(line + (", reverse strand" if one.is_reverse else ""))
        return lines

    def _targets(self, picked: Sequence[_Picked]) -> Targets:
        targets = self.sequences.targets
        if not self.task.per_base:
            return targets[[one.example for one in picked]]
        rows = np.full((len(picked), self.seq_len), IGNORED_LABEL, np.int64)
        for row, one in zip(rows, picked, strict=True):
            labels = targets[one.start : one.end]
            row[: len(labels)] = labels[::-1] if one.is_reverse else labels
        return rows

    def _pick(self, samples: Sequence[int]) -> list[_Picked]:
        picked: list[_Picked] = []
        for epoch, numbers in by_epoch(divmod(int(i), self.n_examples) for i in samples):
            example, is_reverse = numbers, np.zeros(len(numbers), bool)
            if self.is_training:
                example = permute(numbers, self.n_examples, self.seed, epoch)
            length = self.sequences.lengths[example]
            spare = np.maximum(length - self.seq_len, 0)
            offset = spare // 2
            if self.is_training:
                drawn = hash_u64(numbers, self.seed, epoch, _STRETCH)
                offset = (drawn % (spare + 1).astype(np.uint64)).astype(np.int64)
            if self.rc_augment:
                is_reverse = hash_u64(numbers, self.seed, epoch, _STRAND) & np.uint64(1) == 1
            start = self.sequences.starts[example] + offset
            end = start + np.minimum(length, self.seq_len)
            keys = hash_u64(numbers, self.seed, epoch, _MUTATIONS)
            columns = (example, start, end, is_reverse, keys)
            picked += map(_Picked, *(column.tolist() for column in columns))
        return picked


def build_labelled_datasets(config: AnyLabelledConfig) -> dict[Split, SequenceDataset]:
    """A dataset for each split: training, validation and, if there is one, the test.

    Labels are those of the training examples, sorted as text. Logs sequences in several splits,
    letters that are not DNA, and padding that costs more than the sequences.
    Raises FileNotFoundError, or InputError naming file and row.
    """
    sources = read_sources(config)
    train = sources[Split.TRAIN]
    task = read_task(config.task_kind, train.training_labels(), train.name)
    parts = {split: _with_targets(source, task) for split, source in sources.items()}
    keys = {split: sequence_keys(source.packed) for split, source in sources.items()}
    divided = _divide(config, train, task, parts[Split.TRAIN], keys[Split.TRAIN], set(sources))
    whole, whole_keys = parts[Split.TRAIN], keys[Split.TRAIN]
    for split, examples in divided.items():
        parts[split], keys[split] = whole.take(examples), whole_keys[examples]
    order = [split for split in Split if split in parts]
    warn_of_shared_sequences({split: keys[split] for split in order})
    seq_len = config.seq_len or _longest(parts)
    return {
        split: SequenceDataset(
            task,
            parts[split],
            seq_len,
            is_training=split is Split.TRAIN,
            rc_augment=config.rc_augment,
            mutation_rate=config.mutation_rate,
            seed=config.seed,
        )
        for split in order
    }


def build_evaluation_dataset(config: AnyLabelledConfig, task: Task) -> SequenceDataset:
    """All examples of a source in their order, for evaluating a model of `task`.

    Ignores files for validation and the test, and columns of splits and groups. Raises InputError
    for labels that are not the task's, else as `build_labelled_datasets`.
    """
    source = read_undivided(config)
    sequences = _with_targets(source, task)
    seq_len = config.seq_len or int(sequences.lengths.max())
    return SequenceDataset(task, sequences, seq_len, seed=config.seed)


def _with_targets(source: LabelledSource, task: Task) -> LabelledSequences:
    codes, offsets = source.packed
    lengths, where = np.diff(offsets), source.origins.of
    targets = read_targets(task, source.labels, lengths, source.name, where)
    return LabelledSequences(codes, offsets[:-1], lengths, targets, source.origins)


def _divide(
    config: LabelledConfig,
    source: LabelledSource,
    task: Task,
    train: LabelledSequences,
    keys: Keys,
    given: set[Split],
) -> dict[Split, Ints]:
    """The splits of the training file's examples; {} if validation has its own file."""
    divided = dict(source.splits or {})
    if source.groups is not None:
        refuse_torn_groups(source.groups, divided, source.name)
    if Split.VALID in given | set(divided):
        return divided
    rest = divided.get(Split.TRAIN, np.arange(len(train)))
    groups = keys if source.groups is None else source.groups
    fractions = {Split.VALID: config.shares.valid_fraction}
    if config.shares.test_fraction and not source.splits and Split.TEST not in given:
        # First, so that the test does not depend on validation.
        fractions = {Split.TEST: config.shares.test_fraction, **fractions}
    cut = cut_shares(groups[rest], _shown(task, train)[rest], fractions, config.shares.seed)
    return divided | {split: rest[examples] for split, examples in cut.items()}


def _shown(task: Task, sequences: LabelledSequences) -> NDArray[np.bool_]:
    """(N, C): the labels of each example of a whole file; no column for numbers."""
    targets, n_labels = sequences.targets, len(task.labels)
    if task.has_numbers:
        return np.zeros((len(sequences), 0), bool)
    if not task.has_classes:
        return targets == 1
    if not task.per_base:
        return targets[:, None] == np.arange(n_labels)
    # A file's sequences lie one behind the other.
    per_label = [np.logical_or.reduceat(targets == i, sequences.starts) for i in range(n_labels)]
    return np.stack(per_label, axis=1)


def _longest(parts: Mapping[Split, LabelledSequences]) -> int:
    lengths = np.concatenate([part.lengths for part in parts.values()])
    longest, usual = int(lengths.max()), int(np.quantile(lengths, 0.95))
    if longest > 2 * usual:
        logger.warning(
            "every sequence is padded to the longest, %s bases, but 95 %% of them have %s or less: "
            "--seq-len %s would take a part of each longer one, and much less time",
            *(f"{longest:,}", f"{usual:,}", usual),
        )
    return longest
