"""The selective scan on CPUs, fused; cpu_forward.py and cpu_backward.py write its machine code.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.codegen.compiler import compile_kernel, find_host, why_no_host
from dnamamba.kernels.codegen.functions import LOG2_E
from dnamamba.kernels.codegen.launch import (
    Arguments,
    channels_last,
    launch,
    new_tensor,
    refuse_unseen,
)
from dnamamba.kernels.scan.chunked import match_groups
from dnamamba.kernels.scan.cpu_backward import write_backward
from dnamamba.kernels.scan.cpu_forward import CHUNK, Variant, write_forward
from dnamamba.kernels.scan.kept import keep, take_kept
from dnamamba.kernels.scan.reference import ScanOperands

# Most tasks of a backward pass. Fewer need less memory for partial sums; the number must not depend
# on that of threads, or results would.
TASKS = 16


def refuse(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    """Return why this backend cannot take these operands and what to do, or None if it can."""
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
    operands: ScanOperands, has_softplus: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """(out, last state) by one kernel forward and one backward; float32 and narrower."""
    B, C = match_groups(operands.B, operands.C)
    # Autograd rounds the gradients back to the operands' dtypes.
    widened = [None if x is None else channels_last(x) for x in operands._replace(B=B, C=C)]
    # Asked here, as gradients are always off inside.
    keeps = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in widened)
    out, last_state = _CpuScan.apply(*widened, has_softplus, reverse, keeps)
    return out.to(operands.u.dtype), last_state


def _variant(inputs: ScanOperands, has_softplus: bool) -> Variant:
    host = find_host()
    return Variant(
        lanes=host.lanes,
        registers=host.registers,
        d_state=inputs.A.shape[1],
        has_D=inputs.D is not None,
        has_z=inputs.z is not None,
        has_bias=inputs.delta_bias is not None,
        has_softplus=has_softplus,
    )


class _CpuScan(torch.autograd.Function):
    """(out, last state) from operands, has_softplus, reverse and whether to keep states.

    The operands are float32 with channels side by side, B and C (B, L, G, N).
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs, (has_softplus, reverse, keeps) = ScanOperands(*args[:-3]), args[-3:]
        variant = _variant(inputs, has_softplus)
        ctx.variant, ctx.reverse = variant, reverse
        kept = take_kept() if keeps else None
        if kept is not None:
            out, last_state, states = kept
            ctx.save_for_backward(*inputs, states)
            return out, last_state
        call = _Call(inputs, variant, reverse, keeps)
        out, last_state = new_tensor(*inputs.u.shape), new_tensor(*call.state_shape)
        initial = _states_first(inputs.state, call)
        call.add_rows(out=out)
        call.add(initial=initial, last=last_state)
        call.values["initial_batch"] = initial.stride(0)
        launch(compile_kernel(write_forward, variant, find_host()), call.batch * call.blocks, call)
        ctx.save_for_backward(*inputs, call.states)
        last_state = last_state.transpose(1, 2).contiguous()
        if keeps:
            keep(out, last_state, call.states)
        return out, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last_state: Tensor) -> tuple[Tensor | None, ...]:
        *saved, states = ctx.saved_tensors
        inputs, variant = ScanOperands(*saved), ctx.variant
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
        launch(compile_kernel(write_backward, variant, find_host()), n_tasks, call)
        return (
            d_u,
            d_delta,
            d_A.sum(0).t(),
            _sum_parts(d_B),
            _sum_parts(d_C),
            None if inputs.D is None else d_D.sum(0),
            d_z,
            None if inputs.delta_bias is None else d_bias.sum(0),
            None if inputs.state is None else d_initial.transpose(1, 2),
            *(None, None, None),
        )


class _Call(Arguments):
    """The arguments that forward and backward share."""

    def __init__(
        self,
        inputs: ScanOperands,
        v: Variant,
        reverse: bool,
        keeps: bool,
        states: Tensor | None = None,
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
        """Reserve a weight's gradient (B, L, G, N) for each part of a group's channels."""
        d_state = self.state_shape[1]
        sums = new_tensor(self.n_parts, self.batch, self.seq_len, self.groups, d_state)
        self.add_rows(in_time=True, **{name: sums[0]})
        self.values |= {f"{name}_part": sums.stride(0), f"{name}_group": sums.stride(3)}
        return sums


def _sum_parts(sums: Tensor) -> Tensor:
    return sums[0] if sums.shape[0] == 1 else sums.sum(0)


def _states_first(state: Tensor | None, call: _Call) -> Tensor:
    """Turn (B, D, N) into (B, N, D); zeros that the batch shares if None."""
    if state is None:
        zeros = torch.zeros(1, *call.state_shape[1:], dtype=torch.float32, device="cpu")
        return zeros.expand(call.state_shape)
    return state.transpose(1, 2).contiguous()
