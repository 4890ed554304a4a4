"""The learning rate as a pure function of the step: a resumed run needs no state for it."""

import math


def cosine_with_warmup(
    step: int, *, max_steps: int, warmup_steps: int, peak: float, floor: float
) -> float:
    """Learning rate of optimiser step `step` (0-based).

    Linear warm-up that reaches `peak` at step warmup_steps - 1, then a half cosine that reaches
    `floor` at the last step (Mamba paper, E.2 and E.3: 10 % warm-up, cosine to 1e-5).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    remaining = max(1, max_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / remaining)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))
