"""What a model is made of; `configs.to_dict` and `configs.from_dict` write and read it."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dnamamba.errors import InputError
from dnamamba.models.mixers.configs import (
    AttentionConfig,
    Mamba2Config,
    MambaConfig,
    MixerConfig,
    SelectiveConfig,
    check_above_zero,
    check_choice,
    check_positive,
)
from dnamamba.tokenizer import COMPLEMENT_TABLE, LAST_BASE_ID, VOCABULARY


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
            check_positive("MlpConfig", "d_hidden", self.d_hidden)


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
    """What mixes positions; what it leaves open (dt_rank, d_head) is a number once the model's
    config is made."""

    mlp: MlpConfig | None = None
    """What follows each mixer; Mamba's blocks have none."""

    strands: Literal["one", "both"] = "one"
    """both: the blocks run on the tokens and, with the same weights, on their reverse complement;
    logits are of both, so that those of the other strand are the same, complemented (Caduceus-PS,
    arXiv 2403.03234)."""

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layers", "vocab_size", "padded_vocab_size"):
            check_positive("ModelConfig", name, getattr(self, name))
        if self.padded_vocab_size < self.vocab_size:
            raise InputError(
                f"ModelConfig: padded_vocab_size {self.padded_vocab_size} must be at least "
                f"vocab_size {self.vocab_size}"
            )
        check_above_zero("ModelConfig", "norm_eps", self.norm_eps)
        check_choice("ModelConfig", "strands", self.strands, ("one", "both"))
        has_complements = self.vocab_size > LAST_BASE_ID
        has_complements &= self.padded_vocab_size <= COMPLEMENT_TABLE.size
        if self.strands == "both" and not has_complements:
            raise InputError(
                "ModelConfig: strands 'both' needs this project's token ids, of which there are "
                f"{VOCABULARY.size}, so that bases have complements; got vocab_size "
                f"{self.vocab_size} and padded_vocab_size {self.padded_vocab_size}"
            )
        if isinstance(self.mixer, SelectiveConfig) and self.mixer.dt_rank == "auto":
            resolved = replace(self.mixer, dt_rank=math.ceil(self.d_model / 16))
            object.__setattr__(self, "mixer", resolved)
        if isinstance(self.mixer, AttentionConfig):
            object.__setattr__(self, "mixer", self.mixer.fill_in(self.d_model))
        if isinstance(self.mixer, Mamba2Config):
            self.mixer.count_heads(self.d_model)
        if self.mlp is not None and self.mlp.d_hidden is None:
            object.__setattr__(self, "mlp", replace(self.mlp, d_hidden=4 * self.d_model))

    @property
    def has_causal_mixer(self) -> bool:
        """Whether a mixer's output depends on what came before alone."""
        return getattr(self.mixer, "is_causal", True)
