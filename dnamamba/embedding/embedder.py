"""Vectors of sequences from a language model's hidden states.

    model = DnaModel.from_pretrained("runs/human").to("cuda")
    vectors = embed(model, ["ACGTTG", "TTGACA"])  # (2, D)

Host memory is that of a few batches, whatever the length of a sequence.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.embedding.config import EmbedOptions
from dnamamba.embedding.forward import Copies, EmbedInput, Passes, Vectors
from dnamamba.errors import InputError
from dnamamba.inference.batching import batches_of, in_chunks, is_no_memory, run_in_halves
from dnamamba.inference.inputs import GenomeLike, read_inputs
from dnamamba.inference.options import RcMode
from dnamamba.inference.windows import why_too_long
from dnamamba.models.language_model import DnaModel
from dnamamba.models.pooling import Pooling
from dnamamba.models.streaming import resolve_layers, why_no_stream

Embedded = list[Vectors] | str
"""One float32 array a layer: (D_out,), for bins (N, D_out), for pooling none (span length, D_out);
or the reason why there are none."""

# While a GPU computes one batch two more wait for it, to bridge what holds Python up meanwhile.
_BATCHES_UNDER_WAY = 3


class Embedder:
    """Embeds sequences by a model, which is put into evaluation mode and runs on its own device.

    scratch: folder for the positions of long sequences (pooling none); None: kept in memory.
    Raises InputError for layers that the model does not have.
    """

    def __init__(self, model: DnaModel, options: EmbedOptions, scratch: Path | None = None) -> None:
        self.model, self.options = model.eval(), options
        self.layers = resolve_layers(model.config, options.layers)
        self._passes = Passes(model, self.layers, options, scratch)
        self._is_streamed = why_no_stream(model.config) is None

    @property
    def device(self) -> torch.device:
        return self._passes.device

    @property
    def d_out(self) -> int:
        """Numbers in a vector."""
        return self.options.width(self.model.config.d_model)

    def __call__(self, inputs: Sequence[EmbedInput]) -> list[Embedded]:
        """Embed inputs; results are in their order.

        Batches are of like lengths; sequences above `chunk_tokens` are streamed if the model can.
        An input that fails alone (no memory, longer than a Hyena's filters, no base in the span,
        numbers that are not finite) has a text in its place. Errors of its `read` are raised.
        """
        results: list[list[Embedded]] = []
        self.run([inputs], results.append)
        return results[0]

    @torch.inference_mode()
    def run(
        self, groups: Iterable[Sequence[EmbedInput]], take: Callable[[list[Embedded]], None]
    ) -> None:
        """Embed groups one after another, each by itself. `take` gets the results of each group, in
        order, while the device computes the next."""
        # Batches on their way; behind those of a group its results.
        under_way = deque[_Pending | list[Embedded]]()

        def collect(n_left: int) -> None:
            n_batches = sum(isinstance(one, _Pending) for one in under_way)
            while under_way and (n_batches > n_left or isinstance(under_way[0], list)):
                first = under_way.popleft()
                if isinstance(first, list):
                    take(first)
                    continue
                n_batches -= 1
                for i, result in zip(first.chosen, self._unpack(first), strict=True):
                    first.group.results[i] = result

        # Around all passes, so that weights are rounded once.
        with self.options.autocast(self.device):
            for inputs in groups:
                group = _Group(inputs, [""] * len(inputs))
                for pending in self._start(group):
                    under_way.append(pending)
                    collect(_BATCHES_UNDER_WAY - 1)
                under_way.append(group.results)
                collect(_BATCHES_UNDER_WAY - 1)
            collect(0)

    def _start(self, group: "_Group") -> "Iterator[_Pending]":
        """Launch the passes of a group; results that are known at once are put into it."""
        whole: list[int] = []
        for i, one in enumerate(group.inputs):
            reason = self._refuse(one)
            if reason is not None:
                group.results[i] = reason
            elif self._is_streamed and one.length > self._passes.chunk_tokens:
                yield from self._start_long(group, i)
            else:
                whole.append(i)
        lengths = np.array([group.inputs[i].length for i in whole], np.int64)
        for batch in batches_of(lengths, self.options.tokens_in_batch(self.device)):
            yield from self._start_whole(group, [whole[i] for i in batch])

    def _refuse(self, one: EmbedInput) -> str | None:
        start, end = one.span
        if not 0 <= start < end <= one.length:
            return f"the span {start:,} to {end:,} has no position in {one.length:,} bases"
        return why_too_long(self.model.config, one.length)

    def _start_whole(self, group: "_Group", chosen: list[int]) -> "list[_Pending]":
        def start(part: Sequence[int]) -> "_Pending | None":
            copies = self._passes.start_batch([group.inputs[i] for i in part])
            return _Pending(group, part, copies)

        def give_up(i: int, error: RuntimeError) -> "_Pending | None":
            group.results[i] = _no_memory(f"a sequence of {group.inputs[i].length:,} bases")
            return None

        return [one for one in run_in_halves(chosen, start, give_up) if one is not None]

    def _start_long(self, group: "_Group", i: int) -> "list[_Pending]":
        one = group.inputs[i]
        try:
            if self.options.pooling.kind != "none":
                return [_Pending(group, [i], self._passes.pool_stream(one))]
            group.results[i] = self._passes.keep_stream(one)
        except RuntimeError as error:
            if not is_no_memory(error):
                raise
            size = f"{self._passes.chunk_tokens:,}"
            group.results[i] = _no_memory(f"a piece of {size} bases (chunk_tokens)")
        return []

    def _unpack(self, pending: "_Pending") -> list[Embedded]:
        inputs = [pending.group.inputs[i] for i in pending.chosen]
        vectors, n_bases = pending.copies.wait()
        if self.options.pooling.kind == "none":
            sizes = [one.span[1] - one.span[0] for one in inputs]
            parts = np.split(vectors[0], np.cumsum(sizes)[:-1], axis=1)
            return [list(part) for part in parts]
        is_finite = (np.isfinite(vectors).all((1, 3)) | (n_bases == 0)).all(1)
        rows = vectors if self.options.pooling.kind == "bins" else vectors[:, :, 0]
        results: list[Embedded] = [list(row) for row in rows]
        for i, has_bases in enumerate(np.any(n_bases, axis=1).tolist()):
            if not has_bases:
                size = inputs[i].span[1] - inputs[i].span[0]
                results[i] = f"no A, C, G or T among the {size:,} letters of the span"
            elif not is_finite[i]:
                results[i] = "the model's numbers for it are not finite"
        return results


class _Group(NamedTuple):
    """Inputs with their results, empty texts at first."""

    inputs: Sequence[EmbedInput]
    results: list[Embedded]


class _Pending(NamedTuple):
    """A batch under way. chosen: numbers of its inputs in the group."""

    group: _Group
    chosen: Sequence[int]
    copies: Copies


def _no_memory(what: str) -> str:
    return f"there is no memory for {what}: use shorter ones, or a device with more memory"


def embed(
    model: DnaModel,
    data: Any,
    *,
    genome: GenomeLike | None = None,
    layers: int | Sequence[int] = -1,
    pooling: Pooling | str = "mean",
    rc: RcMode = "none",
    batch_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> NDArray[np.float32]:
    """Embed a sequence (D,), or several sequences or regions (N, D): float32, on the CPU.

    data: letters (str) or ids, of any length that the model takes, or several of them; a table of
        regions with the columns chrom, start and end (0-based, half-open) and perhaps strand: a
        DataFrame of pandas or polars, or a mapping; or the rows that `open_regions` gives.
    genome: for regions, a FASTA or store, or what `open_genome` returned.
    layers: hidden state, 0 for the embedding, k for the stream after block k, -1 (default) for the
        final norm; several give (N, layers, D).
    pooling: `mean` (default), `last`, `max`, `center`, or `bins:K`, K vectors: (N, K, D), with
        several layers (N, layers, K, D). Positions without A, C, G or T do not count.
    rc: the reverse complement is not read (`none`, default), averaged (`average`), or put beside
        (`concat`): (N, 2 D).
    batch_tokens: tokens in one pass, default 1M on a GPU and 64k on a CPU; it changes rounding
        alone. autocast_dtype: dtype of matrix products, default the parameters' own.

    The model is put into evaluation mode and runs on its own device. For files of vectors, and a
    vector for each base, there are `dnamamba embed` and `Embedder`.

        dnamamba.embed(model, ["ACGTTG", "TTGACA"])                 # (2, D)
        dnamamba.embed(model, peaks, genome="hg38.fa", rc="average")   # (len(peaks), D)

    Raises InputError, with its number from 0, for what cannot be embedded: an empty sequence, one
    without A, C, G and T or longer than a Hyena's filters, a region that lies on no contig.
    """
    pooling = Pooling.parse(pooling) if isinstance(pooling, str) else pooling
    if pooling.kind == "none":
        raise InputError(
            "pooling must give vectors of one shape, got none, a vector for each base: use Embedder"
        )
    options = EmbedOptions(
        layers=(layers,) if isinstance(layers, int) else tuple(layers),
        pooling=pooling,
        rc=rc,
        batch_tokens=batch_tokens,
        autocast_dtype=autocast_dtype,
    )
    embedder = Embedder(model, options)
    rows, is_single = read_inputs(data, genome)
    shape = (len(embedder.layers), pooling.n_vectors, embedder.d_out)
    found: list[NDArray[np.float32]] = []
    inputs, most = map(EmbedInput.of_row, rows), options.tokens_in_batch(embedder.device)
    for chunk in in_chunks(inputs, lambda one: one.length, most):
        for result in embedder(chunk):
            if isinstance(result, str):
                raise InputError(f"sequence {len(found)} cannot be embedded: {result}")
            found.append(np.stack(result).reshape(shape))
    vectors = np.stack(found) if found else np.empty((0, *shape), np.float32)
    if pooling.kind != "bins":
        vectors = vectors[:, :, 0]
    if isinstance(layers, int):
        vectors = vectors[:, 0]
    return vectors[0] if is_single else vectors
