"""Random substitutions in training sequences, a pure function of a key: streams resume exactly."""

from collections.abc import Iterable

import numpy as np

from dnamamba.configs import require_range
from dnamamba.data.hashing import hash_u64
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID, TOKEN_MASK, Codes, is_base

_POSITION, _BASE = 1, 2
_N_BASES = LAST_BASE_ID - FIRST_BASE_ID + 1


def check_mutation_rate(rate: float) -> None:
    """Raise InputError for a rate that `substitute` does not take."""
    require_range("mutation_rate", rate, 0, 0.5, "of the bases")


def substitute_rows(rows: Iterable[Codes], rate: float, keys: Iterable[int]) -> None:
    """`substitute` in each sequence, by a key of its own."""
    if rate:
        for codes, key in zip(rows, keys, strict=True):
            substitute(codes, rate, key)


def substitute(codes: Codes, rate: float, key: int) -> None:
    """Replace random bases of one sequence by others, in place.

    A model trained on few genomes memorises them, down to the variants of one individual; random
    substitutions leave what individuals share (EvoAug: Lee et al. 2023, Genome Biology 24:105).

    codes: (L,) uint8; N and other letters stay. rate: draws for each position, rounded to a whole
    number by a coin; a drawn base becomes each of the three others alike. key: decides everything.
    """
    length = len(codes)
    wanted = rate * length
    n = int(wanted)
    n += bool(hash_u64(np.array([n]), key)[0] < (wanted - n) * 2.0**64)
    draws = np.arange(n)
    positions = (hash_u64(draws, key, _POSITION) % np.uint64(max(length, 1))).astype(np.int64)
    positions = np.unique(positions[is_base(codes[positions])])
    shifts = 1 + (hash_u64(positions, key, _BASE) % np.uint64(_N_BASES - 1)).astype(np.uint8)
    old = codes[positions]
    bases = ((old & TOKEN_MASK) - FIRST_BASE_ID + shifts) % _N_BASES + FIRST_BASE_ID
    codes[positions] = (old & ~np.uint8(TOKEN_MASK)) | bases
