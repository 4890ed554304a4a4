"""The time of a call: CUDA events on a GPU, the clock on a CPU."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

# A call is repeated for this long, but at least and at most so often.
_REPEAT_MS = {"cuda": 100.0, "cpu": 400.0}
_FEWEST, _MOST = 3, 100
# Written between calls, so that none finds its inputs in the cache: more than any GPU's L2.
_FLUSH_BYTES = 256 << 20
# Calls that take longer are not kept waiting by their launches.
_LAUNCHES_MS = 5.0


def median_ms(call: Callable[[], object], device: torch.device) -> float:
    """Return the median milliseconds of several calls, after one that is not counted."""
    time_calls(call, device, 1)
    once = time_calls(call, device, 1)[0]
    count = int(_REPEAT_MS[device.type] / max(once, 1e-6))
    return statistics.median(time_calls(call, device, min(_MOST, max(_FEWEST, count))))


def pass_ms(
    call: Callable[[Any], object], prepare: Callable[[], Any], device: torch.device
) -> tuple[float, float]:
    """Return median milliseconds of `call(prepare())`: the GPU's work, and as called from Python.

    The two differ if launching takes longer than the work: then a CUDA graph of the launches is
    timed, if they can be captured. On a CPU both are the same.
    """
    called = _called_ms(call, prepare(), device)
    if device.type != "cuda" or called > _LAUNCHES_MS:
        return called, called
    try:
        replay = _capture(call, prepare, device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # the call itself has run before: it cannot be captured
        return called, called
    return median_ms(replay, device), called


def _called_ms(call: Callable[[Any], object], given: Any, device: torch.device) -> float:
    # Drops `given`: a live autograd graph ties its leaves to its stream.
    return median_ms(lambda: call(given), device)


def _capture(
    call: Callable[[Any], object], prepare: Callable[[], Any], device: torch.device
) -> Callable[[], object]:
    # An autograd graph runs its backward on the stream of its forward, so both are made here.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        given = prepare()
        call(given)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call(given)

    def replay() -> object:
        graph.replay()
        return given  # what is replayed reads it

    return replay


def time_calls(call: Callable[[], object], device: torch.device, count: int) -> list[float]:
    """Return the milliseconds of each of `count` calls."""
    if device.type == "cuda":
        return _time_on_gpu(call, device, count)
    found = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1e3)
    return found


def _time_on_gpu(call: Callable[[], object], device: torch.device, count: int) -> list[float]:
    flushed = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    with torch.cuda.device(device):
        began, ended = (
            [torch.cuda.Event(enable_timing=True) for _ in range(count)] for _ in range(2)
        )
        # Nothing waits in between: while the GPU flushes, the next launches come in.
        for first, last in zip(began, ended, strict=True):
            flushed.zero_()
            first.record()
            call()
            last.record()
        torch.cuda.synchronize()
    return [first.elapsed_time(last) for first, last in zip(began, ended, strict=True)]
