"""The training loop: accumulation, clipping, validation, checkpoints, stopping and resuming.

One loop for every loss, in one process or many under torchrun. The step's number decides which
bases it reads (data/windows.py), so it is the only state beside weights and optimiser.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dnamamba.data.batches import Batch, to_device
from dnamamba.data.loader import BatchRanges, DescribedDataset, build_loader
from dnamamba.errors import TrainingError
from dnamamba.intervals import Split
from dnamamba.models import no_weight_decay_names
from dnamamba.runtime import Compute
from dnamamba.training.checkpoint import load_newest, save_checkpoint
from dnamamba.training.config import Recipe
from dnamamba.training.interrupts import StopRequest
from dnamamba.training.loss import Loss
from dnamamba.training.metrics_log import IntervalMean
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.progress import TrainingProgress
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.step import TrainingStep, is_finite


@dataclass(frozen=True)
class Stream:
    """Training data. batch_size: samples in a step, over all ranks. tokens_after: step -> bases
    read so far."""

    dataset: DescribedDataset
    batch_size: int
    tokens_after: Callable[[int], int]


class Validator(Protocol):
    """Evaluates a model while it trains, in the metrics of its task."""

    patience_steps: int | None
    """Steps without a better validation that end the training; None: train to the last step."""

    def units(self, loss: float) -> dict[str, float]:
        """Convert a training loss to the units of the field."""
        ...

    def validate(self, micro_batch: int, stop: StopRequest) -> dict[str, Any] | None:
        """Return metrics with a `loss`, equal on all ranks; None if a rank was asked to stop."""
        ...

    def score(self, row: Mapping[str, Any]) -> float | None:
        """Score for choosing the best model, higher is better; None: keep the last model."""
        ...

    def summary(self, row: Mapping[str, Any]) -> str:
        """Describe a row of metrics in a few words."""
        ...

    def write_report(self, folder: Path, *, is_running: bool = False) -> object:
        """Write report.html. is_running: skip it if there is a recent one."""
        ...


@dataclass(frozen=True)
class Outcome:
    """step: optimiser steps done. stopped_by: the signal that ended the run early, if any."""

    step: int
    stopped_by: Signals | None = None


class _Best(NamedTuple):
    """The best validation so far."""

    score: float
    step: int


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains the model of a loss on a stream of batches, into a run folder."""

    objective: Loss
    stream: Stream
    validator: Validator
    config: Recipe
    run: RunFolder
    compute: Compute
    n_workers: int = 0

    def __post_init__(self) -> None:
        config = self.config
        self.objective = self.objective.to(self.compute.device)
        self.optimizer = build_optimizer(
            self.objective,
            learning_rate=config.learning_rate_at(0),
            weight_decay=config.weight_decay,
            betas=config.betas,
            no_decay=no_weight_decay_names(self.objective),
        )
        self.micro_batch = config.micro_batch or 1
        self.step = 0
        self._best: _Best | None = None
        self._interval = IntervalMean()
        self._started = time.monotonic()
        self._training_step = TrainingStep(
            self.objective, self.optimizer, self.compute, grad_clip=config.grad_clip
        )

    def restore(self) -> None:
        """Continue from the newest checkpoint; without one, from the start."""
        details = load_newest(self.run.checkpoints, self.objective, self.optimizer)
        if details is not None:
            self.step = details["step"]
            self._interval = IntervalMean(details["extra"].get("losses", []))
            best = details["extra"].get("best")
            self._best = best and _Best(*best)
        if self.compute.ranks.is_main:
            self.run.metrics.rewind(self.step if details is not None else -1)
        self.compute.wait_for_ranks()

    def fit(self) -> Outcome:
        """Train to the last step or a signal, then save.

        Raises TrainingError if a loss or gradient is not finite, or memory runs out.
        """
        progress = TrainingProgress(
            self.config.max_steps,
            self.step,
            summary=self.validator.summary,
            enabled=self.compute.ranks.is_main,
        )
        with progress, StopRequest() as stop:
            try:
                stopped_by = self._train(progress, stop)
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"step {self.step}: out of GPU memory ({error}). What was saved is kept; try a "
                    "smaller --micro-batch or --recompute blocks"
                ) from error
            self._save()
        return Outcome(self.step, stopped_by)

    def _train(self, progress: TrainingProgress, stop: StopRequest) -> Signals | None:
        config, device, batches = self.config, self.compute.device, self._batches()
        loader = build_loader(
            self.stream.dataset,
            batches,
            n_workers=self.n_workers,
            pin_memory=device.type == "cuda",
        )
        micro_batches = iter(loader)
        if self._is_validation_missing() and not self._validate(progress, stop):
            return stop.signal or Signals.SIGTERM
        self._interval.restart_clock()
        while self.step < config.max_steps and not self._is_patience_spent():
            parts = [to_device(next(micro_batches), device) for _ in range(batches.n_micro_batches)]
            weight, must_stop = self._agree(parts, stop)
            if must_stop:
                return stop.signal or Signals.SIGTERM
            loss, grad_norm = self._update(parts, weight)
            self.step += 1
            self._interval.add(loss, self._tokens() - self._tokens(self.step - 1))
            saving = self.step % config.save_every == 0 and self.step < config.max_steps
            validating = self._is_validation_step()
            # What is logged depends on the step alone, so a resumed run logs the same rows.
            if validating or self.step % config.log_every == 0:
                self._log(progress, grad_norm)
            if validating and not self._validate(progress, stop):
                return stop.signal or Signals.SIGTERM
            if saving:
                self._save()
            if validating or saving:
                self._interval.restart_clock()
            progress.advanced(self.step)
        return None

    def _is_validation_step(self) -> bool:
        return self.step % self.config.eval_every == 0 or self.step == self.config.max_steps

    def _is_validation_missing(self) -> bool:
        """Whether this step's validation is due and has no row yet, as at the start."""
        missing = self.compute.ranks.is_main and not any(
            row["step"] == self.step and row["split"] == Split.VALID
            for row in self.run.metrics.rows()
        )
        return self._is_validation_step() and self.compute.any_rank(missing)

    def _is_patience_spent(self) -> bool:
        patience, best = self.validator.patience_steps, self._best
        return patience is not None and best is not None and self.step - best.step >= patience

    def _tokens(self, step: int | None = None) -> int:
        return self.stream.tokens_after(self.step if step is None else step)

    def _batches(self) -> BatchRanges:
        return BatchRanges(
            batch_size=self.stream.batch_size,
            micro_batch_size=self.micro_batch,
            first_batch=self.step,
            last_batch=self.config.max_steps,
            rank=self.compute.ranks.rank,
            world_size=self.compute.ranks.world_size,
        )

    def _agree(self, parts: Sequence[Batch], stop: StopRequest) -> tuple[Tensor, bool]:
        """Return the batch's weight over all ranks, and whether any rank is asked to stop."""
        local = torch.stack([self.objective.weight(part) for part in parts])
        asked = local.new_tensor(float(stop.signal is not None))
        both = self.compute.sum_over_ranks(torch.stack([local.sum(), asked]))
        return both[0], bool(both[1] > 0)

    def _update(self, parts: Sequence[Batch], weight: Tensor) -> tuple[float, float]:
        """Take an optimiser step; return the weighted mean loss and the gradient norm."""
        rate, ranks = self.config.learning_rate_at(self.step), self.compute.ranks
        # Dropout must be the same after a restart; nothing else is random here.
        torch.manual_seed(self.config.seed + self.step * ranks.world_size + ranks.rank)
        loss, norm = self._training_step.update(parts, weight, rate)
        if not is_finite(loss, norm):
            self._refuse_batch(loss, norm)
        return loss, norm

    def _refuse_batch(self, loss: float, norm: float) -> None:
        """Save the unchanged weights, list the batch, and stop."""
        size = self.stream.batch_size
        windows = self.stream.dataset.describe(range(self.step * size, (self.step + 1) * size))
        if self.compute.ranks.is_main:
            self._write_checkpoint()
            record = {"step": self.step, "loss": str(loss), "grad_norm": str(norm)}
            self.run.write_json("bad_batch", record | {"windows": windows})
        # The other ranks must not end the run while rank 0 writes.
        self.compute.wait_for_ranks()
        raise TrainingError(
            f"step {self.step}: loss {loss}, gradient norm {norm}. The weights were not changed by "
            f"this batch and are saved; its {size} windows, from {windows[0]} on, are listed in "
            f"{self.run.path / 'bad_batch.json'}. A lower --learning-rate or a longer "
            "--warmup-fraction usually helps"
        )

    def _log(self, progress: TrainingProgress, grad_norm: float) -> None:
        loss, tokens_per_s = self._interval.take()
        row = {
            "split": "train",
            "step": self.step,
            "loss": loss,
            **self.validator.units(loss),
            "learning_rate": self.config.learning_rate_at(self.step - 1),
            "grad_norm": grad_norm,
            "tokens": self._tokens(),
            "tokens_per_s": tokens_per_s,
            "elapsed_s": time.monotonic() - self._started,
        }
        if self.compute.device.type == "cuda":
            row["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.compute.device) / 2**30
        self._append(row)
        progress.trained(row)

    def _validate(self, progress: TrainingProgress, stop: StopRequest) -> bool:
        """Validate and log; return False, logging nothing, if a rank is asked to stop."""
        numbers = self.validator.validate(self.micro_batch, stop)
        if numbers is None:
            return False
        row = {"split": "valid", "step": self.step, **numbers, "tokens": self._tokens()}
        self._append(row)
        progress.validated(row)
        self._keep_best(row)
        if self.compute.ranks.is_main:
            self.validator.write_report(self.run.path, is_running=True)
        return True

    def _keep_best(self, row: Mapping[str, Any]) -> None:
        score = self.validator.score(row)
        if score is None or (self._best is not None and score <= self._best.score):
            return
        self._best = _Best(score, self.step)
        if self.compute.ranks.is_main:
            self._save_model()

    def _append(self, row: dict[str, Any]) -> None:
        if self.compute.ranks.is_main:
            self.run.metrics.append(row)

    def _save(self) -> None:
        if self.compute.ranks.is_main:
            self._write_checkpoint()
            if self._best is None:
                self._save_model()
        self.compute.wait_for_ranks()

    def _save_model(self) -> None:
        save_pretrained: Any = self.objective.model.save_pretrained
        save_pretrained(self.run.model)

    def _write_checkpoint(self) -> None:
        save_checkpoint(
            self.run.checkpoints,
            self.step,
            self.objective,
            self.optimizer,
            keep=self.config.keep_checkpoints,
            extra={
                "losses": self._interval.losses,
                "best": self._best,
            },
        )
