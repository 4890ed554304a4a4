"""Small genomes, in memory and on disk, for the tests of the data layer.

A genome is a dict here: contig name -> letters as they stand in a FASTA.
"""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from Bio import bgzf

from dnamamba.data_prep.genomes.fasta import FastaRecord
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.genomes.statistics import ContigStatistics, n_runs_of, statistics_of_record
from dnamamba.data_prep.genomes.store import prepare_store
from dnamamba.tokenizer import Codes, decode, encode

Records = Mapping[str, str]

# Every letter that has a meaning in a FASTA, in both cases, and some that have none.
LETTERS = "ACGTUNRYSWKMBDHVacgtunryswkmbdhv-.*XEx?"


def random_sequence(length: int, seed: int = 0, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


def fasta_text(records: Records, width: int = 60, newline: str = "\n") -> str:
    lines = []
    for name, sequence in records.items():
        lines.append(f">{name}")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "".join(line + newline for line in lines)


def write_fasta(path: Path, records: Records, width: int = 60) -> Path:
    path.write_text(fasta_text(records, width))
    return path


def write_gzip(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode("latin-1"), mtime=0))
    return path


def write_bgzf(path: Path, text: str, block_bases: int = 1000) -> Path:
    """BGZF with blocks so small that a short sequence has many of them."""
    data = text.encode("latin-1")
    with bgzf.BgzfWriter(str(path), "wb") as file:
        for i in range(0, len(data), block_bases):
            file.write(data[i : i + block_bases])
            file.flush()
    return path


def write_store(path: Path, records: Records) -> Path:
    """A store of the records; the FASTA it is made of stays beside it."""
    return prepare_store([write_fasta(path.with_suffix(".from.fa"), records)], path)


def naive_parse(text: str) -> dict[str, str]:
    """The records of a FASTA, read in the most obvious way."""
    records: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith(">"):
            name = line[1:].split()[0]
            records[name] = ""
        elif line.strip():
            records[name] += line.strip()
    return records


def as_read(sequence: str) -> str:
    """What a sequence looks like after encoding and decoding: U is T, all else N, case kept."""
    known = {letter: letter for letter in "ACGTN"} | {"U": "T"}
    known |= dict.fromkeys("RYSWKMBDHV", "N")
    known |= {letter.lower(): base.lower() for letter, base in known.items()}
    return "".join(known.get(letter, "N") for letter in sequence)


def read_all(genome: Genome) -> dict[str, str]:
    return {name: decode(genome.read(name, 0, size)) for name, size in genome.contigs.items()}


def facts_of(name: str, sequence: str) -> ContigStatistics:
    """What one pass over a contig tells."""
    letters = np.bincount(np.frombuffer(sequence.encode("latin-1"), np.uint8), minlength=256)
    return statistics_of_record(FastaRecord(name, encode(sequence), letters))


class MemoryGenome:
    """A genome without a file: the smallest thing that has the Genome interface."""

    def __init__(self, records: Records):
        self._codes = {name: encode(sequence) for name, sequence in records.items()}
        self._facts = [facts_of(name, sequence) for name, sequence in records.items()]
        self.contigs = {name: len(codes) for name, codes in self._codes.items()}

    def read(self, contig: str, start: int, end: int) -> Codes:
        assert 0 <= start <= end <= self.contigs[contig], "a read past the end of its contig"
        return self._codes[contig][start:end]

    def n_runs(self, contig: str) -> np.ndarray:
        return n_runs_of(self._codes[contig])

    def statistics(self) -> list[ContigStatistics]:
        return self._facts


def write_bed(path: Path, rows: list[tuple[str, int, int, str]]) -> Path:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path
