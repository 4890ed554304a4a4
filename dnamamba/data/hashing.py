"""Random numbers without state: hashes and permutations as pure functions of their arguments.

Any process finds sample i of epoch e without drawing samples 0 to i - 1.
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


def hash_u64(values: NDArray[np.integer], *keys: int) -> U64:
    """Mix 64-bit integers with keys into uniform 64-bit ones (splitmix64's finaliser)."""
    # Mixed before the first key: else value i under seed s is value i + 1 under s - 1.
    mixed = _mix(np.atleast_1d(np.asarray(values)).astype(np.uint64))
    for key in keys:
        mixed = _mix(mixed + np.uint64(key & 0xFFFFFFFFFFFFFFFF))
    return mixed


def _mix(x: U64) -> U64:
    # Constants of splitmix64 (Steele, Lea and Flood 2014); multiplication wraps on purpose.
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(i: NDArray[np.integer], n: int, *keys: int) -> NDArray[np.int64]:
    """Map indices i by the permutation of range(n) that the keys choose, without a table.

    A Feistel network over the next even number of bits, repeated until it lands inside range(n)
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    x = np.atleast_1d(np.asarray(i)).astype(np.uint64)
    assert (x < n).all(), "permute: index outside the range"
    x = _feistel(x, half, keys)
    while (outside := x >= n).any():
        x[outside] = _feistel(x[outside], half, keys)
    return x.astype(np.int64)


def _feistel(x: U64, half: int, keys: tuple[int, ...]) -> U64:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = x >> shift, x & mask
    for round_number in range(6):
        left, right = right, left ^ (hash_u64(right, *keys, round_number) & mask)
    return (left << shift) | right
