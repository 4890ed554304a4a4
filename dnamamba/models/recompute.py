"""What the backward pass makes again instead of keeping it from the forward pass."""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Recompute = Literal["nothing", "cheap", "blocks"]
"""nothing: all is kept. cheap: of each block the residual stream and what the fused scan on a GPU
made are kept; norm, projections and convolution, a tenth of a step's time, are made again. blocks:
the residual stream alone is kept; with other scans cheap is that too."""

RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)

DESCRIPTIONS: dict[Recompute, str] = {
    "nothing": "nothing recomputed",
    "cheap": "all but scans recomputed",
    "blocks": "blocks recomputed",
}

_KEPT = "dnamamba::selective_scan"


def run_block(block: Callable[..., Any], recompute: Recompute, *arguments: Any) -> Any:
    """block(*arguments), keeping for its backward what `recompute` says; blocks draw no numbers."""
    if recompute == "nothing":
        return block(*arguments)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recompute == "cheap":
        options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _choose)
    return checkpoint(block, *arguments, **options)


def _choose(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Asked by torch at every operator of a block."""
    # By name, as the operator does not exist where there is no GPU.
    is_scan = getattr(operator, "name", str)() == _KEPT
    return CheckpointPolicy.MUST_SAVE if is_scan else CheckpointPolicy.PREFER_RECOMPUTE
