"""The operators to compare: selective scan, causal attention, convolution by FFT.

Each mixes d_inner channels over seq_len steps. Shape letters: B batch, L seq_len, D d_inner, N
states, H heads. Capital A, B, C, D are tensors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.bench.shapes import ScanShape
from dnamamba.errors import InputError
from dnamamba.kernels import selective_scan
from dnamamba.kernels.scan.op import scan_backend

D_STATE = 16
D_HEAD = 64
SCAN = "selective_scan"


@dataclass(frozen=True)
class Where:
    """Device and dtype of operands, and the scan's backend (`auto` resolved)."""

    device: torch.device
    dtype: torch.dtype
    backend: str

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Case:
    """An operator on operands of one shape: `forward()` depends on all of `inputs`."""

    inputs: Mapping[str, Tensor]
    forward: Callable[[], Tensor]
    d_out: Tensor

    def backward(self, out: Tensor) -> dict[str, Tensor]:
        """The gradient of every input, with the graph kept for another time."""
        leaves = list(self.inputs.values())
        gradients = torch.autograd.grad(out, leaves, self.d_out, retain_graph=True)
        return dict(zip(self.inputs, gradients, strict=True))

    def results(self) -> dict[str, Tensor]:
        """Return the output as "out" and every gradient as "d_u" and so on."""
        out = self.forward()
        return {"out": out.detach(), **name_gradients(self.backward(out))}


def name_gradients(of: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"d_{name}": gradient for name, gradient in of.items()}


def resolve_scan_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend "auto" takes, or `name`. Raises InputError if it cannot run here."""
    try:
        return scan_backend(device, dtype, name)
    except (ValueError, RuntimeError) as error:
        raise InputError(str(error)) from error


def draw_scan_inputs(
    shape: ScanShape, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Draw what a Mamba layer passes to its scan, the same on every call.

    u, delta, z (B, L, D), B and C (B, L, N) in dtype; A (D, N), D and delta_bias (D,) in float32.
    dt starts log-uniform between 0.001 and 0.1 and A at -1 ... -N, as in a new layer.
    """
    generator = torch.Generator(device).manual_seed(0)

    def draw(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(size, generator=generator, device=device, dtype=dtype)

    batch, channels, seq_len = shape.batch, shape.d_inner, shape.seq_len
    share = torch.rand(channels, generator=generator, device=device)
    dt = 0.001 * 100**share
    inputs = {
        "u": draw(batch, seq_len, channels),
        "delta": draw(batch, seq_len, channels),
        "A": -torch.arange(1.0, D_STATE + 1, device=device).repeat(channels, 1),
        "B": draw(batch, seq_len, D_STATE),
        "C": draw(batch, seq_len, D_STATE),
        "D": draw(channels, dtype=torch.float32),
        "z": draw(batch, seq_len, channels),
        "delta_bias": dt + torch.log(-torch.expm1(-dt)),  # softplus undone
    }
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def scan_case(shape: ScanShape, where: Where) -> Case:
    inputs = draw_scan_inputs(shape, where.dtype, where.device)

    def forward() -> Tensor:
        given: dict[str, Any] = {**inputs, "delta_softplus": True, "backend": where.backend}
        out = selective_scan(**given)
        assert isinstance(out, Tensor)
        return out

    return Case(inputs, forward, torch.randn_like(inputs["u"], requires_grad=False))


def attention_case(shape: ScanShape, where: Where) -> Case:
    """Causal, in heads of 64: q, k, v (B, H, L, 64), torch's own choice of kernel."""
    size = (shape.batch, shape.d_inner // D_HEAD, shape.seq_len, D_HEAD)
    inputs = {
        name: torch.randn(size, device=where.device, dtype=where.dtype, requires_grad=True)
        for name in ("query", "key", "value")
    }

    def forward() -> Tensor:
        q, k, v = inputs.values()
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Case(inputs, forward, torch.randn(size, device=where.device, dtype=where.dtype))


def convolution_case(shape: ScanShape, where: Where) -> Case:
    """A filter as long as the sequence: x (B, D, L) and the filter (D, L) in float32.

    torch.fft has no bfloat16. Zeros to twice the length keep the end from the beginning.
    """
    size = (shape.batch, shape.d_inner, shape.seq_len)
    inputs = {
        "x": torch.randn(size, device=where.device, requires_grad=True),
        "filter": torch.randn(size[1:], device=where.device, requires_grad=True),
    }

    def forward() -> Tensor:
        n = 2 * shape.seq_len
        spectrum = torch.fft.rfft(inputs["x"], n) * torch.fft.rfft(inputs["filter"], n)
        return torch.fft.irfft(spectrum, n)[..., : shape.seq_len]

    return Case(inputs, forward, torch.randn(size, device=where.device))


@dataclass(frozen=True)
class Operator:
    """label: for people. bytes_per_element: about what a float32 backward holds at its end."""

    label: str
    build: Callable[[ScanShape, Where], Case]
    bytes_per_element: int


OPERATORS = {
    SCAN: Operator("selective scan", scan_case, 48),
    "attention": Operator("attention", attention_case, 48),
    "fft_convolution": Operator("FFT convolution", convolution_case, 96),
}
