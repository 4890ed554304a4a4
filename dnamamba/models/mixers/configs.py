"""What each kind of mixer is made of, and the checks that all configs share."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from dnamamba.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig:
    """What Mamba in one direction and in both have in common; defaults of state-spaces/mamba."""

    kind: str
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
            check_positive(type(self).__name__, name, getattr(self, name))
        if self.dt_rank != "auto":
            check_positive(type(self).__name__, "dt_rank", self.dt_rank)
        if not 0 < self.dt_min <= self.dt_max or self.dt_init_floor <= 0:
            raise InputError(
                f"{type(self).__name__} needs 0 < dt_min <= dt_max and dt_init_floor > 0, got "
                f"dt_min {self.dt_min}, dt_max {self.dt_max}, dt_init_floor {self.dt_init_floor}"
            )


@dataclass(frozen=True, kw_only=True)
class MambaConfig(SelectiveConfig):
    """The Mamba mixer (arXiv 2312.00752); defaults are those of state-spaces/mamba."""

    kind: Literal["mamba"] = "mamba"
    """Which mixer a stored config is about."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Multi-head softmax attention with rotary positions (arXiv 1706.03762, 2104.09864)."""

    kind: Literal["attention"] = "attention"
    """Which mixer a stored config is about."""

    n_heads: int
    """Heads of the queries."""

    n_kv_heads: int | None = None
    """Heads of the keys and values, each for n_heads / n_kv_heads heads of queries (grouped-query
    attention, arXiv 2305.13245); None: n_heads, filled in by `ModelConfig`."""

    d_head: int | None = None
    """Width of a head, even (on GPUs a multiple of 8, at most 256, or memory grows with the square
    of the length); None: d_model / n_heads, filled in by `ModelConfig`."""

    bias: bool = False
    """Whether the projection to queries, keys and values has a bias."""

    out_bias: bool | None = None
    """Whether the projection out has one; None: as `bias`, filled in by `ModelConfig`."""

    rope_theta: float = 10_000.0
    """Pair i of a head's n turns by rope_theta^(-i/n) radians a position."""

    is_causal: bool = True
    """Whether a position sees only itself and those before it."""

    def __post_init__(self) -> None:
        for name in ("n_heads", "n_kv_heads", "d_head"):
            if name == "n_heads" or getattr(self, name) is not None:
                check_positive("AttentionConfig", name, getattr(self, name))
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise InputError(
                f"AttentionConfig: n_heads {self.n_heads} must be a multiple of n_kv_heads "
                f"{self.n_kv_heads}"
            )
        if self.d_head is not None and self.d_head % 2:
            raise InputError(
                f"AttentionConfig: d_head {self.d_head} must be even, as rotary positions turn "
                "pairs"
            )
        if not self.rope_theta > 0:
            raise InputError(f"AttentionConfig: rope_theta {self.rope_theta} must be above 0")

    def fill_in(self, d_model: int) -> "AttentionConfig":
        """The same with every None decided, for a model of this width."""
        if self.d_head is None and d_model % self.n_heads:
            raise InputError(
                f"AttentionConfig: d_model {d_model} must be a multiple of n_heads {self.n_heads}, "
                "or give d_head"
            )
        return replace(
            self,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            d_head=self.d_head or d_model // self.n_heads,
            out_bias=self.bias if self.out_bias is None else self.out_bias,
        )

    @property
    def widths(self) -> tuple[int, int]:
        """Of all queries and of all keys at a position; only where all is filled in."""
        assert self.n_kv_heads is not None
        assert self.d_head is not None
        return self.n_heads * self.d_head, self.n_kv_heads * self.d_head


@dataclass(frozen=True, kw_only=True)
class HyenaConfig:
    """The Hyena operator (arXiv 2302.10866); defaults are those of HyenaDNA (arXiv 2306.15794)."""

    kind: Literal["hyena"] = "hyena"
    """Which mixer a stored config is about."""

    l_max: int = 1 << 20
    """Longest sequence. Filters are functions of position / l_max, from the present token to l_max
    tokens back, so a model trained with one l_max is no use with another, and one trained on short
    sequences with a large l_max sees little but the start of each filter: take the longest length
    of the training, plus 2 if special tokens go round it."""

    order: int = 2
    """Gates; there are order - 1 long convolutions."""

    d_conv: int = 3
    """Taps of the short convolution."""

    filter_order: int = 64
    """Width of the network that makes the filters of a position,"""

    filter_layers: int = 2
    """its layers of that width to that width, between the first and the last,"""

    emb_dim: int = 5
    """and its inputs: the position, and cosines and sines of it; odd, at least 3."""

    w: float = 10.0
    """Initial frequency of the network's sines; trained."""

    shift: float = 0.05
    """Filters are multiplied by a decay plus this. 0.05 in HyenaDNA's published models and in its
    standalone code, 0 in its training code."""

    beyond: Literal["refuse", "zero"] = "refuse"
    """Sequences longer than l_max are refused, or convolved with filters that are zero from l_max
    on, so that what a layer makes of a token depends on the l_max tokens up to it. A model trained
    on short sequences can so be trained on, or used, at any length."""

    def __post_init__(self) -> None:
        for name in ("l_max", "d_conv", "filter_order", "filter_layers"):
            check_positive("HyenaConfig", name, getattr(self, name))
        for name in ("w", "shift"):
            check_finite("HyenaConfig", name, getattr(self, name))
        if not isinstance(self.order, int) or self.order < 2:
            raise InputError(
                f"HyenaConfig: order is a whole number of at least 2, got {self.order!r}"
            )
        check_choice("HyenaConfig", "beyond", self.beyond, ("refuse", "zero"))
        if not isinstance(self.emb_dim, int) or self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise InputError(
                "HyenaConfig: emb_dim is odd and at least 3 (the position, and a cosine and a sine "
                f"of each frequency), got {self.emb_dim!r}"
            )


@dataclass(frozen=True, kw_only=True)
class BiMambaConfig(SelectiveConfig):
    """Mamba in both directions (Caduceus, arXiv 2403.03234)."""

    kind: Literal["bimamba"] = "bimamba"
    """Which mixer a stored config is about."""

    is_causal: ClassVar[bool] = False

    strategy: Literal["add", "ew_multiply"] = "add"
    """How the outputs of the two directions become one: their sum, or their product."""

    tie_projections: bool = True
    """Whether both directions share in_proj and out_proj; the rest each has for itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("BiMambaConfig", "strategy", self.strategy, ("add", "ew_multiply"))


@dataclass(frozen=True, kw_only=True)
class S4Config:
    """Mamba's block around a state space model that does not change with its input (S4D, arXiv
    2206.11893): the Mamba paper's ablation of selection."""

    kind: Literal["s4"] = "s4"
    """Which mixer a stored config is about."""

    init: Literal["real", "lin", "inv", "quad", "legs"] = "real"
    """Where A starts (models/mixers/s4.py, `initial_A`). real: -(n + 1), as in Mamba. lin and the
    others are complex, -1/2 + i pi n for lin, each state standing for a conjugate pair."""

    expand: int = 2
    """Inner width over d_model."""

    d_state: int = 16
    """States a channel; of complex ones half as many are kept, one of each conjugate pair."""

    d_conv: int = 4
    """Taps of the causal convolution."""

    dt_min: float = 1e-3
    """Step sizes, one a channel, start log-uniform from here,"""

    dt_max: float = 0.1
    """up to here."""

    conv_bias: bool = True
    """Whether the convolution has a bias."""

    bias: bool = False
    """Whether the projections in and out have biases."""

    def __post_init__(self) -> None:
        for name in ("expand", "d_state", "d_conv"):
            check_positive("S4Config", name, getattr(self, name))
        check_choice("S4Config", "init", self.init, ("real", "lin", "inv", "quad", "legs"))
        if self.init != "real" and self.d_state % 2:
            raise InputError(
                f"S4Config: with init {self.init!r} d_state is even, as states come in pairs; got "
                f"{self.d_state}"
            )
        if not 0 < self.dt_min <= self.dt_max:
            raise InputError(
                f"S4Config needs 0 < dt_min <= dt_max, got {self.dt_min} and {self.dt_max}"
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
            check_positive("Mamba2Config", name, getattr(self, name))
        check_above_zero("Mamba2Config", "norm_eps", self.norm_eps)
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


MixerConfig = MambaConfig | AttentionConfig | HyenaConfig | Mamba2Config | BiMambaConfig | S4Config
"""Any mixer's config; a stored one is told by its `kind`. One that may see what comes later has
`is_causal`, a field or a constant."""


def check_choice(owner: str, name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{owner}: {name} is one of {', '.join(choices)}, got {value!r}")


def check_positive(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{owner}: {name} is a whole number of at least 1, got {value!r}")


def check_finite(owner: str, name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{owner}: {name} is a finite number, got {value!r}")


def check_above_zero(owner: str, name: str, value: Any) -> None:
    check_finite(owner, name, value)
    if value <= 0:
        raise InputError(f"{owner}: {name} is above 0, got {value!r}")
