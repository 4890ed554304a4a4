"""What the backward pass recomputes instead of keeping it from the forward pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

from torch.utils.checkpoint import checkpoint

from dnamamba.kernels.scan.kept import KeptScans

Recompute = Literal["nothing", "cheap", "blocks"]
"""nothing: all is kept. cheap: each block's residual stream and fused scan are kept; the rest, a
tenth of a step's time, is recomputed. blocks: only the residual stream is kept."""

RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)

DESCRIPTIONS: dict[Recompute, str] = {
    "nothing": "nothing recomputed",
    "cheap": "all but scans recomputed",
    "blocks": "blocks recomputed",
}


def run_block(block: Callable[..., Any], recompute: Recompute, *arguments: Any) -> Any:
    """block(*arguments), keeping for its backward as `recompute` says; blocks draw no randoms."""
    if recompute not in RECOMPUTE:
        raise ValueError(f"recompute must be one of {', '.join(RECOMPUTE)}, got {recompute!r}")
    if recompute == "nothing":
        return block(*arguments)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recompute == "cheap":
        options["context_fn"] = _keep_scans
    return checkpoint(block, *arguments, **options)


def _keep_scans() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for a block's forward and its repetition; torch's selective checkpointing takes 11
    ms a layer."""
    kept = KeptScans()
    return kept.recording(), kept.reusing()
