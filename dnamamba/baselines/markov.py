"""Markov chains of DNA: the baseline a language model is compared with.

An order-k chain predicts a base from the k bases before it. A language model that does no better
has learned base composition and short words only. Each order backs off to the next shorter one:

    p_k(x | w) = (c(w x) + s * p_{k-1}(x | w')) / (c(w) + s)

where c counts training words, w' is w without its oldest base, s is the concentration of a
Dirichlet prior around p_{k-1}, and p_{-1} = 1/4. This is MacKay and Peto, "A hierarchical Dirichlet
language model" (Natural Language Engineering 1, 1995), with one concentration for all orders; Teh,
"A hierarchical Bayesian language model based on Pitman-Yor processes" (ACL 2006), eq. 2 with
discount 0.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.kmers import Counts, on_other_strand, words_and_contexts
from dnamamba.errors import InputError
from dnamamba.tokenizer import Codes

HIGHEST_ORDER = 14  # 4^15 counts of 4 bytes are 4 GiB

_BLOCK = 1 << 18
_BASES_FOR_UINT32 = 1 << 31  # no count, nor the sum of two strands' counts, can overflow before


class MarkovBaseline:
    """Markov chains of all orders up to one, counted in a single pass.

    max_order: bases of context of the longest chain, 0 to 14. Memory grows with 4^max_order: order
        12 takes 0.5 GB, about 1.1 GB for a moment if both strands are counted.
    concentration: s above, in counts. 128 came within 0.003 bits of the best value for bacterial,
        yeast and human sequence with 0.4 to 10 million training bases; 1 to 16, usual for text,
        costs up to 0.03 bits.
    both_strands: count the reverse complement of everything too.
    """

    def __init__(
        self, max_order: int = 12, concentration: float = 128.0, both_strands: bool = False
    ) -> None:
        if not 0 <= max_order <= HIGHEST_ORDER:
            raise InputError(f"max_order must be 0 to {HIGHEST_ORDER}, got {max_order}")
        if not concentration > 0:
            raise InputError(f"concentration must be above 0, got {concentration}")
        self.max_order = max_order
        self.concentration = concentration
        self.both_strands = both_strands
        self.train_bases = 0
        # Words of k+1 bases that have exactly k clean bases before their last one; the longest also
        # holds every position with more. Each word is thus counted once, see _tables.
        self._counts: list[Counts] = [
            np.zeros(4 ** (k + 1), np.uint32) for k in range(max_order + 1)
        ]
        self._cached_tables: list[Counts] | None = None

    def fit(self, windows: Iterable[Codes]) -> Self:
        """Count the words of training sequences; further calls add to the counts.

        windows: uint8 code arrays, (n_windows, seq_len) or (seq_len,). No context crosses the ends
        of a row, nor anything but A, C, G and T (of either case). Every base is counted, with as
        much context as it has. Raises InputError for other arrays.
        """
        self._cached_tables = None
        for rows, n_context in _blocks(windows, overlap=max(1, self.max_order)):
            words, contexts = words_and_contexts(rows, self.max_order)
            is_counted = contexts >= 0
            is_counted[:, :n_context] = False
            self._count(words[is_counted], contexts[is_counted])
        return self

    def _count(self, words: NDArray[np.uint32], contexts: NDArray[np.int32]) -> None:
        self.train_bases += words.size
        if self.train_bases >= _BASES_FOR_UINT32 and self._counts[0].dtype == np.uint32:
            self._counts = [counts.astype(np.int64) for counts in self._counts]
        one = self._counts[0].dtype.type(1)
        is_short = contexts < self.max_order
        np.add.at(self._counts[-1], words[~is_short].astype(np.intp), one)
        words, contexts = words[is_short], contexts[is_short]
        for order in range(self.max_order):
            keys = words[contexts == order] & _mask(order)
            np.add.at(self._counts[order], keys.astype(np.intp), one)

    def _tables(self) -> list[Counts]:
        """Counts of words of k+1 bases for each order k: as the end of a longer word, and at the
        start of a run of clean bases."""
        if self._cached_tables is None:
            tables = [self._counts[-1]]
            for counts in reversed(self._counts[:-1]):
                longer = tables[0].reshape(4, -1).sum(axis=0, dtype=counts.dtype)
                tables.insert(0, counts + longer)
            if self.both_strands:
                tables = [table + on_other_strand(table) for table in tables]
            self._cached_tables = tables
        return self._cached_tables

    def summarise(self, windows: Iterable[Codes]) -> dict[str, Any]:
        """What a run keeps as baseline.json: orders, best_order, train_bases, targets.

        orders: `[{"order": 0, "bits_per_base": 1.97}, ...]`, every order on the same targets.
        best_order has the fewest bits per base (the lowest of equal ones).
        windows: as for `fit`. Targets are a language model's: each A, C, G or T of a window except
        the window's first position. Where fewer than k clean bases precede, order k uses the
        longest context there is. Raises InputError if nothing is left to predict.
        """
        tables = self._tables()
        bits, targets = np.zeros(len(tables)), 0
        for rows, n_context in _blocks(windows, overlap=max(1, self.max_order)):
            words, contexts = words_and_contexts(rows, self.max_order)
            is_target = contexts >= 0
            is_target[:, : n_context or 1] = False  # a window's first base has nothing before it
            bits += _bits_by_order(
                words[is_target], contexts[is_target], tables, self.concentration
            )
            targets += int(is_target.sum())
        if targets == 0:
            raise InputError(
                "nothing to predict: the windows hold no A, C, G or T after their first position"
            )
        orders = [{"order": k, "bits_per_base": float(bits[k] / targets)} for k in range(len(bits))]
        return {
            "orders": orders,
            "best_order": int(np.argmin(bits)),
            "train_bases": self.train_bases,
            "targets": targets,
        }


def _bits_by_order(
    words: NDArray[np.uint32], contexts: NDArray[np.int32], tables: list[Counts], s: float
) -> NDArray[np.float64]:
    """Summed -log2 p of the words' last bases under each table's order."""
    bits = np.zeros(len(tables))
    probability = np.full(words.size, 0.25)
    for order, table in enumerate(tables):
        reached = np.flatnonzero(contexts >= order)
        keys = (words[reached] & _mask(order)).astype(np.intp)
        a, c, g, t = table.reshape(-1, 4).take(keys >> 2, axis=0).T
        shorter = probability[reached]
        probability[reached] = (table.take(keys) + s * shorter) / (a + c + g + t + s)
        bits[order] = -np.log2(probability).sum()
    return bits


def _mask(order: int) -> np.uint32:
    """The bits of a word of `order` + 1 bases."""
    return np.uint32(4 ** (order + 1) - 1)


def _blocks(windows: Iterable[Codes], overlap: int) -> Iterator[tuple[Codes, int]]:
    """Cut windows into blocks (n, seq_len) of about a million bases.

    The second value counts leading columns that were in the block before and are context only.
    """
    for array in windows:
        codes = np.asarray(array)
        if codes.dtype != np.uint8 or codes.ndim not in (1, 2):
            raise InputError(
                "windows must be uint8 codes (see dnamamba.tokenizer.encode) of one or two "
                f"dimensions, got {codes.dtype} of shape {codes.shape}"
            )
        codes = np.atleast_2d(codes)
        n_windows, seq_len = codes.shape
        if codes.size and seq_len <= _BLOCK:
            step = _BLOCK // seq_len
            for start in range(0, n_windows, step):
                yield codes[start : start + step], 0
        elif codes.size:
            for row in codes:
                for start in range(0, seq_len, _BLOCK):
                    n_context = min(start, overlap)
                    yield row[None, start - n_context : start + _BLOCK], n_context
