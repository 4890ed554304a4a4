"""Vectors of sequences from a language model's hidden states; `dnamamba embed`.

    model = DnaModel.from_pretrained("runs/human").to("cuda")
    vectors = embed_sequences(model, ["ACGTTG", "TTGACA"])  # (2, D)

Host memory is that of a few batches, whatever the length of a sequence.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.embedding.forward import EmbedInput, EmbedOptions, Passes, Started, Strands, Vectors
from dnamamba.errors import InputError
from dnamamba.inference.batching import batches_of, in_chunks, is_no_memory, run_in_halves
from dnamamba.models.language_model import DnaModel
from dnamamba.models.pooling import Pooling
from dnamamba.models.streaming import longest_sequence, resolve_layers, why_no_stream
from dnamamba.tokenizer import Codes, encode

Embedded = list[Vectors] | str
"""One float32 array a layer: (D_out,), of bins (N, D_out), of pooling none (span length, D_out); or
why there are none."""

# While a GPU is at one batch two more wait for it, which bridges what holds Python up meanwhile.
_BATCHES_UNDER_WAY = 3


class Embedder:
    """Embeds sequences by a model, which is put into evaluation mode and runs on its own device.

    Raises InputError for layers that the model does not have.
    """

    def __init__(self, model: DnaModel, options: EmbedOptions) -> None:
        self.model, self.options = model.eval(), options
        self.layers = resolve_layers(model.config, options.layers)
        self._passes = Passes(model, self.layers, options)
        self._longest = longest_sequence(model.config)
        self._is_streamed = why_no_stream(model.config) is None

    @property
    def device(self) -> torch.device:
        return self._passes.device

    @property
    def d_out(self) -> int:
        """Width of a vector."""
        return self.model.config.d_model * (2 if self.options.rc == "concat" else 1)

    def __call__(self, inputs: Sequence[EmbedInput]) -> list[Embedded]:
        """What is made of each input, in their order.

        Batches are of like lengths; sequences above `chunk_tokens` are streamed if the model can.
        What fails for one input (no memory for it alone, longer than a Hyena's filters, no base in
        the span, numbers that are not finite) is a text in its place; what its `read` raises is
        raised.
        """
        found: list[list[Embedded]] = []
        self.run([inputs], found.append)
        return found[0]

    @torch.inference_mode()
    def run(
        self, groups: Iterable[Sequence[EmbedInput]], take: Callable[[list[Embedded]], None]
    ) -> None:
        """The same for one group after another, each embedded by itself. `take` gets what is made
        of each, in their order, while the device is at the next."""
        dtype = self.options.autocast_dtype
        under_way = deque[_UnderWay]()
        open_groups = deque[_Group]()

        def collect(n_left: int) -> None:
            while len(under_way) > n_left:
                one = under_way.popleft()
                one.group.put(one.chosen, self._unpack(one))
            while open_groups and open_groups[0].is_whole:
                take(open_groups.popleft().results)

        # Around all passes: the weights are rounded once.
        with torch.autocast(self._passes.device.type, dtype, enabled=dtype is not None):
            for inputs in groups:
                group = _Group(inputs)
                open_groups.append(group)
                for started in self._start(group):
                    under_way.append(started)
                    collect(_BATCHES_UNDER_WAY - 1)
                collect(_BATCHES_UNDER_WAY - 1)
            collect(0)

    def _start(self, group: "_Group") -> "Iterator[_UnderWay]":
        """Launch all that a group needs; what needs no wait is put into it."""
        whole: list[int] = []
        for i, one in enumerate(group.inputs):
            reason = self._refuse(one)
            if reason is not None:
                group.put([i], [reason])
            elif self._is_streamed and one.length > self.options.chunk_tokens:
                yield from self._start_long(group, i)
            else:
                whole.append(i)
        lengths = np.array([group.inputs[i].length for i in whole], np.int64)
        for batch in batches_of(lengths, self.options.batch_tokens):
            yield from self._start_whole(group, [whole[i] for i in batch])

    def _refuse(self, one: EmbedInput) -> str | None:
        start, end = one.span
        if not 0 <= start < end <= one.length:
            return f"the span {start:,} to {end:,} has no position in {one.length:,} bases"
        if self._longest is not None and one.length > self._longest:
            return (
                f"{one.length:,} bases are more than the {self._longest:,} that this model's "
                "filters were made for"
            )
        return None

    def _start_whole(self, group: "_Group", chosen: list[int]) -> "list[_UnderWay]":
        def start(some: Sequence[int]) -> "_UnderWay | None":
            started = self._passes.start_batch([group.inputs[i] for i in some])
            return _UnderWay(group, some, started)

        def give_up(i: int, error: RuntimeError) -> "_UnderWay | None":
            group.put([i], [_no_memory(f"a sequence of {group.inputs[i].length:,} bases")])
            return None

        return [one for one in run_in_halves(chosen, start, give_up) if one is not None]

    def _start_long(self, group: "_Group", i: int) -> "list[_UnderWay]":
        one = group.inputs[i]
        try:
            if self.options.pooling.kind != "none":
                return [_UnderWay(group, [i], self._passes.pool_stream(one))]
            group.put([i], [self._passes.keep_stream(one)])
        except RuntimeError as error:
            if not is_no_memory(error):
                raise
            size = f"{self.options.chunk_tokens:,}"
            group.put([i], [_no_memory(f"a piece of {size} bases (chunk_tokens)")])
        return []

    def _unpack(self, under_way: "_UnderWay") -> list[Embedded]:
        inputs = [under_way.group.inputs[i] for i in under_way.chosen]
        vectors, n_bases = under_way.started.wait()
        if self.options.pooling.kind == "none":
            sizes = [one.span[1] - one.span[0] for one in inputs]
            parts = np.split(vectors[0], np.cumsum(sizes)[:-1], axis=1)
            return [list(part) for part in parts]
        is_finite = np.isfinite(vectors).all((1, 3)) | (n_bases == 0)
        is_wrong, has_bases = ~np.all(is_finite, axis=1), np.any(n_bases, axis=1)
        rows = vectors if self.options.pooling.kind == "bins" else vectors[:, :, 0]
        found: list[Embedded] = [list(row) for row in rows]
        for i in np.flatnonzero(is_wrong | ~has_bases).tolist():
            if has_bases[i]:
                found[i] = "the model makes numbers of it that are not finite"
            else:
                size = inputs[i].span[1] - inputs[i].span[0]
                found[i] = f"no A, C, G or T among the {size:,} letters of the span"
        return found


class _Group:
    """Inputs, and what is known so far of what is made of them."""

    def __init__(self, inputs: Sequence[EmbedInput]) -> None:
        self.inputs = inputs
        self.results: list[Embedded] = [""] * len(inputs)
        self._n_missing = len(inputs)

    def put(self, chosen: Sequence[int], found: Sequence[Embedded]) -> None:
        for i, one in zip(chosen, found, strict=True):
            self.results[i] = one
        self._n_missing -= len(chosen)

    @property
    def is_whole(self) -> bool:
        return self._n_missing == 0


class _UnderWay(NamedTuple):
    """Some inputs of a group, by their numbers, and the results that are on their way."""

    group: _Group
    chosen: Sequence[int]
    started: Started


def _no_memory(what: str) -> str:
    return f"there is no memory for {what}: use shorter ones, or a device with more memory"


def embed_sequences(
    model: DnaModel,
    sequences: Iterable[Codes | str],
    *,
    layers: int | Sequence[int] = -1,
    pooling: Pooling | str = "mean",
    rc: Strands = "none",
    batch_tokens: int = 1 << 16,
    chunk_tokens: int = 1 << 16,
    autocast_dtype: torch.dtype | None = None,
) -> NDArray[np.float32]:
    """A vector of each sequence, (n, D), float32, on the model's device and in its dtype.

    sequences: letters or codes, 1 base or more, of any length that the model takes.
    layers: a hidden state, 0 being the embedding, k the stream after block k and -1 the final norm;
    of several the result is (n, layers, D). pooling: mean, last, max, center, or bins:N for (n, N,
    D) (several layers: (n, layers, N, D)). rc: `average` or `concat` with the reverse complement,
    (n, 2 D). batch_tokens, chunk_tokens, autocast_dtype: see EmbedOptions.

    Raises InputError, with its number from 0, for a sequence that cannot be embedded.
    """
    pooling = Pooling.parse(pooling) if isinstance(pooling, str) else pooling
    if pooling.kind == "none":
        raise InputError("pooling none has as many vectors as a sequence has bases: use Embedder")
    is_single = isinstance(layers, int)
    options = EmbedOptions(
        layers=(layers,) if isinstance(layers, int) else tuple(layers),
        pooling=pooling,
        rc=rc,
        batch_tokens=batch_tokens,
        chunk_tokens=chunk_tokens,
        autocast_dtype=autocast_dtype,
    )
    embedder = Embedder(model, options)
    inputs = (EmbedInput.of(encode(one) if isinstance(one, str) else one) for one in sequences)
    shape = (len(embedder.layers), pooling.n_vectors, embedder.d_out)
    rows: list[NDArray[np.float32]] = []
    for some in in_chunks(inputs, lambda one: one.length, batch_tokens):
        for found in embedder(some):
            if isinstance(found, str):
                raise InputError(f"sequence {len(rows)} cannot be embedded: {found}")
            rows.append(np.stack(found).reshape(shape))
    vectors = np.stack(rows) if rows else np.empty((0, *shape), np.float32)
    if pooling.kind != "bins":
        vectors = vectors[:, :, 0]
    return vectors[:, 0] if is_single else vectors
