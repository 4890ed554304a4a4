"""Small files of labelled sequences for the tests."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np


def write_table(
    path: Path, rows: Iterable[Sequence[object]], header: Sequence[str] = ("sequence", "label")
) -> str:
    """A CSV, or TSV if its name ends so; the path as configs take it."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return str(path)


def random_rows(
    n: int, labels: Sequence[str] = "ab", length: int = 20, seed: int = 0
) -> list[tuple[str, str]]:
    """Sequences that are all different, with labels in turn."""
    letters = np.random.default_rng(seed).choice(list("ACGT"), (n, length))
    return [("".join(row), labels[i % len(labels)]) for i, row in enumerate(letters)]
