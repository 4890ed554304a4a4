"""HyenaDNA: its standalone code, its training repository and its Hugging Face port.

Names differ by a prefix: none, `model.` or `hyena.`. Weights trained with checkpointed layers have
`.layer` in them.
"""

import re
from collections.abc import Mapping
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
    rename_parts,
    require_names,
)
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel
from dnamamba.models.layers import MlpConfig
from dnamamba.models.mixers.hyena import HyenaConfig, ImplicitFilter

_EMBEDDING = "backbone.embeddings.word_embeddings.weight"
_PREFIXES = ("", "model.", "hyena.")
_POSITIONS = ("pos_emb.t", "pos_emb.z", "modulation.deltas")
_PAD_MULTIPLE = 8
# What storage leaves of positions and decays that were meant to be ours; in bf16 and fp16 more.
_ROUNDING, _NARROW_ROUNDING = 1e-4, 1e-2
# Our names to theirs.
_RENAMED = {
    "backbone.embedding.": "backbone.embeddings.word_embeddings.",
    "backbone.norm_f.": "backbone.ln_f.",
    ".norm.": ".norm1.",
}
# What the settings may be called: in the Hugging Face port, and within "layer" elsewhere.
_SETTINGS = {
    "order": ("hyena_order", "order"),
    "w": ("activation_freq", "w"),
    "l_max": ("l_max", "max_seq_len"),
    "shift": ("shift",),
    "emb_dim": ("emb_dim",),
    "filter_order": ("filter_order",),
    "filter_layers": ("num_inner_mlps",),
    "d_conv": ("short_filter_order",),
}


def from_hyenadna(weights: Weights, settings: Settings | None = None) -> DnaModel:
    """A model from HyenaDNA's weights: standalone, training repository or Hugging Face port.

    weights: the state_dict; heads of other tasks are left out. settings: config.json, which must
    agree with the shapes. It gives vocab_size (default: the embedding's rows), layer_norm_epsilon
    (1e-5), residual_in_fp32 (true) and, top-level or in "layer", the decay's shift (0.05; runs of
    the training repository need {"shift": 0.0}) and l_max or max_seq_len if no positions are
    stored.

    Positions and decays are computed anew. Float32, or float64 if the embedding is. Raises
    InputError for stored positions of another rule, and for weights of other architectures.
    """
    settings = {} if settings is None else settings
    renamed = _rename(weights)
    to_ours = [(theirs, ours) for ours, theirs in _RENAMED.items()]
    own = {
        rename_parts(name, to_ours): weight
        for name, weight in renamed.items()
        if not name.endswith(_POSITIONS)
    }
    model = build_model(_infer_config(renamed, settings), _share_sines(own))
    for index, filter_fn in enumerate(_filters(model)):
        _check_positions(filter_fn, renamed, f"{_filter_name(index)}.")
    return model


def load_positions(model: DnaModel, weights: Weights) -> None:
    """Use the positions and decays stored with HyenaDNA's weights, for comparisons in float64; they
    are not saved. Raises InputError if they are missing."""
    renamed = _rename(weights)
    for index, filter_fn in enumerate(_filters(model)):
        names = [f"{_filter_name(index)}.{name}" for name in _POSITIONS]
        if missing := [name for name in names if name not in renamed]:
            raise InputError(f"these weights hold no positions: there is no {', '.join(missing)}")
        t, z, deltas = (renamed[name].to(filter_fn.bias.dtype) for name in names)
        filter_fn.load_positions(t[0], z[0], deltas.flatten())


def to_hyenadna(model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state_dict and settings of HyenaDNA's standalone HyenaDNAModel, without its head.

    The Hugging Face port has the same names after "hyena.". HyenaConfig.beyond is not written.
    Raises InputError for a model in another shell than the presets hyenadna-...
    """
    mixer = find_mixer(model.config, HyenaConfig, "HyenaDNA")
    _check_writable(model.config)
    state = model.state_dict()
    del state[HEAD_WEIGHT]
    weights = {rename_parts(name, _RENAMED.items()): tensor for name, tensor in state.items()}
    for index, filter_fn in enumerate(_filters(model)):
        prefix = _filter_name(index)
        freq = weights[f"{prefix}.implicit_filter.1.freq"]
        for layer in range(mixer.filter_layers + 1):
            weights[f"{prefix}.implicit_filter.{2 * layer + 1}.freq"] = freq
        t, z = filter_fn.positions(mixer.l_max)
        stored = zip(
            _POSITIONS, (t[None], z[None], -filter_fn.decays().view(1, 1, -1)), strict=True
        )
        weights |= {f"{prefix}.{name}": value.to(freq.dtype) for name, value in stored}
    return weights, _write_settings(model.config, mixer)


def _filters(model: DnaModel) -> list[ImplicitFilter]:
    return [module for module in model.modules() if isinstance(module, ImplicitFilter)]


def _filter_name(layer: int) -> str:
    return f"backbone.layers.{layer}.mixer.filter_fn"


def _find_prefix(weights: Mapping[str, Tensor]) -> str | None:
    names = (_EMBEDDING, f"{_filter_name(0)}.bias")
    plain = {name.replace(".layer.", ".") for name in weights}
    return next((p for p in _PREFIXES if all(f"{p}{name}" in plain for name in names)), None)


def _rename(weights: Weights) -> dict[str, Tensor]:
    prefix = _find_prefix(weights)
    if prefix is None:
        raise InputError(
            f"not the weights of a HyenaDNA model: there is no {_EMBEDDING} with "
            f"{_filter_name(0)}.bias, with or without a prefix ({', '.join(_PREFIXES[1:])})"
        )
    kept = {name.replace(".layer.", "."): weight for name, weight in weights.items()}
    found = {
        name.removeprefix(prefix): weight
        for name, weight in kept.items()
        if name.startswith(f"{prefix}backbone.")
    }
    for name in (HEAD_WEIGHT, f"{prefix}{HEAD_WEIGHT}"):
        if name in kept:
            found[HEAD_WEIGHT] = kept[name]
    return found


def _share_sines(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Theirs has the frequency at each sine, ours at the first."""
    shared = {}
    for name, weight in weights.items():
        match = re.fullmatch(r"(.*\.implicit_filter\.)\d+\.freq", name)
        if match is None or name == f"{match[1]}1.freq":
            shared[name] = weight
        elif not torch.equal(weight, weights.get(f"{match[1]}1.freq", weight)):
            raise InputError(
                f"{name} is not {match[1]}1.freq: sines with frequencies of their own are not "
                "HyenaDNA's"
            )
    return shared


def _infer_config(weights: Mapping[str, Tensor], settings: Settings) -> ModelConfig:
    prefix, layer = _filter_name(0), "backbone.layers.0"
    needed = (f"{layer}.mlp.fc1.weight", f"{layer}.mixer.short_filter.weight")
    require_names(weights, (*needed, f"{prefix}.implicit_filter.0.weight"), "HyenaDNA")
    n_rows, d_model = weights[_EMBEDDING].shape
    d_hidden = weights[f"{layer}.mlp.fc1.weight"].shape[0]
    config = ModelConfig(
        d_model=d_model,
        n_layers=count_layers(weights),
        vocab_size=settings.get("vocab_size", n_rows),
        padded_vocab_size=n_rows,
        norm="layer",
        norm_eps=read_setting(settings, "layer_norm_epsilon", 1e-5, above=0),
        residual_in_fp32=read_setting(settings, "residual_in_fp32", True),
        tie_embeddings=read_tied(weights, _EMBEDDING),
        mixer=_infer_mixer(weights, settings, d_model),
        mlp=MlpConfig(bias=True, d_hidden=d_hidden),
    )
    sizes = {"n_layer": config.n_layers, "d_model": d_model, "d_inner": d_hidden}
    check_settings(settings, sizes, "config.json")
    return config


def _infer_mixer(weights: Mapping[str, Tensor], settings: Settings, d_model: int) -> HyenaConfig:
    prefix = _filter_name(0)
    first = weights[f"{prefix}.implicit_filter.0.weight"]
    n_linear = sum(
        f"{prefix}.implicit_filter.{2 * i}.weight" in weights for i in range(len(weights))
    )
    taps = weights["backbone.layers.0.mixer.short_filter.weight"].shape[-1]
    given = {ours: _find_setting(settings, names) for ours, names in _SETTINGS.items()}
    z = weights.get(f"{prefix}.pos_emb.z")
    l_max = given["l_max"] if z is None else z.shape[1]
    if l_max is None:
        raise InputError(
            "these weights hold no positions (filter_fn.pos_emb.z), so l_max must be given: "
            'settings with "l_max" within "layer", or "max_seq_len"'
        )
    found: dict[str, Any] = {
        "order": 1 + weights[f"{prefix}.bias"].numel() // d_model,
        "emb_dim": first.shape[1],
        "filter_order": first.shape[0],
        "filter_layers": n_linear - 2,
        "d_conv": taps,
        "l_max": l_max,
    }
    for name, size in found.items():
        theirs = _SETTINGS[name][0]
        check_settings({theirs: given[name]}, {theirs: size}, "config.json")
    # w only says where training began.
    w, shift = (
        getattr(HyenaConfig, name) if given[name] is None else require_number(name, given[name])
        for name in ("w", "shift")
    )
    return HyenaConfig(w=w, shift=shift, **found)


def _find_setting(settings: Settings, names: tuple[str, ...]) -> Any:
    groups = (settings, read_mapping(settings, "layer"))
    given = (group.get(name) for group in groups for name in names)
    return next((value for value in given if value is not None), None)


def _check_positions(filter_fn: ImplicitFilter, weights: Mapping[str, Tensor], prefix: str) -> None:
    l_max = filter_fn.l_max
    sizes = zip(_POSITIONS, (l_max, l_max * filter_fn.emb_dim, filter_fn.n_filters), strict=True)
    stored = {name: (weights[prefix + name], n) for name, n in sizes if prefix + name in weights}
    # First of all, as computing them takes memory by l_max, which the settings alone may say.
    wrong = [name for name, (theirs, size) in stored.items() if theirs.numel() != size]
    if stored and not wrong:
        computed = (*filter_fn.positions(l_max), filter_fn.decays())
        ours = dict(zip(_POSITIONS, computed, strict=True))
        wrong = [name for name, (theirs, _) in stored.items() if not _is_close(theirs, ours[name])]
    if wrong:
        raise InputError(
            f"{prefix}{wrong[0]} is not what HyenaDNA's default settings give for l_max {l_max}: "
            "positions that were trained and other decays are not supported"
        )


def _is_close(theirs: Tensor, ours: Tensor) -> bool:
    tolerance = _NARROW_ROUNDING if theirs.element_size() == 2 else _ROUNDING
    # Decays of theirs may have either sign.
    theirs = theirs.double().view_as(ours)
    theirs = theirs.abs() if ours.dim() == 1 else theirs
    return torch.allclose(theirs, ours, rtol=tolerance, atol=tolerance)


def _check_writable(config: ModelConfig) -> None:
    padded = -(-config.vocab_size // _PAD_MULTIPLE) * _PAD_MULTIPLE
    mlp = config.mlp
    wrong = {
        "norm='layer'": config.norm != "layer",
        "an MLP with biases and activation 'gelu_tanh'": mlp is None
        or not mlp.bias
        or mlp.activation != "gelu_tanh",
        "tie_embeddings=True": not config.tie_embeddings,
        f"padded_vocab_size={padded} or equal to vocab_size": config.padded_vocab_size
        not in (padded, config.vocab_size),
    }
    if missing := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise InputError(
            f"HyenaDNA's code cannot hold this model: it needs {'; '.join(missing)}, as the "
            "presets hyenadna-... have"
        )


def _write_settings(config: ModelConfig, mixer: HyenaConfig) -> dict[str, Any]:
    assert config.mlp is not None
    others = {ours: names for ours, names in _SETTINGS.items() if ours != "l_max"}
    return {
        "d_model": config.d_model,
        "n_layer": config.n_layers,
        "d_inner": config.mlp.d_hidden,
        "vocab_size": config.vocab_size,
        "pad_vocab_size_multiple": config.padded_vocab_size
        if config.padded_vocab_size == config.vocab_size
        else _PAD_MULTIPLE,
        "layer_norm_epsilon": config.norm_eps,
        "residual_in_fp32": config.residual_in_fp32,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "layer": {
            "_name_": "hyena",
            "modulate": True,
            "l_max": mixer.l_max,
            **{names[-1]: getattr(mixer, ours) for ours, names in others.items()},
        },
    }


def _recognises(weights: Weights, settings: Settings) -> bool:
    return _find_prefix(weights) is not None


FORMATS = (Format("hyenadna", ("hyena",), _recognises, from_hyenadna, to_hyenadna),)
