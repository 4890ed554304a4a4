"""Mamba in both directions: one mixer from left to right and one from right to left.

Source: Schiff et al. 2024 (arXiv 2403.03234), section 3.1. Shape letters: B batch, L seq_len,
D d_model.
"""

from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.mixers import mamba
from dnamamba.models.mixers.configs import BiMambaConfig
from dnamamba.models.mixers.mamba import Mamba, MambaState, Mixing


class _Reverse(Mixing):
    """The second direction where it shares the projections of the first."""

    def __init__(self, d_inner: int, config: BiMambaConfig) -> None:
        super().__init__()
        self._build_mixing(d_inner, config)
        self._reset_mixing(config)


class BiMamba(Mamba):
    """(B, L, D) to (B, L, D), each position seeing all others.

    A Mamba and beside it `reverse`, which reads from the last position to the first: the kernels
    run backwards, so nothing is flipped.
    """

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
        """x: (B, L, D). mask: (B, L) bool, False at padding, which must be on the right; what the
        output is there means nothing. None: no padding.

        Raises InputError if a state is given or asked for: there is none.
        """
        if state is not None or return_state:
            raise InputError(
                "a model that reads in both directions has no state to go on from: give it whole "
                "sequences, or take a causal mixer such as 'mamba'"
            )
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


def _project(mamba: Mamba, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    x, z = mamba.in_proj(x).chunk(2, dim=-1)
    # Zeros, so that the convolution of the reverse direction starts from them.
    return x if mask is None else x * mask.unsqueeze(-1), z


def count_parameters(d_model: int, config: BiMambaConfig) -> int:
    """Parameters of one mixer, in closed form."""
    one = mamba.count_parameters(d_model, config)
    if config.tie_projections:
        return one + mamba.count_mixing(config.expand * d_model, config)
    return 2 * one
