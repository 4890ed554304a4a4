"""Embeddings and labels made by hand, with what is known of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.probing.labels import LabelTable
from dnamamba.probing.problem import Layer
from label_files import write_table

PEAKS = ("name", "label")


@dataclass
class MadeEmbeddings:
    """What a probe needs of an embeddings file."""

    vectors: NDArray[Any]
    table: dict[str, NDArray[Any]]
    ok: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.ok = self.table["status"] == "ok"

    def ordered(self, rows: Sequence[int] | NDArray[Any]) -> "MadeEmbeddings":
        """The same rows in another order, or some of them."""
        return replace(
            self,
            vectors=self.vectors[rows],
            table={name: column[rows] for name, column in self.table.items()},
        )

    @property
    def layers(self) -> list[Layer]:
        return [Layer("layer 3", lambda: self)]


def embeddings(
    vectors: NDArray[Any], chroms: Sequence[str] | None = None, **columns: Any
) -> MadeEmbeddings:
    """Rows p0, p1, ... of 100 bases, 1,000 apart, on chr1 or the chromosomes given."""
    n = len(vectors)
    table: dict[str, Any] = {
        "chrom": chroms or ["chr1"] * n,
        "start": 1000 * np.arange(n),
        "end": 1000 * np.arange(n) + 100,
        "strand": ["+"] * n,
        "name": [f"p{i}" for i in range(n)],
        "status": ["ok"] * n,
    }
    table |= columns
    return MadeEmbeddings(
        np.asarray(vectors, np.float32),
        {
            name: np.asarray(values) if name in ("start", "end") else np.array(values, object)
            for name, values in table.items()
        },
    )


def labels(
    path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = PEAKS, **options: Any
) -> LabelTable:
    """A table of labels, and which columns of it are read."""
    write_table(path, rows, header)
    return LabelTable(path=path, **options)


def named(values: Iterable[Any]) -> list[tuple[str, Any]]:
    """Labels of p0, p1, ..."""
    return [(f"p{i}", value) for i, value in enumerate(values)]


def two_classes(
    n: int, distance: float, width: int = 8, seed: int = 0
) -> tuple[MadeEmbeddings, list[str]]:
    """Noise, and a shift of one number between cold and hot rows, which take turns."""
    is_hot = np.arange(n) % 2
    vectors = np.random.default_rng(seed).normal(size=(n, width))
    vectors[:, 2] += distance * is_hot
    return embeddings(vectors), [("cold", "hot")[i] for i in is_hot]
