"""`selective_scan_step` in Triton: one launch, the state read and written once.

A program takes a tile of channels with all their states, [BD, BN], one piece of memory if the state
is contiguous. Shape letters: B batch, D channels, N states, G groups.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dnamamba.kernels.launcher import dense_or, launch
from dnamamba.kernels.operands import count_write
from dnamamba.kernels.operators import operator
from dnamamba.kernels.scan.gpu_pieces import LOG2_E, sigmoid, softplus
from dnamamba.kernels.scan.reference import ScanOperands

TILE = 512
"""States of a program, which is one warp: 16 a lane."""


@triton.jit
def _locate(batch, group, n, batch_stride, group_stride, n_stride):
    """Where B or C of each channel and state is. [BD, BN]"""
    return batch * batch_stride + group[:, None] * group_stride + n * n_stride


@triton.jit
def _step_kernel(
    u, delta, A, B, C, D, z, delta_bias, state, out, channels, B_width, C_width,
    u_batch, u_channel, delta_batch, delta_channel, z_batch, z_channel,
    B_batch, B_group, B_n, C_batch, C_group, C_n, state_batch, state_channel, state_n,
    D_STATE: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    n_blocks = tl.cdiv(channels, BD)
    # 64 bits: strides are anybody's.
    batch = (tl.program_id(0) // n_blocks).to(tl.int64)
    channel = tl.program_id(0) % n_blocks * BD + tl.arange(0, BD)  # [BD]
    B_of, C_of = (channel // B_width).to(tl.int64), (channel // C_width).to(tl.int64)  # groups
    channel = channel.to(tl.int64)
    n = tl.arange(0, BN).to(tl.int64)[None, :]  # [1, BN]
    is_channel = channel < channels  # [BD]
    is_state = is_channel[:, None] & (n < D_STATE)  # [BD, BN]

    states = state + batch * state_batch + channel[:, None] * state_channel + n * state_n
    h = tl.load(states, mask=is_state, other=0.0)
    rate = tl.load(A + channel[:, None] * D_STATE + n, mask=is_state, other=0.0).to(tl.float32)
    offset = _locate(batch, B_of, n, B_batch, B_group, B_n)
    weight = tl.load(B + offset, mask=is_state, other=0.0).to(tl.float32)
    offset = _locate(batch, C_of, n, C_batch, C_group, C_n)
    readout = tl.load(C + offset, mask=is_state, other=0.0).to(tl.float32)
    offset = batch * u_batch + channel * u_channel
    x = tl.load(u + offset, mask=is_channel, other=0.0).to(tl.float32)  # [BD]
    offset = batch * delta_batch + channel * delta_channel
    dt = tl.load(delta + offset, mask=is_channel, other=0.0).to(tl.float32)
    if HAS_BIAS:
        dt += tl.load(delta_bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    if SOFTPLUS:
        dt, _ = softplus(dt)

    h = tl.exp2(dt[:, None] * (rate * LOG2_E)) * h + (dt * x)[:, None] * weight
    tl.store(states, h, mask=is_state)
    y = tl.sum(h * readout, axis=1)
    if HAS_D:
        y += tl.load(D + channel, mask=is_channel, other=0.0).to(tl.float32) * x
    if HAS_Z:
        offset = batch * z_batch + channel * z_channel
        gate = tl.load(z + offset, mask=is_channel, other=0.0).to(tl.float32)
        y *= gate * sigmoid(gate)
    tl.store(out + batch * channels + channel, y.to(out.dtype.element_ty), mask=is_channel)


@operator(
    "dnamamba::selective_scan_step",
    fake=lambda u, *_: u.new_empty(u.shape),
    mutates_args=("state",),
)
def step(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, state: Tensor, has_softplus: bool,
) -> Tensor:  # fmt: skip
    """y (B, D) in u's dtype. B and C are (B, G, N); state, float32, is updated in place."""
    batch, channels = u.shape
    d_state = A.shape[1]
    out = u.new_empty(u.shape)
    width = triton.next_power_of_2(d_state)
    block = min(TILE // width, triton.next_power_of_2(channels))
    gate = u if z is None else z
    with torch.cuda.device_of(u):
        launch(
            _step_kernel, (batch * triton.cdiv(channels, block),),
            u, delta, A.contiguous(), B, C, dense_or(D, u), gate,
            dense_or(delta_bias, u), state, out,
            channels, channels // B.shape[1], channels // C.shape[1],
            *u.stride(), *delta.stride(), *gate.stride(), *B.stride(), *C.stride(),
            *state.stride(),
            D_STATE=d_state, HAS_D=D is not None, HAS_Z=z is not None,
            HAS_BIAS=delta_bias is not None, SOFTPLUS=has_softplus, BD=block, BN=width,
            num_warps=1,
        )  # fmt: skip
    count_write(state)
    return out


def selective_scan_step(operands: ScanOperands, has_softplus: bool) -> Tensor:
    """Run a step on CUDA tensors, or on any in Triton's interpreter."""
    B, C = (x.unsqueeze(1) if x.dim() == 2 else x for x in (operands.B, operands.C))
    y: Tensor = step(*operands._replace(B=B, C=C), has_softplus)
    return y
