"""The life of a training run, shared by pretraining and classification.

`start_run` makes a run folder, `resume_run` continues one. Both train, record in the manifest how
the run ended, and write the report. A TrainingRun has the data, the model and the baseline.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dnamamba.data.batches import Batch
from dnamamba.errors import InputError
from dnamamba.kernels.backend import describe_choices
from dnamamba.models import ModelConfig
from dnamamba.runtime import Compute, logger, open_compute
from dnamamba.training.config import Recipe, RunOptions
from dnamamba.training.loss import Loss
from dnamamba.training.memory_plan import Plan, Workload, make_plan, shareable
from dnamamba.training.run_folder import RunFolder, describe_start
from dnamamba.training.trainer import Outcome, Stream, Trainer, Validator


class RunConfig(Protocol):
    """Everything that decides the result of a run; a frozen dataclass."""

    @property
    def train(self) -> Recipe: ...


C = TypeVar("C", bound=RunConfig)
R = TypeVar("R", bound=Recipe)


class TrainingRun(ABC, Generic[C]):
    """Data, model and plan of a run. The constructor sets every attribute below."""

    purpose: ClassVar[str]
    """The use in config.json: `pretrain` or `classify`."""

    config_type: ClassVar[type[Any]]
    """The dataclass that config.json holds."""

    compute: Compute
    config: C
    """With all settings resolved."""

    plan: Plan
    objective: Loss
    stream: Stream
    validator: Validator

    @abstractmethod
    def __init__(
        self,
        config: C,
        options: RunOptions,
        compute: Compute,
        *,
        resumed: RunFolder | None = None,
    ) -> None:
        """Open the data, build the model, plan. resumed: the run to continue, if any."""

    @abstractmethod
    def files(self) -> list[dict[str, Any]]:
        """Return name, size and checksum of every file that decides the examples."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the manifest's entries on data (with `files`) and model."""

    @abstractmethod
    def fit_baseline(self) -> Callable[[RunFolder], None]:
        """Fit and evaluate the baseline; return a function that writes it, baseline.json last."""

    @abstractmethod
    def announce(self, baseline: Mapping[str, Any]) -> None:
        """Log data, plan and baseline. baseline: baseline.json."""

    @staticmethod
    @abstractmethod
    def conclusion(path: Path, outcome: Outcome) -> list[str]:
        """Return the lines that a finished or stopped run prints. path: of its folder."""

    def has_baseline(self, folder: RunFolder) -> bool:
        return (folder.path / "baseline.json").exists()

    def check_unchanged(self, folder: RunFolder, manifest: Mapping[str, Any]) -> None:
        """Raise InputError if the run was started with other files."""
        before, now = manifest.get("data", {}).get("files"), self.files()
        if before != now:
            raise InputError(
                f"the data must be those {folder.path} was started with: expected {before}, got "
                f"{now}"
            )

    def fit(self, folder: RunFolder, n_workers: int) -> Outcome:
        """Train from the newest checkpoint, or from the start."""
        trainer = Trainer(
            objective=self.objective,
            stream=self.stream,
            validator=self.validator,
            config=self.config.train,
            run=folder,
            compute=self.compute,
            n_workers=n_workers,
        )
        trainer.restore()
        return trainer.fit()

    def finish(self, folder: RunFolder) -> None:
        """Do what follows a finished training, on every rank."""

    def plan_recipe(
        self,
        recipe: R,
        work: Workload,
        model: ModelConfig,
        options: RunOptions,
        *,
        probe: Batch | None = None,
        resumes: bool,
    ) -> R:
        """Set `plan` for `objective`, and return the recipe with what the plan chose.

        A resumed run keeps its micro-batch, so that sums round alike, if these ranks can share it.
        probe: see memory_plan.estimate_memory.
        """
        if resumes:
            recipe = shareable(recipe, work.batch_size, self.compute)
        self.plan = make_plan(
            self.objective,
            self.compute,
            model,
            work,
            probe=probe,
            micro_batch=recipe.micro_batch if options.micro_batch is None else options.micro_batch,
            recompute=options.recompute or recipe.recompute,
        )
        self.objective.recompute = self.plan.recompute
        return replace(
            recipe,
            micro_batch=self.plan.micro_batch,
            recompute=self.plan.recompute,
            precision="fp32" if self.compute.autocast_dtype is None else "bf16",
        )

    def manifest(self) -> dict[str, Any]:
        start, plan = describe_start(self.compute), {"parameters": self.plan.parameters}
        return start | self.describe() | plan


def plan_run(use: type[TrainingRun[C]], config: C, options: RunOptions | None = None) -> Plan:
    """Plan what `start_run` would do."""
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        return use(config, options, compute).plan


def start_run(
    use: type[TrainingRun[C]],
    config: C,
    out: Path,
    options: RunOptions | None = None,
    *,
    force: bool = False,
) -> Outcome:
    """Train into a new run folder.

    Raises InputError for unusable data or settings or an `out` that holds a run (unless `force`),
    TrainingError if the loss stops being finite.
    """
    options = options or RunOptions()
    with open_compute(options.device, config.train.precision) as compute:
        run = use(config, options, compute)
        compute.on_main_first(lambda: _write_start(run, out, force))
        return _train(run, RunFolder(out), options)


def resume_run(use: type[TrainingRun[C]], path: Path, options: RunOptions | None = None) -> Outcome:
    """Continue a run from its newest checkpoint, as if it had never stopped.

    On the same kind of CPU the weights come out bit for bit equal, with any number of workers.
    Raises InputError if there is no such run or its data have changed.
    """
    options = options or RunOptions()
    folder = RunFolder.open(path)
    config: C = folder.read_config(use.config_type, use.purpose)
    with open_compute(options.device, config.train.precision) as compute:
        run = use(config, options, compute, resumed=folder)
        compute.on_main_first(lambda: _check_unchanged(run, folder))
        return _train(run, folder, options)


def _write_start(run: TrainingRun[Any], out: Path, force: bool) -> None:
    write_baseline = run.fit_baseline()  # may fail, so before an earlier run is deleted
    folder = RunFolder.create(out, force=force)
    folder.write_config(run.config, run.purpose)
    folder.write_json("manifest", run.manifest())
    write_baseline(folder)
    run.announce(folder.read_json("baseline"))


def _check_unchanged(run: TrainingRun[Any], folder: RunFolder) -> None:
    """Refuse changed files; write what a kill kept from being written."""
    if (folder.path / "manifest.json").exists():
        run.check_unchanged(folder, folder.read_json("manifest"))
    else:
        folder.write_json("manifest", run.manifest())
    if not run.has_baseline(folder):
        run.fit_baseline()(folder)
    run.announce(folder.read_json("baseline"))


def _train(run: TrainingRun[Any], folder: RunFolder, options: RunOptions) -> Outcome:
    outcome = run.fit(folder, options.workers_beside(run.compute.device.type))
    if outcome.stopped_by is None:
        run.finish(folder)
    if run.compute.ranks.is_main:
        ended = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": outcome.step,
            "stopped_by": outcome.stopped_by.name if outcome.stopped_by else None,
        }
        folder.update_manifest({"ended": ended, "kernels": describe_choices()})
        run.validator.write_report(folder.path)
    return outcome


def announce_plan(description: str, plan: Plan, **more: str) -> None:
    """Log the data, further rows by name, and the plan's rows."""
    for name, value in [("data", description), *more.items(), *plan.rows()]:
        logger.info("%s: %s", name, value)


def how_to_resume(outcome: Outcome, command: str, path: Path) -> list[str]:
    """Say how to continue a run that a signal ended; [] for one that finished."""
    if outcome.stopped_by is None:
        return []
    return [
        f"Stopped by {outcome.stopped_by.name} after step {outcome.step}; continue with: "
        f"dnamamba {command} --resume {path}"
    ]
