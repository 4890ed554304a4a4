"""Settings of a classifier's training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dnamamba.classification.loss import ClassWeights
from dnamamba.configs import require_choice
from dnamamba.data.labelled.config import RecordsConfig, RegionsConfig, TableConfig
from dnamamba.data.species.dataset import PAPER_EPOCH, SpeciesConfig, SpeciesFiles, warmup_lengths
from dnamamba.data_prep.demo.simulate import cached_demo_genomes, is_demo_genome
from dnamamba.errors import InputError
from dnamamba.models import ModelConfig
from dnamamba.models.classifier import Pool
from dnamamba.runtime import choose_device
from dnamamba.training.config import Recipe
from dnamamba.training.run_folder import RunFolder

Tune = Literal["full", "head", "probe"]
Keep = Literal["best", "last"]
Rc = Literal["none", "average"]
LabelSource = SpeciesConfig | TableConfig | RecordsConfig | RegionsConfig


@dataclass(frozen=True, kw_only=True)
class FineTuneConfig(Recipe):
    """Recipe of a classifier, by default the Mamba paper's for great apes (E.3.4).

    learning_rate None: see `default_learning_rate`. eval_every 0: an epoch.
    """

    epochs: int | None = 10
    """Passes over the training examples (species: epoch_size windows); None: use max_steps."""

    max_steps: int = 10 * 1024
    """Optimiser steps; computed from epochs if given."""

    min_learning_rate: float = 1e-6
    warmup_fraction: float = 0.5

    batch_size: int = 64
    """Sequences in an optimiser step, over all ranks and micro-batches."""

    tune: Tune = "full"
    """`full`: all weights learn. `head`: the head alone. `probe`: the head alone, fitted to the
    embeddings of the sequences by scikit-learn, without steps."""

    keep: Keep = "best"
    """The model to keep: of the best validation, or of the last step."""

    patience: int | None = None
    """Validations in a row without a better one that end the training; None: never."""

    eval_examples: int | None = None
    """Sequences of a validation, always the same ones; None: all."""

    class_weights: ClassWeights = "none"
    """`balanced`: each class has the same weight in the loss, whatever its number of examples."""

    rc: Rc | None = None
    """`average`: evaluate the mean prediction of both strands. None: average for species, whose
    strand has no meaning, else none."""

    pool: Pool | None = None
    """How a sequence becomes one vector (HeadConfig.pool); None: the model's default."""

    extend_filters: bool = False
    """Allow sequences longer than a Hyena's filters, which end at l_max (HyenaConfig.beyond)."""

    dropout: float = 0.0
    """Share of channels hidden from the head in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("batch_size", "epochs", "patience", "eval_examples")
        require_choice("tune", self.tune, Tune)
        require_choice("keep", self.keep, Keep)
        if self.rc is not None:
            require_choice("rc", self.rc, Rc)
        if self.patience is not None and self.keep == "last":
            raise InputError(
                "patience waits for a better validation, so the best model is kept: leave out "
                "keep 'last' or patience"
            )

    def for_examples(self, n_examples: int) -> "FineTuneConfig":
        """Return a copy with max_steps and eval_every resolved. n_examples: of an epoch."""
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

    architecture: ModelConfig | None = None
    """The model's; the run fills it in."""

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
        """Return the settings of `dnamamba classify train`.

        data: default `demo_apes_config()`. An epoch of species is steps_per_epoch batches, by
            default 1,024 of 64 windows on a GPU, 64 of 16 on a CPU.
            A number of windows that data names stays.
        recipe: settings of FineTuneConfig; max_steps takes the place of epochs.
        Raises InputError for both of these, and for steps_per_epoch without species.
        """
        data = data or demo_apes_config()
        on_gpu = choose_device(device).type == "cuda"
        has_steps = recipe.get("max_steps") is not None
        if has_steps and recipe.setdefault("epochs", None) is not None:
            raise InputError("give max_steps or epochs, not both")
        if isinstance(data, SpeciesConfig):
            batch_size = recipe.setdefault("batch_size", 64 if on_gpu else 16)
            if steps_per_epoch is not None or data.epoch_size == PAPER_EPOCH:
                steps = steps_per_epoch or (1024 if on_gpu else 64)
                data = replace(data, epoch_size=steps * batch_size)
        elif steps_per_epoch is not None:
            raise InputError("steps_per_epoch must come with species: other data set the epoch")
        path = Path(model)
        source = str(path.resolve()) if path.exists() else str(model)
        return cls(model=source, data=data, train=FineTuneConfig(**recipe))


def default_learning_rate(model: ModelConfig, tune: Tune) -> float:
    """Return the paper's peak (E.3.4): 4e-5 for Hyena, else 1e-4; ten times that for a head."""
    full = min(mixer.fine_tuning_learning_rate for mixer in model.mixers)
    return full if tune == "full" else 10 * full


def demo_apes_config(seq_len: int = 1024) -> SpeciesConfig:
    """Make simulated great apes; chr5 and chr4 are held out, as in pretraining."""
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
    """Describe the source of labelled sequences."""
    if isinstance(data, SpeciesConfig):
        files = [Path(name) for entry in data.species for name in entry.files]
        if all(map(is_demo_genome, files)):
            return "windows of simulated great-ape demo genomes (not real sequence)"
        return f"windows of {', '.join(data.labels)} (split by {data.split})"
    if isinstance(data, TableConfig):
        names = [name for name in (data.train, data.valid, data.test) if name is not None]
    elif isinstance(data, RecordsConfig):
        names = [name for entry in data.records for name in entry.files]
    else:
        names = [data.regions, *data.genome]
    return ", ".join(Path(name).name for name in names)


def read_classify_config(run: RunFolder) -> ClassifyConfig:
    """Read a run's settings. Raises InputError for another kind of run or format."""
    return run.read_config(ClassifyConfig, "classify")
