"""Parts of a classifier's run: datasets, model with head, class weights."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dnamamba.classification.config import FineTuneConfig, LabelSource
from dnamamba.classification.loss import ClassWeights, class_weights_of
from dnamamba.data.batches import Examples, LabelledDataset
from dnamamba.data.labelled.dataset import SequenceDataset, build_labelled_datasets
from dnamamba.data.species.check import leak_warning
from dnamamba.data.species.dataset import (
    SpeciesConfig,
    SpeciesDataset,
    build_species_datasets,
    open_species,
)
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.models import DnaModel
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.language_model import extend_filters
from dnamamba.models.streaming import longest_sequence
from dnamamba.runtime import logger
from dnamamba.task import Task
from dnamamba.tokenizer import FIRST_BASE_ID


def open_datasets(data: LabelSource) -> Mapping[Split, LabelledDataset]:
    """Open a dataset for each split; warn if splits share homologous chromosomes."""
    if isinstance(data, SpeciesConfig):
        genome = open_species(data)
        if (warning := leak_warning(genome.contigs, data)) is not None:
            logger.warning("%s", warning)
        return build_species_datasets(genome, data)
    return build_labelled_datasets(data)


def build_classifier(
    train: FineTuneConfig, start: DnaModel | DnaClassifier, train_set: LabelledDataset
) -> DnaClassifier:
    """Put a new head for the training set's task on the language model of `start`.

    Raises InputError for sequences longer than the model's filters.
    """
    model = start.model if isinstance(start, DnaClassifier) else start
    if train.extend_filters:
        model = extend_filters(model)
    most = longest_sequence(model.config)
    if most is not None and train_set.seq_len > most:
        raise InputError(
            f"sequences of {train_set.seq_len:,} bases are longer than this model's filters (l_max "
            f"{most:,}): use a shorter --seq-len or a model made for longer ones, or have the "
            "filters end there by --extend-filters"
        )
    head = HeadConfig(
        task=train_set.task,
        pool=train.pool,
        dropout=train.dropout,
        averages_strands=train.rc == "average",
        trained_seq_len=train_set.seq_len,
        **_target_scaling(train_set),
    )
    return DnaClassifier.from_language_model(model, head)


def _target_scaling(train_set: LabelledDataset) -> dict[str, tuple[float, ...]]:
    """Mean and spread of a regression's training targets; {} for other tasks."""
    if not task_kind(train_set.task).standardises:
        return {}
    assert isinstance(train_set, SequenceDataset)
    numbers = train_set.sequences.targets.astype(np.float64)
    scales = numbers.std(0)
    return {
        "target_means": tuple(numbers.mean(0).tolist()),
        "target_scales": tuple(np.where(scales > 0, scales, 1.0).tolist()),
    }


def class_weights(kind: ClassWeights, train_set: LabelledDataset) -> Tensor | None:
    """Return each class's factor of the loss (loss.class_weights_of); None for species."""
    if not isinstance(train_set, SequenceDataset):
        return None  # species are drawn alike, so they are balanced
    targets = train_set.sequences.targets
    if targets.dtype == np.int8:
        targets = targets.astype(np.int64)
    return class_weights_of(targets, train_set.task, kind)


def probe_examples(task: Task, n_tokens: int, device: torch.device) -> Examples:
    """Dummy batch for measuring activation memory."""
    codes = torch.full((1, n_tokens), FIRST_BASE_ID, dtype=torch.uint8, device=device)
    targets = torch.from_numpy(task.empty_targets(1, n_tokens)).to(device)
    return Examples(codes, torch.full((1,), n_tokens, device=device), targets)


def tokens_after(train_set: LabelledDataset, samples: int) -> int:
    """Count the bases in training samples with padding; species may grow from epoch to epoch."""
    if not isinstance(train_set, SpeciesDataset):
        return samples * train_set.seq_len
    n = train_set.n_examples
    whole = sum(train_set.length(epoch) * n for epoch in range(samples // n))
    return whole + train_set.length(samples // n) * (samples % n)
