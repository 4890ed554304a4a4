"""Whether a FASTA index fits its file; times do not tell, as `cp -p`, tar and rsync keep them."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dnamamba.files import unpacked

_SAMPLES = 10
_REACH = 1 << 16  # bytes read around a position; a longer header line counts as a misfit

Row = tuple[str, int, int, int, int]
"""One contig of an index: name, bases, offset of the first base, bases and bytes in a line."""

Read = Callable[[int, int], bytes]
"""(position in the text, bytes) -> the bytes from there."""


def index_fits(index: Path, path: Path, packed: bool) -> bool:
    """Whether a .fai (and .gzi) describes the file, by up to ten of its contigs.

    Compares the header line, the length of the first line and the text after the last base of each.
    The last contig of the index must be the last of the file.
    packed: the file is BGZF and its .gzi lies beside the index.
    """
    try:
        rows = _read_index(index)
        filled = [row for row in rows if row[1] > 0]
        if not filled:
            return False
        chosen = {i * (len(filled) - 1) // (_SAMPLES - 1) for i in range(_SAMPLES)}
        with open(path, "rb") as raw:
            read = _bgzf_reader(raw, index.with_suffix(".gzi")) if packed else _plain_reader(raw)
            return all(_row_fits(read, filled[i], filled[i] is rows[-1]) for i in chosen)
    except (OSError, EOFError, ValueError, zlib.error):
        return False


def _read_index(index: Path) -> list[Row]:
    rows = []
    for line in index.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        name, *numbers = line.split("\t")
        length, offset, bases, width = map(int, numbers[:4])
        if length < 0 or offset < 0 or bases < (length > 0) or width < bases:
            raise ValueError(f"a row of the index makes no sense: {line}")
        rows.append((name, length, offset, bases, width))
    return rows


def _row_fits(read: Read, row: Row, is_last: bool) -> bool:
    name, length, offset, bases, width = row
    before = read(max(0, offset - _REACH), min(offset, _REACH))
    header = before.rstrip().rsplit(b"\n", 1)[-1]
    words = header[1:].split()
    named = before.endswith(b"\n") and header[:1] == b">" and bool(words)
    named = named and words[0].decode("utf-8", "replace") == name

    line = read(offset, min(bases, _REACH))
    line_end = read(offset + bases, max(1, width - bases))
    # A file may end without a newline; indexes count it or do not.
    ends = not line_end or (line_end in (b"\n", b"\r\n") and len(line_end) == width - bases)
    even = ends and len(line) == min(bases, _REACH) and b"\n" not in line

    end = offset + (length - 1) // bases * width + (length - 1) % bases
    last, after = read(end, 1), read(end + 1, _REACH)
    rest = after.lstrip()
    complete = bool(last.strip()) and after[:1] in (b"", b"\r", b"\n")
    complete = complete and (not rest if is_last else rest[:1] == b">")
    return named and even and complete


def _plain_reader(file: BinaryIO) -> Read:
    def read(start: int, n_bytes: int) -> bytes:
        file.seek(start)
        return file.read(n_bytes)

    return read


def _bgzf_reader(file: BinaryIO, gzi: Path) -> Read:
    """Reads by positions in the text, from a block in the .gzi on."""
    numbers = np.frombuffer(gzi.read_bytes(), "<u8").astype(np.int64)
    if not len(numbers) or len(numbers) != 1 + 2 * numbers[0]:
        raise ValueError(f"{gzi} is cut off")
    blocks = np.concatenate([[[0, 0]], numbers[1:].reshape(-1, 2)])

    def read(start: int, n_bytes: int) -> bytes:
        block = int(np.searchsorted(blocks[:, 1], start, side="right")) - 1
        packed, first = blocks[block].tolist()
        file.seek(packed)
        text = unpacked(file)
        text.read(start - first)
        return text.read(n_bytes)

    return read
