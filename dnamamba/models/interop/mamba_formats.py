"""Mamba-1 as a `Format`: Hugging Face's layout and state-spaces/mamba's."""

from typing import Any

from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import MambaConfig
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.interop.mamba import (
    from_huggingface_mamba,
    from_state_spaces,
    to_huggingface_mamba,
)
from dnamamba.models.language_model import DnaModel

_A_LOG = "backbone.layers.0.mixer.A_log"
_DT_PROJ = "backbone.layers.0.mixer.dt_proj.weight"


def _is_huggingface(weights: Weights, settings: Settings) -> bool:
    return {"backbone.embeddings.weight", _A_LOG, _DT_PROJ} <= weights.keys()


def _is_state_spaces(weights: Weights, settings: Settings) -> bool:
    return {"backbone.embedding.weight", _A_LOG, _DT_PROJ} <= weights.keys()


def _read_huggingface(weights: Weights, settings: Settings) -> DnaModel:
    return from_huggingface_mamba(weights, norm_eps=settings.get("layer_norm_epsilon", 1e-5))


def _read_state_spaces(weights: Weights, settings: Settings) -> DnaModel:
    return from_state_spaces(weights, vocab_size=settings.get("vocab_size"))


def _write_huggingface(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config, mixer = model.config, model.config.mixer
    if not isinstance(mixer, MambaConfig) or config.mlp is not None or config.norm != "rms":
        raise InputError("transformers' Mamba has Mamba-1 mixers, RMSNorm and no MLP")
    if config.strands == "both":
        raise InputError("transformers' Mamba reads one strand, the model both")
    settings = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        "state_size": mixer.d_state,
        "expand": mixer.expand,
        "intermediate_size": mixer.expand * config.d_model,
        "conv_kernel": mixer.d_conv,
        "time_step_rank": mixer.dt_rank,
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
    }
    return to_huggingface_mamba(model), settings


FORMATS: tuple[Format, ...] = (
    Format("huggingface-mamba", _is_huggingface, _read_huggingface, _write_huggingface),
    Format("state-spaces-mamba", _is_state_spaces, _read_state_spaces),
)
