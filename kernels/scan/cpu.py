"""The selective scan on CPUs, fused.

The machine code is made from cpu_forward.py and cpu_backward.py when it is first needed.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.codegen.compiler import Kernel, compile_kernel, find_host, why_no_host
from dnamamba.kernels.codegen.functions import LOG2_E
from dnamamba.kernels.codegen.launch import Arguments, channels_last, launch, refuse_unseen
from dnamamba.kernels.codegen.memory import new_tensor
from dnamamba.kernels.scan.chunked import match_groups
from dnamamba.kernels.scan.cpu_backward import write_backward
from dnamamba.kernels.scan.cpu_forward import CHUNK, Variant, write_forward
from dnamamba.kernels.scan.kept import keep, take_kept

# Tasks of a backward pass, where there are so many blocks of channels. Fewer need less memory for
# partial sums; the number must not depend on that of threads, or results would.
TASKS = 16


def refuse(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Why this backend cannot take these operands and what to do, or None if it can."""
    if (reason := refuse_unseen(u, A, B, C)) is not None:
        return reason
    if A.is_complex():
        return "A is complex; use backend='reference'"
    if torch.float64 in (x.dtype for x in (u, A, B, C)):
        return "it computes in float32 and got float64; use backend='chunked'"
    if B.dim() == 2 or C.dim() == 2:
        return "B or C is constant over time; use backend='chunked'"
    if not 1 <= A.shape[1] <= 64:
        return f"it takes 1 to 64 states, A has {A.shape[1]}; use backend='chunked'"
    return why_no_host()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`kernels.selective_scan` as one kernel forward and one backward; float32 and narrower."""
    B, C = match_groups(B, C)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    # Autograd rounds the gradients back to the operands' dtypes.
    widened = [None if x is None else channels_last(x) for x in tensors]
    # Asked here: inside, gradients are always off, and what needs one is known whether or not.
    keeps = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in widened)
    out, last_state = _CpuScan.apply(*widened, delta_softplus, reverse, keeps)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out


@functools.cache
def compiled(variant: Variant, is_backward: bool) -> Kernel:
    """The kernel of a variant, made on its first use in this process."""
    write = write_backward if is_backward else write_forward
    return compile_kernel(write(variant), find_host())


class _Inputs(NamedTuple):
    """The tensors of one call, float32, channels next to each other."""

    u: Tensor  # (B, L, D), as delta and z
    delta: Tensor
    A: Tensor  # (D, N)
    B: Tensor  # (B, L, G, N), as C
    C: Tensor
    D: Tensor | None  # (D,), as delta_bias
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None  # (B, D, N)

    def variant(self, delta_softplus: bool) -> Variant:
        host = find_host()
        return Variant(
            lanes=host.lanes,
            registers=host.registers,
            d_state=self.A.shape[1],
            has_D=self.D is not None,
            has_z=self.z is not None,
            has_bias=self.delta_bias is not None,
            has_softplus=delta_softplus,
        )


class _CpuScan(torch.autograd.Function):
    """(out, last state) from `_Inputs`, delta_softplus, reverse and whether to keep states."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs, (delta_softplus, reverse, keeps) = _Inputs(*args[:-3]), args[-3:]
        variant = inputs.variant(delta_softplus)
        ctx.variant, ctx.reverse = variant, reverse
        kept = take_kept() if keeps else None
        if kept is not None:
            out, last_state, states = kept
            ctx.save_for_backward(*inputs, states)
            return out, last_state
        call = _Call(inputs, variant, reverse, keeps)
        out, last_state = new_tensor(*inputs.u.shape), new_tensor(*call.state_shape)
        initial = _states_first(inputs.initial_state, call)
        call.add_rows(out=out)
        call.add(initial=initial, last=last_state)
        call.values["initial_batch"] = initial.stride(0)
        launch(compiled(variant, False), call.batch * call.blocks, call)
        ctx.save_for_backward(*inputs, call.states)
        last_state = last_state.transpose(1, 2).contiguous()
        if keeps:
            keep(out, last_state, call.states)
        return out, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last_state: Tensor) -> tuple[Tensor | None, ...]:
        *saved, states = ctx.saved_tensors
        inputs, variant = _Inputs(*saved), ctx.variant
        call = _Call(inputs, variant, ctx.reverse, keeps=True, states=states)
        d_u, d_delta = new_tensor(*inputs.u.shape), new_tensor(*inputs.u.shape)
        d_z = None if inputs.z is None else new_tensor(*inputs.u.shape)
        call.add_rows(d_out=channels_last(d_out), d_u=d_u, d_delta=d_delta, d_z=d_z)
        d_B, d_C = call.add_partial_sums("d_B"), call.add_partial_sums("d_C")
        d_last = _states_first(d_last_state, call)
        d_initial, d_A = new_tensor(*call.state_shape), new_tensor(*call.state_shape)
        d_D, d_bias = (new_tensor(call.batch, call.channels) for _ in range(2))
        call.add(d_last=d_last, d_initial=d_initial, d_A=d_A, d_D=d_D, d_delta_bias=d_bias)
        call.values["d_last_batch"] = d_last.stride(0)
        n_tasks = call.batch * call.groups * call.n_parts
        launch(compiled(variant, True), n_tasks, call)
        return (
            d_u,
            d_delta,
            d_A.sum(0).t(),
            _sum_parts(d_B),
            _sum_parts(d_C),
            None if inputs.D is None else d_D.sum(0),
            d_z,
            None if inputs.delta_bias is None else d_bias.sum(0),
            None if inputs.initial_state is None else d_initial.transpose(1, 2),
            None,
            None,
            None,
        )


class _Call(Arguments):
    """The arguments that forward and backward share."""

    def __init__(
        self, inputs: _Inputs, v: Variant, reverse: bool, keeps: bool, states: Tensor | None = None
    ) -> None:
        self.batch, self.seq_len, self.channels = inputs.u.shape
        self.groups, d_state = inputs.B.shape[2], v.d_state
        width = self.channels // self.groups
        group_blocks = -(-width // v.lanes)
        self.blocks = self.groups * group_blocks
        self.state_shape = (self.batch, d_state, self.channels)
        n_chunks = -(-self.seq_len // CHUNK)
        if states is None:
            kept = n_chunks + 1 if keeps else 1
            states = new_tensor(self.batch, self.blocks, kept, d_state, v.lanes)
        self.states = states
        n_parts = min(group_blocks, max(1, TASKS // (self.batch * self.groups)))
        part_blocks = -(-group_blocks // n_parts)
        self.n_parts = -(-group_blocks // part_blocks)
        super().__init__(
            reverse,
            seq_len=self.seq_len,
            n_chunks=n_chunks,
            n_channels=self.channels,
            group_width=width,
            group_blocks=group_blocks,
            n_parts=self.n_parts,
            part_blocks=part_blocks,
            states_chunk=states.stride(2) if keeps else 0,
            states_block=states.stride(1),
            B_group=inputs.B.stride(2),
            C_group=inputs.C.stride(2),
        )
        A_log2e = (inputs.A.t() * LOG2_E).contiguous()
        extremes = torch.stack([A_log2e.amin(0), A_log2e.amax(0)])
        self.add(A_log2e=A_log2e, A_extremes=extremes, D=inputs.D, delta_bias=inputs.delta_bias)
        self.add(states=states)
        self.add_rows(u=inputs.u, delta=inputs.delta, z=inputs.z, B=inputs.B, C=inputs.C)

    def add_partial_sums(self, name: str) -> Tensor:
        """Room for a weight's gradient (B, L, G, N), once for each part of a group's channels."""
        d_state = self.state_shape[1]
        sums = new_tensor(self.n_parts, self.batch, self.seq_len, self.groups, d_state)
        self.add_rows(in_time=True, **{name: sums[0]})
        self.values |= {f"{name}_part": sums.stride(0), f"{name}_group": sums.stride(3)}
        return sums


def _sum_parts(sums: Tensor) -> Tensor:
    return sums[0] if sums.shape[0] == 1 else sums.sum(0)


def _states_first(state: Tensor | None, call: _Call) -> Tensor:
    """(B, D, N) as (B, N, D); zeros that all of the batch share if None."""
    if state is None:
        zeros = torch.zeros(1, *call.state_shape[1:], dtype=torch.float32, device="cpu")
        return zeros.expand(call.state_shape)
    return state.transpose(1, 2).contiguous()
