"""exp2, softplus, sigmoid and sums over lanes, written with an `Emitter`.

Coefficients are minimax fits of relative error, found by iteratively reweighted least squares.
"""

from collections.abc import Sequence
from itertools import chain

from dnamamba.kernels.codegen.emitter import Emitter, Value

LOG2_E, LN_2 = 1.4426950408889634, 0.6931471805599453

# Added to a float, it rounds to a whole number in the lowest bits.
ROUNDER = 1.5 * 2**23
# exp2(x) = 1 + x q(x) on [-1/2, 1/2] within 9.1e-8; exactly 1 at 0, so that what hardly decays is
# not off by one rounding more at each of 100,000 steps.
EXP2 = (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957,
        0.001326472731307149)  # fmt: skip
# atanh(s) = s + s^3 q(s^2) on [0, 1/3] within 4.5e-9.
ATANH = (0.3333320915699005, 0.2001076489686966, 0.1400088667869568, 0.14006076753139496)
# Below this exp2 is 0: its result would not be a normal number.
LEAST_EXPONENT = -126.0


def exp2_of_product(e: Emitter, x: Value, y: Value) -> Value:
    """Write 2^(x y), for x y < 127.5; 0 below 2^-126."""
    shifted = e.fma(x, y, ROUNDER)
    whole = shifted - ROUNDER
    rest = e.fma(x, y, -whole)  # exact but for the rounding of the product, in [-1/2, 1/2]
    power = e.fma(polynomial(e, rest, EXP2), rest, 1.0)
    exponent = e.shift_left(e.as_bits(shifted), 23)
    scaled = e.as_floats(e.as_bits(power) + exponent)
    return e.select(e.is_less(whole, LEAST_EXPONENT), e.number(0.0), scaled)


def exp_of_negative(e: Emitter, x: Value) -> Value:
    """Write e^-x, at most e^87, as float32 does not hold much more."""
    return exp2_of_product(e, e.maximum(x, -87.0), e.number(-LOG2_E))


def sigmoid(e: Emitter, x: Value) -> Value:
    return e.number(1.0) / (exp_of_negative(e, x) + 1.0)


def softplus(e: Emitter, x: Value) -> tuple[Value, Value]:
    """Write log(1 + e^x), NaN for NaN, and its derivative."""
    size = e.maximum(-x, x)
    tail = exp_of_negative(e, size)  # e^-|x|, at most 1
    # log(1 + t) = 2 atanh(s), with s = t / (2 + t) at most 1/3: also exact where t is tiny.
    s = tail / (tail + 2.0)
    square = s * s
    log = e.fma(s * square, polynomial(e, square, ATANH), s) * 2.0
    inverse = e.number(1.0) / (tail + 1.0)
    is_negative = e.is_less(x, 0.0)
    derivative = e.select(is_negative, tail * inverse, inverse)
    return e.select(is_negative, log, x + log), derivative


def polynomial(e: Emitter, x: Value, coefficients: Sequence[float]) -> Value:
    """Write c0 + c1 x + c2 x^2 + ... from the highest power down."""
    result = e.number(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = e.fma(result, x, coefficient)
    return result


def total(values: Sequence[Value]) -> Value:
    """Add a few values pair by pair."""
    while len(values) > 1:
        pairs = [a + b for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + list(values[len(pairs) * 2 :])
    return values[0]


def sums_over_lanes(e: Emitter, vectors: Sequence[Value]) -> Value:
    """Sum up to `lanes` vectors over their lanes, into one vector of that many.

    Two vectors at a time are added into one with half-summed halves of both, in an order whose
    shuffles stay within 128 bits as long as possible: three instructions a vector, not eight.
    """
    n_sums, row = len(vectors), list(vectors)
    width = 1
    while width < e.lanes:
        even, odd = _halves(e.lanes, width)
        pairs = [(a, b) for a, b in zip(row[::2], [*row[1::2], row[-1]], strict=False)]
        row = [e.pick(a, b, even) + e.pick(a, b, odd) for a, b in pairs]
        width *= 2
    return e.pick(row[0], row[0], range(n_sums))


def _halves(lanes: int, width: int) -> tuple[list[int], list[int]]:
    """Return the lanes of the two parts to add in two vectors of sums of `width` values."""
    if width >= 4:
        quads = [range(4 * i, 4 * i + 4) for i in range(2 * lanes // 4)]
        return [*chain(*quads[::2])], [*chain(*quads[1::2])]
    # Within each 128 bits: the first halves of a and b, interleaved, and the second.
    pattern = (0, lanes, 1, lanes + 1) if width == 1 else (0, 1, lanes, lanes + 1)
    first = [start + lane for start in range(0, lanes, 4) for lane in pattern]
    return first, [lane + 2 for lane in first]
