"""Forward and backward of a micro-batch as a CUDA graph: one launch instead of thousands.

A layer takes a hundred launches from Python, a few milliseconds a training step. Where a pass is
short the GPU waits for them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

RunPass = Callable[[Tensor, Tensor], Tensor]
"""(codes, weight) to the sum of losses; adds to the parameters' gradients."""

PASSES_BEFORE = 2
"""Run as they are: the first compiles kernels, the second shows what memory a pass takes."""

LARGEST_SHARE = 0.25
"""Of the GPU's memory: what a recorded pass holds is its own as long as it lives, and passes that
take more do not wait for launches."""


class RecordingPass:
    """Runs passes, and records one that comes again and again.

    Give gradients to be added to, never None after the first pass: a recorded pass adds to those
    that were there when it was recorded. The pass must not read a tensor's value in Python.
    """

    def __init__(self, run: RunPass, device: torch.device) -> None:
        self._run, self._device = run, device
        self._recorded: _Recorded | None = None
        self._shape, self._times = torch.Size(), 0

    def __call__(self, codes: Tensor, weight: Tensor) -> Tensor:
        if codes.shape != self._shape:
            self._shape, self._times, self._recorded = codes.shape, 0, None
        self._times += 1
        if self._recorded is None and self._times > PASSES_BEFORE and self._is_small():
            self._recorded = _Recorded(self._run, codes, weight)
        if self._recorded is not None:
            return self._recorded(codes, weight)
        return self._run(codes, weight)

    def _is_small(self) -> bool:
        total = torch.cuda.get_device_properties(self._device).total_memory
        return torch.cuda.max_memory_allocated(self._device) <= LARGEST_SHARE * total


class _Recorded:
    """A pass on tensors of its own, which are written before each replay."""

    def __init__(self, run: RunPass, codes: Tensor, weight: Tensor) -> None:
        self._codes, self._weight = codes.clone(), weight.clone()
        self._graph = torch.cuda.CUDAGraph()
        # The loader's thread goes on pinning memory meanwhile: its calls are none of the graph's.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._loss = run(self._codes, self._weight)

    def __call__(self, codes: Tensor, weight: Tensor) -> Tensor:
        self._codes.copy_(codes)
        self._weight.copy_(weight)
        self._graph.replay()
        return self._loss
