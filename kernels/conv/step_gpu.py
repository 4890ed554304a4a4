"""`causal_conv1d_step` in Triton: one launch, which also moves the state on.

A program is one warp with a block of channels of one sequence. Shape letters: B batch, D channels,
K d_conv (1 to 4).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dnamamba.kernels.launcher import dense_or, launch
from dnamamba.kernels.operands import count_write
from dnamamba.kernels.operators import operator

CHANNELS = 128
"""Channels of one program: 4 per lane."""


@triton.jit
def _step_kernel(
    x, weight, bias, state, out, channels,
    x_batch, x_channel, state_batch, state_time, state_channel,
    K: tl.constexpr, SILU: tl.constexpr, HAS_BIAS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(channels, BD)
    # 64 bits: strides are anybody's.
    batch = (tl.program_id(0) // n_blocks).to(tl.int64)
    channel = (tl.program_id(0) % n_blocks * BD + tl.arange(0, BD)).to(tl.int64)  # [BD]
    is_channel = channel < channels
    now = tl.load(x + batch * x_batch + channel * x_channel, mask=is_channel, other=0.0)
    state += batch * state_batch + channel * state_channel
    # All loads before the first store, which they could not pass.
    before = ()
    for k in tl.static_range(K - 1):
        value = tl.load(state + k * state_time, mask=is_channel, other=0.0)
        before = before + (value,)  # type: ignore[assignment]
    taps = ()
    for k in tl.static_range(K):
        value = tl.load(weight + channel * K + k, mask=is_channel, other=0.0)
        taps = taps + (value.to(tl.float32),)  # type: ignore[assignment]

    total = taps[K - 1] * now.to(tl.float32)
    for k in tl.static_range(K - 1):
        total += taps[k] * before[k].to(tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    if SILU:
        # exp2 costs half the instructions of exp.
        total = total / (1.0 + tl.exp2(-1.4426950408889634 * total))
    tl.store(out + batch * channels + channel, total.to(out.dtype.element_ty), mask=is_channel)

    after = before + (now.to(state.dtype.element_ty),)
    for k in tl.static_range(K - 1):
        tl.store(state + k * state_time, after[k + 1], mask=is_channel)


@operator(
    "dnamamba::causal_conv1d_step", fake=lambda x, *_: x.new_empty(x.shape), mutates_args=("state",)
)
def step(x: Tensor, weight: Tensor, bias: Tensor | None, has_silu: bool, state: Tensor) -> Tensor:
    """y (B, D) in x's dtype; state (B, K - 1, D) is updated in place."""
    batch, channels = x.shape
    out = x.new_empty(x.shape)
    block = min(CHANNELS, triton.next_power_of_2(max(32, channels)))
    with torch.cuda.device_of(x):
        launch(
            _step_kernel, (batch * triton.cdiv(channels, block),),
            x, weight.contiguous(), dense_or(bias, weight), state, out,
            channels, *x.stride(), *state.stride(),
            K=weight.shape[1], SILU=has_silu, HAS_BIAS=bias is not None, BD=block, num_warps=1,
        )  # fmt: skip
    count_write(state)
    return out


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, state: Tensor
) -> Tensor:
    """Run a step on CUDA tensors, or on any in Triton's interpreter."""
    y: Tensor = step(x, weight, bias, activation == "silu", state)
    return y
