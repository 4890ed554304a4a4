"""The short causal convolution on CPUs: one pass over memory forward, one backward.

A task walks one block of channels of one batch entry through time, the inputs it still needs in
registers. Before the first step stand the K - 1 rows of the history. Shape letters as in op.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dnamamba.kernels.codegen.compiler import compile_kernel, find_host, why_no_host
from dnamamba.kernels.codegen.emitter import INT, POINTER, Emitter, Value, Variable
from dnamamba.kernels.codegen.functions import sigmoid
from dnamamba.kernels.codegen.launch import (
    N_TASKS,
    NEXT_TASK,
    Arguments,
    channels_last,
    launch,
    new_tensor,
    refuse_unseen,
)
from dnamamba.kernels.codegen.tensors import ChannelBlock, per_step, prefetch
from dnamamba.kernels.conv.reference import last_inputs

WIDEST = 8
"""More taps than this do not fit into registers."""

# Steps whose gradients of weight and bias are summed first: 100,000 terms in one go lose digits.
_SEGMENT = 64
# Rows ahead that are asked for: the time a cache line takes, at a few nanoseconds a row.
_AHEAD = 16


def refuse(x: Tensor, weight: Tensor) -> str | None:
    """Return why this backend cannot take these operands and what to do, or None if it can."""
    if (reason := refuse_unseen(x, weight)) is not None:
        return reason
    if torch.float64 in (x.dtype, weight.dtype):
        return "it computes in float32 and got float64; use backend='reference'"
    if weight.shape[1] > WIDEST:
        return (
            f"it takes up to {WIDEST} taps, weight has {weight.shape[1]}; use backend='reference'"
        )
    return why_no_host()


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None,
    initial_state: Tensor | None = None, return_last_state: bool = False, reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.causal_conv1d` in float32 and narrower."""
    tensors = (x, weight, bias, initial_state)
    # Autograd rounds the gradients back to the operands' dtypes.
    widened = [None if tensor is None else channels_last(tensor) for tensor in tensors]
    out = _CpuConv.apply(*widened, activation == "silu", reverse).to(x.dtype)
    if not return_last_state:
        return out
    # Only the last K - 1 inputs: flipping all of x would copy it.
    n_last = weight.shape[1] - 1
    last = x[:, :n_last].flip(1) if reverse else x[:, max(0, x.shape[1] - n_last) :]
    return out, last_inputs(last, n_last, initial_state)


# Kernels.


@dataclass(frozen=True)
class Variant:
    """Constants of a kernel; everything else is an argument."""

    lanes: int
    d_conv: int
    has_bias: bool
    has_silu: bool


_INPUTS = [NEXT_TASK, N_TASKS, "seq_len", "n_channels", *per_step("x", "history"), "weight", "bias"]
FORWARD_ARGUMENTS = [*_INPUTS, *per_step("out")]
BACKWARD_ARGUMENTS = [*_INPUTS, *per_step("d_out", "d_x", "d_history"), "d_weight", "d_bias"]


class _Block(ChannelBlock):
    """Neighbouring channels of one batch entry: their taps and inputs."""

    def __init__(self, e: Emitter, v: Variant, task: Value) -> None:
        self.v = v
        channels = e.argument("n_channels")
        blocks = (channels + (e.lanes - 1)) // e.lanes
        batch = task // blocks
        channel = (task - batch * blocks) * e.lanes
        super().__init__(e, batch, channel, e.mask_of(channels - channel))
        last = v.d_conv - 1
        # By lag: the last tap is that of the current step.
        self.taps = [self.load(self.row_of("weight", last - lag)) for lag in range(v.d_conv)]
        self.bias = self.load(self.row_of("bias", 0)) if v.has_bias else e.number(0.0)
        self.x, self._history = self.rows("x"), self.rows("history")

    def row_of(self, name: str, row: Value | int) -> Value:
        row = row if isinstance(row, Value) else self.e.constant(INT, row)
        address = row * self.e.argument("n_channels") + self.channel
        return self.e.offset(self.e.argument(name, POINTER), address)

    def input_at(self, step: Value) -> Value:
        """Load x of a step; before step 0 that of the history."""
        before = self._history.at(step + (self.v.d_conv - 1))
        return self.load(self.e.select(self.e.is_less(step, 0), before, self.x.at(step)))

    def weighted_sum(self, inputs: list[Value]) -> Value:
        """Return the convolution before its activation, given x by lag."""
        result = self.bias
        for tap, value in zip(self.taps, inputs, strict=True):
            result = self.e.fma(tap, value, result)
        return result


class _Window:
    """The latest vectors of a series, newest first."""

    def __init__(self, vectors: list[Value]) -> None:
        self._slots = [Variable(vector) for vector in vectors]

    def get(self) -> list[Value]:
        return [slot.get() for slot in self._slots]

    def push(self, vector: Value) -> None:
        values = [vector, *self.get()]
        for slot, value in zip(self._slots, values, strict=False):
            slot.set(value)


@contextmanager
def _task_blocks(name: str, v: Variant, arguments: list[str]) -> Iterator[tuple[Emitter, _Block]]:
    e = Emitter(name, v.lanes, arguments)
    with e.tasks(e.argument(NEXT_TASK, POINTER), e.argument(N_TASKS)) as task:
        yield e, _Block(e, v, task)


def write_forward(v: Variant) -> Emitter:
    with _task_blocks("conv_forward", v, FORWARD_ARGUMENTS) as (e, block):
        out, lags = block.rows("out"), range(1, v.d_conv)
        earlier = _Window([block.input_at(e.constant(INT, -lag)) for lag in lags])
        with e.loop(e.argument("seq_len")) as step:
            prefetch([block.x, out], step + _AHEAD)
            now = block.load(block.x.at(step))
            y = block.weighted_sum([now, *earlier.get()])
            block.store(y * sigmoid(e, y) if v.has_silu else y, out.at(step))
            earlier.push(now)
    return e


def write_backward(v: Variant) -> Emitter:
    """Walk from the last step to the first, and on into the history."""
    with _task_blocks("conv_backward", v, BACKWARD_ARGUMENTS) as (e, block):
        walk = _WalkBack(e, v, block)
        seq_len = e.argument("seq_len")
        segments = (seq_len + (_SEGMENT - 1)) // _SEGMENT
        with e.loop(segments, backwards=True) as segment:
            first = segment * _SEGMENT
            rest = seq_len - first
            with e.loop(e.minimum(rest, _SEGMENT), backwards=True) as i:
                walk.step(first + i)
            walk.add_up()
        walk.enter_history()
        walk.write_sums()
    return e


class _WalkBack:
    """The backward pass over one block of channels."""

    def __init__(self, e: Emitter, v: Variant, block: _Block) -> None:
        self.e, self.v, self.block = e, v, block
        self.d_out, self.d_x = block.rows("d_out"), block.rows("d_x")
        last = e.argument("seq_len") - 1
        # x by lag but for the earliest, which the next step loads; d_sum of the steps after.
        self.x = [Variable(block.input_at(last - lag)) for lag in range(v.d_conv - 1)]
        zero = e.number(0.0)
        self.later = _Window([zero] * (v.d_conv - 1))
        # Gradients of each tap, by lag, and of the bias.
        self.sums, self.totals = ([Variable(zero) for _ in range(v.d_conv + 1)] for _ in range(2))

    def step(self, step: Value) -> None:
        e, v, block = self.e, self.v, self.block
        prefetch([block.x, self.d_out, self.d_x], step - _AHEAD)
        x = [*(slot.get() for slot in self.x), block.input_at(step - (v.d_conv - 1))]
        for slot, value in zip(self.x, x[1:], strict=True):
            slot.set(value)
        d_sum = block.load(self.d_out.at(step))
        if v.has_silu:
            y = block.weighted_sum(x)
            gate = sigmoid(e, y)
            d_sum = d_sum * e.fma(y * gate, 1.0 - gate, gate)
        for slot, value in zip(self.sums, [*x, e.number(1.0)], strict=True):
            slot.set(e.fma(d_sum, value, slot.get()))
        block.store(self._gradient(d_sum), self.d_x.at(step))
        self.later.push(d_sum)

    def _gradient(self, d_sum: Value) -> Value:
        """Return the gradient of a step's input, from that step's sum and those after."""
        result = self.block.taps[0] * d_sum
        for tap, later in zip(self.block.taps[1:], self.later.get(), strict=True):
            result = self.e.fma(tap, later, result)
        return result

    def add_up(self) -> None:
        for total, part in zip(self.totals, self.sums, strict=True):
            total.set(total.get() + part.get())
            part.set(self.e.number(0.0))

    def enter_history(self) -> None:
        """The steps before the first have inputs but no outputs."""
        e, rows = self.e, self.block.rows("d_history")
        for row in reversed(range(self.v.d_conv - 1)):
            self.block.store(self._gradient(e.number(0.0)), rows.at(e.constant(INT, row)))
            self.later.push(e.number(0.0))

    def write_sums(self) -> None:
        block, d_conv = self.block, self.v.d_conv
        for lag, total in enumerate(self.totals[:-1]):
            row = block.batch * d_conv + (d_conv - 1 - lag)
            block.store(total.get(), block.row_of("d_weight", row))
        block.store(self.totals[-1].get(), block.row_of("d_bias", block.batch))


# Launchers and autograd.


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor | None, reverse: bool
) -> Arguments:
    _, seq_len, channels = x.shape
    arguments = Arguments(reverse, seq_len=seq_len, n_channels=channels)
    arguments.add(weight=weight.t().contiguous(), bias=bias)
    arguments.add_rows(x=x)
    if history is None:
        zeros = torch.zeros(1, weight.shape[1] - 1, channels, dtype=torch.float32, device="cpu")
        history = zeros.expand(x.shape[0], -1, -1)
    arguments.add_rows(in_time=False, history=history)
    return arguments


class _CpuConv(torch.autograd.Function):
    """y from x, weight, bias, history, has_silu and reverse."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, bias, history, has_silu, reverse = args
        batch, _, channels = x.shape
        # Two vectors side by side: whole pairs of cache lines.
        lanes = find_host().lanes * (2 if channels > find_host().lanes else 1)
        variant = Variant(lanes, weight.shape[1], bias is not None, has_silu)
        arguments = _arguments(x, weight, bias, history, reverse)
        out = new_tensor(*x.shape)
        arguments.add_rows(out=out)
        n_tasks = batch * -(-channels // lanes)
        launch(compile_kernel(write_forward, variant, find_host()), n_tasks, arguments)
        ctx.save_for_backward(x, weight, bias, history)
        ctx.variant, ctx.reverse, ctx.n_tasks = variant, reverse, n_tasks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, history = ctx.saved_tensors
        (batch, _, channels), d_conv = x.shape, weight.shape[1]
        arguments = _arguments(x, weight, bias, history, ctx.reverse)
        d_x, d_history = new_tensor(*x.shape), new_tensor(batch, d_conv - 1, channels)
        d_weight, d_bias = new_tensor(batch, d_conv, channels), new_tensor(batch, channels)
        arguments.add_rows(d_out=channels_last(d_out), d_x=d_x)
        arguments.add_rows(in_time=False, d_history=d_history)
        arguments.add(d_weight=d_weight, d_bias=d_bias)
        launch(compile_kernel(write_backward, ctx.variant, find_host()), ctx.n_tasks, arguments)
        return (
            d_x,
            d_weight.sum(0).t(),
            None if bias is None else d_bias.sum(0),
            None if history is None else d_history,
            *(None, None),
        )
