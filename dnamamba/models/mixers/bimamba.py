"""Mamba in both directions. Source: Schiff et al. 2024 (arXiv 2403.03234), section 3.1."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.mixers.mamba import Mamba, MambaState, Mixing, SelectiveConfig
from dnamamba.models.mixers.protocol import NO_STATE, StateKind


@dataclass(frozen=True, kw_only=True)
class BiMambaConfig(SelectiveConfig):
    """Mamba in both directions (Caduceus, arXiv 2403.03234)."""

    kind: Literal["bimamba"] = "bimamba"

    strategy: Literal["add", "ew_multiply"] = "add"
    """How the two directions become one: their sum or their product."""

    tie_projections: bool = True
    """Whether both directions share in_proj and out_proj; each has the rest for itself."""

    @property
    def state_kind(self) -> StateKind:
        return "none"

    @property
    def reads_both_directions(self) -> bool:
        return True

    def count_parameters(self, d_model: int) -> int:
        n_projections = 1 if self.tie_projections else 2
        return n_projections * self.count_projections(d_model) + 2 * self.count_mixing(d_model)

    def flops(self, d_model: int, seq_len: int) -> int:
        # in_proj and out_proj take 4 and 2 d_inner d_model; tied, they run once for both
        # directions, but for out_proj if outputs are multiplied.
        projections = 12
        if self.tie_projections:
            projections = 6 if self.strategy == "add" else 8
        token = projections * self.expand * d_model**2 + 2 * self.mixing_flops(d_model)
        return seq_len * token

    def activation_bytes(
        self, d_model: int, device: torch.device, dtype: torch.dtype
    ) -> float | None:
        kept = super().activation_bytes(d_model, device, dtype)
        return None if kept is None else 2 * kept


class _Reverse(Mixing):
    """The second direction if it shares the projections of the first."""

    def __init__(self, d_inner: int, config: BiMambaConfig) -> None:
        super().__init__()
        self._build_mixing(d_inner, config)
        self._reset_mixing(config)


class BiMamba(Mamba):
    """(B, L, D) to (B, L, D), each position seeing all others: a Mamba and `reverse`, whose kernels
    run from the last position to the first."""

    def __init__(self, d_model: int, config: BiMambaConfig) -> None:
        super().__init__(d_model, config)
        self.strategy = config.strategy
        d_inner = config.expand * d_model
        tied = config.tie_projections
        self.reverse: Mixing = _Reverse(d_inner, config) if tied else Mamba(d_model, config)

    def forward(
        self,
        x: Tensor,
        state: MambaState | None = None,
        return_state: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """See `Mixer`. Outputs at padding are undefined. Raises InputError for a state."""
        self._refuse_state(state, return_state)
        # Whose projections the second direction takes.
        other = self.reverse if isinstance(self.reverse, Mamba) else self
        ahead = _project(self, x, mask)
        y, _ = self.mix(*ahead)
        back = ahead if other is self else _project(other, x, mask)
        y_reverse, _ = self.reverse.mix(*back, reverse=True, mask=mask, backend=self.scan_backend)
        if other is self and self.strategy == "add":
            # One product for both, but for a bias, which each direction adds.
            out = self.out_proj(y + y_reverse)
            return out if self.out_proj.bias is None else out + self.out_proj.bias, None
        out, out_reverse = self.out_proj(y), other.out_proj(y_reverse)
        return out + out_reverse if self.strategy == "add" else out * out_reverse, None

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> MambaState:
        raise InputError(NO_STATE)


def _project(mamba: Mamba, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    x, z = mamba.in_proj(x).chunk(2, dim=-1)
    # Zeros, so that the convolution of the reverse direction starts from them.
    return x if mask is None else x * mask.unsqueeze(-1), z
