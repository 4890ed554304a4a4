"""Named sizes of models."""

from collections.abc import Callable
from dataclasses import replace

from dnamamba.errors import InputError
from dnamamba.models.config import MlpConfig, ModelConfig
from dnamamba.models.mixers.configs import (
    AttentionConfig,
    BiMambaConfig,
    HyenaConfig,
    Mamba2Config,
    S4Config,
)
from dnamamba.models.mixers.protocol import KINDS

# (d_model, blocks): figure 5 of the Mamba paper, where each of its blocks counts as two of Mamba's,
# named after Mamba's parameters; and a small one that trains within minutes on a CPU.
_SIZES = {
    "demo": (64, 2),
    "260k": (64, 4),
    "680k": (96, 5),
    "1.4m": (128, 6),
    "3.5m": (192, 7),
    "7m": (256, 8),
    "19m": (384, 10),
    "41m": (512, 12),
}


def _mamba(d_model: int, blocks: int) -> ModelConfig:
    return ModelConfig(d_model=d_model, n_layers=2 * blocks)


# Divides the width of every size; 64, which longer heads often have, does not divide 96.
_D_HEAD = 32


def _transformer(d_model: int, blocks: int) -> ModelConfig:
    """The Transformer of the same figure: GPT-2's block with rotary positions for learned ones."""
    return ModelConfig(
        d_model=d_model,
        n_layers=blocks,
        norm="layer",
        mixer=AttentionConfig(n_heads=d_model // _D_HEAD, bias=True),
        mlp=MlpConfig(bias=True),
    )


def _llama(d_model: int, blocks: int) -> ModelConfig:
    """Llama's block: RMSNorm, SwiGLU of 8/3 d_model to the nearest multiple of 32, no biases."""
    return ModelConfig(
        d_model=d_model,
        n_layers=blocks,
        mixer=AttentionConfig(n_heads=d_model // _D_HEAD),
        mlp=MlpConfig(activation="swiglu", d_hidden=32 * round(d_model / 12)),
    )


def _hyena(d_model: int, blocks: int) -> ModelConfig:
    """As the Mamba paper trained it: in the shell of its other models, not in HyenaDNA's own."""
    return ModelConfig(d_model=d_model, n_layers=blocks, mixer=HyenaConfig(), mlp=MlpConfig())


def _mamba2(d_model: int, blocks: int) -> ModelConfig:
    # With upstream's 128 states the smallest would have a third more parameters than they are named
    # after, two fifths of them for B and C; with 64 all stay within 6%.
    return ModelConfig(d_model=d_model, n_layers=2 * blocks, mixer=Mamba2Config(d_state=64))


def _caduceus_ph(d_model: int, blocks: int) -> ModelConfig:
    """Mamba in both directions, for training with random strands; "7m" has the sizes of the
    published model of 131k bases."""
    return ModelConfig(d_model=d_model, n_layers=2 * blocks, mixer=BiMambaConfig())


def _caduceus_ps(d_model: int, blocks: int) -> ModelConfig:
    """The same on both strands, with the same weights and so as many."""
    return replace(_caduceus_ph(d_model, blocks), strands="both")


def _mamba_s4(d_model: int, blocks: int) -> ModelConfig:
    return ModelConfig(d_model=d_model, n_layers=2 * blocks, mixer=S4Config())


# By a name without its size: what makes a config of d_model and the paper's blocks.
_FAMILIES: dict[str, Callable[[int, int], ModelConfig]] = {
    "mamba": _mamba,
    "transformer": _transformer,
    "llama": _llama,
    "hyena": _hyena,
    "mamba2": _mamba2,
    "caduceus-ph": _caduceus_ph,
    "caduceus-ps": _caduceus_ps,
    "mamba-s4": _mamba_s4,
}


def _hyenadna(d_model: int, n_layers: int, max_length: int) -> ModelConfig:
    """HyenaDNA as published: filters for max_length tokens and two special ones."""
    return ModelConfig(
        d_model=d_model,
        n_layers=n_layers,
        norm="layer",
        mixer=HyenaConfig(l_max=max_length + 2),
        mlp=MlpConfig(bias=True),
    )


# Models by names of their own.
_PUBLISHED = {
    "hyenadna-tiny-1k": _hyenadna(128, 2, 1024),
    "hyenadna-tiny-1k-d256": _hyenadna(256, 2, 1024),
    "hyenadna-tiny-16k-d128": _hyenadna(128, 2, 16_384),
    "hyenadna-small-32k": _hyenadna(256, 4, 32_768),
    "hyenadna-medium-160k": _hyenadna(256, 8, 160_000),
    "hyenadna-medium-450k": _hyenadna(256, 8, 450_000),
    "hyenadna-large-1m": _hyenadna(256, 8, 1_000_000),
}


def preset_names() -> list[str]:
    """The names `preset` knows, family by family, small to large, then published models."""
    return [f"{family}-{size}" for family in _FAMILIES for size in _SIZES] + [*_PUBLISHED]


def preset(name: str, seq_len: int | None = None) -> ModelConfig:
    """The config of a named model. Raises InputError, listing the names, for any other.

    seq_len: the longest sequences it is to be trained on. Hyena's filters are then made for that
    length (l_max), as the Mamba paper's were; None makes them for 2^20, which any shorter sequence
    sees the start of. A published model keeps its own. Mamba has no such length.
    """
    if name not in preset_names():
        raise InputError(f"no model is called {name!r}; there are {', '.join(preset_names())}")
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    family, size = name.rsplit("-", 1)
    config = _FAMILIES[family](*_SIZES[size])
    if seq_len is not None and isinstance(config.mixer, HyenaConfig):
        config = replace(config, mixer=replace(config.mixer, l_max=seq_len))
    return config


def count_parameters(config: ModelConfig) -> int:
    """Trainable parameters, a tied head counted once, in closed form."""
    d_model = config.d_model
    norm = d_model * (2 if config.norm == "layer" else 1)
    block = norm + KINDS[type(config.mixer)].count_parameters(d_model, config.mixer)
    if config.mlp is not None:
        block += norm + _count_mlp(d_model, config.mlp)
    embeddings = config.padded_vocab_size * d_model * (1 if config.tie_embeddings else 2)
    return config.n_layers * block + embeddings + norm


def _count_mlp(d_model: int, config: MlpConfig) -> int:
    assert config.d_hidden is not None, "ModelConfig fills in d_hidden"
    d_first = config.d_hidden * (2 if config.activation == "swiglu" else 1)
    biases = d_first + d_model if config.bias else 0
    return d_first * d_model + config.d_hidden * d_model + biases
