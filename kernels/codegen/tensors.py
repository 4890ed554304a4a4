"""Tensors in a kernel: rows of channels, one a step of time, and scratch memory."""

from collections.abc import Sequence

from dnamamba.kernels.codegen.emitter import POINTER, Emitter, Value


def per_step(*names: str) -> list[str]:
    return [f"{name}{suffix}" for name in names for suffix in ("", "_batch", "_step")]


class Rows:
    """Addresses of one tensor's rows (B, L, ...) by step, for one batch entry."""

    def __init__(self, e: Emitter, name: str, batch: Value, column: Value) -> None:
        self.e, self._step = e, e.argument(f"{name}_step")
        start = batch * e.argument(f"{name}_batch") + column
        self._start = e.offset(e.argument(name, POINTER), start)

    def at(self, step: Value) -> Value:
        return self.e.offset(self._start, step * self._step)


class ChannelBlock:
    """Neighbouring channels of one batch entry, masked."""

    def __init__(self, e: Emitter, batch: Value, channel: Value, mask: Value) -> None:
        self.e, self.batch, self.channel, self.mask = e, batch, channel, mask

    def rows(self, name: str) -> Rows:
        return Rows(self.e, name, self.batch, self.channel)

    def load(self, address: Value) -> Value:
        return self.e.load_masked(address, self.mask)

    def store(self, vector: Value, address: Value) -> None:
        self.e.store_masked(vector, address, self.mask)


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
    """Ask for rows used soon: they lie too far apart for the CPU to guess.

    Without it a pass over more than the caches hold takes twice as long.
    """
    for rows in streams:
        if rows is not None:
            rows.e.prefetch(rows.at(step))
