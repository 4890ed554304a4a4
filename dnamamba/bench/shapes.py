"""Shapes to time, as people write them: `8x512x128k` and `mamba-7m:4x128k`."""

from dataclasses import dataclass
from typing import Self

from dnamamba.errors import InputError
from dnamamba.intervals import format_size, parse_size


@dataclass(frozen=True)
class ScanShape:
    """One call of an operator on (batch, seq_len, d_inner)."""

    batch: int
    d_inner: int
    seq_len: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse batch, d_inner and seq_len as in `8x512x128k`. Raises InputError."""
        return cls(*_parse_sizes(text, 3, "a shape", "BATCHxD_INNERxSEQ_LEN, e.g. 8x512x128k"))

    @property
    def n_elements(self) -> int:
        return self.batch * self.d_inner * self.seq_len

    def __str__(self) -> str:
        return f"{self.batch:,} x {self.d_inner:,} x {self.seq_len:,}"


@dataclass(frozen=True)
class TrainingRun:
    """Training steps of a named model on `batch` windows of `seq_len` bases."""

    model: str
    batch: int
    seq_len: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `mamba-7m:4x128k`; the model is not looked up. Raises InputError."""
        form = "MODEL:BATCHxSEQ_LEN, e.g. mamba-7m:4x128k"
        model, colon, shape = text.partition(":")
        if not (model and colon):
            raise InputError(f"a run must be {form}; got {text!r}")
        return cls(model, *_parse_sizes(shape, 2, "a run", form))

    def __str__(self) -> str:
        return f"{self.model}:{self.batch}x{format_size(self.seq_len)}"


def _parse_sizes(text: str, count: int, what: str, form: str) -> list[int]:
    parts = text.lower().split("x")
    if len(parts) != count:
        raise InputError(f"{what} must be {form}; got {text!r}")
    try:
        return [parse_size(part) for part in parts]
    except InputError as error:
        raise InputError(f"{what} must be {form}; in {text!r}: {error}") from error


def doubled_lengths(shortest: int, longest: int) -> list[int]:
    """Return `shortest`, twice that and so on up to `longest`. Raises InputError if none fits."""
    if shortest > longest:
        raise InputError(
            f"--max-len must be >= --min-len {format_size(shortest)}, got {format_size(longest)}"
        )
    lengths = [shortest]
    while 2 * lengths[-1] <= longest:
        lengths.append(2 * lengths[-1])
    return lengths
