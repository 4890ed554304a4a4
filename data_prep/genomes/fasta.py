"""FASTA files: one streaming pass over any of them, random access to plain and BGZF ones.

Random access is pyfaidx's. Its index goes beside the file, or into the cache folder if that place
is read-only.
"""

import hashlib
import os
import shlex
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from Bio.bgzf import BgzfBlocks

from dnamamba.data_prep.genomes.fasta_index import index_fits
from dnamamba.errors import InputError
from dnamamba.files import (
    building,
    compression_of,
    open_existing,
    open_input,
    refuse_truncated_bgzf,
)
from dnamamba.runtime import cache_folder
from dnamamba.tokenizer import ENCODE_TABLE, Codes, encode

_BLOCK = 1 << 20
_TO_CODES = ENCODE_TABLE.tobytes()


def refuse_plain_gzip(paths: Sequence[Path]) -> None:
    """Raise InputError for files that are gzip but not BGZF, with the command that mends it."""
    packed = [path for path in paths if compression_of(path) == "gzip"]
    if packed:
        unpacked = "".join(
            f"\n  gzip -dc {shlex.quote(str(path))} > {shlex.quote(path.stem)}" for path in packed
        )
        raise InputError(
            f"{', '.join(map(str, packed))}: plain gzip, which cannot be read at random places. "
            "Convert it once, then use the store:\n"
            f"  {prepare_command(*packed)}\n"
            f"or unpack it:{unpacked}"
        )


def prepare_command(*paths: Path) -> str:
    """The command that makes a store of files without random access."""
    store = paths[0].name.split(".")[0] + ".h5"
    return shlex.join(["dnamamba", "data", "prepare", *map(str, paths), "--out", store])


def read_name(header: bytes, path: Path, known: Container[str]) -> str:
    """The first word of a header line; InputError without one or if it is in `known`."""
    if b"\r" in header.rstrip(b"\r\n"):
        raise InputError(f"{path} has line ends of old Macs (only CR): convert them to LF")
    words = header[1:].split()
    if not words:
        raise InputError(f"{path} has a record without a name (a line that is only '>')")
    name = words[0].decode("utf-8", "replace")
    if name in known:
        raise InputError(
            f"{path} has two records named {name!r}: rename one, coordinates would be ambiguous"
        )
    return name


def refuse_text_before_header(path: Path | str, text: bytes) -> NoReturn:
    """Raise InputError for text before the first header line."""
    raise InputError(
        f"{path} does not look like FASTA: expected a line starting with '>' first, "
        f"got {text[:40]!r}"
    )


@dataclass(frozen=True)
class FastaRecord:
    """name: first word of the header. letters: count of each byte in the sequence, int64 (256,)."""

    name: str
    codes: Codes
    letters: np.ndarray


class FastaReader:
    """One pass over a FASTA (plain, gzip or BGZF), record by record.

    Accepts CRLF, blank lines, lines of any length, a missing last newline and empty records. Raises
    InputError for text before the first header, a header without a name, a name that comes twice, a
    file without records and a truncated compressed file.
    After the pass, `sha256` is the checksum of the file on disk.
    """

    def __init__(self, path: Path):
        self.path = path
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[FastaRecord]:
        names: set[str] = set()
        letters = np.zeros(256, np.int64)

        def count(piece: bytes) -> None:
            letters[:] += np.bincount(np.frombuffer(piece, np.uint8), minlength=256)

        with open_input(self.path, self._hash) as stream:
            blocks = iter(partial(stream.read, _BLOCK), b"")
            for header, codes in read_records(blocks, self.path, count):
                name = read_name(header, self.path, names)
                names.add(name)
                yield FastaRecord(name, codes, letters.copy())
                letters[:] = 0
        if not names:
            raise InputError(f"{self.path} holds no FASTA record")


def read_records(
    blocks: Iterable[bytes], path: Path | str, on_piece: Callable[[bytes], None] = lambda _: None
) -> Iterator[tuple[bytes, Codes]]:
    """(header line, codes) of each record, of which only one is held.

    path: for messages. on_piece: called with the letters of each piece of sequence.
    """
    header, codes = None, bytearray()
    for header_line, piece in _split_headers(blocks):
        if header_line is not None:
            if header is not None:
                yield header, np.frombuffer(codes, np.uint8)
            header, codes = header_line, bytearray()
        elif header is None:
            refuse_text_before_header(path, piece)
        else:
            on_piece(piece)
            if not piece.isascii():  # a letter is one, however many bytes it takes
                piece = piece.decode("utf-8", "surrogateescape").encode("latin-1", "replace")
            codes += piece.translate(_TO_CODES)
    if header is not None:
        yield header, np.frombuffer(codes, np.uint8)


def _split_headers(blocks: Iterable[bytes]) -> Iterator[tuple[bytes | None, bytes]]:
    """Header lines as (line, b""), pieces of sequence without spaces as (None, piece)."""
    unfinished, begins_line = b"", True
    for block in blocks:
        block, unfinished, start = unfinished + block, b"", 0
        while start < len(block):
            if begins_line and block.startswith(b">", start):
                end = block.find(b"\n", start)
                if end < 0:
                    unfinished = block[start:]
                    break
                yield block[start:end], b""
                start = end + 1
                continue
            end = block.find(b"\n>", start) + 1 or len(block)
            if piece := block[start:end].translate(None, b"\r\n \t"):
                yield None, piece
            begins_line = block[end - 1 : end] == b"\n"
            start = end
    if unfinished:
        yield unfinished, b""


class IndexedFasta:
    """Random access to one plain or BGZF FASTA through pyfaidx.

    Each process opens it on first use: a handle shared over a fork returns wrong bases.
    """

    def __init__(self, path: Path):
        self.path = path
        refuse_plain_gzip([path])
        self._packed = compression_of(path) == "bgzf"
        if self._packed:
            refuse_truncated_bgzf(path)
        _refuse_misnamed(path, self._packed)
        self.index = _ensure_index(path, self._packed)
        self._handle: Any = None
        self._owner = -1
        self.contigs: dict[str, int] = {
            name: record.rlen for name, record in self._faidx().index.items()
        }

    def read(self, contig: str, start: int, end: int) -> Codes:
        """Codes of [start, end), 0-based half-open, inside the contig."""
        if end <= start:
            return np.empty(0, np.uint8)
        codes = encode(self._faidx().fetch(contig, start + 1, end))
        assert len(codes) == end - start, f"{self.path} {contig}: index and file disagree"
        return codes

    def _faidx(self) -> Any:
        if self._handle is None or self._owner != os.getpid():
            self._handle = _open_faidx(self.path, self.index, self._packed)
            self._owner = os.getpid()
        return self._handle

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_handle": None, "_owner": -1}


def _open_faidx(path: Path, index: Path, packed: bool) -> Any:
    from pyfaidx import BgzfBlock, Faidx

    class Block(BgzfBlock):
        # pyfaidx takes the block before a position. It must be the one that starts there, since
        # position 65,536 of a block cannot be addressed.
        def __lt__(self, position: int) -> bool:
            return self.ustart <= position

    try:
        faidx = Faidx(
            str(path),
            indexname=str(index),
            gzi_indexname=f"{index.with_suffix('.gzi')}" if packed else None,
            as_raw=True,
            rebuild=False,
            duplicate_action="stop",
        )
        if packed:
            faidx.gzi_index = [Block(*block) for block in faidx.gzi_index]
        return faidx
    except ValueError as error:
        raise InputError(
            f"the index {index} cannot be read ({error}): delete it, it is made again"
        ) from error


def _refuse_misnamed(path: Path, packed: bool) -> None:
    # pyfaidx goes by the name alone.
    if packed != path.name.lower().endswith((".gz", ".bgz")):
        kind = "BGZF" if packed else "not compressed"
        raise InputError(
            f"{path} is {kind}, but its name says otherwise: rename it (BGZF files end in .gz or "
            ".bgz, others do not)"
        )


def _ensure_index(path: Path, packed: bool) -> Path:
    """An index that fits the file: beside it if that folder allows, else in the cache."""
    beside = path.with_name(path.name + ".fai")
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    cached = cache_folder() / "indexes" / f"{key}-{path.name}.fai"
    for index in (beside, cached):
        fresh = _is_fresh(index, path) and (
            not packed or _is_fresh(index.with_suffix(".gzi"), path)
        )
        if fresh and index_fits(index, path, packed):
            return index
    # The mode too: root may write into read-only folders.
    is_writable = path.parent.stat().st_mode & 0o222 and os.access(path.parent, os.W_OK)
    index = beside if is_writable else cached
    # Whole or not at all, and the .fai last, so that ranks may all do it at once.
    with building(index) as fai:
        _write_fai(path, fai)
        if packed:
            with building(index.with_suffix(".gzi")) as gzi:
                _write_gzi(path, gzi)
    return index


def _is_fresh(index: Path, path: Path) -> bool:
    return index.exists() and index.stat().st_mtime >= path.stat().st_mtime


def _write_fai(path: Path, out: Path) -> None:
    """Index a FASTA in the format of `samtools faidx`.

    pyfaidx's own index accepts a last line longer than the others and then reads wrong bases, keeps
    spaces as bases, and refuses blank lines at a record's end.
    """
    rows: dict[str, list[int]] = {}  # name -> length, offset, bases in a line, bytes in a line
    row = [0, 0, 0, 0]
    offset, ended = 0, False
    with open_input(path) as lines:
        for number, line in enumerate(lines, start=1):
            offset += len(line)
            text = line.rstrip(b"\r\n")
            if len(line) == row[3] and len(text) == row[2] and text.isalpha() and not ended:
                row[0] += len(text)  # a line like the one before it, as most are
            elif line.startswith(b">"):
                row = rows[read_name(line, path, rows)] = [0, offset, 0, 0]
                ended = False
            elif not text.strip():
                ended = row[0] > 0
                row[1] = row[1] if ended else offset
            elif not rows:
                refuse_text_before_header(path, text)
            else:
                row[2:] = row[2:] if row[0] else [len(text), len(line)]
                if ended or len(text) > row[2] or text.split() != [text] or not text.isascii():
                    _refuse_line(path, number)
                row[0] += len(text)
                ended = len(line) != row[3]
    if not rows:
        raise InputError(f"{path} holds no FASTA record")
    table = ["\t".join([name, *map(str, row)]) for name, row in rows.items()]
    out.write_text("\n".join(table) + "\n", encoding="utf-8")


def _refuse_line(path: Path, number: int) -> NoReturn:
    raise InputError(
        f"{path} line {number} has spaces or other than plain letters, or the lines of its record "
        "are not equally long: such a file cannot be read at random places. Convert it once, then "
        f"use the result:\n  {prepare_command(path)}"
    )


def _write_gzi(path: Path, out: Path) -> None:
    """Starts of BGZF blocks, packed and unpacked, without the first and the last (htslib .gzi)."""
    with open_existing(path) as file:
        blocks = [(packed, unpacked) for packed, _, unpacked, _ in BgzfBlocks(file)][1:-1]
    numbers = [len(blocks), *(number for block in blocks for number in block)]
    out.write_bytes(np.array(numbers, "<u8").tobytes())
