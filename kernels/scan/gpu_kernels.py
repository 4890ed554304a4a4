"""The Triton kernels of the selective scan; gpu.py launches them.

A program is 32 channels of one sequence, one to a lane, with the 16 states of each in registers,
walking one chunk of time. So nothing is exchanged between lanes but B and C, which a lane each
loads, and the sums over channels in their gradients. States and what is summed over them are tuples
of 16 tiles `# [ROWS, LANES]`: every register is named, and no layout is left to the compiler. ROWS
programs of neighbouring channels run as the warps of one block; they share nothing but the
instructions they fetch. Inputs are loaded a block of steps ahead of their use. README.md has the
derivation, the memory plan and the times.

Scratch tensors are laid out by program, `(..., P, 16, 32)` for P programs side by side, so a
program reads and writes whole lines. The backward may handle some of them, n_slots from
first_program on, at a time. Time is counted in the direction of the scan; `REVERSE` turns
it around only where a row of (B, L, D) is addressed. Steps after the end read the last row again
with dt = 0, which leaves states and gradients as they are.
"""

import triton
import triton.language as tl

from dnamamba.kernels.scan.gpu_pieces import (
    LANES,
    LN_2,
    LOG2_E,
    N_STATES,
    add_product,
    advance,
    back_step,
    find_channels,
    find_place,
    full_states,
    lanes_inside,
    load_inputs,
    load_rows,
    load_states,
    make_decays,
    make_dt,
    multiply,
    row_of,
    sigmoid,
    spread_weights,
    store_states,
    sum_lanes,
)

_SIZES = ["seq_len", "width", "blocks", "chunk", "n_programs", "n_slots", "first_program"]


# --- forward


@triton.jit(do_not_specialize=_SIZES[:5])
def chunk_state_kernel(
    u, delta, A, BC, delta_bias, dt_sums, states, seq_len, width, blocks, chunk,
    n_programs, u_batch, delta_batch, U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr,
    BC_ROW: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVEN: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The state each chunk ends in from zero, and its sum of dt."""
    slot, i_batch = find_place(n_programs, ROWS)
    i_chunk, program = tl.program_id(1), slot
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d) if HAS_BIAS else 0.0
    A_log2 = load_states(A + program * N_STATES * LANES, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    BC += i_batch * seq_len * BC_ROW + group * 2 * N_STATES + tl.arange(0, LANES)[None, :]
    h = full_states(0.0, ROWS)
    dt_sum = tl.zeros((ROWS, LANES), tl.float32)
    first = i_chunk * chunk
    next_u, next_delta, next_BC = load_inputs(
        u, delta, BC, first, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
    )
    last = (seq_len - 1) // STEPS * STEPS
    for start in range(first, tl.minimum(first + chunk, seq_len), STEPS):
        ahead = tl.minimum(start + STEPS, last)
        now_u, now_delta, now_BC = next_u, next_delta, next_BC
        next_u, next_delta, next_BC = load_inputs(
            u, delta, BC, ahead, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
        )
        for j in tl.static_range(STEPS):
            inside = lanes_inside(valid, start + j, seq_len, EVEN)
            dt, _ = make_dt(now_delta[j], bias, inside, SOFTPLUS)
            dt_u = dt * now_u[j].to(tl.float32)
            h = advance(make_decays(dt, A_log2), h, dt_u, spread_weights(now_BC[j], 0))
            dt_sum += dt
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    tl.store(dt_sums + scratch * LANES + tl.arange(0, LANES)[None, :], dt_sum)
    store_states(states + scratch * N_STATES * LANES, h)


@triton.jit(do_not_specialize=["n_chunks", "n_programs", "n_slots", "first_program"])
def pass_states_kernel(
    A, dt_sums, states, state, n_chunks, n_programs, n_slots, first_program, BACKWARD: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """From the states chunks end in, those that enter them: in place, for one state of 32 channels.

    state: what enters the first chunk; left as what leaves the last. BACKWARD: from the last chunk
    to the first. AHEAD: chunks whose loads are under way together.
    """
    i_batch = (tl.program_id(0) // n_slots).to(tl.int64)
    program, n = tl.program_id(0) % n_slots + first_program, tl.program_id(1)
    lane = tl.arange(0, LANES)
    A_log2 = tl.load(A + (program * N_STATES + n) * LANES + lane) * LOG2_E
    own = state + ((i_batch * n_programs + program) * N_STATES + n) * LANES + lane
    h = tl.load(own)
    step = -1 if BACKWARD else 1
    first = n_chunks - 1 if BACKWARD else 0
    base = i_batch * n_chunks
    for start in range(0, n_chunks, AHEAD):
        # All loads before all stores: the compiler cannot know that they do not meet.
        ends, decays = (), ()
        for j in tl.static_range(AHEAD):
            i_chunk = first + step * tl.minimum(start + j, n_chunks - 1)
            scratch = (base + i_chunk) * n_programs + program
            ends = ends + (tl.load(states + (scratch * N_STATES + n) * LANES + lane),)
            decays = decays + (tl.exp2(tl.load(dt_sums + scratch * LANES + lane) * A_log2),)
        for j in tl.static_range(AHEAD):
            i_chunk = first + step * tl.minimum(start + j, n_chunks - 1)
            scratch = (base + i_chunk) * n_programs + program
            there = start + j < n_chunks
            tl.store(states + (scratch * N_STATES + n) * LANES + lane, h, mask=there)
            h = tl.where(there, decays[j] * h + ends[j], h)
    tl.store(own, h)


@triton.jit(do_not_specialize=_SIZES[:5])
def chunk_scan_kernel(
    u, delta, A, BC, D, z, delta_bias, entries, last_state, out, seq_len, width, blocks, chunk,
    n_programs, u_batch, delta_batch, z_batch, out_batch, U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, Z_ROW: tl.constexpr, OUT_ROW: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, EVEN: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The outputs of each chunk from the state entering it; the last chunk's end state."""
    slot, i_batch = find_place(n_programs, ROWS)
    i_chunk, program = tl.program_id(1), slot
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d) if HAS_BIAS else 0.0
    skip = tl.load(D + o_d) if HAS_D else 0.0
    A_log2 = load_states(A + program * N_STATES * LANES, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    out += i_batch * out_batch
    BC += i_batch * seq_len * BC_ROW + group * 2 * N_STATES + tl.arange(0, LANES)[None, :]
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    h = load_states(entries + scratch * N_STATES * LANES, 1.0)
    first = i_chunk * chunk
    next_u, next_delta, next_BC = load_inputs(
        u, delta, BC, first, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
    )
    next_z = load_rows(z, first, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
    last = (seq_len - 1) // STEPS * STEPS
    for start in range(first, tl.minimum(first + chunk, seq_len), STEPS):
        ahead = tl.minimum(start + STEPS, last)
        now_u, now_delta, now_BC, now_z = next_u, next_delta, next_BC, next_z
        next_u, next_delta, next_BC = load_inputs(
            u, delta, BC, ahead, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
        )
        if HAS_Z:
            next_z = load_rows(z, ahead, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
        for j in tl.static_range(STEPS):
            inside = lanes_inside(valid, start + j, seq_len, EVEN)
            dt, _ = make_dt(now_delta[j], bias, inside, SOFTPLUS)
            x = now_u[j].to(tl.float32)
            h = advance(make_decays(dt, A_log2), h, dt * x, spread_weights(now_BC[j], 0))
            C = spread_weights(now_BC[j], N_STATES)
            y = skip * x
            for n in tl.static_range(N_STATES):
                y += C[n] * h[n]
            if HAS_Z:
                gate = now_z[j].to(tl.float32)
                y *= gate * sigmoid(gate)
            row = row_of(start, j, seq_len, REVERSE, EVEN)
            tl.store(out + row * OUT_ROW + o_d, y.to(out.dtype.element_ty), mask=inside)
    if i_chunk == tl.num_programs(1) - 1:
        store_states(last_state + (i_batch * n_programs + program) * N_STATES * LANES, h)


# --- backward


@triton.jit(do_not_specialize=_SIZES)
def chunk_adjoint_kernel(
    u, delta, A, BC, z, delta_bias, d_out, entries, marks, adjoints, seq_len, width, blocks, chunk,
    n_programs, n_slots, first_program, u_batch, delta_batch, z_batch, d_out_batch,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, Z_ROW: tl.constexpr,
    D_OUT_ROW: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, EVEN: tl.constexpr, HAS_ADJOINT: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The state before every STEPS steps, and the gradient of the entering state by this chunk.

    That gradient is the sum of exp(A sum of dt up to t) C_t dy_t, so it can be had on the way
    forward, with the decays that are there. HAS_ADJOINT: whether it is wanted.
    """
    slot, i_batch = find_place(n_slots, ROWS)
    i_chunk, program = tl.program_id(1), slot + first_program
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d) if HAS_BIAS else 0.0
    A_log2 = load_states(A + program * N_STATES * LANES, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    d_out += i_batch * d_out_batch + o_d
    BC += i_batch * seq_len * BC_ROW + group * 2 * N_STATES + tl.arange(0, LANES)[None, :]
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    h = load_states(entries + scratch * N_STATES * LANES, 1.0)
    decay = full_states(1.0, ROWS)
    adjoint = full_states(0.0, ROWS)
    first = i_chunk * chunk
    n_marks = tl.cdiv(seq_len, STEPS)
    next_u, next_delta, next_BC = load_inputs(
        u, delta, BC, first, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
    )
    next_z = load_rows(z, first, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
    next_out = load_rows(d_out, first, seq_len, D_OUT_ROW, REVERSE, EVEN, STEPS)
    last = (seq_len - 1) // STEPS * STEPS
    for start in range(first, tl.minimum(first + chunk, seq_len), STEPS):
        ahead = tl.minimum(start + STEPS, last)
        now_u, now_delta, now_BC, now_z, now_out = next_u, next_delta, next_BC, next_z, next_out
        next_u, next_delta, next_BC = load_inputs(
            u, delta, BC, ahead, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
        )
        if HAS_ADJOINT:
            next_out = load_rows(d_out, ahead, seq_len, D_OUT_ROW, REVERSE, EVEN, STEPS)
            if HAS_Z:
                next_z = load_rows(z, ahead, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
        mark = (i_batch * n_marks + start // STEPS) * n_slots + slot
        store_states(marks + mark * N_STATES * LANES, h)
        for j in tl.static_range(STEPS):
            inside = lanes_inside(valid, start + j, seq_len, EVEN)
            dt, _ = make_dt(now_delta[j], bias, inside, SOFTPLUS)
            decays = make_decays(dt, A_log2)
            dt_u = dt * now_u[j].to(tl.float32)
            h = advance(decays, h, dt_u, spread_weights(now_BC[j], 0))
            if HAS_ADJOINT:
                dy = tl.where(inside, now_out[j].to(tl.float32), 0.0)
                if HAS_Z:
                    gate = now_z[j].to(tl.float32)
                    dy *= gate * sigmoid(gate)
                decay = multiply(decay, decays)
                adjoint = add_product(adjoint, decay, dy, spread_weights(now_BC[j], N_STATES))
    if HAS_ADJOINT:
        store_states(adjoints + scratch * N_STATES * LANES, adjoint)


@triton.jit(do_not_specialize=_SIZES)
def chunk_backward_kernel(
    u, delta, A, BC, D, z, delta_bias, d_out, marks, adjoints, d_u, d_delta, d_z, d_BC, d_A, d_D,
    d_bias, d_initial, seq_len, width, blocks, chunk, n_programs, n_slots, first_program, u_batch,
    delta_batch, z_batch, d_out_batch, d_u_batch, d_delta_batch, d_z_batch, U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, Z_ROW: tl.constexpr, D_OUT_ROW: tl.constexpr,
    D_U_ROW: tl.constexpr, D_DELTA_ROW: tl.constexpr, D_Z_ROW: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr,
    EVEN: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk, STEPS steps at a time from the right.

    Each such block starts from its mark, runs forward keeping decays and states in registers, and
    then back.
    """
    slot, i_batch = find_place(n_slots, ROWS)
    i_chunk, program = tl.program_id(1), slot + first_program
    lane = tl.arange(0, LANES)[None, :]
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d) if HAS_BIAS else 0.0
    skip = tl.load(D + o_d) if HAS_D else 0.0
    A_log2 = load_states(A + program * N_STATES * LANES, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    d_out += i_batch * d_out_batch + o_d
    d_u += i_batch * d_u_batch + o_d
    d_delta += i_batch * d_delta_batch + o_d
    d_z += i_batch * d_z_batch + o_d
    BC += i_batch * seq_len * BC_ROW + group * 2 * N_STATES + tl.arange(0, LANES)[None, :]
    d_BC += (i_batch * seq_len * n_programs + program) * LANES + lane
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    adjoint = load_states(adjoints + scratch * N_STATES * LANES, 1.0)
    dA = full_states(0.0, ROWS)
    dD = tl.zeros((ROWS, LANES), tl.float32)
    d_raw_sum = tl.zeros((ROWS, LANES), tl.float32)
    first = i_chunk * chunk
    n_marks = tl.cdiv(seq_len, STEPS)
    n_blocks = tl.cdiv(tl.minimum(chunk, seq_len - first), STEPS)
    start = first + (n_blocks - 1) * STEPS
    mark = (i_batch * n_marks + start // STEPS) * n_slots + slot
    marks += mark * N_STATES * LANES
    next_h = load_states(marks, 1.0)
    next_u, next_delta, next_BC = load_inputs(
        u, delta, BC, start, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
    )
    next_z = load_rows(z, start, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
    next_out = load_rows(d_out, start, seq_len, D_OUT_ROW, REVERSE, EVEN, STEPS)
    for i_block in range(n_blocks):
        start = first + (n_blocks - 1 - i_block) * STEPS
        now_u, now_delta, now_BC, now_z, now_out = next_u, next_delta, next_BC, next_z, next_out
        h = next_h
        before = tl.maximum(start - STEPS, first)
        next_u, next_delta, next_BC = load_inputs(
            u, delta, BC, before, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
        )
        next_out = load_rows(d_out, before, seq_len, D_OUT_ROW, REVERSE, EVEN, STEPS)
        if HAS_Z:
            next_z = load_rows(z, before, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
        if before < start:
            marks -= n_slots * N_STATES * LANES
        next_h = load_states(marks, 1.0)
        states, decays, dts, slopes, xs, dys = (h,), (), (), (), (), ()
        for j in tl.static_range(STEPS):
            inside = lanes_inside(valid, start + j, seq_len, EVEN)
            x = now_u[j].to(tl.float32)
            dt, slope = make_dt(now_delta[j], bias, inside, SOFTPLUS)
            decay = make_decays(dt, A_log2)
            h = advance(decay, h, dt * x, spread_weights(now_BC[j], 0))
            dy = tl.where(inside, now_out[j].to(tl.float32), 0.0)
            if HAS_Z:
                y = skip * x
                C = spread_weights(now_BC[j], N_STATES)
                for n in tl.static_range(N_STATES):
                    y += C[n] * h[n]
                gate = now_z[j].to(tl.float32)
                open_ = sigmoid(gate)
                d_gate = dy * y * open_ * (1.0 + gate * (1.0 - open_))
                row = row_of(start, j, seq_len, REVERSE, EVEN)
                tl.store(d_z + row * D_Z_ROW, d_gate.to(d_z.dtype.element_ty), mask=inside)
                dy *= gate * open_
            states, decays = states + (h,), decays + (decay,)
            dts, slopes, xs, dys = dts + (dt,), slopes + (slope,), xs + (x,), dys + (dy,)
        for i in tl.static_range(STEPS):
            dt, slope = dts[STEPS - 1 - i], slopes[STEPS - 1 - i]
            x, dy = xs[STEPS - 1 - i], dys[STEPS - 1 - i]
            row = row_of(start, STEPS - 1 - i, seq_len, REVERSE, EVEN)
            inside = lanes_inside(valid, start + STEPS - 1 - i, seq_len, EVEN)
            # Loaded again, or the compiler keeps B and C of all steps and spills.
            row_BC = tl.load(BC + row * BC_ROW)
            B, C = spread_weights(row_BC, 0), spread_weights(row_BC, N_STATES)
            adjoint, d_input, d_decay, dA, over_channels = back_step(
                adjoint, decays[STEPS - 1 - i], states[STEPS - 1 - i], states[STEPS - i],
                dt, x, dy, A_log2, B, C, dA,
            )  # fmt: skip
            sums = sum_lanes(over_channels, LANES // 2)
            if EVEN:
                tl.store(d_BC + row * n_programs * LANES, sums)
            else:
                there = start + STEPS - 1 - i < seq_len
                tl.store(d_BC + row * n_programs * LANES, sums, mask=there)
            dx = skip * dy + dt * d_input
            d_raw = (d_decay * LN_2 + d_input * x) * slope
            tl.store(d_u + row * D_U_ROW, dx.to(d_u.dtype.element_ty), mask=inside)
            tl.store(d_delta + row * D_DELTA_ROW, d_raw.to(d_delta.dtype.element_ty), mask=inside)
            dD += dy * x
            d_raw_sum += tl.where(inside, d_raw, 0.0)
    store_states(d_A + scratch * N_STATES * LANES, dA)
    tl.store(d_D + scratch * LANES + lane, dD)
    tl.store(d_bias + scratch * LANES + lane, d_raw_sum)
    if i_chunk == 0:
        store_states(d_initial + (i_batch * n_programs + program) * N_STATES * LANES, adjoint)
