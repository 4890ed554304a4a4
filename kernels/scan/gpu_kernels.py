"""The Triton kernels of the selective scan; gpu.py launches them.

A program is 32 channels of one sequence, one to a lane, walking one chunk of time with their 512
states in registers. A lane loads, weighs and stores for its own channel; four lanes share the
states of four channels, four states each (gpu_pieces.py has the layout). So a lane is handed 4 of B
and of C at a step rather than 16, and their gradients are sums over 8 lanes rather than 32. States
and what is summed over them are tuples of 16 tiles `# [LANES]`: every register is named, and no
layout is left to the compiler. Inputs are loaded a block of steps ahead of their use. README.md has
the derivation, the memory plan and the times.

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
    SLOTS,
    add_product,
    advance,
    back_step,
    find_channels,
    find_weights,
    full_states,
    gather_states,
    give_partners,
    index_of_sums,
    lanes_inside,
    load_inputs,
    load_rows,
    load_states,
    locate_program,
    locate_states,
    make_decays,
    make_dt,
    multiply,
    row_of,
    scatter_states,
    sigmoid,
    spread_weights,
    store_states,
    sum_lanes,
    weigh_states,
)

_SIZES = ["seq_len", "width", "blocks", "chunk", "n_programs", "n_slots", "first_program"]


# --- forward


@triton.jit(do_not_specialize=_SIZES[:5])
def chunk_state_kernel(
    u, delta, A, B, C, delta_bias, dt_sums, states, seq_len, width, blocks, chunk, n_programs,
    u_batch, delta_batch, BC_batch, U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr,
    BC_ROW: tl.constexpr, BC_GROUP: tl.constexpr, D_STATE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The state each chunk ends in from zero, and its sum of dt."""
    slot, i_batch = locate_program(n_programs)
    i_chunk, program = tl.program_id(1), slot
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d).to(tl.float32) if HAS_BIAS else 0.0
    offsets, there = locate_states(program, width, blocks, D_STATE)
    A_log2 = gather_states(A, offsets, there, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    BC = find_weights(B, C, i_batch, group, BC_batch, BC_GROUP, D_STATE)
    h = full_states(0.0)
    dt_sum = tl.zeros((LANES,), tl.float32)
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
            dt_u = give_partners(dt * now_u[j].to(tl.float32), 0)
            weights = spread_weights(now_BC[j], 0, 0, D_STATE)
            h = advance(make_decays(give_partners(dt, 0), A_log2), h, dt_u, weights)
            dt_sum += dt
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    tl.store(dt_sums + scratch * LANES + tl.arange(0, LANES), dt_sum)
    store_states(states + scratch * N_STATES * LANES, h)


@triton.jit(
    do_not_specialize=["width", "blocks", "n_chunks", "n_programs", "n_slots", "first_program"]
)
def pass_states_kernel(
    A, dt_sums, states, state, width, blocks, n_chunks, n_programs, n_slots, first_program,
    D_STATE: tl.constexpr, BACKWARD: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """From the states chunks end in, those that enter them: in place, for one tile.

    state: what enters the first chunk (B, D, D_STATE). BACKWARD: from the last chunk to the first.
    AHEAD: chunks whose loads are under way together.
    """
    i_batch = (tl.program_id(0) // n_slots).to(tl.int64)
    program, tile = tl.program_id(0) % n_slots + first_program, tl.program_id(1)
    lane = tl.arange(0, LANES)
    partner = lane ^ (tile // SLOTS * 8)
    inside, n = program % blocks * LANES + partner, lane // 8 * SLOTS + tile % SLOTS
    there = (inside < width) & (n < D_STATE)
    offset = (program // blocks * width + inside) * D_STATE + n
    A_log2 = tl.load(A + offset, mask=there, other=0.0) * LOG2_E
    channels = n_programs // blocks * width
    h = tl.load(state + i_batch * channels * D_STATE + offset, mask=there, other=0.0)
    step = -1 if BACKWARD else 1
    first = n_chunks - 1 if BACKWARD else 0
    base = i_batch * n_chunks
    for start in range(0, n_chunks, AHEAD):
        # All loads before all stores: the compiler cannot know that they do not meet.
        ends, decays = (), ()
        for j in tl.static_range(AHEAD):
            i_chunk = first + step * tl.minimum(start + j, n_chunks - 1)
            scratch = (base + i_chunk) * n_programs + program
            # What leaves the last chunk is nobody's, and was not made if there is only one.
            is_followed = start + j < n_chunks - 1
            end = states + (scratch * N_STATES + tile) * LANES + lane
            ends = ends + (tl.load(end, mask=is_followed, other=0.0),)
            dt_sum = tl.load(dt_sums + scratch * LANES + partner, mask=is_followed, other=0.0)
            decays = decays + (tl.exp2(dt_sum * A_log2),)
        for j in tl.static_range(AHEAD):
            i_chunk = first + step * tl.minimum(start + j, n_chunks - 1)
            scratch = (base + i_chunk) * n_programs + program
            is_chunk = start + j < n_chunks
            tl.store(states + (scratch * N_STATES + tile) * LANES + lane, h, mask=is_chunk)
            h = decays[j] * h + ends[j]


@triton.jit(do_not_specialize=_SIZES[:5])
def chunk_scan_kernel(
    u, delta, A, B, C, D, z, delta_bias, entries, last_state, out, seq_len, width, blocks, chunk,
    n_programs, u_batch, delta_batch, BC_batch, z_batch, out_batch, U_ROW: tl.constexpr,
    DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, BC_GROUP: tl.constexpr, D_STATE: tl.constexpr,
    Z_ROW: tl.constexpr, OUT_ROW: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """The outputs of each chunk from the state entering it; the last chunk's end state."""
    slot, i_batch = locate_program(n_programs)
    i_chunk, program = tl.program_id(1), slot
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d).to(tl.float32) if HAS_BIAS else 0.0
    skip = tl.load(D + o_d).to(tl.float32) if HAS_D else 0.0
    offsets, there = locate_states(program, width, blocks, D_STATE)
    A_log2 = gather_states(A, offsets, there, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    out += i_batch * out_batch
    BC = find_weights(B, C, i_batch, group, BC_batch, BC_GROUP, D_STATE)
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    h = load_states(entries + scratch * N_STATES * LANES)
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
            decays, dt_u = make_decays(give_partners(dt, 0), A_log2), give_partners(dt * x, 0)
            h = advance(decays, h, dt_u, spread_weights(now_BC[j], 0, 0, D_STATE))
            y = skip * x + weigh_states(h, spread_weights(now_BC[j], 0, N_STATES, D_STATE))
            if HAS_Z:
                gate = now_z[j].to(tl.float32)
                y *= gate * sigmoid(gate)
            row = row_of(start, j, seq_len, REVERSE, EVEN)
            tl.store(out + row * OUT_ROW + o_d, y.to(out.dtype.element_ty), mask=inside)
    if i_chunk == tl.num_programs(1) - 1:
        channels = n_programs // blocks * width
        # Found again, or the compiler keeps the places in registers all the way.
        offsets, there = locate_states(program + tl.minimum(seq_len, 0), width, blocks, D_STATE)
        scatter_states(last_state + i_batch * channels * D_STATE, offsets, there, h)


# --- backward


@triton.jit(do_not_specialize=_SIZES)
def chunk_adjoint_kernel(
    u, delta, A, B, C, z, delta_bias, d_out, entries, marks, adjoints, seq_len, width, blocks,
    chunk, n_programs, n_slots, first_program, u_batch, delta_batch, BC_batch, z_batch, d_out_batch,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, BC_GROUP: tl.constexpr,
    D_STATE: tl.constexpr, Z_ROW: tl.constexpr, D_OUT_ROW: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr,
    HAS_ADJOINT: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The state before every STEPS steps, and the gradient of the entering state by this chunk.

    That gradient is the sum of exp(A sum of dt up to t) C_t dy_t, so it can be had on the way
    forward, with the decays that are there. HAS_ADJOINT: whether it is wanted.
    """
    slot, i_batch = locate_program(n_slots)
    i_chunk, program = tl.program_id(1), slot + first_program
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d).to(tl.float32) if HAS_BIAS else 0.0
    offsets, there = locate_states(program, width, blocks, D_STATE)
    A_log2 = gather_states(A, offsets, there, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    d_out += i_batch * d_out_batch + o_d
    BC = find_weights(B, C, i_batch, group, BC_batch, BC_GROUP, D_STATE)
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    h = load_states(entries + scratch * N_STATES * LANES)
    decay = full_states(1.0)
    adjoint = full_states(0.0)
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
            decays = make_decays(give_partners(dt, 0), A_log2)
            dt_u = give_partners(dt * now_u[j].to(tl.float32), 0)
            h = advance(decays, h, dt_u, spread_weights(now_BC[j], 0, 0, D_STATE))
            if HAS_ADJOINT:
                dy = tl.where(inside, now_out[j].to(tl.float32), 0.0)
                if HAS_Z:
                    gate = now_z[j].to(tl.float32)
                    dy *= gate * sigmoid(gate)
                decay = multiply(decay, decays)
                weights = spread_weights(now_BC[j], 0, N_STATES, D_STATE)
                adjoint = add_product(adjoint, decay, give_partners(dy, 0), weights)
    if HAS_ADJOINT:
        store_states(adjoints + scratch * N_STATES * LANES, adjoint)


@triton.jit(do_not_specialize=_SIZES)
def chunk_backward_kernel(
    u, delta, A, B, C, D, z, delta_bias, d_out, marks, adjoints, d_u, d_delta, d_z, d_BC, d_A, d_D,
    d_bias, d_initial, seq_len, width, blocks, chunk, n_programs, n_slots, first_program, u_batch,
    delta_batch, BC_batch, z_batch, d_out_batch, d_u_batch, d_delta_batch, d_z_batch,
    U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr, BC_ROW: tl.constexpr, BC_GROUP: tl.constexpr,
    D_STATE: tl.constexpr, Z_ROW: tl.constexpr, D_OUT_ROW: tl.constexpr, D_U_ROW: tl.constexpr,
    D_DELTA_ROW: tl.constexpr, D_Z_ROW: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk, STEPS steps at a time from the right.

    Each such block starts from its mark, runs forward keeping decays and states in registers, and
    then back.
    """
    slot, i_batch = locate_program(n_slots)
    i_chunk, program = tl.program_id(1), slot + first_program
    group, o_d, valid = find_channels(program, width, blocks)
    bias = tl.load(delta_bias + o_d).to(tl.float32) if HAS_BIAS else 0.0
    skip = tl.load(D + o_d).to(tl.float32) if HAS_D else 0.0
    offsets, there = locate_states(program, width, blocks, D_STATE)
    A_log2 = gather_states(A, offsets, there, LOG2_E)
    u += i_batch * u_batch + o_d
    delta += i_batch * delta_batch + o_d
    z += i_batch * z_batch + o_d
    d_out += i_batch * d_out_batch + o_d
    d_u += i_batch * d_u_batch + o_d
    d_delta += i_batch * d_delta_batch + o_d
    d_z += i_batch * d_z_batch + o_d
    BC = find_weights(B, C, i_batch, group, BC_batch, BC_GROUP, D_STATE)
    d_BC += (i_batch * seq_len * n_slots + slot) * LANES + index_of_sums()
    scratch = (i_batch * tl.num_programs(1) + i_chunk) * n_programs + program
    adjoint = load_states(adjoints + scratch * N_STATES * LANES)
    dA = full_states(0.0)
    zero = tl.minimum(seq_len, 0)
    dD = tl.zeros((LANES,), tl.float32)
    d_raw_sum = tl.zeros((LANES,), tl.float32)
    first = i_chunk * chunk
    n_marks = tl.cdiv(seq_len, STEPS)
    n_blocks = tl.cdiv(tl.minimum(chunk, seq_len - first), STEPS)
    start = first + (n_blocks - 1) * STEPS
    mark = (i_batch * n_marks + start // STEPS) * n_slots + slot
    marks += mark * N_STATES * LANES
    next_h = load_states(marks)
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
        states, decays, dts, slopes, xs, dys = (h,), (), (), (), (), ()
        for j in tl.static_range(STEPS):
            inside = lanes_inside(valid, start + j, seq_len, EVEN)
            x = now_u[j].to(tl.float32)
            dt, slope = make_dt(now_delta[j], bias, inside, SOFTPLUS)
            decay, dt_x = make_decays(give_partners(dt, 0), A_log2), give_partners(dt * x, 0)
            h = advance(decay, h, dt_x, spread_weights(now_BC[j], 0, 0, D_STATE))
            dy = tl.where(inside, now_out[j].to(tl.float32), 0.0)
            if HAS_Z:
                y = skip * x + weigh_states(h, spread_weights(now_BC[j], 0, N_STATES, D_STATE))
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
            row_BC = now_BC[STEPS - 1 - i]
            adjoint, d_input, d_decay, dA, over_channels = back_step(
                adjoint, decays[STEPS - 1 - i], states[STEPS - 1 - i], states[STEPS - i],
                give_partners(dt, zero), give_partners(dt * x, zero), give_partners(dy, 0), A_log2,
                spread_weights(row_BC, zero, 0, D_STATE),
                spread_weights(row_BC, zero, N_STATES, D_STATE), dA,
            )  # fmt: skip
            if i == 0:
                next_u, next_delta, next_BC = load_inputs(
                    u, delta, BC, before, seq_len, U_ROW, DELTA_ROW, BC_ROW, REVERSE, EVEN, STEPS
                )
                next_out = load_rows(d_out, before, seq_len, D_OUT_ROW, REVERSE, EVEN, STEPS)
                if HAS_Z:
                    next_z = load_rows(z, before, seq_len, Z_ROW, REVERSE, EVEN, STEPS)
                if before < start:
                    marks -= n_slots * N_STATES * LANES
                next_h = load_states(marks)
            sums = sum_lanes(over_channels, SLOTS)
            if EVEN:
                tl.store(d_BC + row * n_slots * LANES, sums)
            else:
                is_step = start + STEPS - 1 - i < seq_len
                tl.store(d_BC + row * n_slots * LANES, sums, mask=is_step)
            dx = skip * dy + dt * d_input
            d_raw = (d_decay * LN_2 + d_input * x) * slope
            tl.store(d_u + row * D_U_ROW, dx.to(d_u.dtype.element_ty), mask=inside)
            tl.store(d_delta + row * D_DELTA_ROW, d_raw.to(d_delta.dtype.element_ty), mask=inside)
            dD += dy * x
            d_raw_sum += tl.where(inside, d_raw, 0.0)
    channels = n_programs // blocks * width
    # Found again, or the compiler keeps the places in registers all the way.
    offsets, there = locate_states(program + zero, width, blocks, D_STATE)
    chunk_row = (i_batch * tl.num_programs(1) + i_chunk) * channels
    scatter_states(d_A + chunk_row * D_STATE, offsets, there, dA)
    tl.store(d_D + chunk_row + o_d, dD, mask=valid)
    tl.store(d_bias + chunk_row + o_d, d_raw_sum, mask=valid)
    if i_chunk == 0:
        scatter_states(d_initial + i_batch * channels * D_STATE, offsets, there, adjoint)
