"""The selective scan on a GPU: plan, launches, gradients. The kernels are in gpu_kernels.py.

Forward: the state each chunk ends in from zero, the states that enter the chunks, the outputs.
Backward: marks (states every few steps) and each chunk's own adjoint, the adjoints that enter the
chunks from the right, all gradients. README.md has the derivation.

The kernels know one shape, up to 16 states of 32 channels; more states are scanned in blocks.

Shape letters: B batch, L seq_len, D channels, N states, G groups, W = D / G channels of a group,
P programs side by side, K chunks. Capital A, B, C, D are tensors.
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.kernels.launcher import dense_or, launch, with_dense_rows
from dnamamba.kernels.operators import differentiable, operator
from dnamamba.kernels.scan import gpu_kernels as kernels
from dnamamba.kernels.scan.kept import keep, take_kept
from dnamamba.kernels.scan.reference import ScanOperands

LANES, N_STATES = 32, 16

STEPS = 4
"""Steps of a block: what is loaded together, and how far apart the backward's marks lie."""

PROGRAMS_PER_MULTIPROCESSOR, FEWER_PROGRAMS = 32, 24
"""Most programs of a launch, which time is cut into chunks to reach: whole rounds of the eight of
the backward that run at once. Fewer if the backward is done in parts, as the states that enter
chunks are kept for all of them."""

SHORTEST_CHUNK = 64
"""Steps; each chunk costs a state in memory. Half of it up to 32 chunks, when programs are so few
that the time of one counts."""

FEW_MARKS, MOST_MARKS = 512 << 20, 1 << 30
"""Bytes of the backward's marks. Up to the first all programs run at a time, else a fourth of them
or as many as fit the second, at least one: launches cost time, marks and sums memory."""


@dataclass(frozen=True)
class Plan:
    """How a scan is divided.

    width: channels of a group. blocks: programs of a group. n_programs: of all groups.
    chunk: steps of one. n_slots: programs of a launch in the backward.
    """

    width: int
    blocks: int
    n_programs: int
    chunk: int
    n_chunks: int
    n_slots: int


def make_plan(batch: int, seq_len: int, channels: int, groups: int, n_multiprocessors: int) -> Plan:
    """Choose chunks short enough to fill the GPU, and slots whose marks fit their memory."""
    width = channels // groups
    blocks = -(-width // LANES)
    n_programs = groups * blocks
    n_marks = batch * -(-seq_len // STEPS)
    n_slots = _choose_slots(n_programs, blocks, n_marks * N_STATES * LANES * 4)
    per_multiprocessor = PROGRAMS_PER_MULTIPROCESSOR if n_slots == n_programs else FEWER_PROGRAMS
    wanted = max(1, per_multiprocessor * n_multiprocessors // (batch * n_slots))
    shortest = max(SHORTEST_CHUNK // 2, min(SHORTEST_CHUNK, seq_len // 32))
    chunk = max(shortest, -(-seq_len // wanted))
    chunk = -(-chunk // STEPS) * STEPS
    return Plan(width, blocks, n_programs, chunk, -(-seq_len // chunk), n_slots)


def _choose_slots(n_programs: int, blocks: int, marks: int) -> int:
    """Return the programs of a launch: whole groups, or a part that divides one of several.

    marks: bytes of a program.
    """
    if n_programs * marks <= FEW_MARKS:
        return n_programs
    most = max(1, min(n_programs // 4, MOST_MARKS // marks))
    if n_programs == blocks:
        return most
    if most >= blocks:
        return most // blocks * blocks
    return next(n for n in range(most, 0, -1) if blocks % n == 0)


def _plan_for(u: Tensor, B: Tensor) -> Plan:
    batch, seq_len, channels = u.shape
    return make_plan(batch, seq_len, channels, B.shape[2], _count_multiprocessors(u.device))


@functools.cache
def _count_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132  # in the interpreter: those of an H100
    return torch.cuda.get_device_properties(device).multi_processor_count


# --- operands


def _with_equal_rows(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return B and C as rows of one dtype and stride."""
    if B.dtype == C.dtype and B.stride() == C.stride() and B.stride(-1) == 1:
        return B, C
    dtype = torch.promote_types(B.dtype, C.dtype)
    return B.to(dtype).contiguous(), C.to(dtype).contiguous()


# --- launches


@operator(
    "dnamamba::selective_scan",
    fake=lambda u, _, A, B, *others: _empty_outputs(u, A, _plan_for(u, B), others[-1]),
)
def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
    delta_bias: Tensor | None, state: Tensor, has_softplus: bool, reverse: bool,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """out (B, L, D), last state (B, D, N), states entering chunks (B, K, P, 16, 32), sums of dt
    (B, K, P, 32); A (D, N) and state (B, D, N) float32 and contiguous, B and C (B, L, G, N)."""
    kept = take_kept()
    if kept is not None:
        out, last_state, entries, dt_sums = kept
        return out, last_state, entries, dt_sums
    u, delta = with_dense_rows(u), with_dense_rows(delta)
    B, C = _with_equal_rows(B, C)
    gate = u if z is None else with_dense_rows(z)
    skip, bias = dense_or(D, A), dense_or(delta_bias, A)
    plan = _plan_for(u, B)
    out, last_state, entries, dt_sums = _empty_outputs(u, A, plan, out_dtype)
    sizes = (u.shape[1], plan.width, plan.blocks, plan.chunk, plan.n_programs)
    strides = (u.stride(0), delta.stride(0), B.stride(0))
    grid = (u.shape[0] * plan.n_programs, plan.n_chunks)
    shared = _compiled_for(u, delta, A, B, delta_bias, has_softplus, reverse)
    with torch.cuda.device_of(u):
        if plan.n_chunks > 1:
            launch(
                kernels.chunk_state_kernel, grid, u, delta, A, B, C, bias, dt_sums, entries, *sizes,
                *strides, **shared,
            )  # fmt: skip
        # For a single chunk too: it lays the initial state out by program.
        _pass_states(plan, A, dt_sums, entries, state, 0, plan.n_programs, backward=False)
        launch(
            kernels.chunk_scan_kernel, grid,
            u, delta, A, B, C, skip, gate, bias, entries, last_state, out, *sizes,
            *strides, gate.stride(0), out.stride(0), Z_ROW=gate.stride(1), OUT_ROW=out.stride(1),
            HAS_D=D is not None, HAS_Z=z is not None, **shared,
        )  # fmt: skip
    keep(out, last_state, entries, dt_sums)
    return out, last_state, entries, dt_sums


def _fake_backward(
    d_out: Tensor, d_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, *_: Any,
) -> list[Tensor]:  # fmt: skip
    optional = [A.new_empty(0) if x is None else _like(x) for x in (D, z, delta_bias)]
    return [*(_like(x) for x in (u, delta, A, B, C)), *optional, _like(d_last)]


@operator("dnamamba::selective_scan_backward", fake=_fake_backward)
def backward(
    d_out: Tensor, d_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Tensor | None, z: Tensor | None, delta_bias: Tensor | None, entries: Tensor,
    dt_sums: Tensor, has_softplus: bool, reverse: bool,
) -> list[Tensor]:  # fmt: skip
    """The gradients of u, delta, A, B, C, D, z, delta_bias and state, empty if left out.

    Operands as `forward` takes them; d_last (B, D, N) float32 and contiguous.
    """
    u, delta, d_out = (with_dense_rows(x) for x in (u, delta, d_out))
    d_B, d_C = _like(B), _like(C)
    B, C = _with_equal_rows(B, C)
    skip, bias = dense_or(D, A), dense_or(delta_bias, A)
    gate = u if z is None else with_dense_rows(z)
    plan = _plan_for(u, B)
    batch, seq_len, channels = u.shape
    new, K, P = A.new_empty, plan.n_chunks, plan.n_programs
    d_u, d_delta = _like(u), _like(delta)
    d_z = d_u if z is None else _like(gate)
    d_weights, d_A = new(batch, seq_len, B.shape[2], 2 * N_STATES), new(batch, K, *A.shape)
    d_D, d_bias, d_state = new(batch, K, channels), new(batch, K, channels), _like(d_last)
    adjoints = torch.empty_like(entries)
    strides = [x.stride(0) for x in (u, delta, B, gate, d_out)]
    shared = {
        **_compiled_for(u, delta, A, B, delta_bias, has_softplus, reverse),
        "Z_ROW": gate.stride(1),
        "D_OUT_ROW": d_out.stride(1),
        "HAS_Z": z is not None,
    }
    for first in range(0, P, plan.n_slots):
        n_slots = min(plan.n_slots, P - first)
        marks = new(batch, -(-seq_len // STEPS), n_slots, N_STATES, LANES)
        d_BC = new(batch, seq_len, n_slots, 2 * N_STATES)
        sizes = (seq_len, plan.width, plan.blocks, plan.chunk, P, n_slots, first)
        grid = (batch * n_slots, K)
        with torch.cuda.device_of(u):
            launch(
                kernels.chunk_adjoint_kernel, grid,
                u, delta, A, B, C, gate, bias, d_out, entries, marks, adjoints, *sizes, *strides,
                HAS_ADJOINT=K > 1, **shared,
            )  # fmt: skip
            _pass_states(plan, A, dt_sums, adjoints, d_last, first, n_slots, backward=True)
            launch(
                kernels.chunk_backward_kernel, grid,
                u, delta, A, B, C, skip, gate, bias, d_out, marks, adjoints, d_u,
                d_delta, d_z, d_BC, d_A, d_D, d_bias, d_state, *sizes, *strides, d_u.stride(0),
                d_delta.stride(0), d_z.stride(0), D_U_ROW=d_u.stride(1),
                D_DELTA_ROW=d_delta.stride(1), D_Z_ROW=d_z.stride(1), HAS_D=D is not None, **shared,
            )  # fmt: skip
        _add_weights(d_weights, d_BC, first, plan.blocks)
        del marks, d_BC  # before the next ones are there
    d_B.copy_(d_weights[..., : A.shape[1]])
    d_C.copy_(d_weights[..., N_STATES:][..., : A.shape[1]])
    return [
        d_u, d_delta, d_A.sum((0, 1)), d_B, d_C,
        new(0) if D is None else d_D.sum((0, 1)).to(D.dtype),
        new(0) if z is None else d_z,
        new(0) if delta_bias is None else d_bias.sum((0, 1)).to(delta_bias.dtype),
        d_state,
    ]  # fmt: skip


def _add_weights(sums: Tensor, parts: Tensor, first: int, blocks: int) -> None:
    """Add the parts (B, L, n, 32) of the programs from `first` on to those of their groups."""
    batch, seq_len, n, _ = parts.shape
    n_groups = max(1, n // blocks)
    own = sums[:, :, first // blocks :][:, :, :n_groups]
    parts = parts.view(batch, seq_len, n_groups, n // n_groups, -1)
    if first % blocks == 0:
        torch.sum(parts, 3, out=own)
    else:
        own.add_(parts.sum(3))


def _pass_states(
    plan: Plan, A: Tensor, dt_sums: Tensor, states: Tensor, state: Tensor,
    first: int, n_slots: int, *, backward: bool,
) -> None:  # fmt: skip
    launch(
        kernels.pass_states_kernel, (states.shape[0] * n_slots, N_STATES),
        A, dt_sums, states, state, plan.width, plan.blocks, plan.n_chunks, plan.n_programs, n_slots,
        first, D_STATE=A.shape[1], BACKWARD=backward, AHEAD=8, num_warps=1,
    )  # fmt: skip


def _compiled_for(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None,
    has_softplus: bool, reverse: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the constants of all kernels: constant steps between rows need no arithmetic."""
    return {
        "U_ROW": u.stride(1),
        "DELTA_ROW": delta.stride(1),
        "BC_ROW": B.stride(1),
        "BC_GROUP": B.stride(2),
        "D_STATE": A.shape[1],
        "HAS_BIAS": delta_bias is not None,
        "SOFTPLUS": has_softplus,
        "REVERSE": reverse,
        "EVEN": u.shape[1] % STEPS == 0,
        "STEPS": STEPS,
        "num_warps": 1,
    }


def _empty_outputs(
    u: Tensor, A: Tensor, plan: Plan, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, programs = u.shape[0], plan.n_programs
    n_sums = plan.n_chunks if plan.n_chunks > 1 else 0  # nothing is passed on from a single one
    return (
        u.new_empty(u.shape, dtype=out_dtype),
        A.new_empty(batch, *A.shape),
        A.new_empty(batch, plan.n_chunks, programs, N_STATES, LANES),
        A.new_empty(batch, n_sums, programs, LANES),
    )


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


# --- gradients


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, state, ctx.has_softplus, ctx.reverse, _ = inputs
    _, _, entries, dt_sums = output
    ctx.save_for_backward(*tensors, entries, dt_sums)
    ctx.state_shape = state.shape
    ctx.mark_non_differentiable(entries, dt_sums)


def _differentiate(
    ctx: Any, d_out: Tensor | None, d_last: Tensor | None, *_: Tensor | None
) -> list[Tensor]:
    saved = ctx.saved_tensors
    u, _, A, *_ = saved
    d_out = torch.zeros_like(u) if d_out is None else d_out
    d_last = A.new_zeros(ctx.state_shape) if d_last is None else d_last.contiguous()
    gradients: list[Tensor] = backward(d_out, d_last, *saved, ctx.has_softplus, ctx.reverse)
    return gradients


scan = differentiable(forward, _save, _differentiate)


def selective_scan(
    operands: ScanOperands, has_softplus: bool, reverse: bool
) -> tuple[Tensor, Tensor]:
    """(out, last state) on CUDA tensors, or on any in Triton's interpreter.

    B and C vary in time; the tensors are real, up to float32.
    """
    u, delta, A, B, C, D, z, delta_bias, state = operands
    batch, _, channels = u.shape
    d_state = A.shape[1]
    if state is None:
        state = torch.zeros(batch, channels, d_state, device=u.device)
    if B.dim() == 3:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    A, state = A.float().contiguous(), state.float().contiguous()
    if d_state <= N_STATES:
        out, last, _, _ = scan(
            u, delta, A, B, C, D, z, delta_bias, state, has_softplus, reverse, u.dtype
        )
        return out, last
    outs, last_states = [], []
    for first in range(0, d_state, N_STATES):
        part = slice(first, first + N_STATES)
        out, last, _, _ = scan(
            u, delta, A[:, part].contiguous(), B[..., part], C[..., part], None, None, delta_bias,
            state[..., part].contiguous(), has_softplus, reverse, torch.float32,
        )  # fmt: skip
        outs.append(out)
        last_states.append(last)
    return _combine(outs, u, D, z), torch.cat(last_states, -1)


def _combine(outs: list[Tensor], u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add up the outputs of blocks of states."""
    y = torch.stack(outs).sum(0)
    if D is not None:
        y = y + D.float() * u.float()
    if z is not None:
        y = y * functional.silu(z.float())
    return y.to(u.dtype)
