"""What Mamba-1 and Mamba-2 language models share in other projects: all but the mixer.

The trunk's names, and the config.json of state-spaces/mamba (`mamba_ssm`) and of Hugging Face. Its
sizes are those of the weights; what a config.json says of them is checked.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Settings, Weights
from dnamamba.models.interop.reading import EMBEDDING, read_count, read_eps, read_flag, read_number
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel

HF_EMBEDDING = "backbone.embeddings.weight"
MIXER = "backbone.layers.0.mixer"

_STATE_SPACES_KEYS = {
    *("d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx"),
    *("attn_cfg", "rms_norm", "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple"),
    "tie_embeddings",
}
# What model hubs add to any config.json.
_HUB_KEYS = {
    *("model_type", "architectures", "_name_or_path", "torch_dtype", "dtype"),
    "transformers_version",
}


def require_names(weights: Weights, names: tuple[str, ...], what: str) -> None:
    """Raises InputError naming the weights that a language model of this kind lacks."""
    if missing := [name for name in names if name not in weights]:
        raise InputError(
            f"not the weights of a {what} language model: there is no {', '.join(missing)}"
        )


def rename(weights: Weights, old: str, new: str) -> dict[str, Tensor]:
    return {new if name == old else name: tensor for name, tensor in weights.items()}


def infer_trunk(weights: Weights) -> dict[str, Any]:
    """What the shapes say of a `ModelConfig`, but for the mixer."""
    padded_vocab_size, d_model = weights[EMBEDDING].shape
    found = (re.match(r"backbone\.layers\.(\d+)\.", name) for name in weights)
    head = weights.get(HEAD_WEIGHT)
    return {
        "d_model": d_model,
        "n_layers": 1 + max(int(match[1]) for match in found if match),
        "vocab_size": padded_vocab_size,
        "padded_vocab_size": padded_vocab_size,
        "tie_embeddings": head is None or torch.equal(head, weights[EMBEDDING]),
    }


def check_settings(given: Mapping[str, Any], expected: Mapping[str, object], where: str) -> None:
    """Raises InputError for each setting that is given and is not what is expected."""
    problems = [
        f"{key} is {given[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if key in given and given[key] != value
    ]
    if problems:
        raise InputError(f"{where} does not fit the weights: {'; '.join(problems)}")


def read_state_spaces_trunk(weights: Weights, settings: Settings) -> dict[str, Any]:
    """`infer_trunk` with what mamba_ssm's config.json adds; refuses what we have no model for."""
    if unknown := sorted(settings.keys() - _STATE_SPACES_KEYS - _HUB_KEYS):
        raise InputError(f"config.json of mamba_ssm has unknown settings: {', '.join(unknown)}")
    if settings.get("attn_layer_idx"):
        raise InputError(
            f"layers {settings['attn_layer_idx']} are attention (attn_layer_idx); hybrids of "
            "mamba_ssm are not read"
        )
    if settings.get("d_intermediate"):
        raise InputError(
            f"d_intermediate is {settings['d_intermediate']}: mamba_ssm's blocks with an MLP are "
            "not read"
        )
    trunk = infer_trunk(weights)
    is_rms = "backbone.norm_f.bias" not in weights
    sizes = {"d_model": trunk["d_model"], "n_layer": trunk["n_layers"], "rms_norm": is_rms}
    check_settings(settings, sizes, "config.json")
    trunk["vocab_size"] = _read_vocab_size(settings, trunk["padded_vocab_size"])
    trunk["norm"] = "rms" if is_rms else "layer"
    trunk["residual_in_fp32"] = read_flag(settings, "residual_in_fp32", True)
    tied = read_flag(settings, "tie_embeddings", True) if settings else None
    return _tie(trunk, weights, tied)


def _read_vocab_size(settings: Settings, rows: int) -> int:
    """Token ids in use; mamba_ssm pads the embedding to a multiple."""
    if "vocab_size" not in settings:
        return rows
    used = read_count(settings, "vocab_size", rows)
    multiple = read_count(settings, "pad_vocab_size_multiple", 8)
    padded = -(-used // multiple) * multiple
    # Models converted to multiples of another number have their own rows as vocab_size.
    if rows not in (padded, used):
        raise InputError(
            f"config.json does not fit the weights: vocab_size {used} in multiples of {multiple} "
            f"is {padded}, the embedding has {rows} rows"
        )
    return used


def read_huggingface_trunk(
    weights: Weights, settings: Settings, model_type: str, tied_by_default: bool
) -> dict[str, Any]:
    """`infer_trunk` with what Hugging Face's config.json adds; names are state-spaces' already."""
    trunk = infer_trunk(weights)
    activation = settings.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"hidden_act is {activation!r}; only SiLU is read")
    expected = {
        "model_type": model_type,
        "hidden_size": trunk["d_model"],
        "num_hidden_layers": trunk["n_layers"],
        "vocab_size": trunk["padded_vocab_size"],
        "conv_kernel": weights[f"{MIXER}.conv1d.weight"].shape[-1],
        "use_conv_bias": f"{MIXER}.conv1d.bias" in weights,
        "use_bias": f"{MIXER}.in_proj.bias" in weights,
        "rms_norm": True,
    }
    check_settings(settings, expected, "config.json")
    trunk["norm_eps"] = read_eps(settings, "layer_norm_epsilon")
    trunk["residual_in_fp32"] = read_flag(settings, "residual_in_fp32", True)
    tied = read_flag(settings, "tie_word_embeddings", tied_by_default) if settings else None
    return _tie(trunk, weights, tied)


def _tie(trunk: dict[str, Any], weights: Weights, given: bool | None) -> dict[str, Any]:
    """What the settings say of the head decides, if they say anything."""
    if given and not trunk["tie_embeddings"]:
        raise InputError(
            f"config.json does not fit the weights: the head is said to be the embedding, and "
            f"{HEAD_WEIGHT} is another; set tie_embeddings (Hugging Face: tie_word_embeddings) to "
            "false"
        )
    return trunk if given is None else {**trunk, "tie_embeddings": given}


def read_step_sizes(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The range of initial step sizes where it is given. names: ours by theirs."""
    return {
        ours: read_number(theirs, given[theirs])
        for theirs, ours in names.items()
        if theirs in given
    }


def write_state_spaces_trunk(model: DnaModel, ssm_cfg: dict[str, Any]) -> dict[str, Any]:
    """mamba_ssm's config.json. Raises InputError for what it cannot say."""
    config = model.config
    _refuse_others(config, "state-spaces/mamba")
    if config.norm_eps != 1e-5:
        raise InputError(
            f"norm_eps is {config.norm_eps}: state-spaces/mamba always adds 1e-5; write "
            "Hugging Face's layout instead"
        )
    multiple, rows = 8, config.padded_vocab_size
    if -(-config.vocab_size // multiple) * multiple != rows:
        multiple = rows
    return {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layers,
        "vocab_size": config.vocab_size,
        "ssm_cfg": ssm_cfg,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": config.norm == "rms",
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": multiple,
        "tie_embeddings": config.tie_embeddings,
    }


def write_huggingface_trunk(model: DnaModel) -> dict[str, Any]:
    """What both of Hugging Face's config.json share. Raises InputError for what they cannot say.

    Special tokens are left open: by default theirs would stop a generation at id 0.
    """
    config = model.config
    _refuse_others(config, "Hugging Face's Mamba")
    if config.norm != "rms":
        raise InputError(f"norm is {config.norm!r}: Hugging Face's Mamba has RMSNorm alone")
    return {
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "vocab_size": config.padded_vocab_size,
        "hidden_act": "silu",
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "tie_word_embeddings": config.tie_embeddings,
        "dtype": str(model.lm_head.weight.dtype).removeprefix("torch."),
        **{f"{name}_token_id": None for name in ("bos", "eos", "pad")},
    }


def _refuse_others(config: ModelConfig, project: str) -> None:
    if config.strands == "both":
        raise InputError(f"the model reads both strands; {project} reads one")
    if config.mlp is not None:
        raise InputError(f"the model has MLPs; {project} has none that they could be written as")


def copy_weights(model: DnaModel, with_tied_head: bool) -> dict[str, Tensor]:
    """The state_dict, each tensor with memory of its own, as safetensors wants it."""
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings and not with_tied_head:
        del weights[HEAD_WEIGHT]
    return weights


def has_mixer(weights: Weights, embedding: str, parameter: str) -> bool:
    """Whether the weights have an embedding of this name and this parameter in each mixer."""
    return embedding in weights and f"{MIXER}.{parameter}" in weights
