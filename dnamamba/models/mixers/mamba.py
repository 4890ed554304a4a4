"""The Mamba mixer: gate, short convolution and selective scan between two projections.

Parameter names and shapes are those of state-spaces/mamba (mamba_ssm/modules/mamba_simple.py).
Shape letters: B batch, L seq_len, D d_model, N d_state, K d_conv. A, B, C and D in code are the
state space parameters.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnamamba.kernels import causal_conv1d, causal_conv1d_step, selective_scan, selective_scan_step
from dnamamba.kernels.linear import linear
from dnamamba.kernels.scan.reference import find_state_dtype
from dnamamba.kernels.scan.step import MOST_STATES_TRITON
from dnamamba.models.layers import Linear
from dnamamba.models.mixers.configs import SelectiveConfig


class MambaState(NamedTuple):
    """What a Mamba mixer remembers of the tokens before.

    conv: the convolution's last K - 1 inputs, oldest first (B, K - 1, d_inner).
    ssm: the states of the scan (B, d_inner, N), float32 (float64 in a float64 model).
    """

    conv: Tensor
    ssm: Tensor


class Mixing(nn.Module):
    """What stands between the projections of a Mamba: convolution and selective scan.

    Each subclass calls `_build_mixing` and `_reset_mixing` where in the order of its own parameters
    these come: initial values are drawn in that order.
    """

    scan_backend = "auto"
    """The backend of the selective scan; set it on a model's mixers to choose another."""

    def _build_mixing(self, d_inner: int, config: SelectiveConfig) -> None:
        assert config.dt_rank != "auto", "ModelConfig fills in dt_rank"
        self.dt_rank, self.d_state = config.dt_rank, config.d_state
        # Only holds the parameters: upstream's names, shapes and initial values.
        self.conv1d = nn.Conv1d(
            d_inner, d_inner, config.d_conv, groups=d_inner, bias=config.conv_bias
        )
        self.x_proj = Linear(d_inner, config.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = Linear(config.dt_rank, d_inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(d_inner, config.d_state))
        self.D = nn.Parameter(torch.ones(d_inner))

    @torch.no_grad()
    def _reset_mixing(self, config: SelectiveConfig) -> None:
        """Initial values as upstream: A_n = -n (S4D-Real), step sizes log-uniform."""
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp()
        dt.clamp_(min=config.dt_init_floor)
        # The inverse of softplus, so that softplus(bias) = dt.
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

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
        """x, z: (B, L, d_inner), what in_proj makes; z is the gate.

        reverse: from the last position to the first. mask: (B, L) bool, False at padding, which the
        scan then reads as zeros; x must be zero there. backend: of the scan; None: scan_backend.

        Returns what out_proj takes (B, L, d_inner) and, if asked for, the state after the last
        position that was read.
        """
        before = None if state is None else state.conv
        x, conv_state = self._convolve(x, before, return_state, reverse)
        if mask is not None:
            # The bias alone makes padding something else than zero.
            x = x * mask.unsqueeze(-1)
        delta, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, ssm_state = _with_state(
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

    def _convolve(
        self, x: Tensor, before: Tensor | None, return_state: bool, reverse: bool
    ) -> tuple[Tensor, Tensor | None]:
        return _with_state(
            causal_conv1d(
                x,
                self.conv1d.weight.squeeze(1),
                self.conv1d.bias,
                activation="silu",
                initial_state=before,
                return_last_state=return_state,
                reverse=reverse,
            )
        )


class Mamba(Mixing):
    """(B, L, D) to (B, L, D), each position seeing those before it.

    Source: Gu and Dao 2023 (arXiv 2312.00752), section 3.4; state-spaces/mamba, mamba_simple.py.
    """

    def __init__(self, d_model: int, config: SelectiveConfig) -> None:
        super().__init__()
        d_inner = config.expand * d_model
        self.in_proj = Linear(d_model, 2 * d_inner, bias=config.bias)
        self._build_mixing(d_inner, config)
        self.out_proj = Linear(d_inner, d_model, bias=config.bias)
        self.reset_parameters(config)

    @torch.no_grad()
    def reset_parameters(self, config: SelectiveConfig) -> None:
        """Initial values as upstream: biases of the projections zero, and as `Mixing` has them."""
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                projection.bias.zero_()
        self._reset_mixing(config)

    def forward(
        self, x: Tensor, state: MambaState | None = None, return_state: bool = False
    ) -> tuple[Tensor, MambaState | None]:
        """x: (B, L, D). state: that of the tokens before; None at the start of a sequence. It is
        never written to, so one state can be gone on from many times.

        Returns the output (B, L, D) and, if asked for, the state after the last token. One token
        with a state, where no gradients are wanted, goes by the ops of a single step.
        """
        if state is not None and self._is_step(x, state):
            y, after = self._step(x.squeeze(1), state)
            return y.unsqueeze(1), after if return_state else None
        x, z = self.in_proj(x).chunk(2, dim=-1)
        y, last = self.mix(x, z, state, return_state)
        return self.out_proj(y), last

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
        x = causal_conv1d_step(
            x,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            activation="silu",
            state=state.conv,
        )
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


def _with_state(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    return result if isinstance(result, tuple) else (result, None)


def count_parameters(d_model: int, config: SelectiveConfig) -> int:
    """Parameters of one mixer, in closed form."""
    d_inner = config.expand * d_model
    in_and_out = 3 * d_inner * d_model + config.bias * (2 * d_inner + d_model)
    return in_and_out + count_mixing(d_inner, config)


def count_mixing(d_inner: int, config: SelectiveConfig) -> int:
    """Parameters of a `Mixing`: all but the projections in and out."""
    assert config.dt_rank != "auto", "ModelConfig fills in dt_rank"
    rank, d_state = config.dt_rank, config.d_state
    conv = d_inner * (config.d_conv + config.conv_bias)
    step_size = d_inner * (rank + 1)
    return conv + d_inner * (rank + 2 * d_state) + step_size + d_inner * (d_state + 1)
