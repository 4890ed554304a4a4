"""A file of embeddings made of a table of regions, part by part; `dnamamba embed`.

Rows are cut into parts by what they are alone, so that any number of processes, stopped and started
again at any moment, make the same file.
"""

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.region_rows import RegionRow, RowStatus, join_notes
from dnamamba.embedding import EmbedInput, Embedder
from dnamamba.embedding_file import EmbeddedRow, EmbeddingWriter
from dnamamba.runtime import Ranks

Vectors = list[NDArray[np.float32]]
T = TypeVar("T")

PART_ROWS, PART_BASES, PART_BYTES = 8192, 1 << 24, 1 << 26
"""What a part holds at most, of more than one row: rows, bases that are read, bytes of vectors."""


@dataclass
class Counts:
    """What became of the rows: in this process of those it did itself."""

    statuses: Counter[RowStatus] = field(default_factory=Counter)
    """Rows embedded now, by their status."""

    resumed: int = 0
    """Rows of parts that an earlier run had written."""

    bases: int = 0
    """Bases that the model read."""

    started: float = field(default_factory=time.monotonic)


def embed_rows(
    rows: Iterator[RegionRow],
    embedder: Embedder,
    writer: EmbeddingWriter,
    *,
    ranks: Ranks | None = None,
    on_part: Callable[[Counts], None] = lambda counts: None,
) -> tuple[int, Counts]:
    """Embed rows and write them in parts; returns how many parts there are, and what was done.

    Every process goes through all rows and takes each world_size-th part. Reading, computing and
    writing go on at the same time. on_part: called after each part.
    """
    rank, world_size = (0, 1) if ranks is None else (ranks.rank, ranks.world_size)
    counts, number = Counts(), -1
    with _InTurn() as writing:
        for number, part in enumerate(_ahead(_parts(rows, embedder))):
            if number % world_size != rank:
                continue
            if writer.done(number):
                counts.resumed += len(part)
                continue
            records = _embed_part(part, embedder, counts)
            writing.submit(writer.write, number, records)
            on_part(counts)
    return number + 1, counts


def _parts(rows: Iterator[RegionRow], embedder: Embedder) -> Iterator[list[RegionRow]]:
    part, n_bases, n_bytes = list[RegionRow](), 0, 0
    for row in rows:
        bases = row.length
        size = embedder.bytes_of(bases)
        is_full = len(part) == PART_ROWS or n_bases + bases > PART_BASES
        if part and (is_full or n_bytes + size > PART_BYTES):
            yield part
            part, n_bases, n_bytes = [], 0, 0
        part.append(row)
        n_bases, n_bytes = n_bases + bases, n_bytes + size
    if part:
        yield part


def _embed_part(
    part: Sequence[RegionRow], embedder: Embedder, counts: Counts
) -> list[EmbeddedRow]:
    readable = [row for row in part if row.length]
    inputs = [EmbedInput(row.length, row.read, row.span or (0, row.length)) for row in readable]
    found = dict(zip(map(id, readable), embedder(inputs), strict=True))
    records = [_record(row, found.get(id(row))) for row in part]
    counts.statuses.update(RowStatus(record.status) for record in records)
    counts.bases += sum(row.length for row in readable)
    return records


def _record(row: RegionRow, found: Vectors | str | None) -> EmbeddedRow:
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


# --- one thing after another, in a thread of its own


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made while one is at work."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


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


# --- what is read: hashed, and kept where it can be read again


@contextmanager
def keep_input(source: BinaryIO, folder: Path) -> Iterator[Path]:
    """A stream, such as standard input, as a file that several processes can read."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / ".input.building"
    try:
        with open(kept, "wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        yield kept
    finally:
        kept.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
