"""The prepared genome: one HDF5 file that every worker and rank maps into memory.

Layout (format_version 1), all readable with plain h5py:

    /            attributes: format, format_version, created_by, vocabulary (JSON), sources (JSON)
    /contigs     table in file order: name, length, soft_masked, letters (JSON: letter -> count)
    /sequence/X  uint8 (length,), contiguous: one code a base, token id in the low four bits,
                 soft-mask (lower case) in the highest
    /n_runs      int64 (k, 3): row of /contigs, then a 0-based half-open stretch of N or of other
                 unreadable letters

X is the contig's name with "/" and "%" written %2F and %25 ("." alone: %2E). Sequences are
contiguous and uncompressed: a slice is one copy out of the page cache that all processes share.
"""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dnamamba import __version__
from dnamamba.data_prep.genomes.aliases import read_aliases, rename
from dnamamba.data_prep.genomes.fasta import FastaReader
from dnamamba.data_prep.genomes.statistics import ContigStatistics, Runs, statistics_of_record
from dnamamba.errors import InputError
from dnamamba.files import building, compression_of, refuse_truncated_bgzf
from dnamamba.runtime import is_running
from dnamamba.tokenizer import VOCABULARY, Codes

FORMAT = "dnamamba-genome"
FORMAT_VERSION = 1
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# Left free beyond the bases: what HDF5 keeps in memory for a while, and its tables.
_SPARE_BYTES = 32 << 20
_STALE_SECONDS = 600


def is_store(path: Path) -> bool:
    """Whether the file is HDF5, by content."""
    with open(path, "rb") as file:
        return file.read(8) == _HDF5_MAGIC


def prepare_store(
    sources: Sequence[Path],
    out: Path,
    *,
    force: bool = False,
    aliases: Path | None = None,
    on_contig: Callable[[str, int], None] = lambda name, length: None,
) -> Path:
    """Write FASTA files (plain, gzip or BGZF) into one store; returns its path.

    aliases: a table of new contig names (aliases.py); default those of the FASTA.
    on_contig: called with the name and length of each contig written.
    The file appears when it is whole; an existing one is kept unless `force`.
    Raises InputError for unreadable sources, sources that are stores, contig names that come twice
    or are not in `aliases`, an `out` that is a source, and a full disk.
    """
    if out.resolve() in [source.resolve() for source in sources]:
        raise InputError(
            f"{out} is one of the sequence files to read; --out names another file, e.g. genome.h5"
        )
    if out.is_dir():
        raise InputError(f"{out} is a folder; --out names the file to write, e.g. genome.h5")
    if out.exists() and not force:
        raise InputError(f"{out} exists already; use --force to replace it, or another --out")
    if not sources:
        raise InputError("data prepare needs at least one FASTA file")
    for source in sources:
        if compression_of(source) == "none" and is_store(source):
            raise InputError(
                f"{source} is HDF5, a store already if `dnamamba data prepare` made it: train on "
                "it as it is. To join genomes, name the FASTA files"
            )
        if compression_of(source) == "bgzf":
            refuse_truncated_bgzf(source)
    with building(out, sync=True) as path:
        _remove_stale(out)
        with h5py.File(path, "w", libver="latest") as file:
            _write_store(file, sources, aliases, on_contig)
    return out


def _remove_stale(out: Path) -> None:
    """Remove what processes that died left of this store (files.building)."""
    pattern = re.compile(rf"\.building-(\d+)-{re.escape(out.name)}")
    for path in out.parent.iterdir():
        match = pattern.fullmatch(path.name)
        # The file of another machine that shares the folder has no process here, but still grows.
        if match and not is_running(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()


def _require_space(folder: Path, n_bytes: int) -> None:
    # HDF5 cannot close a file on a full disk, and may crash the process.
    free, needed = shutil.disk_usage(folder).free, n_bytes + _SPARE_BYTES
    if free < needed:
        raise InputError(
            f"the disk of {folder} is full: the store needs {needed:,} bytes more, {free:,} are "
            "free. Make room, or write the store elsewhere (--out)"
        )


def _write_store(
    file: h5py.File,
    sources: Sequence[Path],
    aliases: Path | None,
    on_contig: Callable[[str, int], None],
) -> None:
    new_names = read_aliases(aliases) if aliases is not None else {}
    statistics: list[ContigStatistics] = []
    names: set[str] = set()
    provenance = []
    for source in sources:
        reader = FastaReader(source)
        for record in reader:
            if aliases is not None:
                record = replace(record, name=rename(record.name, new_names, aliases))
                if record.name in names:
                    raise InputError(
                        f"{aliases} gives two contigs the name {record.name!r}: correct one of them"
                    )
            if record.name in names:
                raise InputError(
                    f"contig {record.name!r} of {source} is in an earlier file too; a store is one "
                    "genome: prepare one store for each genome and name them all when training"
                )
            _require_space(Path(file.filename).parent, len(record.codes))
            file.create_dataset(f"sequence/{quote_name(record.name)}", data=record.codes)
            names.add(record.name)
            statistics.append(statistics_of_record(record))
            on_contig(record.name, len(record.codes))
        size = source.stat().st_size
        row = {"file": source.name, "size_bytes": size, "sha256": reader.sha256}
        provenance.append(row | ({"names_from": aliases.name} if aliases is not None else {}))
    _write_contig_table(file, statistics)
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["created_by"] = f"dnamamba {__version__}"
    file.attrs["vocabulary"] = json.dumps(VOCABULARY.tokens)
    file.attrs["sources"] = json.dumps(provenance)


def _write_contig_table(file: h5py.File, statistics: Sequence[ContigStatistics]) -> None:
    text = h5py.string_dtype()
    fields = [("name", text), ("length", "i8"), ("soft_masked", "i8"), ("letters", text)]
    table = np.empty(len(statistics), np.dtype(fields))
    for i, row in enumerate(statistics):
        table[i] = (row.name, row.length, row.soft_masked, json.dumps(row.letters))
    runs = np.concatenate([np.insert(row.n_runs, 0, i, axis=1) for i, row in enumerate(statistics)])
    names = sum(len(row.name) for row in statistics)
    _require_space(Path(file.filename).parent, table.nbytes + names + runs.nbytes)
    file.create_dataset("contigs", data=table)
    file.create_dataset("n_runs", data=runs)


def quote_name(name: str) -> str:
    """A contig's name as a key inside HDF5, where "/" separates groups and "." is the group."""
    return "%2E" if name == "." else name.replace("%", "%25").replace("/", "%2F")


class GenomeStore:
    """A prepared store as a Genome. Holds offsets, not data; safe to fork and to pickle."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._map: Codes | None = None
        self._offsets: dict[str, int] = {}
        self._statistics: dict[str, ContigStatistics] = {}
        try:
            with h5py.File(path, "r") as file:
                self._read_layout(file)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read as HDF5 ({error}); prepare it again"
            ) from error
        except (KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is not a whole genome store ({error}); make it again with "
                "`dnamamba data prepare`"
            ) from error
        self.contigs = {name: row.length for name, row in self._statistics.items()}

    def _read_layout(self, file: h5py.File) -> None:
        found = file.attrs.get("format")
        if found != FORMAT:
            raise InputError(
                f"{self.path} is HDF5, but not a genome store (expected format {FORMAT!r}, "
                f"got {found!r}); make one with `dnamamba data prepare`"
            )
        version = file.attrs.get("format_version")
        if not isinstance(version, int | np.integer) or version != FORMAT_VERSION:
            raise InputError(
                f"{self.path} has format_version {version!s}, this dnamamba reads "
                f"{FORMAT_VERSION}; prepare it again with `dnamamba data prepare`, or update "
                "dnamamba"
            )
        if tuple(json.loads(file.attrs["vocabulary"])) != VOCABULARY.tokens:
            raise InputError(f"{self.path} was written with another vocabulary; prepare it again")
        self._sources: list[dict[str, Any]] = json.loads(file.attrs["sources"])
        runs = file["n_runs"][:]
        # Offsets come from the datasets, not from a table: a repacked file has others.
        sequences = file["sequence"].id
        for i, row in enumerate(file["contigs"][:]):
            name = row["name"].decode()
            offset = h5py.h5d.open(sequences, quote_name(name).encode()).get_offset()
            if offset is None and row["length"]:
                raise InputError(
                    f"{self.path} was packed again with chunks or compression, so it cannot be "
                    "mapped into memory; prepare it again, or h5repack it with --layout=CONTI"
                )
            # An empty dataset has no place in the file; it is never sliced.
            self._offsets[name] = offset or 0
            first, last = np.searchsorted(runs[:, 0], [i, i + 1])
            self._statistics[name] = ContigStatistics(
                name,
                int(row["length"]),
                int(row["soft_masked"]),
                json.loads(row["letters"]),
                runs[first:last, 1:],
            )

    def read(self, contig: str, start: int, end: int) -> Codes:
        """Codes of [start, end), a view into the mapped file; inside the contig."""
        if self._map is None:
            # A plain view: slicing the memmap class itself costs microseconds.
            self._map = np.memmap(self.path, np.uint8, mode="r").view(np.ndarray)
        offset = self._offsets[contig]
        return self._map[offset + start : offset + end]

    def n_runs(self, contig: str) -> Runs:
        return self._statistics[contig].n_runs

    def statistics(self) -> list[ContigStatistics]:
        return list(self._statistics.values())

    def sources(self) -> list[dict[str, Any]]:
        return self._sources

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None}
