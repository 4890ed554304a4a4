"""`causal_conv1d` in Triton: one pass over memory forward, one backward.

A program is one warp. It owns a block of channels, walks a chunk of time four steps at a time, and
keeps the last three inputs in registers, so it reads every input once (but for three at the edge of
a chunk) and writes every output once. The backward walks from the last step to the first, remakes
the sum before SiLU, and keeps its last three gradients. `reverse` takes the steps of memory in the
other order.

Shape letters: B batch, L seq_len, D channels, K d_conv (1 to 4). The weight of lag k multiplies the
input k steps back. "Time" counts in the order of the walk: 0 is the first step, whatever the
direction, and -1 the newest input of the initial state.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dnamamba.kernels.launcher import dense_or, launch, with_dense_rows
from dnamamba.kernels.operators import differentiable, operator

FORWARD_BYTES = 512
"""A forward program's part of a row: 16 bytes a lane."""

BACKWARD_CHANNELS = 128
"""A backward program's part of a row: 4 channels a lane, 131 registers. With 8 it takes all 255,
and half as many programs fit on a multiprocessor."""

CHUNK_STEPS = (32, 256)
"""Fewest and most steps of a program: at each edge of a chunk three are read twice."""

PROGRAMS = 8192
"""Chunks are shortened until there are this many: several times what a GPU runs at once."""


@triton.jit
def _load_row(rows, time, step, count, is_channel):
    """Row `time` of `count`, float32; zeros outside of them. rows points at row 0. [BD]"""
    is_inside = is_channel & (time >= 0) & (time < count)
    return tl.load(rows + time * step, mask=is_inside, other=0.0).to(tl.float32)


@triton.jit
def _load_four(rows, newest, step, count, is_channel):
    """Rows `newest` and the three before it, newest first. [BD] each"""
    return (
        _load_row(rows, newest, step, count, is_channel),
        _load_row(rows, newest - 1, step, count, is_channel),
        _load_row(rows, newest - 2, step, count, is_channel),
        _load_row(rows, newest - 3, step, count, is_channel),
    )


@triton.jit
def _weigh(total, v0, v1, v2, v3, w, K: tl.constexpr):
    """total + the sum over lags of w v. [BD]"""
    total += w[0] * v0
    if K > 1:
        total += w[1] * v1
    if K > 2:
        total += w[2] * v2
    if K > 3:
        total += w[3] * v3
    return total


@triton.jit
def _sigmoid_divisor(x):
    # exp2 costs half the instructions of exp.
    return 1.0 + tl.exp2(-1.4426950408889634 * x)


@triton.jit
def _activate(total, SILU: tl.constexpr):
    return total / _sigmoid_divisor(total) if SILU else total


@triton.jit
def _through_activation(d_out, total, SILU: tl.constexpr):
    """The gradient of the sum before the activation, given that of what came out."""
    if SILU:
        sigmoid = 1.0 / _sigmoid_divisor(total)
        d_out *= sigmoid * (1.0 + total * (1.0 - sigmoid))
    return d_out


@triton.jit
def _store_row(rows, time, step, count, is_channel, value):
    is_inside = is_channel & (time >= 0) & (time < count)
    tl.store(rows + time * step, value.to(rows.dtype.element_ty), mask=is_inside)


@triton.jit
def _load_bias(bias, channel, is_channel, HAS_BIAS: tl.constexpr):
    if HAS_BIAS:
        return tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    else:
        return tl.zeros(channel.shape, tl.float32)


@triton.jit
def _locate_tile(channels, n_chunks, BD: tl.constexpr):
    """Which sequence, which chunk of it and which channels a program has; chunks counted over all.

    Programs of neighbouring channels run side by side, since their rows meet in memory.
    """
    n_blocks = tl.cdiv(channels, BD)
    any_chunk = tl.program_id(0) // n_blocks
    channel = (tl.program_id(0) % n_blocks) * BD + tl.arange(0, BD)  # [BD]
    return (any_chunk // n_chunks).to(tl.int64), any_chunk % n_chunks, any_chunk, channel


@triton.jit
def _walk(rows, batch_stride, batch, step, seq_len, channel, REVERSE: tl.constexpr):
    """Where time 0 of a sequence is, and how far it is from one step to the next."""
    step = tl.cast(step, tl.int64)
    rows += batch * batch_stride
    if REVERSE:
        rows += (seq_len - 1) * step
        step = -step
    return rows + channel, step


@triton.jit(do_not_specialize=["seq_len", "n_chunks"])
def _forward_kernel(
    x, weight, bias, state, out, last,
    seq_len, channels, n_chunks, chunk_steps, x_batch, x_step, out_batch,
    K: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch, chunk, _, channel = _locate_tile(channels, n_chunks, BD)
    is_channel = channel < channels  # [BD]
    x, x_step = _walk(x, x_batch, batch, x_step, seq_len, channel, REVERSE)
    out, out_step = _walk(out, out_batch, batch, channels, seq_len, channel, REVERSE)
    state += batch * (K - 1) * channels + channel
    last += batch * (K - 1) * channels + channel
    w = _load_four(weight + channel * K, K - 1, 1, K, is_channel)  # by lag
    offset = _load_bias(bias, channel, is_channel, HAS_BIAS)

    # The inputs one, two and three steps before the first.
    start = chunk * chunk_steps
    x1, x2, x3, _ = _load_four(x, start - 1, x_step, seq_len, is_channel)  # [BD]
    if HAS_STATE:
        s1, s2, s3, _ = _load_four(state, start + K - 2, channels, K - 1, is_channel)
        x1, x2, x3 = x1 + s1, x2 + s2, x3 + s3

    for time in range(start, min(start + chunk_steps, seq_len), 4):
        # All four loads before the first store, which they could not pass.
        d, c, b, a = _load_four(x, time + 3, x_step, seq_len, is_channel)
        y = _activate(_weigh(offset, a, x1, x2, x3, w, K), SILU)
        _store_row(out, time, out_step, seq_len, is_channel, y)
        y = _activate(_weigh(offset, b, a, x1, x2, w, K), SILU)
        _store_row(out, time + 1, out_step, seq_len, is_channel, y)
        y = _activate(_weigh(offset, c, b, a, x1, w, K), SILU)
        _store_row(out, time + 2, out_step, seq_len, is_channel, y)
        y = _activate(_weigh(offset, d, c, b, a, w, K), SILU)
        _store_row(out, time + 3, out_step, seq_len, is_channel, y)
        x1, x2, x3 = d, c, b

    if chunk == n_chunks - 1:
        for index in tl.static_range(K - 1):
            time = seq_len - (K - 1) + index
            v = _load_row(x, time, x_step, seq_len, is_channel)
            if HAS_STATE:
                v += _load_row(state, time + K - 1, channels, K - 1, is_channel)
            _store_row(last, index, channels, K - 1, is_channel, v)


@triton.jit(do_not_specialize=["seq_len", "n_chunks"])
def _backward_kernel(
    x, weight, bias, state, d_out, d_last, d_x, d_state, partials,
    seq_len, channels, n_chunks, chunk_steps,
    x_batch, x_step, d_out_batch, d_out_step, d_x_batch, d_x_step,
    K: tl.constexpr, SILU: tl.constexpr, REVERSE: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_STATE: tl.constexpr, HAS_D_LAST: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    batch, chunk, any_chunk, channel = _locate_tile(channels, n_chunks, BD)
    is_channel = channel < channels  # [BD]
    x, x_step = _walk(x, x_batch, batch, x_step, seq_len, channel, REVERSE)
    d_out, d_out_step = _walk(d_out, d_out_batch, batch, d_out_step, seq_len, channel, REVERSE)
    d_x, d_x_step = _walk(d_x, d_x_batch, batch, d_x_step, seq_len, channel, REVERSE)
    state += batch * (K - 1) * channels + channel
    d_last += batch * (K - 1) * channels + channel
    d_state += batch * (K - 1) * channels + channel
    partials += any_chunk.to(tl.int64) * (K + 1) * channels + channel
    w = _load_four(weight + channel * K, K - 1, 1, K, is_channel)  # by lag
    offset = _load_bias(bias, channel, is_channel, HAS_BIAS)

    # The chunk's last three inputs, newest first, and the gradients of the three sums after it.
    end = (chunk + 1) * chunk_steps
    x1, x2, x3, _ = _load_four(x, end - 1, x_step, seq_len, is_channel)  # [BD]
    c, b, a, _ = _load_four(x, end + 2, x_step, seq_len, is_channel)
    g3, g2, g1, _ = _load_four(d_out, end + 2, d_out_step, seq_len, is_channel)
    g1 = _through_activation(g1, _weigh(offset, a, x1, x2, x3, w, K), SILU)
    g2 = _through_activation(g2, _weigh(offset, b, a, x1, x2, w, K), SILU)
    g3 = _through_activation(g3, _weigh(offset, c, b, a, x1, w, K), SILU)

    zeros = tl.zeros([BD], tl.float32)
    f0, f1, f2, f3 = zeros, zeros, zeros, zeros
    d_w0, d_w1, d_w2, d_w3, d_bias = zeros, zeros, zeros, zeros, zeros
    for done in range(0, chunk_steps, 4):
        time = end - 4 - done
        a, b, c, d = _load_four(x, time, x_step, seq_len, is_channel)
        e3, e2, e1, e0 = _load_four(d_out, time + 3, d_out_step, seq_len, is_channel)
        if HAS_STATE:
            s1, s2, s3, _ = _load_four(state, time + K - 2, channels, K - 1, is_channel)
            b, c, d = b + s1, c + s2, d + s3
        if HAS_D_LAST:
            row = time + 3 - (seq_len - (K - 1))
            f3, f2, f1, f0 = _load_four(d_last, row, channels, K - 1, is_channel)

        # From here on e is the gradient of the sum: its last three, newest first, are g.
        e3 = _through_activation(e3, _weigh(offset, x1, x2, x3, a, w, K), SILU)
        e2 = _through_activation(e2, _weigh(offset, x2, x3, a, b, w, K), SILU)
        e1 = _through_activation(e1, _weigh(offset, x3, a, b, c, w, K), SILU)
        e0 = _through_activation(e0, _weigh(offset, a, b, c, d, w, K), SILU)
        _store_row(d_x, time + 3, d_x_step, seq_len, is_channel, _weigh(f3, e3, g1, g2, g3, w, K))
        _store_row(d_x, time + 2, d_x_step, seq_len, is_channel, _weigh(f2, e2, e3, g1, g2, w, K))
        _store_row(d_x, time + 1, d_x_step, seq_len, is_channel, _weigh(f1, e1, e2, e3, g1, w, K))
        _store_row(d_x, time, d_x_step, seq_len, is_channel, _weigh(f0, e0, e1, e2, e3, w, K))

        sums = (e3, e2, e1, e0)
        d_bias += e3 + e2 + e1 + e0
        d_w0 = _weigh(d_w0, x1, x2, x3, a, sums, 4)
        d_w1 = _weigh(d_w1, x2, x3, a, b, sums, 4)
        d_w2 = _weigh(d_w2, x3, a, b, c, sums, 4)
        d_w3 = _weigh(d_w3, a, b, c, d, sums, 4)
        x1, x2, x3 = b, c, d
        g1, g2, g3 = e0, e1, e2

    # Rows that K does not have lie below row 0 and are not stored.
    rows: tl.constexpr = K + 1
    _store_row(partials, K, channels, rows, is_channel, d_bias)
    _store_row(partials, K - 1, channels, rows, is_channel, d_w0)
    _store_row(partials, K - 2, channels, rows, is_channel, d_w1)
    _store_row(partials, K - 3, channels, rows, is_channel, d_w2)
    _store_row(partials, K - 4, channels, rows, is_channel, d_w3)
    if HAS_STATE and chunk == 0:
        # The inputs before the first, newest first: sums 0, 1 and 2 used them.
        if HAS_D_LAST:
            f0, f1, f2, _ = _load_four(d_last, K - 2 - seq_len, channels, K - 1, is_channel)
        v = _weigh(f0, zeros, g1, g2, g3, w, K)
        _store_row(d_state, K - 2, channels, K - 1, is_channel, v)
        v = _weigh(f1, zeros, zeros, g1, g2, w, K)
        _store_row(d_state, K - 3, channels, K - 1, is_channel, v)
        v = _weigh(f2, zeros, zeros, zeros, g1, w, K)
        _store_row(d_state, K - 4, channels, K - 1, is_channel, v)


@operator("dnamamba::causal_conv1d", fake=lambda x, weight, *_: _empty_outputs(x, weight))
def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None,
    has_silu: bool, reverse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output (B, L, D) and the last state (B, K - 1, D)."""
    x, weight = with_dense_rows(x), weight.contiguous()
    block = _block(x, FORWARD_BYTES // x.element_size())
    n_programs, n_chunks, chunk_steps = _divide(x, block)
    out, last = _empty_outputs(x, weight)
    with torch.cuda.device_of(x):
        launch(
            _forward_kernel, (n_programs,),
            x, weight, dense_or(bias, x), dense_or(state, x), out, last,
            x.shape[1], x.shape[2], n_chunks, chunk_steps, *x.stride()[:2], out.stride(0),
            **_flags(weight, bias, state, has_silu, reverse), BD=block, num_warps=1,
        )  # fmt: skip
    return out, last


@operator(
    "dnamamba::causal_conv1d_backward",
    fake=lambda d_x, d_out, d_last, x, *operands: _empty_gradients(*operands[:3]),
    mutates_args=("d_x",),
)
def backward(
    d_x: Tensor, d_out: Tensor, d_last: Tensor | None, x: Tensor, weight: Tensor,
    bias: Tensor | None, state: Tensor | None, has_silu: bool, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Write the gradient of x into d_x; return those of weight, bias and state, empty if left out.

    d_x: (B, L, D) with dense rows; it may be a view, such as half of a projection's gradient.
    """
    x, d_out, weight = with_dense_rows(x), with_dense_rows(d_out), weight.contiguous()
    block = _block(x, BACKWARD_CHANNELS)
    n_programs, n_chunks, chunk_steps = _divide(x, block)
    batch, seq_len, channels = x.shape
    d_conv = weight.shape[1]
    sums = x.new_empty((batch * n_chunks, d_conv + 1, channels), dtype=torch.float32)
    d_weight, d_bias, d_state = _empty_gradients(weight, bias, state)
    with torch.cuda.device_of(x):
        launch(
            _backward_kernel, (n_programs,),
            x, weight, dense_or(bias, x), dense_or(state, x),
            d_out, dense_or(d_last, x), d_x, d_state, sums,
            seq_len, channels, n_chunks, chunk_steps,
            *x.stride()[:2], *d_out.stride()[:2], *d_x.stride()[:2],
            **_flags(weight, bias, state, has_silu, reverse),
            HAS_D_LAST=d_last is not None and d_conv > 1, BD=block, num_warps=1,
        )  # fmt: skip
    total = sums.sum(0)
    d_weight.copy_(total[:d_conv].t())
    if bias is not None:
        d_bias.copy_(total[d_conv])
    return d_weight, d_bias, d_state


def _flags(
    weight: Tensor, bias: Tensor | None, state: Tensor | None, has_silu: bool, reverse: bool
) -> dict[str, Any]:
    """Return the constants of both kernels."""
    return {
        "K": weight.shape[1],
        "SILU": has_silu,
        "REVERSE": reverse,
        "HAS_BIAS": bias is not None,
        "HAS_STATE": state is not None and weight.shape[1] > 1,
    }


def _block(x: Tensor, most: int) -> int:
    """Return the channels of a program."""
    return min(most, triton.next_power_of_2(max(32, x.shape[2])))


def _divide(x: Tensor, block: int) -> tuple[int, int, int]:
    """Return programs, chunks of a sequence and steps of a chunk.

    They depend on the shape alone, so partial sums are of the same steps on every GPU.
    """
    batch, seq_len, channels = x.shape
    n_blocks = triton.cdiv(channels, block)
    wanted = triton.next_power_of_2(triton.cdiv(batch * n_blocks * seq_len, PROGRAMS))
    chunk_steps = min(max(wanted, CHUNK_STEPS[0]), CHUNK_STEPS[1])
    n_chunks = triton.cdiv(seq_len, chunk_steps)
    return batch * n_chunks * n_blocks, n_chunks, chunk_steps


def _empty_outputs(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, channels = x.shape
    return x.new_empty(x.shape), x.new_empty((batch, weight.shape[1] - 1, channels))


def _empty_gradients(
    weight: Tensor, bias: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    d_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    d_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias)
    if state is None:
        return d_weight, d_bias, weight.new_empty(0)
    return d_weight, d_bias, torch.empty_like(state, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.has_silu, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, d_out: Tensor | None, d_last: Tensor | None) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors
    x = saved[0]
    d_out = torch.zeros_like(x) if d_out is None else d_out
    d_x = x.new_empty(x.shape)
    return d_x, *backward(d_x, d_out, d_last, *saved, ctx.has_silu, ctx.reverse)


convolve = differentiable(forward, _save, _differentiate)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None,
    initial_state: Tensor | None = None, return_last_state: bool = False, reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.causal_conv1d` on CUDA tensors, or on any in Triton's interpreter."""
    out, last = convolve(x, weight, bias, initial_state, activation == "silu", reverse)
    return (out, last) if return_last_state else out
