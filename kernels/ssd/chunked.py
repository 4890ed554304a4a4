"""State space duality by matrix products over chunks of time, in plain PyTorch.

Within a chunk the output is a masked product like attention's, with decays for a softmax; a chunk's
share of the state, and the output from the state entering it, are products too. Chunks are taken a
block at a time, so that memory is one block's and not L times the chunk size; the backward keeps
the inputs and the state entering each block, and remakes the rest. README.md has the equations.

Shape letters: B batch, L seq_len, H heads, P d_head, G groups, N states; W = H / G heads of a
group; inside a block K chunks of Q steps. Capital A, B, C, D are tensors.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from dnamamba.kernels.operands import compute_dtype
from dnamamba.kernels.ssd import reference
from dnamamba.kernels.ssd.reference import (
    DualityOperands,
    DualityOptions,
    find_step_sizes,
    spread_skip,
)

LONGEST_CHUNK = 64
"""Longer chunks are cut to this: on a CPU 64 steps took half the time of 256 (d_head 64, 64 or 128
states), as the squares of decays cost more than the states that they save."""

BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Entries of the largest tensor that is made: the decays (B, K, H, Q, Q) of a block."""


def state_space_duality(
    operands: DualityOperands, initial_state: Tensor | None, options: DualityOptions
) -> tuple[Tensor, Tensor]:
    """(out, last state) chunk by chunk, any device."""
    x = operands.x
    if x.shape[1] == 1:
        # A step of generation: there is nothing to multiply.
        return reference.state_space_duality(operands, initial_state, options)
    if initial_state is None:
        shape = (x.shape[0], *x.shape[2:], operands.B.shape[3])
        initial_state = x.new_zeros(shape, dtype=compute_dtype(x))
    out, last_state = _ChunkedDuality.apply(options, *operands, initial_state)
    return out, last_state


class _Block(NamedTuple):
    start: int
    stop: int
    chunk_size: int  # divides its length


def plan_blocks(seq_len: int, chunk_size: int, widest: int) -> list[_Block]:
    """Cut time into blocks of up to `widest` whole chunks, and a shorter chunk for the rest."""
    # As many chunks as a chunk has steps at most: chunks too meet each other in a square of decays.
    length = chunk_size * max(1, min(widest, chunk_size))
    whole = seq_len - seq_len % chunk_size
    blocks = [_Block(t, min(t + length, whole), chunk_size) for t in range(0, whole, length)]
    return blocks if whole == seq_len else [*blocks, _Block(whole, seq_len, seq_len - whole)]


def _at(operands: DualityOperands, block: _Block) -> DualityOperands:
    """Return views of one block."""
    x, dt, A, B, C, D, dt_bias = operands
    part = slice(block.start, block.stop)
    return DualityOperands(x[:, part], dt[:, part], A, B[:, part], C[:, part], D, dt_bias)


class _ChunkedDuality(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: DualityOptions, *tensors: Any) -> tuple[Tensor, Tensor]:
        inputs, initial_state = DualityOperands(*tensors[:-1]), tensors[-1]
        state = initial_state.to(compute_dtype(inputs.x), copy=True)
        batch, seq_len, heads, _ = inputs.x.shape
        most = BLOCK_ELEMENTS.get(inputs.x.device.type, BLOCK_ELEMENTS["cuda"])
        chunk_size = min(options.chunk_size, LONGEST_CHUNK)
        widest = most // (batch * heads * chunk_size**2)
        blocks = plan_blocks(seq_len, chunk_size, widest)
        out, entering = torch.empty_like(inputs.x, memory_format=torch.contiguous_format), []
        for block in blocks:
            entering.append(state)
            y, after = _run_block(_at(inputs, block), state, block.chunk_size, options)
            state = after.clone()  # or it would keep those of all the block's chunks
            out[:, block.start : block.stop] = y
        ctx.save_for_backward(*inputs, *entering)
        ctx.blocks, ctx.options, ctx.state_dtype = blocks, options, initial_state.dtype
        return out, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        n_inputs = len(DualityOperands._fields)
        inputs, entering = DualityOperands(*saved[:n_inputs]), saved[n_inputs:]
        gradients = _blank_gradients(inputs)
        for block, state in zip(reversed(ctx.blocks), reversed(entering), strict=True):
            part = d_out[:, block.start : block.stop]
            d_state = _backward_block(inputs, gradients, state, (part, d_state), block, ctx.options)
        found = (
            None if given is None or gradient is None else gradient.to(given.dtype)
            for given, gradient in zip(inputs, gradients, strict=True)
        )
        return (None, *found, d_state.to(ctx.state_dtype))


_SUMMED = ("A", "D", "dt_bias")
"""Operands that do not change over time: their gradients are sums over blocks."""


def _blank_gradients(inputs: DualityOperands) -> DualityOperands:
    """Reserve gradients: zeros for sums, else empty."""

    def blank(name: str, x: Tensor | None) -> Tensor | None:
        if x is None or name not in _SUMMED:
            return None if x is None else torch.empty_like(x)
        return torch.zeros_like(x, dtype=compute_dtype(inputs.x))

    blanks: Any = {name: blank(name, x) for name, x in inputs._asdict().items()}
    return DualityOperands(**blanks)


def _backward_block(
    inputs: DualityOperands, gradients: DualityOperands, state: Tensor, outer: tuple[Tensor,
    Tensor], block: _Block, options: DualityOptions,
) -> Tensor:  # fmt: skip
    """Run a block again and back; write and add to `gradients`.

    state: enters the block. outer: the gradients of the block's output and of the state after it.
    Returns the gradient of `state`.
    """
    leaves: list[Any] = [None if x is None else x.detach() for x in (*_at(inputs, block), state)]
    wanted = [x for x in leaves if x is not None]
    with torch.enable_grad():
        for leaf in wanted:
            leaf.requires_grad_()
        operands = DualityOperands(*leaves[:-1])
        results = _run_block(operands, leaves[-1], block.chunk_size, options)
        found = iter(torch.autograd.grad(results, wanted, outer))
    for name, target in _at(gradients, block)._asdict().items():
        if target is not None and name in _SUMMED:
            target += next(found)
        elif target is not None:
            target.copy_(next(found))
    return next(found)


def _run_block(
    inputs: DualityOperands, state: Tensor, chunk_size: int, options: DualityOptions
) -> tuple[Tensor, Tensor]:
    """Return the output (B, K Q, H, P), in x's dtype, and the state after a block."""
    dtype, groups = state.dtype, inputs.B.shape[2]
    wide = inputs.x.to(dtype)
    dt = find_step_sizes(inputs, options, dtype)
    sums = _sum_exponents(dt, inputs.A, chunk_size, groups)
    u = _by_chunk(wide * dt.unsqueeze(-1), chunk_size, groups)  # (B, K, G, W, Q, P)
    # (B, K, G, Q, N)
    B, C = (
        x.to(dtype).unflatten(1, (-1, chunk_size)).transpose(2, 3) for x in (inputs.B, inputs.C)
    )

    # What each chunk adds to the state by its end, and the states entering chunks.
    to_end = torch.exp(sums[..., -1:] - sums).to(dtype)
    added = torch.einsum("bkgwqp,bkgqn->bkgwpn", u * to_end.unsqueeze(-1), B)
    entering, state = _pass_states(state.unflatten(1, (groups, -1)), added, sums[..., -1])

    scores = (C @ B.mT).unsqueeze(3)  # (B, K, G, 1, Q, Q)
    y = (scores * _find_decays(sums, dtype)) @ u
    from_start = torch.exp(sums).to(dtype).unsqueeze(-1)
    y = y + from_start * torch.einsum("bkgqn,bkgwpn->bkgwqp", C, entering)
    y = y.movedim(4, 2).flatten(3, 4).flatten(1, 2)
    if inputs.D is not None:
        y = y + spread_skip(inputs.D.to(dtype)) * wide
    return y.to(inputs.x.dtype), state.flatten(1, 2)


def _by_chunk(x: Tensor, chunk_size: int, groups: int) -> Tensor:
    """Turn (B, K Q, H, ...) into (B, K, G, W, Q, ...)."""
    x = x.unflatten(1, (-1, chunk_size)).unflatten(3, (groups, -1))
    return x.movedim(2, 4)


def _sum_exponents(dt: Tensor, A: Tensor, chunk_size: int, groups: int) -> Tensor:
    """Return the exponents of decay from a chunk's start through each step (B, K, G, W, Q).

    In float64, as a segment's exponent is a difference of two. Sums in float32 took as long on a
    CPU, with ten times the error on ordinary operands and 6e-4 rather than 1e-6 after a step that
    forgets everything.
    """
    return _by_chunk(dt.double() * A.double(), chunk_size, groups).cumsum(-1)


def _find_decays(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp(sums_i - sums_j) for i >= j, otherwise 0: (..., Q) to (..., Q, Q)."""
    exponents = (sums.unsqueeze(-1) - sums.unsqueeze(-2)).to(dtype)
    future = torch.ones(exponents.shape[-2:], dtype=torch.bool, device=sums.device).triu(1)
    # Before exp: above the diagonal exponents are positive, and inf times 0 would be NaN.
    return exponents.masked_fill(future, -torch.inf).exp()


def _pass_states(state: Tensor, added: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Pass states over the chunks of a block by one product with the decays between chunks.

    state: enters the block (B, G, W, P, N). added: by each chunk (B, K, G, W, P, N). totals:
    exponents of a whole chunk's decay (B, K, G, W).
    Returns the states entering each chunk, as `added`, and the state after the last.
    """
    sums = pad(totals.movedim(1, -1).cumsum(-1), (1, 0))
    decays = _find_decays(sums, state.dtype)  # (B, G, W, K + 1, K + 1)
    parts = torch.cat([state.unsqueeze(1), added], 1)
    states = torch.einsum("bgwij,bjgwpn->bigwpn", decays, parts)
    return states[:, :-1], states[:, -1]
