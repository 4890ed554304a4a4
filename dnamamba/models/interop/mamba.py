"""Mamba-1: state-spaces/mamba and Hugging Face, whose names are the same but for one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.interop.mamba_lm import (
    HF_EMBEDDING,
    MIXER,
    check_settings,
    copy_weights,
    has_mixer,
    infer_trunk,
    read_huggingface_trunk,
    read_state_spaces_trunk,
    read_step_sizes,
    rename,
    require_names,
    write_huggingface_trunk,
    write_state_spaces_trunk,
)
from dnamamba.models.interop.reading import EMBEDDING, build_model, find_mixer, read_mapping
from dnamamba.models.language_model import DnaModel
from dnamamba.models.mixers.mamba import MambaConfig

# Of mamba_ssm's ssm_cfg; the last three decide initial values or speed.
_SSM_KEYS = {
    *("layer", "d_state", "d_conv", "expand", "dt_rank", "dt_min", "dt_max", "dt_init_floor"),
    *("conv_bias", "bias", "dt_init", "dt_scale", "use_fast_path"),
}
_STEP_SIZES = {"dt_min": "dt_min", "dt_max": "dt_max", "dt_init_floor": "dt_init_floor"}
_HF_STEP_SIZES = {
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_floor": "dt_init_floor",
}


def from_state_spaces(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of state-spaces/mamba's MambaLMHeadModel (Mamba-1).

    Names are the same; sizes are read off the shapes. vocab_size: token ids in use, if fewer than
    the embedding has rows. norm_eps is not in the weights: give the original's if it is another.
    The model is float32, or float64 if the embedding is. Raises InputError for weights of any
    other architecture.
    """
    _require(weights)
    trunk = {**infer_trunk(weights), "norm_eps": norm_eps}
    if vocab_size is not None:
        trunk["vocab_size"] = vocab_size
    return build_model(ModelConfig(**trunk, mixer=_infer_mixer(weights)), weights)


def from_huggingface_mamba(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of transformers' MambaForCausalLM; see `from_state_spaces`."""
    renamed = rename(weights, HF_EMBEDDING, EMBEDDING)
    return from_state_spaces(renamed, vocab_size=vocab_size, norm_eps=norm_eps)


def to_huggingface_mamba(model: DnaModel) -> dict[str, Tensor]:
    """The state_dict of transformers' MambaForCausalLM with vocab_size = padded_vocab_size.

    There the logits of ids that are not in use are not masked.
    """
    return rename(model.state_dict(), EMBEDDING, HF_EMBEDDING)


def _require(weights: Weights) -> None:
    names = ("A_log", "conv1d.weight", "dt_proj.weight")
    require_names(weights, (EMBEDDING, *(f"{MIXER}.{name}" for name in names)), "Mamba-1")


def _infer_mixer(weights: Weights) -> MambaConfig:
    d_inner, d_state = weights[f"{MIXER}.A_log"].shape
    return MambaConfig(
        expand=d_inner // weights[EMBEDDING].shape[1],
        d_state=d_state,
        d_conv=weights[f"{MIXER}.conv1d.weight"].shape[-1],
        dt_rank=weights[f"{MIXER}.dt_proj.weight"].shape[1],
        conv_bias=f"{MIXER}.conv1d.bias" in weights,
        bias=f"{MIXER}.in_proj.bias" in weights,
    )


def _read_state_spaces(weights: Weights, settings: Settings) -> DnaModel:
    _require(weights)
    trunk, given = read_state_spaces_trunk(weights, settings), read_mapping(settings, "ssm_cfg")
    if unknown := sorted(given.keys() - _SSM_KEYS):
        raise InputError(f"ssm_cfg has settings unknown for Mamba-1: {', '.join(unknown)}")
    mixer = _infer_mixer(weights)
    expected: dict[str, Any] = {"layer": "Mamba1"}
    for key in ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias"):
        expected[key] = getattr(mixer, key)
    if given.get("dt_rank") == "auto":
        del expected["dt_rank"]
    check_settings(given, expected, "ssm_cfg")
    mixer = replace(mixer, **read_step_sizes(given, _STEP_SIZES))
    return build_model(ModelConfig(**trunk, mixer=mixer), weights)


def _write_state_spaces(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    mixer = find_mixer(model.config, MambaConfig, "Mamba-1")
    keys = ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias", *_STEP_SIZES)
    ssm_cfg = {"layer": "Mamba1", **{key: getattr(mixer, key) for key in keys}}
    return copy_weights(model, with_tied_head=True), write_state_spaces_trunk(model, ssm_cfg)


def _read_huggingface(weights: Weights, settings: Settings) -> DnaModel:
    weights = rename(weights, HF_EMBEDDING, EMBEDDING)
    _require(weights)
    trunk = read_huggingface_trunk(weights, settings, "mamba", tied_by_default=True)
    mixer = _infer_mixer(weights)
    expected = {
        "state_size": mixer.d_state,
        "expand": mixer.expand,
        "intermediate_size": mixer.expand * trunk["d_model"],
        "time_step_rank": mixer.dt_rank,
    }
    if settings.get("time_step_rank") == "auto":
        del expected["time_step_rank"]
    check_settings(settings, expected, "config.json")
    mixer = replace(mixer, **read_step_sizes(settings, _HF_STEP_SIZES))
    return build_model(ModelConfig(**trunk, mixer=mixer), weights)


def _write_huggingface(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    mixer = find_mixer(model.config, MambaConfig, "Mamba-1")
    settings = {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        **write_huggingface_trunk(model),
        "state_size": mixer.d_state,
        "expand": mixer.expand,
        "intermediate_size": mixer.expand * model.config.d_model,
        "conv_kernel": mixer.d_conv,
        "time_step_rank": mixer.dt_rank,
        **{theirs: getattr(mixer, ours) for theirs, ours in _HF_STEP_SIZES.items()},
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
    }
    weights = copy_weights(model, with_tied_head=False)
    return rename(weights, EMBEDDING, HF_EMBEDDING), settings


FORMATS: tuple[Format, ...] = (
    Format(
        name="huggingface-mamba",
        kinds=("mamba",),
        recognises=lambda weights, settings: has_mixer(weights, HF_EMBEDDING, "dt_proj.weight"),
        read=_read_huggingface,
        write=_write_huggingface,
    ),
    Format(
        name="state-spaces-mamba",
        kinds=("mamba",),
        recognises=lambda weights, settings: has_mixer(weights, EMBEDDING, "dt_proj.weight"),
        read=_read_state_spaces,
        write=_write_state_spaces,
    ),
)
