"""`long_conv` on a GPU: one complex FFT for a real sequence, of its own length.

A causal convolution is the first L coefficients of a product of two polynomials of degree L - 1.
Modulo x^M + i, M >= L, coefficients from M on come down imaginary and those below stay real and
unchanged: complex transforms of M points do, without zeros up to 2 L. At the roots of x^M = -i a
transform is a plain FFT of a sequence "twisted" by exp(-i pi n / 2 M). A filter's conjugate
spectrum correlates in the same way.

The Triton kernels (gpu_kernels.py) turn operands (B, L, D) into twisted complex arrays (B, C, M)
and back, a block of channels at a time, and do all elementwise work on the way. Kept for the
backward beside operands: the sums before gate_out, in x's dtype, and spectra up to KEPT_BYTES, in
place of the filter.

Shape letters: B batch, L seq_len, D channels, C channels of a block, M points of a transform.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.launcher import launch, with_dense_rows
from dnamamba.kernels.longconv import gpu_kernels
from dnamamba.kernels.longconv.fft import fast_length
from dnamamba.kernels.longconv.reference import ConvOperands

BLOCK_POINTS = 1 << 24
"""Complex numbers of a block's array, 128 MiB; a backward holds about six arrays."""

KEPT_BYTES = 1 << 30
"""Largest spectra of inputs and filter to keep: those of one sequence of 131,072 positions and 256
channels take 0.5 GiB, 4 GiB for eight such layers."""

STEPS, CHANNELS = 32, 64
"""A tile: rows of 128 bytes of bf16 on one side, of 256 bytes on the other."""

PRODUCTS = 1024
"""Complex numbers of a program that multiplies."""


@torch.compiler.disable
def long_conv(operands: ConvOperands) -> Tensor:
    """`kernels.long_conv` on CUDA tensors, or on any in Triton's interpreter."""
    x, filter, bias, gate_in, gate_out, decay, shift = operands
    x = with_dense_rows(x)
    gate_in, gate_out = (None if g is None else with_dense_rows(g) for g in (gate_in, gate_out))
    bias = None if bias is None else bias.contiguous()
    decay = None if decay is None else decay.float().contiguous()
    tensors = (x, filter, bias, gate_in, gate_out)
    keeps = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y: Tensor = _LongConv.apply(*tensors, decay, shift, keeps)
    return y


def keeps_spectra(batch: int, seq_len: int, channels: int) -> bool:
    """Whether a call of this shape keeps the spectra of its inputs and its filter."""
    return 8 * (batch + 1) * channels * fast_length(seq_len) <= KEPT_BYTES


class _LongConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        operands, keeps = ConvOperands(*args[:-1]), args[-1]
        x, filter, bias, gate_in, gate_out, decay, ctx.shift = operands
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        sums = torch.empty_like(y) if keeps and gate_out is not None else None
        keeps_these = keeps and keeps_spectra(*x.shape)
        spectra: list[Tensor] = []
        for channels in _blocks(x):
            block = _Block(operands.cut(channels), channels)
            inputs, taps = block.transform_inputs(), block.transform_filter()
            spectra += [inputs, taps] if keeps_these else []
            product = inputs * taps if keeps_these else inputs.mul_(taps)
            del inputs, taps
            block.write_outputs(_invert(product), y, sums)
        # dtype, shape and strides alone.
        assert filter is not None
        ctx.filter_like = torch.empty_like(filter, device="meta")
        filter_kept = None if spectra else filter
        ctx.save_for_backward(x, filter_kept, bias, gate_in, gate_out, decay, sums, *spectra)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, filter, bias, gate_in, gate_out, decay, sums, *spectra = ctx.saved_tensors
        operands = ConvOperands(x, filter, bias, gate_in, gate_out, decay, ctx.shift)
        d_y = with_dense_rows(d_y)
        gradients = _Gradients(
            x=x.new_empty(x.shape),
            # With the filter's own strides, if it is dense: time may be side by side.
            filter=torch.empty_like(ctx.filter_like, device=x.device)
            if ctx.needs_input_grad[1]
            else None,
            gate_in=None if gate_in is None else x.new_empty(x.shape, dtype=gate_in.dtype),
            gate_out=None if gate_out is None else x.new_empty(x.shape, dtype=gate_out.dtype),
            sums=sums,
        )
        for index, channels in enumerate(_blocks(x)):
            block = _Block(operands.cut(channels), channels)
            kept = spectra[2 * index : 2 * index + 2]
            block.differentiate(d_y, kept, gradients)
        d_bias = None
        if bias is not None:
            d_bias = torch.cat(gradients.bias_parts).to(bias.dtype)
        found = (gradients.x, gradients.filter, d_bias, gradients.gate_in, gradients.gate_out)
        return (*found, None, None, None)


@dataclass
class _Gradients:
    """Dense room for all channels' gradients, and the sums before gate_out."""

    x: Tensor
    filter: Tensor | None
    gate_in: Tensor | None
    gate_out: Tensor | None
    sums: Tensor | None
    bias_parts: list[Tensor] = field(default_factory=list)


class _Block:
    """A block of channels of the operands."""

    def __init__(self, operands: ConvOperands, channels: slice) -> None:
        self.x, self.filter, self.bias, self.gate_in, self.gate_out = operands[:5]
        self.decay, self.shift, self.channels = operands.decay, operands.shift, channels
        self.batch, self.seq_len, self.width = self.x.shape
        self.n_points = fast_length(self.seq_len)
        self.sizes = (self.seq_len, self.width, self.n_points, math.pi / 2 / self.n_points)
        self.tile = {"BT": STEPS, "BC": min(CHANNELS, triton.next_power_of_2(self.width))}

    def transform_inputs(self) -> Tensor:
        """Return the spectrum of gate_in x (B, C, M)."""
        return self._transform_product(self.x, self.gate_in)

    def transform_filter(self) -> Tensor:
        """Return the filter's spectrum (C, M)."""
        assert self.filter is not None
        z = self._empty(1)[0]
        self._launch(
            gpu_kernels.gather_filter_kernel, self._grid(self.n_points, 1),
            self.filter, _or(self.decay, self.filter), _as_integers(z), *self.sizes, self.shift,
            *self.filter.stride(), HAS_DECAY=self.decay is not None,
        )  # fmt: skip
        return torch.fft.fft(z)

    def write_outputs(self, z: Tensor, y: Tensor, sums: Tensor | None) -> None:
        """Write the block's channels of y and, if kept, of the sums before gate_out."""
        y = y[..., self.channels]
        gate_in, gate_out = _or(self.gate_in, self.x), _or(self.gate_out, self.x)
        self._launch(
            gpu_kernels.scatter_kernel, self._grid(self.seq_len, self.batch),
            _as_integers(z), self.x, gate_in, gate_out, _or(self.bias, self.x),
            y, y if sums is None else sums[..., self.channels],
            *self.sizes, *self.x.stride()[:2], *gate_in.stride()[:2],
            *gate_out.stride()[:2], *y.stride()[:2],
            **self._flags(), KEEPS_SUMS=sums is not None,
        )  # fmt: skip

    def differentiate(self, d_y: Tensor, kept: Sequence[Tensor], gradients: _Gradients) -> None:
        """Write the block's channels of the gradients, given that of y and any kept spectra."""
        d_y = d_y[..., self.channels]
        if kept:
            inputs, taps = kept
        else:
            taps = self.transform_filter()
            inputs = taps if gradients.filter is None else self.transform_inputs()
        d_sums = self._transform_product(d_y, self.gate_out)
        d_filter = None if gradients.filter is None else torch.empty_like(taps)
        self._multiply(d_sums, taps, inputs, d_filter)
        if d_filter is not None and gradients.filter is not None:
            self._write_filter_gradient(_invert(d_filter), gradients.filter)
        self._write_gradients(_invert(d_sums), d_y, gradients)

    def _multiply(
        self, d_sums: Tensor, taps: Tensor, inputs: Tensor, d_filter: Tensor | None
    ) -> None:
        self._launch(
            gpu_kernels.products_kernel, (triton.cdiv(taps.numel(), PRODUCTS),),
            _as_integers(d_sums), _as_integers(taps), _as_integers(inputs),
            _as_integers(_or(d_filter, taps)), self.batch, taps.numel(),
            HAS_D_FILTER=d_filter is not None, BLOCK=PRODUCTS,
        )  # fmt: skip

    def _write_filter_gradient(self, z: Tensor, gradient: Tensor) -> None:
        d_filter = gradient[..., self.channels]
        self._launch(
            gpu_kernels.filter_gradient_kernel, self._grid(self.seq_len, 1),
            _as_integers(z), _or(self.decay, self.x), d_filter,
            *self.sizes, self.shift, *d_filter.stride(),
            HAS_DECAY=self.decay is not None,
        )  # fmt: skip

    def _write_gradients(self, z: Tensor, d_y: Tensor, gradients: _Gradients) -> None:
        gate_in, gate_out = _or(self.gate_in, self.x), _or(self.gate_out, self.x)
        n_tiles = self.batch * triton.cdiv(self.seq_len, STEPS)
        partials = torch.empty((n_tiles, self.width), dtype=torch.float32, device=z.device)
        d_x, d_gate_in, d_gate_out, sums = (
            _or(tensor, gradients.x)[..., self.channels]
            for tensor in (gradients.x, gradients.gate_in, gradients.gate_out, gradients.sums)
        )
        self._launch(
            gpu_kernels.gradients_kernel, self._grid(self.seq_len, self.batch),
            _as_integers(z), d_y, self.x, gate_in, gate_out, _or(self.bias, self.x), sums,
            d_x, d_gate_in, d_gate_out, partials, *self.sizes,
            *d_y.stride()[:2], *self.x.stride()[:2], *gate_in.stride()[:2],
            *gate_out.stride()[:2], *d_x.stride()[:2], **self._flags(),
        )  # fmt: skip
        if self.bias is not None:
            gradients.bias_parts.append(partials.sum(0))

    def _transform_product(self, x: Tensor, gate: Tensor | None) -> Tensor:
        z, factor = self._empty(self.batch), _or(gate, x)
        self._launch(
            gpu_kernels.gather_kernel, self._grid(self.n_points, self.batch),
            x, factor, _as_integers(z), *self.sizes, *x.stride()[:2], *factor.stride()[:2],
            HAS_GATE=gate is not None,
        )  # fmt: skip
        return torch.fft.fft(z)

    def _empty(self, batch: int) -> Tensor:
        shape = (batch, self.width, self.n_points)
        return torch.empty(shape, dtype=torch.complex64, device=self.x.device)

    def _grid(self, n_steps: int, batch: int) -> tuple[int]:
        blocks = triton.cdiv(self.width, self.tile["BC"])
        return (batch * triton.cdiv(n_steps, STEPS) * blocks,)

    def _flags(self) -> dict[str, bool]:
        return {
            "HAS_BIAS": self.bias is not None,
            "HAS_GATE_IN": self.gate_in is not None,
            "HAS_GATE_OUT": self.gate_out is not None,
        }

    def _launch(self, kernel: Any, grid: tuple[int], *arguments: Any, **flags: Any) -> None:
        if "BT" in kernel.arg_names:
            flags |= self.tile
        with torch.cuda.device_of(self.x):
            launch(kernel, grid, *arguments, **flags)


def _blocks(x: Tensor) -> Iterator[slice]:
    """Return the channels to take at a time, at least one, by the shape alone."""
    batch, seq_len, channels = x.shape
    width = min(channels, max(1, BLOCK_POINTS // (batch * fast_length(seq_len))))
    return (slice(start, start + width) for start in range(0, channels, width))


def _invert(spectrum: Tensor) -> Tensor:
    """Return M times the inverse transform: the kernels that read it divide."""
    return torch.fft.ifft(spectrum, norm="forward")


def _as_integers(z: Tensor) -> Tensor:
    return z.view(torch.int64)


def _or(tensor: Tensor | None, stand_in: Tensor) -> Tensor:
    """`dense_or` for a view of a block of channels."""
    return stand_in if tensor is None else tensor
