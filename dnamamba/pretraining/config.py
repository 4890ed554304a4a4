"""The settings of a pretraining run, and their defaults."""

from dataclasses import dataclass
from typing import Any

from dnamamba.data.window_dataset import DataConfig
from dnamamba.errors import InputError
from dnamamba.models import ModelConfig
from dnamamba.models.streaming import longest_sequence
from dnamamba.pretraining.objectives import ObjectiveName
from dnamamba.training.config import TrainConfig

DEMO = "demo"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides the result of a run."""

    genome: tuple[str, ...] = (DEMO,)
    """FASTA files and stores; `demo` and `demo-apes` stand for simulated great apes."""

    data: DataConfig
    """Windows, splits and augmentation."""

    model: ModelConfig
    """Architecture."""

    train: TrainConfig
    """Recipe."""

    objective: ObjectiveName | None = None
    """What is predicted; None: the next base, or hidden bases by models that read both ways."""

    def __post_init__(self) -> None:
        seq_len = self.data.windows.seq_len
        self.train.batch_size(seq_len)
        most = longest_sequence(self.model)
        if most is not None and seq_len > most:
            raise InputError(
                f"windows of {seq_len:,} bases are longer than this model's filters (l_max "
                f"{most:,}): use a shorter --seq-len or another --model"
            )


def default_settings(device_type: str, seq_len: int) -> dict[str, Any]:
    """Model, steps and batch where the user names none: the paper's on a GPU, minutes on a CPU.

    Batches are at least one window long, and whole windows.
    """
    on_gpu = device_type == "cuda"
    batch = 1 << 20 if on_gpu else 1 << 13
    return {
        "model": "mamba-1.4m" if on_gpu else "mamba-demo",
        "max_steps": 10_000 if on_gpu else 300,
        "batch_tokens": max(1, batch // seq_len) * seq_len,
        "eval_tokens": 1 << 22 if on_gpu else 1 << 17,
    }


def peak_learning_rate(model: ModelConfig) -> float:
    """The best of the Mamba paper's sweep for a kind of mixer, the same for all sizes (E.3)."""
    return 2e-3 if model.mixer.kind in ("hyena", "attention") else 8e-3
