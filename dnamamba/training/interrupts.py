"""SIGTERM (schedulers, preemption) and Ctrl-C ask a run to stop."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """Remembers a signal until the loop checks; a second Ctrl-C stops at once.

    The handler only sets a flag: the loop stops all ranks at the same step.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python delivers signals to the main thread alone
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
