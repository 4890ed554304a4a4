"""Settings of a classifier's training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dnamamba.classification.loss import ClassWeights
from dnamamba.configs import from_dict
from dnamamba.data.labelled.config import RecordsConfig, RegionsConfig, TableConfig
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles
from dnamamba.data_prep.demo.simulate import cached_demo_genomes, is_demo_genome
from dnamamba.errors import InputError
from dnamamba.models import HyenaConfig, ModelConfig
from dnamamba.models.classifier import Pool
from dnamamba.training.config import Recipe
from dnamamba.training.run_folder import RunFolder

Tune = Literal["full", "head", "probe"]
LabelSource = SpeciesConfig | TableConfig | RecordsConfig | RegionsConfig


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Recipe):
    """The recipe of a classifier. Defaults are the Mamba paper's for great apes (E.3.4): 10 epochs
    of 1,024 steps of 64 windows, half of them warm-up, cosine to 1e-6."""

    epochs: int | None = 10
    """Passes over the training examples, of species over as many windows as make an epoch; None:
    max_steps says how long."""

    max_steps: int = 10 * 1024
    """Optimiser steps in all; filled in where epochs are given."""

    learning_rate: float = 1e-4
    """Peak of the schedule; the paper's for Mamba, 4e-5 for Hyena."""

    min_learning_rate: float = 1e-6
    """Where the cosine ends."""

    warmup_fraction: float = 0.5
    """Share of the steps in linear warm-up."""

    eval_every: int = 0
    """Steps between validations, 0 for one after each epoch; there is one at the start and one at
    the end besides."""

    batch_size: int = 64
    """Sequences in an optimiser step, over all ranks and micro-batches."""

    tune: Tune = "full"
    """`full`: all weights learn. `head`: the head alone, by the same steps. `probe`: the head
    alone, fitted by scikit-learn on what the model makes of each sequence, without steps."""

    keep: Literal["best", "last"] = "best"
    """The model that is kept: of the best validation, or of the last step."""

    patience: int | None = None
    """Validations in a row without a better one after which training ends; None: never."""

    eval_examples: int | None = None
    """Sequences of a validation, always the same ones; None: all."""

    class_weights: ClassWeights = "none"
    """`balanced`: each class counts the same in the loss, however many examples it has."""

    rc: Literal["none", "average"] | None = None
    """`average`: validation and test are judged by the mean of what the model says of both strands.
    None: so for species, whose strand means nothing, and none for others."""

    pool: Pool | None = None
    """What stands for a sequence (HeadConfig.pool); None: what fits the model."""

    extend_filters: bool = False
    """Take sequences longer than a Hyena's filters, which end at l_max (HyenaConfig.beyond)."""

    dropout: float = 0.0
    """Share of the channels that are hidden from the head in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "epochs", "patience", "eval_examples"):
            if getattr(self, name) is not None:
                self._check_at_least_one(name)
        if self.eval_every < 0:
            raise InputError(f"eval_every is 0 or more, got {self.eval_every}")
        for name, choices in (
            ("tune", get_args(Tune)),
            ("keep", ("best", "last")),
            ("rc", ("none", "average", None)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is one of {choices}, got {getattr(self, name)!r}")
        if self.patience is not None and self.keep == "last":
            raise InputError(
                "patience waits for a better validation, so the best model is kept: leave out "
                "keep 'last' or patience"
            )

    def for_examples(self, n_examples: int) -> "FineTuneConfig":
        """With steps counted: n_examples are those of an epoch."""
        per_epoch = -(-n_examples // self.batch_size)
        max_steps = self.max_steps if self.epochs is None else self.epochs * per_epoch
        eval_every = self.eval_every or min(per_epoch, max_steps)
        return replace(self, max_steps=max_steps, eval_every=eval_every)


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig:
    """Everything that decides the result of a run."""

    model: str
    """A run or model folder, a repository on the Hub, or a preset for a model without training."""

    data: LabelSource
    """Labelled sequences and what of them is held out."""

    train: FineTuneConfig
    """Recipe."""

    architecture: ModelConfig | None = None
    """The model's, filled in by the run."""


def default_learning_rate(model: ModelConfig, tune: Tune) -> float:
    """The paper's for full fine-tuning, by kind of mixer (E.3.4); ten times as much for a head."""
    full = 4e-5 if isinstance(model.mixer, HyenaConfig) else 1e-4
    return full if tune == "full" else 10 * full


def demo_species() -> tuple[SpeciesFiles, ...]:
    """The simulated great apes with many repeats of their own, made if they are not there yet."""
    genomes = cached_demo_genomes("demo-apes")
    return tuple(SpeciesFiles(label, (str(path),)) for label, path in genomes.items())


def describe_source(data: LabelSource) -> str:
    """Where labelled sequences come from, for people."""
    if isinstance(data, SpeciesConfig):
        files = [Path(name) for entry in data.species for name in entry.files]
        if all(map(is_demo_genome, files)):
            return "windows of simulated great-ape demo genomes (not real sequence)"
        return f"windows of {', '.join(data.labels)} (split by {data.split})"
    return ", ".join(Path(name).name for name in _source_names(data))


def _source_names(data: TableConfig | RecordsConfig | RegionsConfig) -> list[str]:
    if isinstance(data, TableConfig):
        return [name for name in (data.train, data.valid, data.test) if name is not None]
    if isinstance(data, RecordsConfig):
        return [name for entry in data.records for name in entry.files]
    return [data.regions, *data.genome]


def read_classify_config(run: RunFolder) -> ClassifyConfig:
    """A run's settings. Raises InputError for a run of something else, or of another format."""
    saved = run.read_json("config")
    version, purpose = saved.pop("format_version", None), saved.pop("purpose", "pretrain")
    if version != 1:
        raise InputError(f"{run.path} has config format_version {version}, this dnamamba reads 1")
    if purpose != "classify":
        raise InputError(
            f"{run.path} is a run of `dnamamba {purpose}`, not of `dnamamba classify train`; give "
            f"it as MODEL to classify with it, or continue it with `dnamamba {purpose} --resume`"
        )
    return from_dict(ClassifyConfig, saved)
