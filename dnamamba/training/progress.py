"""Progress of a run: a live line on a terminal, plain lines in the log elsewhere."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dnamamba.runtime import logger


def format_rate(per_second: float) -> str:
    """1234567.0 -> `1.23 Mb/s`: bases a second, in thousands or millions."""
    if per_second >= 1e6:
        return f"{per_second / 1e6:.2f} Mb/s"
    return f"{per_second / 1e3:.1f} kb/s"


class TrainingProgress:
    """Shows training and validation rows as metrics.jsonl gets them."""

    def __init__(
        self,
        max_steps: int,
        first_step: int = 0,
        *,
        summary: Callable[[Mapping[str, Any]], str],
        enabled: bool = True,
    ):
        """summary: a row of metrics in a few words."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def trained(self, row: dict[str, Any]) -> None:
        """Show a training row."""
        if not self.enabled:
            return
        note = f"{self._summary(row)}, {format_rate(row['tokens_per_s'])}"
        if "gpu_memory_gib" in row:
            note += f", {row['gpu_memory_gib']:.1f} GiB"
        if self._live:
            self._progress.update(self._task, completed=row["step"], note=note)
        else:
            logger.info(
                "step %s/%s: train %s, %s", row["step"], self._max_steps, note, self._eta(row)
            )

    def advanced(self, step: int) -> None:
        """Show a step that has no row."""
        if self._live:
            self._progress.update(self._task, completed=step)

    def validated(self, row: dict[str, Any]) -> None:
        """Show a validation row."""
        if not self.enabled:
            return
        self._say(f"step {row['step']}: validation {self._summary(row)}")

    def _say(self, text: str) -> None:
        if self._live:
            self._progress.console.print(text, highlight=False)
        else:
            logger.info(text)

    def _eta(self, row: dict[str, Any]) -> str:
        done = row["step"] - self._first_step
        left = (time.monotonic() - self._started) / max(1, done) * (self._max_steps - row["step"])
        return f"{int(left // 60)}:{int(left % 60):02d} left"
