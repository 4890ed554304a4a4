"""Metrics of a run: units, interval means, and metrics.jsonl."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dnamamba.files import write_text


def bits_per_base(nats: float) -> float:
    """Convert a loss in nats; 2 is uniform over A, C, G and T."""
    return nats / math.log(2)


def perplexity(nats: float) -> float:
    """exp of a loss in nats; 4 is uniform over A, C, G and T. Infinite past overflow."""
    return math.exp(nats) if nats < 700 else math.inf


class IntervalMean:
    """Mean loss and throughput since the last row."""

    def __init__(self, losses: Iterable[float] = ()) -> None:
        """losses: since the last row before a restart; their time is not counted."""
        self.losses = list(losses)
        self._tokens = 0
        self.restart_clock()

    def add(self, loss: float, tokens: int) -> None:
        self.losses.append(loss)
        self._tokens += tokens

    def restart_clock(self) -> None:
        """Leave a validation or a checkpoint out of the throughput."""
        self._started = time.monotonic()

    def take(self) -> tuple[float, float]:
        """Return (mean loss, tokens a second), and start over."""
        mean = sum(self.losses) / len(self.losses)
        rate = self._tokens / max(time.monotonic() - self._started, 1e-9)
        self.losses, self._tokens = [], 0
        self.restart_clock()
        return mean, rate


class MetricsFile:
    """metrics.jsonl: one JSON object a line, with at least `step` and `split`."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        with open(self.path, "a", encoding="utf8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a line that a kill cut off is skipped."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
        return rows

    def rewind(self, step: int) -> None:
        """Drop rows after `step`: a resumed run writes them again."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
