"""Caduceus (kuleshov-group/caduceus): CaduceusForMaskedLM, of one strand (Ph) and of both (PS).

With `fused_add_norm` true, as published, models of both strands exchange the halves of the channels
before every block. Our model equals them with blocks 0, 2, 4 and so on turned: channels reversed,
directions exchanged. Only `hidden_states` after an odd number of blocks have the halves in the
other order.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.interop.mamba import infer_sizes
from dnamamba.models.interop.mamba_lm import MIXER, infer_trunk, require_mixer
from dnamamba.models.interop.reading import (
    EMBEDDING,
    build_model,
    check_settings,
    read_mapping,
    read_setting,
    rename_parts,
)
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel
from dnamamba.models.mixers.bimamba import BiMambaConfig
from dnamamba.models.mixers.mamba import MambaConfig
from dnamamba.models.mixers.protocol import MixerConfig
from dnamamba.models.strands import complement_ids

_OURS = "mixer.reverse."
# Theirs to ours, in this order; with both strands some names have one more module.
_RENAMED = (
    ("caduceus.", ""),
    ("backbone.embeddings.word_embeddings.embedding.", "backbone.embedding."),
    ("backbone.embeddings.word_embeddings.", "backbone.embedding."),
    (".submodule.", "."),
    ("mixer.mamba_fwd.", "mixer."),
    ("mixer.mamba_rev.", _OURS),
    ("lm_head.lm_head.", "lm_head."),
)
_OF_BOTH = "word_embeddings.embedding.weight"


def from_caduceus(weights: Weights, settings: Settings | None = None) -> DnaModel:
    """A model from the state_dict of CaduceusForMaskedLM.

    settings: config.json, which must agree with the shapes; what it leaves out is as published
    (fused_add_norm true, directions added, norm_epsilon 1e-5, all rows of the embedding in use).
    Raises InputError for weights of another architecture and for other complements than ours.
    """
    settings = {} if settings is None else settings
    _check_complements(weights, settings)
    both = any(name.endswith(_OF_BOTH) for name in weights)
    ours = _drop_tied(
        {rename_parts(n, _RENAMED): w for n, w in weights.items() if "complement_map" not in n}
    )
    config = _infer_config(ours, settings, both)
    fused = read_setting(settings, "fused_add_norm", True)
    if both and fused:
        if not isinstance(config.mixer, BiMambaConfig):
            raise InputError(
                "a Caduceus of both strands in one direction with fused_add_norm cannot be read; "
                "with fused_add_norm false, or bidirectional, it can"
            )
        ours = _turn(ours)
        if config.n_layers % 2:
            ours, config = _turn_ends(ours), replace(config, tie_embeddings=False)
    return build_model(config, ours)


def to_caduceus(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict and settings of CaduceusForMaskedLM.

    fused_add_norm is true unless a model of both strands has an odd number of blocks. Logits of ids
    that are not in use are not masked there. Raises InputError for models with another mixer or an
    MLP, and of one direction and one strand, which are plain Mamba.
    """
    config = model.config
    both = config.strands == "both"
    is_caduceus = isinstance(config.mixer, BiMambaConfig | MambaConfig if both else BiMambaConfig)
    if not is_caduceus or config.mlp is not None:
        raise InputError(
            "Caduceus has blocks of Mamba, in both directions or on both strands, without an MLP; "
            f"this model has {config.mixer_kind!r}{'' if config.mlp is None else ' and an MLP'}"
        )
    fused = not both or (config.n_layers % 2 == 0 and isinstance(config.mixer, BiMambaConfig))
    ours = dict(model.state_dict())
    if both and fused:
        ours = _turn(ours)
    if isinstance(config.mixer, BiMambaConfig) and config.mixer.tie_projections:
        for name in [name for name in ours if re.search(r"\.mixer\.(in|out)_proj\.", name)]:
            ours[name.replace("mixer.", _OURS)] = ours[name].clone()
    theirs = {_rename_back(name, both): tensor for name, tensor in ours.items()}
    if both:
        complement = complement_ids(config.padded_vocab_size)
        theirs["caduceus.backbone.embeddings.word_embeddings.complement_map"] = complement
        theirs["lm_head.complement_map"] = complement.clone()
    return theirs, _make_settings(config, fused)


def _rename_back(name: str, both: bool) -> str:
    embedding = "embeddings.word_embeddings.embedding." if both else "embeddings.word_embeddings."
    name = name.replace("backbone.embedding.", f"backbone.{embedding}")
    direction = "mamba_rev." if _OURS in name else "mamba_fwd."
    name = name.replace(_OURS, "mixer.")
    inside = "submodule." if both else ""
    name = name.replace(".mixer.", f".mixer.{inside}{direction}")
    name = re.sub(r"\.(norm|norm_f)\.", rf".\1.{inside}", name)
    if name == HEAD_WEIGHT:
        return f"lm_head.{name}" if both else name
    return f"caduceus.{name}"


def _check_complements(weights: Weights, settings: Settings) -> None:
    found = {name: tensor.tolist() for name, tensor in weights.items() if "complement_map" in name}
    given = read_mapping(settings, "complement_map")
    if given:
        # JSON has strings for keys.
        found["complement_map in config.json"] = [given.get(str(i)) for i in range(len(given))]
    for name, theirs in found.items():
        ours = complement_ids(max(1, len(theirs))).tolist()
        if theirs != ours:
            raise InputError(
                f"{name} is {theirs}, expected {ours}: these weights are for other token ids than "
                "ours and HyenaDNA's (A 7, C 8, G 9, T 10, N 11)"
            )


def _drop_tied(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second direction's projections if all equal the first's."""
    second = {
        name: name.replace(_OURS, "mixer.")
        for name in ours
        if re.search(r"\.reverse\.(in|out)_proj\.", name)
    }
    if all(first in ours and torch.equal(ours[n], ours[first]) for n, first in second.items()):
        return {name: tensor for name, tensor in ours.items() if name not in second}
    return ours


def _infer_config(ours: Mapping[str, Tensor], settings: Settings, both: bool) -> ModelConfig:
    require_mixer(ours, ("A_log", "conv1d.weight", "dt_proj.weight"), "Caduceus")
    trunk = infer_trunk(ours)
    sizes = {"d_model": trunk["d_model"], "n_layer": trunk["n_layers"], "rcps": both}
    check_settings(settings, sizes, "config.json")
    trunk["vocab_size"] = settings.get("vocab_size", trunk["padded_vocab_size"])
    return ModelConfig(
        **trunk,
        norm_eps=read_setting(settings, "norm_epsilon", 1e-5, above=0),
        residual_in_fp32=read_setting(settings, "residual_in_fp32", True),
        mixer=_infer_mixer(ours, settings),
        strands="both" if both else "one",
    )


def _infer_mixer(ours: Mapping[str, Tensor], settings: Settings) -> MixerConfig:
    sizes, given = infer_sizes(ours), read_mapping(settings, "ssm_cfg")
    of_shapes = {key: sizes[key] for key in ("expand", "d_state", "d_conv", "dt_rank")}
    check_settings({k: v for k, v in given.items() if v != "auto"}, of_shapes, "ssm_cfg")
    bidirectional = f"{MIXER}.reverse.A_log" in ours
    check_settings(settings, {"bidirectional": bidirectional}, "config.json")
    if not bidirectional:
        return MambaConfig(**sizes)
    strategy: Any = settings.get("bidirectional_strategy") or "add"
    if strategy not in ("add", "ew_multiply"):
        raise InputError(f"bidirectional_strategy must be 'add' or 'ew_multiply', got {strategy!r}")
    tied = f"{MIXER}.reverse.in_proj.weight" not in ours
    return BiMambaConfig(**sizes, strategy=strategy, tie_projections=tied)


def _turn(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn blocks 0, 2, 4 and so on; its own inverse."""
    turned = {}
    for name, tensor in ours.items():
        match = re.match(r"backbone\.layers\.(\d+)\.", name)
        if match is None or int(match[1]) % 2:
            turned[name] = tensor
            continue
        if name.endswith("in_proj.weight"):
            tensor = tensor.flip(1)
        elif ".norm." in name or ".out_proj." in name:
            tensor = tensor.flip(0)
        other = name.replace(_OURS, "mixer.")
        other = name.replace("mixer.", _OURS, 1) if other == name else other
        turned[other if other in ours else name] = tensor
    return turned


def _turn_ends(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the final norm and the head, as after a turned last block."""
    turned = {n: w.flip(0) if ".norm_f." in n else w for n, w in ours.items()}
    head = ours.get(HEAD_WEIGHT, ours[EMBEDDING])
    turned[HEAD_WEIGHT] = head[complement_ids(head.shape[0])].flip(1)
    return turned


def _make_settings(config: ModelConfig, fused: bool) -> dict[str, Any]:
    mixer = config.mixer
    assert isinstance(mixer, BiMambaConfig | MambaConfig)
    settings: dict[str, Any] = {
        "model_type": "caduceus",
        "architectures": ["CaduceusForMaskedLM"],
        "d_model": config.d_model,
        "n_layer": config.n_layers,
        "vocab_size": config.padded_vocab_size,
        "ssm_cfg": {
            key: getattr(mixer, key)
            for key in ("d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias")
        },
        "rms_norm": config.norm == "rms",
        "norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "fused_add_norm": fused,
        "pad_vocab_size_multiple": 1,
        "bidirectional": isinstance(mixer, BiMambaConfig),
        "rcps": config.strands == "both",
    }
    if isinstance(mixer, BiMambaConfig):
        settings["bidirectional_strategy"] = mixer.strategy
        settings["bidirectional_weight_tie"] = mixer.tie_projections
    if config.strands == "both":
        complement = complement_ids(config.padded_vocab_size).tolist()
        settings["complement_map"] = {str(token): other for token, other in enumerate(complement)}
    return settings


def _is_caduceus(weights: Weights, settings: Settings) -> bool:
    is_named = any(name.startswith("caduceus.") for name in weights)
    return is_named or settings.get("model_type") == "caduceus"


FORMATS = (Format("caduceus", ("bimamba", "mamba"), _is_caduceus, from_caduceus, to_caduceus),)
