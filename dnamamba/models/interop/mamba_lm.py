"""Mamba-1 and Mamba-2 language models of state-spaces/mamba (`mamba_ssm`) and Hugging Face.

Names are ours, but for Hugging Face's embedding. Sizes are those of the weights; what a config.json
says of them is checked. `MambaLayouts` reads and writes both projects' files; its subclasses say
what is special to a mixer.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic

from torch import Tensor

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
    read_count,
    read_eps,
    read_flag,
    read_mapping,
    read_number,
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
# What model hubs add to any config.json.
_HUB_KEYS = {
    *("model_type", "architectures", "_name_or_path", "torch_dtype", "dtype"),
    "transformers_version",
}


def same_names(names: str) -> dict[str, str]:
    """Settings that have our names there."""
    return {name: name for name in names.split()}


HF_SIZES = {
    "state_size": "d_state",
    "conv_kernel": "d_conv",
    "expand": "expand",
    "use_conv_bias": "conv_bias",
    "use_bias": "bias",
}
# Initial step sizes.
_SSM_STEPS = same_names("dt_min dt_max dt_init_floor")
_HF_STEPS = {
    "time_step_min": "dt_min",
    "time_step_max": "dt_max",
    "time_step_floor": "dt_init_floor",
}


class MambaLayouts(ABC, Generic[M]):
    """Both projects' layouts of one mixer. Mappings of settings are theirs to ours."""

    config_class: type[M]
    name: ClassVar[str]
    marker: ClassVar[str]
    """A parameter that no other mixer has."""

    layer: ClassVar[str]
    """ssm_cfg's name of the mixer."""

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    """Hugging Face's names of the model."""

    tied_by_default: ClassVar[bool]
    """Whether a config.json of Hugging Face that leaves it out ties the head to the embedding."""

    ssm_sizes: ClassVar[Mapping[str, str]]
    hf_sizes: ClassVar[Mapping[str, str]]
    """Settings that the weights' shapes decide."""

    ssm_others: ClassVar[frozenset[str]]
    """Further settings of ssm_cfg that are known."""

    assumed_d_state: ClassVar[int | None] = None
    """The number of states if it is left out; None: not checked then."""

    @abstractmethod
    def infer(self, weights: Weights, n_groups: int) -> dict[str, Any]:
        """Arguments of the mixer's config that the weights decide."""

    @abstractmethod
    def require(self, weights: Weights, settings: Settings | None) -> None:
        """Raises InputError for weights, or settings, that lack what the mixer needs."""

    def read_ssm(self, given: Settings, d_inner: int) -> dict[str, Any]:
        """Further arguments of the mixer's config that ssm_cfg decides."""
        return {}

    def write_ssm(self, mixer: M) -> dict[str, Any]:
        """The same back. Raises InputError for what mamba_ssm does not do."""
        return {}

    def read_hf(self, settings: Settings) -> dict[str, Any]:
        """As `read_ssm`, from Hugging Face's config.json."""
        return {}

    def write_hf(self, mixer: M, config: ModelConfig) -> dict[str, Any]:
        """As `write_ssm`, for Hugging Face's config.json."""
        return {}

    def read_state_spaces(self, weights: Weights, settings: Settings) -> DnaModel:
        self.require(weights, settings)
        trunk, given = (
            _read_state_spaces_trunk(weights, settings),
            read_mapping(settings, "ssm_cfg"),
        )
        known = {"layer", *self.ssm_sizes, *_SSM_STEPS, *self.ssm_others}
        if unknown := sorted(given.keys() - known):
            raise InputError(f"ssm_cfg has settings unknown for {self.name}: {', '.join(unknown)}")
        mixer = self.infer(weights, read_count(given, "ngroups", 1))
        expected = {theirs: mixer[ours] for theirs, ours in self.ssm_sizes.items()}
        checked = {"d_state": self.assumed_d_state, **_without_auto(given)}
        check_settings(checked, {"layer": self.layer, **expected}, "ssm_cfg")
        mixer |= _read_steps(given, _SSM_STEPS)
        mixer |= self.read_ssm(given, mixer["expand"] * trunk["d_model"])
        return build_model(ModelConfig(**trunk, mixer=self.config_class(**mixer)), weights)

    def write_state_spaces(self, model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        mixer = find_mixer(model.config, self.config_class, self.name)
        names = {**self.ssm_sizes, **_SSM_STEPS}
        ssm_cfg = {theirs: getattr(mixer, ours) for theirs, ours in names.items()}
        ssm_cfg = {"layer": self.layer, **ssm_cfg, **self.write_ssm(mixer)}
        settings = _write_state_spaces_trunk(model.config, ssm_cfg)
        return _copy_weights(model, with_tied_head=True), settings

    def read_huggingface(self, weights: Weights, settings: Settings) -> DnaModel:
        weights = rename(weights, HF_EMBEDDING, EMBEDDING)
        self.require(weights, settings)
        trunk = _read_huggingface_trunk(weights, settings, self.tied_by_default)
        mixer = self.infer(weights, read_count(settings, "n_groups", 8))
        expected = {theirs: mixer[ours] for theirs, ours in self.hf_sizes.items()}
        expected |= {"model_type": self.model_type, **self.derived(mixer, trunk["d_model"])}
        checked = {"state_size": self.assumed_d_state, **_without_auto(settings)}
        check_settings(checked, expected, "config.json")
        mixer |= _read_steps(settings, _HF_STEPS)
        mixer |= self.read_hf(settings)
        return build_model(ModelConfig(**trunk, mixer=self.config_class(**mixer)), weights)

    def write_huggingface(self, model: DnaModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
        mixer = find_mixer(model.config, self.config_class, self.name)
        names = {**self.hf_sizes, **_HF_STEPS}
        sizes = {theirs: getattr(mixer, ours) for theirs, ours in names.items()}
        settings = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            **_write_huggingface_trunk(model),
            **sizes,
            **self.derived(vars(mixer), model.config.d_model),
            **self.write_hf(mixer, model.config),
        }
        weights = _copy_weights(model, with_tied_head=False)
        return rename(weights, EMBEDDING, HF_EMBEDDING), settings

    def derived(self, mixer: Mapping[str, Any], d_model: int) -> dict[str, Any]:
        """Hugging Face's settings that follow from others."""
        return {}

    def formats(self) -> tuple[Format, Format]:
        kind = self.model_type
        return (
            Format(
                name=f"huggingface-{kind}",
                kinds=(kind,),
                recognises=lambda weights, _: self._is_in(weights, HF_EMBEDDING),
                read=self.read_huggingface,
                write=self.write_huggingface,
            ),
            Format(
                name=f"state-spaces-{kind}",
                kinds=(kind,),
                recognises=lambda weights, _: self._is_in(weights, EMBEDDING),
                read=self.read_state_spaces,
                write=self.write_state_spaces,
            ),
        )

    def _is_in(self, weights: Weights, embedding: str) -> bool:
        return embedding in weights and f"{MIXER}.{self.marker}" in weights


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
    tied = read_flag(settings, "tie_embeddings", True) if settings else None
    trunk = infer_trunk(weights, tied)
    is_rms = trunk["norm"] == "rms"
    sizes = {"d_model": trunk["d_model"], "n_layer": trunk["n_layers"], "rms_norm": is_rms}
    check_settings(settings, sizes, "config.json")
    trunk["vocab_size"] = _read_vocab_size(settings, trunk["padded_vocab_size"])
    trunk["residual_in_fp32"] = read_flag(settings, "residual_in_fp32", True)
    return trunk


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


def _read_huggingface_trunk(
    weights: Weights, settings: Settings, tied_by_default: bool
) -> dict[str, Any]:
    """`infer_trunk` with what Hugging Face's config.json adds; names are state-spaces' already."""
    activation = settings.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise InputError(f"hidden_act is {activation!r}; only SiLU is read")
    tied = read_flag(settings, "tie_word_embeddings", tied_by_default) if settings else None
    trunk = infer_trunk(weights, tied) | {"norm": "rms"}
    expected = {
        "hidden_size": trunk["d_model"],
        "num_hidden_layers": trunk["n_layers"],
        "vocab_size": trunk["padded_vocab_size"],
        "rms_norm": True,
    }
    check_settings(settings, expected, "config.json")
    trunk["norm_eps"] = read_eps(settings, "layer_norm_epsilon")
    trunk["residual_in_fp32"] = read_flag(settings, "residual_in_fp32", True)
    return trunk


def _without_auto(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value != "auto"}


def _read_steps(given: Settings, names: Mapping[str, str]) -> dict[str, float]:
    """The range of initial step sizes if given."""
    return {
        ours: read_number(theirs, given[theirs])
        for theirs, ours in names.items()
        if theirs in given
    }


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


def _copy_weights(model: DnaModel, with_tied_head: bool) -> dict[str, Tensor]:
    """The state_dict, each tensor with memory of its own, as safetensors wants it."""
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings and not with_tied_head:
        del weights[HEAD_WEIGHT]
    return weights
