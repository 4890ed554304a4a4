"""Tensors as a kernel sees them: rows of channels, one a step of time, and scratch memory."""

from collections.abc import Sequence

from dnamamba.kernels.codegen.emitter import POINTER, Emitter, Value


def per_step(*names: str) -> list[str]:
    return [f"{name}{suffix}" for name in names for suffix in ("", "_batch", "_step")]


class Rows:
    """One tensor (B, L, ...): where the row of a step begins, for one batch entry."""

    def __init__(self, e: Emitter, name: str, batch: Value, column: Value) -> None:
        self.e, self._step = e, e.argument(f"{name}_step")
        start = batch * e.argument(f"{name}_batch") + column
        self._start = e.offset(e.argument(name, POINTER), start)

    def at(self, step: Value) -> Value:
        return self.e.offset(self._start, step * self._step)


class Scratch:
    """Vectors in memory that a chunk's passes share."""

    def __init__(self, e: Emitter, count: int) -> None:
        self._e, self._start = e, e.reserve(e.vector, count)

    def at(self, index: Value | int) -> Value:
        return self._e.offset(self._start, index * self._e.lanes)

    def get(self, index: Value | int) -> Value:
        return self._e.load(self.at(index))

    def set(self, index: Value | int, vector: Value) -> None:
        self._e.store(vector, self.at(index))


def prefetch(streams: Sequence[Rows | None], step: Value) -> None:
    """Ask for a row that is used soon: they lie too far apart for the CPU to guess.

    Without it a pass over more than the caches hold takes twice as long.
    """
    for rows in streams:
        if rows is not None:
            rows.e.prefetch(rows.at(step))
