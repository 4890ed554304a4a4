"""Files that are there once they are whole: built beside their place, and renamed into it."""

import gzip
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from Bio import bgzf

from dnamamba.errors import InputError

PACKED = (".gz", ".bgz")


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to. It is renamed to `out` in the end, or deleted where writing
    failed; folders are made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{os.getpid()}-{out.name}.building")
    try:
        yield path
        os.replace(path, out)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def open_output(out: Path | BinaryIO, *, in_blocks: bool = False) -> Iterator[BinaryIO]:
    """A file to write bytes to, packed where its name ends in .gz or .bgz; or an open stream, which
    is left open. in_blocks: pack as BGZF, of which bcftools and tabix make indexes."""
    if not isinstance(out, Path):
        yield out
        return
    with building(out) as path, open(path, "wb") as file:
        if out.suffix not in PACKED:
            yield file
        elif in_blocks:
            with bgzf.BgzfWriter(fileobj=file) as blocks:
                yield blocks
        else:
            with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6) as packed:
                yield packed  # type: ignore[misc]


def describe_file(path: Path) -> dict[str, Any]:
    """Name, size and checksum, for a manifest."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": path.name, "size_bytes": path.stat().st_size, "sha256": digest}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no file. Raises InputError for a damaged one."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold one JSON object, got a {type(content).__name__}")
    return content


def is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def table_line(cells: Iterable[str]) -> bytes:
    """A row of a tab-separated table."""
    # A cell of its own is not to end one: a CSV's labels may hold tabs, a line a lone CR.
    clean = (cell.translate(_SPACES) for cell in cells)
    return ("\t".join(clean) + "\n").encode("utf-8", "surrogateescape")


_SPACES = str.maketrans("\t\r\n", "   ")
