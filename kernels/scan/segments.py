"""Plan of the chunked scan: segments of time, their layout and the memory they share.

Shape letters: B batch, L seq_len, D channels, N states; inside a segment S steps, K chunks, R rows
of the batch, G groups of W = D / G channels.
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Part of the batch at part of the time: `chunks` runs of `steps` each.

    first_chunk: number of these sequences' chunks before.
    """

    rows: slice
    times: slice
    steps: int
    chunks: int
    first_chunk: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes in elements (one state of one channel at one step) that suit a kind of device.

    segment: a segment's buffers, to fit a CPU's cache or bound a GPU's memory. narrow: a step below
    this costs its launch and little else. wide: what chunks that advance together widen a narrow
    step to, for one more pass. widest: a step above this is split by rows of the batch, so that a
    segment has enough steps.
    """

    segment: int
    narrow: int
    wide: int
    widest: int


CPU_LIMITS = Limits(segment=1 << 20, narrow=1 << 12, wide=1 << 14, widest=1 << 16)
GPU_LIMITS = Limits(segment=1 << 25, narrow=1 << 20, wide=1 << 22, widest=1 << 22)

# A state is saved per chunk. With at least d_state steps the states saved are never more than u.
MIN_STEPS = 16


def plan_segments(
    batch: int, seq_len: int, channels: int, d_state: int, limits: Limits
) -> list[Segment]:
    """Cut a scan into segments, in order of time."""
    lanes = channels * d_state
    n_blocks = min(batch, -(-batch * lanes // limits.widest))
    n_rows = -(-batch // n_blocks)
    width, min_steps = n_rows * lanes, max(MIN_STEPS, d_state)
    tokens = min(seq_len, max(min_steps, limits.segment // width))
    chunks = 1
    if width < limits.narrow:
        chunks = max(1, min(-(-limits.wide // width), math.isqrt(tokens), tokens // min_steps))
    steps = tokens // chunks
    plan = []
    for row in range(0, batch, n_rows):
        rows = slice(row, min(batch, row + n_rows))
        start = n_before = 0
        while start < seq_len:
            rest = seq_len - start
            # The rest after the last whole chunk is a segment of its own: nothing is padded.
            segment_chunks, segment_steps = max(1, min(chunks, rest // steps)), min(steps, rest)
            stop = start + segment_chunks * segment_steps
            times = slice(start, stop)
            plan.append(Segment(rows, times, segment_steps, segment_chunks, n_before))
            start, n_before = stop, n_before + segment_chunks
    return plan


class Scratch:
    """Memory that all segments share, as fresh pages would cost more than the arithmetic.

    Views are cached: taking a tensor apart costs a third of working on its parts.
    """

    def __init__(self, plan: list[Segment], A: Tensor) -> None:
        self._like = A
        self._longest = max(s.steps * s.chunks * (s.rows.stop - s.rows.start) for s in plan)
        self._flat: dict[str, Tensor] = {}
        self._views: dict[tuple[str, int, int, int], Tensor] = {}
        self._steps: dict[tuple[str, int, int, int], tuple[Tensor, ...]] = {}

    def wide(self, name: str, segment: Segment) -> Tensor:
        """Return a buffer (S, K, R, G, N, W)."""
        return self._view(name, segment, tuple(self._like.shape))

    def narrow(self, name: str, segment: Segment) -> Tensor:
        """Return a buffer (S, K, R, G, 1, W)."""
        groups, _, width = self._like.shape
        return self._view(name, segment, (groups, 1, width))

    def wide_steps(self, name: str, segment: Segment) -> tuple[Tensor, ...]:
        """Return a wide buffer as S tensors (K, R, G, N, W)."""
        key = _key(name, segment)
        if key not in self._steps:
            self._steps[key] = self.wide(name, segment).unbind(0)
        return self._steps[key]

    def _view(self, name: str, segment: Segment, tail: tuple[int, ...]) -> Tensor:
        key = _key(name, segment)
        if key not in self._views:
            if name not in self._flat:
                self._flat[name] = self._like.new_empty(self._longest * math.prod(tail))
            shape = (*key[1:], *tail)
            self._views[key] = self._flat[name][: math.prod(shape)].view(shape)
        return self._views[key]


def _key(name: str, segment: Segment) -> tuple[str, int, int, int]:
    return name, segment.steps, segment.chunks, segment.rows.stop - segment.rows.start


def steps_first(x: Tensor, segment: Segment) -> Tensor:
    """View a segment of (B, L, ...) as (S, K, R, ...)."""
    x = x[segment.rows, segment.times].unflatten(1, (segment.chunks, segment.steps))
    return x.permute(2, 1, 0, *range(3, x.dim()))
