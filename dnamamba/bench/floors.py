"""A GPU's limits, bytes copied and exponentials a second, and a scan's least time by them."""

import functools
from dataclasses import dataclass

import torch

from dnamamba.bench.shapes import ScanShape
from dnamamba.bench.timing import median_ms

_COPY_BYTES = 1 << 31
# Twice as many threads as a multiprocessor holds, in a few milliseconds of work.
_PROGRAMS_PER_MULTIPROCESSOR, _BLOCK, _WARPS, _ROUNDS = 32, 1024, 4, 256


@dataclass(frozen=True)
class Floors:
    """copy_tb_per_s: read and written, 1e12 bytes. exp2_per_s: float32."""

    copy_tb_per_s: float
    exp2_per_s: float


def measure_floors(device: torch.device) -> Floors | None:
    """Measure a GPU; None for a CPU."""
    if device.type != "cuda":
        return None
    return Floors(measure_copy(device), measure_exp2(device))


def measure_copy(device: torch.device) -> float:
    """Return the TB/s of a device copy of 2 GiB, read and written."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms(lambda: target.copy_(source), device) / 1e9


def measure_exp2(device: torch.device) -> float:
    """Return the exponentials a second of a kernel of nothing else."""
    # Imported on first use: triton is not installed everywhere.
    from dnamamba.bench.exp2_gpu import UNROLLED, exp2_kernel

    programs = _PROGRAMS_PER_MULTIPROCESSOR * n_multiprocessors(device)
    out = torch.empty(programs * _BLOCK, device=device)

    def run() -> None:
        exp2_kernel[(programs,)](out, _ROUNDS, BLOCK=_BLOCK, STEPS=UNROLLED, num_warps=_WARPS)

    return out.numel() * _ROUNDS * UNROLLED / median_ms(run, device) * 1e3


@functools.cache
def n_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


# --- the scan's least time


# What passes over an element (a channel at a step, 16 states) cannot do without: operations of the
# special function unit (exp2, logarithm, reciprocal), which all take an exp2's time; and numbers of
# the operands' dtype to and from memory (B and C, shared by all channels, are small beside them).
# Instructions to issue are left out: they depend on how a kernel is written.
_PASSES = (
    # Forward: 16 decays, 2 for softplus, 2 for the gate; u, delta, z, out, and one for a backward.
    (20, 5),
    # Backward: the states again; u, delta, z, d_out, d_u, d_delta, d_z, and two the forward left.
    (20, 9),
)
_CHUNK_PASSES = (
    (18, 2),  # states at the ends of chunks: no gate; u and delta
    (18, 2),  # adjoints at the starts of chunks: delta and d_out
)
# With so many channels (8 warps of 32 lanes a multiprocessor, the fewest that keep the special
# function units busy) time need not be cut into chunks, whose states cost a pass of their own.
_CHANNELS_PER_MULTIPROCESSOR = 256


def scan_bound_ps(
    shape: ScanShape, dtype: torch.dtype, floors: Floors, multiprocessors: int
) -> float:
    """Return the least picoseconds an element of a scan's forward and backward together."""
    passes: tuple[tuple[int, int], ...] = _PASSES
    if shape.batch * shape.d_inner < _CHANNELS_PER_MULTIPROCESSOR * multiprocessors:
        passes = _PASSES + _CHUNK_PASSES
    # Memory and exponentials run side by side.
    return sum(
        max(special / floors.exp2_per_s * 1e12, values * dtype.itemsize / floors.copy_tb_per_s)
        for special, values in passes
    )
