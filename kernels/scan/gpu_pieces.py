"""What the Triton kernels of the selective scan are put together from; see gpu_kernels.py.

States, and what is summed over them, are tuples of 16 tiles `# [LANES]`. Lane l holds four
states, from 4 (l // 8) on, of four channels: its own, l, and its partners' l ^ 8, l ^ 16, l ^ 24.
Tile 4 s + n is state n of these, of channel l ^ 8 s.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(32)
N_STATES = tl.constexpr(16)
SLOTS = tl.constexpr(4)  # channels of a lane, and states of each
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def softplus(x):
    """softplus(x) and its derivative, both to rounding: log(1 + e) alone loses small e."""
    e = tl.exp2(x * LOG2_E)
    series = e * (1.0 - e * (0.5 - e * (0.33333333 - e * 0.25)))
    y = tl.where(e < 0.03125, series, tl.log(1.0 + e))
    return tl.where(x > 20.0, x, y), tl.where(x > 20.0, 1.0, e / (1.0 + e))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
def locate_program(n_programs):
    """Which program of a sequence runs here, and the sequence, in 64 bits."""
    return tl.program_id(0) % n_programs, (tl.program_id(0) // n_programs).to(tl.int64)


@triton.jit
def find_channels(program, width, blocks):
    """The group, the channel of each lane, which lanes have one of their own."""
    group = program // blocks
    inside = (program % blocks) * LANES + tl.arange(0, LANES)
    return group, group * width + tl.minimum(inside, width - 1), inside < width


@triton.jit
def row_of(start, j, seq_len, REVERSE: tl.constexpr, EVEN: tl.constexpr):
    """The row of step start + j, that of the last step for later ones; 64 bits.

    EVEN: all blocks of steps are whole, so rows lie a constant apart and cost no arithmetic.
    """
    if not EVEN:
        j = tl.minimum(j, seq_len - 1 - start)
    if REVERSE:
        return tl.cast(seq_len - 1 - start, tl.int64) - j
    return tl.cast(start, tl.int64) + j


@triton.jit
def load_rows(
    pointer, start, seq_len, ROW: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """What `pointer` `# [LANES]` finds in the rows of STEPS steps, as it is."""
    values = ()
    for j in tl.static_range(STEPS):
        values = values + (tl.load(pointer + row_of(start, j, seq_len, REVERSE, EVEN) * ROW),)
    return values


@triton.jit
def load_inputs(
    u, delta, BC, start, seq_len, U_ROW: tl.constexpr, DELTA_ROW: tl.constexpr,
    BC_ROW: tl.constexpr, REVERSE: tl.constexpr, EVEN: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The rows of STEPS steps that every kernel needs, as they are."""
    return (
        load_rows(u, start, seq_len, U_ROW, REVERSE, EVEN, STEPS),
        load_rows(delta, start, seq_len, DELTA_ROW, REVERSE, EVEN, STEPS),
        load_rows(BC, start, seq_len, BC_ROW, REVERSE, EVEN, STEPS),
    )


@triton.jit
def lanes_inside(valid, step, seq_len, EVEN: tl.constexpr):
    """Lanes with a channel of their own, at a step that there is."""
    if EVEN:
        return valid
    return valid & (step < seq_len)


@triton.jit
def make_dt(raw, bias, valid, SOFTPLUS: tl.constexpr):
    """dt and its derivative by delta; 0 and 1 where there is no step."""
    x = raw.to(tl.float32) + bias
    slope = x * 0.0 + 1.0
    if SOFTPLUS:
        x, slope = softplus(x)
    return tl.where(valid, x, 0.0), slope


@triton.jit
def find_weights(
    B, C, i_batch, group, batch_stride, GROUP: tl.constexpr, D_STATE: tl.constexpr
):  # fmt: skip
    """Where each lane's number of a row is: 16 of B, then 16 of C `# [LANES]`."""
    lane = tl.arange(0, LANES)
    state = tl.minimum(lane % N_STATES, D_STATE - 1)
    offset = i_batch * batch_stride + group.to(tl.int64) * GROUP + state
    return tl.where(lane < N_STATES, B + offset, C + offset)


@triton.jit
def spread_weights(row, zero, FIRST: tl.constexpr, D_STATE: tl.constexpr):
    """B (FIRST 0) or C (FIRST 16) of a step from its row, for each lane those of its states.

    zero: as in `give_partners`.
    """
    lane = tl.arange(0, LANES)
    row = row.to(tl.float32)
    if D_STATE < N_STATES:
        row = tl.where(lane % N_STATES < D_STATE, row, 0.0)
    index = lane // 8 * SLOTS + (FIRST + zero)
    values = ()
    for n in tl.static_range(SLOTS):
        values = values + (tl.gather(row, index + n, 0),)
    return values


@triton.jit
def give_partners(x, zero):
    """What lanes hold for their own channel, for all channels of each lane: 4 tiles.

    zero: 0; one that the compiler cannot know has it exchange again rather than keep registers.
    """
    lane = tl.arange(0, LANES) + zero
    values = (x,)
    for s in tl.static_range(1, SLOTS):
        values = values + (tl.gather(x, lane ^ (8 * s), 0),)
    return values


@triton.jit
def sum_partners(parts):
    """For each lane's own channel, the sum of what its partners and itself found."""
    lane = tl.arange(0, LANES)
    total = parts[0]
    for s in tl.static_range(1, SLOTS):
        total += tl.gather(parts[s], lane ^ (8 * s), 0)
    return total


@triton.jit
def locate_states(program, width, blocks, D_STATE: tl.constexpr):
    """Where the numbers of each tile are in (D, D_STATE), and which of them there are."""
    lane = tl.arange(0, LANES)
    offsets, there = (), ()
    for s in tl.static_range(SLOTS):
        inside = (program % blocks) * LANES + (lane ^ (8 * s))
        channel = program // blocks * width + tl.minimum(inside, width - 1)
        for n in tl.static_range(SLOTS):
            state = lane // 8 * SLOTS + n
            offsets = offsets + (channel * D_STATE + tl.minimum(state, D_STATE - 1),)
            there = there + ((inside < width) & (state < D_STATE),)
    return offsets, there


@triton.jit
def gather_states(pointer, offsets, there, scale):
    """16 tiles of a tensor (D, D_STATE), zero where there is nothing, times a number."""
    values = ()
    for k in tl.static_range(N_STATES):
        values = values + (tl.load(pointer + offsets[k], mask=there[k], other=0.0) * scale,)
    return values


@triton.jit
def scatter_states(pointer, offsets, there, values):
    for k in tl.static_range(N_STATES):
        tl.store(pointer + offsets[k], values[k], mask=there[k])


@triton.jit
def load_states(pointer):
    """16 tiles as `store_states` wrote them."""
    values = ()
    for k in tl.static_range(N_STATES):
        values = values + (tl.load(pointer + k * LANES + tl.arange(0, LANES)),)
    return values


@triton.jit
def store_states(pointer, values):
    for k in tl.static_range(N_STATES):
        tl.store(pointer + k * LANES + tl.arange(0, LANES), values[k])


@triton.jit
def full_states(value):
    values = ()
    for _ in tl.static_range(N_STATES):
        values = values + (tl.full((LANES,), value, tl.float32),)
    return values


@triton.jit
def make_decays(dt, A_log2):
    """dt: 4 tiles, for the channels of a lane."""
    values = ()
    for s in tl.static_range(SLOTS):
        for n in tl.static_range(SLOTS):
            values = values + (tl.exp2(dt[s] * A_log2[SLOTS * s + n]),)
    return values


@triton.jit
def advance(decays, states, dt_u, B):
    """The states after a step."""
    values = ()
    for s in tl.static_range(SLOTS):
        for n in tl.static_range(SLOTS):
            kept = decays[SLOTS * s + n] * states[SLOTS * s + n]
            values = values + (kept + dt_u[s] * B[n],)
    return values


@triton.jit
def multiply(one, other):
    values = ()
    for k in tl.static_range(N_STATES):
        values = values + (one[k] * other[k],)
    return values


@triton.jit
def add_product(sums, states, dy, C):
    """sums + states * dy * C, a state at a time."""
    values = ()
    for s in tl.static_range(SLOTS):
        for n in tl.static_range(SLOTS):
            product = states[SLOTS * s + n] * (dy[s] * C[n])
            values = values + (sums[SLOTS * s + n] + product,)
    return values


@triton.jit
def weigh_states(states, weights):
    """The sum over states of each lane's own channel."""
    parts = ()
    for s in tl.static_range(SLOTS):
        part = states[SLOTS * s] * weights[0]
        for n in tl.static_range(1, SLOTS):
            part += states[SLOTS * s + n] * weights[n]
        parts = parts + (part,)
    return sum_partners(parts)


@triton.jit
def sum_lanes(rows, STEP: tl.constexpr):
    """Sum each of 8 tiles over each 8 lanes; the sum of tile i lands in lane i of the 8.

    Half the tiles are folded onto the other half at a time: 7 exchanges for all, where a sum of
    each alone takes 3 for each.
    """
    if STEP == 0:
        return rows[0]
    else:
        lane = tl.arange(0, LANES)
        upper = (lane & STEP) != 0
        folded = ()
        for i in tl.static_range(STEP):
            kept = tl.where(upper, rows[i + STEP], rows[i])
            sent = tl.where(upper, rows[i], rows[i + STEP])
            folded = folded + (kept + tl.gather(sent, lane ^ STEP, 0),)
        return sum_lanes(folded, STEP // 2)


@triton.jit
def index_of_sums():
    """Where in a row of 16 dB and 16 dC the sum that each lane holds belongs."""
    lane = tl.arange(0, LANES)
    i = lane % 8
    return lane // 8 * SLOTS + i % SLOTS + i // SLOTS * N_STATES


@triton.jit
def back_step(adjoint, decays, before, after, dt, dt_x, dy, A_log2, B, C, dA):
    """One step from the right, for all states; dt, dt_x and dy are 4 tiles.

    adjoint: the gradient of the state after the step that later steps send. before, after: states.
    Returns the same for the step before; sum over states of g B; that of A_log2 g (decay before);
    dA; and the summands over channels of dB and dC, 8 tiles.
    """
    d_adjoint, d_A, d_inputs, d_decays = (), (), (), ()
    zero = tl.zeros((LANES,), tl.float32)
    d_B = (zero, zero, zero, zero)
    d_C = d_B
    for s in tl.static_range(SLOTS):
        d_input, d_decay = zero, zero
        next_B, next_C = (), ()
        for n in tl.static_range(SLOTS):
            g = adjoint[SLOTS * s + n] + C[n] * dy[s]
            d_input += g * B[n]
            sent = decays[SLOTS * s + n] * g
            through = sent * before[SLOTS * s + n]
            d_decay += through * A_log2[SLOTS * s + n]
            d_adjoint = d_adjoint + (sent,)
            d_A = d_A + (dA[SLOTS * s + n] + through * dt[s],)
            next_B = next_B + (d_B[n] + g * dt_x[s],)
            next_C = next_C + (d_C[n] + after[SLOTS * s + n] * dy[s],)
        d_B, d_C = next_B, next_C
        d_inputs, d_decays = d_inputs + (d_input,), d_decays + (d_decay,)
    return d_adjoint, sum_partners(d_inputs), sum_partners(d_decays), d_A, d_B + d_C
