"""`dnamamba bench scan`."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dnamamba.bench.shapes import ScanShape, doubled_lengths
from dnamamba.cli.bench import DEVICE, JSON, precision_option
from dnamamba.cli.options import FILE, SIZE, Parsed, apply_options, typed_options

if TYPE_CHECKING:
    from dnamamba.bench.scan import ScanBenchmark, ScanRow

# What describes the sweep, which --shape takes the place of.
_SWEEP = {"min_len", "max_len", "d_inner", "batch", "limit_s", "plot"}


def sweep_options(command: Any) -> Any:
    """Which lengths, how wide, and how long it may take."""
    options = [
        click.option(
            "--min-len", type=SIZE, default="512", show_default=True, help="Shortest sequence."
        ),
        click.option("--max-len", type=SIZE, help="Longest. [default: 1M on a GPU, 32k on a CPU]"),
        click.option(
            "--d-inner",
            type=click.IntRange(min=1),
            default=1024,
            show_default=True,
            help="Channels; for attention heads of 64.",
        ),
        click.option(
            "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences."
        ),
        click.option(
            "--limit",
            "limit_s",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            show_default=True,
            metavar="SECONDS",
            help="Leave an operator out where forward and backward would take longer.",
        ),
        click.option("--plot", type=FILE, metavar="FILE", help="Draw the times: .svg or .png."),
    ]
    return apply_options(options, command)


@click.command()
@sweep_options
@click.option(
    "--shape",
    "shapes",
    type=Parsed(ScanShape.parse, "BxDxL"),
    multiple=True,
    metavar="BxDxL",
    help="In place of all these: the scan alone at batch x d_inner x length; may be given again.",
)
@click.option(
    "--backend", default="auto", show_default=True, help="The scan's: auto, cpu, triton, chunked..."
)
@precision_option("--dtype", "Of operands; auto is bf16 on a GPU, fp32 on a CPU.")
@DEVICE
@JSON
@click.pass_context
def scan(ctx: click.Context, **values: Any) -> None:
    """Time the selective scan, causal attention and FFT convolution over sequence length.

    First the scan is compared with its definition in float64, output and every gradient, then again
    at each shape that is timed; exit code 1 where it is wrong. Times are medians of forward and of
    backward for all inputs; on a GPU those of short passes are a CUDA graph's, and --json has those
    of calls from Python too. An error is the largest over the largest entry. On a GPU its copy
    speed and rate of exponentials are measured too, and `bound` is how much of what they allow the
    scan reaches.

    \b
    Examples:
      dnamamba bench scan --plot scan.svg --json scan.json
      dnamamba bench scan --min-len 8k --max-len 128k --backend triton
      dnamamba bench scan --shape 8x512x128k --shape 1x1024x1M

    Lengths read 131072, 450k or 1M; 1k = 1,024 and 1M = 2^20.
    """
    from dnamamba.bench import results, scan_chart
    from dnamamba.bench.scan import ScanBenchmark, choose_where

    _refuse_sweep_with_shapes(ctx)
    results.check_target(values["json_path"], "--json")
    results.check_target(values["plot"], "--plot")
    scan_chart.check_chart_target(values["plot"])
    where = choose_where(values["device"], values["precision"], values["backend"])
    benchmark = ScanBenchmark(where, values["limit_s"])
    timing = _plan(benchmark, values)
    setup = results.describe_setup(where.device)
    click.echo("\n".join(results.announce(setup, where.device)))
    error = benchmark.check()
    click.echo(f"selective scan {where.backend!r} in {where.dtype_name}: worst error {error:.1e}")
    _print_floors(benchmark)
    rows = _print_rows(timing)
    if values["json_path"] is not None:
        floors = None if benchmark.floors is None else asdict(benchmark.floors)
        about = {"backend": where.backend, "floors": floors}
        results.write_results(values["json_path"], setup, rows, **about)
    if values["plot"] is not None:
        scan_chart.write_scan_chart(values["plot"], rows, setup["device"], where)


def _plan(benchmark: "ScanBenchmark", values: dict[str, Any]) -> Iterator["ScanRow"]:
    if values["shapes"]:
        return benchmark.time_shapes(values["shapes"])
    default = 1 << 20 if benchmark.where.device.type == "cuda" else 1 << 15
    lengths = doubled_lengths(values["min_len"], values["max_len"] or default)
    return benchmark.time_operators(lengths, batch=values["batch"], d_inner=values["d_inner"])


def _print_floors(benchmark: "ScanBenchmark") -> None:
    floors = benchmark.floors
    if floors is not None:
        click.echo(
            f"a copy reads and writes {floors.copy_tb_per_s:.2f} TB/s; "
            f"{floors.exp2_per_s:.2e} exponentials a second"
        )


def _print_rows(timing: Iterator["ScanRow"]) -> list["ScanRow"]:
    """Each line when it is there."""
    click.echo(
        f"\n{'batch x channels x length':>25}  {'operator':15} {'forward ms':>12} "
        f"{'backward ms':>12} {'ps/element':>11} {'error':>8} {'bound':>6}"
    )
    rows = []
    for row in timing:
        click.echo(_describe(row))
        rows.append(row)
    return rows


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


def _refuse_sweep_with_shapes(ctx: click.Context) -> None:
    given = [flag for name, flag in typed_options().items() if name in _SWEEP]
    if ctx.params["shapes"] and given:
        raise click.UsageError(
            f"--shape times the scan alone at shapes of its own: leave out {given[0]}"
        )
