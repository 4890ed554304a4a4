"""Results of fused scans, kept while a backward recomputes what led to them."""

import threading
from collections import deque

from torch import Tensor

Results = tuple[Tensor, ...]


class KeptScans:
    """Results of the scans of one stretch of a model, in order.

    Scans within `recording()` leave their results here. Within `reusing()` they take them, each
    once, instead of running; if none is left (a second backward) they run. The stretch must not
    change a result in place: taking it then raises RuntimeError.
    """

    def __init__(self) -> None:
        self.results: deque[tuple[Results, list[int]]] = deque()

    def recording(self) -> "_Use":
        return _Use(self, takes=False)

    def reusing(self) -> "_Use":
        return _Use(self, takes=True)


class _Use:
    """A context that may be entered again."""

    def __init__(self, kept: KeptScans, *, takes: bool) -> None:
        self.kept, self.takes = kept, takes

    def __enter__(self) -> None:
        _uses().append(self)

    def __exit__(self, *error: object) -> None:
        _uses().pop()
        if self.takes:
            # torch may have ended the repetition early, before its last scan.
            self.kept.results.clear()


def take_kept() -> Results | None:
    """Return what a scan about to run returned before, if it runs again."""
    uses = _uses()
    if not (uses and uses[-1].takes and uses[-1].kept.results):
        return None
    results, versions = uses[-1].kept.results.popleft()
    if [result._version for result in results] != versions:
        raise RuntimeError(
            "what selective_scan returned was changed in place, and is needed again for the "
            "backward: change a clone of it, or recompute whole blocks (recompute='blocks')"
        )
    return results


def keep(*results: Tensor) -> None:
    """Leave the results of a scan that has run with the innermost recording."""
    uses = _uses()
    if uses and not uses[-1].takes:
        kept = tuple(result.detach() for result in results)
        uses[-1].kept.results.append((kept, [result._version for result in kept]))


def _uses() -> list[_Use]:
    """Return this thread's uses, innermost last: backwards run in threads of autograd."""
    if not hasattr(_thread, "uses"):
        _thread.uses = []
    uses: list[_Use] = _thread.uses
    return uses


_thread = threading.local()
