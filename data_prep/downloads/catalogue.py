"""The public genomes and splits of `dnamamba data fetch`: addresses and checksums.

Sizes and checksums are those that public recipes state; None means unknown, and the download says
what it could not check. To add a genome, add an entry to `_DATASETS`.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import SplitResult, quote, unquote, urlsplit

from dnamamba.errors import InputError
from dnamamba.files import compression_of, open_input

CHUNK_BYTES = 1 << 20
# Several genomes, whose files are found on the server (ncbi.py).
GREAT_APES_NAME = "great-apes"


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
        if self.size is not None and self.size < 0:
            raise InputError(f"size must be >= 0 bytes, got {self.size}")


@dataclass(frozen=True)
class Dataset:
    """A name given to `dnamamba data fetch`, a line about it for `--list`, and its file."""

    name: str
    description: str
    file: RemoteFile


def dataset_names() -> list[str]:
    """The names `dataset` accepts, in the order of `--list`."""
    return list(_DATASETS)


def dataset(name: str) -> Dataset:
    """The data set of that name; InputError for unknown names."""
    if name not in _DATASETS:
        names = ", ".join([*_DATASETS, GREAT_APES_NAME])
        raise InputError(f"no data set is called {name!r}; there are {names}")
    return _DATASETS[name]


def addresses(remote: RemoteFile, mirror: str | None) -> list[str]:
    """Addresses of `remote`, in the order to try.

    mirror: http, https or file address of a folder with files of the same names; None for the
        file's own addresses. InputError for anything else.
    """
    if mirror is None:
        return [remote.url, *remote.mirror_urls]
    parts = _split_mirror(mirror)
    published = unquote(PurePosixPath(urlsplit(remote.url).path).name)
    # Folders filled by `download` hold our names, copies of the server's folder theirs.
    names = dict.fromkeys((published, remote.name))
    folder = quote(parts.path.rstrip("/"), safe="/%")
    return [parts._replace(path=f"{folder}/{quote(name)}").geturl() for name in names]


def _split_mirror(mirror: str) -> SplitResult:
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
            "a mirror is an http://, https:// or file:// address of a folder, "
            f"got {mirror!r}; a folder of this machine is written file:///path/to/it"
        )
    return parts


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
    known = {"md5": remote.md5, "sha256": remote.sha256}
    expected = {name: digest for name, digest in known.items() if digest is not None}
    for name, digest in _digests(path, list(expected)).items():
        if digest != expected[name]:
            return f"its {name} is {digest}, expected {expected[name]}"
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


def _digests(path: Path, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            for one in hashes.values():
                one.update(chunk)
    return {name: one.hexdigest() for name, one in hashes.items()}


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
            while file.read(CHUNK_BYTES):
                pass
    except InputError as error:
        return f"it is not a whole gzip file ({error})"
    return None


def ucsc_file(
    path: str,
    *,
    name: str | None = None,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    note: str = "",
) -> RemoteFile:
    """A file below UCSC's goldenPath. name: default the server's."""
    url, *mirror_urls = (f"{server}/goldenPath/{path}" for server in _UCSC_SERVERS)
    return RemoteFile(
        name=name or PurePosixPath(path).name,
        url=url,
        mirror_urls=tuple(mirror_urls),
        size=size,
        md5=md5,
        sha256=sha256,
        note=note,
    )


_UCSC_SERVERS = ("https://hgdownload.soe.ucsc.edu", "https://hgdownload2.soe.ucsc.edu")

_BASENJI = "https://storage.googleapis.com/basenji_barnyard2"
_SEQNN = "https://storage.googleapis.com/seqnn-share/helper/dependencies"

_ONE_RECIPE = "md5 as one public recipe gives it"

_DATASETS = {
    entry.name: entry
    for entry in (
        Dataset(
            "hg38",
            "human genome GRCh38, UCSC, soft-masked",
            ucsc_file(
                "hg38/bigZips/hg38.fa.gz",
                size=983_659_424,
                md5="1c9dcaddfa41027f17cd8f7a82c7293b",
                sha256="c1dd87068c254eb53d944f71e51d1311964fce8de24d6fc0effc9c61c01527d4",
                note="the first release; bigZips/latest and p12 are other files",
            ),
        ),
        Dataset(
            "hg38-chr21",
            "human chromosome 21 of hg38, 46.7 Mbp: for trying things out",
            ucsc_file(
                "hg38/chromosomes/chr21.fa.gz",
                size=12_709_705,
                md5="184df2bd9b812b6e6b6da16c6021369e",
                sha256="c979ca1e5065c2521a50773473e0d0cc018fd6f3e9bb3aa90493fe7b45d57d1b",
            ),
        ),
        Dataset(
            "hg38-chr22",
            "human chromosome 22 of hg38, 50.8 Mbp: for trying things out",
            ucsc_file(
                "hg38/chromosomes/chr22.fa.gz",
                size=12_255_678,
                md5="41b47ce1cc21b558409c19b892e1c0d1",
                sha256="05f9d97d6fbfd08a44ca45b50837ca2ae9c471f35ba79dffec04d2cb5eaaf695",
                note="md5 and sha256 as one public project gives them",
            ),
        ),
        Dataset(
            "hg38-splits",
            "the Basenji/Enformer train, valid and test segments of hg38 (BED, 4 columns)",
            RemoteFile(
                "hg38-splits.bed",
                f"{_BASENJI}/sequences_human.bed",
                note="HyenaDNA calls it human-sequences.bed",
                split_rows=(("train", 34_021), ("valid", 2_213), ("test", 1_937)),
            ),
        ),
        Dataset(
            "hg38-ml",
            "Basenji's copy of hg38, on which HyenaDNA was pretrained",
            RemoteFile(
                "hg38.ml.fa.gz",
                f"{_BASENJI}/hg38.ml.fa.gz",
                (f"{_SEQNN}/hg38.ml.fa.gz",),
                note="about 2.9 GB unpacked",
            ),
        ),
        Dataset(
            "hg19",
            "human genome GRCh37, UCSC, soft-masked",
            ucsc_file(
                "hg19/bigZips/hg19.fa.gz",
                md5="806c02398f5ac5da8ffd6da2d1d5d1a9",
                note=_ONE_RECIPE,
            ),
        ),
        Dataset(
            "mm10",
            "mouse genome GRCm38, UCSC, soft-masked",
            ucsc_file(
                "mm10/bigZips/mm10.fa.gz",
                md5="db005b65828db31735f384e4c5787be5",
                note=_ONE_RECIPE,
            ),
        ),
        Dataset(
            "mm39",
            "mouse genome GRCm39, UCSC, soft-masked",
            ucsc_file(
                "mm39/bigZips/mm39.fa.gz",
                md5="41ace1b7157b98b393746aef5d1287a8",
                note=_ONE_RECIPE,
            ),
        ),
    )
}
