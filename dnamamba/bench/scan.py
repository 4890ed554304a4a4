"""Times of the selective scan beside attention and FFT convolution, and of the scan alone."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dnamamba.bench.checks import check_scan, check_shape
from dnamamba.bench.floors import Floors, measure_floors, n_multiprocessors, scan_bound_ps
from dnamamba.bench.operators import D_HEAD, OPERATORS, SCAN, Case, Where, resolve_scan_backend
from dnamamba.bench.shapes import ScanShape
from dnamamba.bench.timing import pass_ms
from dnamamba.errors import InputError
from dnamamba.runtime import available_bytes, choose_device, choose_precision, read_ranks


@dataclass(frozen=True, kw_only=True)
class ScanRow:
    """One operator at one shape. Times are medians in milliseconds, None where left out.

    fwd_ms and bwd_ms are the GPU's work, launched by a CUDA graph where it is short.
    """

    op: str
    """`selective_scan`, `attention` or `fft_convolution`."""

    batch: int
    d_inner: int
    seq_len: int
    dtype: str
    """Of the operands; `float32` for the FFT."""

    fwd_ms: float | None = None
    bwd_ms: float | None = None
    called_fwd_ms: float | None = None
    """As called from Python: longer where the launches take longer than the work."""

    called_bwd_ms: float | None = None
    ps_per_element: float | None = None
    """Forward and backward, for each of batch x d_inner x seq_len."""

    bound_fraction: float | None = None
    """The scan's least time by the GPU's floors over its time; None on a CPU."""

    max_error: float | None = None
    """The scan's at this shape, against float64; see checks.py."""

    note: str | None = None
    """Why there are no times."""

    @property
    def both_ms(self) -> float | None:
        if self.fwd_ms is None or self.bwd_ms is None:
            return None
        return self.fwd_ms + self.bwd_ms


def choose_where(device: str = "auto", precision: str = "auto", backend: str = "auto") -> Where:
    """Device, dtype (bf16 on a GPU, fp32 on a CPU) and scan backend.

    Raises InputError where one of them is not there.
    """
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen) or torch.float32
    return Where(chosen, dtype, resolve_scan_backend(backend, chosen, dtype))


@dataclass(frozen=True)
class ScanBenchmark:
    """limit_s: an operator is left out where forward and backward, once, would take longer."""

    where: Where
    limit_s: float = math.inf

    @functools.cached_property
    def floors(self) -> Floors | None:
        """What the GPU allows, measured on first use; None on a CPU."""
        return measure_floors(self.where.device)

    def check(self) -> float:
        """The worst error on a small shape. Raises WrongResultError; ask before any time."""
        return check_scan(self.where)

    def time_shapes(self, shapes: Sequence[ScanShape]) -> Iterator[ScanRow]:
        """The scan alone. Raises WrongResultError at the first shape where it is wrong."""
        for shape in shapes:
            yield self._measure(SCAN, shape)

    def time_operators(
        self, lengths: Sequence[int], *, batch: int, d_inner: int
    ) -> Iterator[ScanRow]:
        """All operators, length by length; one that is left out once does not come back.

        Raises InputError, at once, where attention has no heads of that width, and as
        `time_shapes`.
        """
        if d_inner % D_HEAD:
            raise InputError(
                f"--d-inner is a multiple of {D_HEAD}, the width of a head of attention, got "
                f"{d_inner}; --shape times the scan alone at any width"
            )
        return self._sweep([ScanShape(batch, d_inner, seq_len) for seq_len in lengths])

    def _sweep(self, shapes: Sequence[ScanShape]) -> Iterator[ScanRow]:
        pace = {name: _Pace() for name in OPERATORS}
        for shape in shapes:
            for name in list(pace):
                expected = pace[name].expect(shape.seq_len)
                if expected > self.limit_s:
                    text = f"left out from here: a call would take about {expected:,.0f} s"
                    row = self._row(name, shape, note=text)
                else:
                    row = self._measure(name, shape)
                if row.both_ms is None:
                    del pace[name]
                else:
                    pace[name].seen.append((shape.seq_len, row.both_ms / 1e3))
                yield row

    def _row(self, op: str, shape: ScanShape, **found: Any) -> ScanRow:
        dtype = "float32" if op == "fft_convolution" else self.where.dtype_name
        row = ScanRow(
            op=op, batch=shape.batch, d_inner=shape.d_inner, seq_len=shape.seq_len, dtype=dtype
        )
        return replace(row, **found)

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
            # What ours is compared with has limits of its own, e.g. cuFFT's.
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
        return self._row(
            op,
            shape,
            **times,
            ps_per_element=ps,
            bound_fraction=fraction,
            max_error=error,
        )

    def _too_large(self, op: str, shape: ScanShape) -> str | None:
        """On a CPU, which would swap or be killed where a GPU says so: an estimate."""
        if self.where.device.type != "cpu":
            return None
        need = OPERATORS[op].bytes_per_element * shape.n_elements
        free = available_bytes(self.where.device, read_ranks())
        if need <= free:
            return None
        return f"left out: needs about {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"

    def _time(self, op: str, shape: ScanShape) -> tuple[dict[str, float], float | None]:
        """The times of a row by name, and the scan's error."""
        case = OPERATORS[op].build(shape, self.where)
        error = self._check(case) if op == SCAN else None
        device = self.where.device
        fwd_ms, called_fwd_ms = pass_ms(lambda _: case.forward(), lambda: None, device)
        bwd_ms, called_bwd_ms = pass_ms(case.backward, case.forward, device)
        times = {
            "fwd_ms": fwd_ms,
            "bwd_ms": bwd_ms,
            "called_fwd_ms": called_fwd_ms,
            "called_bwd_ms": called_bwd_ms,
        }
        return times, error

    def _check(self, case: Case) -> float:
        out = case.forward()
        gradients = {f"d_{name}": one for name, one in case.backward(out).items()}
        found = {"out": out.detach(), **gradients}
        return check_shape(case.inputs, case.d_out, found, self.where)


@dataclass
class _Pace:
    """How an operator's time grows. seen: (seq_len, seconds) so far."""

    seen: list[tuple[int, float]] = field(default_factory=list)

    def expect(self, seq_len: int) -> float:
        """Seconds at a longer length: by the growth of the last two, at least linear."""
        if not self.seen:
            return 0.0
        power = 1.0
        if len(self.seen) > 1:
            (short, before), (long, after) = self.seen[-2:]
            power = math.log(after / before) / math.log(long / short)
        last, seconds = self.seen[-1]
        # Never more than quadratic: where caches overflow, one doubling looks like more.
        return seconds * (seq_len / last) ** min(2.0, max(1.0, power))
