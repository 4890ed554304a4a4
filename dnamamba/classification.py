"""Training a classifier: a pretrained model, labelled sequences, a head and the loop together."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dnamamba import __version__
from dnamamba.checkpoint import list_checkpoints
from dnamamba.classify_config import (
    ClassifyConfig,
    LabelSource,
    describe_source,
    read_classify_config,
)
from dnamamba.configs import from_dict, to_dict
from dnamamba.data.examples import Examples, LabelledDataset
from dnamamba.data.label_sources import source_files
from dnamamba.data.labelled import build_labelled_datasets
from dnamamba.data.species import (
    SpeciesConfig,
    SpeciesDataset,
    build_species_datasets,
    open_species,
)
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.kernels.backend import describe_choices
from dnamamba.label_evaluation import (
    LabelJudge,
    evaluation_examples,
    in_batches,
    pooled_features,
    score_all,
)
from dnamamba.label_loss import LabelLoss
from dnamamba.label_metrics import headline
from dnamamba.label_report import write_label_report
from dnamamba.label_results import (
    JudgedBaseline,
    describe_evaluation,
    fit_baseline,
    has_baseline,
    read_baseline,
    write_evaluation,
)
from dnamamba.label_setup import (
    class_weights,
    probe_examples,
    read_language_model,
    target_scaling,
    weights_of,
)
from dnamamba.models import DnaModel, HyenaConfig, no_weight_decay_names
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.planning import Plan, Workload, make_plan, probe_length, shareable
from dnamamba.pretraining import RunOptions
from dnamamba.probe import fit_probe
from dnamamba.run_folder import RunFolder, describe_file
from dnamamba.runtime import Compute, describe_machine, logger, open_compute
from dnamamba.task import Task
from dnamamba.training import Outcome, Stream, Trainer

PROBE_EXAMPLES = 20_000
"""What a linear probe is fitted on at most: features of all of them are in memory at once."""


def open_datasets(data: LabelSource) -> Mapping[Split, LabelledDataset]:
    """A dataset for each split; see SpeciesDataset and SequenceDataset."""
    if isinstance(data, SpeciesConfig):
        return build_species_datasets(open_species(data), data)
    return build_labelled_datasets(data)


def train_classifier(
    config: ClassifyConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a classifier into a new run folder, and judge it beside the k-mer baseline.

    Raises InputError where model, data or settings cannot be used or `out` holds a run already
    (unless `force`), TrainingError where the loss stops being finite.
    """
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        setup = _Setup(config, options, compute)
        compute.on_main_first(lambda: _start(setup, out, force))
        return _train(setup, RunFolder(out), options)


def resume_classifier(path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run from its newest checkpoint, as if it had never stopped.

    Raises InputError where there is no run of a classifier, or where its data have changed.
    """
    options = options or RunOptions()
    run = RunFolder.open(path)
    config = read_classify_config(run)
    with open_compute(options.device, config.train.precision) as compute:
        train = shareable(config.train, config.train.batch_size, compute)
        has_weights = bool(list_checkpoints(run.checkpoints))
        config = replace(config, train=train)
        setup = _Setup(config, options, compute, has_weights=has_weights)
        compute.on_main_first(lambda: _check_unchanged(setup, run))
        return _train(setup, run, options)


def plan_classification(config: ClassifyConfig, options: RunOptions | None = None) -> Plan:
    """What `train_classifier` would do, without a step of it."""
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        return _Setup(config, options, compute).plan


class _Setup:
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
        model = self._build_model(config, train_set.seq_len, has_weights)
        head = HeadConfig(
            task=self.task,
            pool=config.train.pool,
            dropout=config.train.dropout,
            trained_seq_len=train_set.seq_len,
            **target_scaling(train_set),
        )
        self.classifier = DnaClassifier.from_language_model(model, head).to(compute.device)
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
            rc=config.train.rc or ("average" if isinstance(config.data, SpeciesConfig) else "none"),
        )
        self.config = replace(config, train=resolved, architecture=model.config)
        self.stream = self._stream()

    def _open(self, data: LabelSource) -> Mapping[Split, LabelledDataset]:
        # Rank 0 first: it indexes and scans, which the others then find.
        found = self.compute.on_main_first(lambda: open_datasets(data))
        return open_datasets(data) if found is None else found

    def _build_model(self, config: ClassifyConfig, seq_len: int, has_weights: bool) -> DnaModel:
        if has_weights and config.architecture is not None:
            model = DnaModel(config.architecture)
        else:
            model = read_language_model(config.model, seq_len)
        mixer = model.config.mixer
        if isinstance(mixer, HyenaConfig) and seq_len > mixer.l_max:
            raise InputError(
                f"sequences of {seq_len:,} bases are longer than this model's filters (l_max "
                f"{mixer.l_max:,}): use a shorter --seq-len or a model made for longer ones"
            )
        return model

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

    def judge(self) -> LabelJudge:
        train = self.config.train
        return LabelJudge(
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
            "dnamamba": __version__,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": describe_machine(),
            "device": str(self.compute.device),
            "ranks": self.compute.ranks.world_size,
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
        name, score = headline(baseline["valid"], self.task)
        logger.info("baseline: %s", baseline["description"])
        logger.info(
            "baseline on validation: %s %s", name, "none" if score is None else f"{score:.4f}"
        )


def _start(setup: _Setup, out: Path, force: bool) -> None:
    baseline = _fit_baseline(setup)  # before an earlier run is cleared out of the way
    run = RunFolder.create(out, force=force)
    run.write_json("config", {"format_version": 1, "purpose": "classify"} | to_dict(setup.config))
    run.write_json("manifest", setup.manifest())
    baseline.write(run)
    setup.announce(baseline.record)


def _fit_baseline(setup: _Setup) -> JudgedBaseline:
    splits = [split for split in setup.datasets if split is not Split.TRAIN]
    seq_len = setup.datasets[Split.TRAIN].seq_len
    is_species = isinstance(setup.config.data, SpeciesConfig)
    return fit_baseline(setup.task, setup.batches, seq_len, splits, is_species=is_species)


def _check_unchanged(setup: _Setup, run: RunFolder) -> None:
    """Refuse to go on with other files; write again what a kill kept from being written."""
    if (run.path / "manifest.json").exists():
        pretrained = run.read_json("manifest").get("pretrained")
        if not list_checkpoints(run.checkpoints) and pretrained != weights_of(setup.config.model):
            raise InputError(
                f"{setup.config.model} is not the model {run.path} was started with: its weights "
                "have changed. Give it back its old ones, or start over with --force"
            )
        before = run.read_json("manifest").get("data", {}).get("files")
        if before != setup.files():
            raise InputError(
                f"the data are not those {run.path} was started with: expected {before}, got "
                f"{setup.files()}"
            )
    else:
        run.write_json("manifest", setup.manifest())
    if not has_baseline(run):
        _fit_baseline(setup).write(run)
    setup.announce(run.read_json("baseline"))


def _train(setup: _Setup, run: RunFolder, options: RunOptions) -> Outcome:
    tune = _fit_probe if setup.config.train.tune == "probe" else _fine_tune
    outcome = tune(setup, run, options)
    if outcome.stopped_by is None:
        _judge_splits(setup, run)
    if setup.compute.ranks.is_main:
        ended = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": outcome.step,
            "stopped_by": outcome.stopped_by.name if outcome.stopped_by else None,
        }
        run.update_manifest({"ended": ended, "kernels": describe_choices()})
        write_label_report(run.path)
    return outcome


def _fine_tune(setup: _Setup, run: RunFolder, options: RunOptions) -> Outcome:
    workers = options.n_workers
    if workers is None:
        workers = 0 if setup.compute.device.type == "cpu" else 4
    trainer = Trainer(
        objective=setup.loss,
        no_decay=[f"model.{name}" for name in no_weight_decay_names(setup.classifier)],
        stream=setup.stream,
        judge=setup.judge(),
        config=setup.config.train,
        run=run,
        compute=setup.compute,
        n_workers=workers,
    )
    trainer.restore()
    return trainer.fit()


def _fit_probe(setup: _Setup, run: RunFolder, options: RunOptions) -> Outcome:
    """The head alone, by scikit-learn; every rank does the same."""
    train, valid = (
        pooled_features(setup.classifier, batches, setup.compute, setup.plan.micro_batch)
        for batches in (setup.batches(Split.TRAIN, PROBE_EXAMPLES), setup.batches(Split.VALID))
    )
    balanced = setup.config.train.class_weights == "balanced"
    head = fit_probe(*train, setup.task, valid, balanced=balanced)
    setup.classifier.set_head(*head)
    if setup.compute.ranks.is_main:
        setup.classifier.save_pretrained(run.model)
    return Outcome(0)


def _judge_splits(setup: _Setup, run: RunFolder) -> None:
    """Write evaluation.json: what the kept model says of validation and test."""
    setup.compute.wait_for_ranks()
    kept = DnaClassifier.from_pretrained(run.model)
    setup.classifier.load_state_dict(kept.state_dict())
    averages = setup.config.train.rc == "average"
    found = {
        split.value: score_all(
            setup.loss,
            dataset,
            setup.compute,
            setup.plan.micro_batch,
            averages_strands=averages,
        )
        for split, dataset in setup.datasets.items()
        if split is not Split.TRAIN
    }
    if setup.compute.ranks.is_main:
        batches = {name: setup.batches(Split(name)) for name in found}
        write_evaluation(run, setup.task, found, read_baseline(run, setup.task), batches)


def conclusion(path: Path, outcome: Outcome) -> list[str]:
    """What a finished or stopped run tells its user, in lines."""
    run = RunFolder.open(path)
    if outcome.stopped_by is not None:
        return [
            f"Stopped by {outcome.stopped_by.name} after step {outcome.step}; continue with: "
            f"dnamamba classify train --resume {path}"
        ]
    evaluation = run.read_json("evaluation")
    lines = describe_evaluation(evaluation, from_dict(Task, evaluation["task"]))
    return [*lines, f"Report: {path / 'report.html'}", f"Model: {run.model}"]
