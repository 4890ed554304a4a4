"""Which bases masked language modelling hides: BERT's rule, as a pure function of the sample.

A code has room for it: the token in bits 0 to 3, what the model is shown instead in bits 4 to 6,
the soft-mask in bit 7. So bases are hidden where a window is read, by any worker of any rank, and
alike after a restart; pretraining/objectives.py takes the two apart.

Source: Devlin et al. 2018 (arXiv 1810.04805), section 3.1.
"""

import numpy as np

from dnamamba.data.hashing import hash_u64
from dnamamba.tokenizer import SHOWN_SHIFT, Codes, Shown, is_base

HIDDEN_SHARE = 0.15
"""Of the bases: those that are predicted."""

_AS_MASK, _AS_RANDOM = 0.8, 0.1
"""Of those: shown as [MASK], as any of A, C, G and T. The others are shown as they are."""

_STEPS = 1 << 24


def hide_bases(codes: Codes, key: int) -> Codes:
    """Codes (L,) with the bases to predict marked; N, ambiguity and padding are never among them.

    key: what the choice depends on, 64 bits.
    """
    drawn = hash_u64(np.arange(codes.shape[0]), key)
    place = (drawn >> np.uint64(40)).astype(np.int64)  # uniform below _STEPS
    of_hidden = [_AS_MASK, _AS_MASK + _AS_RANDOM, 1.0]
    limits = [round(HIDDEN_SHARE * share * _STEPS) for share in of_hidden]
    random_base = Shown.A + (drawn & np.uint64(3)).astype(np.uint8)
    shown = np.select(
        [place < limits[0], place < limits[1], place < limits[2]],
        [np.uint8(Shown.MASK), random_base, np.uint8(Shown.ITSELF)],
        np.uint8(Shown.NOT_HIDDEN),
    )
    shown[~is_base(codes)] = Shown.NOT_HIDDEN
    return codes | (shown.astype(np.uint8) << np.uint8(SHOWN_SHIFT))
