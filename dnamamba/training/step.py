"""One optimiser step, as training takes it and benchmarks time it."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dnamamba.data.batches import Batch
from dnamamba.runtime import Compute
from dnamamba.training.cuda_graph import CudaGraphPass
from dnamamba.training.loss import Loss


class TrainingStep:
    """Steps of a loss on compute's device. grad_clip: largest gradient norm; 0: no clipping."""

    def __init__(
        self,
        objective: Loss,
        optimizer: torch.optim.Optimizer,
        compute: Compute,
        *,
        grad_clip: float,
    ):
        self.objective = objective
        self.optimizer = optimizer
        self.compute = compute
        self.grad_clip = grad_clip
        self._wrapped: nn.Module = objective
        self._graph: CudaGraphPass | None = None
        on_gpu = compute.device.type == "cuda"
        if compute.ranks.world_size > 1:
            ids = [compute.device.index] if on_gpu else None
            self._wrapped = DistributedDataParallel(objective, device_ids=ids)
        elif on_gpu:
            self._graph = CudaGraphPass(compute.device)

    def update(
        self, batches: Sequence[Batch], weight: Tensor, learning_rate: float
    ) -> tuple[float, float]:
        """Change the weights; return the mean loss and the gradient's norm from before.

        Changes nothing unless both are finite. batches: this rank's micro-batches. weight: of the
        whole batch over all ranks.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        # A CUDA graph adds to the gradients that were there at its capture.
        self.optimizer.zero_grad(set_to_none=self._graph is None)
        # A batch without targets has weight and loss 0.
        weight = torch.where(weight == 0, 1.0, weight)
        total = torch.zeros((), device=self.compute.device)
        for number, part in enumerate(batches, start=1):
            with self._sync_if(number == len(batches)):
                if self._graph is None:
                    total += self._run_pass(part, weight)
                else:
                    total += self._graph(self._run_pass, part, weight)
        loss = self.compute.sum_over_ranks(total) / weight
        limit = self.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), limit)
        loss_value, norm_value = torch.stack([loss, norm]).tolist()
        if is_finite(loss_value, norm_value):
            self.optimizer.step()
        return loss_value, norm_value

    def _run_pass(self, batch: Batch, weight: Tensor) -> Tensor:
        with self.compute.autocast():
            loss_sum, _ = self._wrapped(batch)
        # DDP takes the mean over ranks; the loss is a sum over them.
        (loss_sum / weight * self.compute.ranks.world_size).backward()
        return loss_sum.detach()

    def _sync_if(self, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()


def is_finite(*values: float) -> bool:
    return all(map(math.isfinite, values))
