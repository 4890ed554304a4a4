"""`dnamamba pretrain`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import (
    RunTarget,
    WindowOptions,
    choice,
    grouped,
    integer,
    number,
    optimiser_options,
    option,
    repeat_options,
    run_options,
    run_training,
    size_option,
    switch,
    target_options,
    typed_values,
    whole,
    window_options,
)

if TYPE_CHECKING:
    from dnamamba.training.config import RunOptions

RECIPE = [
    whole("--steps max_steps", "Optimiser steps. [default: 10000 on a GPU, 300 on a CPU]"),
    size_option("--batch-tokens", "Tokens in a step. [default: 1M on a GPU, 8k on a CPU]"),
    number("--learning-rate", "Peak. [default: 2e-3 for Hyena and attention, else 8e-3]"),
    *optimiser_options(min_learning_rate=1e-5, warmup_fraction=0.1),
    number("--softmask-weight", "Weight of lower-case bases in the training loss.", default=1.0),
    integer("--eval-every", "Steps between validations. [default: a tenth of the run]"),
    size_option("--eval-tokens", "Tokens of a validation. [default: 4M on a GPU, 128k on a CPU]"),
    integer("--save-every", "Steps between checkpoints.", default=500),
    integer("--log-every", "Steps between metrics rows.", default=10),
    *repeat_options(seeded="Initial weights."),
]
"""Settings of TrainConfig, by its names."""


@click.command()
@click.argument("data", nargs=-1, metavar="[DATA]...")
@option("--model", "Preset or `list`. [default: mamba-1.4m on a GPU, mamba-demo on a CPU]")
@choice(
    "--objective next-token|masked",
    "What is predicted. [default: the next base; hidden bases by models that read both ways]",
)
@target_options("runs/<data>-<model>-<length>")
@window_options
@switch("--no-rc-augment", "Train on the forward strand only.")
@grouped("recipe", typed_values, RECIPE)
@run_options
def pretrain(
    *,
    data: tuple[str, ...],
    model: str | None,
    objective: Any,
    target: RunTarget,
    windows: WindowOptions,
    no_rc_augment: bool,
    recipe: dict[str, Any],
    options: "RunOptions",
) -> None:
    """Train a DNA language model.

    DATA: FASTA files (plain or BGZF) or stores made by `dnamamba data prepare`; `demo` (default)
    or the larger `demo-apes` are simulated great apes. Several files are several genomes, or parts
    of one.

    \b
    Examples:
      dnamamba pretrain --steps 200
      dnamamba pretrain hg38.h5 --bed hg38-splits.bed --seq-len 1M --model mamba-7m
      dnamamba pretrain genome.fa --dry-run
      dnamamba pretrain --resume runs/genome-mamba-1.4m-1k
      torchrun --nproc-per-node 4 -m dnamamba pretrain hg38.h5

    Lengths read 131072, 1_000_000, 450k or 1M; 1k = 1,024 and 1M = 2^20. Ctrl-C or SIGTERM saves
    and stops; --resume goes on from there.
    """
    from dnamamba.models import preset_names
    from dnamamba.pretraining.config import DEMO, PretrainConfig, default_model
    from dnamamba.pretraining.run import Pretraining

    def configure() -> tuple[PretrainConfig, Path]:
        name, genome = model or default_model(options.device), data or (DEMO,)
        config = PretrainConfig.with_defaults(
            genome,
            model=name,
            data=windows.data_config(genome, rc_augment=not no_rc_augment),
            objective=objective and objective.replace("-", "_"),
            device=options.device,
            **recipe,
        )
        return config, _default_out(config.genome, name, windows.seq_len)

    if model == "list":
        click.echo("\n".join(preset_names()))
    else:
        run_training(Pretraining, target, options, configure)


def _default_out(genome: tuple[str, ...], model_name: str, seq_len: int) -> Path:
    from dnamamba.data_prep.genomes.genome import label_of
    from dnamamba.intervals import format_size

    data = "+".join(label_of(Path(name)) for name in genome[:3])
    return Path("runs") / f"{data}-{model_name}-{format_size(seq_len)}"
