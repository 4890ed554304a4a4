"""Mamba-2: state-spaces/mamba and Hugging Face, whose names are the same but for one.

How B and C are divided into groups is not in the shapes, so a config.json is needed.
"""

import math
from collections.abc import Mapping
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
    read_huggingface_trunk,
    read_state_spaces_trunk,
    read_step_sizes,
    rename,
    require_names,
    write_huggingface_trunk,
    write_state_spaces_trunk,
)
from dnamamba.models.interop.reading import (
    EMBEDDING,
    build_model,
    find_mixer,
    read_count,
    read_flag,
    read_mapping,
    read_number,
)
from dnamamba.models.language_model import DnaModel
from dnamamba.models.mixers.mamba2 import Mamba2Config

# Of mamba_ssm's ssm_cfg; those of the last two lines decide initial values or speed.
_SSM_KEYS = {
    *("layer", "d_state", "d_conv", "expand", "headdim", "d_ssm", "ngroups", "D_has_hdim"),
    *("rmsnorm", "norm_before_gate", "dt_limit", "bias", "conv_bias", "chunk_size"),
    *("A_init_range", "dt_min", "dt_max", "dt_init_floor", "conv_init", "use_mem_eff_path"),
    *("process_group", "sequence_parallel"),
}
_STEP_SIZES = {"dt_min": "dt_min", "dt_max": "dt_max", "dt_init_floor": "dt_init_floor"}
_HF_STEP_SIZES = {
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_floor": "dt_init_floor",
}


def _require(weights: Weights, settings: Settings) -> None:
    names = ("A_log", "dt_bias", "conv1d.weight", "norm.weight")
    require_names(weights, (EMBEDDING, *(f"{MIXER}.{name}" for name in names)), "Mamba-2")
    if not settings:
        raise InputError(
            "Mamba-2 weights do not say how many groups B and C have: give the config.json beside "
            "them"
        )


def _infer_mixer(weights: Weights, n_groups: int) -> dict[str, Any]:
    """What the shapes and the number of groups say of a `Mamba2Config`."""
    d_inner, n_heads = (weights[f"{MIXER}.{name}"].shape[0] for name in ("norm.weight", "A_log"))
    taps = weights[f"{MIXER}.conv1d.weight"]
    d_model, of_groups = weights[EMBEDDING].shape[1], taps.shape[0] - d_inner
    if d_inner % d_model or d_inner % n_heads or n_groups < 1 or of_groups % (2 * n_groups):
        raise InputError(
            f"these are no whole sizes of a Mamba-2 mixer: d_model {d_model}, d_inner {d_inner}, "
            f"{n_heads} heads, {n_groups} groups that share {of_groups} channels of B and C"
        )
    return {
        "expand": d_inner // d_model,
        "d_state": of_groups // (2 * n_groups),
        "d_conv": taps.shape[-1],
        "d_head": d_inner // n_heads,
        "n_groups": n_groups,
        "conv_bias": f"{MIXER}.conv1d.bias" in weights,
        "bias": f"{MIXER}.in_proj.bias" in weights,
    }


def _read_state_spaces(weights: Weights, settings: Settings) -> DnaModel:
    _require(weights, settings)
    trunk, given = read_state_spaces_trunk(weights, settings), read_mapping(settings, "ssm_cfg")
    if unknown := sorted(given.keys() - _SSM_KEYS):
        raise InputError(f"ssm_cfg has settings unknown for Mamba-2: {', '.join(unknown)}")
    mixer = _infer_mixer(weights, read_count(given, "ngroups", 1))
    keys = ("expand", "d_conv", "conv_bias", "bias")
    expected = {
        **{key: mixer[key] for key in keys},
        "headdim": mixer["d_head"],
        "layer": "Mamba2",
        "D_has_hdim": False,
        "rmsnorm": True,
    }
    # Checked even where it is left out, as it tells whether the number of groups is right.
    check_settings({"d_state": 128, **given}, {**expected, "d_state": mixer["d_state"]}, "ssm_cfg")
    if given.get("d_ssm") not in (None, mixer["expand"] * trunk["d_model"]):
        raise InputError(f"d_ssm is {given['d_ssm']}: mixers that are partly an MLP are not read")
    mixer |= read_step_sizes(given, _STEP_SIZES)
    mixer["chunk_size"] = read_count(given, "chunk_size", Mamba2Config.chunk_size)
    mixer["norm_before_gate"] = read_flag(given, "norm_before_gate", Mamba2Config.norm_before_gate)
    if "A_init_range" in given:
        mixer["A_init_range"] = _read_range("A_init_range", given["A_init_range"])
    mixer["dt_limit"] = _read_limit("dt_limit", given)
    return build_model(ModelConfig(**trunk, mixer=Mamba2Config(**mixer)), weights)


def _write_state_spaces(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    mixer = find_mixer(model.config, Mamba2Config, "Mamba-2")
    if mixer.norm_eps != 1e-5:
        raise InputError(
            f"the gated norm's norm_eps is {mixer.norm_eps}: state-spaces/mamba always adds 1e-5"
        )
    keys = ("d_state", "d_conv", "expand", "conv_bias", "bias", "chunk_size", "norm_before_gate")
    ssm_cfg = {
        "layer": "Mamba2",
        **{key: getattr(mixer, key) for key in (*keys, *_STEP_SIZES)},
        "headdim": mixer.d_head,
        "ngroups": mixer.n_groups,
        "A_init_range": list(mixer.A_init_range),
    }
    if mixer.dt_limit is not None:
        ssm_cfg["dt_limit"] = list(mixer.dt_limit)
    return copy_weights(model, with_tied_head=True), write_state_spaces_trunk(model, ssm_cfg)


def _read_huggingface(weights: Weights, settings: Settings) -> DnaModel:
    weights = rename(weights, HF_EMBEDDING, EMBEDDING)
    _require(weights, settings)
    trunk = read_huggingface_trunk(weights, settings, "mamba2", tied_by_default=False)
    # Theirs where config.json leaves them out.
    mixer = _infer_mixer(weights, read_count(settings, "n_groups", 8))
    expected = {
        "state_size": mixer["d_state"],
        "expand": mixer["expand"],
        "head_dim": mixer["d_head"],
        "num_heads": weights[f"{MIXER}.A_log"].shape[0],
    }
    check_settings({"state_size": 128, **settings}, expected, "config.json")
    mixer |= read_step_sizes(settings, _HF_STEP_SIZES)
    mixer["chunk_size"] = read_count(settings, "chunk_size", 256)
    mixer["norm_eps"] = trunk["norm_eps"]
    mixer["dt_limit"] = _read_limit("time_step_limit", settings)
    return build_model(ModelConfig(**trunk, mixer=Mamba2Config(**mixer)), weights)


def _write_huggingface(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    mixer = find_mixer(model.config, Mamba2Config, "Mamba-2")
    if mixer.norm_before_gate:
        raise InputError("norm_before_gate: Hugging Face's Mamba-2 always norms what is gated")
    if mixer.norm_eps != model.config.norm_eps:
        raise InputError(
            f"norm_eps is {model.config.norm_eps} in blocks and {mixer.norm_eps} in mixers: "
            "Hugging Face's Mamba-2 has one for both"
        )
    settings = {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **write_huggingface_trunk(model),
        "state_size": mixer.d_state,
        "expand": mixer.expand,
        "head_dim": mixer.d_head,
        "num_heads": mixer.count_heads(model.config.d_model),
        "n_groups": mixer.n_groups,
        "conv_kernel": mixer.d_conv,
        "chunk_size": mixer.chunk_size,
        **{theirs: getattr(mixer, ours) for theirs, ours in _HF_STEP_SIZES.items()},
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
    }
    if mixer.dt_limit is not None:
        settings["time_step_limit"] = [_write_float(value) for value in mixer.dt_limit]
    weights = copy_weights(model, with_tied_head=False)
    return rename(weights, EMBEDDING, HF_EMBEDDING), settings


def _read_limit(name: str, settings: Mapping[str, Any]) -> tuple[float, float] | None:
    """None where it limits nothing."""
    if settings.get(name) is None:
        return None
    low, high = _read_range(name, settings[name])
    return None if low <= 0 and math.isinf(high) else (low, high)


def _read_range(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InputError(f"{name} is two numbers, got {given!r}")
    return _read_float(name, given[0]), _read_float(name, given[1])


def _read_float(name: str, value: Any) -> float:
    """JSON has no infinity: Hugging Face writes {"__float__": "Infinity"}, others "inf"."""
    is_infinite = value in (math.inf, "inf", "Infinity", {"__float__": "Infinity"})
    return math.inf if is_infinite else read_number(name, value)


def _write_float(value: float) -> Any:
    return {"__float__": "Infinity"} if math.isinf(value) else value


FORMATS: tuple[Format, ...] = (
    Format(
        name="huggingface-mamba2",
        kinds=("mamba2",),
        recognises=lambda weights, settings: has_mixer(weights, HF_EMBEDDING, "dt_bias"),
        read=_read_huggingface,
        write=_write_huggingface,
    ),
    Format(
        name="state-spaces-mamba2",
        kinds=("mamba2",),
        recognises=lambda weights, settings: has_mixer(weights, EMBEDDING, "dt_bias"),
        read=_read_state_spaces,
        write=_write_state_spaces,
    ),
)
