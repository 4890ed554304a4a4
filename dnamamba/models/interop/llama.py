"""Llama: transformers' LlamaForCausalLM, and MistralForCausalLM without a sliding window."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dnamamba.configs import require_number
from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.interop.reading import (
    build_model,
    check_settings,
    count_layers,
    find_mixer,
    read_mapping,
    read_setting,
    read_tied,
    require_names,
)
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel
from dnamamba.models.layers import MlpConfig
from dnamamba.models.mixers.attention import AttentionConfig

_EMBEDDING = "model.embed_tokens.weight"
_LAYER = "model.layers.0"
_ATTENTION = f"{_LAYER}.self_attn"
_MODEL_TYPES = ("llama", "mistral")

# Ours, to theirs where the weights are the same,
_SAME = {
    "norm": "input_layernorm",
    "mixer.out_proj": "self_attn.o_proj",
    "norm2": "post_attention_layernorm",
    "mlp.fc2": "mlp.down_proj",
}
# and to theirs where ours are these one after the other.
_STACKED = {
    "mixer.in_proj": tuple(f"self_attn.{name}_proj" for name in "qkv"),
    "mlp.fc1": ("mlp.gate_proj", "mlp.up_proj"),
}
_OUTSIDE = {
    "backbone.embedding.weight": _EMBEDDING,
    "backbone.norm_f.weight": "model.norm.weight",
    HEAD_WEIGHT: HEAD_WEIGHT,
}

# What a config.json that leaves it out means in transformers.
_RMS_NORM_EPS, _ROPE_THETA = 1e-6, 10_000.0


def from_huggingface_llama(
    weights: Weights, settings: Settings, *, vocab_size: int | None = None
) -> DnaModel:
    """A model from the state_dict and the config.json of transformers' LlamaForCausalLM.

    settings: must have num_attention_heads or head_dim; others default as in transformers.
    vocab_size: token ids in use, if fewer than the embedding has rows. Float32, or float64 if the
    embedding is. Raises InputError for other architectures, rotary positions, activations, and a
    sliding window.
    """
    _refuse_other_settings(settings)
    weights = {n: w for n, w in weights.items() if not n.endswith("rotary_emb.inv_freq")}
    config = _find_config(weights, settings, vocab_size)
    return build_model(config, _rename(weights, config), "the given state_dict, read as Llama's,")


def to_huggingface_llama(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict and the config.json of transformers' LlamaForCausalLM.

    vocab_size there is padded_vocab_size: logits of ids that are not in use are not masked. A tied
    head is included; no token ids are special. Raises InputError for a model of other blocks.
    """
    config = model.config
    settings, state = _settings_of(config), model.state_dict()
    written: dict[str, Tensor] = {}
    for ours, theirs, rows in _names(config):
        if ours in state:
            # Copies: safetensors writes no two tensors of one memory.
            parts = [part.clone() for part in state[ours].split(rows)] if rows else [state[ours]]
            written |= zip(theirs, parts, strict=True)
    return written, settings


def halves_from_interleaved(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (n_heads * d, ...) of a query or key projection or its bias from Meta's and GPT-J's
    order, where rotary positions turn (2i, 2i + 1) of a head, to ours: i and i + d/2."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def interleaved_from_halves(weight: Tensor, n_heads: int) -> Tensor:
    """The inverse of `halves_from_interleaved`."""
    return weight.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _recognises(weights: Weights, settings: Settings) -> bool:
    names = (_EMBEDDING, f"{_ATTENTION}.q_proj.weight", f"{_LAYER}.mlp.gate_proj.weight")
    return settings.get("model_type", "llama") in _MODEL_TYPES and all(n in weights for n in names)


def _refuse_other_settings(settings: Settings) -> None:
    """What would change the numbers and is not among the weights."""
    model_type = settings.get("model_type", "llama")
    if model_type not in _MODEL_TYPES:
        raise InputError(
            f"config.json is of model_type {model_type!r}; as Llama are read "
            f"{' and '.join(_MODEL_TYPES)}"
        )
    if settings.get("hidden_act", "silu") not in ("silu", "swish"):
        raise InputError(f"hidden_act {settings['hidden_act']!r} is not read, only 'silu'")
    # What transformers takes where a Mistral's config.json has none.
    window = settings.get("sliding_window", 4096 if model_type == "mistral" else None)
    if window is not None:
        raise InputError(
            f"sliding_window {window} is not read: attention here sees all positions before; set "
            "it to null in config.json if no sequence will be longer"
        )
    if settings.get("partial_rotary_factor") not in (None, 1):
        raise InputError(
            f"partial_rotary_factor {settings['partial_rotary_factor']!r} is not read: all of a "
            "head is turned here"
        )


def _find_config(weights: Weights, settings: Settings, vocab_size: int | None) -> ModelConfig:
    needed = (_EMBEDDING, *(f"{_ATTENTION}.{name}_proj.weight" for name in "qko"))
    needed += tuple(f"{_LAYER}.mlp.{name}_proj.weight" for name in ("gate", "down"))
    require_names(weights, needed, "Llama")
    if flat := [name for name in needed if weights[name].dim() != 2]:
        raise InputError(f"not a Llama's weights: {flat[0]} is {tuple(weights[flat[0]].shape)}")
    rows, d_model = weights[_EMBEDDING].shape
    d_hidden = weights[f"{_LAYER}.mlp.gate_proj.weight"].shape[0]
    n_layers, mlp_bias = count_layers(weights, "model"), f"{_LAYER}.mlp.gate_proj.bias" in weights
    found = {"vocab_size": rows, "hidden_size": d_model, "num_hidden_layers": n_layers}
    found |= {"intermediate_size": d_hidden, "mlp_bias": mlp_bias}
    check_settings(settings, found, "config.json")
    tied = settings.get("tie_word_embeddings")
    if tied is not None:
        tied = read_setting(settings, "tie_word_embeddings", False)
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        vocab_size=rows if vocab_size is None else vocab_size,
        padded_vocab_size=rows,
        norm_eps=read_setting(settings, "rms_norm_eps", _RMS_NORM_EPS, above=0),
        tie_embeddings=read_tied(weights, _EMBEDDING, tied),
        mixer=_find_attention(weights, settings),
        mlp=MlpConfig(activation="swiglu", d_hidden=d_hidden, bias=mlp_bias),
    )


def _find_attention(weights: Weights, settings: Settings) -> AttentionConfig:
    d_query, d_key = (weights[f"{_ATTENTION}.{name}_proj.weight"].shape[0] for name in "qk")
    n_heads, d_head = settings.get("num_attention_heads"), settings.get("head_dim")
    if n_heads is None and d_head is None:
        raise InputError(
            "how many heads there are cannot be read off the weights: give num_attention_heads or "
            "head_dim in the settings (config.json)"
        )
    if d_head is None:
        d_head = _divide(d_query, n_heads, "num_attention_heads")
    n_heads, n_kv_heads = (_divide(d, d_head, "head_dim") for d in (d_query, d_key))
    heads = {"num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads}
    check_settings(settings, heads, "config.json")
    bias, out_bias = (f"{_ATTENTION}.{name}_proj.bias" in weights for name in "qo")
    for found in (bias, out_bias):
        check_settings(settings, {"attention_bias": found}, "config.json")
    return AttentionConfig(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        bias=bias,
        out_bias=out_bias,
        rope_theta=_find_rope_theta(settings),
    )


def _find_rope_theta(settings: Settings) -> float:
    """From rope_parameters (transformers 5) or rope_theta beside rope_scaling (before)."""
    given: list[Any] = [settings.get("rope_theta")]
    for name in ("rope_parameters", "rope_scaling"):
        rope = read_mapping(settings, name)
        kind = rope.get("rope_type", rope.get("type", "default"))
        others = rope.keys() - {"rope_theta", "rope_type", "type"}
        if kind != "default" or others:
            raise InputError(
                f"{name} {dict(rope)} is not read: rotary positions are the default ones here, "
                "neither scaled nor for a part of a head"
            )
        given.append(rope.get("rope_theta"))
    given = [require_number("rope_theta", theta) for theta in given if theta is not None]
    if len(set(given)) > 1:
        raise InputError(f"rope_theta is given as {' and as '.join(map(str, given))}; leave one")
    return given[0] if given else _ROPE_THETA


def _divide(size: int, by: Any, name: str) -> int:
    if not isinstance(by, int) or by < 1 or size % by:
        raise InputError(
            f"config.json has {name} {by!r}, which does not divide the {size} rows of a projection "
            "in the weights"
        )
    return size // by


def _rename(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """Under our names; what has none is left as it is, for `load_weights` to name."""
    left = dict(weights)
    renamed: dict[str, Tensor] = {}
    for ours, theirs, _ in _names(config):
        if all(name in left for name in theirs) and len({left[n].shape[1:] for n in theirs}) == 1:
            renamed[ours] = torch.cat([left.pop(name) for name in theirs])
    return {**left, **renamed}


def _names(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], list[int]]]:
    """Our name, theirs, and the rows of each of theirs; none if there is one."""
    for ours, theirs in _OUTSIDE.items():
        yield ours, (theirs,), []
    assert isinstance(config.mixer, AttentionConfig)
    assert config.mlp is not None
    assert config.mlp.d_hidden is not None
    d_query, d_key = config.mixer.widths
    rows = {"mixer.in_proj": [d_query, d_key, d_key], "mlp.fc1": 2 * [config.mlp.d_hidden]}
    layers = {**{ours: (theirs,) for ours, theirs in _SAME.items()}, **_STACKED}
    for index in range(config.n_layers):
        for ours, all_theirs in layers.items():
            for kind in ("weight", "bias"):
                names = tuple(f"model.layers.{index}.{theirs}.{kind}" for theirs in all_theirs)
                yield f"backbone.layers.{index}.{ours}.{kind}", names, rows.get(ours, [])


def _settings_of(config: ModelConfig) -> dict[str, Any]:
    mixer, mlp = find_mixer(config, AttentionConfig, "Llama"), config.mlp
    if not mixer.is_causal:
        raise InputError("Llama's layout holds causal attention; the model's is not causal")
    if config.strands == "both":
        raise InputError("Llama's layout is for models of one strand, the model reads both")
    if mixer.bias != mixer.out_bias:
        raise InputError("Llama's layout has biases at all four projections of attention or none")
    if config.norm != "rms" or mlp is None or mlp.activation != "swiglu":
        raise InputError(
            "Llama's layout holds RMSNorm and a SwiGLU MLP, the model has norm "
            f"{config.norm!r} and mlp {mlp}"
        )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": mlp.d_hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": mixer.n_heads,
        "num_key_value_heads": mixer.n_kv_heads,
        "head_dim": mixer.d_head,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": 131_072,
        "rope_theta": mixer.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": mixer.rope_theta},
        "attention_bias": mixer.bias,
        "mlp_bias": mlp.bias,
        "tie_word_embeddings": config.tie_embeddings,
        **{f"{name}_token_id": None for name in ("bos", "eos", "pad")},
    }


FORMATS = (
    Format(
        "huggingface-llama",
        ("attention",),
        _recognises,
        from_huggingface_llama,
        to_huggingface_llama,
    ),
)
