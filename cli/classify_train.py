"""`dnamamba classify train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.label_options import LabelOptions, source_options
from dnamamba.cli.options import (
    RunTarget,
    choice,
    grouped,
    number,
    optimiser_options,
    refuse_typed,
    repeat_options,
    run_options,
    run_training,
    switch,
    target_options,
    typed_values,
    whole,
)

if TYPE_CHECKING:
    from dnamamba.training.config import RunOptions

RECIPE = [
    choice(
        "--tune full|head|probe",
        "All weights; the head alone; or the head alone, fitted without steps.",
        default="full",
    ),
    choice(
        "--pool last|mean|max|first",
        "How a sequence becomes a vector. [default: last; mean for models that read both ways]",
    ),
    switch("--extend-filters", "Hyena: allow sequences longer than its filters, which end there."),
    whole("--epochs", "Passes over the training examples. [default: 10]"),
    whole("--steps max_steps", "Optimiser steps in all, in place of --epochs."),
    whole("--batch-size", "Sequences in a step. [default: 64; of species on a CPU 16]"),
    number("--learning-rate", "Peak. [default: 1e-4, Hyena 4e-5; ten times for a head]"),
    *optimiser_options(min_learning_rate=1e-6, warmup_fraction=0.5),
    number("--dropout", "Share of channels hidden from the head.", default=0.0),
    choice(
        "--rc none|average",
        "average: evaluate the mean of both strands. [default: average for species]",
    ),
    choice(
        "--class-weights none|balanced", "balanced: each class counts the same.", default="none"
    ),
    whole("--eval-every", "Steps between validations. [default: an epoch]"),
    whole("--eval-examples", "Sequences of a validation. [default: all]"),
    whole("--patience", "Stop after so many validations without a better one."),
    choice("--keep best|last", "Model kept: of the best validation, or last.", default="best"),
    whole("--save-every", "Steps between checkpoints.", default=500),
    whole("--log-every", "Steps between metrics rows.", default=10),
    *repeat_options(seeded="Weights of the head."),
]
"""Settings of FineTuneConfig, by its names."""


@click.command()
@click.argument("model", required=False)
@target_options("runs/classify-<data>-<model>")
@source_options
@grouped("recipe", typed_values, RECIPE)
@run_options
def train(
    *,
    model: str | None,
    target: RunTarget,
    source: LabelOptions,
    recipe: dict[str, Any],
    options: "RunOptions",
) -> None:
    """Fine-tune a pretrained model to tell labelled sequences apart.

    MODEL: a run of `dnamamba pretrain`, a model's folder or repository on the Hub, or a preset
    (`dnamamba pretrain --model list`) for a model without pretraining. A run of `classify train`
    is trained further, say at longer windows, and keeps its head if the labels are the same.
    Without --species, --table, --records or --regions it learns the simulated great apes.

    \b
    Examples:
      dnamamba classify train runs/demo
      dnamamba classify train runs/apes --species human=human.h5 --species gorilla=gorilla.h5
      dnamamba classify train runs/demo --table train.csv --test-table test.csv
      dnamamba classify train runs/demo --regions enhancers.bed --genome hg38.h5 --tune probe
      dnamamba classify train --resume runs/classify-demo-demo

    Every validation stands beside logistic regression on k-mer frequencies of the same examples.
    The test split is evaluated once, at the end, and nothing is chosen by it. The recipe is the
    Mamba paper's for great apes (E.3.4) by default.
    """
    from dnamamba.classification.config import ClassifyConfig
    from dnamamba.classification.run import Classification

    def configure() -> tuple[ClassifyConfig, Path]:
        if model is None:
            raise click.UsageError("name a MODEL: a run of `dnamamba pretrain`, or a preset")
        if recipe.get("tune") == "probe":
            refuse_typed(_OF_STEPS, "has no meaning for a probe, which is fitted without steps")
        if "epochs" in recipe and "max_steps" in recipe:
            raise click.UsageError("--epochs and --steps both say how long: give one")
        config = ClassifyConfig.with_defaults(
            model,
            source.config(),
            device=options.device,
            steps_per_epoch=source.steps_per_epoch,
            **recipe,
        )
        return config, _default_out(config.model, source)

    run_training(Classification, target, options, configure)


_OF_STEPS = (
    *("epochs", "max_steps", "learning_rate", "min_learning_rate", "warmup_fraction"),
    *("weight_decay", "grad_clip", "dropout", "eval_every", "eval_examples", "patience", "keep"),
    *("save_every", "log_every"),
)


def _default_out(model: str, source: LabelOptions) -> Path:
    from dnamamba.models.loading import name_of_model

    data = source.named or "demo"
    if named := source.table or source.regions:
        data = named.name
        for ending in (".gz", ".csv", ".tsv", ".parquet", ".bed"):
            data = data.removesuffix(ending)
    return Path("runs") / f"classify-{data}-{name_of_model(model)}"
