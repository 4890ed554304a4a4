"""What a classifier's training is made of: data, classifier, plan, stream and judge."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnamamba.classification.config import ClassifyConfig, LabelSource, describe_source
from dnamamba.classification.loss import ClassWeights, LabelLoss, class_weights_of
from dnamamba.classification.validation import LabelValidator, evaluation_examples, in_batches
from dnamamba.data.batches import Examples, LabelledDataset
from dnamamba.data.labelled.dataset import SequenceDataset, build_labelled_datasets
from dnamamba.data.labelled.sources import source_files
from dnamamba.data.species.check import leak_warning
from dnamamba.data.species.dataset import (
    SpeciesConfig,
    SpeciesDataset,
    build_species_datasets,
    open_species,
)
from dnamamba.errors import InputError
from dnamamba.files import describe_file
from dnamamba.intervals import Split
from dnamamba.metrics.metrics import primary_metric
from dnamamba.models import DnaModel
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.language_model import extend_filters
from dnamamba.models.loading import read_model, weights_of
from dnamamba.models.streaming import longest_sequence
from dnamamba.runtime import Compute, logger
from dnamamba.task import Task
from dnamamba.tokenizer import FIRST_BASE_ID
from dnamamba.training.config import RunOptions
from dnamamba.training.memory_plan import Plan, Workload, make_plan, probe_length
from dnamamba.training.run_folder import describe_start
from dnamamba.training.trainer import Stream


def open_datasets(data: LabelSource) -> Mapping[Split, LabelledDataset]:
    """A dataset for each split; see SpeciesDataset and SequenceDataset. Warns of splits that share
    homologous chromosomes."""
    if isinstance(data, SpeciesConfig):
        genome = open_species(data)
        if (warning := leak_warning(genome.contigs, data)) is not None:
            logger.warning("%s", warning)
        return build_species_datasets(genome, data)
    return build_labelled_datasets(data)


def language_model_of(
    start: DnaModel | DnaClassifier, seq_len: int, extends_filters: bool
) -> DnaModel:
    """The model that is fine-tuned. Raises InputError for sequences longer than its filters."""
    model = start.model if isinstance(start, DnaClassifier) else start
    if extends_filters:
        model = extend_filters(model)
    most = longest_sequence(model.config)
    if most is not None and seq_len > most:
        raise InputError(
            f"sequences of {seq_len:,} bases are longer than this model's filters (l_max "
            f"{most:,}): use a shorter --seq-len or a model made for longer ones, or have the "
            "filters end there by --extend-filters"
        )
    return model


class ClassifierSetup:
    """Data, classifier and plan of a run, the config resolved to what will be done."""

    def __init__(
        self,
        config: ClassifyConfig,
        options: RunOptions,
        compute: Compute,
        *,
        has_weights: bool = False,
    ):
        """has_weights: a checkpoint has those of the model, so the pretrained one is not read."""
        self.compute = compute
        self.datasets = self._open(config.data)
        train_set = self.datasets[Split.TRAIN]
        self.task: Task = train_set.task
        config = replace(config, train=config.train.for_examples(train_set.n_examples))
        torch.manual_seed(config.train.seed)
        start = self._read_start(config, train_set.seq_len, has_weights)
        model = language_model_of(start, train_set.seq_len, config.train.extend_filters)
        rc = config.train.rc or ("average" if isinstance(config.data, SpeciesConfig) else "none")
        head = HeadConfig(
            task=self.task,
            pool=config.train.pool,
            dropout=config.train.dropout,
            averages_strands=rc == "average",
            trained_seq_len=train_set.seq_len,
            **target_scaling(train_set),
        )
        self.classifier = DnaClassifier.from_language_model(model, head).to(compute.device)
        self.has_trained_head = isinstance(start, DnaClassifier) and self.classifier.adopt_head(
            start
        )
        if self.has_trained_head:
            logger.info("head: that of %s, which tells the same labels", config.model)
        weights = class_weights(config.train.class_weights, train_set)
        self.loss = LabelLoss(self.classifier, weights)
        self.plan = self._make_plan(config, options)
        self.loss.recompute = self.plan.recompute
        if config.train.tune != "full":
            self.classifier.freeze_backbone()
        resolved = replace(
            config.train,
            micro_batch=self.plan.micro_batch,
            recompute=self.plan.recompute,
            precision="fp32" if compute.autocast_dtype is None else "bf16",
            rc=rc,
        )
        self.config = replace(config, train=resolved, architecture=model.config)
        self.stream = self._stream()

    def _open(self, data: LabelSource) -> Mapping[Split, LabelledDataset]:
        # Rank 0 first: it indexes and scans, which the others then find.
        found = self.compute.on_main_first(lambda: open_datasets(data))
        return open_datasets(data) if found is None else found

    def _read_start(
        self, config: ClassifyConfig, seq_len: int, has_weights: bool
    ) -> DnaModel | DnaClassifier:
        """What training starts from: a language model, or a classifier to go on with."""
        if has_weights and config.architecture is not None:
            return DnaModel(config.architecture)
        return read_model(config.model, seq_len)

    def _make_plan(self, config: ClassifyConfig, options: RunOptions) -> Plan:
        train, model = config.train, self.classifier.config
        given = options.recompute or train.recompute
        if train.tune != "full" and given is None:
            # Nothing is kept of a frozen backbone, but the block at work takes its room.
            given = "blocks"
        return make_plan(
            self.loss,
            self.compute,
            model,
            Workload(
                seq_len=self.datasets[Split.TRAIN].seq_len,
                windows={split: data.n_examples for split, data in self.datasets.items()},
                batch_size=train.batch_size,
                max_steps=train.max_steps,
            ),
            probe=probe_examples(self.task, probe_length(model), self.compute.device),
            micro_batch=options.micro_batch or train.micro_batch,
            recompute=given,
        )

    def _stream(self) -> Stream:
        """The training examples; windows of species may grow from epoch to epoch."""
        train_set, batch_size = self.datasets[Split.TRAIN], self.config.train.batch_size
        if isinstance(train_set, SpeciesDataset) and train_set.n_examples % batch_size:
            raise InputError(
                f"an epoch of {train_set.n_examples:,} windows is not a whole number of batches of "
                f"{batch_size}: choose --batch-size so that it is"
            )

        def tokens_after(step: int) -> int:
            if not isinstance(train_set, SpeciesDataset):
                return step * batch_size * train_set.seq_len
            samples, n = step * batch_size, train_set.n_examples
            whole = sum(train_set.length(epoch) * n for epoch in range(samples // n))
            return whole + train_set.length(samples // n) * (samples % n)

        return Stream(dataset=train_set, batch_size=batch_size, tokens_after=tokens_after)

    def validator(self) -> LabelValidator:
        train = self.config.train
        return LabelValidator(
            self.loss,
            self.datasets[Split.VALID],
            self.compute,
            most=train.eval_examples,
            patience_steps=None if train.patience is None else train.patience * train.eval_every,
            keeps_best=train.keep == "best",
            averages_strands=train.rc == "average",
        )

    def files(self) -> list[dict[str, Any]]:
        """Name, size and checksum of every file that decides the examples."""
        data = self.config.data
        if isinstance(data, SpeciesConfig):
            train_set = self.datasets[Split.TRAIN]
            assert isinstance(train_set, SpeciesDataset)
            bed = [] if data.bed is None else [describe_file(Path(data.bed))]
            return train_set.genome.sources() + bed
        return source_files(data)

    def manifest(self) -> dict[str, Any]:
        return {
            **describe_start(self.compute),
            "data": {
                "description": describe_source(self.config.data),
                "files": self.files(),
                "labels": list(self.task.labels),
                "examples": self.plan.windows,
            },
            "pretrained": weights_of(self.config.model),
            "parameters": self.plan.parameters,
        }

    def batches(self, split: Split, most: int | None = None) -> Iterator[Examples]:
        """Examples of a split in their order, all or `most` of them; of species in training those
        of the first epochs that have the full length, as many as the run takes."""
        dataset = self.datasets[split]
        if split is not Split.TRAIN:
            yield from in_batches(dataset, evaluation_examples(dataset, most))
            return
        first, n = 0, dataset.n_examples
        if isinstance(dataset, SpeciesDataset):
            first = len(dataset.config.warmup_lengths) * n
            n = max(n, self.plan.max_steps * self.plan.batch_size)
        yield from in_batches(dataset, range(first, first + (n if most is None else min(n, most))))

    def announce(self, baseline: Mapping[str, Any]) -> None:
        logger.info("data: %s", describe_source(self.config.data))
        logger.info("labels: %s", ", ".join(self.task.labels))
        for name, value in self.plan.rows():
            logger.info("%s: %s", name, value)
        name, score = primary_metric(baseline["valid"], self.task)
        logger.info("baseline: %s", baseline["description"])
        logger.info(
            "baseline on validation: %s %s", name, "none" if score is None else f"{score:.4f}"
        )


def target_scaling(train_set: LabelledDataset) -> dict[str, tuple[float, ...]]:
    """Mean and spread of a regression's numbers in training; nothing for other tasks."""
    if train_set.task.kind != "regression":
        return {}
    assert isinstance(train_set, SequenceDataset)
    numbers = train_set.sequences.targets.astype(np.float64)
    scales = numbers.std(0)
    return {
        "target_means": tuple(numbers.mean(0).tolist()),
        "target_scales": tuple(np.where(scales > 0, scales, 1.0).tolist()),
    }


def class_weights(kind: ClassWeights, train_set: LabelledDataset) -> Tensor | None:
    """What the loss of each class is multiplied with; see label_loss.class_weights_of."""
    if not isinstance(train_set, SequenceDataset):
        return None  # species are drawn alike, so they are balanced
    targets = train_set.sequences.targets
    if targets.dtype == np.int8:
        targets = targets.astype(np.int64)
    return class_weights_of(targets, train_set.task, kind)


def probe_examples(task: Task, n_tokens: int, device: torch.device) -> Examples:
    """A sequence to weigh a forward pass with."""
    codes = torch.full((1, n_tokens), FIRST_BASE_ID, dtype=torch.uint8, device=device)
    if task.has_classes:
        shape = (1, n_tokens) if task.kind == "per_base" else (1,)
        targets = torch.zeros(shape, dtype=torch.int64, device=device)
    else:
        targets = torch.zeros((1, len(task.labels)), device=device)
    return Examples(codes, torch.full((1,), n_tokens, device=device), targets)
