"""What the Triton kernels of the selective scan are put together from; see gpu_kernels.py.

States, and what is summed over them, are tuples of 16 tiles `# [ROWS, LANES]`.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(32)
N_STATES = tl.constexpr(16)
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
def find_place(n_programs, ROWS: tl.constexpr):
    """The programs `# [ROWS, 1]` of one sequence that run here, and the sequence, in 64 bits."""
    blocks = n_programs // ROWS
    program = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)[:, None]
    return program, (tl.program_id(0) // blocks).to(tl.int64)


@triton.jit
def find_channels(program, width, blocks):
    """The group of each program, the channel of each lane, which lanes have one of their own."""
    group = program // blocks
    inside = (program % blocks) * LANES + tl.arange(0, LANES)[None, :]
    channel = group * width + tl.minimum(inside, width - 1)
    # Only to have lanes laid along channels: no thread reads two of them.
    channel = tl.max_contiguous(channel, (1, LANES))
    return group, channel, inside < width


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
    """What `pointer` `# [ROWS, LANES]` finds in the rows of STEPS steps, as it is."""
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
def spread_weights(row, FIRST: tl.constexpr):
    """B (FIRST 0) or C (FIRST 16) of a step from its row, each in all lanes."""
    index = tl.full(row.shape, 0, tl.int32)
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (tl.gather(row, index + (FIRST + n), 1),)
    return values


@triton.jit
def load_states(pointer, scale):
    """16 tiles `# [ROWS, LANES]`, times a number."""
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (tl.load(pointer + n * LANES + tl.arange(0, LANES)[None, :]) * scale,)
    return values


@triton.jit
def store_states(pointer, values):
    for n in tl.static_range(N_STATES):
        tl.store(pointer + n * LANES + tl.arange(0, LANES)[None, :], values[n])


@triton.jit
def full_states(value, ROWS: tl.constexpr):
    values = ()
    for _ in tl.static_range(N_STATES):
        values = values + (tl.full((ROWS, LANES), value, tl.float32),)
    return values


@triton.jit
def make_decays(dt, A_log2):
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (tl.exp2(dt * A_log2[n]),)
    return values


@triton.jit
def advance(decays, states, dt_u, B):
    """The states after a step."""
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (decays[n] * states[n] + dt_u * B[n],)
    return values


@triton.jit
def multiply(one, other):
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (one[n] * other[n],)
    return values


@triton.jit
def add_product(sums, states, vector, weights):
    """sums + states * vector * weights, a state at a time."""
    values = ()
    for n in tl.static_range(N_STATES):
        values = values + (sums[n] + states[n] * (vector * weights[n]),)
    return values


@triton.jit
def sum_lanes(rows, STEP: tl.constexpr):
    """Of 32 tiles the sum over lanes; that of tile i comes out in lane i.

    Half the tiles are folded onto the other half at a time: 31 exchanges for all, where a sum of
    each alone takes 5 for each.
    """
    if STEP == 0:
        return rows[0]
    else:
        lane = tl.arange(0, LANES)[None, :]
        partner = tl.broadcast_to(lane ^ STEP, rows[0].shape)
        upper = (lane & STEP) != 0
        folded = ()
        for i in tl.static_range(STEP):
            kept = tl.where(upper, rows[i + STEP], rows[i])
            sent = tl.where(upper, rows[i], rows[i + STEP])
            folded = folded + (kept + tl.gather(sent, partner, 1),)
        return sum_lanes(folded, STEP // 2)


@triton.jit
def back_step(adjoint, decays, before, after, dt, x, dy, A_log2, B, C, dA):
    """One step from the right, for all states.

    adjoint: the gradient of the state after the step that later steps send. before, after: states.
    Returns the same for the step before; sum over states of g B; that of A_log2 g (decay before);
    dA; and the summands over channels of dB and dC, 32 tiles.
    """
    d_adjoint, d_A, d_B, d_C = (), (), (), ()
    d_input = dt * 0.0
    d_decay = dt * 0.0
    for n in tl.static_range(N_STATES):
        g = adjoint[n] + C[n] * dy
        d_input += g * B[n]
        sent = decays[n] * g
        through = sent * before[n]
        d_decay += through * A_log2[n]
        d_adjoint = d_adjoint + (sent,)
        d_A = d_A + (dA[n] + through * dt,)
        d_B = d_B + (g * (dt * x),)
        d_C = d_C + (after[n] * dy,)
    return d_adjoint, d_input, d_decay, d_A, d_B + d_C
