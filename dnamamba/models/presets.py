"""Named sizes of models."""

from collections.abc import Callable
from dataclasses import replace

from dnamamba.errors import InputError
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import MlpConfig
from dnamamba.models.mixers.attention import AttentionConfig
from dnamamba.models.mixers.bimamba import BiMambaConfig
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.mamba import MambaConfig
from dnamamba.models.mixers.mamba2 import Mamba2Config
from dnamamba.models.mixers.s4 import S4Config

# (d_model, blocks) of figure 5 of the Mamba paper, where a block counts as two of Mamba's, named
# after Mamba's parameters; and a small one that trains within minutes on a CPU.
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


def _attention(d_model: int, bias: bool = False) -> AttentionConfig:
    # Heads of 32 divide the width of every size; of 64, which is more usual, not 96.
    return AttentionConfig(n_heads=d_model // 32, bias=bias)


def _transformer(d_model: int, blocks: int) -> ModelConfig:
    """The Transformer of the same figure: GPT-2's block with rotary positions for learned ones."""
    return ModelConfig(
        d_model=d_model,
        n_layers=blocks,
        norm="layer",
        mixer=_attention(d_model, bias=True),
        mlp=MlpConfig(bias=True),
    )


def _llama(d_model: int, blocks: int) -> ModelConfig:
    """Llama's block: RMSNorm, SwiGLU of 8/3 d_model to the nearest multiple of 32, no biases."""
    return ModelConfig(
        d_model=d_model,
        n_layers=blocks,
        mixer=_attention(d_model),
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


def _mamba_attention(d_model: int, blocks: int) -> ModelConfig:
    """One block in eight with attention, as in Jamba (arXiv 2403.19887); here the fourth, so that
    the smallest model has one too, without Jamba's MLPs, and with rotary positions."""
    pattern = (*(MambaConfig(),) * 3, _attention(d_model), *(MambaConfig(),) * 4)
    layers = pattern[: 2 * blocks]
    return ModelConfig(d_model=d_model, n_layers=2 * blocks, layers=layers)


def _striped_hyena(d_model: int, blocks: int) -> ModelConfig:
    """Hyena and attention in turn, as StripedHyena (Together AI 2023), in the shell of `_hyena`."""
    layers = (HyenaConfig(), _attention(d_model))
    return ModelConfig(d_model=d_model, n_layers=blocks, layers=layers, mlp=MlpConfig())


# By a name without its size: the config for d_model and the paper's blocks.
_FAMILIES: dict[str, Callable[[int, int], ModelConfig]] = {
    "mamba": _mamba,
    "transformer": _transformer,
    "llama": _llama,
    "hyena": _hyena,
    "mamba2": _mamba2,
    "caduceus-ph": _caduceus_ph,
    "caduceus-ps": _caduceus_ps,
    "mamba-s4": _mamba_s4,
    "mamba-attention": _mamba_attention,
    "striped-hyena": _striped_hyena,
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
    """Names that `preset` takes, family by family, small to large, then published models."""
    return [f"{family}-{size}" for family in _FAMILIES for size in _SIZES] + [*_PUBLISHED]


def preset(name: str, seq_len: int | None = None) -> ModelConfig:
    """The config of a named model. Raises InputError, listing the names, for any other.

    seq_len: the longest sequences it is to be trained on. Hyena's filters are then made for that
    length (l_max), as the Mamba paper's were; None makes them for 2^20, of which shorter sequences
    see the start. Published models keep their own.
    """
    if name not in preset_names():
        raise InputError(f"no model is called {name!r}; there are {', '.join(preset_names())}")
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    family, size = name.rsplit("-", 1)
    config = _FAMILIES[family](*_SIZES[size])
    return config if seq_len is None else config.map_mixers(lambda m: m.for_length(seq_len))
