"""What a model is made of; `configs.to_dict` and `configs.from_dict` write and read it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from dnamamba.configs import OMIT_DEFAULT, require_fields, require_number
from dnamamba.errors import InputError
from dnamamba.models.layers import MlpConfig
from dnamamba.models.mixers.mamba import MambaConfig
from dnamamba.models.mixers.protocol import MixerConfig
from dnamamba.tokenizer import COMPLEMENT_TABLE, LAST_BASE_ID, VOCABULARY


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An embedding, a stack of blocks around mixers, and a language model head."""

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

    mixer: MixerConfig | None = field(default=None, metadata=OMIT_DEFAULT)
    """Mixer of every block, open sizes (dt_rank, d_head) filled in; None: MambaConfig(), or
    `layers`."""

    layers: tuple[MixerConfig, ...] = field(default=(), metadata=OMIT_DEFAULT)
    """Mixers of a hybrid, instead of `mixer`: a pattern repeated, and cut off, to n_layers blocks.
    A pattern of equal mixers becomes `mixer`."""

    mlp: MlpConfig | None = None
    """What follows each mixer; Mamba's blocks have none."""

    strands: Literal["one", "both"] = "one"
    """both: the blocks run on the tokens and, with the same weights, on their reverse complement,
    whose logits are the same, complemented (Caduceus-PS, arXiv 2403.03234)."""

    def __post_init__(self) -> None:
        require_fields(self)
        require_number("ModelConfig: norm_eps", self.norm_eps, above=0)
        if self.padded_vocab_size < self.vocab_size:
            raise InputError(
                f"ModelConfig: padded_vocab_size {self.padded_vocab_size} must be at least "
                f"vocab_size {self.vocab_size}"
            )
        has_complements = self.vocab_size > LAST_BASE_ID
        has_complements &= self.padded_vocab_size <= COMPLEMENT_TABLE.size
        if self.strands == "both" and not has_complements:
            raise InputError(
                "ModelConfig: strands 'both' needs this project's token ids, of which there are "
                f"{VOCABULARY.size}, so that bases have complements; got vocab_size "
                f"{self.vocab_size} and padded_vocab_size {self.padded_vocab_size}"
            )
        self._resolve_mixers()
        if self.mlp is not None and self.mlp.d_hidden is None:
            object.__setattr__(self, "mlp", replace(self.mlp, d_hidden=4 * self.d_model))

    def _resolve_mixers(self) -> None:
        if self.mixer is not None and self.layers:
            raise InputError(
                "ModelConfig: give mixer (one for every block) or layers (a pattern), not both"
            )
        if len(self.layers) > self.n_layers:
            raise InputError(
                f"ModelConfig: a pattern of {len(self.layers)} layers must fit into n_layers "
                f"{self.n_layers}"
            )
        pattern = self.layers or (self.mixer or MambaConfig(),)
        for mixer in pattern:
            if not isinstance(mixer, MixerConfig):
                raise InputError(
                    f"ModelConfig: a mixer must be a config such as MambaConfig(), got {mixer!r}"
                )
        resolved = tuple(mixer.resolve(self.d_model) for mixer in pattern)
        is_plain = len(set(resolved)) == 1
        object.__setattr__(self, "mixer", resolved[0] if is_plain else None)
        object.__setattr__(self, "layers", () if is_plain else resolved)

    @property
    def mixers(self) -> tuple[MixerConfig, ...]:
        """The mixer of each block."""
        pattern = self.layers or (self.mixer or MambaConfig(),)
        return tuple(pattern[index % len(pattern)] for index in range(self.n_layers))

    def map_mixers(self, change: Callable[[MixerConfig], MixerConfig]) -> "ModelConfig":
        """A copy with every mixer changed."""
        layers = tuple(map(change, self.layers or self.mixers[:1]))
        return replace(self, mixer=None, layers=layers)

    @property
    def mixer_kind(self) -> str:
        """Kind of the mixers: "mamba", or of a hybrid "mamba+attention"."""
        return "+".join(dict.fromkeys(mixer.kind for mixer in self.mixers))

    @property
    def is_causal(self) -> bool:
        """Whether an output depends only on the tokens up to its position, so that the next token
        can be learned and a state exists."""
        reads_ahead = any(mixer.reads_both_directions for mixer in self.mixers)
        return self.strands == "one" and not reads_ahead


def count_parameters(config: ModelConfig) -> int:
    """Trainable parameters, a tied head counted once, in closed form."""
    norm = config.d_model * (2 if config.norm == "layer" else 1)
    total = norm + config.padded_vocab_size * config.d_model * (1 if config.tie_embeddings else 2)
    for mixer in config.mixers:
        total += norm + mixer.count_parameters(config.d_model)
        if config.mlp is not None:
            total += norm + config.mlp.count_parameters(config.d_model)
    return total


def count_flops(config: ModelConfig, seq_len: int) -> int:
    """Floating point operations of a forward pass over one sequence, logits included, in closed
    form. A multiply-add is 2; a backward pass takes about twice as many.

    Matrix products, convolutions, scans and attention count (causal attention by the pairs that see
    each other); norms, activations, gates and biases do not.
    """
    weights = config.padded_vocab_size * config.d_model
    if config.mlp is not None:
        weights += config.n_layers * config.mlp.count_weights(config.d_model)
    mixers = sum(mixer.flops(config.d_model, seq_len) for mixer in config.mixers)
    return (2 if config.strands == "both" else 1) * (2 * weights * seq_len + mixers)
