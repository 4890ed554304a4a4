"""The selective scan in plain PyTorch with bounded memory.

Time is cut into segments. A few large ops make a segment's decays and inputs in buffers that all
segments share, then one `addcmul` a step turns the inputs into states in place. Nothing of size
B*L*D*N is kept: the backward remakes all from the inputs and one state per chunk. If one step is
too small to keep the machine busy, a segment is split into chunks that advance together, after a
first pass that finds the state entering each. README.md has the derivation.

Shape letters: B batch, L seq_len, D channels, N states, G groups, W = D / G channels of a group;
inside a segment S steps of a chunk, K chunks, R rows. Capital A, B, C, D are tensors.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.operands import compute_dtype
from dnamamba.kernels.scan import reference
from dnamamba.kernels.scan.reference import ScanOperands
from dnamamba.kernels.scan.segments import (
    CPU_LIMITS,
    GPU_LIMITS,
    Scratch,
    Segment,
    plan_segments,
    steps_first,
)

LOG2_E = math.log2(math.e)


def selective_scan(
    operands: ScanOperands, has_softplus: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """(out, last state) in segments of time; real A, any device."""
    u, delta, A, B, C, D, z, delta_bias, state = operands
    batch, seq_len, channels = u.shape
    if seq_len == 1:
        # A step of generation: there is nothing to cut, and the loop is five times faster.
        return reference.selective_scan(operands, has_softplus, reverse)
    dtype = compute_dtype(u)
    B, C = match_groups(B, C)
    groups = next((x.shape[2] for x in (B, C) if x.dim() == 4), 1)

    def by_group(x: Tensor) -> Tensor:  # (..., D, N) -> (..., G, N, W)
        x = x.to(dtype).unflatten(-2, (groups, channels // groups))
        return x.transpose(-1, -2).contiguous()

    def by_channel(x: Tensor | None) -> Tensor | None:  # (D,) -> (G, 1, W)
        return None if x is None else by_group(x.unsqueeze(-1))

    if state is None:
        state = A.new_zeros(batch, channels, A.shape[1])
    if reverse:
        u, delta, B, C = (x if x.dim() == 2 else x.flip(1) for x in (u, delta, B, C))
        z = None if z is None else z.flip(1)
    B, C = (by_group(x) if x.dim() == 2 else x for x in (B, C))
    parameters = by_group(A), B, C, by_channel(D), z, by_channel(delta_bias), by_group(state)
    out, last_state = _ChunkedScan.apply(u, delta, *parameters, has_softplus)
    return out.flip(1) if reverse else out, last_state.transpose(-1, -2).flatten(1, 2)


def match_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return B and C as (B, L, G, N) with the same G if they change over time."""
    B, C = (x.unsqueeze(2) if x.dim() == 3 else x for x in (B, C))
    if B.dim() == C.dim() == 4 and B.shape[2] != C.shape[2]:
        groups = math.lcm(B.shape[2], C.shape[2])
        B, C = (x.repeat_interleave(groups // x.shape[2], 2) for x in (B, C))
    return B, C


def _blank_gradients(inputs: ScanOperands) -> ScanOperands:
    """Reserve gradients: empty for what changes over time, else zeros to add to."""

    def blank(name: str, x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        is_written = name in ("u", "delta", "z") or (name in ("B", "C") and x.dim() == 4)
        return torch.empty_like(x) if is_written else torch.zeros_like(x)

    blanks: Any = {name: blank(name, x) for name, x in inputs._asdict().items()}
    return ScanOperands(**blanks)


class _Part:
    """One segment of the inputs, as views if they have the dtype of the computation.

    A, D and delta_bias are (G, N, W) and (G, 1, W) in that dtype, constant B and C (G, N, W).
    """

    def __init__(
        self, inputs: ScanOperands, segment: Segment, scratch: Scratch, has_softplus: bool
    ) -> None:
        self.inputs, self.segment, self.scratch = inputs, segment, scratch
        self.u = self.lay_out(inputs.u)
        self.raw_dt = self.lay_out(inputs.delta)
        if inputs.delta_bias is not None:
            self.raw_dt = torch.add(self.raw_dt, inputs.delta_bias, out=self.narrow("raw_dt"))
        self.dt = self.raw_dt
        if has_softplus:
            self.dt = torch.ops.aten.softplus.out(self.raw_dt, out=self.narrow("dt"))
        self.dt_u = torch.mul(self.dt, self.u, out=self.narrow("dt_u"))
        self.B, self.C = self.lay_out_weights(inputs.B), self.lay_out_weights(inputs.C)

    def narrow(self, name: str) -> Tensor:
        return self.scratch.narrow(name, self.segment)

    def wide(self, name: str) -> Tensor:
        return self.scratch.wide(name, self.segment)

    def steps(self, name: str) -> tuple[Tensor, ...]:
        """A wide buffer step by step, (K, R, G, N, W) each."""
        return self.scratch.wide_steps(name, self.segment)

    def view_of(self, x: Tensor) -> Tensor:
        """View this segment of a (B, L, D) tensor as (S, K, R, G, 1, W)."""
        groups, _, width = self.inputs.A.shape
        return steps_first(x, self.segment).unflatten(-1, (groups, 1, width))

    def lay_out(self, x: Tensor) -> Tensor:
        """Return `view_of` in the dtype of the computation, to read."""
        return self.view_of(x).to(self.inputs.A.dtype)

    def lay_out_weights(self, x: Tensor) -> Tensor:
        """Return this segment of B or C as (S, K, R, G, N, 1); a constant one as it is."""
        if x.dim() == 3:
            return x
        return steps_first(x, self.segment).unsqueeze(-1).to(self.inputs.A.dtype)

    def fill(self, A_log2e: Tensor) -> tuple[Tensor, Tensor]:
        """Make decays exp(dt A) and inputs dt B u, both wide."""
        decay, states = self.wide("decay"), self.wide("states")
        # exp2 is twice as fast as exp on CPUs, also when it underflows.
        torch.exp2(torch.mul(self.dt, A_log2e, out=decay), out=decay)
        torch.mul(self.dt_u, self.B, out=states)
        return decay, states

    def chunk_decay(self, A_log2e: Tensor) -> Tensor:
        """Return the decay over each whole chunk (K, R, G, N, W), from the sum of dt."""
        return torch.exp2(self.dt.sum(0) * A_log2e)

    def gate(self, z: Tensor) -> Tensor:
        """silu(z), narrow."""
        z = self.lay_out(z)
        return torch.sigmoid(z, out=self.narrow("gate")).mul_(z)

    def outputs(self, states: Tensor) -> Tensor:
        """Return C h + D u (narrow), before the gate."""
        y = _sum_states(self.C, states, self.narrow("y"), self.wide("product"))
        return y if self.inputs.D is None else y.addcmul_(self.u, self.inputs.D)


def _enter_chunks(part: _Part, A_log2e: Tensor, entries: Tensor) -> None:
    """Given entries[0], find the states entering the other chunks (K, R, G, N, W)."""
    if entries.shape[0] == 1:
        return
    ends = torch.zeros_like(entries)
    for decay, step_input in zip(part.steps("decay"), part.steps("states"), strict=True):
        torch.addcmul(step_input, decay, ends, out=ends)
    chunk_decay = part.chunk_decay(A_log2e)
    for k in range(entries.shape[0] - 1):
        torch.addcmul(ends[k], chunk_decay[k], entries[k], out=entries[k + 1])


def _run_forward(part: _Part, entries: Tensor) -> Tensor:
    """Turn inputs into states in place, first step to last; return those of the last step."""
    state = entries
    for decay, step in zip(part.steps("decay"), part.steps("states"), strict=True):
        state = step.addcmul_(decay, state)
    return state


def _run_backward(part: _Part, A_log2e: Tensor, carry: Tensor) -> None:
    """Turn C dy into the gradient of the states in place, last step to first.

    carry: the gradient of the segment's last state from all that follows (R, G, N, W); becomes that
    of the state that enters the segment.
    """
    decays, d_steps = part.steps("decay"), part.steps("d_states")
    last = len(d_steps) - 1
    if d_steps[last].shape[0] == 1:
        d_steps[last].add_(carry)
    else:
        starts = d_steps[last].clone()
        for t in range(last - 1, -1, -1):
            torch.addcmul(d_steps[t], decays[t + 1], starts, out=starts)
        starts.mul_(decays[0])
        carries, chunk_decay = torch.empty_like(starts), part.chunk_decay(A_log2e)
        carries[-1] = carry
        for k in range(carries.shape[0] - 1, 0, -1):
            torch.addcmul(starts[k], chunk_decay[k], carries[k], out=carries[k - 1])
        d_steps[last].add_(carries)
    d_state = d_steps[last]
    for t in range(last - 1, -1, -1):
        d_state = d_steps[t].addcmul_(decays[t + 1], d_state)
    torch.mul(decays[0][0], d_state[0], out=carry)


def _sum_states(weights: Tensor, states: Tensor, out: Tensor, product: Tensor) -> Tensor:
    """Sum over N of weights * states, narrow."""
    if weights.dim() == 6 and _matmul_is_exact(states):
        rows = weights.flatten(0, 3).transpose(1, 2)
        torch.bmm(rows, states.flatten(0, 3), out=out.view(-1, 1, out.shape[-1]))
        return out
    return torch.sum(torch.mul(weights, states, out=product), -2, keepdim=True, out=out)


def _weight_gradient(weights: Tensor, states: Tensor, channels: Tensor, product: Tensor) -> Tensor:
    """Sum states * channels over all axes that B or C (weights) does not have."""
    if weights.dim() == 6 and _matmul_is_exact(states):
        gradient = torch.bmm(channels.flatten(0, 3), states.flatten(0, 3).transpose(1, 2))
        return gradient.view(*states.shape[:5])
    torch.mul(states, channels, out=product)
    return product.sum((0, 1, 2)) if weights.dim() == 3 else product.sum(-1)


def _matmul_is_exact(states: Tensor) -> bool:
    """Whether bmm is as precise as the states: torch may use TF32 or bf16 in it."""
    # Not torch.get_float32_matmul_precision(): it raises once these have been set by hand.
    backend = torch.backends.cuda if states.is_cuda else torch.backends.mkldnn
    return states.dtype == torch.float64 or backend.matmul.fp32_precision in ("none", "ieee")


class _ChunkedScan(torch.autograd.Function):
    """(out, last state) from operands as in `_Part`, state (B, G, N, W), and has_softplus."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs, initial_state, has_softplus = ScanOperands(*args[:-2]), *args[-2:]
        batch, seq_len, channels = inputs.u.shape
        limits = CPU_LIMITS if inputs.u.device.type == "cpu" else GPU_LIMITS
        plan = plan_segments(batch, seq_len, channels, inputs.A.shape[1], limits)
        scratch, A_log2e = Scratch(plan, inputs.A), inputs.A * LOG2_E
        out = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
        last_state = torch.empty_like(initial_state)
        keeps = any(ctx.needs_input_grad)
        n_entries = max(s.chunks + (s.first_chunk if keeps else 0) for s in plan)
        entries = initial_state.new_empty(n_entries, *initial_state.shape)
        with torch.autocast(inputs.u.device.type, enabled=False):
            for segment in plan:
                if segment.times.start == 0:
                    state = initial_state[segment.rows]
                first = segment.first_chunk if keeps else 0
                entry = entries[first : first + segment.chunks, segment.rows]
                entry[0] = state
                part = _Part(inputs, segment, scratch, has_softplus)
                _, states = part.fill(A_log2e)
                _enter_chunks(part, A_log2e, entry)
                # A view of scratch memory: the next segment reads it before it is written over.
                state = _run_forward(part, entry)[-1]
                if segment.times.stop == seq_len:
                    last_state[segment.rows] = state
                y = part.outputs(states)
                if inputs.z is None:
                    part.view_of(out).copy_(y)
                else:
                    torch.mul(y, part.gate(inputs.z), out=part.view_of(out))
        ctx.save_for_backward(*inputs[:-1], entries)
        ctx.plan, ctx.has_softplus = plan, has_softplus
        return out, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_last_state: Tensor) -> tuple[Tensor | None, ...]:
        *saved, entries = ctx.saved_tensors
        inputs = ScanOperands(*saved)
        gradients = _Gradients(inputs, d_out, d_last_state, ctx)
        with torch.autocast(inputs.u.device.type, enabled=False):
            for segment in reversed(ctx.plan):
                chunks = slice(segment.first_chunk, segment.first_chunk + segment.chunks)
                gradients.add(segment, entries[chunks, segment.rows])
        return (*gradients.of_inputs[:-1], gradients.carry, None)


class _Gradients:
    """The gradients of one call, filled in segment by segment from the end."""

    def __init__(self, inputs: ScanOperands, d_out: Tensor, d_last: Tensor, ctx: Any) -> None:
        self.inputs, self.d_out, self.has_softplus = inputs, d_out, ctx.has_softplus
        self.scratch, self.A_log2e = Scratch(ctx.plan, inputs.A), inputs.A * LOG2_E
        self.carry = d_last.clone()
        self.of_inputs = _blank_gradients(inputs)

    def add(self, segment: Segment, entry: Tensor) -> None:
        """Remake the segment's states from those that entered its chunks, and walk back."""
        inputs, grads = self.inputs, self.of_inputs
        part = _Part(inputs, segment, self.scratch, self.has_softplus)
        decay, states = part.fill(self.A_log2e)
        _run_forward(part, entry)
        dy = self._through_gate(part, states)
        if grads.D is not None:
            grads.D.add_(torch.mul(dy, part.u, out=part.narrow("sum")).sum((0, 1, 2)))

        d_states = torch.mul(part.C, dy, out=part.wide("d_states"))
        _run_backward(part, self.A_log2e, self.carry[segment.rows])
        self._add_weights(part, grads.C, part.C, states, dy)
        self._add_weights(part, grads.B, part.B, d_states, part.dt_u)

        product = part.wide("product")
        d_dt_u = _sum_states(part.B, d_states, part.narrow("y"), product)
        d_u = torch.mul(d_dt_u, part.dt, out=part.narrow("sum"))
        if inputs.D is not None:
            d_u.addcmul_(dy, inputs.D)
        part.view_of(grads.u).copy_(d_u)

        # d_decay * decay = d_states * decay * (state before): the gradient of dt A.
        d_dt_A = decay.mul_(d_states)
        d_dt_A[1:].mul_(states[:-1])
        d_dt_A[0].mul_(entry)
        torch.mul(d_dt_A, inputs.A, out=product)
        d_dt = torch.sum(product, -2, keepdim=True, out=part.narrow("sum"))
        self._add_delta(part, d_dt.addcmul_(d_dt_u, part.u))
        grads.A.add_(d_dt_A.mul_(part.dt).sum((0, 1, 2)))

    def _through_gate(self, part: _Part, states: Tensor) -> Tensor:
        """Return the gradient of C h + D u; write that of z."""
        d_out = part.lay_out(self.d_out)
        d_z_all = self.of_inputs.z
        if self.inputs.z is None or d_z_all is None:
            return d_out
        d_gate, d_z = part.outputs(states).mul_(d_out), part.narrow("sum")
        z = part.lay_out(self.inputs.z)
        torch.ops.aten.silu_backward.grad_input(d_gate, z, grad_input=d_z)
        part.view_of(d_z_all).copy_(d_z)
        return part.gate(self.inputs.z).mul_(d_out)

    def _add_weights(
        self, part: _Part, out: Tensor, weights: Tensor, states: Tensor, channels: Tensor
    ) -> None:
        gradient = _weight_gradient(weights, states, channels, part.wide("product"))
        if weights.dim() == 3:
            out.add_(gradient)
        else:
            steps_first(out, part.segment).copy_(gradient)

    def _add_delta(self, part: _Part, d_dt: Tensor) -> None:
        if self.has_softplus:
            args = (d_dt, part.raw_dt, 1.0, 20.0)
            torch.ops.aten.softplus_backward.grad_input(*args, grad_input=d_dt)
        if self.of_inputs.delta_bias is not None:
            self.of_inputs.delta_bias.add_(d_dt.sum((0, 1, 2)))
        part.view_of(self.of_inputs.delta).copy_(d_dt)
