"""Mamba-1 and Mamba-2 language models of state-spaces/mamba (`mamba_ssm`) and Hugging Face.

Weights have our names, except for Hugging Face's embedding. They decide the sizes; a config.json
must agree. `MambaLayouts` reads and writes both projects' files; subclasses add a mixer.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic

from torch import Tensor

from dnamamba.configs import require_number
from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.interop.formats import Format, Settings, Weights
from dnamamba.models.interop.reading import (
    EMBEDDING,
    M,
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

HF_EMBEDDING = "backbone.embeddings.weight"
MIXER = "backbone.layers.0.mixer"

_STATE_SPACES_KEYS = {
    *("d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx"),
    *("attn_cfg", "rms_norm", "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple"),
    "tie_embeddings",
}
# JSON has no infinity: Hugging Face writes the last, others strings.
_INFINITIES = (math.inf, "inf", "Infinity", {"__float__": "Infinity"})
# What model hubs add to any config.json.
_HUB_KEYS = {
    *("model_type", "architectures", "_name_or_path", "torch_dtype", "dtype"),
    "transformers_version",
}


def same_names(names: str) -> dict[str, str]:
    """Settings that have our names there."""
    return {name: name for name in names.split()}


@dataclass(frozen=True, kw_only=True)
class Names:
    """One project's settings of a mixer, theirs to ours."""

    project: str

    sizes: Mapping[str, str]
    """Settings that the weights' shapes decide."""

    free: Mapping[str, str]
    """Settings that only config.json has; left out ones have our defaults."""

    fixed: Mapping[str, object] = field(default_factory=dict)
    """Ours that the project cannot say, and the value it always has."""

    infinity: object = math.inf
    """How its JSON writes infinity."""


SSM_STEPS = same_names("dt_min dt_max dt_init_floor")
HF_SIZES = {
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "use_conv_bias": "conv_bias",
    "use_bias": "bias",
}
HF_STEPS = {
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_floor": "dt_init_floor",
}


class MambaLayouts(ABC, Generic[M]):
    """Both projects' layouts of one mixer."""

    config_class: type[M]
    name: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    """Parameters of the mixer; no other mixer has the last."""

    kind: ClassVar[str]
    architecture: ClassVar[str]
    """Hugging Face's name of the model."""

    tied_by_default: ClassVar[bool]
    """Whether Hugging Face ties the head to the embedding if config.json does not say."""

    ssm: ClassVar[Names]
    hf: ClassVar[Names]

    ssm_others: ClassVar[frozenset[str]]
    """Further settings of ssm_cfg that are known."""

    assumed_d_state: ClassVar[int | None] = None
    """The number of states if it is left out; None: not checked then."""

    @abstractmethod
    def infer(self, weights: Weights, n_groups: int) -> dict[str, Any]:
        """Arguments of the mixer's config that the weights decide."""

    def require(self, weights: Weights, settings: Settings) -> None:
        """Raises InputError for weights, or settings, that lack what the mixer needs."""
        require_mixer(weights, self.required, self.name)

    def derived(self, mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
        """Hugging Face's settings that follow from others."""
        return {}

    def read_free(self, given: Settings, names: Names) -> dict[str, Any]:
        """Arguments of the mixer's config that only settings decide."""
        read: dict[str, Any] = {}
        for theirs, ours in names.free.items():
            default = getattr(self.config_class, ours)
            if given.get(theirs) is None:
                continue
            if isinstance(default, int | float):
                read[ours] = read_setting(given, theirs, default)
            else:
                read[ours] = _read_range(theirs, given[theirs])
        return read

    def read_state_spaces(self, weights: Weights, settings: Settings) -> DnaModel:
        self.require(weights, settings)
        trunk = _read_state_spaces_trunk(weights, settings)
        given = read_mapping(settings, "ssm_cfg")
        known = {"layer", *self.ssm.sizes, *self.ssm.free, *self.ssm_others}
        if unknown := sorted(given.keys() - known):
            raise InputError(f"ssm_cfg has settings unknown for {self.name}: {', '.join(unknown)}")
        mixer = self.infer(weights, read_setting(given, "ngroups", 1))
        self._check_sizes(given, mixer, self.ssm, {"layer": self.name.replace("-", "")}, "ssm_cfg")
        self.check_ssm(given, mixer["expand"] * trunk["d_model"])
        mixer |= self.read_free(given, self.ssm)
        return build_model(ModelConfig(**trunk, mixer=self.config_class(**mixer)), weights)

    def read_huggingface(self, weights: Weights, settings: Settings) -> DnaModel:
        weights = rename(weights, HF_EMBEDDING, EMBEDDING)
        self.require(weights, settings)
        trunk = _read_huggingface_trunk(weights, settings, self.tied_by_default)
        mixer = self.infer(weights, read_setting(settings, "n_groups", 8))
        others = {"model_type": self.kind, **self.derived(mixer, trunk["d_model"])}
        self._check_sizes(settings, mixer, self.hf, others, "config.json")
        mixer |= self.read_free(settings, self.hf)
        return build_model(ModelConfig(**trunk, mixer=self.config_class(**mixer)), weights)

    def write_state_spaces(self, model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        mixer = find_mixer(model.config, self.config_class, self.name)
        ssm_cfg = {"layer": self.name.replace("-", ""), **_write_mixer(mixer, self.ssm)}
        return _copy_weights(model), _write_state_spaces_trunk(model.config, ssm_cfg)

    def write_huggingface(self, model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        mixer = find_mixer(model.config, self.config_class, self.name)
        settings = {
            "architectures": [self.architecture],
            "model_type": self.kind,
            **_write_huggingface_trunk(model),
            **_write_mixer(mixer, self.hf),
            **self.derived(vars(mixer), model.config.d_model),
        }
        eps = settings["layer_norm_epsilon"]
        if eps != model.config.norm_eps:
            raise InputError(
                f"norm_eps is {model.config.norm_eps} in blocks and {eps} in mixers: Hugging "
                "Face's Mamba-2 has one for both"
            )
        weights = rename(_copy_weights(model), EMBEDDING, HF_EMBEDDING)
        if model.config.tie_embeddings:
            del weights[HEAD_WEIGHT]
        return weights, settings

    def check_ssm(self, given: Settings, d_inner: int) -> None:
        """Raises InputError for variants in ssm_cfg that are not read."""

    def formats(self) -> tuple[Format, Format]:
        def recognise(embedding: str) -> Callable[[Weights, Settings], bool]:
            names = {embedding, f"{MIXER}.{self.required[-1]}"}
            return lambda weights, _: names <= weights.keys()

        hf = (self.read_huggingface, self.write_huggingface)
        ssm = (self.read_state_spaces, self.write_state_spaces)
        return (
            Format(f"huggingface-{self.kind}", (self.kind,), recognise(HF_EMBEDDING), *hf),
            Format(f"state-spaces-{self.kind}", (self.kind,), recognise(EMBEDDING), *ssm),
        )

    def _check_sizes(
        self,
        given: Settings,
        mixer: Mapping[str, Any],
        names: Names,
        others: Mapping[str, Any],
        where: str,
    ) -> None:
        d_state = next(theirs for theirs, ours in names.sizes.items() if ours == "d_state")
        sized = {name: value for name, value in given.items() if value != "auto"}
        expected = {theirs: mixer[ours] for theirs, ours in names.sizes.items()}
        check_settings({d_state: self.assumed_d_state, **sized}, {**others, **expected}, where)


def _read_range(name: str, given: Any) -> tuple[float, float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InputError(f"{name} must be two numbers, got {given!r}")
    low, high = (
        math.inf if value in _INFINITIES else require_number(name, value) for value in given
    )
    return low, high


def _write_mixer(mixer: Any, names: Names) -> dict[str, Any]:
    """The settings of a mixer. Raises InputError for what the project cannot say."""
    for ours, value in names.fixed.items():
        if getattr(mixer, ours) != value:
            raise InputError(
                f"the mixers' {ours} is {getattr(mixer, ours)}: {names.project} always has {value}"
            )
    written = {}
    for theirs, ours in {**names.sizes, **names.free}.items():
        value = getattr(mixer, ours)
        if isinstance(value, tuple):
            value = [names.infinity if part == math.inf else part for part in value]
        if value is not None:
            written[theirs] = value
    return written


def _copy_weights(model: DnaModel) -> dict[str, Tensor]:
    """Each with memory of its own, as safetensors wants it."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def rename(weights: Weights, old: str, new: str) -> dict[str, Tensor]:
    return {new if name == old else name: tensor for name, tensor in weights.items()}


def require_mixer(weights: Weights, parameters: tuple[str, ...], what: str) -> None:
    """Raises InputError if the embedding or one of the first mixer's parameters is missing."""
    require_names(weights, (EMBEDDING, *(f"{MIXER}.{name}" for name in parameters)), what)


def infer_trunk(weights: Weights, tied: bool | None = None) -> dict[str, Any]:
    """Arguments of `ModelConfig` that shapes decide, but for the mixer. tied: see `read_tied`."""
    padded_vocab_size, d_model = weights[EMBEDDING].shape
    return {
        "d_model": d_model,
        "n_layers": count_layers(weights),
        "vocab_size": padded_vocab_size,
        "padded_vocab_size": padded_vocab_size,
        "norm": "layer" if "backbone.norm_f.bias" in weights else "rms",
        "tie_embeddings": read_tied(weights, EMBEDDING, tied),
    }


def _read_state_spaces_trunk(weights: Weights, settings: Settings) -> dict[str, Any]:
    """`infer_trunk` and what mamba_ssm's config.json adds. Raises InputError for other models."""
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
    tied = read_setting(settings, "tie_embeddings", True) if settings else None
    trunk = infer_trunk(weights, tied)
    is_rms = trunk["norm"] == "rms"
    sizes = {"d_model": trunk["d_model"], "n_layer": trunk["n_layers"], "rms_norm": is_rms}
    check_settings(settings, sizes, "config.json")
    trunk["vocab_size"] = _read_vocab_size(settings, trunk["padded_vocab_size"])
    trunk["residual_in_fp32"] = read_setting(settings, "residual_in_fp32", True)
    return trunk


def _read_vocab_size(settings: Settings, rows: int) -> int:
    """Token ids in use; mamba_ssm pads the embedding to a multiple."""
    if "vocab_size" not in settings:
        return rows
    used = read_setting(settings, "vocab_size", rows)
    multiple = read_setting(settings, "pad_vocab_size_multiple", 8)
    padded = -(-used // multiple) * multiple
    # Models converted to multiples of another number have their own rows as vocab_size.
    if rows not in (padded, used):
        raise InputError(
            f"config.json does not fit the weights: vocab_size {used} in multiples of {multiple} "
            f"is {padded}, the embedding has {rows} rows"
        )
    return used


def _read_huggingface_trunk(
    weights: Weights, settings: Settings, tied_by_default: bool
) -> dict[str, Any]:
    """`infer_trunk` with what Hugging Face's config.json adds; names are state-spaces' already."""
    activation = settings.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"hidden_act is {activation!r}; only SiLU is read")
    tied = read_setting(settings, "tie_word_embeddings", tied_by_default) if settings else None
    trunk = infer_trunk(weights, tied) | {"norm": "rms"}
    expected = {
        "hidden_size": trunk["d_model"],
        "num_hidden_layers": trunk["n_layers"],
        "vocab_size": trunk["padded_vocab_size"],
        "rms_norm": True,
    }
    check_settings(settings, expected, "config.json")
    trunk["norm_eps"] = read_setting(settings, "layer_norm_epsilon", 1e-5, above=0)
    trunk["residual_in_fp32"] = read_setting(settings, "residual_in_fp32", True)
    return trunk


def _write_state_spaces_trunk(config: ModelConfig, ssm_cfg: dict[str, Any]) -> dict[str, Any]:
    """mamba_ssm's config.json. Raises InputError for what it cannot say."""
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


def _write_huggingface_trunk(model: DnaModel) -> dict[str, Any]:
    """Settings of both mixers. Raises InputError for what they cannot say. Special tokens are null:
    by default theirs would stop a generation at id 0."""
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
