"""The settings of a pretraining run, and their defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnamamba.configs import require_range
from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig
from dnamamba.data.windows import WindowConfig
from dnamamba.data_prep.demo.simulate import DEMO_GENOMES
from dnamamba.errors import InputError
from dnamamba.models import ModelConfig, preset
from dnamamba.models.streaming import longest_sequence
from dnamamba.pretraining.objectives import ObjectiveName
from dnamamba.runtime import choose_device
from dnamamba.training.config import Recipe
from dnamamba.training.run_folder import RunFolder

DEMO = "demo"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Recipe of pretraining, by default the Mamba paper's for DNA (E.3, E.2).

    learning_rate None: 2e-3 for Hyena and attention, else 8e-3. eval_every 0: a tenth of the run.
    """

    batch_tokens: int = 1 << 20
    """Tokens in an optimiser step, over all ranks and micro-batches."""

    softmask_weight: float = 1.0
    """Weight of soft-masked (lower-case, repeat) bases in the training loss; 1 in validation."""

    eval_tokens: int = 1 << 22
    """Tokens of a validation, in whole windows spread evenly over the split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("batch_tokens", "eval_tokens")
        require_range("softmask_weight", self.softmask_weight, 0, 1)

    def batch_size(self, seq_len: int) -> int:
        """Windows in an optimiser step."""
        if self.batch_tokens % seq_len:
            following = -(-self.batch_tokens // seq_len) * seq_len
            raise InputError(
                f"batch_tokens must be a multiple of seq_len, {seq_len:,}, got "
                f"{self.batch_tokens:,}: the next one is {following:,}"
            )
        return self.batch_tokens // seq_len

    def fill_in(self, model: ModelConfig) -> "TrainConfig":
        """Return a copy with learning_rate and eval_every resolved."""
        eval_every = self.eval_every or max(1, self.max_steps // 10)
        return replace(self.with_peak(peak_learning_rate(model)), eval_every=eval_every)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the result of a run."""

    genome: tuple[str, ...] = (DEMO,)
    """FASTA files and stores, or `demo` or `demo-apes`: simulated great apes."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig

    objective: ObjectiveName | None = None
    """None: next_token for causal models, else masked."""

    def __post_init__(self) -> None:
        seq_len = self.data.windows.seq_len
        self.train.batch_size(seq_len)
        most = longest_sequence(self.model)
        if most is not None and seq_len > most:
            raise InputError(
                f"windows of {seq_len:,} bases are longer than this model's filters (l_max "
                f"{most:,}): use a shorter --seq-len or another --model"
            )

    @classmethod
    def with_defaults(
        cls,
        genome: Sequence[str | Path] = (DEMO,),
        *,
        model: str | None = None,
        data: DataConfig | None = None,
        objective: ObjectiveName | None = None,
        device: str = "auto",
        **recipe: Any,
    ) -> "PretrainConfig":
        """Return the settings of `dnamamba pretrain`: the paper's on a GPU, small ones on a CPU.

        model: a preset; default `default_model(device)`, made for the windows' length.
        data: default windows of 1,024 bases, divided by `default_splits(genome)`.
        recipe: settings of TrainConfig. By default 10,000 steps of 2^20 tokens and 2^22 tokens a
            validation on a GPU; on a CPU 300 steps of 2^13, and 2^17; batches of whole windows.
        Raises InputError for settings that do not fit together.
        """
        names = tuple(map(str, genome))
        data = data or DataConfig(windows=WindowConfig(seq_len=1024), splits=default_splits(names))
        seq_len = data.windows.seq_len
        on_gpu = choose_device(device).type == "cuda"
        batch = 1 << 20 if on_gpu else 1 << 13
        defaults = {
            "max_steps": 10_000 if on_gpu else 300,
            "batch_tokens": max(1, batch // seq_len) * seq_len,
            "eval_tokens": 1 << 22 if on_gpu else 1 << 17,
        }
        architecture = preset(model or default_model(device), seq_len)
        return cls(
            genome=names if is_demo(names) else tuple(str(Path(name).resolve()) for name in names),
            data=data,
            model=architecture,
            train=TrainConfig(**(defaults | recipe)).fill_in(architecture),
            objective=objective,
        )


def default_model(device: str = "auto") -> str:
    """Return the preset for a device."""
    return "mamba-1.4m" if choose_device(device).type == "cuda" else "mamba-demo"


def default_splits(genome: Sequence[str]) -> SplitConfig:
    """Hold out 5 % of each contig for validation and for the test.

    Simulated species share chromosomes, so theirs are chr5 and chr4.
    """
    if is_demo(genome):
        return SplitConfig(valid_contigs=("chr5",), test_contigs=("chr4",))
    return SplitConfig()


def is_demo(names: Sequence[str]) -> bool:
    """Whether the names mean simulated genomes. Raises InputError for one beside others."""
    simulated = [name for name in names if name in DEMO_GENOMES]
    if simulated and len(names) > 1:
        raise InputError(f"{simulated[0]!r} must be the only genome, got {', '.join(names)}")
    return bool(simulated)


def peak_learning_rate(model: ModelConfig) -> float:
    """The best of the Mamba paper's sweep, the same for all sizes (E.3); the least of a hybrid's
    mixers."""
    return min(mixer.peak_learning_rate for mixer in model.mixers)


def read_pretrain_config(run: RunFolder) -> PretrainConfig:
    """Read a run's settings. Raises InputError for another kind of run or format."""
    return run.read_config(PretrainConfig, "pretrain")
