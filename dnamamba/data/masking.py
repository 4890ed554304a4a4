"""BERT's masking for masked language models, as a pure function of the sample.

A code has room for it: the token in bits 0 to 3, what the model is shown instead in bits 4 to 6,
the soft-mask in bit 7. Bases are marked when a window is read, by any worker of any rank, and alike
after a restart; pretraining/objectives.py takes the parts of a code apart.

Source: Devlin et al. 2018 (arXiv 1810.04805), section 3.1.
"""

import numpy as np

from dnamamba.data.hashing import hash_u64
from dnamamba.tokenizer import SHOWN_SHIFT, Codes, Shown, is_base

MASKED_SHARE = 0.15
"""Share of the bases that are predicted."""

_AS_MASK, _AS_RANDOM = 0.8, 0.1
"""Shares of those: shown as [MASK], as a random base. The rest is shown unchanged."""

_STEPS = 1 << 24


def mask_bases(codes: Codes, key: int) -> Codes:
    """Codes (L,) with the bases to predict marked; never N, ambiguity letters or padding.

    key: 64 bits that decide the choice.
    """
    drawn = hash_u64(np.arange(codes.shape[0]), key)
    level = (drawn >> np.uint64(40)).astype(np.int64)  # uniform below _STEPS
    shares = [_AS_MASK, _AS_MASK + _AS_RANDOM, 1.0]
    limits = [round(MASKED_SHARE * share * _STEPS) for share in shares]
    random_base = Shown.A + (drawn & np.uint64(3)).astype(np.uint8)
    shown = np.select(
        [level < limits[0], level < limits[1], level < limits[2]],
        [np.uint8(Shown.MASK), random_base, np.uint8(Shown.ITSELF)],
        np.uint8(Shown.NOT_HIDDEN),
    )
    shown[~is_base(codes)] = Shown.NOT_HIDDEN
    return codes | (shown.astype(np.uint8) << np.uint8(SHOWN_SHIFT))
