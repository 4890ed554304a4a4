"""Statistics of a FASTA from one pass: lengths, letters, soft-masking, runs of N, checksum.

The pass takes seconds for a human genome: its result is kept in the cache folder while the file's
size and time of change stay the same.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.fasta import FastaReader, FastaRecord
from dnamamba.files import open_existing, read_json_or_nothing, write_json
from dnamamba.runtime import cache_folder
from dnamamba.tokenizer import N_ID, TOKEN_MASK, UNK_ID, Codes, encode, is_soft_masked, token_ids

Runs = NDArray[np.int64]
"""Ranges of one contig as rows (start, end), 0-based half-open, sorted, apart. Shape (k, 2)."""

_CACHE_VERSION = 1


@dataclass(frozen=True)
class ContigStatistics:
    """Statistics of a contig. letters: how often each letter stands in the file."""

    name: str
    length: int
    soft_masked: int
    letters: dict[str, int]
    n_runs: Runs

    @property
    def n_bases(self) -> int:
        """Positions that are not A, C, G, T or U: N, ambiguity letters, gaps, other letters."""
        return int((self.n_runs[:, 1] - self.n_runs[:, 0]).sum())


@dataclass(frozen=True)
class FileStatistics:
    """Statistics of a FASTA. source: name, size and sha256 of the file on disk, for manifests."""

    source: dict[str, str | int]
    contigs: tuple[ContigStatistics, ...]


def runs_where(mask: NDArray[np.bool_]) -> Runs:
    """The ranges in which a mask over one contig is true."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges.reshape(-1, 2).astype(np.int64)


def n_runs_of(codes: Codes) -> Runs:
    """Ranges without a readable base: N, ambiguity letters (read as N) and unknown letters."""
    ids = token_ids(codes)
    return runs_where((ids == N_ID) | (ids == UNK_ID))


def statistics_of_record(record: FastaRecord) -> ContigStatistics:
    letters = {chr(i): int(count) for i, count in enumerate(record.letters) if count}
    soft_masked = int(np.count_nonzero(is_soft_masked(record.codes)))
    return ContigStatistics(
        record.name, len(record.codes), soft_masked, letters, n_runs_of(record.codes)
    )


def foreign_letters(statistics: Iterable[ContigStatistics], limit: float = 0.01) -> str | None:
    """A warning if more than a share of all letters is outside IUPAC, else None."""
    letters: Counter[str] = Counter()
    for row in statistics:
        letters.update(row.letters)
    foreign = [letter for letter in letters if encode(letter)[0] & TOKEN_MASK == UNK_ID]
    share = sum(letters[letter] for letter in foreign) / max(1, letters.total())
    if share <= limit:
        return None
    names = ", ".join(sorted({letter.upper() for letter in foreign}))
    return f"{share:.0%} of the letters mean no base ({names}): is this DNA?"


def scan_fasta(path: Path) -> FileStatistics:
    """Statistics of a FASTA (plain, gzip or BGZF), from the cache if the file has not changed."""
    open_existing(path).close()
    size, changed = path.stat().st_size, path.stat().st_mtime_ns
    place = str(path.resolve())
    stamp = {"version": _CACHE_VERSION, "path": place, "size_bytes": size, "mtime_ns": changed}
    key = hashlib.sha256(place.encode()).hexdigest()[:16]
    cached = cache_folder() / "facts" / f"{key}-{path.name}.json"
    saved = read_json_or_nothing(cached)
    if saved.get("stamp") != stamp:
        reader = FastaReader(path)
        rows = [vars(statistics_of_record(record)) for record in reader]
        rows = [row | {"n_runs": row["n_runs"].tolist()} for row in rows]
        saved = {"stamp": stamp, "sha256": reader.sha256, "contigs": rows}
        # A cache that cannot be written costs the next run one pass, nothing else.
        with suppress(OSError):
            write_json(cached, saved, indent=None)
    contigs = [
        ContigStatistics(**row | {"n_runs": np.array(row["n_runs"], np.int64).reshape(-1, 2)})
        for row in saved["contigs"]
    ]
    source = {"file": path.name, "size_bytes": size, "sha256": saved["sha256"]}
    return FileStatistics(source, tuple(contigs))
