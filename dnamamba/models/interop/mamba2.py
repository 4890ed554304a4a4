"""Mamba-2: state-spaces/mamba and Hugging Face.

How B and C are divided into groups is not in the shapes, so a config.json is needed.
"""

import math
from collections.abc import Mapping
from typing import Any

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Settings, Weights
from dnamamba.models.interop.mamba_lm import (
    HF_SIZES,
    MIXER,
    MambaLayouts,
    require_mixer,
    same_names,
)
from dnamamba.models.interop.reading import (
    EMBEDDING,
    check_settings,
    read_count,
    read_flag,
    read_number,
)
from dnamamba.models.mixers.mamba2 import Mamba2Config


class Mamba2Layouts(MambaLayouts[Mamba2Config]):
    config_class, name, marker = Mamba2Config, "Mamba-2", "dt_bias"
    layer, model_type, architecture = "Mamba2", "mamba2", "Mamba2ForCausalLM"
    tied_by_default = False
    assumed_d_state = 128  # tells whether the number of groups is right
    ssm_sizes = same_names("d_state d_conv expand conv_bias bias") | {
        "headdim": "d_head",
        "ngroups": "n_groups",
    }
    hf_sizes = HF_SIZES | {"head_dim": "d_head", "n_groups": "n_groups"}
    # Those of the last line change initial values or speed.
    ssm_others = frozenset(
        {
            *("d_ssm", "D_has_hdim", "rmsnorm", "norm_before_gate", "dt_limit", "chunk_size"),
            *("A_init_range", "conv_init", "use_mem_eff_path", "process_group"),
            "sequence_parallel",
        }
    )

    def require(self, weights: Weights, settings: Settings | None) -> None:
        require_mixer(weights, ("A_log", "dt_bias", "conv1d.weight", "norm.weight"), self.name)
        if not settings:
            raise InputError(
                "Mamba-2 weights do not say how many groups B and C have: give the config.json "
                "beside them"
            )

    def infer(self, weights: Weights, n_groups: int) -> dict[str, Any]:
        norm, A_log = (weights[f"{MIXER}.{name}"] for name in ("norm.weight", "A_log"))
        d_inner, n_heads = norm.shape[0], A_log.shape[0]
        taps = weights[f"{MIXER}.conv1d.weight"]
        d_model, of_groups = weights[EMBEDDING].shape[1], taps.shape[0] - d_inner
        if d_inner % d_model or d_inner % n_heads or n_groups < 1 or of_groups % (2 * n_groups):
            raise InputError(
                f"these are no whole sizes of a Mamba-2 mixer: d_model {d_model}, d_inner "
                f"{d_inner}, {n_heads} heads, {n_groups} groups that share {of_groups} channels of "
                "B and C"
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

    def read_ssm(self, given: Settings, d_inner: int) -> dict[str, Any]:
        check_settings(given, {"rmsnorm": True, "D_has_hdim": False}, "ssm_cfg")
        if given.get("d_ssm") not in (None, d_inner):
            raise InputError(
                f"d_ssm is {given['d_ssm']}: mixers that are partly an MLP are not read"
            )
        mixer: dict[str, Any] = {
            "chunk_size": read_count(given, "chunk_size", Mamba2Config.chunk_size),
            "norm_before_gate": read_flag(given, "norm_before_gate", False),
            "dt_limit": _read_limit("dt_limit", given),
        }
        if "A_init_range" in given:
            mixer["A_init_range"] = _read_range("A_init_range", given["A_init_range"])
        return mixer

    def write_ssm(self, mixer: Mamba2Config) -> dict[str, Any]:
        if mixer.norm_eps != 1e-5:
            raise InputError(
                f"the gated norm's norm_eps is {mixer.norm_eps}: state-spaces/mamba always adds "
                "1e-5"
            )
        limit = {} if mixer.dt_limit is None else {"dt_limit": list(mixer.dt_limit)}
        return {
            "chunk_size": mixer.chunk_size,
            "norm_before_gate": mixer.norm_before_gate,
            "A_init_range": list(mixer.A_init_range),
            **limit,
        }

    def read_hf(self, settings: Settings) -> dict[str, Any]:
        return {
            "chunk_size": read_count(settings, "chunk_size", 256),
            "norm_eps": read_number("layer_norm_epsilon", settings.get("layer_norm_epsilon", 1e-5)),
            "dt_limit": _read_limit("time_step_limit", settings),
        }

    def write_hf(self, mixer: Mamba2Config, config: ModelConfig) -> dict[str, Any]:
        if mixer.norm_before_gate:
            raise InputError("norm_before_gate: Hugging Face's Mamba-2 always norms what is gated")
        if mixer.norm_eps != config.norm_eps:
            raise InputError(
                f"norm_eps is {config.norm_eps} in blocks and {mixer.norm_eps} in mixers: "
                "Hugging Face's Mamba-2 has one for both"
            )
        written: dict[str, Any] = {"chunk_size": mixer.chunk_size}
        if mixer.dt_limit is not None:
            written["time_step_limit"] = [_write_float(value) for value in mixer.dt_limit]
        return written

    def derived(self, mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
        return {"num_heads": mixer["expand"] * d_model // mixer["d_head"]}


def _read_limit(name: str, settings: Settings) -> tuple[float, float] | None:
    """None if it limits nothing."""
    if settings.get(name) is None:
        return None
    low, high = _read_range(name, settings[name])
    return None if low <= 0 and math.isinf(high) else (low, high)


def _read_range(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InputError(f"{name} must be two numbers, got {given!r}")
    return _read_float(name, given[0]), _read_float(name, given[1])


def _read_float(name: str, value: Any) -> float:
    """JSON has no infinity: Hugging Face writes {"__float__": "Infinity"}, others "inf"."""
    is_infinite = value in (math.inf, "inf", "Infinity", {"__float__": "Infinity"})
    return math.inf if is_infinite else read_number(name, value)


def _write_float(value: float) -> Any:
    return {"__float__": "Infinity"} if math.isinf(value) else value


FORMATS = Mamba2Layouts().formats()
