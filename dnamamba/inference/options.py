"""How a model is run after training: batches, precision and the reverse complement."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from dnamamba.configs import require_range
from dnamamba.errors import InputError
from dnamamba.models.language_model import DnaModel

RcMode = Literal["none", "average", "concat"]
"""What is returned: the forward strand's result, the mean of both strands' results, or both side by
side, the forward strand's first. The reverse complement is read in a second pass."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """Options that embed, score and predict share; rounding apart, only `rc` changes results."""

    batch_tokens: int | None = None
    """Tokens in one pass, padding included; a longer sequence is a pass of its own. Default: 1M on
    a GPU, 64k on a CPU."""

    chunk_tokens: int | None = None
    """Longer sequences are read in pieces of this many tokens if the model carries a state; memory
    then does not grow with the sequence. Default: `batch_tokens`, but at least 64k."""

    autocast_dtype: torch.dtype | None = None
    """Dtype of matrix products; None: the parameters' own."""

    rc: RcMode = "none"
    """What is done with the reverse complement; see RcMode."""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "chunk_tokens"):
            value = getattr(self, name)
            if value is not None:
                require_range(name, value, 1)
        self.require_rc(*get_args(RcMode))

    def require_rc(self, *choices: str) -> None:
        """Raise InputError for a value of `rc` that a use does not have."""
        if self.rc not in choices:
            raise InputError(f"rc must be one of {', '.join(choices)}, got {self.rc!r}")

    def tokens_in_batch(self, device: torch.device) -> int:
        return self.batch_tokens or (1 << 20 if device.type == "cuda" else 1 << 16)

    def tokens_in_chunk(self, device: torch.device) -> int:
        return self.chunk_tokens or max(self.tokens_in_batch(device), 1 << 16)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context for forward passes."""
        dtype = self.autocast_dtype
        return torch.autocast(device.type, dtype, enabled=dtype is not None)


def device_of(model: DnaModel) -> torch.device:
    return next(model.parameters()).device
