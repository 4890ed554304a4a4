"""How well an objective does on windows that are not trained on."""

import torch

from dnamamba.data.dataset import WindowDataset, evaluation_samples
from dnamamba.objectives import Objective
from dnamamba.runtime import Compute
from dnamamba.stopping import StopRequest


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
    """Mean loss in nats over every base of the evaluation windows, and how many there were.

    The windows are spread evenly over the split and shared by all ranks. stop: looked at between
    micro-batches; None comes back once any rank was told to stop.
    """
    samples = evaluation_samples(dataset, eval_tokens)
    rank, world_size = compute.ranks.rank, compute.ranks.world_size
    mine = samples[rank::world_size]
    totals = torch.zeros(2, dtype=torch.float64, device=compute.device)
    objective.eval()
    try:
        # Rank 0 has the most; every rank takes as many turns, the last perhaps with nothing.
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
