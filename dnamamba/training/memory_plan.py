"""What a run will take before it starts: windows, steps, epochs, memory."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from dnamamba.data.batches import Batch, tensors_of
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.models import ModelConfig
from dnamamba.models.backbone import Block
from dnamamba.models.recompute import DESCRIPTIONS, Recompute
from dnamamba.models.streaming import longest_sequence
from dnamamba.runtime import Compute, available_bytes
from dnamamba.tokenizer import FIRST_BASE_ID
from dnamamba.training.config import Recipe
from dnamamba.training.loss import Loss

R = TypeVar("R", bound=Recipe)

_PROBE_TOKENS = 512
# fp32 weight and gradient, and AdamW's two moments.
_BYTES_PER_PARAMETER = 16
# More tokens in one pass are no faster on a CPU: the working set leaves the caches.
_CPU_TOKENS = 1 << 14
_USABLE_SHARE = 0.85
# What a pass may take before anything is recomputed: so little is of no use elsewhere.
_SMALL = 2 << 30


class MemoryNeededError(InputError):
    """Not even one window fits."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Estimate of the bytes on one device, from a forward pass over a few hundred tokens."""

    fixed: int
    """Weights, gradients and optimiser state."""

    per_token: Mapping[Recompute, float]
    """Kept from the forward pass for the backward, a token, by `recompute`."""

    available: int
    """Free on the device now."""

    def total(self, tokens: int, recompute: Recompute) -> int:
        return self.fixed + int(self.per_token[recompute] * tokens)

    def fits(self, tokens: int, recompute: Recompute) -> bool:
        return self.total(tokens, recompute) <= _USABLE_SHARE * self.available


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The resolved shape of a run."""

    parameters: int
    seq_len: int
    batch_size: int
    """Windows in an optimiser step, over all ranks."""

    micro_batch: int
    recompute: Recompute
    world_size: int
    max_steps: int
    windows: dict[str, int]
    """Windows or labelled sequences of each split in epoch 0."""

    memory: MemoryEstimate

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def steps_per_epoch(self) -> float:
        return self.windows[Split.TRAIN] / self.batch_size

    @property
    def memory_bytes(self) -> int:
        return self.memory.total(self.micro_batch * self.seq_len, self.recompute)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each line, for people."""
        accumulation = self.batch_size // (self.micro_batch * self.world_size)
        return [
            ("parameters", f"{self.parameters:,}"),
            ("window", f"{self.seq_len:,} bases"),
            (
                "optimiser step",
                f"{self.tokens_per_step:,} tokens = {self.batch_size:,} windows "
                f"({self.world_size} rank(s) x {accumulation} x {self.micro_batch})",
            ),
            ("windows", ", ".join(f"{name} {n:,}" for name, n in self.windows.items())),
            ("epoch", f"{self.steps_per_epoch:,.1f} steps"),
            (
                "run",
                f"{self.max_steps:,} steps, {self.max_steps * self.tokens_per_step:,} tokens, "
                f"{self.max_steps / self.steps_per_epoch:,.2f} epochs",
            ),
            (
                "memory",
                f"about {self.memory_bytes / 2**30:.2f} GiB a device, "
                f"{DESCRIPTIONS[self.recompute]} "
                f"({self.memory.available / 2**30:.1f} GiB free)",
            ),
        ]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Windows of each split and batches of a run; batch_size is of an optimiser step."""

    seq_len: int
    windows: Mapping[Split, int]
    batch_size: int
    max_steps: int


def make_plan(
    objective: Loss,
    compute: Compute,
    model: ModelConfig,
    work: Workload,
    *,
    probe: Batch | None = None,
    micro_batch: int | None = None,
    recompute: Recompute | None = None,
) -> Plan:
    """Choose what is left open, for the memory there is.

    probe: see `estimate_memory`. micro_batch: windows a pass; None: the most that fit (on a CPU,
    that are useful). recompute: None: nothing below 2 GiB, and on a CPU or without a fused scan as
    long as a window fits; then "cheap", and "blocks" only if a window does not fit otherwise.
    Raises InputError if nothing fits or the batch cannot be shared evenly.
    """
    world_size = compute.ranks.world_size
    _check_shares(work.batch_size, work.seq_len, world_size, micro_batch)
    memory = estimate_memory(objective, compute, model, probe)
    passes = choose_passes(
        memory,
        compute,
        share=work.batch_size // world_size,
        seq_len=work.seq_len,
        micro_batch=micro_batch,
        recompute=recompute,
    )
    n_parameters = sum(parameter.numel() for parameter in objective.parameters())
    return Plan(
        parameters=n_parameters,
        seq_len=work.seq_len,
        batch_size=work.batch_size,
        micro_batch=passes.micro_batch,
        recompute=passes.recompute,
        world_size=world_size,
        max_steps=work.max_steps,
        windows={split.value: n for split, n in work.windows.items()},
        memory=memory,
    )


def _check_shares(batch_size: int, seq_len: int, world_size: int, micro_batch: int | None) -> None:
    if batch_size % world_size:
        raise InputError(
            f"a batch of {batch_size} windows cannot be shared evenly by {world_size} ranks; "
            f"choose --batch-tokens as a multiple of {world_size * seq_len:,}"
        )
    if micro_batch is not None and (micro_batch < 1 or batch_size % (micro_batch * world_size)):
        raise InputError(
            f"micro-batches of {micro_batch} windows on {world_size} ranks do not divide a batch "
            f"of {batch_size}: choose --micro-batch or --batch-tokens so that they do"
        )


def shareable(recipe: R, batch_size: int, compute: Compute) -> R:
    """A resumed run's recipe, with its micro-batch if these ranks can share it, so that sums round
    alike."""
    own = recipe.micro_batch
    if own is None or batch_size % (own * compute.ranks.world_size) == 0:
        return recipe
    return replace(recipe, micro_batch=None)


@dataclass(frozen=True)
class Passes:
    """How a rank makes its share of a batch: windows a pass, and what is recomputed."""

    micro_batch: int
    recompute: Recompute


def choose_passes(
    memory: MemoryEstimate,
    compute: Compute,
    *,
    share: int,
    seq_len: int,
    micro_batch: int | None = None,
    recompute: Recompute | None = None,
) -> Passes:
    """What `make_plan` leaves open, for `share` windows a rank. Raises InputError if no window
    fits."""
    if recompute is None:
        recompute = _choose_recompute(
            memory,
            compute,
            most=(micro_batch or share) * seq_len,
            least=(micro_batch or 1) * seq_len,
        )
    elif recompute not in memory.per_token:
        raise InputError(
            f"--recompute {recompute} keeps what a fused scan made, and this run has no such scan: "
            f"choose one of {', '.join(memory.per_token)}"
        )
    if micro_batch is None:
        micro_batch = _largest_micro_batch(memory, compute, share, seq_len, recompute)
    return Passes(micro_batch, recompute)


def _choose_recompute(
    memory: MemoryEstimate, compute: Compute, *, most: int, least: int
) -> Recompute:
    """most, least: tokens that may and that must be in one pass."""
    if compute.device.type == "cpu" or "cheap" not in memory.per_token:
        # Smaller passes cost less than running every block twice.
        keeps_all = memory.fits(least, "nothing")
    else:
        keeps_all = memory.fits(most, "nothing") and memory.per_token["nothing"] * most <= _SMALL
    if keeps_all:
        return "nothing"
    return "cheap" if "cheap" in memory.per_token and memory.fits(least, "cheap") else "blocks"


def _largest_micro_batch(
    memory: MemoryEstimate, compute: Compute, share: int, seq_len: int, recompute: Recompute
) -> int:
    most = share
    if compute.device.type == "cpu":
        most = max(1, min(share, _CPU_TOKENS // seq_len))
    for size in range(most, 0, -1):
        if share % size == 0 and memory.fits(size * seq_len, recompute):
            return size
    need = memory.total(seq_len, recompute) / 2**30
    raise MemoryNeededError(
        f"one window of {seq_len:,} bases needs about {need:.1f} GiB, "
        f"{memory.available / 2**30:.1f} GiB are free: use a shorter --seq-len or a smaller "
        "--model; --micro-batch 1 tries all the same"
    )


def estimate_memory(
    objective: Loss, compute: Compute, model: ModelConfig, probe: Batch | None = None
) -> MemoryEstimate:
    """Measure what a short forward pass keeps for its backward pass. probe: a row of `probe_length`
    tokens on the device; None: codes alone."""
    parameters = list(objective.parameters())
    fixed = _BYTES_PER_PARAMETER * sum(parameter.numel() for parameter in parameters)
    if probe is None:
        size = (1, probe_length(model))
        probe = torch.full(size, FIRST_BASE_ID, dtype=torch.uint8, device=compute.device)
    n_tokens = tensors_of(probe)[0].shape[1]
    total, largest_block = _measure_kept(objective, compute, probe)
    per_token = total / n_tokens
    # The backward of the block at work holds about as much again as the block keeps.
    at_work = largest_block / n_tokens if model.layers else per_token / model.n_layers
    n_strands = 2 if model.strands == "both" else 1
    residual = 4 * model.d_model * model.n_layers * n_strands
    ways: dict[Recompute, float] = {"nothing": per_token + at_work}
    dtype = compute.autocast_dtype or torch.float32
    scans = [m.activation_bytes(model.d_model, compute.device, dtype) for m in model.mixers]
    if any(kept is not None for kept in scans):
        ways["cheap"] = residual + n_strands * sum(kept or 0 for kept in scans) + 2 * at_work
    ways["blocks"] = residual + 2 * at_work
    return MemoryEstimate(
        fixed=fixed,
        per_token=ways,
        available=available_bytes(compute.device, compute.ranks),
    )


def _measure_kept(objective: Loss, compute: Compute, probe: Batch) -> tuple[int, int]:
    """Bytes that a forward pass keeps for its backward: of all, and of the block with the most."""
    known = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    blocks: list[int] = []
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def weigh(tensor: Tensor) -> None:
        # There is no backward to keep tensors for; an output kept by what made it, a circle that
        # Python cannot see, would hold them and the model for good.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage

    def count() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    def begin(*_: object) -> None:
        blocks.append(-count())

    def end(*_: object) -> None:
        blocks[-1] += count()

    for block in (module for module in objective.modules() if isinstance(module, Block)):
        handles += [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    recompute, objective.recompute = objective.recompute, "nothing"
    hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda nothing: nothing)
    try:
        with hooks, compute.autocast():
            loss, _ = objective(probe)
    finally:
        objective.recompute = recompute
        for handle in handles:
            handle.remove()
    del loss
    return count(), max(blocks, default=0)


def probe_length(model: ModelConfig) -> int:
    """Tokens of a short pass."""
    return min(_PROBE_TOKENS, longest_sequence(model) or _PROBE_TOKENS)
