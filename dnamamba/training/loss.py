"""What a trainer minimises."""

from typing import Any

from torch import Tensor, nn

from dnamamba.models.recompute import Recompute


class Loss(nn.Module):
    """What a trainer minimises: a sum of weighted losses, and the sum of their weights.

    They are returned apart, since the trainer divides once by the weight of the whole batch, over
    all micro-batches and ranks. `forward` may become a CUDA graph (training/cuda_graph.py): it must
    not read a tensor's value in Python, and may branch on shapes alone.

    recompute: what the backward pass computes again instead of keeping it (models/recompute.py).
    """

    def __init__(self, model: nn.Module, *, recompute: Recompute = "nothing"):
        super().__init__()
        self.model = model
        self.recompute = recompute

    def weight(self, batch: Any) -> Tensor:
        """The sum of weights that `forward` will return for a batch, without a forward pass."""
        raise NotImplementedError

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """(sum of weighted losses, sum of weights), float32 scalars."""
        raise NotImplementedError
