"""The Mamba-2 mixer: short convolution, state space duality and a gated norm between projections.

Parameter names and shapes are those of state-spaces/mamba (mamba2.py). B batch, L seq_len, D
d_model, H heads, P d_head, G groups, N d_state, K d_conv; in code A, B, C and D are the state space
parameters.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from dnamamba.configs import require_number
from dnamamba.errors import InputError
from dnamamba.kernels import state_space_duality
from dnamamba.models.layers import (
    GatedNorm,
    Linear,
    ShortConv,
    draw_step_sizes,
    with_state,
    zero_biases,
)
from dnamamba.models.mixers.mamba import StateSpaceConfig
from dnamamba.models.mixers.protocol import Mixer


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(StateSpaceConfig):
    """The Mamba-2 mixer (arXiv 2405.21060); defaults of state-spaces/mamba."""

    kind: Literal["mamba2"] = "mamba2"

    d_state: int = 128
    """States a channel."""

    d_head: int = 64
    """Channels that share a step size and a decay; divides the inner width."""

    n_groups: int = 1
    """Groups of heads that share B, C and the gated norm's statistics; divides the heads."""

    chunk_size: int = 256
    """Steps that meet each other in one matrix product; changes speed, not results."""

    dt_init_floor: float = 1e-4
    """Least initial step size."""

    dt_limit: tuple[float, float] | None = None
    """Bounds that step sizes are always clamped to; None: no clamping."""

    A_init_range: tuple[float, float] = (1.0, 16.0)
    """Each head's -A starts uniform between these."""

    norm_before_gate: bool = False
    """Norm the scan's output, then gate it, rather than norm the gated output."""

    norm_eps: float = 1e-5
    """Added to the mean square in the gated norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm_eps", "dt_init_floor"):
            require_number(f"Mamba2Config: {name}", getattr(self, name), above=0)
        if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
            raise InputError(
                "Mamba2Config: A_init_range must be two numbers > 0, the smaller first, got "
                f"{self.A_init_range}"
            )
        if self.dt_limit is not None and not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise InputError(
                "Mamba2Config: dt_limit must be two numbers >= 0, the smaller first, got "
                f"{self.dt_limit}"
            )

    def resolve(self, d_model: int) -> Self:
        self.count_heads(d_model)
        return self

    def count_heads(self, d_model: int) -> int:
        """Heads at a width. Raises InputError if they or the groups are not whole."""
        d_inner = self.expand * d_model
        if d_inner % self.d_head or (d_inner // self.d_head) % self.n_groups:
            raise InputError(
                f"Mamba2Config: d_inner {d_inner} (expand {self.expand} times d_model {d_model}) "
                f"must be whole heads of d_head {self.d_head} in n_groups {self.n_groups} of the "
                "same size; change one of them"
            )
        return d_inner // self.d_head

    def count_channels(self, d_model: int) -> tuple[int, int, int]:
        """Channels: inner, convolved (x, B and C), and out of in_proj (z, those, step sizes)."""
        d_inner = self.expand * d_model
        convolved = d_inner + 2 * self.n_groups * self.d_state
        return d_inner, convolved, d_inner + convolved + self.count_heads(d_model)

    def count_parameters(self, d_model: int) -> int:
        d_inner, convolved, projected = self.count_channels(d_model)
        in_and_out = (projected + d_inner) * d_model + self.bias * (projected + d_model)
        conv = convolved * (self.d_conv + self.conv_bias)
        return in_and_out + conv + 3 * self.count_heads(d_model) + d_inner

    def flops(self, d_model: int, seq_len: int) -> int:
        d_inner, convolved, projected = self.count_channels(d_model)
        steps = min(self.chunk_size, seq_len)
        # Within a chunk C B^T of each group and its product with x; a chunk's states, and what
        # they add to its outputs.
        within = 2 * steps * (self.n_groups * self.d_state + d_inner)
        across = 4 * d_inner * self.d_state
        projections = 2 * d_model * (projected + d_inner)
        return seq_len * (projections + 2 * convolved * self.d_conv + within + across)


class Mamba2State(NamedTuple):
    """State after some tokens. conv: the convolution's last K - 1 inputs x, B, C, oldest first (B,
    K - 1, d_inner + 2 G N). ssm: (B, H, P, N), float32 (float64 in a float64 model)."""

    conv: Tensor
    ssm: Tensor


class Mamba2(Mixer):
    """(B, L, D) to (B, L, D), causal. Source: Dao and Gu 2024 (arXiv 2405.21060), section 7."""

    no_weight_decay = frozenset({"A_log", "D", "dt_bias", "norm"})

    ssd_backend = "auto"
    """Backend of `state_space_duality`; set it on mixers to choose another."""

    def __init__(self, d_model: int, config: Mamba2Config) -> None:
        super().__init__()
        self.config, self.n_heads = config, config.count_heads(d_model)
        self.d_inner, self.d_convolved, d_projected = config.count_channels(d_model)
        self.d_weights = config.n_groups * config.d_state  # width of B, and of C
        self.in_proj = Linear(d_model, d_projected, bias=config.bias)
        self.conv1d = ShortConv(self.d_convolved, config.d_conv, config.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.A_log = nn.Parameter(torch.empty(self.n_heads))
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedNorm(
            self.d_inner, config.norm_eps, config.n_groups, config.norm_before_gate
        )
        self.out_proj = Linear(self.d_inner, d_model, bias=config.bias)
        self.reset_parameters(config)

    @torch.no_grad()
    def reset_parameters(self, config: Mamba2Config) -> None:
        """Initial values as upstream: -A uniform, step sizes log-uniform, biases zero."""
        zero_biases(self.in_proj, self.out_proj)
        self.A_log.uniform_(*config.A_init_range).log_()
        draw_step_sizes(self.dt_bias, config.dt_min, config.dt_max, config.dt_init_floor)

    def forward(
        self, x: Tensor, state: Mamba2State | None = None, return_state: bool = False
    ) -> tuple[Tensor, Mamba2State | None]:
        """See `Mixer`."""
        widths = [self.d_inner, self.d_convolved, self.n_heads]
        z, xBC, dt = self.in_proj(x).split(widths, dim=-1)
        before = None if state is None else state.conv
        xBC, conv_state = self.conv1d(xBC, before, return_state)
        y, ssm_state = self._mix(xBC, dt, None if state is None else state.ssm, return_state)
        y = self.out_proj(self.norm(y.flatten(2), z))
        if conv_state is None or ssm_state is None:
            return y, None
        return y, Mamba2State(conv_state, ssm_state)

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> Mamba2State:
        n_taps, heads = self.conv1d.kernel_size[0], (self.n_heads, self.config.d_head)
        shape = (batch_size, *heads, self.config.d_state)
        return Mamba2State(
            self._zeros(batch_size, n_taps - 1, self.d_convolved, dtype=dtype),
            self._zeros(*shape, dtype=dtype, at_least=torch.float32),
        )

    def _mix(
        self, xBC: Tensor, dt: Tensor, state: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        """From the convolution's output to y (B, L, H, P) and, if asked for, the state."""
        x, B, C = xBC.split([self.d_inner, self.d_weights, self.d_weights], dim=-1)
        return with_state(
            state_space_duality(
                x.unflatten(-1, (self.n_heads, -1)),
                dt,
                -torch.exp(self.A_log),
                B.unflatten(-1, (self.config.n_groups, -1)),
                C.unflatten(-1, (self.config.n_groups, -1)),
                self.D,
                # The bias is added inside, in float32.
                dt_bias=self.dt_bias,
                dt_softplus=True,
                dt_limit=self.config.dt_limit,
                initial_state=state,
                return_last_state=return_state,
                chunk_size=self.config.chunk_size,
                backend=self.ssd_backend,
            )
        )
