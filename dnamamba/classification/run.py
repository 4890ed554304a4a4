"""Train a classifier: labelled sequences, a pretrained model, a head and the k-mer baseline."""

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
from dnamamba.data.batches import Examples
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
from dnamamba.training.memory_plan import Workload, probe_length
from dnamamba.training.run import (
    TrainingRun,
    announce_plan,
    how_to_resume,
    resume_run,
    start_run,
)
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome, Stream

SCALING_EXAMPLES = 64
"""Training examples that give the means and scales of the head's features."""

PROBE_EXAMPLES = 20_000
"""Most training examples of a linear probe, whose features are all in memory."""


def train_classifier(
    config: ClassifyConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a classifier into a new run folder, and evaluate it beside the k-mer baseline.

    See training.run.start_run.
    """
    return start_run(Classification, config, out, options, force=force)


def resume_classifier(path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run as if it had never stopped; see training.run.resume_run."""
    return resume_run(Classification, path, options)


class Classification(TrainingRun[ClassifyConfig]):
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
        # Rank 0 makes indexes and scans; the others find them.
        opened = compute.on_main_first(lambda: open_datasets(config.data))
        self.datasets = opened or open_datasets(config.data)
        train_set = self.datasets[Split.TRAIN]
        self.task: Task = train_set.task
        if start is None:
            start = read_model(config.model, train_set.seq_len)
        train = self._fill_in(config, start.config)
        self.classifier = build_classifier(train, start, train_set).to(compute.device)
        adopts = isinstance(start, DnaClassifier) and self.classifier.adopt_head(start)
        self.has_trained_head = adopts
        if adopts:
            logger.info("head: that of %s, which has the same labels", config.model)
        self.objective = LabelLoss(self.classifier, class_weights(train.class_weights, train_set))
        train = self._plan(train, options, resumes=resumed is not None)
        self.config = replace(config, train=train, architecture=self.classifier.config)
        self.stream = self._stream(train.batch_size)
        self.validator = self._validator(train)

    def _read_start(
        self, config: ClassifyConfig, resumed: RunFolder | None
    ) -> DnaModel | DnaClassifier | None:
        """Read the model before the data, so that a wrong name costs nothing.

        None for a preset, whose filters are made for the sequences.
        """
        if resumed is not None and list_checkpoints(resumed.checkpoints) and config.architecture:
            return DnaModel(config.architecture)  # its weights are in the checkpoint
        return None if is_preset(config.model) else read_model(config.model)

    def _fill_in(self, config: ClassifyConfig, model: ModelConfig) -> FineTuneConfig:
        """Resolve steps, learning rate and strands."""
        train = config.train.for_examples(self.datasets[Split.TRAIN].n_examples)
        train = train.with_peak(default_learning_rate(model, train.tune))
        if train.rc is not None:
            return train
        is_species = isinstance(config.data, SpeciesConfig)
        return replace(train, rc="average" if is_species else "none")

    def _plan(self, train: FineTuneConfig, options: RunOptions, *, resumes: bool) -> FineTuneConfig:
        """Plan, then freeze what does not learn; return the recipe as planned."""
        model = self.classifier.config
        if train.tune != "full" and train.recompute is None:
            # A frozen backbone keeps nothing beyond the block that is running.
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
                f"an epoch must be a whole number of batches of {batch_size}, got "
                f"{train_set.n_examples:,} windows: choose another --batch-size"
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
        data = {
            "description": describe_source(self.config.data),
            "files": self.files(),
            "labels": list(self.task.labels),
            "examples": self.plan.windows,
        }
        return {"data": data, "pretrained": weights_of(self.config.model)}

    def check_unchanged(self, folder: RunFolder, manifest: Mapping[str, Any]) -> None:
        """Check the pretrained weights too, until a checkpoint has them."""
        model, is_needed = self.config.model, not list_checkpoints(folder.checkpoints)
        if is_needed and manifest.get("pretrained") != weights_of(model):
            raise InputError(
                f"{model} is not the model {folder.path} was started with: its weights have "
                "changed. Give it back its old ones, or start over with --force"
            )
        super().check_unchanged(folder, manifest)

    def batches(self, split: Split, most: int | None = None) -> Iterator[Examples]:
        """Yield examples of a split in their order, all or `most`.

        Species in training: as many as the run takes, from the first epoch of the full length.
        """
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
        shown = "none" if score is None else f"{score:.4f}"
        logger.info("baseline on validation: %s %s", name, shown)

    def fit(self, folder: RunFolder, n_workers: int) -> Outcome:
        if self.config.train.tune == "probe":
            return self._fit_probe(folder)
        if not list_checkpoints(folder.checkpoints):
            features, _ = self._features(self.batches(Split.TRAIN, SCALING_EXAMPLES))
            scaling = spread(features.astype(np.float64))
            self.classifier.scale_features(*scaling, keeps_answers=self.has_trained_head)
        return super().fit(folder, n_workers)

    def _fit_probe(self, folder: RunFolder) -> Outcome:
        """Fit the head by scikit-learn, the same on every rank."""
        train = self._features(self.batches(Split.TRAIN, PROBE_EXAMPLES))
        valid = self._features(self.batches(Split.VALID))
        balanced = self.config.train.class_weights == "balanced"
        self.classifier.set_head(*fit_probe(*train, self.task, valid, balanced=balanced))
        if self.compute.ranks.is_main:
            self.classifier.save_pretrained(folder.model)
        return Outcome(0)

    def _features(self, batches: Iterator[Examples]) -> tuple[Any, Any]:
        return pooled_features(self.classifier, batches, self.compute, self.plan.micro_batch)

    def finish(self, folder: RunFolder) -> None:
        """Evaluate the kept model on validation and test; write evaluation.json."""
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

    @staticmethod
    def conclusion(path: Path, outcome: Outcome) -> list[str]:
        if lines := how_to_resume(outcome, "classify train", path):
            return lines
        run = RunFolder.open(path)
        evaluation = run.read_json("evaluation")
        lines = describe_evaluation(evaluation, from_dict(Task, evaluation["task"]))
        return [*lines, f"Report: {path / 'report.html'}", f"Model: {run.model}"]
