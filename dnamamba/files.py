"""Files: opened by content, written whole or not at all, described for manifests and people."""

import gzip
import hashlib
import io
import json
import math
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

from dnamamba.errors import InputError
from dnamamba.runtime import sync_to_disk

T = TypeVar("T")
Buffered: TypeAlias = "io.BufferedReader[Any]"

Compression = Literal["none", "gzip", "bgzf"]
"""bgzf: gzip in blocks, as bgzip writes, which can be read at any place."""

PACKED = (".gz", ".bgz")
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
"""The empty block that ends every BGZF file."""

_HEAD_BYTES = 18
_SPACES = str.maketrans("\t\r\n", "   ")


# --- reading


def open_existing(path: Path) -> Buffered:
    """Open a file for reading its bytes as they are.

    Raises FileNotFoundError, and InputError for a folder, with a sentence each.
    """
    if path.is_dir():
        raise InputError(f"expected a file, got a folder: {path}")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    return open(path, "rb")


@contextmanager
def open_input(path: Path, digest: "hashlib._Hash | None" = None) -> Iterator[Buffered]:
    """Open a plain, gzip or BGZF file for reading its unpacked bytes, whatever its name.

    digest: updated with the bytes on disk as they are read.
    Raises what `open_existing` does, and InputError while a damaged or cut-off file is read.
    """
    compression = compression_of(path)
    if compression == "bgzf":
        refuse_truncated_bgzf(path)
    with open_existing(path) as file, refuse_damage(path):
        raw = file if digest is None else io.BufferedReader(_Hashed(file, digest))
        yield raw if compression == "none" else unpacked(raw)


def unpacked(packed: BinaryIO) -> Buffered:
    """The text of a stream of gzip data, to be read from the stream's position on."""
    return io.BufferedReader(gzip.GzipFile(fileobj=packed))


class _Hashed(io.RawIOBase):
    """Passes reads of a file on and hashes what was read, so that it is read once for both."""

    def __init__(self, file: BinaryIO, digest: "hashlib._Hash"):
        self._file = file
        self._digest = digest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._digest.update(buffer[:size])
        return size


def compression_of(path: Path) -> Compression:
    """How a file is compressed, by its content."""
    with open_existing(path) as file:
        return compression_of_head(file.read(_HEAD_BYTES))


def compression_of_head(head: bytes) -> Compression:
    """The same by the first 18 bytes or more."""
    if head[:2] != b"\x1f\x8b":
        return "none"
    is_bgzf = len(head) >= _HEAD_BYTES and bool(head[3] & 4) and head[12:14] == b"BC"
    return "bgzf" if is_bgzf else "gzip"


def refuse_truncated_bgzf(path: Path) -> None:
    """Raise InputError if the empty block that ends a BGZF file is missing."""
    with open_existing(path) as file:
        file.seek(max(0, path.stat().st_size - len(BGZF_END)))
        if file.read() != BGZF_END:
            raise InputError(
                f"{path} is cut off: a BGZF file ends with an empty block, this one does not. "
                "Copy or download it again"
            )


@contextmanager
def refuse_damage(path: Path) -> Iterator[None]:
    """Raise InputError for the errors of decompression."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path} is cut off or damaged ({error}). Copy or download it again"
        ) from error


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a file of one JSON object.

    missing_ok: return {} if there is no such file. Raises InputError for anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if missing_ok:
            return {}
        raise InputError(f"{path} is missing") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold one JSON object, got a {type(content).__name__}")
    return content


def read_json_or_nothing(path: Path) -> dict[str, Any]:
    """`read_json`, but {} if the file is missing or damaged."""
    try:
        return read_json(path)
    except InputError:
        return {}


# --- writing


@contextmanager
def building(out: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path beside `out`, with its ending, to write a file to; renamed to `out` at the end.

    On an error it is deleted and `out` stays as it was. Missing folders are made. The file gets the
    umask's permissions, though some libraries make files for their owner alone.
    sync: wait until the file and its new name are on the disk.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".building-{os.getpid()}-{out.name}")
    try:
        path.touch()
        mode = path.stat().st_mode
        yield path
        path.chmod(mode)
        if sync:
            sync_to_disk(path)
        os.replace(path, out)
        if sync:
            with suppress(OSError):  # some file systems cannot
                sync_to_disk(out.parent)
    finally:
        path.unlink(missing_ok=True)


def write_text(out: Path, text: str) -> None:
    """Write a text file (UTF-8, line ends as they are) whole or not at all."""
    with building(out) as path:
        path.write_text(text, encoding="utf-8", newline="")


def write_json(out: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write a JSON object whole or not at all."""
    write_text(out, json.dumps(content, indent=indent) + "\n")


def format_by_ending(out: Path, endings: Mapping[str, T]) -> T:
    """The format that the end of a file's name stands for. Raises InputError for another end."""
    for ending, found in endings.items():
        if out.name.endswith(ending):
            return found
    raise InputError(f"{out} must end in one of {', '.join(endings)}, which says its format")


@contextmanager
def open_output(out: Path | BinaryIO, *, in_blocks: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing bytes, which appears when it is whole; a stream is left open.

    A file whose name ends in .gz or .bgz is compressed: as BGZF if `in_blocks`, which bcftools and
    tabix can index, else as gzip without a time, so that the same content gives the same file.
    """
    if not isinstance(out, Path):
        yield out
        return
    with building(out) as path, open(path, "wb") as file:
        if out.suffix not in PACKED:
            yield file
        elif in_blocks:
            from Bio import bgzf

            with bgzf.BgzfWriter(fileobj=file) as blocks:
                yield blocks
        else:
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                yield packed  # type: ignore[misc]


# --- describing


def sha256_of(path: Path) -> str:
    """The checksum of a file as it lies on the disk."""
    with open_existing(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Name, size and checksum, for a manifest."""
    return {"file": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_of(path)}


def first_of(names: Iterable[object], most: int = 5) -> str:
    """A list for a message: `a, b`, `a, b, ... (12 in all)` or `none`."""
    shown = [str(name) for name in names]
    more = f", ... ({len(shown):,} in all)" if len(shown) > most else ""
    return (", ".join(shown[:most]) or "none") + more


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a number that a finite float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) <= sys.float_info.max


def clean_cell(text: str) -> str:
    """A cell of a tab-separated table, without the tabs and line ends that would break a row."""
    return text.translate(_SPACES)


def table_line(cells: Iterable[str]) -> bytes:
    """A row of a tab-separated table."""
    return ("\t".join(map(clean_cell, cells)) + "\n").encode("utf-8", "surrogateescape")
