"""`dnamamba bench train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.bench.shapes import TrainingRun
from dnamamba.cli.bench import JSON, precision_option, print_rows
from dnamamba.cli.options import DEVICE, MICRO_BATCH, RECOMPUTE, Parsed, option, whole

if TYPE_CHECKING:
    from dnamamba.bench.training import TrainingRow


@click.command()
@option(
    "--run runs",
    "Model and windows x length, e.g. mamba-7m:4x128k; may be given again. "
    "[default: 1.4M and 7M parameters up to a million bases on a GPU, small ones on a CPU]",
    type=Parsed(TrainingRun.parse, "MODEL:BxL"),
    multiple=True,
    metavar="MODEL:BxL",
)
@whole("--steps n_steps", "Steps to take the median of, after three of warm-up.", default=5)
@MICRO_BATCH
@RECOMPUTE
@precision_option("--precision", "auto is bf16 autocast on GPUs; parameters stay fp32.")
@DEVICE
@JSON
def train(
    *,
    runs: tuple[TrainingRun, ...],
    n_steps: int,
    micro_batch: int | None,
    recompute: Any,
    precision: str,
    device: str,
    json_path: Path | None,
) -> None:
    """Time whole training steps: forward, backward, clipping and AdamW, on random bases.

    Objective, optimizer, plan and step are those of `dnamamba pretrain`. Checks the scan against
    float64 first. Reports a run that does not fit in memory and goes on with the next.

    \b
    Examples:
      dnamamba bench train
      dnamamba bench train --run mamba-7m:4x128k --run mamba-7m:1x1M --json train.json

    Models are those of `dnamamba pretrain --model list`.
    """
    from dnamamba.bench import results
    from dnamamba.bench.training import TrainingBenchmark, default_runs
    from dnamamba.kernels.backend import describe_choices
    from dnamamba.runtime import open_compute

    results.check_target(json_path, "--json")
    with open_compute(device, precision) as compute:
        benchmark = TrainingBenchmark(compute, n_steps, micro_batch, recompute)
        timing = benchmark.time_runs(runs or default_runs(compute.device.type))
        setup = results.describe_setup(compute.device)
        click.echo("\n".join(results.announce(setup, compute.device)))
        click.echo(f"selective scan: worst error {benchmark.check():.1e}")
        header = f"{'model':12} {'batch x length':>18} {'tokens/s':>12} {'peak GiB':>9}"
        rows = print_rows(header, timing, _describe)
        if json_path is not None:
            results.write_results(json_path, setup, rows, kernels=describe_choices())


def _describe(row: "TrainingRow") -> str:
    shape = f"{row.batch:,} x {row.seq_len:,}"
    start = f"{row.model:12} {shape:>18}"
    if row.tokens_per_s is None:
        return f"{start} {row.note}"
    from dnamamba.models.recompute import DESCRIPTIONS

    remarks = [] if row.recompute in (None, "nothing") else [DESCRIPTIONS[row.recompute]]
    if row.micro_batch != row.batch:
        remarks.append(f"{row.micro_batch} window(s) a pass")
    line = f"{start} {row.tokens_per_s:>12,.0f} {row.peak_gib:>9.2f}  {', '.join(remarks)}"
    return line.rstrip()
