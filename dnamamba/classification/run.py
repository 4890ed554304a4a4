"""Training a classifier: labelled sequences, a pretrained model, a head and the k-mer baseline."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnamamba.baselines.linear_models import fit_probe, spread
from dnamamba.classification.config import (
    ClassifyConfig,
    FineTuneConfig,
    default_learning_rate,
    describe_source,
)
from dnamamba.classification.evaluate import (
    describe_evaluation,
    fit_baseline,
    has_baseline,
    read_baseline,
    write_evaluation,
)
from dnamamba.classification.loss import LabelLoss
from dnamamba.classification.setup import (
    build_classifier,
    class_weights,
    open_datasets,
    probe_examples,
    tokens_after,
)
from dnamamba.classification.validation import (
    LabelValidator,
    evaluation_examples,
    in_batches,
    pooled_features,
    score_all,
)
from dnamamba.configs import from_dict
from dnamamba.data.batches import Examples, LabelledDataset
from dnamamba.data.labelled.sources import source_files
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesDataset
from dnamamba.errors import InputError
from dnamamba.files import describe_file
from dnamamba.intervals import Split
from dnamamba.metrics.evaluation import primary_metric
from dnamamba.models import DnaModel, ModelConfig
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.loading import is_preset, read_model, weights_of
from dnamamba.runtime import Compute, logger
from dnamamba.task import Task
from dnamamba.training.checkpoint import list_checkpoints
from dnamamba.training.config import RunOptions
from dnamamba.training.memory_plan import Plan, Workload, probe_length
from dnamamba.training.run import (
    TrainingRun,
    announce_plan,
    how_to_resume,
    plan_run,
    resume_run,
    start_run,
)
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome, Stream

SCALING_EXAMPLES = 64
"""Training examples whose features give the head's means and scales before the first step."""

PROBE_EXAMPLES = 20_000
"""A linear probe is fitted to at most so many: features of all of them are in memory at once."""


def train_classifier(
    config: ClassifyConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a classifier into a new run folder, and evaluate it beside the k-mer baseline.

    Raises InputError if model, data or settings cannot be used or `out` holds a run already (unless
    `force`), TrainingError if the loss stops being finite.
    """
    return start_run(Classification, config, out, options, force=force)


def resume_classifier(path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run from its newest checkpoint, as if it had never stopped.

    Raises InputError if there is no run of a classifier, or its data have changed.
    """
    return resume_run(Classification, path, options)


def plan_classification(config: ClassifyConfig, options: RunOptions | None = None) -> Plan:
    """What `train_classifier` would do, without a step of it."""
    return plan_run(Classification, config, options)


class Classification(TrainingRun[ClassifyConfig]):
    """A run that trains a classifier."""

    purpose = "classify"
    config_type = ClassifyConfig
    objective: LabelLoss
    validator: LabelValidator

    def __init__(
        self,
        config: ClassifyConfig,
        options: RunOptions,
        compute: Compute,
        *,
        resumed: RunFolder | None = None,
    ) -> None:
        self.compute = compute
        torch.manual_seed(config.train.seed)
        start = self._read_start(config, resumed)
        self.datasets = self._open_datasets(config)
        train_set = self.datasets[Split.TRAIN]
        self.task: Task = train_set.task
        if start is None:
            start = read_model(config.model, train_set.seq_len)
        train = self._fill_in(config, start.config)
        self.classifier = build_classifier(train, start, train_set).to(compute.device)
        self.has_trained_head = isinstance(start, DnaClassifier) and self.classifier.adopt_head(
            start
        )
        if self.has_trained_head:
            logger.info("head: that of %s, which has the same labels", config.model)
        self.objective = LabelLoss(self.classifier, class_weights(train.class_weights, train_set))
        train = self._plan(train, options, resumes=resumed is not None)
        self.config = replace(config, train=train, architecture=self.classifier.config)
        self.stream = self._stream(train.batch_size)
        self.validator = self._validator(train)

    def _read_start(
        self, config: ClassifyConfig, resumed: RunFolder | None
    ) -> DnaModel | DnaClassifier | None:
        """A language model, or a classifier to go on with; before the data, so that a name that is
        wrong costs nothing. None for a preset, whose filters are made for the sequences."""
        if resumed is not None and list_checkpoints(resumed.checkpoints) and config.architecture:
            return DnaModel(config.architecture)  # its weights are in the checkpoint
        return None if is_preset(config.model) else read_model(config.model)

    def _open_datasets(self, config: ClassifyConfig) -> Mapping[Split, LabelledDataset]:
        # Rank 0 first: it indexes and scans, which the others then find.
        datasets = self.compute.on_main_first(lambda: open_datasets(config.data))
        return open_datasets(config.data) if datasets is None else datasets

    def _fill_in(self, config: ClassifyConfig, model: ModelConfig) -> FineTuneConfig:
        """The recipe with steps, learning rate and strands resolved."""
        train = config.train.for_examples(self.datasets[Split.TRAIN].n_examples)
        train = train.with_peak(default_learning_rate(model, train.tune))
        if train.rc is not None:
            return train
        is_species = isinstance(config.data, SpeciesConfig)
        return replace(train, rc="average" if is_species else "none")

    def _plan(self, train: FineTuneConfig, options: RunOptions, *, resumes: bool) -> FineTuneConfig:
        """Plan, then freeze what does not learn; returns the recipe as planned."""
        model = self.classifier.config
        if train.tune != "full" and train.recompute is None:
            # Nothing is kept of a frozen backbone, but the block at work takes its room.
            train = replace(train, recompute="blocks")
        work = Workload(
            seq_len=self.datasets[Split.TRAIN].seq_len,
            windows={split: data.n_examples for split, data in self.datasets.items()},
            batch_size=train.batch_size,
            max_steps=train.max_steps,
        )
        probe = probe_examples(self.task, probe_length(model), self.compute.device)
        train = self.plan_recipe(train, work, model, options, probe=probe, resumes=resumes)
        if train.tune != "full":
            self.classifier.freeze_backbone()
        return train

    def _stream(self, batch_size: int) -> Stream:
        train_set = self.datasets[Split.TRAIN]
        if isinstance(train_set, SpeciesDataset) and train_set.n_examples % batch_size:
            raise InputError(
                f"an epoch of {train_set.n_examples:,} windows is not a whole number of batches of "
                f"{batch_size}: choose --batch-size so that it is"
            )
        return Stream(
            dataset=train_set,
            batch_size=batch_size,
            tokens_after=lambda step: tokens_after(train_set, step * batch_size),
        )

    def _validator(self, train: FineTuneConfig) -> LabelValidator:
        return LabelValidator(
            self.objective,
            self.datasets[Split.VALID],
            self.compute,
            most=train.eval_examples,
            patience_steps=None if train.patience is None else train.patience * train.eval_every,
            keeps_best=train.keep == "best",
            averages_strands=train.rc == "average",
        )

    def files(self) -> list[dict[str, Any]]:
        data = self.config.data
        if isinstance(data, SpeciesConfig):
            train_set = self.datasets[Split.TRAIN]
            assert isinstance(train_set, SpeciesDataset)
            bed = [] if data.bed is None else [describe_file(Path(data.bed))]
            return train_set.genome.sources() + bed
        return source_files(data)

    def describe(self) -> dict[str, Any]:
        return {
            "data": {
                "description": describe_source(self.config.data),
                "files": self.files(),
                "labels": list(self.task.labels),
                "examples": self.plan.windows,
            },
            "pretrained": weights_of(self.config.model),
        }

    def check_unchanged(self, folder: RunFolder, manifest: Mapping[str, Any]) -> None:
        """Also the pretrained weights, until a checkpoint has them."""
        model = self.config.model
        is_needed = not list_checkpoints(folder.checkpoints)
        if is_needed and manifest.get("pretrained") != weights_of(model):
            raise InputError(
                f"{model} is not the model {folder.path} was started with: its weights have "
                "changed. Give it back its old ones, or start over with --force"
            )
        super().check_unchanged(folder, manifest)

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

    def fit_baseline(self) -> Callable[[RunFolder], None]:
        """Logistic regression of k-mers, or what else fits the task."""
        splits = [split for split in self.datasets if split is not Split.TRAIN]
        seq_len = self.datasets[Split.TRAIN].seq_len
        is_species = isinstance(self.config.data, SpeciesConfig)
        return fit_baseline(self.task, self.batches, seq_len, splits, is_species=is_species)

    def has_baseline(self, folder: RunFolder) -> bool:
        return has_baseline(folder)

    def announce(self, baseline: Mapping[str, Any]) -> None:
        labels = ", ".join(self.task.labels)
        announce_plan(describe_source(self.config.data), self.plan, labels=labels)
        name, score = primary_metric(baseline["valid"], self.task)
        logger.info("baseline: %s", baseline["description"])
        logger.info(
            "baseline on validation: %s %s", name, "none" if score is None else f"{score:.4f}"
        )

    def fit(self, folder: RunFolder, n_workers: int) -> Outcome:
        if self.config.train.tune == "probe":
            return self._fit_probe(folder)
        if not list_checkpoints(folder.checkpoints):
            features, _ = self._features(self.batches(Split.TRAIN, SCALING_EXAMPLES))
            self.classifier.scale_features(
                *spread(features.astype(np.float64)), keeps_answers=self.has_trained_head
            )
        return super().fit(folder, n_workers)

    def _fit_probe(self, folder: RunFolder) -> Outcome:
        """The head alone, by scikit-learn; every rank does the same."""
        train = self._features(self.batches(Split.TRAIN, PROBE_EXAMPLES))
        valid = self._features(self.batches(Split.VALID))
        balanced = self.config.train.class_weights == "balanced"
        self.classifier.set_head(*fit_probe(*train, self.task, valid, balanced=balanced))
        if self.compute.ranks.is_main:
            self.classifier.save_pretrained(folder.model)
        return Outcome(0)

    def _features(self, batches: Iterator[Examples]) -> tuple[Any, Any]:
        """See pooled_features."""
        return pooled_features(self.classifier, batches, self.compute, self.plan.micro_batch)

    def finish(self, folder: RunFolder) -> None:
        """Write evaluation.json: the kept model on validation and test."""
        self.compute.wait_for_ranks()
        kept = DnaClassifier.from_pretrained(folder.model)
        self.classifier.load_state_dict(kept.state_dict())
        scores = {
            split.value: score_all(
                self.objective,
                dataset,
                self.compute,
                self.plan.micro_batch,
                averages_strands=self.config.train.rc == "average",
            )
            for split, dataset in self.datasets.items()
            if split is not Split.TRAIN
        }
        if self.compute.ranks.is_main:
            batches = {name: self.batches(Split(name)) for name in scores}
            baseline = read_baseline(folder, self.task)
            write_evaluation(folder, self.task, scores, baseline, batches)


def conclusion(path: Path, outcome: Outcome) -> list[str]:
    """What a finished or stopped run prints, in lines."""
    if lines := how_to_resume(outcome, "classify train", path):
        return lines
    run = RunFolder.open(path)
    evaluation = run.read_json("evaluation")
    lines = describe_evaluation(evaluation, from_dict(Task, evaluation["task"]))
    return [*lines, f"Report: {path / 'report.html'}", f"Model: {run.model}"]
