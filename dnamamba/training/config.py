"""The recipe of a training run: optimiser, schedule, and how often it is looked at and saved."""

from dataclasses import dataclass

from dnamamba.errors import InputError
from dnamamba.models.recompute import Recompute
from dnamamba.training.optimizer import cosine_with_warmup


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What training takes whatever is learned. Defaults are the Mamba paper's (E.2, E.3)."""

    max_steps: int = 10_000
    """Optimiser steps in all."""

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

    recompute: Recompute | None = None
    """What the backward pass makes again instead of keeping it (models/recompute.py); None: what
    memory needs."""

    eval_every: int = 100
    """Steps between validations; there is one at the start and one at the end besides."""

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
        for name in ("max_steps", "save_every", "keep_checkpoints", "log_every"):
            self._check_at_least_one(name)
        for name in ("learning_rate", "min_learning_rate", "weight_decay", "grad_clip"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} is not negative, got {getattr(self, name)}")
        if self.micro_batch is not None:
            self._check_at_least_one("micro_batch")
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed is 0 or more and below 2^63, got {self.seed}")
        self._check_share("warmup_fraction")

    def _check_at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise InputError(f"{name} is at least 1, got {getattr(self, name)}")

    def _check_share(self, name: str) -> None:
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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Pretraining. Defaults are the Mamba paper's for DNA (E.3; facts it leaves open from E.2)."""

    batch_tokens: int = 1 << 20
    """Tokens in an optimiser step, over all ranks and micro-batches."""

    softmask_weight: float = 1.0
    """Weight of soft-masked (lower-case, repeat) bases in the training loss; validation counts
    every base once."""

    eval_tokens: int = 1 << 22
    """Tokens of a validation, rounded to whole windows spread evenly over the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_tokens", "eval_tokens", "eval_every"):
            self._check_at_least_one(name)
        self._check_share("softmask_weight")

    def batch_size(self, seq_len: int) -> int:
        """Windows in an optimiser step."""
        if self.batch_tokens % seq_len:
            raise InputError(
                f"batch_tokens ({self.batch_tokens:,}) is not a multiple of seq_len ({seq_len:,}): "
                f"the next one is {-(-self.batch_tokens // seq_len) * seq_len:,}"
            )
        return self.batch_tokens // seq_len


@dataclass(frozen=True)
class RunOptions:
    """What does not change the result: where and with what help a run computes."""

    device: str = "auto"
    n_workers: int | None = None
    """Loader processes; None: 0 on a CPU, 4 beside a GPU."""

    micro_batch: int | None = None
    """Windows in one pass, in place of the config's."""

    recompute: Recompute | None = None
    """What the backward pass makes again, in place of the config's."""

    def __post_init__(self) -> None:
        if self.n_workers is not None and self.n_workers < 0:
            raise InputError(f"workers is 0 or more, got {self.n_workers}")
