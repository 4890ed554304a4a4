"""A Triton kernel that does nothing but exponentials: how many a GPU makes in a second."""

import triton
import triton.language as tl

UNROLLED = 16


@triton.jit
def exp2_kernel(out, rounds, BLOCK: tl.constexpr, STEPS: tl.constexpr):
    """x <- 2^-x, `rounds` times STEPS times, for BLOCK numbers a program that start in [0, 1)."""
    lane = tl.arange(0, BLOCK)
    x = lane.to(tl.float32) / BLOCK
    for _ in range(rounds):
        for _ in tl.static_range(STEPS):
            # The sign keeps x near 0.64. An exponential occupies its unit for the time of eight
            # instructions, so there is room for it.
            x = tl.exp2(-x)
    tl.store(out + tl.program_id(0) * BLOCK + lane, x)
