"""Vectors of sequences from a language model's hidden states; `dnamamba embed`.

    model = DnaModel.from_pretrained("runs/human").to("cuda")
    vectors = embed_sequences(model, ["ACGTTG", "TTGACA"])  # (2, D)

Host memory is that of a few batches, whatever the length of a sequence.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.batching import batches_of, in_chunks, run_in_halves
from dnamamba.embedding_passes import (
    EmbedInput,
    EmbedOptions,
    Passes,
    Started,
    Strands,
    Vectors,
)
from dnamamba.errors import InputError
from dnamamba.models.language_model import DnaModel
from dnamamba.models.pooling import Pooling
from dnamamba.models.streaming import longest_sequence, resolve_layers, why_no_stream
from dnamamba.tokenizer import Codes, encode

Embedded = list[Vectors] | str
"""One float32 array a layer: (D_out,), of bins (N, D_out), of pooling none (span length, D_out); or
why there are none."""

# While a GPU is at one batch the next is made ready; more would only take memory.
_BATCHES_UNDER_WAY = 2


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

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[EmbedInput]) -> list[Embedded]:
        """What is made of each input, in their order.

        Batches are of like lengths; sequences above `chunk_tokens` are streamed if the model can.
        What fails for one input (no memory for it alone, longer than a Hyena's filters, no base in
        the span, numbers that are not finite) is a text in its place; what its `read` raises is
        raised.
        """
        results: list[Embedded] = [""] * len(inputs)
        whole: list[int] = []
        dtype = self.options.autocast_dtype
        # Around all passes: the weights are rounded once.
        with torch.autocast(self._passes.device.type, dtype, enabled=dtype is not None):
            for i, one in enumerate(inputs):
                reason = self._refuse(one)
                if reason is not None:
                    results[i] = reason
                elif self._is_streamed and one.length > self.options.chunk_tokens:
                    results[i] = self._embed_long(one)
                else:
                    whole.append(i)
            self._embed_whole(inputs, whole, results)
        return results

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

    def _embed_whole(
        self, inputs: Sequence[EmbedInput], chosen: list[int], results: list[Embedded]
    ) -> None:
        under_way: deque[tuple[Sequence[int], Started]] = deque()

        def start(batch: Sequence[int]) -> bool:
            under_way.append((batch, self._passes.start_batch([inputs[i] for i in batch])))
            return True

        def give_up(i: int, error: torch.OutOfMemoryError) -> bool:
            results[i] = _no_memory(f"a sequence of {inputs[i].length:,} bases")
            return False

        def collect(n_left: int) -> None:
            while len(under_way) > n_left:
                batch, started = under_way.popleft()
                found = self._unpack([inputs[i] for i in batch], started)
                for i, one in zip(batch, found, strict=True):
                    results[i] = one

        lengths = np.array([inputs[i].length for i in chosen], np.int64)
        for batch in batches_of(lengths, self.options.batch_tokens):
            run_in_halves([chosen[i] for i in batch], start, give_up)
            collect(_BATCHES_UNDER_WAY - 1)
        collect(0)

    def _embed_long(self, one: EmbedInput) -> Embedded:
        try:
            if self.options.pooling.kind == "none":
                return self._passes.keep_stream(one)
            (found,) = self._unpack([one], self._passes.pool_stream(one))
            return found
        except torch.OutOfMemoryError:
            return _no_memory(f"a piece of {self.options.chunk_tokens:,} bases (chunk_tokens)")

    def _unpack(self, inputs: Sequence[EmbedInput], started: Started) -> list[Embedded]:
        vectors, n_bases = started.wait()
        if self.options.pooling.kind == "none":
            sizes = [one.span[1] - one.span[0] for one in inputs]
            parts = np.split(vectors[0], np.cumsum(sizes)[:-1], axis=1)
            return [list(part) for part in parts]
        is_finite = np.isfinite(vectors).all((1, 3))
        is_wrong = np.any(~is_finite & (n_bases > 0), axis=1)
        is_empty = np.all(n_bases == 0, axis=1)
        found: list[Embedded] = []
        for i, one in enumerate(inputs):
            if is_empty[i]:
                size = one.span[1] - one.span[0]
                found.append(f"no A, C, G or T among the {size:,} letters of the span")
            elif is_wrong[i]:
                found.append("the model makes numbers of it that are not finite")
            else:
                row = vectors[i] if self.options.pooling.kind == "bins" else vectors[i, :, 0]
                found.append(list(row))
        return found


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
