"""One strand, or both, of a batch or of a long sequence through a model, to what is kept of it.

Host and device work side by side: nothing waits for the device but the copies of results.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.inference.batching import batch_width, round_up
from dnamamba.models import strands
from dnamamba.models.language_model import DnaModel
from dnamamba.models.pooling import Pooled, Pooler, Pooling
from dnamamba.models.streaming import StreamedChunk, longest_sequence
from dnamamba.tokenizer import PAD_ID, Codes, reverse_complement, token_ids

Vectors = NDArray[np.float32]
Strands = Literal["none", "average", "concat"]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What is made of a model's hidden states, and in what portions."""

    layers: tuple[int, ...] = (-1,)
    """Which hidden states: 0 is the embedding, k the stream after block k, n_layers + 1 or -1 the
    final norm."""

    pooling: Pooling
    """What stands for a span."""

    rc: Strands = "none"
    """What the reverse complement, read in a pass of its own, is for: the mean of both (`average`),
    or the forward strand's vector followed by the other's (`concat`)."""

    batch_tokens: int = 1 << 16
    """Tokens in one pass, padding included; a longer sequence is a pass of its own."""

    chunk_tokens: int = 1 << 16
    """Longer sequences are read in pieces of so many tokens, if the model can."""

    autocast_dtype: torch.dtype | None = None
    """What matrices are multiplied in; None: the parameters' own dtype."""

    scratch: Path | None = None
    """Folder for the positions of long sequences (pooling none); None: they are held in memory."""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more, got {getattr(self, name)}")
        if self.rc not in ("none", "average", "concat"):
            raise InputError(f"rc is one of none, average, concat, got {self.rc!r}")

    @property
    def directions(self) -> tuple[bool, ...]:
        """Of each pass, whether it is of the reverse complement."""
        return (False,) if self.rc == "none" else (False, True)


@dataclass(frozen=True)
class EmbedInput:
    """A sequence to embed.

    length: bases that the model reads. read: (start, end) to codes (uint8) of these, for any part
    of [0, length). span: [start, end) of what is pooled; the rest is its context.
    """

    length: int
    read: Callable[[int, int], Codes]
    span: tuple[int, int]

    @classmethod
    def of(cls, codes: Codes, span: tuple[int, int] | None = None) -> "EmbedInput":
        """Of a sequence in memory; span: None for all of it."""

        def read(start: int, end: int) -> Codes:
            return codes[start:end]

        return cls(len(codes), read, (0, len(codes)) if span is None else span)

    def tokens(self, start: int, end: int, reverse: bool = False) -> Codes:
        """Token ids of [start, end), reverse: of the reverse complement, counted along it."""
        if reverse:
            start, end = self.length - end, self.length - start
        codes = self.read(start, end)
        if len(codes) != end - start:
            raise ValueError(f"read({start}, {end}) gave {len(codes)} codes, not {end - start}")
        return token_ids(reverse_complement(codes) if reverse else codes)

    def span_of(self, reverse: bool) -> tuple[int, int]:
        """Where the span lies in the reverse complement, or as it is."""
        start, end = self.span
        return (self.length - end, self.length - start) if reverse else (start, end)


class Passes:
    """Forward passes of one model, to be called where there are no gradients, and with autocast as
    it is to be. Raises torch.OutOfMemoryError where memory is too small."""

    def __init__(self, model: DnaModel, layers: tuple[int, ...], options: EmbedOptions) -> None:
        self.model, self.layers, self.options = model, layers, options
        self.device = next(model.parameters()).device
        self._complement = strands.complement_ids(model.config.padded_vocab_size)
        self._complement = self._complement.to(self.device, torch.uint8)

    # --- batches

    def start_batch(self, inputs: Sequence[EmbedInput]) -> "Started":
        """Launch what a batch of whole sequences needs; the results are on their way."""
        lengths = [one.length for one in inputs]
        width = batch_width(lengths, longest_sequence(self.model.config))
        ids = torch.empty(len(inputs), width, dtype=torch.uint8, pin_memory=self._is_cuda)
        for row, one in zip(ids.numpy(), inputs, strict=True):
            row[: one.length] = one.tokens(0, one.length)
            row[one.length :] = PAD_ID
        given = ids.to(self.device, non_blocking=True)
        real = None if min(lengths) == width else self._upload(np.array(lengths))
        results = []
        for reverse in self.options.directions:
            if reverse:
                given = self._complement[strands.flip(given, real).int()]
            spans = np.array([one.span_of(reverse) for one in inputs], np.int64)
            results.append(self._run_batch(given, real, spans, reverse))
        return self._send(results)

    def _run_batch(
        self, ids: Tensor, lengths: Tensor | None, spans: NDArray[np.int64], reverse: bool
    ) -> Pooled:
        """Of one strand; of pooling none the positions of all spans, (1, layers, all, D)."""
        if self.model.is_causal:
            # What comes after the spans is seen by nothing that is kept.
            ids, lengths = ids[:, : round_up(int(spans[:, 1].max()))], None
        hidden = self.model.hidden_at(ids, self.layers, lengths)
        if self.options.pooling.kind == "none":
            index = self._upload(_positions(spans, ids.shape[1], reverse))
            rows = [layer.flatten(0, 1)[index].float() for layer in hidden]
            return Pooled(torch.stack(rows).unsqueeze(0), torch.empty(0, device=self.device))
        pooler = Pooler(self.options.pooling, spans, reverse=reverse)
        pooler.add(0, ids, hidden)
        return pooler.finish()

    def _send(self, results: Sequence[Pooled]) -> "Started":
        vectors = [one.vectors.float() for one in results]
        joined = vectors[0]
        if self.options.rc == "average":
            joined = (vectors[0] + vectors[1]) / 2
        elif self.options.rc == "concat":
            joined = torch.cat(vectors, -1)
        return Started((joined, results[0].n_bases))

    # --- long sequences

    def pool_stream(self, one: EmbedInput) -> "Started":
        """As `start_batch` for one sequence, which is read in pieces."""
        results = []
        for reverse in self.options.directions:
            spans = np.array([one.span_of(reverse)], np.int64)
            pooler = Pooler(self.options.pooling, spans, reverse=reverse)
            for chunk in self._stream(one, reverse):
                pooler.add(chunk.start, chunk.token_ids, chunk.hidden)
            results.append(pooler.finish())
        return self._send(results)

    def keep_stream(self, one: EmbedInput) -> list[Vectors]:
        """Every position of the span of a sequence that is read in pieces: (span length, D_out) for
        each layer, on disk where there is a folder for it."""
        n_rows, width = one.span[1] - one.span[0], self.model.config.d_model
        width *= 2 if self.options.rc == "concat" else 1
        stores = [PositionStore((n_rows, width), self.options.scratch) for _ in self.layers]
        for reverse in self.options.directions:
            under_way: deque[tuple[int, Started]] = deque()
            for first, rows in self._rows_of_span(one, reverse):
                # One piece is written while the next is computed.
                under_way.append((first, Started(rows)))
                if len(under_way) > 1:
                    self._write(stores, *under_way.popleft(), reverse)
            for first, started in under_way:
                self._write(stores, first, started, reverse)
        return [store.finish() for store in stores]

    def _rows_of_span(
        self, one: EmbedInput, reverse: bool
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Hidden states (l, D) of each layer in a piece of the span, and where in it they begin."""
        low, high = one.span_of(reverse)
        for chunk in self._stream(one, reverse):
            start = max(low, chunk.start)
            here = slice(start - chunk.start, min(high - chunk.start, chunk.token_ids.shape[1]))
            if here.start < here.stop:
                yield start - low, tuple(layer[0, here].float() for layer in chunk.hidden)

    def _write(
        self, stores: "list[PositionStore]", first: int, started: "Started", reverse: bool
    ) -> None:
        """What a strand made of positions from `first` of its span on, in their place."""
        for store, rows in zip(stores, started.wait(), strict=True):
            if not reverse:
                if self.options.rc == "concat":
                    rows = np.concatenate([rows, np.zeros_like(rows)], 1)
                store.write(first, rows)
                continue
            first_row = store.n_rows - first - len(rows)
            both = store.read(first_row, first_row + len(rows))
            if self.options.rc == "concat":
                both[:, rows.shape[1] :] = rows[::-1]
            else:
                both = (both + rows[::-1]) / 2
            store.write(first_row, both)

    def _stream(self, one: EmbedInput, reverse: bool) -> Iterator[StreamedChunk]:
        """Up to the end of the span: the model is causal."""
        stop, size = one.span_of(reverse)[1], self.options.chunk_tokens

        def pieces() -> Iterator[Tensor]:
            for start in range(0, stop, size):
                ids = one.tokens(start, min(start + size, stop), reverse)
                piece = torch.from_numpy(ids).unsqueeze(0)
                yield piece.pin_memory() if self._is_cuda else piece

        return self.model.stream(pieces(), layers=self.layers, chunk_tokens=size)

    # --- to and from the device

    @property
    def _is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def _upload(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        tensor = tensor.pin_memory() if self._is_cuda else tensor
        return tensor.to(self.device, non_blocking=True)


class Started:
    """Tensors on their way from the device to the host."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._event: Any = None
        if tensors[0].is_cuda:
            pinned = [torch.empty_like(one, device="cpu", pin_memory=True) for one in tensors]
            for own, tensor in zip(pinned, tensors, strict=True):
                own.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensors[0].device))
            tensors = pinned
        self._tensors = tensors

    def wait(self) -> list[NDArray[Any]]:
        """Arrays of their own: pinned memory is for the next batch."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy().copy() for tensor in self._tensors]


class PositionStore:
    """Rows of float32 in a file without a name, which ends with whoever holds its array, or in
    memory. They are written and read as a file is: mapped pages would count as memory used."""

    def __init__(self, shape: tuple[int, int], folder: Path | None) -> None:
        self.n_rows, self._shape = shape[0], shape
        self._file: IO[bytes] | None = None
        self._array = np.empty(shape if folder is None else 0, np.float32)
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with the array
        self._file.truncate(4 * shape[0] * shape[1])

    def write(self, first: int, rows: Vectors) -> None:
        if self._file is None:
            self._array[first : first + len(rows)] = rows
            return
        self._file.seek(4 * first * self._shape[1])
        self._file.write(np.ascontiguousarray(rows).data)

    def read(self, first: int, stop: int) -> Vectors:
        """A copy of rows [first, stop)."""
        if self._file is None:
            return self._array[first:stop].copy()
        rows = np.empty((stop - first, self._shape[1]), np.float32)
        self._file.seek(4 * first * self._shape[1])
        self._file.readinto(rows.data)  # type: ignore[attr-defined]
        return rows

    def finish(self) -> Vectors:
        """All rows: an array, or a memmap of the file."""
        if self._file is None:
            return self._array
        self._file.flush()
        return np.memmap(self._file, np.float32, "r+", shape=self._shape)


def _positions(spans: NDArray[np.int64], width: int, reverse: bool) -> NDArray[np.int64]:
    """Where the positions of all spans, one after another, lie in a batch of so many a row; those
    of a reverse complement in the order of the forward strand."""
    sizes = spans[:, 1] - spans[:, 0]
    firsts = np.arange(len(spans)) * width + (spans[:, 1] - 1 if reverse else spans[:, 0])
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(firsts, sizes) + (-within if reverse else within)
