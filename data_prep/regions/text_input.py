"""Lines of a text that comes plain, gzip or BGZF, from a file or from a pipe; and what it holds.

Nothing is judged by a file's name: `reads.txt` may be gzip, `/data/csv/x` a VCF.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from dnamamba.errors import InputError
from dnamamba.files import (
    BGZF_END,
    compression_of,
    compression_of_head,
    open_existing,
    refuse_damage,
    refuse_truncated_bgzf,
    unpacked,
)

if TYPE_CHECKING:
    Buffered = io.BufferedReader[Any]

RegionFormat = Literal["fasta", "bed", "vcf", "gtf", "region", "table"]
"""gtf: GFF3 too. region: a list of `chr1:1-2,000`. table: CSV, TSV or parquet with sequences."""

DEFAULT_SEQUENCE_COLUMN = "sequence"

_PEEKED = 1 << 13
# Of a line as long as a chromosome so much is taken at a time.
_PIECE = 1 << 20
_EXPECTED = "FASTA, BED, VCF, GFF, GTF, regions like chr1:1-2,000 or a table with sequences"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Of formats that people have at hand and that are not read: how they begin, what to do instead.
_REFUSED = {
    b"@": "looks like FASTQ or SAM: convert it to FASTA (samtools fasta)",
    b"BAM\1": "is BAM: convert it to FASTA (samtools fasta) or to BED (bedtools bamtobed)",
    b"BCF\2": "is BCF: convert it to VCF (bcftools view)",
    b"\x89HDF": "is HDF5: name it as the genome, and give a BED or VCF of what to read",
}


class TextInput:
    """An open text: `name` for messages, `head` its first kilobytes, and its lines, once.

    stream: unpacked bytes from the beginning. file: what they are read from, if it is a file that
    is not packed.
    """

    def __init__(self, name: str, stream: "Buffered", file: BinaryIO | None = None):
        self.name = name
        self.head = stream.peek(_PEEKED).removeprefix(_BYTE_ORDER_MARK)
        self.stream = stream
        self._file = file

    @property
    def is_parquet(self) -> bool:
        return self.head.startswith(b"PAR1")

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, line) without line ends (LF or CRLF) and without blank lines.

        Bytes that are not UTF-8 become surrogates, which encode(errors="surrogateescape") turns
        back. Raises InputError where compressed data ends too early or is damaged.
        """
        with refuse_damage(Path(self.name)):
            for number, line in enumerate(self.stream, start=1):
                text = line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text and not text.isspace():
                    yield number, text

    def seekable(self) -> BinaryIO:
        """All of it, for reading at any place: the file itself, or else held in memory."""
        return self._file or io.BytesIO(self.stream.read())

    def pieces(self) -> Iterator[tuple[int, bool, bytes]]:
        """(number of the line from 1, whether the line begins here, bytes), each line whole with
        its end, but for long ones, which come in pieces of 1 MiB. Raises as `lines` does."""
        number, begins_line = 1, True
        with refuse_damage(Path(self.name)):
            for piece in iter(partial(self.stream.readline, _PIECE), b""):
                if number == 1 and begins_line:
                    piece = piece.removeprefix(_BYTE_ORDER_MARK)
                yield number, begins_line, piece
                begins_line = piece.endswith(b"\n")
                number += begins_line


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
        raise InputError(
            f"{text.name} is no text, or one in UTF-16: expected {_EXPECTED}, plain or gzip"
        )
    if b"\r" in text.head and b"\n" not in text.head:
        raise InputError(f"{text.name} has line ends of old Macs (only CR): convert them to LF")


def format_of(text: TextInput, sequence_column: str | None = None) -> RegionFormat:
    """What a text is, told by how it begins: by its first lines, and else by its first row.

    FASTA, VCF, GFF3 and parquet say so. Then a row like one of GTF, a first line like a region,
    and a header with the column of sequences; anything else is read as BED. Where a column of
    sequences is named, it is taken for a table before BED.
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


# chr1  HAVANA  gene  11869  14409  .  +  .  gene_id ...; of BED columns 2 and 3 are numbers.
_GTF_ROW = re.compile(
    r"[^\t]+\t[^\t]*\t[^\t]*[^\t\d][^\t]*\t\d+\t\d+\t[^\t]*\t[-+.?]\t[.012](\t|$)"
)
_REGION = re.compile(r"\S+:\d[\d,_]*-\d[\d,_]*(:[-+.*]|\([-+.*]\)|/rc)?", re.ASCII)


def _first_row(head: str) -> str:
    return next((line for line in head.splitlines() if line.strip() and not is_comment(line)), "")


def is_comment(line: str) -> bool:
    """Whether a line of BED, GFF or GTF is none of its rows."""
    return line.startswith("#") or line.split(maxsplit=1)[0] in ("track", "browser")


def is_bed_header(fields: list[str]) -> bool:
    """Whether a first row names the columns, as tables saved with their header do."""
    names = [field.strip().lower() for field in fields[1:3]]
    return names in (["start", "end"], ["chromstart", "chromend"], ["start", "stop"])


def looks_like_region(text: str) -> bool:
    """Whether it is written like `chr1:1-2,000`, with a strand or without."""
    return _REGION.fullmatch(text.strip()) is not None
