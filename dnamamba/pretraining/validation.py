"""Evaluate a language model on held-out windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnamamba.data.window_dataset import WindowDataset, evaluation_samples
from dnamamba.intervals import Split
from dnamamba.pretraining.objectives import Objective
from dnamamba.pretraining.report import write_report
from dnamamba.runtime import Compute
from dnamamba.training.interrupts import StopRequest
from dnamamba.training.metrics_log import bits_per_base, perplexity


@dataclass(eq=False)
class LanguageValidator:
    """Loss on the validation windows (see trainer.Validator)."""

    objective: Objective
    dataset: WindowDataset
    compute: Compute
    eval_tokens: int
    patience_steps: int | None = None

    def units(self, loss: float) -> dict[str, float]:
        return {"bits_per_base": bits_per_base(loss), "perplexity": perplexity(loss)}

    def validate(self, micro_batch: int, stop: StopRequest) -> dict[str, Any] | None:
        result = evaluate(
            self.objective,
            self.dataset,
            self.compute,
            eval_tokens=self.eval_tokens,
            micro_batch=micro_batch,
            stop=stop,
        )
        if result is None:
            return None
        loss, targets = result
        return {"loss": loss, **self.units(loss), "targets": targets}

    def score(self, row: Mapping[str, Any]) -> float | None:
        return None

    def summary(self, row: Mapping[str, Any]) -> str:
        return describe_row(row)

    def write_report(self, folder: Path, *, is_running: bool = False) -> Path:
        return write_report(folder, is_running=is_running)


def describe_row(row: Mapping[str, Any]) -> str:
    """Describe a row of metrics in a few words."""
    bits = f"{row['bits_per_base']:.4f} bits/base"
    return bits if row["split"] == Split.TRAIN else f"{bits}, perplexity {row['perplexity']:.4f}"


@torch.no_grad()
def evaluate(
    objective: Objective,
    dataset: WindowDataset,
    compute: Compute,
    *,
    eval_tokens: int,
    micro_batch: int,
    stop: StopRequest | None = None,
) -> tuple[float, int] | None:
    """Return the mean loss in nats over all targets of the evaluation windows, and their number.

    The windows are spread evenly over the split and shared by all ranks. stop: checked between
    micro-batches; the result is None if any rank is asked to stop.
    """
    samples, world_size = evaluation_samples(dataset, eval_tokens), compute.ranks.world_size
    mine = samples[compute.ranks.rank :: world_size]
    totals = torch.zeros(2, dtype=torch.float64, device=compute.device)
    objective.eval()
    try:
        # Every rank takes as many turns as rank 0, so that all meet at `any_rank`.
        for first in range(0, len(samples[::world_size]), micro_batch):
            if stop is not None and compute.any_rank(stop.signal is not None):
                return None
            if part := mine[first : first + micro_batch]:
                codes = dataset[part].to(compute.device)
                with compute.autocast():
                    loss_sum, count = objective(codes)
                totals += torch.stack([loss_sum, count]).double()
    finally:
        objective.train()
    loss, count = compute.sum_over_ranks(totals).tolist()
    return loss / max(1.0, count), int(count)
