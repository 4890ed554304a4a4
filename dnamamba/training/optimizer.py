"""AdamW with the Mamba paper's parameter groups, and its learning rate at every step."""

import math
from collections.abc import Collection

import torch
from torch import nn


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    no_decay: Collection[str],
) -> torch.optim.AdamW:
    """Fused AdamW over `parameter_groups`."""
    groups = parameter_groups(model, weight_decay, no_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def parameter_groups(
    model: nn.Module, weight_decay: float, no_decay: Collection[str]
) -> list[dict[str, object]]:
    """Two groups: decayed parameters, and those named in no_decay; tied ones count once."""
    named = dict(model.named_parameters())
    assert set(no_decay) <= set(named), f"unknown parameters: {set(no_decay) - set(named)}"
    decayed = [value for name, value in named.items() if name not in no_decay]
    kept = [value for name, value in named.items() if name in no_decay]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def cosine_with_warmup(
    step: int, *, max_steps: int, warmup_steps: int, peak: float, floor: float
) -> float:
    """Learning rate of optimiser step `step` (0-based).

    Linear warm-up that reaches `peak` at step warmup_steps - 1, then a half cosine that reaches
    `floor` at the last step (Mamba paper, E.2 and E.3). Needs no state to resume.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    remaining = max(1, max_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / remaining)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
