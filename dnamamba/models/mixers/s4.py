"""S4 in Mamba's place: the same block around a state space model that its input does not change.

The model is diagonal (S4D): x_t = dA x_{t-1} + dB u_t and y_t = C x_t, with dA = exp(dt A) and dB =
(exp(dt A) - 1) / A ("zoh"); B is one, as only its product with C matters. Complex states stand for
conjugate pairs: y_t = 2 Re(C x_t). A sequence is an FFT convolution with the kernel K_l = C dA^l
dB, so causal up to rounding.

Sources: Gu et al. 2022 (arXiv 2206.11893), sections 3 and 4; Gu and Dao 2023 (arXiv 2312.00752),
section 4.6. B batch, L seq_len, D channels, N states; A, C and D are the model's parameters.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from dnamamba.errors import InputError
from dnamamba.kernels import long_conv
from dnamamba.models.layers import Linear, ShortConv, zero_biases
from dnamamba.models.mixers.mamba import StateSpaceConfig
from dnamamba.models.mixers.protocol import Mixer, long_conv_flops

Initial = Literal["real", "lin", "inv", "quad", "legs"]
Rule = Literal["zoh", "bilinear"]


@dataclass(frozen=True, kw_only=True)
class S4Config(StateSpaceConfig):
    """Mamba's block around a state space model that its input does not change (S4D, arXiv
    2206.11893)."""

    kind: Literal["s4"] = "s4"

    init: Initial = "real"
    """Initial A, see `initial_A`; all but real are complex: d_state / 2 conjugate pairs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init != "real" and self.d_state % 2:
            raise InputError(
                f"S4Config: d_state must be even with init {self.init!r}, as states come in pairs; "
                f"got {self.d_state}"
            )

    def count_parameters(self, d_model: int) -> int:
        d_inner = self.expand * d_model
        in_and_out = 3 * d_inner * d_model + self.bias * (2 * d_inner + d_model)
        conv = d_inner * (self.d_conv + self.conv_bias)
        # A and C: 2 N real numbers, or 4 for each of N / 2 pairs.
        return in_and_out + conv + d_inner * (2 * self.d_state + 2)

    def flops(self, d_model: int, seq_len: int) -> int:
        d_inner = self.expand * d_model
        # The kernel is a product over the states; a complex multiply-add takes 8.
        kernel = self.d_state * (2 if self.init == "real" else 4)
        token = 6 * d_inner * d_model + d_inner * (2 * self.d_conv + kernel)
        return seq_len * token + long_conv_flops(d_inner, seq_len)


class S4State(NamedTuple):
    """State after some tokens. conv: the convolution's last inputs, oldest first (B, d_conv - 1,
    d_inner). ssm: (B, d_inner, N), float32 or complex64 (double width in a float64 model)."""

    conv: Tensor
    ssm: Tensor


def initial_A(kind: Initial, n_states: int) -> Tensor:
    """The diagonal of A, (N,): float64 for "real", else complex128, one of each conjugate pair.

    real: -(n + 1). lin: -1/2 + i pi n. inv: -1/2 + i M/pi (M/(2n + 1) - 1) with M = 2 N. quad: -1/2
    + i (2n + 1)^2 / pi. legs: eigenvalues of HiPPO-LegS's normal part, largest imaginary part
    first. Source: section 4 of the paper.
    """
    n = torch.arange(n_states, dtype=torch.float64)
    if kind == "real":
        return -(n + 1)
    if kind == "legs":
        return _legs_eigenvalues(2 * n_states)
    width = 2 * n_states
    imaginary = {
        "lin": math.pi * n,
        "inv": width / math.pi * (width / (2 * n + 1) - 1),
        "quad": (2 * n + 1) ** 2 / math.pi,
    }
    return torch.complex(torch.full_like(n, -0.5), imaginary[kind])


def _legs_eigenvalues(width: int) -> Tensor:
    root = torch.sqrt(2 * torch.arange(width, dtype=torch.float64) + 1)
    lower = torch.tril(torch.outer(root, root), -1)
    imaginary = torch.linalg.eigvalsh((lower.T - lower) / 2j).flip(0)[: width // 2]
    return torch.complex(torch.full_like(imaginary, -0.5), imaginary)


def discretise(A: Tensor, dt: Tensor, rule: Rule = "zoh") -> tuple[Tensor, Tensor]:
    """log dA and dB (..., N) for steps dt (...,) of A (..., N).

    zoh: exp(dt A) and (exp(dt A) - 1) / A. bilinear: (1 + dt A/2) / (1 - dt A/2) and dt / (1 - dt
    A/2), for complex A.
    """
    step = dt.unsqueeze(-1)
    if rule == "zoh":
        return step * A, _expm1(step * A) / A
    below = 1 - step * A / 2
    return torch.log((1 + step * A / 2) / below), step / below


def _expm1(x: Tensor) -> Tensor:
    """exp(x) - 1, exact for small x; torch's takes no complex numbers."""
    if not x.is_complex():
        return torch.expm1(x)
    real = torch.expm1(x.real) * torch.cos(x.imag) - 2 * torch.sin(x.imag / 2) ** 2
    return torch.complex(real, torch.exp(x.real) * torch.sin(x.imag))


def evaluate_powers(log_dA: Tensor, weights: Tensor, seq_len: int) -> Tensor:
    """sum over n of weights_n dA_n^l for l from 0: (..., N), (..., N) to real (..., L), twice the
    real part of complex ones. Two levels, l = i m + j, avoid L N numbers."""
    inner = max(1, math.isqrt(seq_len))
    outer = math.ceil(seq_len / inner)
    steps = torch.arange(max(inner, outer), device=log_dA.device, dtype=log_dA.real.dtype)
    fine = torch.exp(log_dA.unsqueeze(-1) * steps[:inner])  # (..., N, inner)
    coarse = torch.exp(log_dA.unsqueeze(-2) * (inner * steps[:outer]).unsqueeze(-1))
    product = (weights.unsqueeze(-2) * coarse) @ fine  # (..., outer, inner)
    product = 2 * product.real if product.is_complex() else product
    return product.flatten(-2)[..., :seq_len]


def make_kernel(A: Tensor, C: Tensor, dt: Tensor, seq_len: int, rule: Rule = "zoh") -> Tensor:
    """The kernel (..., L) of the convolution; A, C (..., N), dt (...,)."""
    log_dA, dB = discretise(A, dt, rule)
    return evaluate_powers(log_dA, C * dB, seq_len)


def state_after(log_dA: Tensor, dB: Tensor, u: Tensor) -> Tensor:
    """sum over t of dA^(L - 1 - t) dB u_t, the states (B, D, N) after u (B, L, D)."""
    batch, seq_len, channels = u.shape
    inner = max(1, math.isqrt(seq_len))
    outer = math.ceil(seq_len / inner)
    u = nn.functional.pad(u, (0, 0, outer * inner - seq_len, 0))  # zeros before the first
    u = u.view(batch, outer, inner, channels).permute(0, 3, 1, 2).to(log_dA.dtype)
    steps = torch.arange(max(inner, outer) - 1, -1, -1, device=u.device, dtype=log_dA.real.dtype)
    fine = torch.exp(log_dA.unsqueeze(-2) * steps[-inner:].unsqueeze(-1))  # (D, inner, N)
    coarse = torch.exp(log_dA.unsqueeze(-2) * (inner * steps[-outer:]).unsqueeze(-1))
    return dB * ((u @ fine) * coarse).sum(-2)


class S4(Mixer):
    """(B, L, D) to (B, L, D), causal. Parameters as in Mamba; A_log is log(-Re A)."""

    no_weight_decay = frozenset({"A_log", "A_imag", "log_dt", "D"})

    def __init__(self, d_model: int, config: S4Config) -> None:
        super().__init__()
        d_inner = config.expand * d_model
        self.is_complex = config.init != "real"
        n_states = config.d_state // 2 if self.is_complex else config.d_state
        self.in_proj = Linear(d_model, 2 * d_inner, bias=config.bias)
        self.conv1d = ShortConv(d_inner, config.d_conv, config.conv_bias)
        self.A_log = nn.Parameter(torch.empty(d_inner, n_states))
        self.A_imag = nn.Parameter(torch.empty(d_inner, n_states)) if self.is_complex else None
        # Complex as pairs of real numbers, as optimisers and files want them.
        self.C = nn.Parameter(torch.empty(d_inner, n_states, 2 if self.is_complex else 1))
        self.log_dt = nn.Parameter(torch.empty(d_inner))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = Linear(d_inner, d_model, bias=config.bias)
        self.reset_parameters(config)

    @torch.no_grad()
    def reset_parameters(self, config: S4Config) -> None:
        """Initial values as S4D's: step sizes log-uniform, C normal with a mean square of one."""
        zero_biases(self.in_proj, self.out_proj)
        A = initial_A(config.init, self.A_log.shape[1])
        self.A_log.copy_(torch.log(-A.real).expand_as(self.A_log))
        if self.A_imag is not None:
            self.A_imag.copy_(A.imag.expand_as(self.A_imag))
        self.C.normal_(std=self.C.shape[-1] ** -0.5)
        self.log_dt.uniform_(math.log(config.dt_min), math.log(config.dt_max))

    def forward(
        self, x: Tensor, state: S4State | None = None, return_state: bool = False
    ) -> tuple[Tensor, S4State | None]:
        """See `Mixer`."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x, conv_state = self.conv1d(x, None if state is None else state.conv, return_state)
        # Autocast would round what looks like a product of matrices to bf16.
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            before = None if state is None else state.ssm
            y, ssm_state = self._run(x.to(dtype), silu(z.to(dtype)), before, return_state)
        out = self.out_proj(y.to(x.dtype))
        if conv_state is None or ssm_state is None:
            return out, None
        return out, S4State(conv_state, ssm_state)

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> S4State:
        (d_inner, n_states), n_taps = self.A_log.shape, self.conv1d.kernel_size[0]
        wide = torch.complex64 if self.is_complex else torch.float32
        return S4State(
            self._zeros(batch_size, n_taps - 1, d_inner, dtype=dtype),
            self._zeros(batch_size, d_inner, n_states, dtype=dtype, at_least=wide),
        )

    def _run(
        self, u: Tensor, gate: Tensor, state: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The state space model of u (B, L, D), times the gate, and the states after it."""
        A: Tensor = -torch.exp(self.A_log.to(u.dtype))
        C = self.C.to(u.dtype)
        if self.A_imag is None:
            C = C.squeeze(-1)
        else:
            A = torch.complex(A, self.A_imag.to(u.dtype))
            C = torch.view_as_complex(C)
        log_dA, dB = discretise(A, torch.exp(self.log_dt.to(u.dtype)))
        seq_len = u.shape[1]
        if seq_len == 1 and state is not None:
            state = torch.exp(log_dA) * state + dB * u.mT
            y = (C * state).sum(-1).unsqueeze(1)  # (B, 1, D)
            y = 2 * y.real if y.is_complex() else y
            return (y + self.D * u) * gate, state
        kernel = evaluate_powers(log_dA, C * dB, seq_len)
        y = long_conv(u, kernel.T, self.D, gate_out=gate)
        if state is not None:
            weights = C * torch.exp(log_dA) * state
            y = y + gate * evaluate_powers(log_dA.expand_as(weights), weights, seq_len).mT
        if not return_state:
            return y, None
        after = state_after(log_dA, dB, u)
        return y, after if state is None else after + torch.exp(seq_len * log_dA) * state
