"""Pool the hidden states of a span to one vector or a few, in whole padded batches or in pieces.

Only A, C, G and T are pooled. B rows, L positions of a piece, D channels, N vectors of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID

PoolingKind = Literal["none", "mean", "last", "max", "center", "bins"]

_BAG = 64
"""Positions summed in float32; their sums add up in float64, so that long sums lose no digits."""

_NO_KEY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Pooling:
    """How a span of bases is pooled.

    mean, max: of each channel over the bases. last: the last base. center: base L // 2 of L. bins:
    the mean of each of n_bins parts, which begin at floor(i L / n_bins); NaN for a part without
    bases. none: every position, N too.
    """

    kind: PoolingKind
    n_bins: int | None = None

    def __post_init__(self) -> None:
        choices = get_args(PoolingKind)
        if self.kind not in choices or (self.kind == "bins" and self.n_bins is None):
            raise InputError(
                f"pooling must be one of {', '.join(choices[:-1])} or bins:N (such as bins:16), "
                f"got {self.kind!r}"
            )
        if self.n_bins is not None and self.kind != "bins":
            raise InputError(
                f"pooling {self.kind!r} with n_bins {self.n_bins}: only bins takes n_bins"
            )
        if self.n_bins is not None and self.n_bins < 1:
            raise InputError(f"pooling bins:N needs N >= 1, got {self.n_bins}")

    @classmethod
    def parse(cls, text: str) -> "Pooling":
        """Parse `mean`, `last`, `max`, `center`, `none` or `bins:16`, else raise InputError."""
        name, _, number = text.partition(":")
        if name == "bins" and number.isascii() and number.isdigit():
            return cls("bins", int(number))
        return cls(text)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.kind if self.n_bins is None else f"bins:{self.n_bins}"

    @property
    def n_vectors(self) -> int:
        """Vectors of a span; with `none` of each position."""
        return self.n_bins or 1


class Pooled(NamedTuple):
    """vectors: (B, layers, N, D), float32 (float64 if hidden states are), NaN without bases.
    n_bases: (B, N) int64, bases pooled into each vector."""

    vectors: Tensor
    n_bases: Tensor


class Pooler:
    """Pools a span of each row, from pieces or whole rows, without waiting for the device.

    spans: (B, 2) int64, [start, end) of each row. reverse: rows are reverse complements, and spans
    lie in these; bins and the center are then the forward strand's.
    """

    def __init__(
        self, pooling: Pooling, spans: NDArray[np.int64], *, reverse: bool = False
    ) -> None:
        if pooling.kind == "none":
            raise ValueError("pooling none keeps every position: there is nothing to pool")
        self._kind, self._spans, self._reverse = pooling.kind, spans, reverse
        self._edges = _bin_edges(spans, pooling.n_vectors, reverse)
        self._values: list[Tensor] = []
        self._n_bases = torch.empty(0)
        self._key = torch.empty(0)

    @torch.no_grad()
    def add(self, start: int, token_ids: Tensor, hidden: Sequence[Tensor]) -> None:
        """Add positions start to start + L - 1, pieces in order: token_ids (B, L), hidden (B, L, D)
        of each layer."""
        seq_len = token_ids.shape[1]
        if not self._values:
            self._begin(hidden)
        elif self._spans[:, 0].min() >= start + seq_len or self._spans[:, 1].max() <= start:
            return
        is_base = (token_ids >= FIRST_BASE_ID) & (token_ids <= LAST_BASE_ID)
        if self._kind in ("mean", "bins"):
            self._add_sums(start, is_base, hidden)
            return
        positions = torch.arange(start, start + seq_len, device=is_base.device)
        low, high = _to_device(self._spans, is_base.device).unsqueeze(1).unbind(-1)  # (B, 1) each
        is_base &= (positions >= low) & (positions < high)
        self._n_bases += is_base.sum(1, keepdim=True)
        if self._kind == "max":
            for value, layer in zip(self._values, hidden, strict=True):
                seen = layer.masked_fill(~is_base.unsqueeze(-1), -torch.inf).amax(1)
                torch.maximum(value, seen.unsqueeze(1).to(value.dtype), out=value)
            return
        keys = positions.neg() if self._kind == "last" else self._distances(positions, low + high)
        self._take_nearest(keys.masked_fill(~is_base, _NO_KEY), hidden)

    def finish(self) -> Pooled:
        """The pooled vectors; call once, after the last piece."""
        if not self._values:
            raise ValueError("nothing was added to this pooler")
        n_bases = self._n_bases
        vectors = torch.stack(self._values, 1)
        if self._kind in ("mean", "bins"):
            # 0 / 0 is NaN.
            vectors = vectors / n_bases[:, None, :, None]
        else:
            vectors = vectors.masked_fill((n_bases == 0)[:, None, :, None], torch.nan)
            n_bases = n_bases if self._kind == "max" else n_bases.clamp(max=1)
        if self._reverse:
            vectors, n_bases = vectors.flip(2), n_bases.flip(1)
        return Pooled(vectors.to(self._dtype), n_bases)

    def _begin(self, hidden: Sequence[Tensor]) -> None:
        batch, _, width = hidden[0].shape
        device, n_vectors = hidden[0].device, self._edges.shape[1] - 1
        self._dtype = torch.promote_types(hidden[0].dtype, torch.float32)
        is_sum = self._kind in ("mean", "bins")
        dtype = torch.float64 if is_sum else self._dtype
        fill = -torch.inf if self._kind == "max" else 0.0
        shape = (batch, n_vectors, width)
        self._values = [torch.full(shape, fill, dtype=dtype, device=device) for _ in hidden]
        self._n_bases = torch.zeros(shape[:2], dtype=torch.int64, device=device)
        self._key = torch.full((batch, 1), _NO_KEY, device=device)

    def _add_sums(self, start: int, is_base: Tensor, hidden: Sequence[Tensor]) -> None:
        bags = _Bags.of(np.clip(self._edges - start, 0, is_base.shape[1]), is_base)
        self._n_bases += bags.add_up(is_base.unsqueeze(-1).to(self._dtype)).squeeze(-1).long()
        for value, layer in zip(self._values, hidden, strict=True):
            value += bags.add_up(layer.to(self._dtype))

    def _distances(self, positions: Tensor, ends: Tensor) -> Tensor:
        """Distance of each position to the span's middle (B, L), no two equal."""
        twice = 2 * positions + 1 - ends
        is_worse = twice > 0 if self._reverse else twice < 0
        return 2 * twice.abs() + is_worse

    def _take_nearest(self, keys: Tensor, hidden: Sequence[Tensor]) -> None:
        """Take hidden states at smaller keys (B, L) than any before."""
        key, index = keys.min(1, keepdim=True)  # (B, 1)
        is_nearer = (key < self._key).unsqueeze(-1)
        self._key = torch.minimum(key, self._key)
        for value, layer in zip(self._values, hidden, strict=True):
            found = layer.gather(1, index.unsqueeze(-1).expand(-1, -1, layer.shape[2]))
            torch.where(is_nearer, found.to(value.dtype), value, out=value)


def _bin_edges(spans: NDArray[np.int64], n_bins: int, reverse: bool) -> NDArray[np.int64]:
    """Starts of each span's parts, and the end of the last (B, n_bins + 1)."""
    start, end = spans[:, :1], spans[:, 1:]
    steps = np.arange(n_bins + 1) * (end - start) // n_bins
    return end - steps[:, ::-1] if reverse else start + steps


class _Bags(NamedTuple):
    """Positions of a batch, row after row, in bags of a few, and bags in parts: each row's
    positions before its span, its bins, and its positions behind.

    weights: (B L,), 1 at bases to pool. bags, parts: start of each among the positions and the
    bags.
    """

    weights: Tensor
    positions: Tensor
    bags: Tensor
    parts: Tensor
    n_parts: int

    @classmethod
    def of(cls, edges: NDArray[np.int64], is_base: Tensor) -> "_Bags":
        """edges: (B, N + 1) within the L positions of is_base (B, L)."""
        batch, seq_len = is_base.shape
        from_zero = np.insert(edges, 0, 0, axis=1)
        starts = (from_zero + np.arange(batch)[:, None] * seq_len).ravel()
        n_bags = -(-np.diff(starts, append=batch * seq_len) // _BAG)
        first_bags = np.cumsum(n_bags) - n_bags
        within = np.arange(n_bags.sum()) - np.repeat(first_bags, n_bags)
        bags = np.repeat(starts, n_bags) + _BAG * within
        both = _to_device(np.concatenate([bags, first_bags]), is_base.device)
        return cls(
            is_base.flatten(),
            torch.arange(batch * seq_len, device=is_base.device),
            both[: len(bags)],
            both[len(bags) :],
            from_zero.shape[1],
        )

    def add_up(self, values: Tensor) -> Tensor:
        """Sums (B, N, D) float64 of values (B, L, D) in each bin, in one pass."""
        rows, weights = values.flatten(0, 1), self.weights.to(values.dtype)
        few = functional.embedding_bag(
            self.positions, rows, self.bags, mode="sum", per_sample_weights=weights
        )
        among = self.positions[: len(few)]
        sums = functional.embedding_bag(among, few.double(), self.parts, mode="sum")
        return sums.unflatten(0, (-1, self.n_parts))[:, 1:-1]


def _to_device(array: NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        # A copy from unpinned memory would wait.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
