"""Named sizes of models."""

from dataclasses import replace
from typing import Any

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


def _families(d_model: int) -> dict[str, dict[str, Any]]:
    """Settings of each family at a width; d_model and n_layers come on top."""
    # Heads of 32 divide the width of every size; of 64, which is more usual, not 96.
    attention = AttentionConfig(n_heads=d_model // 32)
    # 8/3 d_model to the nearest multiple of 32.
    swiglu = MlpConfig(activation="swiglu", d_hidden=32 * round(d_model / 12))
    # Hyena as the Mamba paper trained it: in its other models' shell, not HyenaDNA's.
    hyena = {"mixer": HyenaConfig(), "mlp": MlpConfig()}
    caduceus = {"mixer": BiMambaConfig()}
    return {
        "mamba": {"mixer": MambaConfig()},
        # The Transformer of the same figure: GPT-2's block with rotary positions for learned ones.
        "transformer": {
            "norm": "layer",
            "mixer": replace(attention, bias=True),
            "mlp": MlpConfig(bias=True),
        },
        "llama": {"mixer": attention, "mlp": swiglu},
        "hyena": hyena,
        # With upstream's 128 states the smallest would have a third more parameters than they are
        # named after; with 64 all stay within 6%.
        "mamba2": {"mixer": Mamba2Config(d_state=64)},
        # For training with random strands; "7m" has the sizes of the published model of 131k bases.
        "caduceus-ph": caduceus,
        "caduceus-ps": {**caduceus, "strands": "both"},
        "mamba-s4": {"mixer": S4Config()},
        # One block in eight with attention, as in Jamba (arXiv 2403.19887); here the fourth, so
        # that the smallest model has one, without MLPs and with rotary positions.
        "mamba-attention": {"layers": (*(MambaConfig(),) * 3, attention, *(MambaConfig(),) * 4)},
        # Hyena and attention in turn, as StripedHyena (Together AI 2023).
        "striped-hyena": {"layers": (HyenaConfig(), attention), "mlp": MlpConfig()},
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
    """Names that `preset` takes: families, small to large, then published models."""
    return [f"{family}-{size}" for family in _families(64) for size in _SIZES] + [*_PUBLISHED]


def preset(name: str, seq_len: int | None = None) -> ModelConfig:
    """The config of a named model. Raises InputError, listing the names, for any other.

    seq_len: the longest training sequences, for which Hyena's filters are made (l_max); None: 2^20,
    of which shorter sequences see the start. Published models keep their own.
    """
    if name not in preset_names():
        raise InputError(f"no model is called {name!r}; there are {', '.join(preset_names())}")
    if name in _PUBLISHED:
        return _PUBLISHED[name]
    family, size = name.rsplit("-", 1)
    d_model, blocks = _SIZES[size]
    settings = _families(d_model)[family]
    n_layers = blocks if "mlp" in settings else 2 * blocks
    if "layers" in settings:
        settings["layers"] = settings["layers"][:n_layers]
    config = ModelConfig(d_model=d_model, n_layers=n_layers, **settings)
    return config if seq_len is None else config.map_mixers(lambda m: m.for_length(seq_len))
