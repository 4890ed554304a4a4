"""Hybrids, and what is checked alike for models of any mixer; test modules bring the models."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    HyenaConfig,
    MambaConfig,
    MixerConfig,
    ModelConfig,
)

DEFAULT_MIXER = MambaConfig()
MAMBA_ATTENTION = (MambaConfig(d_state=4), AttentionConfig(n_heads=2))
STRIPED_HYENA = (HyenaConfig(l_max=64, filter_order=8), AttentionConfig(n_heads=2))
MAMBA_BIMAMBA = (MambaConfig(d_state=4), BiMambaConfig(d_state=4))


def of_mixer(mixer: MixerConfig | tuple[MixerConfig, ...] | None) -> dict[str, Any]:
    """Arguments of ModelConfig for one mixer in every block, or for a pattern."""
    return {"layers": mixer} if isinstance(mixer, tuple) else {"mixer": mixer}


def build_model(
    config: ModelConfig, dtype: torch.dtype = torch.float32, *, seed: int = 0, spread: float = 0.0
) -> DnaModel:
    """A model whose weights follow from a seed.

    spread: of what is added to each weight, so that none is at a constant and a mix-up shows.
    """
    torch.manual_seed(seed)
    model = DnaModel(config).to(dtype)
    if spread:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
    return model


def tiny_model(
    mixer: MixerConfig | tuple[MixerConfig, ...] = DEFAULT_MIXER,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    **settings: Any,
) -> DnaModel:
    """Two blocks, 8 numbers a base, unless the settings of ModelConfig say otherwise."""
    sizes = {"d_model": 8, "n_layers": 2}
    return build_model(ModelConfig(**sizes | of_mixer(mixer) | settings), dtype, seed=seed)


def draw_ids(batch: int = 2, seq_len: int = 20) -> Tensor:
    """Letters, the same on every machine."""
    return torch.randint(7, 12, (batch, seq_len), generator=torch.Generator().manual_seed(1))


def count_built(config: ModelConfig) -> int:
    """The parameters of a model that is really made, of tensors without values."""
    with torch.device("meta"):
        model = DnaModel(config)
    return sum(parameter.numel() for parameter in model.parameters())


def check_parts_are_one_pass(model: DnaModel, ids: Tensor, cuts: list[int]) -> None:
    """Sequences cut at any places, each part going on from the state after the one before."""
    whole, whole_state = model(ids, return_state=True)
    state, logits = None, []
    for start, stop in pairwise([0, *sorted(cuts), ids.shape[1]]):
        part, state = model(ids[:, start:stop], state=state, return_state=True)
        logits.append(part)
    torch.testing.assert_close(torch.cat(logits, 1), whole)
    torch.testing.assert_close(state, whole_state)
