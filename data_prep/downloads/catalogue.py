"""The public genomes and splits of `dnamamba data fetch`: addresses and checksums.

Sizes and checksums in catalogue.json are those that public recipes state; the download says what it
could not check. To add a genome, add an entry there.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import quote, unquote, urlsplit

from dnamamba.configs import from_dict, require_range
from dnamamba.errors import InputError
from dnamamba.files import compression_of, open_input, read_json

# Several genomes, whose files are found on the server (ncbi.py).
GREAT_APES_NAME = "great-apes"
_UCSC_SERVERS = ("https://hgdownload.soe.ucsc.edu", "https://hgdownload2.soe.ucsc.edu")


@dataclass(frozen=True)
class RemoteFile:
    """One file on a public server.

    name: the file's name here, without folders; never taken from the server.
    url: http(s) address. mirror_urls: addresses of the same file, tried in turn if `url` fails.
    size: bytes. md5, sha256: lower-case hex digests of the file as served. None: not known.
    note: a sentence for readers.
    split_rows: rows of each split in a 4-column BED.
    """

    name: str
    url: str
    mirror_urls: tuple[str, ...] = ()
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    note: str = ""
    split_rows: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        bare = PurePosixPath(self.name).name == PureWindowsPath(self.name).name == self.name
        if not bare or self.name in ("", ".", ".."):
            raise InputError(f"a file's name must have no folders, got {self.name!r}")
        for url in (self.url, *self.mirror_urls):
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise InputError(f"{self.name} needs http:// or https:// addresses, got {url!r}")
        for label, digest, digits in (("md5", self.md5, 32), ("sha256", self.sha256, 64)):
            if digest is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
                raise InputError(f"{label} must be {digits} lower-case hex digits, got {digest!r}")
        if self.size is not None:
            require_range("size", self.size, 0, unit="bytes")


@dataclass(frozen=True)
class Dataset:
    """A name given to `dnamamba data fetch`, a line about it for `--list`, and its file."""

    name: str
    description: str
    file: RemoteFile


@cache
def datasets() -> dict[str, Dataset]:
    """The data sets of catalogue.json by name, in the order of `--list`."""
    rows = read_json(Path(__file__).with_name("catalogue.json"))
    return {name: from_dict(Dataset, {"name": name, **row}) for name, row in rows.items()}


def dataset(name: str) -> Dataset:
    """The data set of that name; InputError for unknown names."""
    known = datasets()
    if name not in known:
        names = ", ".join([*known, GREAT_APES_NAME])
        raise InputError(f"no data set is called {name!r}; there are {names}")
    return known[name]


@dataclass(frozen=True, kw_only=True)
class ApeAssembly:
    """One genome of one great ape.

    species: the species' label. name: the assembly's name in its newest spelling, older_names: its
    other spellings. accession: NCBI's, with version. database: UCSC's name; "" for files of NCBI.
    size: bytes of the compressed FASTA, None if not known. note: a sentence for readers.
    """

    species: str
    name: str
    accession: str
    database: str = ""
    older_names: tuple[str, ...] = ()
    size: int | None = None
    note: str = ""


@cache
def great_apes() -> dict[str, dict[str, ApeAssembly]]:
    """Assemblies by species: `t2t` complete ones at NCBI, `ucsc` those that many papers used.

    They are as public recipes and papers describe them; a note says what is only general knowledge.
    """
    groups = read_json(Path(__file__).with_name("great_apes.json"))
    return {
        group: {
            name: from_dict(ApeAssembly, {"species": name, **row}) for name, row in rows.items()
        }
        for group, rows in groups.items()
    }


def addresses(remote: RemoteFile, mirror: str | None) -> list[str]:
    """Addresses of `remote`, in the order to try.

    mirror: http, https or file address of a folder with files of the same names; None for the
        file's own addresses. InputError for anything else.
    """
    if mirror is None:
        return [remote.url, *remote.mirror_urls]
    try:
        parts = urlsplit(mirror)
        if parts.scheme == "file":
            usable = parts.netloc in ("", "localhost")
        else:
            usable = parts.scheme in ("http", "https") and parts.hostname is not None
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            "a mirror must be an http://, https:// or file:// address of a folder, "
            f"got {mirror!r}; write a folder of this machine as file:///path/to/it"
        )
    published = unquote(PurePosixPath(urlsplit(remote.url).path).name)
    # Folders filled by `download` hold our names, copies of the server's folder theirs.
    names = dict.fromkeys((published, remote.name))
    folder = quote(parts.path.rstrip("/"), safe="/%")
    return [parts._replace(path=f"{folder}/{quote(name)}").geturl() for name in names]


def find_problem(remote: RemoteFile, path: Path) -> str | None:
    """How the file at `path` differs from `remote`; None if it does not.

    Compares size, md5, sha256 and rows per split as far as they are known. Without a checksum a .gz
    file is unpacked once: gzip's own CRC finds damage, truncation and error pages.
    """
    size = path.stat().st_size
    if remote.size not in (None, size):
        return f"it has {size:,} bytes, expected {remote.size:,}"
    if size == 0:
        return "it is empty"
    for name, expected in (("md5", remote.md5), ("sha256", remote.sha256)):
        if expected is not None:
            with path.open("rb") as file:
                new = partial(hashlib.new, name, usedforsecurity=False)
                digest = hashlib.file_digest(file, new).hexdigest()
            if digest != expected:
                return f"its {name} is {digest}, expected {expected}"
    if remote.split_rows:
        return _find_row_problem(path, dict(remote.split_rows))
    return _find_gzip_problem(path) if _has_only_gzip_crc(remote) else None


def describe_checks(remote: RemoteFile) -> str:
    """The checks of `find_problem` that were possible, in words."""
    checks = {
        "size": remote.size is not None,
        "md5": remote.md5 is not None,
        "sha256": remote.sha256 is not None,
        "rows per split": bool(remote.split_rows),
        "gzip CRC": _has_only_gzip_crc(remote),
    }
    done = " and ".join(label for label, known in checks.items() if known)
    text = f"{done} checked" if done else "nothing checked"
    return text if has_checksum(remote) else f"{text}; no published checksum is known"


def has_checksum(remote: RemoteFile) -> bool:
    """Whether a published digest is known."""
    return remote.md5 is not None or remote.sha256 is not None


def _has_only_gzip_crc(remote: RemoteFile) -> bool:
    return remote.name.endswith(".gz") and not has_checksum(remote)


def _find_row_problem(path: Path, expected: dict[str, int]) -> str | None:
    rows: Counter[str] = Counter()
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if len(fields) != 4 or not (fields[1].isdecimal() and fields[2].isdecimal()):
                return f"line {number} is not `chrom start end split`: {line[:60].rstrip()!r}"
            rows[fields[3]] += 1
    if rows == expected:
        return None
    found, wanted = (
        ", ".join(f"{split} {count:,}" for split, count in counts.items()) or "none"
        for counts in (rows, expected)
    )
    return f"its rows are {found}, expected {wanted}"


def _find_gzip_problem(path: Path) -> str | None:
    if compression_of(path) == "none":
        return "it is not a whole gzip file (it begins like no gzip file)"
    try:
        with open_input(path) as file:
            while file.read(1 << 20):
                pass
    except InputError as error:
        return f"it is not a whole gzip file ({error})"
    return None


def ucsc_file(path: str, *, name: str | None = None, md5: str | None = None) -> RemoteFile:
    """A file below UCSC's goldenPath. name: default the server's."""
    url, *mirror_urls = (f"{server}/goldenPath/{path}" for server in _UCSC_SERVERS)
    return RemoteFile(name or PurePosixPath(path).name, url, tuple(mirror_urls), md5=md5)
