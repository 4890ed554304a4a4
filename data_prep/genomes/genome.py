"""One interface over every genome: FASTA, BGZF FASTA and the prepared store, one file or many."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from dnamamba.data_prep.genomes.fasta import IndexedFasta, refuse_plain_gzip
from dnamamba.data_prep.genomes.statistics import ContigStatistics, FileStatistics, Runs, scan_fasta
from dnamamba.data_prep.genomes.store import GenomeStore, is_store
from dnamamba.errors import InputError
from dnamamba.files import open_existing
from dnamamba.tokenizer import Codes


class Genome(Protocol):
    """Contigs by name, with random access.

    contigs: name -> length in bases, in file order.
    Coordinates are 0-based and half-open. Safe to fork and to pickle: handles open on first use.
    """

    contigs: dict[str, int]

    def read(self, contig: str, start: int, end: int) -> Codes:
        """Codes (uint8; see tokenizer.py) of [start, end), which lies inside the contig."""
        ...

    def n_runs(self, contig: str) -> Runs:
        """Ranges without a readable base; the first call on a FASTA reads the file once."""
        ...

    def statistics(self) -> list[ContigStatistics]:
        """Statistics of every contig, in order."""
        ...

    def sources(self) -> list[dict[str, Any]]:
        """Name, size and sha256 of the files behind it."""
        ...


class FastaGenome(IndexedFasta):
    """A FASTA on disk, plain or BGZF."""

    @cached_property
    def _scan(self) -> FileStatistics:
        return scan_fasta(self.path)

    @cached_property
    def _statistics_by_name(self) -> dict[str, ContigStatistics]:
        statistics = {row.name: row for row in self._scan.contigs}
        if {name: row.length for name, row in statistics.items()} != self.contigs:
            raise InputError(
                f"{self.path} and its index do not belong together: names or lengths of contigs "
                f"differ. Delete the index {self.index}, it is made again"
            )
        return statistics

    def n_runs(self, contig: str) -> Runs:
        return self._statistics_by_name[contig].n_runs

    def statistics(self) -> list[ContigStatistics]:
        return list(self._statistics_by_name.values())

    def sources(self) -> list[dict[str, Any]]:
        return [self._scan.source]


class JoinedGenome:
    """Several genomes as one.

    If contig names collide, as in apes with the same record names, every contig is called
    `<label>/<contig>`; assemblies use no slash in names.
    labels: one for each part, such as its file's name. qualify: call contigs so in any case.
    """

    def __init__(self, parts: Sequence[Genome], labels: Sequence[str], *, qualify: bool = False):
        names = [name for part in parts for name in part.contigs]
        qualify = qualify or len(names) != len(set(names))
        self._parts = list(parts)
        self._origins = {
            (f"{label}/{name}" if qualify else name): (part, name)
            for part, label in zip(parts, labels, strict=True)
            for name in part.contigs
        }
        if len(self._origins) != len(names):
            raise InputError(
                "several genomes share contig names, so files must have different names; got "
                f"{', '.join(labels)}"
            )
        self.contigs = {key: part.contigs[name] for key, (part, name) in self._origins.items()}

    def read(self, contig: str, start: int, end: int) -> Codes:
        part, name = self._origins[contig]
        return part.read(name, start, end)

    def n_runs(self, contig: str) -> Runs:
        part, name = self._origins[contig]
        return part.n_runs(name)

    def statistics(self) -> list[ContigStatistics]:
        rows = [row for part in self._parts for row in part.statistics()]
        return [replace(row, name=key) for key, row in zip(self._origins, rows, strict=True)]

    def sources(self) -> list[dict[str, Any]]:
        return [source for part in self._parts for source in part.sources()]


def open_genome(paths: Path | str | Sequence[Path | str]) -> Genome:
    """Open a FASTA or store, or several as one genome, for random access.

    paths: FASTA (plain or BGZF) or stores of `dnamamba data prepare`. An index is made if a FASTA
    has none.

        genome = dnamamba.open_genome("hg38.fa")
        genome.contigs["chr1"]                 # length in bases
        genome.read("chr1", 10_000, 10_100)    # codes (100,) uint8, 0-based and half-open

    Raises FileNotFoundError, or InputError for plain gzip, which has no random access, damaged
    files and files without sequences.
    """
    if isinstance(paths, Path | str):
        paths = [paths]
    if not paths:
        raise InputError("no genome was named: expected at least one FASTA or store")
    files = [Path(path) for path in paths]
    parts = _open_parts(files)
    if len(parts) == 1:
        return parts[0]
    return JoinedGenome(parts, [label_of(path) for path in files])


def open_labelled_genomes(files: Mapping[str, Sequence[Path | str]]) -> Genome:
    """Open the files of several genomes as one, whose contigs are all called `label/contig`.

    files: label -> FASTA files and stores. Raises what `open_genome` does, and InputError if two
    files of one label have a contig of the same name.
    """
    pairs = [(label, Path(path)) for label, paths in files.items() for path in paths]
    parts = _open_parts([path for _, path in pairs])
    for label in files:
        own = [part for part, (owner, _) in zip(parts, pairs, strict=True) if owner == label]
        seen = Counter(name for part in own for name in part.contigs)
        if twice := [name for name, count in seen.items() if count > 1]:
            raise InputError(
                f"{label}: contig {twice[0]} is in more than one of its files "
                f"({', '.join(map(str, files[label]))}): name each part of a genome once"
            )
    return JoinedGenome(parts, [label for label, _ in pairs], qualify=True)


def _open_parts(files: Sequence[Path]) -> list[Genome]:
    for path in files:
        open_existing(path).close()
    refuse_plain_gzip(files)
    return [_open_one(path) for path in files]


def label_of(path: Path) -> str:
    """A file's name without the endings of sequence files: `human.fa.gz` -> `human`."""
    name = path.name
    for ending in (".gz", ".bgz", ".fa", ".fasta", ".fna", ".h5", ".hdf5"):
        name = name.removesuffix(ending)
    return name


def _open_one(path: Path) -> Genome:
    return GenomeStore(path) if is_store(path) else FastaGenome(path)
