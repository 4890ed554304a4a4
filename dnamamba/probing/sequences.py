"""Sequences of the rows of an embeddings file, and the words in them: a probe's baseline."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.kmers import word_frequencies
from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.sequences import Ints, PackedSequences, sequence_keys
from dnamamba.errors import InputError
from dnamamba.inference.batching import batches_of
from dnamamba.probing.folds import FeatureSet
from dnamamba.probing.labels import EmbeddedTable
from dnamamba.tokenizer import PAD_ID, Codes, reverse_complement, token_ids

Span = Literal["region", "window"]

_MOST_BYTES = 1 << 29
"""Limit of the frequencies of the longest words, float32."""

_BLOCK_BASES = 1 << 24
_SHORT = 32
"""Regions of fewer bases (variants, summits) have no words to speak of."""


def span_of(embedded: EmbeddedTable) -> Span:
    """What words are counted in: the regions, or the windows read around them if they are short."""
    table = embedded.table
    lengths = np.asarray(table["end"], np.int64) - np.asarray(table["start"], np.int64)
    has_window = "window_start" in table and bool((np.asarray(table["window_start"]) >= 0).any())
    return "window" if has_window and np.median(lengths) < _SHORT else "region"


def sequences_of(
    embedded: EmbeddedTable, genome: Genome, span: Span = "region", rows: Ints | None = None
) -> Iterator[Codes | None]:
    """The bases of each row in the direction of its strand, read one after the other.

    rows: default all. span: the row's region, or the window that the model read around it.
    Yields None for a row without coordinates. Raises InputError for an unknown contig and for a
    region beyond its end: another genome was embedded.
    """
    names = ("start", "end") if span == "region" else ("window_start", "window_end")
    columns = [np.asarray(embedded.table[name]) for name in ("chrom", *names, "strand")]
    if rows is not None:
        columns = [column[rows] for column in columns]
    for chrom, start, end, strand in zip(*(column.tolist() for column in columns), strict=True):
        if start < 0 or end <= start:
            yield None
            continue
        if chrom not in genome.contigs:
            known = ", ".join(list(genome.contigs)[:4])
            raise InputError(
                f"the genome has no contig {chrom!r} (it has {known}, ...): name the one that was "
                "embedded; for embeddings of a FASTA's records give --sequences"
            )
        if end > genome.contigs[chrom]:
            raise InputError(
                f"{chrom} {start} {end} is beyond the contig's end ({genome.contigs[chrom]:,} "
                "bases): name the genome that was embedded"
            )
        codes = genome.read(chrom, start, end)
        yield reverse_complement(codes) if strand == "-" else codes


def sequences_in(path: Path, names: Sequence[str]) -> list[Codes | None]:
    """The sequences of rows by name, from a FASTA or a table with the columns sequence and name.

    None for a row without one. Raises InputError if no name matches.
    """
    found = dict(_records(path))
    rows = [found.get(name) for name in names]
    if all(row is None for row in rows):
        shown = ", ".join(map(repr, list(found)[:3])), ", ".join(map(repr, names[:3]))
        raise InputError(
            f"no sequence of {path} is named as an embedding: it has {shown[0]}, the embeddings "
            f"have {shown[1]}. Give the FASTA or table that was embedded, or --genome"
        )
    return rows


def _records(path: Path) -> Iterator[tuple[str, Codes]]:
    with open_regions(path) as table:
        names = [name for name in ("name", "id") if name in table.columns]
        if not names:
            raise InputError(
                f"{path} must have a column name or id, got {', '.join(table.columns)}"
            )
        at = table.columns.index(names[0])
        for row in table:
            if row.codes is not None:
                yield row.columns[at], row.codes


def word_sets(sequences: Sequence[Codes | None], max_k: int) -> list[FeatureSet]:
    """Frequencies of words of 1 to max_k bases, and the same with both strands as one.

    Shorter ones only if the longest would take more than half a GiB. A row without a sequence has
    no words.
    """
    if not 1 <= max_k <= 8:
        raise InputError(f"max_k must be 1 to 8, got {max_k}")
    while max_k > 1 and 4 * 4**max_k * len(sequences) > _MOST_BYTES:
        max_k -= 1

    return [
        FeatureSet(
            f"{k}-mers{' of both strands' if both_strands else ''}",
            partial(_words, sequences, k, both_strands),
            ladder=f"{both_strands}",
        )
        for both_strands in (False, True)
        for k in range(1, max_k + 1)
    ]


def _words(sequences: Sequence[Codes | None], k: int, both_strands: bool) -> NDArray[np.float32]:
    """(n, words): sequences are counted in blocks of similar lengths, padded."""
    lengths = np.array([0 if row is None else len(row) for row in sequences], np.int64)
    empty = word_frequencies(np.full((1, 1), PAD_ID, np.uint8), k, both_strands)[k]
    table = np.zeros((len(lengths), empty.shape[1]), np.float32)
    for block in batches_of(lengths, _BLOCK_BASES):
        codes = np.full((len(block), max(1, int(lengths[block].max()))), PAD_ID, np.uint8)
        for row, i in zip(codes, block, strict=True):
            if (sequence := sequences[i]) is not None:
                row[: len(sequence)] = sequence
        table[block] = word_frequencies(codes, k, both_strands)[k]
    return table


def torn_duplicates(sequences: Sequence[Codes | None], folds: Ints) -> int:
    """Count rows with the same bases, on either strand, as a row of another fold."""
    known = [i for i, row in enumerate(sequences) if row is not None and len(row)]
    if not known:
        return 0
    parts = [row for i in known if (row := sequences[i]) is not None]
    offsets = np.cumsum([0, *map(len, parts)])
    keys = sequence_keys(PackedSequences(token_ids(np.concatenate(parts)), offsets))
    key = np.unique(keys, return_inverse=True)[1]
    different, _ = np.unique(np.stack([key, folds[known]]), axis=1)
    return int((np.bincount(different)[key] > 1).sum())


def region_texts(table: Mapping[str, NDArray[Any]], rows: Ints) -> list[str]:
    """Name, region and strand of rows: the same whatever their order in the file."""
    columns = [table[name][rows].tolist() for name in ("name", "chrom", "start", "end", "strand")]
    return ["\t".join(map(str, row)) for row in zip(*columns, strict=True)]
