"""The interface of losses that a trainer minimises."""

from typing import Any

from torch import Tensor, nn

from dnamamba.models.recompute import Recompute


class Loss(nn.Module):
    """A sum of weighted losses, and the sum of their weights.

    The trainer divides one by the other over all micro-batches and ranks. `forward` may become a
    CUDA graph: it must not read a tensor's value in Python. recompute: see models/recompute.py.
    """

    def __init__(self, model: nn.Module, *, recompute: Recompute = "nothing"):
        super().__init__()
        self.model = model
        self.recompute = recompute

    def weight(self, batch: Any) -> Tensor:
        """Return the sum of weights of a batch without a forward pass."""
        raise NotImplementedError

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return (sum of weighted losses, sum of weights), float32 scalars."""
        raise NotImplementedError
