"""The DNA vocabulary: ids, encoding, decoding and complement, by lookup table on bytes.

Ids are HyenaDNA's (hyena-dna, src/dataloaders/datasets/hg38_char_tokenizer.py), so its models and
their relatives read our tokens. A base is one byte, a *code*: the token id in the low four bits,
the soft-mask (lower case in the FASTA) in the highest, and between them what a masked language
model is shown (data/masking.py).

Encoding reads both cases, U as T, and IUPAC ambiguity letters as N. Other letters become [UNK],
which counts as N: never a target of the loss. `dnamamba data info` shows how many there are.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]

SOFT_MASK_BIT = 0x80
TOKEN_MASK = 0x0F
SHOWN_SHIFT, SHOWN_MASK = 4, 0x7


class Shown(IntEnum):
    """What a masked language model reads at a position, in a code's bits from SHOWN_SHIFT on."""

    NOT_HIDDEN = 0
    """The token, without predicting it."""

    ITSELF = 1
    """The token, which it predicts; likewise below."""

    MASK = 2
    A = 3
    C = 4
    G = 5
    T = 6


@dataclass(frozen=True)
class Vocabulary:
    """Token names; `tokens[i]` has id i. padded_size: rows of an embedding."""

    tokens: tuple[str, ...]
    padded_size: int

    @property
    def size(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        return self.tokens.index(token)

    @property
    def base_ids(self) -> tuple[int, int, int, int]:
        """Ids of A, C, G and T, the only targets."""
        a, c, g, t = (self.id(base) for base in "ACGT")
        return a, c, g, t


VOCABULARY = Vocabulary(
    ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N"),
    padded_size=16,
)
MASK_ID = VOCABULARY.id("[MASK]")
PAD_ID = VOCABULARY.id("[PAD]")
UNK_ID = VOCABULARY.id("[UNK]")
N_ID = VOCABULARY.id("N")
FIRST_BASE_ID, _, _, LAST_BASE_ID = VOCABULARY.base_ids

IUPAC_AMBIGUOUS = "RYSWKMBDHVN"
GAPS = "-.*"


def _encode_table() -> Codes:
    table = np.full(256, UNK_ID, np.uint8)
    letters = {**dict(zip("ACGT", VOCABULARY.base_ids, strict=True)), "U": VOCABULARY.id("T")}
    letters |= dict.fromkeys(IUPAC_AMBIGUOUS, N_ID)
    for letter, token in letters.items():
        table[ord(letter)] = token
        table[ord(letter.lower())] = token | SOFT_MASK_BIT
    for gap in GAPS:
        table[ord(gap)] = N_ID
    return table


def _complement_table() -> Codes:
    table = np.arange(256, dtype=np.uint8)
    a, c, g, t = VOCABULARY.base_ids
    for one, other in ((a, t), (c, g), (g, c), (t, a)):
        table[one] = other
        table[one | SOFT_MASK_BIT] = other | SOFT_MASK_BIT
    return table


def _decode_table() -> Codes:
    table = np.full(256, ord("?"), np.uint8)
    for token, name in enumerate(VOCABULARY.tokens):
        letter = name if len(name) == 1 else "N" if token == UNK_ID else "-"
        table[token] = ord(letter)
        table[token | SOFT_MASK_BIT] = ord(letter.lower())
    return table


ENCODE_TABLE = _encode_table()
COMPLEMENT_TABLE = _complement_table()
_DECODE_TABLE = _decode_table()


def _translate(raw: bytes | bytearray, table: Codes) -> Codes:
    # bytes.translate: 1.3 G bases/s here, four times numpy's table[codes].
    return np.frombuffer(bytearray(raw).translate(table.tobytes()), np.uint8)


def encode(sequence: str | bytes | bytearray) -> Codes:
    """Letters to codes (L,) uint8: token ids with the soft-mask in the highest bit.

    Letters that are not DNA become [UNK]; `tokenize` refuses them, and gives ids without the
    soft-mask, as models take them.

        encode("ACgtN")    # [7, 8, 137, 138, 11]
    """
    raw = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    return _translate(raw, ENCODE_TABLE)


def decode(codes: Codes) -> str:
    """Codes or token ids, any integers (L,), to letters; soft-masked bases in lower case.

    N, ambiguous and unknown letters come back as N; padding and other special tokens as `-`.

        decode(encode("ACgtR"))    # "ACgtN"
    """
    return _DECODE_TABLE[np.asarray(codes).astype(np.uint8)].tobytes().decode("ascii")


def reverse_complement(codes: Codes) -> Codes:
    """The other strand of codes or token ids (..., L) uint8, read from its own 5' end.

    N, padding and special tokens keep their id; the soft-mask moves with its base. Padding on one
    side comes out on the other.

        decode(reverse_complement(encode("AACg")))    # "cGTT"
    """
    codes = np.asarray(codes, np.uint8)
    return _translate(codes[..., ::-1].tobytes(), COMPLEMENT_TABLE).reshape(codes.shape)


def token_ids(codes: Codes) -> Codes:
    """Return the token ids of codes, uint8."""
    return codes & np.uint8(TOKEN_MASK)


def is_soft_masked(codes: Codes) -> NDArray[np.bool_]:
    """Mark bases that were lower case."""
    return (codes & SOFT_MASK_BIT) != 0


def is_base(codes: Codes) -> NDArray[np.bool_]:
    """Mark A, C, G and T of either case: the positions that count in a loss."""
    ids = token_ids(codes)
    return (ids >= FIRST_BASE_ID) & (ids <= LAST_BASE_ID)
