"""Settings of every training run: its recipe, and where it computes."""

from dataclasses import dataclass, replace
from typing import Self

from dnamamba.configs import require_range, require_seed
from dnamamba.errors import InputError
from dnamamba.models.recompute import Recompute
from dnamamba.training.optimizer import cosine_with_warmup


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule, and intervals of validation and saving.

    Defaults are the Mamba paper's for pretraining (E.2, E.3). A run resolves what is None or 0.
    """

    max_steps: int = 10_000
    """Optimiser steps."""

    micro_batch: int | None = None
    """Windows in a rank's forward pass; None: what memory allows. Changes rounding only."""

    learning_rate: float | None = None
    """Peak of the schedule; None: the mixer's default."""

    min_learning_rate: float = 1e-5
    """End of the cosine."""

    warmup_fraction: float = 0.1
    """Share of the steps in linear warm-up."""

    weight_decay: float = 0.1
    """AdamW's, on matrices and the embedding."""

    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""

    grad_clip: float = 1.0
    """Largest gradient norm; 0: no clipping."""

    recompute: Recompute | None = None
    """What the backward pass computes again (models/recompute.py); None: what memory requires."""

    eval_every: int = 0
    """Steps between validations; one more at each end. 0: the default of the task."""

    save_every: int = 500
    """Steps between checkpoints."""

    keep_checkpoints: int = 2
    """Newest checkpoints kept."""

    log_every: int = 10
    """Steps between rows of metrics.jsonl."""

    precision: str = "auto"
    """`bf16` autocast (parameters, states and sums stay fp32), `fp32`, or `auto`: bf16 on GPUs."""

    seed: int = 0
    """Seed of the initial weights; data order has its own."""

    def __post_init__(self) -> None:
        counts = ("max_steps", "micro_batch", "save_every", "keep_checkpoints", "log_every")
        self._check_at_least_one(*counts)
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError(f"{name} must be finite and >= 0, got {value}")
        require_range("eval_every", self.eval_every, 0)
        require_seed(self.seed)
        require_range("warmup_fraction", self.warmup_fraction, 0, 1)

    def _check_at_least_one(self, *names: str) -> None:
        for name in names:
            if (value := getattr(self, name)) is not None:
                require_range(name, value, 1)

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_fraction * self.max_steps)

    def with_peak(self, learning_rate: float) -> Self:
        """Return a copy with this learning rate, unless it has one."""
        given = self.learning_rate
        return replace(self, learning_rate=learning_rate if given is None else given)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of optimiser step `step` (0-based)."""
        assert self.learning_rate is not None, "with_peak comes first"
        return cosine_with_warmup(
            step,
            max_steps=self.max_steps,
            warmup_steps=self.warmup_steps,
            peak=self.learning_rate,
            floor=self.min_learning_rate,
        )


@dataclass(frozen=True)
class RunOptions:
    """Where a run computes; none of it changes the result."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    n_workers: int | None = None
    """Loader processes; None: 0 on a CPU, 4 beside a GPU."""

    micro_batch: int | None = None
    """Overrides the recipe's."""

    recompute: Recompute | None = None
    """Overrides the recipe's."""

    def __post_init__(self) -> None:
        if self.n_workers is not None:
            require_range("workers", self.n_workers, 0)

    def workers_beside(self, device_type: str) -> int:
        if self.n_workers is not None:
            return self.n_workers
        return 0 if device_type == "cpu" else 4
