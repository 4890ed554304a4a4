"""Writing embeddings of regions, in parts that survive a kill, joined into one HDF5 file.

    writer = EmbeddingWriter(Path("peaks.h5"), info)
    for part, rows in enumerate(batches):
        if not writer.done(part):
            writer.write(part, embed(rows))
    writer.finish(part + 1)

docs/formats.md describes the file, embedding/reader.py reads it.
"""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py

from dnamamba import __version__
from dnamamba.embedding.export import export
from dnamamba.embedding.format import FORMAT, FORMAT_VERSION, EmbeddedRow, EmbeddingInfo, digest_of
from dnamamba.embedding.hdf5 import no_room
from dnamamba.embedding.parts import is_whole, join_parts, write_part
from dnamamba.embedding.reader import Embeddings, read_embeddings
from dnamamba.errors import InputError
from dnamamba.files import read_json
from dnamamba.runtime import is_running, logger, sync_to_disk

__all__ = [
    "EmbeddedRow",
    "EmbeddingInfo",
    "EmbeddingWriter",
    "Embeddings",
    "export",
    "read_embeddings",
]

_MOST_THREADS = 8


class EmbeddingWriter:
    """Makes one file of embeddings. Work lies in the hidden folder `.NAME.parts` beside it.

    Opening again with the same `info` goes on where a run was stopped, with `force` too. Of several
    processes that share the work one opens first, and the others then without anything else
    changing; any of them may write any part, and one finishes.

    force: replace `out`, and start over where parts of other settings are in the way.
    division: how rows are divided into parts, in words; parts of another division are others.
    Raises InputError where `out` exists or a run with other settings is unfinished (without
    `force`), and where the folder cannot be written.
    """

    def __init__(
        self, out: Path, info: EmbeddingInfo, *, force: bool = False, division: str = ""
    ) -> None:
        self.out, self.info = out, info
        self.folder = out.with_name(f".{out.name}.parts")
        self._process = f"{socket.gethostname()}@{os.getpid()}"
        self._settings = json.dumps(
            {
                "format_version": FORMAT_VERSION,
                "dnamamba": __version__,
                "division": division,
                **json.loads(info.to_json()),
            },
            indent=2,
        )
        self._digest = digest_of(self._settings)
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
        """A folder for this process's temporary files; gone at the latest with `finish`, or when
        the work is opened again after a kill."""
        folder = self.folder / f"work@{self._process}.scratch"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def n_parts(self) -> int:
        """How many parts are there, those of a run that was stopped too; not all may be whole."""
        return sum(1 for _ in self.folder.glob("part-*.h5"))

    def leave(self) -> None:
        """Remove this process's temporary files, and the folder if it holds no work: for a run that
        ends before `finish`."""
        shutil.rmtree(self.folder / f"work@{self._process}.scratch", ignore_errors=True)
        if [path.name for path in self.folder.glob("*")] == ["info.json"]:
            self._remove_folder()

    def done(self, part: int) -> bool:
        """Whether a part was written and is whole; those of others are read for that, once."""
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
        """Write a part, in place of one that is there; it appears whole or not at all.

        Vectors may be memmaps larger than memory. Raises InputError for rows that are not as the
        info says, and where there is no room; other parts are kept.
        """
        building = self._building(self._path(part).stem)
        try:
            write_part(building, rows, self.info, self._digest)
            os.replace(building, self._path(part))
        except OSError as error:
            raise no_room(self._path(part), error) from error
        finally:
            building.unlink(missing_ok=True)
        self._whole.add(part)

    def finish(self, n_parts: int, on_part: Callable[[int], None] = lambda part: None) -> Path:
        """Join parts 0 to n_parts - 1 into the file, which is then there at once, and remove the
        folder. on_part: called with the number of each part once it is copied.

        Raises InputError where parts are missing, damaged or too many, and where there is no room;
        parts are kept, and `finish` may be called again.
        """
        self._check_parts(n_parts)
        paths = [self._path(part) for part in range(n_parts)]
        building = self._building("joined")
        try:
            with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
                join_parts(paths, building, self.info, pool, on_part)
            sync_to_disk(building)
            os.replace(building, self.out)
            sync_to_disk(self.out.parent)
        except OSError as error:
            raise no_room(self.out, error) from error
        finally:
            building.unlink(missing_ok=True)
        self._remove_folder()
        return self.out

    # --- the folder

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.h5"

    def _building(self, what: str) -> Path:
        return self.folder / f"{what}@{self._process}.building"

    def _open_folder(self, force: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._found_settings()
        if found is not None and found != json.loads(self._settings):
            # Settings alone, such as a mistaken command leaves, are nothing to keep.
            if self.n_parts and not force:
                raise InputError(self._other_settings(found))
            for path in self.folder.glob("part-*.h5"):
                path.unlink(missing_ok=True)
            found = None
        if found is None:
            building = self._building("info")
            building.write_text(self._settings + "\n", encoding="utf8")
            os.replace(building, self.folder / "info.json")
        self._remove_left()

    def _found_settings(self) -> dict[str, Any] | None:
        """None where there are none, or damaged ones: parts have their digest anyway."""
        try:
            return read_json(self.folder / "info.json")
        except InputError:
            return None

    def _other_settings(self, found: dict[str, Any]) -> str:
        now = json.loads(self._settings)
        differing = [
            f"{name} was {_short(found.get(name))}, is now {_short(now.get(name))}"
            for name in {**found, **now}
            if found.get(name) != now.get(name)
        ]
        return (
            f"{self.out} was begun with other settings, and what is done lies in {self.folder}: "
            f"{'; '.join(differing)}. Give the earlier ones to go on, use --force to start over, "
            "or another --out"
        )

    def _remove_left(self) -> None:
        """Remove what processes of this machine were at when they died."""
        pattern = re.compile(r"[^@]+@(.+)@(\d+)\.(building|scratch)")
        for path in self.folder.iterdir():
            match = pattern.fullmatch(path.name)
            if match and match[1] == socket.gethostname() and not is_running(int(match[2])):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _remove_folder(self) -> None:
        """Settings last: by them a run knows the folder again that a kill left half removed."""
        with suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != "info.json":
                    path.unlink(missing_ok=True)
            (self.folder / "info.json").unlink(missing_ok=True)
            self.folder.rmdir()

    def _remove_if_finished(self) -> None:
        """Remove what is left of the folder of a run that was killed while removing it."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        if self._found_settings() != json.loads(self._settings):
            return
        with suppress(OSError, KeyError), h5py.File(self.out, "r") as file:
            if file.attrs["format"] == FORMAT and file.attrs["settings"] == self.info.to_json():
                self._remove_folder()

    def _check_parts(self, n_parts: int) -> None:
        missing = [str(part) for part in range(n_parts) if not self.done(part)]
        if missing:
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise InputError(
                f"{len(missing)} of {n_parts} parts of {self.out} are missing or damaged "
                f"({shown}); the same command makes them and keeps the others"
            )
        numbers = (int(path.stem[5:]) for path in self.folder.glob("part-*.h5"))
        beyond = sorted(number for number in numbers if number >= n_parts)
        if beyond:
            raise InputError(
                f"{self.out} was to have {n_parts} parts, but part {beyond[0]} is there too: the "
                "rows were divided otherwise before. Use --force to start over"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
