"""Forward and backward of a micro-batch as a CUDA graph: one launch instead of thousands.

Short passes would wait for Python, which needs milliseconds to launch the kernels of all layers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dnamamba.data.batches import Batch, tensors_of, with_tensors

RunPass = Callable[[Batch, Tensor], Tensor]
"""(batch, weight) to the sum of losses; adds to the parameters' gradients."""

PASSES_BEFORE = 2
"""Passes before the capture: the first compiles kernels, the second measures memory."""

LARGEST_SHARE = 0.25
"""Skip the capture above this fraction of the GPU's memory: a CUDA graph keeps its own, and large
passes are not launch-bound."""


class CudaGraphPass:
    """Runs passes; captures and replays one whose shapes repeat.

    Zero the gradients, never drop them: a graph adds to those of its capture. The pass must not
    read a tensor's value in Python.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: _CapturedPass | None = None
        self._shapes, self._times = _shapes(torch.empty(0)), 0

    def __call__(self, run: RunPass, batch: Batch, weight: Tensor) -> Tensor:
        """run: the same at every call; not kept, as a reference cycle would hold GPU memory."""
        if _shapes(batch) != self._shapes:
            self._shapes, self._times, self._captured = _shapes(batch), 0, None
        self._times += 1
        if self._captured is None and self._times > PASSES_BEFORE and self._is_small():
            self._captured = _CapturedPass(run, batch, weight)
        if self._captured is not None:
            return self._captured(batch, weight)
        return run(batch, weight)

    def _is_small(self) -> bool:
        total = torch.cuda.get_device_properties(self._device).total_memory
        return torch.cuda.max_memory_allocated(self._device) <= LARGEST_SHARE * total


class _CapturedPass:
    """A pass on tensors of its own, overwritten before each replay."""

    def __init__(self, run: RunPass, batch: Batch, weight: Tensor) -> None:
        self._batch = with_tensors(batch, [tensor.clone() for tensor in tensors_of(batch)])
        self._weight = weight.clone()
        self._graph = torch.cuda.CUDAGraph()
        # The loader's thread pins memory meanwhile; its calls do not belong to the graph.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss = run(self._batch, self._weight)

    def __call__(self, batch: Batch, weight: Tensor) -> Tensor:
        for own, tensor in zip(tensors_of(self._batch), tensors_of(batch), strict=True):
            own.copy_(tensor)
        self._weight.copy_(weight)
        self._graph.replay()
        return self._loss


def _shapes(batch: Batch) -> list[torch.Size]:
    return [tensor.shape for tensor in tensors_of(batch)]
