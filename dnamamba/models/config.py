"""What a model is made of; `configs.to_dict` and `configs.from_dict` write and read it."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dnamamba.errors import InputError
from dnamamba.tokenizer import VOCABULARY


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """The Mamba mixer (arXiv 2312.00752); defaults are those of state-spaces/mamba."""

    kind: Literal["mamba"] = "mamba"
    """Which mixer a stored config is about."""

    expand: int = 2
    """Inner width over d_model."""

    d_state: int = 16
    """States a channel."""

    d_conv: int = 4
    """Taps of the causal convolution."""

    dt_rank: int | Literal["auto"] = "auto"
    """Rank of the step size's projection; auto: ceil(d_model / 16), filled in by `ModelConfig`."""

    dt_min: float = 1e-3
    """Step sizes start log-uniform from here,"""

    dt_max: float = 0.1
    """up to here,"""

    dt_init_floor: float = 1e-4
    """and never below this."""

    conv_bias: bool = True
    """Whether the convolution has a bias."""

    bias: bool = False
    """Whether the projections in and out have biases."""

    def __post_init__(self) -> None:
        for name in ("expand", "d_state", "d_conv"):
            _check_positive("MambaConfig", name, getattr(self, name))
        if self.dt_rank != "auto":
            _check_positive("MambaConfig", "dt_rank", self.dt_rank)
        if not 0 < self.dt_min <= self.dt_max or self.dt_init_floor <= 0:
            raise InputError(
                "MambaConfig needs 0 < dt_min <= dt_max and dt_init_floor > 0, got "
                f"dt_min {self.dt_min}, dt_max {self.dt_max}, dt_init_floor {self.dt_init_floor}"
            )


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """The Mamba-2 mixer (arXiv 2405.21060); defaults are those of state-spaces/mamba."""

    kind: Literal["mamba2"] = "mamba2"
    """Which mixer a stored config is about."""

    expand: int = 2
    """Inner width over d_model."""

    d_state: int = 128
    """States a channel."""

    d_conv: int = 4
    """Taps of the causal convolution."""

    d_head: int = 64
    """Channels that share a step size and a decay; it divides the inner width."""

    n_groups: int = 1
    """Groups of heads that share B, C and the gated norm's statistics; it divides the heads."""

    chunk_size: int = 256
    """Steps that meet each other in one matrix product; it changes speed, not results."""

    dt_min: float = 1e-3
    """Step sizes start log-uniform from here,"""

    dt_max: float = 0.1
    """up to here,"""

    dt_init_floor: float = 1e-4
    """and never below this."""

    dt_limit: tuple[float, float] | None = None
    """Step sizes are clamped between these, always; None: they are not."""

    A_init_range: tuple[float, float] = (1.0, 16.0)
    """Each head's -A starts uniform between these."""

    norm_before_gate: bool = False
    """Norm the scan's output and then gate it, rather than norm what is gated."""

    norm_eps: float = 1e-5
    """Added to the mean square in the gated norm."""

    conv_bias: bool = True
    """Whether the convolution has a bias."""

    bias: bool = False
    """Whether the projections in and out have biases."""

    def __post_init__(self) -> None:
        for name in ("expand", "d_state", "d_conv", "d_head", "n_groups", "chunk_size"):
            _check_positive("Mamba2Config", name, getattr(self, name))
        if not 0 < self.dt_min <= self.dt_max or self.dt_init_floor <= 0:
            raise InputError(
                "Mamba2Config needs 0 < dt_min <= dt_max and dt_init_floor > 0, got "
                f"dt_min {self.dt_min}, dt_max {self.dt_max}, dt_init_floor {self.dt_init_floor}"
            )
        if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
            raise InputError(
                "Mamba2Config: A_init_range is two numbers above 0, the smaller first, got "
                f"{self.A_init_range}"
            )
        if self.dt_limit is not None and not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise InputError(
                "Mamba2Config: dt_limit is two numbers of at least 0, the smaller first, got "
                f"{self.dt_limit}"
            )

    def count_heads(self, d_model: int) -> int:
        """Heads of a mixer of a width. Raises InputError where they or the groups are not whole."""
        d_inner = self.expand * d_model
        if d_inner % self.d_head or (d_inner // self.d_head) % self.n_groups:
            raise InputError(
                f"Mamba2Config: d_inner {d_inner} (expand {self.expand} times d_model {d_model}) "
                f"must be whole heads of d_head {self.d_head} in n_groups {self.n_groups} of the "
                "same size; change one of them"
            )
        return d_inner // self.d_head


MixerConfig = MambaConfig | Mamba2Config
"""Any mixer's config; a stored one is told by its `kind`."""


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """Two layers at every position, after the mixer, with a norm of their own."""

    activation: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu_tanh"
    """gelu_tanh is GELU's approximation by tanh; swiglu gates one half of the hidden layer with
    SiLU of the other."""

    d_hidden: int | None = None
    """Width in between; None: 4 d_model, filled in by `ModelConfig`."""

    bias: bool = False
    """Whether both layers have biases."""

    def __post_init__(self) -> None:
        if self.d_hidden is not None:
            _check_positive("MlpConfig", "d_hidden", self.d_hidden)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An embedding, a stack of blocks around one kind of mixer, and a language model head."""

    d_model: int
    """Width of the residual stream."""

    n_layers: int
    """Blocks."""

    vocab_size: int = VOCABULARY.size
    """Token ids in use."""

    padded_vocab_size: int = VOCABULARY.padded_size
    """Rows of the embedding and of the head; the logits of those not in use are -inf."""

    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with a bias."""

    norm_eps: float = 1e-5
    """Added to the mean square, or to the variance."""

    residual_in_fp32: bool = True
    """Keep the residual stream in float32 under bf16 autocast."""

    tie_embeddings: bool = True
    """Whether the head's weight is the embedding's."""

    mixer: MixerConfig = field(default_factory=MambaConfig)
    """What mixes positions; its dt_rank is a number once the model's config is made."""

    mlp: MlpConfig | None = None
    """What follows each mixer; Mamba's blocks have none."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "vocab_size", "padded_vocab_size"):
            _check_positive("ModelConfig", name, getattr(self, name))
        if self.padded_vocab_size < self.vocab_size:
            raise InputError(
                f"ModelConfig: padded_vocab_size {self.padded_vocab_size} must be at least "
                f"vocab_size {self.vocab_size}"
            )
        if isinstance(self.mixer, MambaConfig) and self.mixer.dt_rank == "auto":
            resolved = replace(self.mixer, dt_rank=math.ceil(self.d_model / 16))
            object.__setattr__(self, "mixer", resolved)
        if isinstance(self.mixer, Mamba2Config):
            self.mixer.count_heads(self.d_model)
        if self.mlp is not None and self.mlp.d_hidden is None:
            object.__setattr__(self, "mlp", replace(self.mlp, d_hidden=4 * self.d_model))


def _check_positive(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{owner}: {name} is a whole number of at least 1, got {value!r}")
