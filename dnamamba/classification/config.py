"""Settings of a classifier's training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dnamamba.classification.loss import ClassWeights
from dnamamba.data.labelled.config import RecordsConfig, RegionsConfig, TableConfig
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles, warmup_lengths
from dnamamba.data_prep.demo.simulate import cached_demo_genomes, is_demo_genome
from dnamamba.errors import InputError
from dnamamba.models import ModelConfig
from dnamamba.models.classifier import Pool
from dnamamba.runtime import choose_device
from dnamamba.training.config import Recipe
from dnamamba.training.run_folder import RunFolder

Tune = Literal["full", "head", "probe"]
LabelSource = SpeciesConfig | TableConfig | RecordsConfig | RegionsConfig


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Recipe):
    """The recipe of a classifier. Defaults are the Mamba paper's for great apes (E.3.4): 10 epochs
    of 1,024 steps of 64 windows, half of them warm-up, cosine to 1e-6. learning_rate None: see
    `default_learning_rate`. eval_every 0: an epoch."""

    epochs: int | None = 10
    """Passes over the training examples; an epoch of species is SpeciesConfig.epoch_size windows.
    None: max_steps decides."""

    max_steps: int = 10 * 1024
    """Optimiser steps in all; computed if epochs are given."""

    min_learning_rate: float = 1e-6
    """Where the cosine ends."""

    warmup_fraction: float = 0.5
    """Share of the steps in linear warm-up."""

    batch_size: int = 64
    """Sequences in an optimiser step, over all ranks and micro-batches."""

    tune: Tune = "full"
    """`full`: all weights learn. `head`: the head alone, by the same steps. `probe`: the head
    alone, fitted by scikit-learn to the model's embeddings of the sequences, without steps."""

    keep: Literal["best", "last"] = "best"
    """The model that is kept: of the best validation, or of the last step."""

    patience: int | None = None
    """Training ends after so many validations in a row without a better one; None: never."""

    eval_examples: int | None = None
    """Sequences of a validation, always the same ones; None: all."""

    class_weights: ClassWeights = "none"
    """`balanced`: each class counts the same in the loss, however many examples it has."""

    rc: Literal["none", "average"] | None = None
    """`average`: validation and test use the mean of the predictions for both strands. None:
    average for species, whose strand means nothing, and none for others."""

    pool: Pool | None = None
    """How a sequence becomes one vector (HeadConfig.pool); None: what fits the model."""

    extend_filters: bool = False
    """Allow sequences longer than a Hyena's filters, which end at l_max (HyenaConfig.beyond)."""

    dropout: float = 0.0
    """Share of the channels that the head does not see in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "epochs", "patience", "eval_examples"):
            if getattr(self, name) is not None:
                self._check_at_least_one(name)
        for name, choices in (
            ("tune", get_args(Tune)),
            ("keep", ("best", "last")),
            ("rc", ("none", "average", None)),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.patience is not None and self.keep == "last":
            raise InputError(
                "patience waits for a better validation, so the best model is kept: leave out "
                "keep 'last' or patience"
            )

    def for_examples(self, n_examples: int) -> "FineTuneConfig":
        """Return a copy with max_steps and eval_every resolved. n_examples: those of an epoch."""
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
    """Labelled sequences, and which are held out."""

    train: FineTuneConfig
    """Recipe."""

    architecture: ModelConfig | None = None
    """The model's, filled in by the run."""

    @classmethod
    def with_defaults(
        cls,
        model: str | Path,
        data: LabelSource | None = None,
        *,
        device: str = "auto",
        steps_per_epoch: int | None = None,
        **recipe: Any,
    ) -> "ClassifyConfig":
        """The settings of `dnamamba classify train`.

        data: default `demo_apes_config()`. An epoch of species is steps_per_epoch batches: by
            default 1,024 batches of 64 windows on a GPU, 64 of 16 on a CPU. Others have batches of
            64, and their examples are an epoch.
        recipe: settings of FineTuneConfig by name; max_steps takes the place of epochs.
        """
        data = data or demo_apes_config()
        on_gpu = choose_device(device).type == "cuda"
        if "max_steps" in recipe:
            recipe.setdefault("epochs", None)
        if isinstance(data, SpeciesConfig):
            batch_size = recipe.setdefault("batch_size", 64 if on_gpu else 16)
            steps = steps_per_epoch or (1024 if on_gpu else 64)
            data = replace(data, epoch_size=steps * batch_size)
        path = Path(model)
        source = str(path.resolve()) if path.exists() else str(model)
        return cls(model=source, data=data, train=FineTuneConfig(**recipe))


def default_learning_rate(model: ModelConfig, tune: Tune) -> float:
    """The paper's peak for full fine-tuning (E.3.4): 4e-5 with Hyena, else 1e-4; ten times as much
    for a head."""
    full = min(mixer.fine_tuning_learning_rate for mixer in model.mixers)
    return full if tune == "full" else 10 * full


def demo_apes_config(seq_len: int = 1024) -> SpeciesConfig:
    """The simulated great apes with many repeats of their own, made if they are not there yet.

    Chromosomes of one name are homologous; those that pretraining holds out are held out here too.
    """
    genomes = cached_demo_genomes("demo-apes")
    return SpeciesConfig(
        species=tuple(SpeciesFiles(label, (str(path),)) for label, path in genomes.items()),
        seq_len=seq_len,
        split="contigs",
        valid_contigs=("chr5",),
        test_contigs=("chr4",),
        warmup_lengths=warmup_lengths(seq_len),
    )


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
    return run.read_config(ClassifyConfig, "classify")
