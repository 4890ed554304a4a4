"""`dnamamba bench scan`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnamamba.bench.shapes import ScanShape, doubled_lengths
from dnamamba.cli.bench import JSON, precision_option, print_rows
from dnamamba.cli.options import (
    DEVICE,
    Parsed,
    file_option,
    grouped,
    option,
    size_option,
    typed_options,
    whole,
)

if TYPE_CHECKING:
    from dnamamba.bench.scan import ScanBenchmark, ScanRow


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Lengths to time, width, and time limit of an operator."""

    min_len: int
    max_len: int | None
    d_inner: int
    batch: int
    limit_s: float
    plot: Path | None


sweep_options = grouped(
    "sweep",
    Sweep,
    [
        size_option("--min-len", "Shortest sequence.", default="512"),
        size_option("--max-len", "Longest. [default: 1M on a GPU, 32k on a CPU]"),
        whole("--d-inner", "Channels; for attention heads of 64.", default=1024),
        whole("--batch", "Sequences.", default=1),
        option(
            "--limit limit_s",
            "Leave an operator out if forward and backward would take longer.",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            metavar="SECONDS",
        ),
        file_option("--plot", "Draw the times: .svg or .png.", metavar="FILE"),
    ],
)


@click.command()
@sweep_options
@option(
    "--shape shapes",
    "Instead of a sweep: the scan alone at batch x d_inner x length; may be given again.",
    type=Parsed(ScanShape.parse, "BxDxL"),
    multiple=True,
    metavar="BxDxL",
)
@option("--backend", "The scan's: auto, cpu, triton, chunked...", default="auto")
@precision_option("--dtype", "Precision of the operands; auto is bf16 on a GPU, fp32 on a CPU.")
@DEVICE
@JSON
def scan(
    *,
    sweep: Sweep,
    shapes: tuple[ScanShape, ...],
    backend: str,
    precision: str,
    device: str,
    json_path: Path | None,
) -> None:
    """Time the selective scan, causal attention and FFT convolution over sequence length.

    Compares the scan with its definition in float64, output and every gradient, first and at each
    shape; exits with 1 if it is wrong. Times are medians of forward and of backward for all inputs;
    on a GPU those of short passes are a CUDA graph's, and --json has those of calls from Python
    too. An error is the largest over the largest entry. On a GPU `bound` is the least time by its
    copy speed and rate of exponentials, both measured, over the scan's.

    \b
    Examples:
      dnamamba bench scan --plot scan.svg --json scan.json
      dnamamba bench scan --min-len 8k --max-len 128k --backend triton
      dnamamba bench scan --shape 8x512x128k --shape 1x1024x1M

    Lengths read 131072, 450k or 1M; 1k = 1,024 and 1M = 2^20.
    """
    from dnamamba.bench import results, scan_chart
    from dnamamba.bench.scan import ScanBenchmark, choose_where

    if shapes:
        _refuse_sweep()
    results.check_target(json_path, "--json")
    results.check_target(sweep.plot, "--plot")
    scan_chart.check_chart_target(sweep.plot)
    where = choose_where(device, precision, backend)
    benchmark = ScanBenchmark(where, sweep.limit_s)
    timing = _plan(benchmark, shapes, sweep)
    setup = results.describe_setup(where.device)
    click.echo("\n".join(results.announce(setup, where.device)))
    error = benchmark.check()
    click.echo(f"selective scan {where.backend!r} in {where.dtype_name}: worst error {error:.1e}")
    if (floors := benchmark.floors) is not None:
        click.echo(
            f"a copy reads and writes {floors.copy_tb_per_s:.2f} TB/s; "
            f"{floors.exp2_per_s:.2e} exponentials a second"
        )
    rows = print_rows(_HEADER, timing, _describe)
    if json_path is not None:
        about = {"backend": where.backend, "floors": None if floors is None else asdict(floors)}
        results.write_results(json_path, setup, rows, **about)
    if sweep.plot is not None:
        scan_chart.write_scan_chart(sweep.plot, rows, setup["device"], where)


def _plan(
    benchmark: "ScanBenchmark", shapes: Sequence[ScanShape], sweep: Sweep
) -> Iterator["ScanRow"]:
    if shapes:
        return benchmark.time_shapes(shapes)
    default = 1 << 20 if benchmark.where.device.type == "cuda" else 1 << 15
    lengths = doubled_lengths(sweep.min_len, sweep.max_len or default)
    return benchmark.time_operators(lengths, batch=sweep.batch, d_inner=sweep.d_inner)


_HEADER = (
    f"{'batch x channels x length':>25}  {'operator':15} {'forward ms':>12} "
    f"{'backward ms':>12} {'ps/element':>11} {'error':>8} {'bound':>6}"
)


def _describe(row: "ScanRow") -> str:
    from dnamamba.bench.operators import OPERATORS

    shape = str(ScanShape(row.batch, row.d_inner, row.seq_len))
    start = f"{shape:>25}  {OPERATORS[row.op].label:15}"
    if row.fwd_ms is None:
        return f"{start} {row.note}"
    fraction = "-" if row.bound_fraction is None else f"{row.bound_fraction:.0%}"
    error = "-" if row.max_error is None else f"{row.max_error:.1e}"
    return (
        f"{start} {row.fwd_ms:>12,.3f} {row.bwd_ms:>12,.3f} {row.ps_per_element:>11,.1f} "
        f"{error:>8} {fraction:>6}"
    )


def _refuse_sweep() -> None:
    """Raise UsageError for options of the sweep beside --shape."""
    for name, flag in typed_options().items():
        if name in {field.name for field in fields(Sweep)}:
            raise click.UsageError(
                f"--shape times the scan alone at shapes of its own: leave out {flag}"
            )
