"""Lines of a text that comes plain, gzip or BGZF, from a file or from a pipe; and what it holds.

Content decides, never a file's name: `reads.txt` may be gzip, `/data/csv/x` a VCF.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from dnamamba.errors import InputError
from dnamamba.files import (
    BGZF_END,
    Buffered,
    compression_of,
    compression_of_head,
    open_existing,
    refuse_damage,
    refuse_truncated_bgzf,
    unpacked,
)
from dnamamba.intervals import match_region

RegionFormat = Literal["fasta", "bed", "vcf", "gtf", "region", "table"]
"""gtf: GFF3 too. region: a list of `chr1:1-2,000`. table: CSV, TSV or parquet with sequences."""

DEFAULT_SEQUENCE_COLUMN = "sequence"

_PEEKED = 1 << 13
_BLOCK = 1 << 20
_EXPECTED = "FASTA, BED, VCF, GFF, GTF, regions like chr1:1-2,000 or a table with sequences"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Common formats that are not read: how they begin, what to do instead.
_REFUSED = {
    b"@": "looks like FASTQ or SAM: convert it to FASTA (samtools fasta)",
    b"BAM\1": "is BAM: convert it to FASTA (samtools fasta) or to BED (bedtools bamtobed)",
    b"BCF\2": "is BCF: convert it to VCF (bcftools view)",
    b"\x89HDF": "is HDF5: name it as the genome, and give a BED or VCF of what to read",
    b"PK": "is an Excel workbook or a zip: save the sheet as CSV (UTF-8)",
    b"\xff\xfe": "is text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "is text in UTF-16: save it as UTF-8",
}


class TextInput:
    """An open text: `name` for messages, `head` its first kilobytes, and its lines, once.

    stream: unpacked bytes from the beginning. file: the file they come from, unless it is packed.
    """

    def __init__(self, name: str, stream: Buffered, file: BinaryIO | None = None):
        self.name = name
        self.head = stream.peek(_PEEKED).removeprefix(_BYTE_ORDER_MARK)
        self.stream = stream
        self._file = file

    @property
    def is_parquet(self) -> bool:
        return self.head.startswith(b"PAR1")

    def lines(self, errors: str = "surrogateescape") -> Iterator[tuple[int, str]]:
        """(number from 1, line) without line ends (LF or CRLF); skips blank lines.

        errors: as in bytes.decode. Raises InputError for damaged or truncated compressed data.
        """
        with refuse_damage(Path(self.name)):
            for number, line in enumerate(self.stream, start=1):
                text = line.rstrip(b"\r\n").decode("utf-8", errors)
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    yield number, text

    def blocks(self) -> Iterator[bytes]:
        """All bytes, a MiB at a time. Raises as `lines` does."""
        with refuse_damage(Path(self.name)):
            if self.stream.peek(len(_BYTE_ORDER_MARK)).startswith(_BYTE_ORDER_MARK):
                self.stream.read(len(_BYTE_ORDER_MARK))
            yield from iter(partial(self.stream.read1, _BLOCK), b"")

    def seekable(self) -> BinaryIO:
        """All of it, for reading at any place: the file itself, or else held in memory."""
        return self._file or io.BytesIO(self.stream.read())


@contextmanager
def open_text(source: Path | BinaryIO, name: str | None = None) -> Iterator[TextInput]:
    """Open a path, or a stream such as standard input, which stays open.

    Raises FileNotFoundError, and InputError for folders, binary files, UTF-16, line ends of old
    Macs and, while it is read, damaged or truncated compressed data.
    """
    if not isinstance(source, Path):
        yield _text_of(source, name or "standard input")
        return
    # What is no regular file, as in `<(zcat x.gz)`, can be read once only.
    if source.is_file() and compression_of(source) == "bgzf":
        refuse_truncated_bgzf(source)
    with open_existing(source) as raw:
        yield _text_of(raw, name or str(source), is_file=source.is_file())


def _text_of(stream: BinaryIO, name: str, *, is_file: bool = False) -> TextInput:
    # A reader of our own can be peeked into, whatever the stream is.
    raw = _Remembering(stream)
    given: Buffered = io.BufferedReader(raw, _PEEKED)
    compression = compression_of_head(given.peek(18))
    if compression != "none":
        whole = raw if compression == "bgzf" else None
        given = io.BufferedReader(_Unpacking(given, whole), 1 << 16)
    with refuse_damage(Path(name)):
        text = TextInput(name, given, stream if is_file and compression == "none" else None)
    _refuse_other_formats(text)
    return text


class _Remembering(io.RawIOBase):
    """Passes on reads of a stream, which it never closes, and remembers the last bytes read."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.last = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self.last = (self.last + block)[-len(BGZF_END) :]
        return len(block)


class _Unpacking(io.RawIOBase):
    """Text of gzip data. bgzf: the source of BGZF data, which has to end with an empty block."""

    def __init__(self, packed: Buffered, bgzf: _Remembering | None):
        self._text = unpacked(packed)
        self._bgzf = bgzf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._text.read(len(buffer))
        buffer[: len(block)] = block
        if not block and self._bgzf is not None and self._bgzf.last != BGZF_END:
            raise EOFError("BGZF data ends with an empty block, this does not")
        return len(block)


def _refuse_other_formats(text: TextInput) -> None:
    for begin, what in _REFUSED.items():
        if text.head.startswith(begin):
            raise InputError(f"{text.name} {what}. Expected {_EXPECTED}")
    if text.is_parquet:
        return
    if b"\0" in text.head:
        raise InputError(f"{text.name} is not text in UTF-8: expected {_EXPECTED}, plain or gzip")
    if b"\r" in text.head and b"\n" not in text.head:
        raise InputError(f"{text.name} has line ends of old Macs (only CR): convert them to LF")


def format_of(text: TextInput, sequence_column: str | None = None) -> RegionFormat:
    """The format of a text.

    FASTA, VCF, GFF3 and parquet begin with a mark of theirs. Else the first row decides: one of
    GTF, a region, or a header with the column of sequences. What is left is BED, or a table if a
    column of sequences is named.
    """
    head = text.head.lstrip()
    if head.startswith(b">"):
        return "fasta"
    if head.startswith((b"##fileformat=VCF", b"#CHROM\tPOS\tID")):
        return "vcf"
    if text.is_parquet:
        return "table"
    if head.startswith(b"##gff"):
        return "gtf"
    first = _first_row(head.decode("utf-8", "replace"))
    if _GTF_ROW.match(first):
        return "gtf"
    if looks_like_region(first):
        return "region"
    names = [field.strip(' "') for field in re.split("[\t,;]", first)]
    is_table = DEFAULT_SEQUENCE_COLUMN in names and not is_bed_header(names)
    return "table" if is_table or sequence_column is not None else "bed"


# chr1  HAVANA  gene  11869  14409  .  +  .  gene_id ...; in BED columns 2 and 3 are numbers.
_GTF_ROW = re.compile(
    r"[^\t]+\t[^\t]*\t[^\t]*[^\t\d][^\t]*\t\d+\t\d+\t[^\t]*\t[-+.?]\t[.012](\t|$)"
)


def _first_row(head: str) -> str:
    return next((line for line in head.splitlines() if line.strip() and not is_comment(line)), "")


def is_comment(line: str) -> bool:
    """Whether a line of BED, GFF or GTF is a comment, `track` or `browser` line."""
    return line.startswith("#") or line.split(maxsplit=1)[0] in ("track", "browser")


def is_bed_header(fields: list[str]) -> bool:
    """Whether a first row names the columns, as tables saved with their header do."""
    names = [field.strip().lower() for field in fields[1:3]]
    return names in (["start", "end"], ["chromstart", "chromend"], ["start", "stop"])


def looks_like_region(text: str) -> bool:
    """Whether it is one word like `chr1:1-2,000`, with a strand or without."""
    return len(text.split()) == 1 and match_region(text.strip()) is not None
