"""`dnamamba classify train`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.label_options import source_config, source_options
from dnamamba.cli.options import (
    FILE,
    apply_options,
    conclude,
    optimiser_options,
    print_plan,
    read_run_options,
    refuse_settings,
    repeat_options,
    run_options,
    typed_options,
)

if TYPE_CHECKING:
    from dnamamba.classification.config import ClassifyConfig


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that become FineTuneConfig; defaults that depend on something else are None here."""
    return apply_options([*_learning_options(), *_evaluation_options()], command)


def _learning_options() -> list[Callable[..., Any]]:
    """What learns, from how much, how fast."""
    number = functools.partial(click.option, type=float, show_default=True)
    whole = functools.partial(click.option, type=click.IntRange(min=1))
    return [
        click.option(
            "--tune",
            type=click.Choice(["full", "head", "probe"]),
            default="full",
            show_default=True,
            help="All weights; the head alone; or the head alone, fitted without steps.",
        ),
        click.option(
            "--pool",
            type=click.Choice(["last", "mean", "max", "first"]),
            help="What stands for a sequence. [default: last; mean for models that read both ways]",
        ),
        click.option(
            "--extend-filters",
            is_flag=True,
            help="Hyena: sequences longer than its filters, which end where they do. [default: "
            "refused]",
        ),
        whole("--epochs", help="Passes over the training examples. [default: 10]"),
        whole(
            "--steps-per-epoch",
            help="Of species, which have no end. [default: 1024 on a GPU, 64 on a CPU]",
        ),
        whole("--steps", "max_steps", help="Optimiser steps in all, in place of --epochs."),
        whole("--batch-size", help="Sequences in a step. [default: 64; of species on a CPU 16]"),
        number("--learning-rate", help="Peak. [default: 1e-4, Hyena 4e-5; ten times for a head]"),
        *optimiser_options(min_learning_rate=1e-6, warmup_fraction=0.5),
        number("--dropout", default=0.0, help="Share of channels hidden from the head."),
        click.option(
            "--rc",
            type=click.Choice(["none", "average"]),
            help="average: judge by the mean of both strands. [default: average for species]",
        ),
        click.option(
            "--class-weights",
            type=click.Choice(["none", "balanced"]),
            default="none",
            show_default=True,
            help="balanced: each class counts the same.",
        ),
    ]


def _evaluation_options() -> list[Callable[..., Any]]:
    """How often it is judged and saved, which model is kept, what is repeated."""
    whole = functools.partial(click.option, type=click.IntRange(min=1))
    return [
        whole("--eval-every", help="Steps between validations. [default: an epoch]"),
        whole("--eval-examples", help="Sequences of a validation. [default: all]"),
        whole("--patience", help="Stop after so many validations without a better one."),
        click.option(
            "--keep",
            type=click.Choice(["best", "last"]),
            default="best",
            show_default=True,
            help="The model kept: of the best validation, or the last.",
        ),
        whole("--save-every", default=500, show_default=True, help="Steps between checkpoints."),
        whole("--log-every", default=10, show_default=True, help="Steps between metrics rows."),
        *repeat_options(seeded="Weights of the head."),
        click.option(
            "--no-length-warmup",
            is_flag=True,
            help="Species: windows of full length from the start, instead of 16k, 32k, ... first.",
        ),
    ]


@click.command()
@click.argument("model", required=False)
@click.option("--out", type=FILE, help="Run folder. [default: runs/classify-<data>-<model>]")
@click.option("--force", is_flag=True, help="Start over in a run folder that exists.")
@click.option("--resume", type=FILE, metavar="RUN", help="Continue a run folder exactly.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@source_options
@recipe_options
@run_options
@click.pass_context
def train(ctx: click.Context, **values: Any) -> None:
    """Fine-tune a pretrained model to tell labelled sequences apart.

    MODEL: a run of `dnamamba pretrain`, a model's folder or repository on the Hub, or a preset
    (`dnamamba pretrain --model list`) for a model without pretraining. A run of `classify train`
    is gone on from, with its head where the labels are the same, say at longer windows. Without
    --species, --table, --records or --regions the species are the simulated great apes.

    \b
    Examples:
      dnamamba classify train runs/demo
      dnamamba classify train runs/apes --species human=human.h5 --species gorilla=gorilla.h5
      dnamamba classify train runs/demo --table train.csv --test-table test.csv
      dnamamba classify train runs/demo --regions enhancers.bed --genome hg38.h5 --tune probe
      dnamamba classify train --resume runs/classify-demo

    Every validation stands beside logistic regression of k-mer frequencies, learned from the same
    examples. The test split is judged once, at the end, and nothing is chosen by it. The recipe is
    the Mamba paper's for great apes (E.3.4) unless told otherwise.
    """
    from dnamamba.classification import run as classification

    options = read_run_options(values)
    if values["resume"] is not None:
        refuse_settings()
        out = values["resume"]
        outcome = classification.resume_classifier(out, options)
    else:
        config = _resolve(values)
        if values["dry_run"]:
            print_plan(classification.plan_classification(config, options))
            return
        out = values["out"] or _default_out(config, values)
        outcome = classification.train_classifier(config, out, options, force=values["force"])
    conclude(ctx, lambda: classification.conclusion(out, outcome), outcome)


def _resolve(values: dict[str, Any]) -> "ClassifyConfig":
    """The settings asked for, with the defaults of device and model filled in."""
    from dnamamba.classification.config import ClassifyConfig, FineTuneConfig, default_learning_rate
    from dnamamba.models.loading import read_language_model
    from dnamamba.runtime import choose_device

    if values["model"] is None:
        raise click.UsageError("name a MODEL: a run of `dnamamba pretrain`, or a preset")
    if values["tune"] == "probe":
        _refuse_steps()
    if values["epochs"] is not None and values["max_steps"] is not None:
        raise click.UsageError("--epochs and --steps both say how long: give one")
    on_gpu = choose_device(values["device"]).type == "cuda"
    is_species = not any(values[name] for name in ("table", "records", "regions"))
    batch_size = values["batch_size"] or (16 if is_species and not on_gpu else 64)
    steps = values["steps_per_epoch"] or (1024 if on_gpu else 64)
    data = source_config(values, epoch_size=steps * batch_size)
    model = read_language_model(values["model"]).config
    recipe = {key: values[key] for key in _RECIPE if values[key] is not None}
    recipe.setdefault("learning_rate", default_learning_rate(model, values["tune"]))
    if values["max_steps"] is not None:
        recipe |= {"max_steps": values["max_steps"], "epochs": None}
    train_config = FineTuneConfig(batch_size=batch_size, **recipe)
    path = Path(values["model"])
    source = str(path.resolve()) if path.exists() else values["model"]
    return ClassifyConfig(model=source, data=data, train=train_config)


_OF_STEPS = (
    *("epochs", "max_steps", "learning_rate", "min_learning_rate", "warmup_fraction"),
    *("weight_decay", "grad_clip", "dropout", "eval_every", "eval_examples", "patience", "keep"),
    *("save_every", "log_every"),
)


def _refuse_steps() -> None:
    """Options of training by steps, which a probe does without."""
    for name, flag in typed_options().items():
        if name in _OF_STEPS:
            raise click.UsageError(
                f"a probe is fitted without steps, so {flag} has no meaning: leave it "
                "out, or use --tune head"
            )


_RECIPE = (
    "tune",
    "pool",
    "extend_filters",
    "epochs",
    "learning_rate",
    "min_learning_rate",
    "warmup_fraction",
    "weight_decay",
    "grad_clip",
    "dropout",
    "class_weights",
    "rc",
    "eval_every",
    "eval_examples",
    "patience",
    "keep",
    "save_every",
    "log_every",
    "seed",
    "precision",
)


def _default_out(config: "ClassifyConfig", values: dict[str, Any]) -> Path:
    from dnamamba.models.loading import name_of_model

    named = values["table"] or values["regions"]
    data = "species"
    if named is not None:
        data = named.name
        for ending in (".gz", ".csv", ".tsv", ".parquet", ".bed"):
            data = data.removesuffix(ending)
    elif values["records"]:
        data = "records"
    elif not values["species"]:
        data = "demo"
    return Path("runs") / f"classify-{data}-{name_of_model(config.model)}"
