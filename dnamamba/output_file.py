"""Files that are there once they are whole: built beside their place, and renamed into it."""

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from Bio import bgzf

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
