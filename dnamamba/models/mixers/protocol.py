"""Every kind of mixer: its class and its count of parameters, by its config."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from dnamamba.models.mixers import attention, bimamba, hyena, mamba, mamba2, s4
from dnamamba.models.mixers.configs import (
    AttentionConfig,
    BiMambaConfig,
    HyenaConfig,
    Mamba2Config,
    MambaConfig,
    S4Config,
)

MixerState = tuple[Tensor, ...]
"""What a mixer remembers of the tokens before; each kind has a NamedTuple of its own."""


class Kind(NamedTuple):
    """build: (d_model, config) to a module. count_parameters: of the same, in closed form.

    The module maps x (B, L, D), state and return_state to (y, state after or None), and its last
    layer is called out_proj. One that is not causal takes mask too, (B, L) bool, False at padding.
    """

    build: Callable[[int, Any], nn.Module]
    count_parameters: Callable[[int, Any], int]


KINDS: dict[type, Kind] = {
    MambaConfig: Kind(mamba.Mamba, mamba.count_parameters),
    AttentionConfig: Kind(attention.Attention, attention.count_parameters),
    HyenaConfig: Kind(hyena.Hyena, hyena.count_parameters),
    Mamba2Config: Kind(mamba2.Mamba2, mamba2.count_parameters),
    BiMambaConfig: Kind(bimamba.BiMamba, bimamba.count_parameters),
    S4Config: Kind(s4.S4, s4.count_parameters),
}
