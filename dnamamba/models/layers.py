"""Layers that several kinds of model share, and how they start."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import require_fields
from dnamamba.kernels import add_norm, causal_conv1d, causal_conv1d_step
from dnamamba.kernels.linear import linear

PROJECTION_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """Two layers at every position, after the mixer and a norm."""

    activation: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu_tanh"
    """gelu_tanh: GELU's tanh approximation. swiglu: SiLU of one half gates the other."""

    d_hidden: int | None = None
    """Hidden width; None: 4 d_model, filled in by `ModelConfig`."""

    bias: bool = False
    """Whether both layers have biases."""

    def __post_init__(self) -> None:
        require_fields(self)

    def count_weights(self, d_model: int) -> int:
        """Entries of both weight matrices; d_hidden is filled in."""
        assert self.d_hidden is not None, "ModelConfig fills in d_hidden"
        return (3 if self.activation == "swiglu" else 2) * self.d_hidden * d_model

    def count_parameters(self, d_model: int) -> int:
        """`count_weights` and biases."""
        assert self.d_hidden is not None, "ModelConfig fills in d_hidden"
        n_weights = self.count_weights(d_model)
        return n_weights + self.bias * (n_weights // d_model - self.d_hidden + d_model)


def initialise_projection(layer: nn.Linear) -> None:
    """As GPT-2, Llama and HyenaDNA: weights normal(0, 0.02), biases zero."""
    nn.init.normal_(layer.weight, std=PROJECTION_STD)
    zero_biases(layer)


@torch.no_grad()
def zero_biases(*layers: nn.Linear) -> None:
    for layer in layers:
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def draw_step_sizes(bias: Tensor, dt_min: float, dt_max: float, dt_init_floor: float) -> None:
    """Fill a bias so that softplus(bias) is log-uniform in [dt_min, dt_max], at least the floor."""
    dt = torch.empty_like(bias).uniform_(math.log(dt_min), math.log(dt_max)).exp()
    dt.clamp_(min=dt_init_floor)
    # The inverse of softplus.
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def with_state(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """A kernel's output and state; None if it returned the output alone."""
    return result if isinstance(result, tuple) else (result, None)


class Linear(nn.Linear):
    """nn.Linear by `kernels.linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return linear(x, self.weight, self.bias)


class ShortConv(nn.Conv1d):
    """Causal depthwise convolution (B, L, C) with nn.Conv1d's parameters and initial values."""

    def __init__(self, channels: int, d_conv: int, bias: bool = True, silu: bool = True) -> None:
        super().__init__(channels, channels, d_conv, groups=channels, bias=bias)
        self.activation: Literal["silu"] | None = "silu" if silu else None

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        state: Tensor | None = None,
        return_state: bool = False,
        reverse: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """state: the last d_conv - 1 inputs, oldest first (B, d_conv - 1, C); None: zeros. reverse:
        from the last position to the first. Returns the output and, if asked for, the state after
        it."""
        return with_state(
            causal_conv1d(
                x,
                self.weight.squeeze(1),
                self.bias,
                activation=self.activation,
                initial_state=state,
                return_last_state=return_state,
                reverse=reverse,
            )
        )

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """One position: x (B, C) to (B, C); writes to `state`."""
        taps, bias = self.weight.squeeze(1), self.bias
        return causal_conv1d_step(x, taps, bias, activation=self.activation, state=state)


class TokenEmbedding(nn.Embedding):
    """nn.Embedding for a vocabulary of a few tokens.

    Its gradient is one product with the one-hot tokens: torch's is slower on GPUs if many tokens
    share a row, and adds in an order that changes between runs.
    """

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids: any integer dtype and shape. Returns (*shape, D)."""
        return _Lookup.apply(token_ids.int(), self.weight)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, token_ids: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(token_ids)
        ctx.n_rows = weight.shape[0]
        return functional.embedding(token_ids, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (token_ids,) = ctx.saved_tensors
        rows = torch.arange(ctx.n_rows, device=token_ids.device)
        one_hot = (token_ids.flatten() == rows.unsqueeze(1)).to(gradient.dtype)
        return None, one_hot @ gradient.flatten(0, -2)


class Norm(nn.Module):
    """A norm over the last axis of the residual stream with x added, (B, L, D).

    rms: s / sqrt(mean(s^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467). layer: the
    mean taken off first, and a bias (Ba et al. 2016, arXiv 1607.06450).
    """

    def __init__(self, d_model: int, eps: float, kind: str = "rms") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if kind == "layer" else None
        self.eps, self.kind = eps, kind

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        residual_in_fp32: bool = True,
        out_dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x: (B, L, D). residual: the stream so far; None: x is the stream. Returns the normed
        stream, in `out_dtype` or autocast's dtype, and the stream."""
        return add_norm(
            x,
            residual,
            self.weight,
            self.bias,
            eps=self.eps,
            kind=self.kind,
            residual_in_fp32=residual_in_fp32,
            out_dtype=out_dtype,
        )


class GatedNorm(nn.Module):
    """RMSNorm of y * silu(z) within each group of channels, (B, L, D): Mamba-2's last step (Dao and
    Gu 2024, arXiv 2405.21060, section 7). before_gate: norm y, then gate. At least float32."""

    def __init__(
        self, width: int, eps: float, n_groups: int = 1, before_gate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.n_groups, self.before_gate = eps, n_groups, before_gate

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """y, z: (B, L, D). Returns (B, L, D) in y's dtype."""
        dtype = torch.promote_types(y.dtype, torch.float32)
        wide, gate = y.to(dtype), functional.silu(z.to(dtype))
        if not self.before_gate:
            wide = wide * gate
        groups = wide.unflatten(-1, (self.n_groups, -1))
        scale = torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)
        normed = (groups * scale).flatten(-2) * self.weight
        return (normed * gate if self.before_gate else normed).to(y.dtype)


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))) at every position, (B, L, D) to (B, L, D).

    swiglu: fc1 makes two halves, and fc2 takes silu(first) * second (Shazeer 2020, arXiv
    2002.05202). Parameter names are those of HyenaDNA and state-spaces/mamba.
    """

    def __init__(self, d_model: int, config: MlpConfig) -> None:
        super().__init__()
        assert config.d_hidden is not None, "ModelConfig fills in d_hidden"
        self.activation = config.activation
        halves = 2 if config.activation == "swiglu" else 1
        self.fc1 = Linear(d_model, halves * config.d_hidden, bias=config.bias)
        self.fc2 = Linear(config.d_hidden, d_model, bias=config.bias)
        for layer in (self.fc1, self.fc2):
            initialise_projection(layer)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        if self.activation == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            return self.fc2(functional.silu(gate) * value)
        approximate = "tanh" if self.activation == "gelu_tanh" else "none"
        return self.fc2(functional.gelu(hidden, approximate=approximate))
