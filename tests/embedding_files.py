"""Files of embeddings for tests: rows that follow from a seed, and their settings."""

from pathlib import Path

import numpy as np

from dnamamba.embedding.format import EmbeddedRow, EmbeddingInfo
from dnamamba.embedding.writer import EmbeddingWriter

LAYERS = (2, 5)
D = 8
POOLINGS = ("mean", "bins:3", "none")


def make_info(**changes) -> EmbeddingInfo:
    settings = {
        "model": "runs/demo",
        "model_sha256": "ab12",
        "layers": LAYERS,
        "d_out": D,
        "pooling": "mean",
        "rc": "none",
        "context": 1000,
        "edge": "shift",
        "dtype": "float32",
        "precision": "fp32",
        "source_sha256": "cd34",
        "genome": ({"name": "hg38.fa", "sha256": "ef56"},),
        "columns": ("chrom", "score", "a/b"),
    }
    return EmbeddingInfo(**(settings | changes))


def make_rows(info: EmbeddingInfo, n=20, seed=0) -> list[EmbeddedRow]:
    """Every fifth row has failed; without pooling row i has i % 4 positions."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        shape = ((i % 4,) if info.per_position else ()) + info.vector_shape
        vectors = [rng.standard_normal(shape).astype(np.float32) for _ in info.layers]
        failed = i % 5 == 3
        columns = (f"chr{i % 2 + 1}", str(i / 4), "x" * i)[: len(info.columns)]
        rows.append(
            EmbeddedRow(
                line=i + 2,
                chrom=f"chr{i % 2 + 1}",
                start=-1 if failed else 100 * i,
                end=-1 if failed else 100 * i + 50,
                strand="+-."[i % 3],
                name="" if i % 7 == 6 else f"peak{i % 10}",
                window_start=-1 if failed else 100 * i - 5,
                window_end=-1 if failed else 100 * i + 60,
                status="unreadable" if failed else "ok",
                note="the genome has no contig 'chr9'" if failed else "",
                columns=columns,
                vectors=None if failed else vectors,
            )
        )
    return rows


def write_parts(writer: EmbeddingWriter, rows: list[EmbeddedRow], size: int) -> int:
    """Write what is not there; returns the number of parts."""
    starts = range(0, len(rows), size)
    for part, start in enumerate(starts):
        if not writer.done(part):
            writer.write(part, rows[start : start + size])
    return len(starts)


def write_file(path: Path, info: EmbeddingInfo, rows: list[EmbeddedRow], size=7) -> Path:
    writer = EmbeddingWriter(path, info)
    return writer.finish(write_parts(writer, rows, size))
