"""A file of embeddings made of rows of regions, part by part; `dnamamba embed`.

Rows are cut into parts by what they are alone, so that any number of processes, stopped and started
again at any moment, make the same file.
"""

import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import torch

from dnamamba.data_prep.regions.rows import RegionRow, RowStatus, join_notes
from dnamamba.embedding.embedder import Embedded, Embedder, EmbedInput
from dnamamba.embedding.writer import EmbeddedRow, EmbeddingWriter
from dnamamba.files import building, open_input
from dnamamba.runtime import Ranks

Allele = Literal["ref", "alt"]
T = TypeVar("T")

PART_ROWS, PART_BYTES = 8192, 1 << 26
"""What a part of more than one row holds at most: rows, bytes of vectors."""

PART_BASES = {"cuda": 1 << 24, "cpu": 1 << 20}
"""The same, bases that are read: seconds of work on a GPU, half a minute on a CPU. A kill costs as
much, and progress is told after each part."""

LAZY_FROM = 1 << 22
"""Longer windows are read piece by piece (WindowRule.lazy_from)."""


@dataclass
class Done:
    """How far this process is: rows and bases embedded, rows of parts that were there already."""

    rows: int = 0
    bases: int = 0
    resumed: int = 0


def division(device: torch.device) -> str:
    """How rows are divided into parts, for EmbeddingWriter, which goes on with such parts alone."""
    bases = PART_BASES[device.type]
    return f"{PART_ROWS} rows, {bases} bases, {PART_BYTES} bytes of float32 a part"


def embed_rows(
    rows: Iterable[RegionRow],
    embedder: Embedder,
    writer: EmbeddingWriter,
    *,
    allele: Allele = "ref",
    ranks: Ranks | None = None,
    on_part: Callable[[Done], None] = lambda done: None,
) -> int:
    """Embed rows and write them in parts; returns how many parts there are, for `writer.finish`.

    Each of several processes goes through all rows and takes every world_size-th part. Reading,
    computing and writing go on at the same time. allele: of a variant, which one is read. on_part:
    called after each part.
    """
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    done, n_parts = Done(), 0
    at_work = deque[tuple[int, list[RegionRow]]]()

    def parts() -> Iterator[tuple[list[RegionRow], list[EmbedInput]]]:
        for part in _parts(iter(rows), embedder):
            yield part, [_input_of(row, allele) for row in part if row.length]

    def inputs_to_embed() -> Iterator[list[EmbedInput]]:
        nonlocal n_parts
        for number, (part, inputs) in enumerate(_ahead(parts())):
            n_parts += 1
            if number % world_size != rank:
                continue
            if writer.done(number):
                done.resumed += len(part)
                on_part(done)
                continue
            at_work.append((number, part))
            yield inputs

    def take(found: list[Embedded]) -> None:
        number, part = at_work.popleft()
        writing.submit(_write_part, writer, number, part, found)
        done.rows += len(part)
        done.bases += sum(row.length for row in part)
        on_part(done)

    with _frequent_turns(), _InTurn() as writing:
        embedder.run(inputs_to_embed(), take)
    return n_parts


def _parts(rows: Iterator[RegionRow], embedder: Embedder) -> Iterator[list[RegionRow]]:
    part, n_bases, n_bytes = list[RegionRow](), 0, 0
    most_bases = PART_BASES[embedder.device.type]
    for row in rows:
        size = _bytes_of(row, embedder)
        is_full = len(part) == PART_ROWS or n_bases + row.length > most_bases
        if part and (is_full or n_bytes + size > PART_BYTES):
            yield part
            part, n_bases, n_bytes = [], 0, 0
        part.append(row)
        n_bases, n_bytes = n_bases + row.length, n_bytes + size
    if part:
        yield part


def _bytes_of(row: RegionRow, embedder: Embedder) -> int:
    pooling = embedder.options.pooling
    start, end = row.span or (0, 0)
    n_vectors = end - start if pooling.kind == "none" else pooling.n_vectors
    return 4 * n_vectors * embedder.d_out * len(embedder.layers)


def _write_part(
    writer: EmbeddingWriter, number: int, part: Sequence[RegionRow], found: Sequence[Embedded]
) -> None:
    """found: of each row that has something to read."""
    results = iter(found)
    records = [_record(row, next(results) if row.length else None) for row in part]
    writer.write(number, records)


def _input_of(row: RegionRow, allele: Allele) -> EmbedInput:
    if allele == "alt" and row.alternative is not None:
        assert row.variant_start is not None, "rows with an alternative say where it begins"
        start = row.variant_start
        return EmbedInput.of(row.alternative, (start, start + len(row.columns[-1])))
    assert row.span is not None, "what is read has a span"
    return EmbedInput(row.length, row.read, row.span)


def _record(row: RegionRow, found: Embedded | None) -> EmbeddedRow:
    region, window = row.region, row.window
    status, note, vectors = row.status, row.note, None
    if isinstance(found, str):
        status, note = RowStatus.FAILED, join_notes(note, found)
    else:
        vectors = found
    return EmbeddedRow(
        line=row.line,
        chrom="" if region is None else region.chrom,
        start=-1 if region is None else region.start,
        end=-1 if region is None else region.end,
        strand="." if region is None else str(region.strand),
        name=row.name,
        window_start=-1 if window is None else window.start,
        window_end=-1 if window is None else window.end,
        status=str(status),
        note=note,
        columns=row.columns,
        vectors=vectors,
    )


# --- side by side


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made in a thread while one is at work."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


@contextmanager
def _frequent_turns() -> Iterator[None]:
    """Let Python's threads take turns ten times as often: who launches a batch gives way at each of
    its hundreds of operations, and would wait 5 ms every time while rows are read or written."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, 5e-4))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _InTurn:
    """Does one thing at a time in a thread, and waits for it before it takes the next."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, action: Callable[..., None], *arguments: object) -> None:
        self._wait()
        self._last = self._pool.submit(action, *arguments)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None

    def __enter__(self) -> "_InTurn":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()


# --- what is read


def keep_stream(source: BinaryIO, path: Path) -> Path:
    """A stream, such as standard input, as a file that several processes can read."""
    with building(path) as kept, open(kept, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return path


def checksum(source: Path | str) -> str:
    """sha256 of what a file holds, unpacked, or of a text."""
    if isinstance(source, str):
        return hashlib.sha256(source.encode()).hexdigest()
    with open_input(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
