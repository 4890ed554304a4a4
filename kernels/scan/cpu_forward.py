"""The fused scan's forward kernel, written as LLVM IR, and what the backward shares with it.

Channels lie in the lanes of a vector, time is a loop, and the states of a block stay in registers.
Time is cut into chunks of CHUNK steps. What does not depend on the state (softplus, gate) is done
for a whole chunk first, into scratch memory in the first-level cache. The forward keeps the state
that enters each chunk; the backward walks the chunks from the last, remakes their states from it,
and goes back through them.

Capital A, B, C, D are tensors; d_state is unrolled, N in shapes.
"""

from dataclasses import dataclass

from dnamamba.kernels.codegen.emitter import INT, POINTER, Emitter, Value, Variable
from dnamamba.kernels.codegen.functions import exp2_of_product, sigmoid, softplus, total
from dnamamba.kernels.codegen.launch import N_TASKS, NEXT_TASK
from dnamamba.kernels.codegen.tensors import ChannelBlock, Rows, Scratch, per_step, prefetch

CHUNK = 16
"""Steps between two states that the forward keeps."""


@dataclass(frozen=True)
class Variant:
    """Constants of a kernel; everything else is an argument."""

    lanes: int
    registers: int
    d_state: int
    has_D: bool
    has_z: bool
    has_bias: bool
    has_softplus: bool

    def state_groups(self, registers_per_state: int) -> list[range]:
        """Cut the states into ranges that fit into half the registers and a vector of sums."""
        size = min(self.lanes, max(1, self.registers // 2 // registers_per_state))
        return [range(n, min(n + size, self.d_state)) for n in range(0, self.d_state, size)]


GEOMETRY = [NEXT_TASK, N_TASKS, "seq_len", "n_chunks", "n_channels", "group_width"]
GEOMETRY += ["group_blocks", "n_parts", "part_blocks"]
INPUTS = per_step("u", "delta", "z", "B", "C") + ["B_group", "C_group"]
INPUTS += ["A_log2e", "A_extremes", "D", "delta_bias", "states", "states_chunk", "states_block"]
FORWARD_ARGUMENTS = [*GEOMETRY, *INPUTS, "initial", "initial_batch", "last", *per_step("out")]


class Block(ChannelBlock):
    """Up to `lanes` neighbouring channels of one group and one batch entry."""

    def __init__(self, e: Emitter, v: Variant, batch: Value, group: Value, number: Value) -> None:
        width = e.argument("group_width")
        within = number * e.lanes
        channel = group * width + within
        super().__init__(e, batch, channel, e.mask_of(width - within))
        self.group = group
        self.n_channels = e.argument("n_channels")
        all_blocks = e.argument("n_channels") // width * e.argument("group_blocks")
        index = batch * all_blocks + group * e.argument("group_blocks") + number
        self._states = e.offset(e.argument("states", POINTER), index * e.argument("states_block"))
        self._states_chunk = e.argument("states_chunk")

    def weights(self, name: str) -> Rows:
        """B or C of this block's group."""
        return Rows(self.e, name, self.batch, self.group * self.e.argument(f"{name}_group"))

    def row_of(self, name: str, row: Value | int) -> Value:
        """Return the address of this block's channels in a row of (..., D)."""
        row = row if isinstance(row, Value) else self.e.constant(INT, row)
        start = self.e.argument(name, POINTER)
        return self.e.offset(start, row * self.n_channels + self.channel)

    def parameter(self, name: str, row: int = 0) -> Value:
        return self.load(self.row_of(name, row))

    def kept_state(self, chunk: Value, n: int) -> Value:
        """Return the address of the state that enters a chunk."""
        start = self.e.offset(self._states, chunk * self._states_chunk)
        return self.e.offset(start, n * self.e.lanes)


class Chunk:
    """The passes over one chunk's inputs and states that forward and backward share."""

    def __init__(self, e: Emitter, v: Variant) -> None:
        self.e, self.v = e, v
        self.dt, self.dt_u, self.y = (Scratch(e, CHUNK) for _ in range(3))
        self.slope = Scratch(e, CHUNK)  # the derivative of dt by delta

    def enter(self, block: Block) -> None:
        e, v = self.e, self.v
        self.block = block
        self.u, self.delta = block.rows("u"), block.rows("delta")
        self.B, self.C = block.weights("B"), block.weights("C")
        self.A = [block.parameter("A_log2e", n) for n in range(v.d_state)]
        self.least_A, self.most_A = (block.parameter("A_extremes", row) for row in range(2))
        self.D = block.parameter("D") if v.has_D else e.number(0.0)
        self.bias = block.parameter("delta_bias") if v.has_bias else e.number(0.0)
        self.z = block.rows("z") if v.has_z else None

    def streams(self) -> list[Rows | None]:
        """Return the tensors to prefetch."""
        return [self.u, self.delta, self.z]

    def prepare(self, i: Value, step: Value) -> None:
        """Write step sizes and inputs of one step to scratch."""
        e = self.e
        u, raw = self.block.load(self.u.at(step)), self.block.load(self.delta.at(step))
        dt = raw + self.bias if self.v.has_bias else raw
        if self.v.has_softplus:
            dt, slope = softplus(e, dt)
            self.slope.set(i, slope)
        # exp2 has no infinity: NaN if a decay would be infinite or A is NaN.
        exponent = e.maximum(dt * self.least_A, dt * self.most_A)
        dt_u = e.select(e.is_less(exponent, 127.0), dt * u, e.number(float("nan")))
        self.dt.set(i, dt)
        self.dt_u.set(i, dt_u)


def chunk_steps(e: Emitter, chunk: Value) -> tuple[Value, Value]:
    """Return the first step of a chunk and its number of steps."""
    first = chunk * CHUNK
    rest = e.argument("seq_len") - first
    return first, e.select(e.is_less(rest, CHUNK), rest, e.constant(INT, CHUNK))


def _block_of_task(e: Emitter, v: Variant, task: Value) -> Block:
    group_blocks = e.argument("group_blocks")
    blocks = e.argument("n_channels") // e.argument("group_width") * group_blocks
    batch = task // blocks
    block = task - batch * blocks
    group = block // group_blocks
    return Block(e, v, batch, group, block - group * group_blocks)


def write_forward(v: Variant) -> Emitter:
    """Write the kernel of out, the last state and the state that enters each chunk."""
    e = Emitter("scan_forward", v.lanes, FORWARD_ARGUMENTS)
    chunk = Chunk(e, v)
    with e.tasks(e.argument(NEXT_TASK, POINTER), e.argument(N_TASKS)) as task:
        block = _block_of_task(e, v, task)
        chunk.enter(block)
        out, n_chunks = block.rows("out"), e.argument("n_chunks")
        initial = block.batch * e.argument("initial_batch")
        for n in range(v.d_state):
            address = e.offset(block.row_of("initial", n), initial)
            e.store(block.load(address), block.kept_state(e.constant(INT, 0), n))
        with e.loop(n_chunks) as number:
            first, n_steps = chunk_steps(e, number)
            with e.loop(n_steps) as i:
                prefetch([*chunk.streams(), out], first + i + CHUNK)
                chunk.prepare(i, first + i)
            for states in v.state_groups(registers_per_state=1):
                _advance(chunk, states, number, first, n_steps)
            with e.loop(n_steps) as i:
                y = chunk.y.get(i)
                if v.has_D:
                    y = e.fma(chunk.D, block.load(chunk.u.at(first + i)), y)
                if chunk.z is not None:
                    z = block.load(chunk.z.at(first + i))
                    y = y * (z * sigmoid(e, z))
                block.store(y, out.at(first + i))
        for n in range(v.d_state):
            last = e.load(block.kept_state(n_chunks, n))
            block.store(last, block.row_of("last", block.batch * v.d_state + n))
    return e


def _advance(chunk: Chunk, states: range, number: Value, first: Value, n_steps: Value) -> None:
    """Run some of the states through a chunk and add their share to y."""
    e, block = chunk.e, chunk.block
    h = {n: Variable(e.load(block.kept_state(number, n))) for n in states}
    with e.loop(n_steps) as i:
        B, C = chunk.B.at(first + i), chunk.C.at(first + i)
        dt, dt_u = chunk.dt.get(i), chunk.dt_u.get(i)
        y = [e.number(0.0), e.number(0.0)] if states.start == 0 else [chunk.y.get(i), e.number(0.0)]
        for n in states:
            decay = exp2_of_product(e, dt, chunk.A[n])
            h[n].set(e.fma(decay, h[n].get(), dt_u * e.load_spread(e.offset(B, n))))
            y[n % 2] = e.fma(h[n].get(), e.load_spread(e.offset(C, n)), y[n % 2])
        chunk.y.set(i, total(y))
    for n in states:
        e.store(h[n].get(), block.kept_state(number + 1, n))
