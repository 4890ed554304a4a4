"""Lines of a text that comes plain, gzip or BGZF, from a file or from a pipe; and what it holds.

Nothing is judged by a file's name: `reads.txt` may be gzip, `/data/csv/x` a VCF.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from dnamamba.data_prep.fasta import (
    BGZF_END,
    compression_of,
    open_existing,
    refuse_damage,
    refuse_truncated_bgzf,
)
from dnamamba.errors import InputError

if TYPE_CHECKING:
    Buffered = io.BufferedReader[Any]

RegionFormat = Literal["fasta", "bed", "vcf"]

_PEEKED = 1 << 13
# Of formats that people have at hand and that are not read: how they begin, what to do instead.
_REFUSED = {
    b"@": "looks like FASTQ or SAM: convert it to FASTA (samtools fasta)",
    b"BAM\1": "is BAM: convert it to FASTA (samtools fasta) or to BED (bedtools bamtobed)",
    b"BCF\2": "is BCF: convert it to VCF (bcftools view)",
    b"##gff": "is GFF: convert it to BED (its coordinates are 1-based)",
    b"\x89HDF": "is HDF5: name it as the genome, and give a BED or VCF of what to read",
}


class TextInput:
    """An open text: `name` for messages, `head` its first kilobytes, and its lines, once."""

    def __init__(self, name: str, stream: "Buffered"):
        self.name = name
        self.head = stream.peek(_PEEKED).removeprefix(b"\xef\xbb\xbf")
        self._stream = stream

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, line) without line ends (LF or CRLF) and without blank lines.

        Bytes that are not UTF-8 become surrogates, which encode(errors="surrogateescape") turns
        back. Raises InputError where compressed data ends too early or is damaged.
        """
        with refuse_damage(Path(self.name)):
            for number, line in enumerate(self._stream, start=1):
                text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    yield number, text


@contextmanager
def open_text(source: Path | BinaryIO, name: str | None = None) -> Iterator[TextInput]:
    """Open a path, or a stream such as standard input, which is left open.

    Raises FileNotFoundError, and InputError for a folder, for binary files and texts in UTF-16, for
    line ends of old Macs and, while it is read, for compressed data that is cut off or damaged.
    """
    if not isinstance(source, Path):
        yield _text_of(source, name or "standard input")
        return
    # What is no regular file, as in `<(zcat x.gz)`, can be read once only.
    if source.is_file() and compression_of(source) == "bgzf":
        refuse_truncated_bgzf(source)
    with open_existing(source) as raw:
        yield _text_of(raw, name or str(source))


def _text_of(stream: BinaryIO, name: str) -> TextInput:
    # A reader of our own can be peeked into, whatever the stream is.
    raw = _Remembering(stream)
    given: Buffered = io.BufferedReader(raw, _PEEKED)
    head = given.peek(18)[:18]
    is_packed = head[:2] == b"\x1f\x8b"
    is_bgzf = is_packed and len(head) == 18 and bool(head[3] & 4) and head[12:14] == b"BC"
    if is_packed:
        given = io.BufferedReader(_Unpacking(given, raw if is_bgzf else None), 1 << 16)
    with refuse_damage(Path(name)):
        text = TextInput(name, given)
    _refuse_other_formats(text)
    return text


class _Remembering(io.RawIOBase):
    """Passes reads of a stream on, which it never closes, and remembers the last bytes read."""

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
    """Text of gzip data. bgzf: where BGZF data, which has to end as such data does, comes from."""

    def __init__(self, packed: "Buffered", bgzf: _Remembering | None):
        self._text = gzip.GzipFile(fileobj=packed)
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
            raise InputError(f"{text.name} {what}. Expected FASTA, BED or VCF")
    if b"\0" in text.head:
        raise InputError(
            f"{text.name} is no text, or one in UTF-16: expected FASTA, BED or VCF, plain or gzip"
        )
    if b"\r" in text.head and b"\n" not in text.head:
        raise InputError(f"{text.name} has line ends of old Macs (only CR): convert them to LF")


def format_of(text: TextInput) -> RegionFormat:
    """FASTA begins with `>`, VCF with its two kinds of header; anything else is read as BED."""
    head = text.head.lstrip()
    if head.startswith(b">"):
        return "fasta"
    return "vcf" if head.startswith((b"##fileformat=VCF", b"#CHROM\tPOS\tID")) else "bed"
