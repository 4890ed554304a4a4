"""Download one public file: resumed, checked, and in place only when it is whole and right.

    path = download(dataset("hg38-chr21").file, Path("genomes"))

Bytes go to `<name>.part`; `<name>.part.json` names the version they belong to (address, ETag or
Last-Modified), so that a file that changed on the server is begun again. A file with a wrong
checksum is renamed to `<name>.bad`.
"""

import contextlib
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import dnamamba
from dnamamba.data_prep.downloads.catalogue import (
    RemoteFile,
    addresses,
    describe_checks,
    find_problem,
    has_checksum,
)
from dnamamba.errors import InputError
from dnamamba.files import read_json_or_nothing
from dnamamba.runtime import sync_to_disk

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
# After so much new data a connection works, though it drops: tries are counted afresh.
RENEWING_BYTES = 1 << 20

Progress = Callable[[int, int | None], None]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download waits for a server.

    timeout_s: seconds without a byte after which a connection is given up.
    waits_s: pauses in seconds before the second, third ... and last try.
    """

    timeout_s: float = 30.0
    waits_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or any(wait < 0 for wait in self.waits_s):
            raise InputError(f"timeout_s must be > 0 and waits_s >= 0, got {self}")


_PATIENCE = Patience()


def download(
    remote: RemoteFile,
    folder: Path,
    *,
    mirror: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    say: Say = logger.info,
    patience: Patience = _PATIENCE,
) -> Path:
    """Download `remote` into `folder` (made if missing) and return its path there.

    mirror: address (http, https, file) of a folder to look in; default the file's own addresses.
    force: download a file that is there; only a new one that is right replaces it.
    progress: called with (bytes done, bytes in all or None); starts again with a new try.
    say: called with sentences for the user (kept, resumed, tried again).

    Keeps a file that is there and right. Raises InputError if the file there or the download is not
    the published one, if there is no room, or if no address gives it; the next call goes on from
    the bytes that have come.
    """
    urls = addresses(remote, mirror)
    target = folder / remote.name
    if target.exists() and not force:
        if not target.is_file():
            raise InputError(f"{target} is in the way: {remote.name} has to be a file there")
        if problem := find_problem(remote, target):
            raise InputError(
                f"{target} is there but is not the published {remote.name}: {problem}; "
                "move it away and run it again, or use --force to replace it"
            )
        say(f"{target} is there already ({describe_checks(remote)})")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be made ({error.strerror}); name another with --out"
        ) from error
    part = target.with_name(f"{target.name}.part")
    _check_room(remote.size, part)
    try:
        url = _fetch(remote, part, urls, progress, say, patience)
    except KeyboardInterrupt:
        say(f"stopped; {_size(part):,} bytes are kept in {part}: run it again to go on")
        raise
    _check_downloaded(remote, part, url)
    os.replace(part, target)
    with contextlib.suppress(OSError):  # not every file system can sync a folder
        sync_to_disk(folder)
    _state_of(part).unlink(missing_ok=True)
    return target


def _check_room(total: int | None, part: Path) -> None:
    needed, free = (total or 0) - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"{part.parent} has {free:,} bytes free, but {needed:,} are still needed for "
            f"{part.stem}; make room or name another folder with --out"
        )


def _check_downloaded(remote: RemoteFile, part: Path, url: str) -> None:
    """Move a wrong file out of the way, so that the next run starts from nothing."""
    problem = find_problem(remote, part)
    if problem is None:
        return
    bad = part.with_suffix(".bad")
    os.replace(part, bad)
    _state_of(part).unlink(missing_ok=True)
    raise InputError(
        f"what came from {url} is not the published {remote.name}: {problem}; it was moved to "
        f"{bad}: run it again, from another place with --mirror URL if it stays wrong"
    )


def _fetch(
    remote: RemoteFile,
    part: Path,
    urls: list[str],
    progress: Progress | None,
    say: Say,
    patience: Patience,
) -> str:
    """Fill the partial file from the first address that has it; return the address."""
    failures: list[str] = []
    for url in urls:
        if failures:
            say(f"{failures[-1]}; trying {url}")
        try:
            _Transfer(remote, part, url, progress, say, patience).run()
        except _Stopped as stopped:
            failures.append(f"{url} {stopped}")
        else:
            return url
    size = _size(part)
    kept = f"; {size:,} bytes are kept in {part} for the next run to go on from" if size else ""
    raise InputError(
        f"{remote.name} could not be downloaded: {', and '.join(failures)}{kept}; run it again "
        "later, name another place with --mirror URL, or copy the file by hand to "
        f"{part.with_suffix('')} and run it again to have it checked"
    )


class _Stopped(Exception):
    """A transfer that failed. passing: whether another try may help."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass
class _Transfer:
    """One file from one address into a partial file."""

    remote: RemoteFile
    part: Path
    url: str
    progress: Progress | None
    say: Say
    patience: Patience
    received: int = 0

    def run(self) -> None:
        """Try until the partial file is whole; raise _Stopped after the last try."""
        waits = iter(self.patience.waits_s)
        furthest = _size(self.part)
        while True:
            try:
                return self._try_once()
            except _Stopped as stopped:
                if _size(self.part) >= furthest + RENEWING_BYTES:
                    furthest = _size(self.part)
                    waits = iter(self.patience.waits_s)
                wait = next(waits, None)
                if wait is None or not stopped.passing:
                    raise
                self.say(f"{self.url} {stopped}; trying again in {wait:g} s")
            time.sleep(wait)

    def _try_once(self) -> None:
        offset, validator = self._resume_point()
        with self._open(offset, validator) as response:
            if response.status in (200, None):  # a file:// answer has no status
                if offset:
                    self.say(
                        f"{self.url} does not continue what is there (the file changed, or the "
                        "server cannot): starting over"
                    )
                return self._save_body(response, 0)
            if not offset or response.status not in (206, 416):
                raise _Stopped(_http_reason(response.status), passing=False)
            if response.status == 206 and self._continues(response.headers, offset):
                self.say(f"going on with {self.remote.name} from byte {offset:,}")
                return self._save_body(response, offset)
            if response.status == 416 and _total_of(response.headers, "Content-Range") == offset:
                return None
        self.say(f"{self.url} is not the file begun in {self.part}: starting over")
        self.part.unlink()
        return self._try_once()

    def _resume_point(self) -> tuple[int, str | None]:
        """Bytes to keep and the validator they came with; (0, None) begins anew.

        Bytes of unknown origin are kept only if a checksum is known.
        """
        offset = _size(self.part)
        saved = read_json_or_nothing(_state_of(self.part))
        validator = saved.get("validator") if saved.get("url") == self.url else None
        if not offset or not (validator or has_checksum(self.remote)):
            return 0, None
        return offset, validator

    def _open(self, offset: int, validator: str | None) -> Any:
        request = urllib.request.Request(self.url)
        request.add_header("User-Agent", f"dnamamba/{dnamamba.__version__}")
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
        try:
            return _opener().open(request, timeout=self.patience.timeout_s)
        except urllib.error.HTTPError as error:
            if error.code == 416 and offset:
                return error
            error.close()
            passing = error.code in (408, 429) or error.code >= 500
            raise _Stopped(_http_reason(error.code), passing=passing) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            # A host that has answered may come back; one that never has is given up.
            passing = self.received > 0 or isinstance(error, http.client.BadStatusLine)
            raise _Stopped(self._network_reason(error), passing=passing) from error

    def _continues(self, headers: Message, offset: int) -> bool:
        """Whether a 206 answer continues the file that was begun."""
        if not headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return False
        saved = read_json_or_nothing(_state_of(self.part))
        if saved.get("url") != self.url:
            return True
        now, total = _validator(headers), _total_of(headers, "Content-Range")
        return now in (None, saved.get("validator")) and total in (None, saved.get("total"))

    def _save_body(self, response: Any, offset: int) -> None:
        expected = self.remote.size
        total = _total_of(response.headers, "Content-Range" if offset else "Content-Length")
        if total is None:
            total = expected
        elif expected is not None and total != expected:
            raise _Stopped(f"offers {total:,} bytes, expected {expected:,}", passing=False)
        try:
            with self.part.open("ab" if offset else "wb") as file:
                _check_room(total, self.part)
                if not offset:
                    validator = _validator(response.headers)
                    state = {"url": self.url, "validator": validator, "total": total}
                    _state_of(self.part).write_text(json.dumps(state), encoding="utf-8")
                done = self._copy(response, file, offset, total)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{self.part} cannot be written ({error.strerror}); what has come is kept: see "
                "to that and run it again, or name another folder with --out"
            ) from error
        if total is not None and done < total:
            raise _Stopped(f"closed the connection after {done:,} of {total:,} bytes", passing=True)

    def _copy(self, response: Any, file: Any, done: int, total: int | None) -> int:
        while True:
            if self.progress is not None:
                self.progress(done, total)
            try:
                chunk = response.read1(CHUNK_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise _Stopped(self._network_reason(error), passing=True) from error
            if not chunk:
                return done
            file.write(chunk)
            done += len(chunk)
            self.received += len(chunk)

    def _network_reason(self, error: Exception) -> str:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, TimeoutError):
            return f"sent nothing for {self.patience.timeout_s:g} s"
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        return f"cannot be read ({text})"


def _opener() -> urllib.request.OpenerDirector:
    """urllib's opener, proxies included, for http, https and file only, redirects too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.FileHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _http_reason(code: int) -> str:
    reasons = {404: "is not there", 410: "is not there"}
    reasons |= dict.fromkeys((401, 403, 407), "may not be read")
    default = "is out of order" if code >= 500 else "gave an unexpected answer"
    return f"{reasons.get(code, default)} (HTTP {code})"


def _validator(headers: Message) -> str | None:
    """The strong ETag, else Last-Modified: what If-Range accepts."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


def _total_of(headers: Message, name: str) -> int | None:
    """Bytes of the whole file by Content-Length, or by `Content-Range: bytes 5-9/10`."""
    text = headers.get(name, "").rpartition("/")[2]
    return int(text) if text.isdecimal() else None


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
