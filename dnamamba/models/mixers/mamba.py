"""The Mamba mixer: gate, short convolution and selective scan between two projections.

Parameter names and shapes are those of state-spaces/mamba (mamba_ssm/modules/mamba_simple.py).
Shape letters: B batch, L seq_len, D d_model, N d_state, K d_conv. A, B, C and D in code are the
state space parameters.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from dnamamba.kernels import selective_scan, selective_scan_step
from dnamamba.kernels.linear import linear
from dnamamba.kernels.scan.op import MOST_STATES_TRITON, scan_backend
from dnamamba.kernels.scan.reference import find_state_dtype
from dnamamba.models.checks import check_positive, check_step_sizes
from dnamamba.models.layers import Linear, ShortConv, draw_step_sizes, with_state, zero_biases
from dnamamba.models.mixers.protocol import Mixer, MixerConfig, StateKind


@dataclass(frozen=True, kw_only=True)
class StateSpaceConfig(MixerConfig):
    """Settings of all state space mixers, whose state is fixed; defaults of state-spaces/mamba."""

    expand: int = 2
    """Inner width over d_model."""

    d_state: int = 16
    """States a channel."""

    d_conv: int = 4
    """Taps of the causal convolution."""

    def __post_init__(self) -> None:
        for name in ("expand", "d_state", "d_conv"):
            check_positive(type(self).__name__, name, getattr(self, name))

    @property
    def state_kind(self) -> StateKind:
        return "fixed"


@dataclass(frozen=True, kw_only=True)
class SelectiveConfig(StateSpaceConfig):
    """Settings that Mamba and BiMamba share."""

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
        super().__post_init__()
        owner = type(self).__name__
        if self.dt_rank != "auto":
            check_positive(owner, "dt_rank", self.dt_rank)
        check_step_sizes(owner, self.dt_min, self.dt_max, self.dt_init_floor)

    def resolve(self, d_model: int) -> Self:
        if self.dt_rank != "auto":
            return self
        return replace(self, dt_rank=math.ceil(d_model / 16))

    def count_parameters(self, d_model: int) -> int:
        return self.count_projections(d_model) + self.count_mixing(d_model)

    def count_projections(self, d_model: int) -> int:
        """Parameters of in_proj and out_proj."""
        d_inner = self.expand * d_model
        return 3 * d_inner * d_model + self.bias * (2 * d_inner + d_model)

    def count_mixing(self, d_model: int) -> int:
        """Parameters of one direction's `Mixing`."""
        conv = self.d_conv + self.conv_bias
        x_proj = self.rank + 2 * self.d_state
        return self.expand * d_model * (conv + x_proj + self.rank + 1 + self.d_state + 1)

    def flops(self, d_model: int, seq_len: int) -> int:
        return seq_len * (6 * self.expand * d_model**2 + self.mixing_flops(d_model))

    def mixing_flops(self, d_model: int) -> int:
        """Of one direction's `Mixing`, a token; the scan takes 7 a state: dt A, exp, dt u B, two
        for the recurrence, two for C."""
        products = self.d_conv + self.rank + 2 * self.d_state + self.rank
        return self.expand * d_model * (2 * products + 7 * self.d_state)

    def activation_bytes(
        self, d_model: int, device: torch.device, dtype: torch.dtype
    ) -> float | None:
        backend, n_states = scan_backend(device, dtype), self.d_state
        if backend == "cpu":
            # Its output, and the states of every 16th step.
            kept = dtype.itemsize + 4 * n_states / 16
        elif backend == "triton":
            # Its output, or a float32 output for each 16 states where there are more; and the
            # states that enter chunks of 64 steps.
            kept = dtype.itemsize if n_states <= 16 else 4 * math.ceil(n_states / 16)
            kept += 4 * n_states / 64
        else:
            return None
        return self.expand * d_model * kept

    @property
    def rank(self) -> int:
        """dt_rank of a resolved config."""
        assert self.dt_rank != "auto", "ModelConfig fills in dt_rank"
        return self.dt_rank


@dataclass(frozen=True, kw_only=True)
class MambaConfig(SelectiveConfig):
    """The Mamba mixer (arXiv 2312.00752); defaults of state-spaces/mamba."""

    kind: Literal["mamba"] = "mamba"
    """Name of the mixer in stored configs."""


class MambaState(NamedTuple):
    """State of a Mamba mixer after some tokens.

    conv: the convolution's last K - 1 inputs, oldest first (B, K - 1, d_inner).
    ssm: the states of the scan (B, d_inner, N), float32 (float64 in a float64 model).
    """

    conv: Tensor
    ssm: Tensor


class Mixing(nn.Module):
    """Convolution and selective scan, what stands between the projections of a Mamba.

    Subclasses call `_build_mixing` and `_reset_mixing` in the order of their own parameters:
    initial values are drawn in that order.
    """

    scan_backend = "auto"
    """Backend of the selective scan; set it on a model's mixers to choose another."""

    def _build_mixing(self, d_inner: int, config: SelectiveConfig) -> None:
        self.dt_rank, self.d_state = config.rank, config.d_state
        self.conv1d = ShortConv(d_inner, config.d_conv, config.conv_bias)
        self.x_proj = Linear(d_inner, self.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = Linear(self.dt_rank, d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(d_inner, config.d_state))
        self.D = nn.Parameter(torch.ones(d_inner))

    @torch.no_grad()
    def _reset_mixing(self, config: SelectiveConfig) -> None:
        """Initial values as upstream: A_n = -n (S4D-Real), step sizes log-uniform."""
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        draw_step_sizes(self.dt_proj.bias, config.dt_min, config.dt_max, config.dt_init_floor)

    def mix(
        self,
        x: Tensor,
        z: Tensor,
        state: MambaState | None = None,
        return_state: bool = False,
        reverse: bool = False,
        mask: Tensor | None = None,
        backend: str | None = None,
    ) -> tuple[Tensor, MambaState | None]:
        """x, z: (B, L, d_inner) from in_proj; z is the gate.

        reverse: from the last position to the first. mask: (B, L) bool, False at padding, where x
        must be zero; the scan reads zeros there. backend: of the scan; None: scan_backend.

        Returns the input of out_proj (B, L, d_inner) and, if asked for, the state after the last
        position read.
        """
        before = None if state is None else state.conv
        x, conv_state = self.conv1d(x, before, return_state, reverse)
        if mask is not None:
            # The bias alone makes padding something else than zero.
            x = x * mask.unsqueeze(-1)
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, ssm_state = with_state(
            selective_scan(
                x,
                # The bias is added inside the scan, in float32.
                linear(delta, self.dt_proj.weight),
                -torch.exp(self.A_log),
                B,
                C,
                self.D,
                z=z,
                delta_bias=self.dt_proj.bias,
                delta_softplus=True,
                initial_state=None if state is None else state.ssm,
                return_last_state=return_state,
                reverse=reverse,
                backend=backend or self.scan_backend,
            )
        )
        if conv_state is None or ssm_state is None:
            return y, None
        return y, MambaState(conv_state, ssm_state)


class Mamba(Mixing, Mixer):
    """(B, L, D) to (B, L, D), each position seeing those before it.

    Source: Gu and Dao 2023 (arXiv 2312.00752), section 3.4; state-spaces/mamba, mamba_simple.py.
    """

    no_weight_decay = frozenset({"A_log", "D"})

    def __init__(self, d_model: int, config: SelectiveConfig) -> None:
        super().__init__()
        d_inner = config.expand * d_model
        self.in_proj = Linear(d_model, 2 * d_inner, bias=config.bias)
        self._build_mixing(d_inner, config)
        self.out_proj = Linear(d_inner, d_model, bias=config.bias)
        zero_biases(self.in_proj, self.out_proj)
        self._reset_mixing(config)

    def forward(
        self, x: Tensor, state: MambaState | None = None, return_state: bool = False
    ) -> tuple[Tensor, MambaState | None]:
        """See `Mixer`. One token with a state and without gradients takes the ops of a step."""
        if state is not None and self._is_step(x, state):
            y, after = self._step(x.squeeze(1), state)
            return y.unsqueeze(1), after if return_state else None
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y, last = self.mix(x, z, state, return_state)
        return self.out_proj(y), last

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> MambaState:
        d_inner, n_taps = self.D.shape[0], self.conv1d.kernel_size[0]
        return MambaState(
            self._zeros(batch_size, n_taps - 1, d_inner, dtype=dtype),
            self._zeros(batch_size, d_inner, self.d_state, dtype=dtype, at_least=torch.float32),
        )

    def _is_step(self, x: Tensor, state: MambaState) -> bool:
        """Whether the ops of a single step can do it: they have no gradients and two backends."""
        if x.shape[1] != 1 or self.scan_backend not in ("auto", "reference", "triton"):
            return False
        if self.scan_backend == "triton" and self.d_state > MOST_STATES_TRITON:
            return False
        if not torch.is_grad_enabled():
            return True
        return not any(tensor.requires_grad for tensor in (x, *state, *self.parameters()))

    def _step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """x: (B, D). The output (B, D) and a new state."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        state = MambaState(
            # Copies, as a step writes to them.
            state.conv.to(torch.promote_types(state.conv.dtype, x.dtype), copy=True),
            state.ssm.to(find_state_dtype(x, self.A_log), copy=True),
        )
        x = self.conv1d.step(x, state.conv)
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = selective_scan_step(
            x,
            linear(delta, self.dt_proj.weight),
            -torch.exp(self.A_log),
            B,
            C,
            self.D,
            z=z,
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            state=state.ssm,
            backend=self.scan_backend,
        )
        return self.out_proj(y), state
