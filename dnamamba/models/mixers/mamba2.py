"""The Mamba-2 mixer: short convolution, state space duality and a gated norm between projections.

Parameter names and shapes are those of state-spaces/mamba (mamba_ssm/modules/mamba2.py).
Shape letters: B batch, L seq_len, D d_model, H heads, P d_head, G groups, N d_state, K d_conv.
A, B, C and D in code are the state space parameters.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnamamba.kernels import causal_conv1d, state_space_duality
from dnamamba.models.layers import GatedNorm, Linear
from dnamamba.models.mixers.configs import Mamba2Config


class Mamba2State(NamedTuple):
    """What a Mamba-2 mixer remembers of the tokens before.

    conv: the convolution's last K - 1 inputs, oldest first (B, K - 1, d_inner + 2 G N): x, B, C.
    ssm: the states of the heads (B, H, P, N), float32 (float64 in a float64 model).
    """

    conv: Tensor
    ssm: Tensor


class Mamba2(nn.Module):
    """(B, L, D) to (B, L, D), each position seeing those before it.

    Source: Dao and Gu 2024 (arXiv 2405.21060), section 7.
    """

    ssd_backend = "auto"
    """The backend of `state_space_duality`; set it on a model's mixers to choose another."""

    def __init__(self, d_model: int, config: Mamba2Config) -> None:
        super().__init__()
        self.config, self.n_heads = config, config.count_heads(d_model)
        self.d_inner = config.expand * d_model
        self.d_weights = config.n_groups * config.d_state  # width of B, and of C
        d_conv_inputs = self.d_inner + 2 * self.d_weights
        self.in_proj = Linear(
            d_model, self.d_inner + d_conv_inputs + self.n_heads, bias=config.bias
        )
        # Only holds the parameters: upstream's names, shapes and initial values.
        self.conv1d = nn.Conv1d(
            d_conv_inputs, d_conv_inputs, config.d_conv, groups=d_conv_inputs, bias=config.conv_bias
        )
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
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                projection.bias.zero_()
        self.A_log.uniform_(*config.A_init_range).log_()
        low, high = math.log(config.dt_min), math.log(config.dt_max)
        dt = torch.empty_like(self.dt_bias).uniform_(low, high).exp()
        dt.clamp_(min=config.dt_init_floor)
        # The inverse of softplus, so that softplus(bias) = dt.
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(
        self, x: Tensor, state: Mamba2State | None = None, return_state: bool = False
    ) -> tuple[Tensor, Mamba2State | None]:
        """x: (B, L, D). state: that of the tokens before; None at the start of a sequence. It is
        never written to, so one state can be gone on from many times.

        Returns the output (B, L, D) and, if asked for, the state after the last token.
        """
        d_conv_inputs = self.d_inner + 2 * self.d_weights
        z, xBC, dt = self.in_proj(x).split([self.d_inner, d_conv_inputs, self.n_heads], dim=-1)
        xBC, conv_state = _with_state(
            causal_conv1d(
                xBC,
                self.conv1d.weight.squeeze(1),
                self.conv1d.bias,
                activation="silu",
                initial_state=None if state is None else state.conv,
                return_last_state=return_state,
            )
        )
        y, ssm_state = self._mix(xBC, dt, None if state is None else state.ssm, return_state)
        y = self.out_proj(self.norm(y.flatten(2), z))
        if conv_state is None or ssm_state is None:
            return y, None
        return y, Mamba2State(conv_state, ssm_state)

    def _mix(
        self, xBC: Tensor, dt: Tensor, state: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What the convolution made to y (B, L, H, P), and the state after it if asked for."""
        x, B, C = xBC.split([self.d_inner, self.d_weights, self.d_weights], dim=-1)
        return _with_state(
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


def _with_state(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    return result if isinstance(result, tuple) else (result, None)


def count_parameters(d_model: int, config: Mamba2Config) -> int:
    """Parameters of one mixer, in closed form."""
    d_inner, n_heads = config.expand * d_model, config.count_heads(d_model)
    d_conv_inputs = d_inner + 2 * config.n_groups * config.d_state
    d_projected = d_inner + d_conv_inputs + n_heads
    in_and_out = (d_projected + d_inner) * d_model + config.bias * (d_projected + d_model)
    conv = d_conv_inputs * (config.d_conv + config.conv_bias)
    return in_and_out + conv + 3 * n_heads + d_inner
