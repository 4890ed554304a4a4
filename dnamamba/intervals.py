"""Genomic intervals, strands, splits and sizes; the only place where 1-based coordinates appear.

Inside the library coordinates are 0-based and half-open, as in BED. People, regions on a command
line and VCF count from 1 and include the end: `Interval.parse` and `str(interval)` convert.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dnamamba.errors import InputError


class Strand(StrEnum):
    FORWARD = "+"
    REVERSE = "-"
    UNKNOWN = "."


class Split(StrEnum):
    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A stretch of one contig.

    chrom: the contig's name.
    start: first base, 0-based.
    end: one past the last base, 0-based; never before start.
    strand: "+", "-" or "." (unknown).
    """

    chrom: str
    start: int
    end: int
    strand: Strand = Strand.FORWARD

    def __post_init__(self) -> None:
        if self.start < 0 or self.end < self.start:
            raise InputError(
                f"an interval needs 0 <= start <= end, got {self.chrom} start {self.start} "
                f"end {self.end} (0-based, half-open)"
            )
        if type(self.strand) is not Strand:
            object.__setattr__(self, "strand", Strand(self.strand))

    @property
    def length(self) -> int:
        """Bases covered."""
        return self.end - self.start

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two share at least one base (strands do not matter)."""
        shared = min(self.end, other.end) - max(self.start, other.start)
        return self.chrom == other.chrom and shared > 0

    def __str__(self) -> str:
        """1-based and inclusive, as people write it: `chr1:1,001-2,000`."""
        return f"{self.chrom}:{self.start + 1:,}-{self.end:,}"

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """Read `chr1:1,001-2,000`, 1-based and inclusive, with a strand or without.

        Raises InputError for any other form, a position below 1 or an end before its start.
        """
        region = match_region(text.strip())
        if region is None or region.brackets:
            raise InputError(
                f"a region must look like chr1:1,001-2,000 (1-based, end included), got {text!r}"
            )
        start, end = int(region.start), int(region.end)
        if start < 1 or end < start:
            raise InputError(f"a region needs 1 <= start <= end (1-based), got {text!r}")
        return cls(region.chrom, start - 1, end, region.strand)


class WrittenRegion(NamedTuple):
    """A region as people write it; positions count from 1, the end is included."""

    chrom: str

    start: str
    """Digits, without separators."""

    end: str
    """Digits, without separators."""

    strand: Strand
    """+ if none is written."""

    brackets: str
    """`(+)`, `(-)`: written so by bedtools, which counts from 0, and by samtools, from 1."""


_REGION = re.compile(
    r"(?P<chrom>.+):(?P<start>\d[\d,_]*)-(?P<end>\d[\d,_]*)"
    r"(?::(?P<strand>[-+.*])|(?P<brackets>\([-+.*]\))|(?P<reverse>/rc))?",
    re.ASCII,
)


def match_region(text: str) -> WrittenRegion | None:
    """Split `chr1:1,001-2,000`; None if the text is written otherwise.

    The last `:start-end` is the range, so names may hold colons: `HLA:1-2:5-10`. The strand may
    follow: `:+`, `:-`, `:*` (Bioconductor), `/rc` (samtools faidx -i), or in brackets.
    """
    match = _REGION.fullmatch(text)
    if match is None:
        return None
    start, end = (re.sub("[,_]", "", match[name]) for name in ("start", "end"))
    written = "-" if match["reverse"] else match["strand"] or "+"
    strand = Strand.UNKNOWN if written == "*" else Strand(written)
    return WrittenRegion(match["chrom"], start, end, strand, match["brackets"] or "")


_SIZE = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*([kKmMgG]?)")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_size(text: str | int) -> int:
    """Read a number of bases: `131072`, `1_000_000`, `450k`, `1M`.

    k, M and G are powers of two, as sequence lengths are: 1k = 1,024, 1M = 1,048,576. So `1M` is
    2^20 and `1000k` is 1,024,000; write `1_000_000` for a round million.
    Raises InputError for anything else, for zero and for fractions of a base.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise InputError(
            f"a size must look like 1024, 1_000_000, 450k or 1M (= 2^20), got {text!r}"
        )
    number, unit = re.sub("[,_]", "", match[1]), _UNITS[match[2].lower()]
    size = float(number) * unit if "." in number else int(number) * unit
    if size != int(size) or size < 1:
        raise InputError(f"a size must be a whole number of bases, >= 1, got {text!r}")
    return int(size)


def format_size(size: int) -> str:
    """The shortest exact way `parse_size` reads back: 1048576 -> `1M`, 1000 -> `1000`."""
    for unit in ("G", "M", "k"):
        scale = _UNITS[unit.lower()]
        if size >= scale and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)
