"""Many short sequences packed into one array, checked as they come."""

import itertools
from collections import Counter
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnamamba.errors import InputError
from dnamamba.runtime import logger
from dnamamba.task import Where
from dnamamba.tokenizer import (
    ENCODE_TABLE,
    UNK_ID,
    Codes,
    encode,
    is_base,
    reverse_complement,
    token_ids,
)

Ints = NDArray[np.int64]

_HASHED_AT_ONCE = 1 << 24


class PackedSequences(NamedTuple):
    """Sequence i is codes[offsets[i] : offsets[i + 1]], upper case, one base or more."""

    codes: Codes
    offsets: Ints
    """(n + 1,), from 0 to len(codes)."""


class Packer:
    """Packs sequences block by block; InputError for empty ones and ones without A, C, G and T.

    Letters outside IUPAC become [UNK]; `finish` logs their number and the first origin.
    """

    def __init__(self) -> None:
        self._codes = bytearray()
        self._lengths: list[Ints] = []
        self._foreign: Counter[str] = Counter()
        self._first_foreign = ""

    def add(self, letters: bytes, lengths: Ints, where: Where) -> None:
        """Add sequences written one after the other, and their lengths."""
        codes = encode(letters)
        self.add_codes(codes, lengths, where)
        if (unknown := codes == UNK_ID).any():
            first = np.searchsorted(np.cumsum(lengths), unknown.argmax(), "right")
            foreign = np.frombuffer(letters, np.uint8)[unknown]
            self.note_letters(np.bincount(foreign, minlength=256), where(int(first)))

    def add_codes(self, codes: Codes, lengths: Ints, where: Where) -> None:
        """`add` for codes; drops their soft-mask."""
        if not len(lengths):
            return
        if (empty := lengths == 0).any():
            raise InputError(
                f"{where(int(empty.argmax()))}: the sequence is empty; leave such rows out"
            )
        starts = np.cumsum(lengths) - lengths
        has_base = np.logical_or.reduceat(is_base(codes), starts)
        if not has_base.all():
            i = int(has_base.argmin())
            raise InputError(
                f"{where(i)}: no A, C, G or T in its sequence of {int(lengths[i]):,} letters; "
                "leave such rows out, or name the column of sequences"
            )
        self._codes += token_ids(codes).tobytes()
        self._lengths.append(lengths)

    def add_one(self, codes: Codes, origin: str) -> None:
        """Add the codes of a single sequence."""
        self.add_codes(codes, np.array([len(codes)], np.int64), lambda _: origin)

    def note_letters(self, counts: NDArray[np.integer], origin: str) -> None:
        """Count the letters of one origin, by byte (256,), that mean no base."""
        foreign = {
            chr(byte): int(counts[byte])
            for byte in np.flatnonzero(counts)
            if ENCODE_TABLE[byte] == UNK_ID
        }
        if foreign:
            self._foreign.update(foreign)
            self._first_foreign = self._first_foreign or origin

    def finish(self, source: str) -> PackedSequences:
        """Return the packed sequences; log unknown letters, naming `source`."""
        if self._foreign:
            shown = ", ".join(f"{n:,} x {letter!r}" for letter, n in self._foreign.most_common(5))
            logger.warning(
                "%s has %s letters that are not IUPAC DNA (%s; the first in %s): they are read as "
                "[UNK], like N",
                *(source, f"{self._foreign.total():,}", shown, self._first_foreign),
            )
        offsets = np.zeros(1 + sum(map(len, self._lengths)), np.int64)
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=offsets[1:])
        return PackedSequences(np.frombuffer(self._codes, np.uint8), offsets)


def sequence_keys(packed: PackedSequences) -> NDArray[np.uint64]:
    """A number for each sequence, equal for the same bases on either strand."""
    codes, offsets = packed
    keys = np.empty(len(offsets) - 1, np.uint64)
    done = 0
    while done < len(keys):
        reach = np.searchsorted(offsets, offsets[done] + _HASHED_AT_ONCE, "right") - 1
        end = max(done + 1, int(reach))
        block = codes[offsets[done] : offsets[end]]
        bounds = offsets[done : end + 1] - offsets[done]
        forward = _hashes(block, bounds)
        # The reverse complement of the block has the last sequence first.
        reverse = _hashes(reverse_complement(block), (len(block) - bounds)[::-1])[::-1]
        keys[done:end] = np.minimum(forward, reverse)
        done = end
    return keys


def _hashes(codes: Codes, bounds: Ints) -> NDArray[np.uint64]:
    view, edges = memoryview(codes.tobytes()), bounds.tolist()
    digests = [
        blake2b(view[start:end], digest_size=8).digest() for start, end in itertools.pairwise(edges)
    ]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def text_keys(texts: list[str]) -> NDArray[np.uint64]:
    """A number for each text, equal for equal texts."""
    key = {
        text: int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        for text in set(texts)
    }
    return np.fromiter((key[text] for text in texts), np.uint64, len(texts))
