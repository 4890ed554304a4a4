"""`dnamamba pretrain`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import (
    FILE,
    SIZE,
    apply_options,
    conclude,
    data_config,
    optimiser_options,
    print_plan,
    read_run_options,
    refuse_settings,
    repeat_options,
    run_options,
    window_options,
)

if TYPE_CHECKING:
    from dnamamba.pretraining.config import PretrainConfig


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that become TrainConfig; defaults that depend on the device are None here."""
    options: list[Callable[..., Any]] = [
        click.option(
            "--steps",
            "max_steps",
            type=click.IntRange(min=1),
            help="Optimiser steps. " + _by_device(0),
        ),
        click.option("--batch-tokens", type=SIZE, help="Tokens in a step. " + _by_device(1)),
        click.option(
            "--learning-rate",
            type=float,
            help="Peak of the schedule. [default: 2e-3 for Hyena and attention, else 8e-3]",
        ),
        *optimiser_options(min_learning_rate=1e-5, warmup_fraction=0.1),
        click.option(
            "--softmask-weight",
            type=float,
            default=1.0,
            show_default=True,
            help="Weight of lower-case (repeat) bases in the training loss.",
        ),
        click.option("--no-rc-augment", is_flag=True, help="Train on the forward strand only."),
        click.option(
            "--eval-every",
            type=int,
            help="Steps between validations. [default: a tenth of the run]",
        ),
        click.option("--eval-tokens", type=SIZE, help="Tokens of a validation. " + _by_device(2)),
        click.option(
            "--save-every", type=int, default=500, show_default=True, help="Between checkpoints."
        ),
        click.option(
            "--log-every", type=int, default=10, show_default=True, help="Between metrics rows."
        ),
        *repeat_options(seeded="Initial weights."),
    ]
    return apply_options(options, command)


def _by_device(row: int) -> str:
    return (
        "[default: 10000 on a GPU, 300 on a CPU]",
        "[default: 1M on a GPU, 8k on a CPU]",
        "[default: 4M on a GPU, 128k on a CPU]",
    )[row]


@click.command()
@click.argument("data", nargs=-1, metavar="[DATA]...")
@click.option(
    "--model",
    help="Preset; `--model list` shows all. [default: mamba-1.4m on a GPU, mamba-demo on a CPU]",
)
@click.option(
    "--objective",
    type=click.Choice(["next-token", "masked"]),
    help="What is predicted. [default: the next base; hidden bases by models that read both ways]",
)
@click.option("--out", type=FILE, help="Run folder. [default: runs/<data>-<model>-<length>]")
@click.option("--force", is_flag=True, help="Start over in a run folder that exists.")
@click.option("--resume", type=FILE, metavar="RUN", help="Continue a run folder exactly.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@window_options
@recipe_options
@run_options
@click.pass_context
def pretrain(ctx: click.Context, **values: Any) -> None:
    """Train a DNA language model.

    DATA: FASTA files (plain or BGZF) or stores made by `dnamamba data prepare`; without any, the
    simulated great-ape demo genomes (`demo`; larger ones are `demo-apes`). Several files are
    several genomes, or parts of one.

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
    from dnamamba.pretraining import run as pretraining

    if values["model"] == "list":
        click.echo("\n".join(preset_names()))
        return
    options = read_run_options(values)
    if values["resume"] is not None:
        refuse_settings()
        out = values["resume"]
        outcome = pretraining.resume(out, options)
    else:
        config, model_name = _resolve(values)
        if values["dry_run"]:
            print_plan(pretraining.plan_pretraining(config, options))
            return
        out = values["out"] or _default_out(config.genome, model_name, values["seq_len"])
        outcome = pretraining.pretrain(config, out, options, force=values["force"])
    conclude(ctx, lambda: pretraining.conclusion(out, outcome), outcome)


def _resolve(values: dict[str, Any]) -> tuple["PretrainConfig", str]:
    """The settings asked for, with the defaults of the device filled in."""
    from dnamamba.models import preset
    from dnamamba.pretraining.config import (
        DEMO,
        PretrainConfig,
        default_settings,
        peak_learning_rate,
    )
    from dnamamba.pretraining.run import is_demo
    from dnamamba.runtime import choose_device
    from dnamamba.training.config import TrainConfig

    defaults = default_settings(choose_device(values["device"]).type, values["seq_len"])
    chosen = {
        key: default if values[key] is None else values[key] for key, default in defaults.items()
    }
    recipe = {key: values[key] for key in _RECIPE if values[key] is not None}
    recipe |= {key: chosen[key] for key in ("max_steps", "batch_tokens", "eval_tokens")}
    recipe.setdefault("eval_every", max(1, chosen["max_steps"] // 10))
    model = preset(chosen["model"], values["seq_len"])
    recipe.setdefault("learning_rate", peak_learning_rate(model))
    names = values["data"] or (DEMO,)
    is_simulated = is_demo(names)
    genome = names if is_simulated else tuple(str(Path(name).resolve()) for name in names)
    config = PretrainConfig(
        genome=genome,
        data=data_config(values, is_demo=is_simulated, rc_augment=not values["no_rc_augment"]),
        model=model,
        train=TrainConfig(**recipe),
        objective=values["objective"] and values["objective"].replace("-", "_"),
    )
    return config, chosen["model"]


_RECIPE = (
    "learning_rate",
    "min_learning_rate",
    "warmup_fraction",
    "weight_decay",
    "grad_clip",
    "softmask_weight",
    "eval_every",
    "save_every",
    "log_every",
    "seed",
    "precision",
)


def _default_out(genome: tuple[str, ...], model_name: str, seq_len: int) -> Path:
    from dnamamba.data_prep.genomes.genome import label_of
    from dnamamba.intervals import format_size

    data = "+".join(label_of(Path(name)) for name in genome[:3])
    return Path("runs") / f"{data}-{model_name}-{format_size(seq_len)}"
