"""Changes to training sequences that should not change what a model says of them.

Which ones is a pure function of a key, so that a stream of samples resumes exactly.
"""

from collections.abc import Iterable

import numpy as np

from dnamamba.data.hashing import hash_u64
from dnamamba.errors import InputError
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID, TOKEN_MASK, Codes, is_base

_PLACE, _BASE = 1, 2
_N_BASES = LAST_BASE_ID - FIRST_BASE_ID + 1


def check_mutation_rate(rate: float) -> None:
    """Raises InputError for what is no rate of `substitute`."""
    if not 0 <= rate <= 0.5:
        raise InputError(
            f"mutation_rate is the share of bases that are changed, 0 to 0.5, got {rate}"
        )


def substitute_each(rows: Iterable[Codes], rate: float, keys: Iterable[int]) -> None:
    """`substitute` in each of some sequences, by a key of its own."""
    if rate:
        for codes, key in zip(rows, keys, strict=True):
            substitute(codes, rate, key)


def substitute(codes: Codes, rate: float, key: int) -> None:
    """Put other bases in the place of some, in one sequence, in place.

    A model that is trained on few genomes learns them by heart, down to what one individual alone
    has; what survives changes like those between individuals is what others share. (Lee et al.
    2023, EvoAug, Genome Biology 24:105, have this among their augmentations.)

    codes: (L,) uint8. rate: of L the share of draws, rounded up or down by a coin; a base that is
    drawn becomes each of the three others alike, N and other letters stay. key: decides all of it.
    """
    length = len(codes)
    wanted = rate * length
    n = int(wanted)
    n += bool(hash_u64(np.array([n]), key)[0] < (wanted - n) * 2.0**64)
    draws = np.arange(n)
    places = (hash_u64(draws, key, _PLACE) % np.uint64(max(length, 1))).astype(np.int64)
    places = np.unique(places[is_base(codes[places])])
    shifts = 1 + (hash_u64(places, key, _BASE) % np.uint64(_N_BASES - 1)).astype(np.uint8)
    old = codes[places]
    bases = ((old & TOKEN_MASK) - FIRST_BASE_ID + shifts) % _N_BASES + FIRST_BASE_ID
    codes[places] = (old & ~np.uint8(TOKEN_MASK)) | bases
