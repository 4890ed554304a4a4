"""Tiny runs for tests: a few thousand bases, a model of a few thousand parameters."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from dnamamba.cli.main import main
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


TORCHRUN = ("torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "dnamamba")


def start(*arguments: str, cache: Path) -> "Command":
    """Start the command in a process of its own."""
    return Command(arguments, cache)


def run(*arguments: str, cache: Path) -> tuple[int, str, str]:
    """Run the command in a process of its own to its end: exit code, output, errors."""
    process = start(*arguments, cache=cache)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def launch(*command: str, cache: Path) -> tuple[int, str, str]:
    """Run `python -m COMMAND` as a user does, who waits for its imports."""
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "DNAMAMBA_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cache,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


def run_python(*arguments: object, cwd: Path = REPOSITORY) -> str:
    """What `python ARGUMENTS` prints; what it writes to standard error if it fails."""
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Forks of a process that has imported the package, and has no threads, start at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["dnamamba.cli.main", "dnamamba.classification.run", "dnamamba.pretraining.run"]
)


class Command:
    """`dnamamba ARGUMENTS` in a process and a group of its own, with Popen's methods."""

    def __init__(self, arguments: tuple[str, ...], cache: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("out", "err")]
        self._process = _FORKS.Process(target=_main, args=(arguments, cache, *self._files))
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to its standard output and error, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"runs after {timeout} s: {self._said()[1]}"
        return self._said()

    def _said(self) -> tuple[str, str]:
        out, err = (file.read_text() if file.exists() else "" for file in self._files)
        return out, err


def _main(arguments: tuple[str, ...], cache: Path, out: Path, err: Path) -> None:
    os.setsid()
    # A child of the fork server would start its loader's workers there, and they would outlive it.
    multiprocessing.set_start_method(None, force=True)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cache)
    os.environ["DNAMAMBA_CACHE"] = str(cache)
    torch.set_num_threads(1)
    main(list(arguments))


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
