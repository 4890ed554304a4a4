"""Mamba-1: state-spaces/mamba and Hugging Face."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Weights
from dnamamba.models.interop.mamba_lm import (
    HF_EMBEDDING,
    HF_SIZES,
    HF_STEPS,
    MIXER,
    SSM_STEPS,
    MambaLayouts,
    Names,
    infer_trunk,
    rename,
    same_names,
)
from dnamamba.models.interop.reading import EMBEDDING, build_model
from dnamamba.models.language_model import DnaModel
from dnamamba.models.mixers.mamba import MambaConfig


def from_state_spaces(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of state-spaces/mamba's MambaLMHeadModel (Mamba-1).

    vocab_size: token ids in use, if fewer than the embedding has rows. norm_eps: as in the
    original. Float32, or float64 if the embedding is. Raises InputError for other architectures.
    """
    Mamba1Layouts().require(weights, {})
    trunk = {**infer_trunk(weights), "norm": "rms", "norm_eps": norm_eps}
    if vocab_size is not None:
        trunk["vocab_size"] = vocab_size
    return build_model(ModelConfig(**trunk, mixer=MambaConfig(**infer_sizes(weights))), weights)


def from_huggingface_mamba(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of transformers' MambaForCausalLM; see `from_state_spaces`."""
    renamed = rename(weights, HF_EMBEDDING, EMBEDDING)
    return from_state_spaces(renamed, vocab_size=vocab_size, norm_eps=norm_eps)


def to_huggingface_mamba(model: DnaModel) -> dict[str, Tensor]:
    """The state_dict of transformers' MambaForCausalLM with vocab_size = padded_vocab_size; logits
    of ids that are not in use are not masked there."""
    return rename(model.state_dict(), EMBEDDING, HF_EMBEDDING)


def infer_sizes(weights: Weights) -> dict[str, Any]:
    """Arguments of `MambaConfig` by the shapes of the first layer."""
    d_inner, d_state = weights[f"{MIXER}.A_log"].shape
    return {
        "expand": d_inner // weights[EMBEDDING].shape[1],
        "d_state": d_state,
        "d_conv": weights[f"{MIXER}.conv1d.weight"].shape[-1],
        "dt_rank": weights[f"{MIXER}.dt_proj.weight"].shape[1],
        "conv_bias": f"{MIXER}.conv1d.bias" in weights,
        "bias": f"{MIXER}.in_proj.bias" in weights,
    }


class Mamba1Layouts(MambaLayouts[MambaConfig]):
    config_class, name = MambaConfig, "Mamba-1"
    required = ("A_log", "conv1d.weight", "dt_proj.weight")
    kind, architecture, tied_by_default = "mamba", "MambaForCausalLM", True
    ssm = Names(
        project="state-spaces/mamba",
        sizes=same_names("d_state d_conv expand dt_rank conv_bias bias"),
        free=SSM_STEPS,
    )
    hf = Names(
        project="Hugging Face's Mamba",
        sizes=HF_SIZES | {"time_step_rank": "dt_rank"},
        free=HF_STEPS,
    )
    # They change initial values or speed.
    ssm_others = frozenset({"dt_init", "dt_scale", "use_fast_path"})

    def infer(self, weights: Weights, n_groups: int) -> dict[str, Any]:
        return infer_sizes(weights)

    def derived(self, mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
        return {"intermediate_size": mixer["expand"] * d_model}


FORMATS = Mamba1Layouts().formats()
