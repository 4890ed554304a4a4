"""Writing embeddings of regions, in parts that survive a kill, joined into one HDF5 file.

    writer = EmbeddingWriter(Path("peaks.h5"), info)
    for part, rows in enumerate(batches):
        if not writer.done(part):
            writer.write(part, embed(rows))
    writer.finish(part + 1)

format.py and docs/formats.md describe the file, reader.py reads it.
"""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from dnamamba import __version__
from dnamamba.embedding.format import FORMAT, FORMAT_VERSION, EmbeddedRow, EmbeddingInfo
from dnamamba.embedding.hdf5 import join_parts, no_room
from dnamamba.embedding.parts import is_whole, write_part
from dnamamba.errors import InputError
from dnamamba.files import first_of, read_json
from dnamamba.runtime import is_running, logger, sync_to_disk


class EmbeddingWriter:
    """Makes one file of embeddings. Its parts lie in the hidden folder `.NAME.parts` beside it.

    Opening again with the same `info` continues a run that was stopped, with `force` too. If
    several processes share the work, one opens first, then the others with nothing changed; any of
    them may write any part, and one finishes.

    force: replace `out`, and start over if there are parts of other settings.
    division: how rows are divided into parts, in words; only parts of the same division are used.
    Raises InputError if `out` exists or a run with other settings is unfinished (without `force`),
    and if the folder cannot be written.
    """

    def __init__(
        self, out: Path, info: EmbeddingInfo, *, force: bool = False, division: str = ""
    ) -> None:
        self.out, self.info = out, info
        self.folder = out.with_name(f".{out.name}.parts")
        self._process = f"{socket.gethostname()}@{os.getpid()}"
        self._settings = {
            "format_version": FORMAT_VERSION,
            "dnamamba": __version__,
            "division": division,
            **json.loads(info.to_json()),
        }
        self._digest = hashlib.sha256(json.dumps(self._settings).encode()).hexdigest()
        self._whole: set[int] = set()
        if out.is_dir():
            raise InputError(f"{out} is a folder; --out names the file to write, e.g. peaks.h5")
        if out.exists() and not force:
            self._remove_if_finished()
            raise InputError(f"{out} exists already; use --force to replace it, or another --out")
        try:
            self._open_folder(force)
        except OSError as error:
            raise no_room(self.folder, error) from error

    @property
    def scratch(self) -> Path:
        """A folder for this process's temporary files, removed by `finish` at the latest, or when
        the work is opened again after a kill."""
        folder = self.folder / f"work@{self._process}.scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def n_parts(self) -> int:
        """Number of parts in the folder, whole or not, those of a stopped run included."""
        return len(self._parts())

    def leave(self) -> None:
        """Remove this process's temporary files, and the folder if it holds no work: for a run that
        ends before `finish`."""
        _remove(self.folder / f"work@{self._process}.scratch")
        if [path.name for path in self.folder.glob("*")] == ["info.json"]:
            self._remove_folder()

    def done(self, part: int) -> bool:
        """Whether a part is written and whole; a part of another process is read once for that."""
        if part not in self._whole:
            path = self._path(part)
            if not path.exists():
                return False
            if not is_whole(path, self._digest):
                logger.warning("%s is damaged or of other settings: it is made again", path)
                return False
            self._whole.add(part)
        return True

    def write(self, part: int, rows: Sequence[EmbeddedRow]) -> None:
        """Write or replace a part; it appears whole or not at all.

        Vectors may be memmaps larger than memory. Raises InputError for rows that do not fit the
        info, and if there is no room; other parts are kept.
        """
        with self._building(self._path(part)) as path:
            write_part(path, rows, self.info, self._digest)
        self._whole.add(part)

    def finish(self, n_parts: int, on_part: Callable[[int], None] = lambda part: None) -> Path:
        """Join parts 0 to n_parts - 1 into the file, which appears at once, and remove the folder.
        on_part: called with the number of each part once it is copied.

        Raises InputError if parts are missing, damaged or too many, and if there is no room; parts
        are kept, and `finish` may be called again.
        """
        self._check_parts(n_parts)
        paths = [self._path(part) for part in range(n_parts)]
        with self._building(self.out) as path:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                join_parts(paths, path, self.info, pool, on_part)
            sync_to_disk(path)
        with suppress(OSError):  # some file systems cannot
            sync_to_disk(self.out.parent)
        self._remove_folder()
        return self.out

    # --- the folder

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.bin"

    def _parts(self) -> list[int]:
        return sorted(int(path.stem[5:]) for path in self.folder.glob("part-*.bin"))

    @contextmanager
    def _building(self, path: Path) -> Iterator[Path]:
        """A temporary file, which is renamed to `path` at the end."""
        name = "joined" if path == self.out else path.stem
        building = self.folder / f"{name}@{self._process}.building"
        try:
            yield building
            os.replace(building, path)
        except OSError as error:
            raise no_room(path, error) from error
        finally:
            building.unlink(missing_ok=True)

    def _open_folder(self, force: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        earlier = self._read_settings()
        if earlier is not None and earlier != self._settings:
            # A mistaken command leaves settings without parts: nothing to keep.
            if self.n_parts and not force:
                raise InputError(self._other_settings(earlier))
            for part in self._parts():
                _remove(self._path(part))
        if earlier != self._settings:
            with self._building(self.folder / "info.json") as path:
                path.write_text(json.dumps(self._settings, indent=2) + "\n", encoding="utf8")
        self._remove_left()

    def _read_settings(self) -> dict[str, Any] | None:
        """Settings in the folder; None for missing or damaged ones, as parts have their digest."""
        try:
            return read_json(self.folder / "info.json")
        except InputError:
            return None

    def _other_settings(self, earlier: dict[str, Any]) -> str:
        differing = [
            f"{name} was {_short(earlier.get(name))}, is now {_short(self._settings.get(name))}"
            for name in {**earlier, **self._settings}
            if earlier.get(name) != self._settings.get(name)
        ]
        return (
            f"{self.out} was begun with other settings, and what is done lies in {self.folder}: "
            f"{'; '.join(differing)}. Give the earlier ones to go on, use --force to start over, "
            "or another --out"
        )

    def _remove_left(self) -> None:
        """Remove temporary files of processes of this machine that died."""
        pattern = re.compile(r"[^@]+@(.+)@(\d+)\.(building|scratch)")
        for path in self.folder.iterdir():
            match = pattern.fullmatch(path.name)
            if match and match[1] == socket.gethostname() and not is_running(int(match[2])):
                _remove(path)

    def _remove_folder(self) -> None:
        """Remove the settings last: a run recognizes a half-removed folder by them."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.name != "info.json":
                    _remove(path)
            _remove(self.folder / "info.json")
            self.folder.rmdir()

    def _remove_if_finished(self) -> None:
        """Remove what is left of the folder of a run that was killed while removing it."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        if self._read_settings() != self._settings:
            return
        with suppress(OSError, KeyError), h5py.File(self.out, "r") as file:
            if file.attrs["format"] == FORMAT and file.attrs["settings"] == self.info.to_json():
                self._remove_folder()

    def _check_parts(self, n_parts: int) -> None:
        missing = [str(part) for part in range(n_parts) if not self.done(part)]
        if missing:
            raise InputError(
                f"{len(missing)} of {n_parts} parts of {self.out} are missing or damaged "
                f"({first_of(missing, 10)}); the same command makes them and keeps the others"
            )
        beyond = [part for part in self._parts() if part >= n_parts]
        if beyond:
            raise InputError(
                f"{self.out} was to have {n_parts} parts, but part {beyond[0]} is there too: the "
                "rows were divided otherwise before. Use --force to start over"
            )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
