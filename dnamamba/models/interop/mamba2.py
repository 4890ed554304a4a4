"""Mamba-2: state-spaces/mamba and Hugging Face.

How B and C are divided into groups is not in the shapes, so a config.json is needed.
"""

import math
from collections.abc import Mapping
from typing import Any

from dnamamba.errors import InputError
from dnamamba.models.interop.formats import Settings, Weights
from dnamamba.models.interop.mamba_lm import (
    HF_SIZES,
    HF_STEPS,
    MIXER,
    SSM_STEPS,
    MambaLayouts,
    Names,
    same_names,
)
from dnamamba.models.interop.reading import EMBEDDING, check_settings
from dnamamba.models.mixers.mamba2 import Mamba2Config


class Mamba2Layouts(MambaLayouts[Mamba2Config]):
    config_class, name = Mamba2Config, "Mamba-2"
    required = ("A_log", "conv1d.weight", "norm.weight", "dt_bias")
    kind, architecture, tied_by_default = "mamba2", "Mamba2ForCausalLM", False
    assumed_d_state = 128  # tells whether the number of groups is right
    ssm = Names(
        project="state-spaces/mamba",
        sizes={
            **same_names("d_state d_conv expand conv_bias bias"),
            "headdim": "d_head",
            "ngroups": "n_groups",
        },
        free=SSM_STEPS | same_names("chunk_size norm_before_gate A_init_range dt_limit"),
        fixed={"norm_eps": 1e-5},
    )
    hf = Names(
        project="Hugging Face's Mamba-2",
        sizes=HF_SIZES | {"head_dim": "d_head", "n_groups": "n_groups"},
        free={
            **HF_STEPS,
            "chunk_size": "chunk_size",
            "layer_norm_epsilon": "norm_eps",
            "time_step_limit": "dt_limit",
        },
        fixed={"norm_before_gate": False},
        infinity={"__float__": "Infinity"},
    )
    # Those of the last line change initial values or speed.
    ssm_others = frozenset(
        {
            *("d_ssm", "D_has_hdim", "rmsnorm"),
            *("conv_init", "use_mem_eff_path", "process_group", "sequence_parallel"),
        }
    )

    def require(self, weights: Weights, settings: Settings) -> None:
        super().require(weights, settings)
        if not settings:
            raise InputError(
                "Mamba-2 weights do not say how many groups B and C have: give the config.json "
                "beside them"
            )

    def infer(self, weights: Weights, n_groups: int) -> dict[str, Any]:
        d_inner, n_heads = (
            weights[f"{MIXER}.{name}"].shape[0] for name in ("norm.weight", "A_log")
        )
        taps = weights[f"{MIXER}.conv1d.weight"]
        d_model, of_groups = weights[EMBEDDING].shape[1], taps.shape[0] - d_inner
        if d_inner % d_model or d_inner % n_heads or of_groups % (2 * n_groups):
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

    def read_free(self, given: Settings, names: Names) -> dict[str, Any]:
        read = super().read_free(given, names)
        low, high = read.get("dt_limit", (0, math.inf))
        if low <= 0 and math.isinf(high):
            read["dt_limit"] = None
        return read

    def check_ssm(self, given: Settings, d_inner: int) -> None:
        check_settings(given, {"rmsnorm": True, "D_has_hdim": False}, "ssm_cfg")
        if given.get("d_ssm") not in (None, d_inner):
            raise InputError(
                f"d_ssm is {given['d_ssm']}: mixers that are partly an MLP are not read"
            )

    def derived(self, mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
        return {"num_heads": mixer["expand"] * d_model // mixer["d_head"]}


FORMATS = Mamba2Layouts().formats()
