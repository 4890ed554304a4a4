"""Tiny runs for tests: a few thousand bases, a model of a few thousand parameters."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from dnamamba.data.window_dataset import DataConfig
from dnamamba.data.windows import WindowConfig
from dnamamba.data_prep.genomes.store import prepare_store
from dnamamba.models import ModelConfig
from dnamamba.pretraining.config import PretrainConfig, TrainConfig
from dnamamba.training.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[1]


def write_store(folder: Path, n_bases: int = 40_000) -> Path:
    """Two contigs with something to learn: a repeated motif, one base in ten random."""
    rng = np.random.default_rng(0)
    motif = rng.integers(0, 4, 50)
    letters = np.tile(motif, n_bases // 50 + 1)[:n_bases]
    noisy = rng.random(n_bases) < 0.1
    letters[noisy] = rng.integers(0, 4, noisy.sum())
    sequence = np.frombuffer(b"ACGT", np.uint8)[letters].tobytes()
    fasta = folder / "tiny.fa"
    half = n_bases // 2
    fasta.write_bytes(b">chr1\n" + sequence[:half] + b"\n>chr2\n" + sequence[half:].lower() + b"\n")
    return prepare_store([fasta], folder / "tiny.h5")


def tiny_config(store: Path, **recipe) -> PretrainConfig:
    """8 steps of 4 windows of 64 bases in micro-batches of 2, unless told otherwise."""
    defaults = {
        "max_steps": 8,
        "batch_tokens": 256,
        "micro_batch": 2,
        "eval_tokens": 256,
        "eval_every": 4,
        "save_every": 3,
        "log_every": 2,
    }
    return PretrainConfig(
        genome=(str(store),),
        data=DataConfig(windows=WindowConfig(seq_len=64)),
        model=ModelConfig(d_model=16, n_layers=2),
        train=TrainConfig(**(defaults | recipe)),
    )


TINY_OPTIONS = [
    *("--seq-len", "64", "--batch-tokens", "256", "--micro-batch", "2", "--model", "mamba-demo"),
    *("--eval-tokens", "256", "--device", "cpu"),
]


def start(*arguments: str, cache: Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the real command in a process of its own."""
    command = [sys.executable, *launcher, "-m", "dnamamba", *arguments]
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "DNAMAMBA_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command,
        cwd=cache,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str, cache: Path, launcher: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Run the real command to its end: exit code, standard output, standard error."""
    process = start(*arguments, cache=cache, launcher=launcher)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def stop_at(patched, step, exception=None):
    """Have the trainer stop before a step as a signal would, or die of an exception."""
    original = Trainer._agree

    def agree(trainer, codes, stop):
        if trainer.step == step:
            if exception is not None:
                raise exception
            stop.signal = signal.SIGTERM
        return original(trainer, codes, stop)

    patched.setattr(Trainer, "_agree", agree)
