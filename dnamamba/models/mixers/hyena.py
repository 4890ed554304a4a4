"""The Hyena mixer: gates and long convolutions, whose filters a small network makes of position.

Parameter names and shapes are those of HyenaDNA (standalone_hyenadna.py), the sines' shared
frequency once. B batch, L seq_len, D d_model, K d_conv.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dnamamba.configs import require_fields, require_whole
from dnamamba.errors import InputError
from dnamamba.kernels import long_conv
from dnamamba.kernels.longconv.reference import apply_window
from dnamamba.models.layers import Linear, ShortConv
from dnamamba.models.mixers.protocol import Mixer, MixerConfig, MixerState, long_conv_flops

INITIAL_STD = 0.02

# A layer keeps 1.5 KiB a position of the network that makes its filters, 0.4 GiB for so many.
_KEPT_POSITIONS = 1 << 18

# At the last position the slowest filter has decayed to TARGET to the power of 1 / SLOW, the
# fastest to TARGET to the power of 1 / FAST.
_TARGET, _SLOW, _FAST = 0.01, 1.5, 0.3


@dataclass(frozen=True, kw_only=True)
class HyenaConfig(MixerConfig):
    """The Hyena operator (arXiv 2302.10866); defaults of HyenaDNA (arXiv 2306.15794)."""

    peak_learning_rate = 2e-3
    fine_tuning_learning_rate = 4e-5

    kind: Literal["hyena"] = "hyena"

    l_max: int = 1 << 20
    """Longest sequence. Filters are functions of position / l_max, so l_max is part of a trained
    model: take the longest training length, plus 2 if special tokens go round it. Training on
    sequences far below l_max trains only the start of each filter."""

    order: int = 2
    """Gates; there are order - 1 long convolutions."""

    d_conv: int = 3
    """Taps of the short convolution."""

    filter_order: int = 64
    """Width of the network that computes the filters from the position,"""

    filter_layers: int = 2
    """its layers of that width to that width, between the first and the last,"""

    emb_dim: int = 5
    """and its inputs: position, cosines and sines; odd, at least 3."""

    w: float = 10.0
    """Initial frequency of the network's sines; trained."""

    shift: float = 0.05
    """Filters are multiplied by a decay plus this: 0.05 in HyenaDNA's published models, 0 in its
    training code."""

    beyond: Literal["refuse", "zero"] = "refuse"
    """Sequences longer than l_max are refused, or filters are zero from l_max on, so that a layer's
    output depends on the last l_max tokens."""

    def __post_init__(self) -> None:
        require_whole("HyenaConfig: order", self.order, 2)
        require_fields(self)
        if self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise InputError(
                "HyenaConfig: emb_dim must be odd and >= 3 (the position, and a cosine and a sine "
                f"of each frequency), got {self.emb_dim!r}"
            )

    @property
    def max_len(self) -> int | None:
        return self.l_max if self.beyond == "refuse" else None

    def for_length(self, seq_len: int) -> Self:
        return replace(self, l_max=seq_len)

    def count_parameters(self, d_model: int) -> int:
        width, n_filters = (self.order + 1) * d_model, (self.order - 1) * d_model
        projections = width * (d_model + 1) + d_model * (d_model + 1)
        short_conv = width * (self.d_conv + 1)
        biases = self.filter_order * (1 + self.filter_layers)
        # The sines' frequencies come last, and the filters' biases.
        network = self._count_network(n_filters) + biases
        return projections + short_conv + network + self.filter_order + n_filters

    def flops(self, d_model: int, seq_len: int) -> int:
        n_filters = (self.order - 1) * d_model
        token = 2 * (self.order + 2) * d_model**2 + 2 * (self.order + 1) * d_model * self.d_conv
        # The filters are computed anew for each pass; a batch shares them.
        filters = 2 * min(seq_len, self.l_max) * self._count_network(n_filters)
        return seq_len * token + filters + long_conv_flops(n_filters, seq_len)

    def _count_network(self, n_filters: int) -> int:
        return self.filter_order * (
            self.emb_dim + self.filter_layers * self.filter_order + n_filters
        )


class Positions(NamedTuple):
    """Inputs of the filters' network at the first L positions.

    t: position / (l_max - 1) (L, 1). z: t, and its cosines and sines (L, emb_dim).
    """

    t: Tensor
    z: Tensor


class Hyena(Mixer):
    """(B, L, D) to (B, L, D), each position seeing up to l_max before it.

    The last of order + 1 projections goes through order - 1 long convolutions; it is multiplied by
    another projection before each and after the last.

    Source: Poli et al. 2023 (arXiv 2302.10866), Nguyen et al. 2023 (arXiv 2306.15794).
    """

    no_weight_decay = frozenset({"filter_fn"})

    def __init__(self, d_model: int, config: HyenaConfig) -> None:
        super().__init__()
        self.d_model, self.order = d_model, config.order
        self.l_max, self.beyond = config.l_max, config.beyond
        width = (config.order + 1) * d_model
        self.in_proj = Linear(d_model, width)
        self.short_filter = ShortConv(width, config.d_conv, silu=False)
        self.filter_fn = ImplicitFilter((config.order - 1) * d_model, config)
        self.out_proj = Linear(d_model, d_model)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values as upstream: N(0, 0.02^2) and no bias, except the short convolution."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=INITIAL_STD)
                if module.bias is not None:
                    module.bias.zero_()

    def forward(
        self, x: Tensor, state: MixerState | None = None, return_state: bool = False
    ) -> tuple[Tensor, None]:
        """See `Mixer`. Raises InputError for more than l_max positions and for a state."""
        self._refuse_state(state, return_state)
        self._check_length(x.shape[1])
        projected, _ = self.short_filter(self.in_proj(x))
        *gates, v = projected.split(self.d_model, dim=-1)
        made, decays = self.filter_fn.before_decay(min(x.shape[1], self.l_max))
        if (missing := x.shape[1] - len(made)) > 0:
            made = functional.pad(made, (0, 0, 0, missing))  # [L, (order - 1) D]
        filters, biases = made.split(self.d_model, dim=-1), self.filter_fn.bias.split(self.d_model)
        for index, (k, skip) in enumerate(zip(filters, biases, strict=True)):
            window: dict[str, Any] = {}
            if decays is not None:
                decay = decays[index * self.d_model : (index + 1) * self.d_model]
                window = {"decay": decay, "shift": self.filter_fn.shift}
            gate_out = gates[0] if index == self.order - 2 else None
            v = long_conv(v, k, skip, gate_in=gates.pop(), gate_out=gate_out, **window)
        return self.out_proj(v), None

    def _check_length(self, seq_len: int) -> None:
        if seq_len > self.l_max and self.beyond == "refuse":
            raise InputError(
                f"a sequence of {seq_len:,} tokens is longer than this Hyena's filters, made "
                f"for l_max = {self.l_max:,}: use shorter sequences, train a model with a larger "
                "l_max, or have its filters end there (HyenaConfig.beyond = 'zero')"
            )


class ImplicitFilter(nn.Module):
    """Filters of n_filters channels: k(t) = network(z(t)) * (exp(-|delta| t) + shift), delta evenly
    spaced over the channels. The first L positions do not depend on L."""

    t: Tensor | None
    z: Tensor | None
    deltas: Tensor | None

    def __init__(self, n_filters: int, config: HyenaConfig) -> None:
        super().__init__()
        self.n_filters, self.l_max = n_filters, config.l_max
        self.emb_dim, self.shift = config.emb_dim, config.shift
        self.bias = nn.Parameter(torch.randn(n_filters))
        width = config.filter_order
        layers: dict[str, nn.Module] = {"0": nn.Linear(config.emb_dim, width), "1": Sine(config)}
        for index in range(1, config.filter_layers + 1):
            layers[str(2 * index)] = nn.Linear(width, width)
        layers[str(2 * config.filter_layers + 2)] = nn.Linear(width, n_filters, bias=False)
        # Numbered as upstream's list, in which one sine stands after each layer but the last.
        self.implicit_filter = nn.ModuleDict(layers)
        for name in ("t", "z", "deltas"):
            self.register_buffer(name, None, persistent=False)

    def forward(self, seq_len: int) -> Tensor:
        """The filters (L, n_filters), float32 despite autocast (float64 in such a model)."""
        filters, decay = self.before_decay(seq_len)
        return filters if decay is None else apply_window(filters, decay, self.shift)

    def before_decay(self, seq_len: int) -> tuple[Tensor, Tensor | None]:
        """The network's output (L, n_filters), recomputed by the backward if long, and the decay a
        position (n_filters,) for `long_conv`; None if loaded positions have applied it."""
        if seq_len <= _KEPT_POSITIONS:
            filters = self._compute(seq_len)
        else:
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            filters = checkpoint(self._compute, seq_len, **options)
        if self.t is None:
            return filters, self.decays() / max(1, self.l_max - 1)
        decay = torch.exp(-self.t[:seq_len] * self.decays()) + self.shift
        return filters * decay.to(filters.dtype), None

    def _compute(self, seq_len: int) -> Tensor:
        device = self.bias.device
        dtype = torch.promote_types(self.bias.dtype, torch.float32)
        with torch.autocast(device.type, enabled=False):
            hidden = self.positions(seq_len).z.to(dtype)
            frequency = cast(Sine, self.implicit_filter["1"]).freq.to(dtype).squeeze(0)
            *linears, last = (m for m in self.implicit_filter.values() if isinstance(m, nn.Linear))
            for linear in linears:
                # The sine's frequency multiplies 64 rows of weights rather than L positions.
                weight = linear.weight.to(dtype) * frequency.unsqueeze(1)
                hidden = functional.linear(hidden, weight, linear.bias.to(dtype) * frequency).sin()
            return functional.linear(hidden, last.weight.to(dtype))

    def positions(self, seq_len: int) -> Positions:
        """In float64, unless loaded. Computed at every call: 2^20 positions would take 24 MiB a
        layer."""
        if self.t is not None and self.z is not None:
            return Positions(self.t[:seq_len], self.z[:seq_len])
        index = torch.arange(seq_len, dtype=torch.float64, device=self.bias.device).unsqueeze(1)
        t = index / max(1, self.l_max - 1)
        bands = (self.emb_dim - 1) // 2
        options: dict[str, Any] = {"dtype": torch.float64, "device": index.device}
        frequencies = torch.linspace(1e-4, bands - 1, bands, **options)
        angles = index * (2 * math.pi / self.l_max) * frequencies
        return Positions(t, torch.cat([t, angles.cos(), -angles.sin()], dim=-1))

    def decays(self) -> Tensor:
        """|delta| of each channel (n_filters,), in float64 unless they were loaded."""
        if self.deltas is not None:
            return self.deltas.abs()
        slow, fast = math.log(_TARGET) / _SLOW, math.log(_TARGET) / _FAST
        options: dict[str, Any] = {"dtype": torch.float64, "device": self.bias.device}
        return torch.linspace(slow, fast, self.n_filters, **options).abs()

    def load_positions(self, t: Tensor, z: Tensor, deltas: Tensor) -> None:
        """Use the positions of upstream's files, for comparisons in float64; they are not saved. t:
        (l_max, 1), z: (l_max, emb_dim), deltas: (n_filters,)."""
        self.t, self.z, self.deltas = (part.to(self.bias.device) for part in (t, z, deltas))


class Sine(nn.Module):
    """Holds freq of sin(freq * x), (1, filter_order)."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, config.filter_order), float(config.w)))
