"""Times of the selective scan beside attention and FFT convolution, and of the scan alone."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dnamamba.bench.checks import check_scan, check_shape
from dnamamba.bench.floors import Floors, measure_floors, n_multiprocessors, scan_bound_ps
from dnamamba.bench.operators import D_HEAD, OPERATORS, SCAN, Where, resolve_scan_backend
from dnamamba.bench.shapes import ScanShape
from dnamamba.bench.timing import pass_ms
from dnamamba.errors import InputError
from dnamamba.runtime import available_bytes, choose_device, choose_precision, read_ranks


@dataclass(frozen=True, kw_only=True)
class ScanRow:
    """One operator at one shape. Times are medians in milliseconds, None if left out.

    op: a key of OPERATORS. dtype: of the operands. fwd_ms, bwd_ms: the GPU's work, launched by a
    CUDA graph if it is short. called_fwd_ms, called_bwd_ms: as called from Python, longer if the
    launches take longer than the work. ps_per_element: forward and backward, for each of batch x
    d_inner x seq_len. bound_fraction: the scan's least time by the GPU's floors over its time; None
    on a CPU. max_error: the scan's at this shape, against float64. note: why there are no times.
    """

    op: str
    batch: int
    d_inner: int
    seq_len: int
    dtype: str
    fwd_ms: float | None = None
    bwd_ms: float | None = None
    called_fwd_ms: float | None = None
    called_bwd_ms: float | None = None
    ps_per_element: float | None = None
    bound_fraction: float | None = None
    max_error: float | None = None
    note: str | None = None

    @property
    def both_ms(self) -> float | None:
        if self.fwd_ms is None or self.bwd_ms is None:
            return None
        return self.fwd_ms + self.bwd_ms


def choose_where(device: str = "auto", precision: str = "auto", backend: str = "auto") -> Where:
    """Resolve device, dtype (auto: bf16 on a GPU, fp32 on a CPU) and scan backend.

    Raises InputError if one of them is not there.
    """
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen) or torch.float32
    return Where(chosen, dtype, resolve_scan_backend(backend, chosen, dtype))


@dataclass(frozen=True)
class ScanBenchmark:
    """limit_s: leave an operator out if one forward and backward would take longer."""

    where: Where
    limit_s: float = math.inf

    @functools.cached_property
    def floors(self) -> Floors | None:
        """The GPU's limits, measured on first use; None on a CPU."""
        return measure_floors(self.where.device)

    def check(self) -> float:
        """Return the worst error on a small shape. Raises WrongResultError."""
        return check_scan(self.where)

    def time_shapes(self, shapes: Sequence[ScanShape]) -> Iterator[ScanRow]:
        """Time the scan alone. Raises WrongResultError at the first shape with a wrong result."""
        for shape in shapes:
            yield self._measure(SCAN, shape)

    def time_operators(
        self, lengths: Sequence[int], *, batch: int, d_inner: int
    ) -> Iterator[ScanRow]:
        """Time all operators, length by length; one that is left out does not come back.

        Raises InputError, at once, unless attention's heads divide d_inner, and as `time_shapes`.
        """
        if d_inner % D_HEAD:
            raise InputError(
                f"--d-inner must be a multiple of {D_HEAD}, the width of a head of attention, got "
                f"{d_inner}; --shape times the scan alone at any width"
            )
        return self._sweep([ScanShape(batch, d_inner, seq_len) for seq_len in lengths])

    def _sweep(self, shapes: Sequence[ScanShape]) -> Iterator[ScanRow]:
        seen: dict[str, list[tuple[int, float]]] = {name: [] for name in OPERATORS}
        for shape in shapes:
            for name in list(seen):
                expected = _expect_seconds(seen[name], shape.seq_len)
                if expected > self.limit_s:
                    text = f"left out from here: a call would take about {expected:,.0f} s"
                    row = self._row(name, shape, note=text)
                else:
                    row = self._measure(name, shape)
                if row.both_ms is None:
                    del seen[name]
                else:
                    seen[name].append((shape.seq_len, row.both_ms / 1e3))
                yield row

    def _row(self, op: str, shape: ScanShape, **found: Any) -> ScanRow:
        dtype = "float32" if op == "fft_convolution" else self.where.dtype_name
        return ScanRow(op=op, dtype=dtype, **asdict(shape), **found)

    def _measure(self, op: str, shape: ScanShape) -> ScanRow:
        if (text := self._too_large(op, shape)) is not None:
            return self._row(op, shape, note=text)
        note = None
        try:
            times, error = self._time(op, shape)
        except torch.OutOfMemoryError:
            note = "out of memory"
        except RuntimeError as failure:
            if op == SCAN:
                raise
            # The other operators have limits of their own, e.g. cuFFT's.
            note = f"failed: {str(failure).splitlines()[0]}"
        if note is not None:
            # Only now: until its except ended, the exception held on to the tensors.
            torch.cuda.empty_cache()
            return self._row(op, shape, note=note)
        ps = (times["fwd_ms"] + times["bwd_ms"]) * 1e9 / shape.n_elements
        fraction = None
        if op == SCAN and self.floors is not None:
            multiprocessors = n_multiprocessors(self.where.device)
            fraction = scan_bound_ps(shape, self.where.dtype, self.floors, multiprocessors) / ps
        rates = {"ps_per_element": ps, "bound_fraction": fraction, "max_error": error}
        return self._row(op, shape, **times, **rates)

    def _too_large(self, op: str, shape: ScanShape) -> str | None:
        """Estimate memory on a CPU, which would swap or be killed where a GPU raises."""
        if self.where.device.type != "cpu":
            return None
        need = OPERATORS[op].bytes_per_element * shape.n_elements
        free = available_bytes(self.where.device, read_ranks())
        if need <= free:
            return None
        return f"left out: needs about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"

    def _time(self, op: str, shape: ScanShape) -> tuple[dict[str, float], float | None]:
        """Return the times of a row by name, and the scan's error."""
        case, device, error = OPERATORS[op].build(shape, self.where), self.where.device, None
        if op == SCAN:
            error = check_shape(case, case.results(), self.where)
        times = {}
        times["fwd_ms"], times["called_fwd_ms"] = pass_ms(
            lambda _: case.forward(), lambda: None, device
        )
        times["bwd_ms"], times["called_bwd_ms"] = pass_ms(case.backward, case.forward, device)
        return times, error


def _expect_seconds(seen: list[tuple[int, float]], seq_len: int) -> float:
    """Return seconds at a longer length, by the growth of the last two (seq_len, seconds) seen."""
    if not seen:
        return 0.0
    last, seconds = seen[-1]
    power = 1.0
    if len(seen) > 1:
        short, before = seen[-2]
        power = math.log(seconds / before) / math.log(last / short)
    # At least linear, at most quadratic: when caches overflow, one doubling looks like more.
    return seconds * (seq_len / last) ** min(2.0, max(1.0, power))
