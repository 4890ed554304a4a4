"""The fused scan's backward kernel, written as LLVM IR. README.md derives what it computes.

Chunk after chunk from the last: `prepare` does what needs no state, then for a range of states at a
time `remake` makes them from the one kept and `walk_back` goes back through them, and `finish`
writes the gradients of the chunk's steps. Capital A, B, C, D are tensors.
"""

from collections.abc import Callable

from dnamamba.kernels.codegen.emitter import POINTER, Emitter, Value, Variable
from dnamamba.kernels.codegen.functions import (
    LN_2,
    exp2_of_product,
    sigmoid,
    sums_over_lanes,
    total,
)
from dnamamba.kernels.codegen.launch import N_TASKS, NEXT_TASK
from dnamamba.kernels.codegen.tensors import Rows, Scratch, per_step, prefetch
from dnamamba.kernels.scan.cpu_forward import (
    CHUNK,
    GEOMETRY,
    INPUTS,
    Block,
    Chunk,
    Variant,
    chunk_steps,
)

BACKWARD_ARGUMENTS = [
    *(*GEOMETRY, *INPUTS, *per_step("d_out", "d_u", "d_delta", "d_z", "d_B", "d_C")),
    *("d_B_group", "d_C_group", "d_B_part", "d_C_part"),
    *("d_last", "d_last_batch", "d_initial", "d_A", "d_D", "d_delta_bias"),
]


_Sink = Callable[[range, Value, list[Value]], None]
"""Takes a range's products of one step, whose sums over channels are gradients of B or C."""


class _BackwardChunk(Chunk):
    """A chunk's passes back through time."""

    def __init__(self, e: Emitter, v: Variant) -> None:
        super().__init__(e, v)
        self.dy, self.d_dt_u, self.d_decay = (Scratch(e, CHUNK) for _ in range(3))
        self.width = len(v.state_groups(registers_per_state=2)[0])
        self.decay, self.decayed = (Scratch(e, CHUNK * self.width) for _ in range(2))
        self.d_state, self.d_A = (Scratch(e, v.d_state) for _ in range(2))
        self.d_D, self.d_bias = Scratch(e, 1), Scratch(e, 1)

    def enter(self, block: Block) -> None:
        super().enter(block)
        e = self.e
        self.d_out = block.rows("d_out")
        self.d_u, self.d_delta = block.rows("d_u"), block.rows("d_delta")
        self.d_z = block.rows("d_z") if self.v.has_z else None
        for n in range(self.v.d_state):
            address = e.offset(block.row_of("d_last", n), block.batch * e.argument("d_last_batch"))
            self.d_state.set(n, block.load(address))
            self.d_A.set(n, e.number(0.0))
        self.d_D.set(0, e.number(0.0))
        self.d_bias.set(0, e.number(0.0))

    def streams(self) -> list[Rows | None]:
        return [*super().streams(), self.d_out, self.d_u, self.d_delta, self.d_z]

    def prepare(self, i: Value, step: Value) -> None:
        """Also write the gradient of y, through the gate."""
        super().prepare(i, step)
        dy = self.block.load(self.d_out.at(step))
        if self.z is not None:
            z = self.block.load(self.z.at(step))
            dy = dy * (z * sigmoid(self.e, z))
        self.dy.set(i, dy)

    def remake(
        self, states: range, number: Value, first: Value, n_steps: Value, d_C: _Sink
    ) -> None:
        """Remake a range of states, with their share of y and d_C."""
        e, block = self.e, self.block
        h = {n: Variable(e.load(block.kept_state(number, n))) for n in states}
        with e.loop(n_steps) as i:
            B, C = self.B.at(first + i), self.C.at(first + i)
            dt, dt_u, dy = self.dt.get(i), self.dt_u.get(i), self.dy.get(i)
            y, products = [], []
            for n in states:
                slot = i * self.width + (n - states.start)
                decay = exp2_of_product(e, dt, self.A[n])
                decayed = decay * h[n].get()
                h[n].set(e.fma(dt_u, e.load_spread(e.offset(B, n)), decayed))
                self.decay.set(slot, decay)
                self.decayed.set(slot, decayed)
                y.append(h[n].get() * e.load_spread(e.offset(C, n)))
                products.append(h[n].get() * dy)
            self._add(self.y, i, total(y), states)
            d_C(states, first + i, products)

    def walk_back(self, states: range, first: Value, n_steps: Value, d_B: _Sink) -> None:
        """Find the gradient of a range of states, last step to first, and all it leads to."""
        e = self.e
        g = {n: Variable(self.d_state.get(n)) for n in states}
        d_A = {n: Variable(e.number(0.0)) for n in states}
        with e.loop(n_steps, backwards=True) as i:
            B, C = self.B.at(first + i), self.C.at(first + i)
            dt, dt_u, dy = self.dt.get(i), self.dt_u.get(i), self.dy.get(i)
            d_dt_u, d_decay, products = [], [], []
            for n in states:
                slot = i * self.width + (n - states.start)
                d_state = e.fma(dy, e.load_spread(e.offset(C, n)), g[n].get())
                g[n].set(d_state * self.decay.get(slot))
                d_product = d_state * self.decayed.get(slot)  # the gradient of dt A
                d_A[n].set(e.fma(dt, d_product, d_A[n].get()))
                d_dt_u.append(d_state * e.load_spread(e.offset(B, n)))
                d_decay.append(d_product * self.A[n])
                products.append(d_state * dt_u)
            self._add(self.d_dt_u, i, total(d_dt_u), states)
            self._add(self.d_decay, i, total(d_decay), states)
            d_B(states, first + i, products)
        for n in states:
            self.d_state.set(n, g[n].get())
            # Sum over each chunk, then over chunks: 100,000 terms lose no more digits than 300.
            self.d_A.set(n, self.d_A.get(n) + d_A[n].get())

    def _add(self, sums: Scratch, i: Value, share: Value, states: range) -> None:
        sums.set(i, share if states.start == 0 else sums.get(i) + share)

    def finish(self, i: Value, step: Value) -> None:
        """Write one step's gradients of u, delta and z; add to D's and the bias's."""
        e, block = self.e, self.block
        u, dy, d_dt_u = block.load(self.u.at(step)), self.dy.get(i), self.d_dt_u.get(i)
        if self.z is not None and self.d_z is not None:
            z = block.load(self.z.at(step))
            gate, y = sigmoid(e, z), self.y.get(i)
            if self.v.has_D:
                y = e.fma(self.D, u, y)
            # silu'(z) = s + z s (1 - s)
            slope = e.fma(z * gate, 1.0 - gate, gate)
            block.store(block.load(self.d_out.at(step)) * y * slope, self.d_z.at(step))
        d_u = d_dt_u * self.dt.get(i)
        if self.v.has_D:
            d_u = e.fma(self.D, dy, d_u)
            self.d_D.set(0, e.fma(dy, u, self.d_D.get(0)))
        block.store(d_u, self.d_u.at(step))
        d_dt = e.fma(d_dt_u, u, self.d_decay.get(i) * LN_2)
        if self.v.has_softplus:
            d_dt = d_dt * self.slope.get(i)
        block.store(d_dt, self.d_delta.at(step))
        if self.v.has_bias:
            self.d_bias.set(0, self.d_bias.get(0) + d_dt)

    def leave(self) -> None:
        """Write what was summed over time."""
        block, batch = self.block, self.block.batch
        for n in range(self.v.d_state):
            row = batch * self.v.d_state + n
            block.store(self.d_state.get(n), block.row_of("d_initial", row))
            block.store(self.d_A.get(n), block.row_of("d_A", row))
        if self.v.has_D:
            block.store(self.d_D.get(0), block.row_of("d_D", batch))
        if self.v.has_bias:
            block.store(self.d_bias.get(0), block.row_of("d_delta_bias", batch))


class _WeightGradient:
    """d_B or d_C: adds the channels of a task's blocks up in the same memory."""

    def __init__(self, block: Block, name: str, part: Value, is_first: Value) -> None:
        e = self._e = block.e
        column = block.group * e.argument(f"{name}_group") + part * e.argument(f"{name}_part")
        self._rows, self._is_first = Rows(e, name, block.batch, column), is_first

    def __call__(self, states: range, step: Value, products: list[Value]) -> None:
        e = self._e
        sums = sums_over_lanes(e, products)
        address = e.offset(self._rows.at(step), states.start)
        before = e.load(address, sums.kind)
        nothing = e.constant(sums.kind, 0.0)
        e.store(sums + e.select(self._is_first, nothing, before), address)


def write_backward(v: Variant) -> Emitter:
    """Write the kernel of all gradients. A task is a part of one group's blocks, in turn."""
    e = Emitter("scan_backward", v.lanes, BACKWARD_ARGUMENTS)
    chunk = _BackwardChunk(e, v)
    with e.tasks(e.argument(NEXT_TASK, POINTER), e.argument(N_TASKS)) as task:
        group_blocks, n_parts = e.argument("group_blocks"), e.argument("n_parts")
        n_groups = e.argument("n_channels") // e.argument("group_width")
        entry = task // n_parts
        part, batch = task - entry * n_parts, entry // n_groups
        start = part * e.argument("part_blocks")
        rest, most = group_blocks - start, e.argument("part_blocks")
        with e.loop(e.select(e.is_less(rest, most), rest, most)) as j:
            block = Block(e, v, batch, entry - batch * n_groups, start + j)
            chunk.enter(block)
            is_first = e.is_less(j, 1)
            d_B, d_C = (_WeightGradient(block, name, part, is_first) for name in ("d_B", "d_C"))
            with e.loop(e.argument("n_chunks"), backwards=True) as number:
                first, n_steps = chunk_steps(e, number)
                with e.loop(n_steps) as i:
                    prefetch(chunk.streams(), first + i - CHUNK)
                    chunk.prepare(i, first + i)
                for states in v.state_groups(registers_per_state=2):
                    chunk.remake(states, number, first, n_steps, d_C)
                    chunk.walk_back(states, first, n_steps, d_B)
                with e.loop(n_steps) as i:
                    chunk.finish(i, first + i)
            chunk.leave()
    return e
