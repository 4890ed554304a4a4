"""Progress of a run: a live line on a terminal, else lines in the log."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dnamamba.runtime import logger


def format_rate(per_second: float) -> str:
    """Format bases a second: 1234567.0 -> `1.23 Mb/s`."""
    millions = per_second / 1e6
    return f"{millions:.2f} Mb/s" if millions >= 1 else f"{per_second / 1e3:.1f} kb/s"


class TrainingProgress:
    """Shows the rows of metrics.jsonl. summary: a row in a few words."""

    def __init__(
        self,
        max_steps: int,
        first_step: int = 0,
        *,
        summary: Callable[[Mapping[str, Any]], str],
        enabled: bool = True,
    ):
        console = Console(stderr=True)
        self.enabled = enabled
        self._live = enabled and console.is_terminal
        self._started = time.monotonic()
        self._first_step = first_step
        self._summary = summary
        self._max_steps = max_steps
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._progress.add_task(
            "train", total=max_steps, completed=first_step, note=""
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def trained(self, row: dict[str, Any]) -> None:
        if not self.enabled:
            return
        note = f"{self._summary(row)}, {format_rate(row['tokens_per_s'])}"
        if "gpu_memory_gib" in row:
            note += f", {row['gpu_memory_gib']:.1f} GiB"
        if self._live:
            self._progress.update(self._task, completed=row["step"], note=note)
        else:
            step = f"step {row['step']}/{self._max_steps}"
            logger.info("%s: train %s, %s", step, note, self._eta(row))

    def advanced(self, step: int) -> None:
        """Show a step that has no row."""
        if self._live:
            self._progress.update(self._task, completed=step)

    def validated(self, row: dict[str, Any]) -> None:
        text = f"step {row['step']}: validation {self._summary(row)}"
        if self._live:
            self._progress.console.print(text, highlight=False)
        elif self.enabled:
            logger.info(text)

    def _eta(self, row: dict[str, Any]) -> str:
        done = row["step"] - self._first_step
        left = (time.monotonic() - self._started) / max(1, done) * (self._max_steps - row["step"])
        return f"{int(left // 60)}:{int(left % 60):02d} left"
