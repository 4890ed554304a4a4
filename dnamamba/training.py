"""The training loop: accumulation, clipping, validation, checkpoints, stopping and resuming.

One plain loop for every objective, for one process or many under torchrun. Which bases a step sees
is decided by its number alone (data/windows.py), so the only state outside the weights and the
optimiser is that number.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any, Protocol

import torch
from torch import Tensor

from dnamamba.checkpoint import load_newest, save_checkpoint
from dnamamba.data.dataset import WindowDataset
from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.errors import InputError, TrainingError
from dnamamba.evaluation import evaluate
from dnamamba.intervals import Split
from dnamamba.metrics import IntervalMean, bits_per_base, perplexity
from dnamamba.models.recompute import Recompute
from dnamamba.objectives import Objective
from dnamamba.optim import build_optimizer
from dnamamba.progress import TrainingProgress
from dnamamba.report import write_report
from dnamamba.run_folder import RunFolder
from dnamamba.runtime import Compute
from dnamamba.schedule import cosine_with_warmup
from dnamamba.stopping import StopRequest
from dnamamba.training_step import TrainingStep, is_finite


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. Defaults are the Mamba paper's for DNA (E.3; facts it leaves open from E.2)."""

    max_steps: int = 10_000
    """Optimiser steps in all."""

    batch_tokens: int = 1 << 20
    """Tokens in an optimiser step, over all ranks and micro-batches."""

    micro_batch: int | None = None
    """Windows in one forward pass of one rank; None: what memory allows. Decides rounding only."""

    learning_rate: float = 8e-3
    """Peak of the schedule."""

    min_learning_rate: float = 1e-5
    """Where the cosine ends."""

    warmup_fraction: float = 0.1
    """Share of the steps in linear warm-up."""

    weight_decay: float = 0.1
    """AdamW's, for matrices and the embedding."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""

    grad_clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""

    softmask_weight: float = 1.0
    """Weight of soft-masked (lower-case, repeat) bases in the training loss; validation counts
    every base once."""

    recompute: Recompute | None = None
    """What the backward pass makes again instead of keeping it (models/recompute.py); None: what
    memory needs."""

    eval_every: int = 100
    """Steps between validations; there is one at the start and one at the end besides."""

    eval_tokens: int = 1 << 22
    """Tokens of a validation, rounded to whole windows spread evenly over the split."""

    save_every: int = 500
    """Steps between checkpoints."""

    keep_checkpoints: int = 2
    """Checkpoints kept; older ones are deleted."""

    log_every: int = 10
    """Steps between rows of metrics.jsonl."""

    precision: str = "auto"
    """`bf16` autocast (parameters, states and sums stay fp32), `fp32`, or `auto`: bf16 on GPUs."""

    seed: int = 0
    """Initial weights. Data order has its own seed."""

    def __post_init__(self) -> None:
        at_least_one = (
            "max_steps",
            "batch_tokens",
            "eval_every",
            "eval_tokens",
            "save_every",
            "keep_checkpoints",
            "log_every",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is not negative, got {getattr(self, name)}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"micro_batch is at least 1, got {self.micro_batch}")
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed is 0 or more and below 2^63, got {self.seed}")
        for name in ("warmup_fraction", "softmask_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is between 0 and 1, got {getattr(self, name)}")

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_fraction * self.max_steps)

    def learning_rate_at(self, step: int) -> float:
        return cosine_with_warmup(
            step,
            max_steps=self.max_steps,
            warmup_steps=self.warmup_steps,
            peak=self.learning_rate,
            floor=self.min_learning_rate,
        )

    def batch_size(self, seq_len: int) -> int:
        """Windows in an optimiser step."""
        if self.batch_tokens % seq_len:
            raise InputError(
                f"batch_tokens ({self.batch_tokens:,}) is not a multiple of seq_len ({seq_len:,}): "
                f"the next one is {-(-self.batch_tokens // seq_len) * seq_len:,}"
            )
        return self.batch_tokens // seq_len


class SavableModel(Protocol):
    def save_pretrained(self, folder: Any) -> Any: ...


@dataclass(frozen=True)
class Outcome:
    """step: optimiser steps done. stopped_by: the signal that ended the run early, if one did."""

    step: int
    stopped_by: Signals | None = None


class Trainer:
    """Trains an objective on windows, into a run folder.

    objective: maps codes to (sum of losses, sum of weights); see objectives.py.
    model: the part of it that is saved for use. no_decay: see optim.py, names within the objective.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        model: SavableModel,
        no_decay: Sequence[str],
        datasets: Mapping[Split, WindowDataset],
        config: TrainConfig,
        run: RunFolder,
        compute: Compute,
        n_workers: int = 0,
    ):
        self.config = config
        self.run = run
        self.compute = compute
        self.model = model
        self.train_set, self.valid_set = datasets[Split.TRAIN], datasets[Split.VALID]
        self.n_workers = n_workers
        self.objective = objective.to(compute.device)
        self.optimizer = build_optimizer(
            self.objective,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=config.betas,
            no_decay=no_decay,
        )
        self.micro_batch = config.micro_batch or 1
        self.step = 0
        self._interval = IntervalMean()
        self._started = time.monotonic()
        self._training_step = TrainingStep(
            self.objective, self.optimizer, compute, grad_clip=config.grad_clip
        )

    def restore(self) -> None:
        """Continue from the newest checkpoint; from the start where there is none."""
        found = load_newest(self.run.checkpoints, self.objective, self.optimizer)
        if found is not None:
            self.step = found["step"]
            self._interval = IntervalMean(found["extra"].get("losses", []))
        if self.compute.ranks.is_main:
            self.run.metrics.rewind(self.step if found is not None else -1)
        self.compute.wait_for_ranks()

    def fit(self) -> Outcome:
        """Train to the last step, or until a signal asks to stop; either way everything is saved.

        Raises TrainingError when a loss or gradient is not finite, or memory runs out.
        """
        is_main = self.compute.ranks.is_main
        progress = TrainingProgress(self.config.max_steps, self.step, enabled=is_main)
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
        config = self.config
        batches = self._batches()
        on_gpu = self.compute.device.type == "cuda"
        loader = build_loader(self.train_set, batches, n_workers=self.n_workers, pin_memory=on_gpu)
        micro_batches = iter(loader)
        if self._is_validation_missing() and not self._validate(progress, stop):
            return stop.signal or Signals.SIGTERM
        self._interval.restart_clock()
        while self.step < config.max_steps:
            codes = [
                next(micro_batches).to(self.compute.device, non_blocking=True)
                for _ in range(batches.n_micro_batches)
            ]
            weight, told_to_stop = self._agree(codes, stop)
            if told_to_stop:
                return stop.signal or Signals.SIGTERM
            loss, grad_norm = self._update(codes, weight)
            self.step += 1
            self._interval.add(loss, config.batch_tokens)
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
        """Whether this step's validation is due and not in the metrics yet, as at the start."""
        rows = self.run.metrics.rows() if self.compute.ranks.is_main else []
        there = any(row["step"] == self.step and row["split"] == Split.VALID for row in rows)
        missing = self.compute.ranks.is_main and not there
        return self._is_validation_step() and self.compute.any_rank(missing)

    def _batches(self) -> BatchRanges:
        return BatchRanges(
            batch_size=self.config.batch_size(self.train_set.index.config.seq_len),
            micro_batch_size=self.micro_batch,
            first_batch=self.step,
            last_batch=self.config.max_steps,
            rank=self.compute.ranks.rank,
            world_size=self.compute.ranks.world_size,
        )

    def _agree(self, codes: Sequence[Tensor], stop: StopRequest) -> tuple[Tensor, bool]:
        """The weight of the whole batch over all ranks, and whether any rank was told to stop."""
        local = torch.stack([self.objective.weight(part) for part in codes])
        asked = local.new_tensor(float(stop.signal is not None))
        both = self.compute.sum_over_ranks(torch.stack([local.sum(), asked]))
        return both[0], bool(both[1] > 0)

    def _update(self, codes: Sequence[Tensor], weight: Tensor) -> tuple[float, float]:
        """One optimiser step; returns the loss in nats per weighted base and the gradient norm."""
        rate = self.config.learning_rate_at(self.step)
        loss, norm = self._training_step.update(codes, weight, rate)
        if not is_finite(loss, norm):
            self._refuse_batch(loss, norm)
        return loss, norm

    def _refuse_batch(self, loss: float, norm: float) -> None:
        """Keep the weights from before this step, name the batch, and stop."""
        batches = self._batches()
        samples = range(self.step * batches.batch_size, (self.step + 1) * batches.batch_size)
        if self.compute.ranks.is_main:
            self._write_checkpoint()
            self.run.write_json(
                "bad_batch",
                {
                    "step": self.step,
                    "loss": str(loss),
                    "grad_norm": str(norm),
                    "windows": self.train_set.describe(samples),
                },
            )
        first = self.train_set.describe(samples[:1])[0]
        # Rank 0 writes; the others must not end the run under its hands.
        self.compute.wait_for_ranks()
        raise TrainingError(
            f"step {self.step}: loss {loss}, gradient norm {norm}. The weights were not changed by "
            f"this batch and are saved; its {len(samples)} windows, from {first} on, are listed in "
            f"{self.run.path / 'bad_batch.json'}. A lower --learning-rate or a longer "
            "--warmup-fraction usually helps"
        )

    def _log(self, progress: TrainingProgress, grad_norm: float) -> None:
        loss, tokens_per_s = self._interval.take()
        row = {
            "split": "train",
            "step": self.step,
            "loss": loss,
            "bits_per_base": bits_per_base(loss),
            "perplexity": perplexity(loss),
            "learning_rate": self.config.learning_rate_at(self.step - 1),
            "grad_norm": grad_norm,
            "tokens": self.step * self.config.batch_tokens,
            "tokens_per_s": tokens_per_s,
            "elapsed_s": time.monotonic() - self._started,
        }
        if self.compute.device.type == "cuda":
            row["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.compute.device) / 2**30
        self._append(row)
        progress.trained(row)

    def _validate(self, progress: TrainingProgress, stop: StopRequest) -> bool:
        """Validate and log; False, with nothing logged, if a rank was told to stop meanwhile."""
        result = evaluate(
            self.objective,
            self.valid_set,
            self.compute,
            eval_tokens=self.config.eval_tokens,
            micro_batch=self.micro_batch,
            stop=stop,
        )
        if result is None:
            return False
        loss, targets = result
        row = {
            "split": "valid",
            "step": self.step,
            "loss": loss,
            "bits_per_base": bits_per_base(loss),
            "perplexity": perplexity(loss),
            "targets": targets,
            "tokens": self.step * self.config.batch_tokens,
        }
        self._append(row)
        progress.validated(row)
        if self.compute.ranks.is_main:
            write_report(self.run.path)
        return True

    def _append(self, row: dict[str, Any]) -> None:
        if self.compute.ranks.is_main:
            self.run.metrics.append(row)

    def _save(self) -> None:
        if self.compute.ranks.is_main:
            self._write_checkpoint()
            self.model.save_pretrained(self.run.model)
        self.compute.wait_for_ranks()

    def _write_checkpoint(self) -> None:
        save_checkpoint(
            self.run.checkpoints,
            self.step,
            self.objective,
            self.optimizer,
            keep=self.config.keep_checkpoints,
            extra={"losses": self._interval.losses},
        )
