"""Whole training steps of named models: tokens a second and memory.

Objective, optimizer, plan and step are those of `dnamamba pretrain`; the windows are random bases.
"""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnamamba.bench.checks import check_scan
from dnamamba.bench.operators import Where, resolve_scan_backend
from dnamamba.bench.shapes import TrainingRun
from dnamamba.data.masking import mask_bases
from dnamamba.errors import InputError
from dnamamba.models import DnaModel, no_weight_decay_names, preset
from dnamamba.models.recompute import Recompute
from dnamamba.pretraining.config import TrainConfig
from dnamamba.pretraining.objectives import OBJECTIVES, choose_objective
from dnamamba.runtime import Compute
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID
from dnamamba.training.cuda_graph import PASSES_BEFORE
from dnamamba.training.memory_plan import MemoryNeededError, Passes, choose_passes, estimate_memory
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.step import TrainingStep, is_finite

WARM_UP_STEPS = PASSES_BEFORE + 1
"""Steps not counted; on a GPU the last captures a CUDA graph."""

_RECIPE = TrainConfig(learning_rate=8e-3)
# Models of the Mamba paper's DNA experiments, with which other code has been measured.
_GPU_RUNS = (
    *("mamba-1.4m:1kx1k", "mamba-1.4m:64x16k", "mamba-1.4m:8x128k"),
    *("mamba-1.4m:1x256k", "mamba-1.4m:1x512k", "mamba-1.4m:1x1M"),
    *("mamba-7m:4x128k", "mamba-7m:1x256k", "mamba-7m:1x512k", "mamba-7m:1x1M"),
)
_CPU_RUNS = ("mamba-demo:8x1k", "mamba-demo:1x16k", "mamba-1.4m:1x4k")


def default_runs(device_type: str) -> list[TrainingRun]:
    """Return the runs that take minutes on a GPU, seconds on a CPU."""
    return [TrainingRun.parse(text) for text in (_GPU_RUNS if device_type == "cuda" else _CPU_RUNS)]


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """Steps of one model at one shape; numbers are None if it did not run.

    batch: windows in a step. tokens_per_s: of the median step. peak_gib: of the GPU's memory; on a
    CPU of the whole process. recompute: see models/recompute.py. micro_batch: windows in one
    forward pass. note: why there are no numbers.
    """

    model: str
    batch: int
    seq_len: int
    tokens_per_s: float | None = None
    peak_gib: float | None = None
    recompute: Recompute | None = None
    micro_batch: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class TrainingBenchmark:
    """micro_batch, recompute: None for the plan of `dnamamba pretrain`."""

    compute: Compute
    n_steps: int = 5
    micro_batch: int | None = None
    recompute: Recompute | None = None

    def __post_init__(self) -> None:
        if self.compute.ranks.world_size > 1:
            raise InputError("time training steps in one process: start it without torchrun")

    def check(self) -> float:
        """Return the worst error of the models' scan. Raises WrongResultError."""
        dtype = self.compute.autocast_dtype or torch.float32
        backend = resolve_scan_backend("auto", self.compute.device, dtype)
        return check_scan(Where(self.compute.device, dtype, backend))

    def time_runs(self, runs: Sequence[TrainingRun]) -> Iterator[TrainingRow]:
        """Time run after run.

        Raises InputError, at once, for an unknown model or a micro-batch that does not divide.
        """
        for run in runs:
            preset(run.model)
            n = self.micro_batch
            if n is not None and (n < 1 or run.batch % n):
                raise InputError(
                    f"--micro-batch must divide the {run.batch} windows of {run}, got {n}"
                )
        return map(self._measure, runs)

    def _measure(self, run: TrainingRun) -> TrainingRow:
        row = TrainingRow(**asdict(run))
        reset_peak(self.compute.device)
        try:
            return self._time(run, row)
        except torch.OutOfMemoryError:
            note = "out of memory"
        except MemoryNeededError as error:
            note = f"out of memory by the plan: {error}"
        return replace(row, note=note)

    def _time(self, run: TrainingRun, row: TrainingRow) -> TrainingRow:
        step, passes = self._prepare(run)
        device = self.compute.device
        codes = random_codes(run, device)
        if step.objective.masks_bases:
            masked = [mask_bases(window, n) for n, window in enumerate(codes.cpu().numpy())]
            codes = torch.from_numpy(np.stack(masked)).to(device)
        seconds = []
        for number in range(WARM_UP_STEPS + self.n_steps):
            began = time.perf_counter()
            loss, norm = self._step(step, codes, passes, number)
            seconds.append(time.perf_counter() - began)
            if not is_finite(loss, norm):
                return replace(row, note=f"stopped: loss {loss}, gradient norm {norm}")
        median = statistics.median(seconds[WARM_UP_STEPS:])
        return replace(
            row,
            tokens_per_s=run.batch * run.seq_len / median,
            peak_gib=peak_bytes(device) / 2**30,
            recompute=passes.recompute,
            micro_batch=passes.micro_batch,
        )

    def _prepare(self, run: TrainingRun) -> tuple[TrainingStep, Passes]:
        torch.manual_seed(0)
        config = preset(run.model, run.seq_len)
        model = DnaModel(config).to(self.compute.device)
        name = choose_objective(None, is_causal=model.is_causal)
        objective = OBJECTIVES[name](model)
        passes = choose_passes(
            estimate_memory(objective, self.compute, config),
            self.compute,
            share=run.batch,
            seq_len=run.seq_len,
            micro_batch=self.micro_batch,
            recompute=self.recompute,
        )
        objective.recompute = passes.recompute
        optimizer = build_optimizer(
            objective,
            learning_rate=_RECIPE.learning_rate_at(0),
            weight_decay=_RECIPE.weight_decay,
            betas=_RECIPE.betas,
            no_decay=no_weight_decay_names(objective),
        )
        step = TrainingStep(objective, optimizer, self.compute, grad_clip=_RECIPE.grad_clip)
        return step, passes

    def _step(
        self, step: TrainingStep, codes: Tensor, passes: Passes, number: int
    ) -> tuple[float, float]:
        parts = codes.split(passes.micro_batch)
        weight = torch.stack([step.objective.weight(part) for part in parts]).sum()
        loss_and_norm = step.update(parts, weight, _RECIPE.learning_rate_at(number))
        if self.compute.device.type == "cuda":
            torch.cuda.synchronize(self.compute.device)
        return loss_and_norm


def random_codes(run: TrainingRun, device: torch.device) -> Tensor:
    """Draw A, C, G and T alike, uint8 (batch, seq_len)."""
    size = (run.batch, run.seq_len)
    return torch.randint(FIRST_BASE_ID, LAST_BASE_ID + 1, size, dtype=torch.uint8, device=device)


def reset_peak(device: torch.device) -> None:
    """Free what earlier runs left, and count `peak_bytes` from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif (reset := Path("/proc/self/clear_refs")).exists():
        # malloc keeps 0.1 GiB of a run of 41M parameters.
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        reset.write_text("5")  # Linux: the peak starts again at what is held now


def peak_bytes(device: torch.device) -> int:
    """Return the peak since `reset_peak`; off Linux, on a CPU, since the process started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    if peaks:
        return peaks[0]
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
