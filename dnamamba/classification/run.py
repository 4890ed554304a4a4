"""Training a classifier: a pretrained model, labelled sequences, a head and the loop together."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from dnamamba.baselines.linear_models import fit_probe, spread
from dnamamba.classification.config import ClassifyConfig, read_classify_config
from dnamamba.classification.evaluate import (
    EvaluatedBaseline,
    describe_evaluation,
    fit_baseline,
    has_baseline,
    read_baseline,
    write_evaluation,
)
from dnamamba.classification.report import write_label_report
from dnamamba.classification.setup import ClassifierSetup
from dnamamba.classification.validation import pooled_features, score_all
from dnamamba.configs import from_dict, to_dict
from dnamamba.data.species.dataset import SpeciesConfig
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.kernels.backend import describe_choices
from dnamamba.models import no_weight_decay_names
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.loading import weights_of
from dnamamba.runtime import open_compute
from dnamamba.task import Task
from dnamamba.training.checkpoint import list_checkpoints
from dnamamba.training.config import RunOptions
from dnamamba.training.memory_plan import Plan, shareable
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome, Trainer

SCALING_EXAMPLES = 64
"""How many training examples say what the head's inputs are like before the first step."""

PROBE_EXAMPLES = 20_000
"""What a linear probe is fitted on at most: features of all of them are in memory at once."""


def train_classifier(
    config: ClassifyConfig, out: Path, options: RunOptions | None = None, *, force: bool = False
) -> Outcome:
    """Train a classifier into a new run folder, and judge it beside the k-mer baseline.

    Raises InputError where model, data or settings cannot be used or `out` holds a run already
    (unless `force`), TrainingError where the loss stops being finite.
    """
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        setup = ClassifierSetup(config, options, compute)
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
        setup = ClassifierSetup(config, options, compute, has_weights=has_weights)
        compute.on_main_first(lambda: _check_unchanged(setup, run))
        return _train(setup, run, options)


def plan_classification(config: ClassifyConfig, options: RunOptions | None = None) -> Plan:
    """What `train_classifier` would do, without a step of it."""
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        return ClassifierSetup(config, options, compute).plan


def _start(setup: ClassifierSetup, out: Path, force: bool) -> None:
    baseline = _fit_baseline(setup)  # before an earlier run is cleared out of the way
    run = RunFolder.create(out, force=force)
    run.write_json("config", {"format_version": 1, "purpose": "classify"} | to_dict(setup.config))
    run.write_json("manifest", setup.manifest())
    baseline.write(run)
    setup.announce(baseline.record)


def _fit_baseline(setup: ClassifierSetup) -> EvaluatedBaseline:
    splits = [split for split in setup.datasets if split is not Split.TRAIN]
    seq_len = setup.datasets[Split.TRAIN].seq_len
    is_species = isinstance(setup.config.data, SpeciesConfig)
    return fit_baseline(setup.task, setup.batches, seq_len, splits, is_species=is_species)


def _check_unchanged(setup: ClassifierSetup, run: RunFolder) -> None:
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


def _train(setup: ClassifierSetup, run: RunFolder, options: RunOptions) -> Outcome:
    tune = _fit_probe if setup.config.train.tune == "probe" else _fine_tune
    outcome = tune(setup, run, options)
    if outcome.stopped_by is None:
        _evaluate_splits(setup, run)
    if setup.compute.ranks.is_main:
        ended = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": outcome.step,
            "stopped_by": outcome.stopped_by.name if outcome.stopped_by else None,
        }
        run.update_manifest({"ended": ended, "kernels": describe_choices()})
        write_label_report(run.path)
    return outcome


def _fine_tune(setup: ClassifierSetup, run: RunFolder, options: RunOptions) -> Outcome:
    workers = options.n_workers
    if workers is None:
        workers = 0 if setup.compute.device.type == "cpu" else 4
    trainer = Trainer(
        objective=setup.loss,
        no_decay=[f"model.{name}" for name in no_weight_decay_names(setup.classifier)],
        stream=setup.stream,
        validator=setup.validator(),
        config=setup.config.train,
        run=run,
        compute=setup.compute,
        n_workers=workers,
    )
    if not list_checkpoints(run.checkpoints):
        examples = setup.batches(Split.TRAIN, SCALING_EXAMPLES)
        found, _ = pooled_features(
            setup.classifier, examples, setup.compute, setup.plan.micro_batch
        )
        setup.classifier.scale_features(
            *spread(found.astype(np.float64)), keeps_answers=setup.has_trained_head
        )
    trainer.restore()
    return trainer.fit()


def _fit_probe(setup: ClassifierSetup, run: RunFolder, options: RunOptions) -> Outcome:
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


def _evaluate_splits(setup: ClassifierSetup, run: RunFolder) -> None:
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
