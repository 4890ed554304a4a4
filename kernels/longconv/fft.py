"""`long_conv` by FFT in plain PyTorch, a few channels at a time.

The backward remakes spectra: at 2^20 positions one sequence of 256 channels has 2 GiB of them and
0.5 GiB of operands in bf16. Shape letters: B batch, L seq_len, D channels.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.longconv.reference import ConvOperands, apply_window
from dnamamba.kernels.operands import compute_dtype

# Real numbers in one transform of a block of channels. A backward holds about eight such arrays.
_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 25}
_ODD_FACTORS = (1, 3, 5, 9, 15)


def long_conv(operands: ConvOperands) -> Tensor:
    """`kernels.long_conv`; any real dtype and device."""
    x, filter, *others, decay, shift = operands
    assert filter is not None
    y: Tensor = _LongConv.apply(x, apply_window(filter, decay, shift), *others)
    return y


def transform_length(seq_len: int) -> int:
    """Return the points of a sequence's transforms: at least 2 L - 1, so that no product wraps."""
    return fast_length(2 * seq_len - 1)


def fast_length(least: int) -> int:
    """Return the points of a transform, >= least: a power of two times a small odd number."""
    least = max(2, least)
    return min(odd << ((least - 1) // odd).bit_length() for odd in _ODD_FACTORS)


class _LongConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Any) -> Tensor:
        ctx.save_for_backward(*operands)
        x = operands[0]
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for channels in _blocks(x):
            block = _Block(channels, ConvOperands(*operands))
            out = block.convolve(block.transform(block.inputs))
            if block.gate_out is not None:
                out *= block.gate_out
            y[..., channels] = out.mT
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        operands = ctx.saved_tensors
        # Contiguous, whatever the operands are views of.
        gradients = [
            torch.empty(one.shape, dtype=one.dtype, device=one.device)
            if one is not None and needed
            else None
            for one, needed in zip(operands, ctx.needs_input_grad, strict=True)
        ]
        for channels in _blocks(operands[0]):
            block = _Block(channels, ConvOperands(*operands))
            found = block.differentiate(block.cut(d_y), ctx.needs_input_grad)
            for gradient, part in zip(gradients, found, strict=True):
                if gradient is not None and part is not None:
                    gradient[..., channels] = part.mT if part.dim() > 1 else part
        return tuple(gradients)


def _blocks(x: Tensor) -> Iterator[slice]:
    """Return the channels to take at a time, at least one."""
    batch, seq_len, channels = x.shape
    most = _BLOCK.get(x.device.type, _BLOCK["cpu"]) // (batch * transform_length(seq_len))
    width = min(channels, max(1, most))
    return (slice(start, start + width) for start in range(0, channels, width))


class _Block:
    """A block of channels, time last: inputs (B, C, L), taps (C, L), in float32 or float64."""

    def __init__(self, channels: slice, operands: ConvOperands) -> None:
        x, filter, bias, gate_in, gate_out, *_ = operands
        assert filter is not None
        self.channels, self.seq_len = channels, x.shape[1]
        self.dtype = compute_dtype(x)
        self.n_points = transform_length(self.seq_len)
        self.x = self.cut(x)
        self.gate_in = None if gate_in is None else self.cut(gate_in)
        self.gate_out = None if gate_out is None else self.cut(gate_out)
        self.inputs = self.x if self.gate_in is None else self.x * self.gate_in
        self.bias = None if bias is None else bias[channels].to(self.dtype).unsqueeze(-1)
        self.taps = self.transform(self.cut(filter))

    def cut(self, tensor: Tensor) -> Tensor:
        """Copy the block's channels of a tensor (..., L, D) to (..., C, L) in one pass."""
        part = tensor[..., self.channels].mT
        return torch.empty(part.shape, dtype=self.dtype, device=part.device).copy_(part)

    def transform(self, signal: Tensor) -> Tensor:
        return torch.fft.rfft(signal, n=self.n_points)

    def invert(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(spectrum, n=self.n_points)[..., : self.seq_len]

    def convolve(self, spectrum: Tensor) -> Tensor:
        """Return y before gate_out, from the inputs' spectrum, which is overwritten."""
        out = self.invert(spectrum.mul_(self.taps))
        return out if self.bias is None else out.addcmul_(self.inputs, self.bias)

    def differentiate(self, d_y: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
        """Return the operands' gradients in order, time last, given that of y."""
        d_filter, d_gate_out, d_bias = None, None, None
        d_out = d_y if self.gate_out is None else d_y * self.gate_out
        d_spectrum = self.transform(d_out)
        if needed[1] or needed[4]:
            spectrum = self.transform(self.inputs)
            if needed[1]:
                # A correlation: lags below 0 wrap around, behind the part that is kept.
                d_filter = self.invert((spectrum.conj() * d_spectrum).sum(0))
            if needed[4]:
                d_gate_out = self.convolve(spectrum).mul_(d_y)
            del spectrum
        d_inputs = self.invert(d_spectrum.mul_(self.taps.conj()))
        if self.bias is not None:
            d_bias = (d_out * self.inputs).sum((0, 2))
            d_inputs.addcmul_(d_out, self.bias)
        if self.gate_in is None:
            return d_inputs, d_filter, d_bias, None, d_gate_out
        return d_inputs * self.gate_in, d_filter, d_bias, d_inputs * self.x, d_gate_out
