"""Triton kernels around the FFTs of gpu.py, which explains the transform they serve.

Tiles are read as operands lie, channels side by side, and written as FFTs want them, time side by
side, or the other way round: the compiler exchanges a tile through shared memory, so that both
sides are coalesced. A complex number is moved as one integer of 64 bits, the real part its lower
half.

Operands (B, L, D) come as views of a block of channels, with any strides but the last; transforms
are dense (B, C, M). Shape letters: B batch, L seq_len, C channels of a block, M points of a
transform. Offsets have 64 bits. "BT" steps and "BC" channels make a tile.
"""

import triton
import triton.language as tl


@triton.jit
def _find_tile(n_steps, n_channels, BT: tl.constexpr, BC: tl.constexpr):
    """A program's sequence, steps [BT, 1] and channels [1, BC], and its place among tiles of time.

    Programs of neighbouring channels run side by side, since their rows meet in memory.
    """
    n_blocks, n_tiles = tl.cdiv(n_channels, BC), tl.cdiv(n_steps, BT)
    any_tile = tl.program_id(0) // n_blocks
    channel = (tl.program_id(0) % n_blocks) * BC + tl.arange(0, BC)[None, :]
    step = (any_tile % n_tiles) * BT + tl.arange(0, BT)[:, None]
    return (any_tile // n_tiles).to(tl.int64), step.to(tl.int64), channel.to(tl.int64), any_tile


@triton.jit
def _parts(z):
    """Real and imaginary part of complex numbers that were read as integers."""
    real = z.to(tl.int32).to(tl.float32, bitcast=True)
    return real, (z >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _joined(real, imaginary):
    low = real.to(tl.uint32, bitcast=True).to(tl.uint64)
    return low | (imaginary.to(tl.uint32, bitcast=True).to(tl.uint64) << 32)


@triton.jit
def _turn(step, n_points, angle):
    """Cosine and sine of angle step, angle = pi / 2 M. [BT, 1]

    Taylor series around 45 degrees, errors below 1e-7. Triton's own functions take a slow path for
    large angles, which needs a stack.
    """
    left = (step.to(tl.float32) - 0.5 * n_points) * angle  # at most pi / 4
    square = left * left
    cosine = 1 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square / 40320)))
    sine = -1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square / 362880))
    sine = left + left * square * sine
    return 0.7071067811865476 * (cosine - sine), 0.7071067811865476 * (cosine + sine)


@triton.jit
def _twist(real, step, n_points, angle):
    """real exp(-i angle step), joined. [BT, BC]"""
    cosine, sine = _turn(step, n_points, angle)
    return _joined(real * cosine, -real * sine)


@triton.jit
def _untwist(z, step, n_points, angle):
    """The real part of z exp(i angle step) / M. [BT, BC]"""
    cosine, sine = _turn(step, n_points, angle)
    real, imaginary = _parts(z)
    return real * (cosine / n_points) - imaginary * (sine / n_points)


@triton.jit
def _load(tensor, offset, is_inside):
    return tl.load(tensor + offset, mask=is_inside, other=0.0).to(tl.float32)


@triton.jit
def _store(tensor, offset, is_inside, value):
    tl.store(tensor + offset, value.to(tensor.dtype.element_ty), mask=is_inside)


@triton.jit
def _window(decay, step, channel, is_channel, shift):
    """What a filter is multiplied by. [BT, BC]"""
    rate = tl.load(decay + channel, mask=is_channel, other=0.0)
    return tl.exp(-(step.to(tl.float32) * rate)) + shift


@triton.jit
def gather_kernel(
    x, gate, z, seq_len, channels, n_points, angle, x_batch, x_step, gate_batch, gate_step,
    HAS_GATE: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """z = x gate, twisted, zeros from L to M."""
    batch, step, channel, _ = _find_tile(n_points, channels, BT, BC)
    is_channel = channel < channels
    is_inside = is_channel & (step < seq_len)
    real = _load(x + batch * x_batch, step * x_step + channel, is_inside)
    if HAS_GATE:
        real *= _load(gate + batch * gate_batch, step * gate_step + channel, is_inside)
    offset = (batch * channels + channel) * n_points + step
    tl.store(z + offset, _twist(real, step, n_points, angle), mask=is_channel & (step < n_points))


@triton.jit
def gather_filter_kernel(
    filter, decay, z, seq_len, channels, n_points, angle, shift, filter_step, filter_channel,
    HAS_DECAY: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """z = the filter times its window, twisted, zeros from L to M."""
    _, step, channel, _ = _find_tile(n_points, channels, BT, BC)
    is_channel = channel < channels
    offset = step * filter_step + channel * filter_channel
    real = _load(filter, offset, is_channel & (step < seq_len))
    if HAS_DECAY:
        real *= _window(decay, step, channel, is_channel, shift)
    offset = channel * n_points + step
    tl.store(z + offset, _twist(real, step, n_points, angle), mask=is_channel & (step < n_points))


@triton.jit
def scatter_kernel(
    z, x, gate_in, gate_out, bias, y, sums, seq_len, channels, n_points, angle,
    x_batch, x_step, gate_in_batch, gate_in_step, gate_out_batch, gate_out_step,
    y_batch, y_step, HAS_BIAS: tl.constexpr, HAS_GATE_IN: tl.constexpr,
    HAS_GATE_OUT: tl.constexpr, KEEPS_SUMS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y = gate_out sums, sums = what is within the brackets of op.py; z the inverse transform."""
    batch, step, channel, _ = _find_tile(seq_len, channels, BT, BC)
    is_inside = (channel < channels) & (step < seq_len)
    offset = (batch * channels + channel) * n_points + step
    total = _untwist(tl.load(z + offset, mask=is_inside, other=0), step, n_points, angle)
    if HAS_BIAS:
        inputs = _load(x + batch * x_batch, step * x_step + channel, is_inside)
        if HAS_GATE_IN:
            offset = step * gate_in_step + channel
            inputs *= _load(gate_in + batch * gate_in_batch, offset, is_inside)
        total += inputs * _load(bias, channel, channel < channels)
    offset = step * y_step + channel
    if KEEPS_SUMS:
        _store(sums + batch * y_batch, offset, is_inside, total)
    if HAS_GATE_OUT:
        gate = step * gate_out_step + channel
        total *= _load(gate_out + batch * gate_out_batch, gate, is_inside)
    _store(y + batch * y_batch, offset, is_inside, total)


@triton.jit
def gradients_kernel(
    z, d_y, x, gate_in, gate_out, bias, sums, d_x, d_gate_in, d_gate_out, partials,
    seq_len, channels, n_points, angle, d_y_batch, d_y_step, x_batch, x_step,
    gate_in_batch, gate_in_step, gate_out_batch, gate_out_step, own_batch, own_step,
    HAS_BIAS: tl.constexpr, HAS_GATE_IN: tl.constexpr, HAS_GATE_OUT: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of x and the gates, and the tile's part of the bias's; z that of the inputs."""
    batch, step, channel, any_tile = _find_tile(seq_len, channels, BT, BC)
    is_channel = channel < channels
    is_inside = is_channel & (step < seq_len)
    offset = (batch * channels + channel) * n_points + step
    d_inputs = _untwist(tl.load(z + offset, mask=is_inside, other=0), step, n_points, angle)
    d_sums = _load(d_y + batch * d_y_batch, step * d_y_step + channel, is_inside)
    own = batch * own_batch + step * own_step + channel
    if HAS_GATE_OUT:
        _store(d_gate_out, own, is_inside, d_sums * _load(sums, own, is_inside))
        offset = step * gate_out_step + channel
        d_sums *= _load(gate_out + batch * gate_out_batch, offset, is_inside)
    if HAS_BIAS:
        d_inputs += d_sums * _load(bias, channel, is_channel)
    if HAS_BIAS or HAS_GATE_IN:
        inputs = _load(x + batch * x_batch, step * x_step + channel, is_inside)
    if HAS_GATE_IN:
        _store(d_gate_in, own, is_inside, d_inputs * inputs)
        offset = step * gate_in_step + channel
        gate = _load(gate_in + batch * gate_in_batch, offset, is_inside)
        d_inputs *= gate
        if HAS_BIAS:
            inputs *= gate
    _store(d_x, own, is_inside, d_inputs)
    if HAS_BIAS:
        part = tl.sum(d_sums * inputs, axis=0)[None, :]  # zero beyond the sequence
        tl.store(partials + any_tile.to(tl.int64) * channels + channel, part, mask=is_channel)


@triton.jit
def filter_gradient_kernel(
    z, decay, d_filter, seq_len, channels, n_points, angle, shift,
    filter_step, filter_channel,
    HAS_DECAY: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of the filter before its window; z the inverse transform."""
    _, step, channel, _ = _find_tile(seq_len, channels, BT, BC)
    is_channel = channel < channels
    is_inside = is_channel & (step < seq_len)
    stored = tl.load(z + channel * n_points + step, mask=is_inside, other=0)
    real = _untwist(stored, step, n_points, angle)
    if HAS_DECAY:
        real *= _window(decay, step, channel, is_channel, shift)
    _store(d_filter, step * filter_step + channel * filter_channel, is_inside, real)


@triton.jit
def products_kernel(
    d_sums, taps, inputs, d_filter, batch, n_numbers,
    HAS_D_FILTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients: d_sums *= conj(taps), after d_filter = sum over the batch of conj(inputs) d_sums.

    d_sums, inputs: (B, C M). taps, d_filter: (C M,).
    """
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_inside = offset < n_numbers
    a, b = _parts(tl.load(taps + offset, mask=is_inside, other=0))
    real, imaginary = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for _ in range(batch):
        c, d = _parts(tl.load(d_sums + offset, mask=is_inside, other=0))
        if HAS_D_FILTER:
            e, f = _parts(tl.load(inputs + offset, mask=is_inside, other=0))
            real += e * c + f * d
            imaginary += e * d - f * c
            inputs += n_numbers
        tl.store(d_sums + offset, _joined(a * c + b * d, a * d - b * c), mask=is_inside)
        d_sums += n_numbers
    if HAS_D_FILTER:
        tl.store(d_filter + offset, _joined(real, imaginary), mask=is_inside)
