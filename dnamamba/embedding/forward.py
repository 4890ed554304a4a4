"""How a batch becomes vectors: token ids through a model, hidden states pooled, strands combined.

A batch of whole sequences takes one pass a strand; a long sequence is streamed in pieces. Host and
device work side by side: only the copies of results wait for the device.
"""

import mmap
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnamamba.data_prep.regions.rows import RegionRow
from dnamamba.embedding.config import EmbedOptions
from dnamamba.inference.batching import round_up, stack_rows, upload
from dnamamba.inference.options import device_of
from dnamamba.models import strands
from dnamamba.models.language_model import DnaModel
from dnamamba.models.pooling import Pooled, Pooler
from dnamamba.models.streaming import StreamedChunk, longest_sequence
from dnamamba.tokenizer import Codes, reverse_complement, token_ids

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class EmbedInput:
    """A sequence to embed.

    length: bases that the model reads. read: returns the codes (uint8) of [start, end). span:
    [start, end) of the bases to pool; the others are context.
    """

    length: int
    read: Callable[[int, int], Codes]
    span: tuple[int, int]

    @classmethod
    def of(cls, codes: Codes, span: tuple[int, int] | None = None) -> "EmbedInput":
        """Input of a sequence in memory. span: default all of it."""
        return cls(len(codes), lambda start, end: codes[start:end], span or (0, len(codes)))

    @classmethod
    def of_row(cls, row: RegionRow) -> "EmbedInput":
        """Input of a row that has a sequence: its region, or the reference of a variant."""
        assert row.span is not None, "what is read has a span"
        return cls(row.length, row.read, row.span)

    def tokens(self, start: int, end: int, reverse: bool = False) -> Codes:
        """Token ids of [start, end); reverse: of the reverse complement, in its coordinates."""
        if reverse:
            start, end = self.length - end, self.length - start
        codes = self.read(start, end)
        if len(codes) != end - start:
            raise ValueError(f"read({start}, {end}) returned {len(codes)} codes, not {end - start}")
        return token_ids(reverse_complement(codes) if reverse else codes)

    def span_of(self, reverse: bool) -> tuple[int, int]:
        """The span, or where it lies in the reverse complement."""
        start, end = self.span
        return (self.length - end, self.length - start) if reverse else (start, end)


class Passes:
    """Forward passes of one model. Call them without gradients and under the wanted autocast; they
    raise torch.OutOfMemoryError.

    scratch: folder for the positions of long sequences (pooling none); None: kept in memory.
    """

    def __init__(
        self,
        model: DnaModel,
        layers: tuple[int, ...],
        options: EmbedOptions,
        scratch: Path | None = None,
    ) -> None:
        self.model, self.layers, self.options, self.scratch = model, layers, options, scratch
        self.device = device_of(model)
        self.chunk_tokens = options.tokens_in_chunk(self.device)
        complement = strands.complement_ids(model.config.padded_vocab_size)
        self._complement = complement.to(self.device, torch.uint8)

    # --- batches

    def start_batch(self, inputs: Sequence[EmbedInput]) -> "Copies":
        """Launch the passes of a batch of whole sequences and the copy of its results."""
        tokens = [one.tokens(0, one.length) for one in inputs]
        ids, lengths = stack_rows(tokens, longest_sequence(self.model.config), self.device)
        results = []
        for reverse in self.options.directions:
            if reverse:
                ids = self._complement[strands.flip(ids, lengths).int()]
            spans = np.array([one.span_of(reverse) for one in inputs], np.int64)
            results.append(self._run_batch(ids, lengths, spans, reverse))
        return self._combine(results)

    def _run_batch(
        self, ids: Tensor, lengths: Tensor | None, spans: NDArray[np.int64], reverse: bool
    ) -> Pooled:
        """One strand. Pooling none gives the positions of all spans, (1, layers, all, D)."""
        if self.model.is_causal:
            # Nothing that is kept depends on what follows the spans.
            ids, lengths = ids[:, : round_up(int(spans[:, 1].max()))], None
        hidden = self.model.hidden_at(ids, self.layers, lengths)
        if self.options.pooling.kind == "none":
            index = upload(_positions(spans, ids.shape[1], reverse), self.device)
            rows = [layer.flatten(0, 1)[index].float() for layer in hidden]
            return Pooled(torch.stack(rows).unsqueeze(0), torch.empty(0, device=self.device))
        pooler = Pooler(self.options.pooling, spans, reverse=reverse)
        pooler.add(0, ids, hidden)
        return pooler.finish()

    def _combine(self, results: Sequence[Pooled]) -> "Copies":
        """Both strands as `rc` asks, on their way to the host, with the numbers of bases."""
        vectors = [one.vectors.float() for one in results]
        if self.options.rc == "average":
            vectors = [(vectors[0] + vectors[1]) / 2]
        return Copies((torch.cat(vectors, -1), results[0].n_bases))

    # --- long sequences

    def pool_stream(self, one: EmbedInput) -> "Copies":
        """As `start_batch` for one sequence that is read in pieces."""
        results = []
        for reverse in self.options.directions:
            spans = np.array([one.span_of(reverse)], np.int64)
            pooler = Pooler(self.options.pooling, spans, reverse=reverse)
            for chunk in self._stream(one, reverse):
                pooler.add(chunk.start, chunk.token_ids, chunk.hidden)
            results.append(pooler.finish())
        return self._combine(results)

    def keep_stream(self, one: EmbedInput) -> list[Vectors]:
        """Every position of the span of a sequence that is read in pieces: (span length, D_out) a
        layer, in a file if there is a scratch folder."""
        shape = (one.span[1] - one.span[0], self.options.width(self.model.config.d_model))
        stores = [PositionStore(shape, self.scratch) for _ in self.layers]
        for reverse in self.options.directions:
            under_way: deque[tuple[int, Copies]] = deque()
            for first, rows in self._rows_of_span(one, reverse):
                # One piece is written while the next is computed.
                under_way.append((first, Copies(rows)))
                if len(under_way) > 1:
                    self._write(stores, *under_way.popleft(), reverse)
            for first, copies in under_way:
                self._write(stores, first, copies, reverse)
        return [store.finish() for store in stores]

    def _rows_of_span(
        self, one: EmbedInput, reverse: bool
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """Hidden states (l, D) of each layer in a piece, and the position in the span at which
        they begin."""
        low, high = one.span_of(reverse)
        for chunk in self._stream(one, reverse):
            start = max(low, chunk.start)
            here = slice(start - chunk.start, min(high - chunk.start, chunk.token_ids.shape[1]))
            if here.start < here.stop:
                yield start - low, tuple(layer[0, here].float() for layer in chunk.hidden)

    def _write(
        self, stores: "list[PositionStore]", first: int, copies: "Copies", reverse: bool
    ) -> None:
        """Put one strand's rows of positions from `first` on into the stores."""
        for store, rows in zip(stores, copies.wait(), strict=True):
            start, width = first, rows.shape[1]
            if reverse:
                start, rows = store.n_rows - first - len(rows), rows[::-1]
            if self.options.rc == "concat":
                both = store.read(start, start + len(rows))
                both[:, width * reverse : width * (1 + reverse)] = rows
                rows = both
            elif reverse:
                rows = (store.read(start, start + len(rows)) + rows) / 2
            store.write(start, rows)

    def _stream(self, one: EmbedInput, reverse: bool) -> Iterator[StreamedChunk]:
        """Chunks up to the end of the span, as the model is causal."""
        stop, size = one.span_of(reverse)[1], self.chunk_tokens

        def pieces() -> Iterator[Tensor]:
            for start in range(0, stop, size):
                ids = one.tokens(start, min(start + size, stop), reverse)
                piece = torch.from_numpy(ids).unsqueeze(0)
                yield piece.pin_memory() if self.device.type == "cuda" else piece

        return self.model.stream(pieces(), layers=self.layers, chunk_tokens=size)


class Copies:
    """Copies of tensors on their way from the device to the host."""

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
        """The arrays, copied out of pinned memory, which the next batch reuses."""
        if self._event is not None:
            self._event.synchronize()
        return [tensor.numpy().copy() for tensor in self._tensors]


class PositionStore:
    """Rows of float32 in memory, or in a file without a name, which ends with its array. The file
    is written and read as such: mapped pages would count as memory used."""

    def __init__(self, shape: tuple[int, int], folder: Path | None) -> None:
        self.n_rows, self._shape = shape[0], shape
        n_bytes = 4 * shape[0] * shape[1]
        if folder is None:
            self._file: mmap.mmap | IO[bytes] = mmap.mmap(-1, n_bytes)
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with the array
        self._file.truncate(n_bytes)

    def write(self, first: int, rows: Vectors) -> None:
        self._file.seek(4 * first * self._shape[1])
        self._file.write(np.ascontiguousarray(rows).data)

    def read(self, first: int, stop: int) -> Vectors:
        """A copy of rows [first, stop)."""
        self._file.seek(4 * first * self._shape[1])
        content = bytearray(self._file.read(4 * (stop - first) * self._shape[1]))
        return np.frombuffer(content, np.float32).reshape(-1, self._shape[1])

    def finish(self) -> Vectors:
        """All rows: an array, or a memmap of the file."""
        if isinstance(self._file, mmap.mmap):
            return np.frombuffer(self._file, np.float32).reshape(self._shape)
        self._file.flush()
        return np.memmap(self._file, np.float32, "r+", shape=self._shape)


def _positions(spans: NDArray[np.int64], width: int, reverse: bool) -> NDArray[np.int64]:
    """Flat indices into a (B, width) batch of the positions of all spans, one after another; a
    reverse complement's in the order of the forward strand."""
    sizes = spans[:, 1] - spans[:, 0]
    firsts = np.arange(len(spans)) * width + (spans[:, 1] - 1 if reverse else spans[:, 0])
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.repeat(firsts, sizes) + (-within if reverse else within)
