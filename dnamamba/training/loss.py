"""What a trainer minimises."""

from typing import Any

from torch import Tensor, nn

from dnamamba.models.recompute import Recompute


class Loss(nn.Module):
    """What a trainer minimises: a sum of weighted losses and the sum of their weights.

    The two come apart so that the division can be done once, by the weight of a whole batch over
    all micro-batches and ranks.

    recompute: what the backward pass makes again instead of keeping it (models/recompute.py).

    On a GPU a pass may be recorded and replayed (training/cuda_graph.py), so `forward` must not
    read a tensor's value in Python, nor choose by anything but shapes.
    """

    def __init__(self, model: nn.Module, *, recompute: Recompute = "nothing"):
        super().__init__()
        self.model = model
        self.recompute = recompute

    def weight(self, batch: Any) -> Tensor:
        """The sum of weights `forward` will return for a batch (data/batches.py), without one."""
        raise NotImplementedError

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """(sum of weighted losses, sum of weights), float32 scalars."""
        raise NotImplementedError
