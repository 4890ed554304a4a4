"""A summary of a sequence file, in lines for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnamamba.data_prep.genomes.statistics import ContigStatistics, foreign_letters, scan_fasta
from dnamamba.data_prep.genomes.store import GenomeStore, is_store
from dnamamba.files import compression_of, open_existing
from dnamamba.runtime import logger
from dnamamba.tokenizer import GAPS, IUPAC_AMBIGUOUS

_COMPRESSION = {
    "none": "plain FASTA",
    "bgzf": "BGZF FASTA (random access)",
    "gzip": "gzip FASTA (no random access: `dnamamba data prepare` it before training)",
}


def count_contigs(n: int) -> str:
    """1 contig, 2 contigs."""
    return f"{n:,} contig" + "s" * (n != 1)


def summarise_file(path: Path, n_contigs: int = 20) -> list[str]:
    """Kind, size, checksums, letters and the longest contigs of a FASTA or a store.

    Logs a warning if many letters are not DNA.
    """
    open_existing(path).close()
    if is_store(path):
        store = GenomeStore(path)
        kind, statistics = "prepared store", store.statistics()
        sources = [f"{row['file']} (sha256 {row['sha256']})" for row in store.sources()]
    else:
        scanned = scan_fasta(path)
        kind, statistics = _COMPRESSION[compression_of(path)], list(scanned.contigs)
        sources = [f"sha256 {scanned.source['sha256']}"]
    if letters := foreign_letters(statistics):
        logger.warning("%s: %s", path, letters)
    lines = [f"{path}: {kind}, {path.stat().st_size:,} bytes"]
    lines += [f"  source: {source}" for source in sources]
    return lines + _describe(statistics, n_contigs)


def _describe(statistics: Sequence[ContigStatistics], n_contigs: int) -> list[str]:
    bases = sum(row.length for row in statistics)
    letters: Counter[str] = Counter()
    for row in statistics:
        for letter, count in row.letters.items():
            letters[letter.upper()] += count
    masked = sum(row.soft_masked for row in statistics)
    longest = sorted(statistics, key=lambda row: -row.length)
    lengths = [row.length for row in longest]
    # The largest length such that contigs at least as long hold half of all bases.
    n50 = lengths[int(np.searchsorted(np.cumsum(lengths), bases / 2))]
    lines = [
        f"  {count_contigs(len(statistics))}, {bases:,} bases; longest {lengths[0]:,}, "
        f"N50 {n50:,}, shortest {lengths[-1]:,}",
        f"  soft-masked (lower case): {masked:,} ({masked / max(1, bases):.2%})",
    ]
    lines += _describe_letters(letters, bases)
    if empty := lengths.count(0):
        lines.append(f"  without sequence: {count_contigs(empty)}")
    lines += [f"    {row.length:>13,}  {row.name}" for row in longest[:n_contigs]]
    if more := longest[n_contigs:]:
        lines.append(f"    and {len(more):,} more")
    return lines


def _describe_letters(letters: Counter[str], bases: int) -> list[str]:
    known = {
        "A, C, G, T": "ACGT",
        "U (read as T)": "U",
        "N": "N",
        "other IUPAC letters (read as N)": set(IUPAC_AMBIGUOUS) - {"N"},
        "gaps (read as N)": GAPS,
    }
    groups = {name: [x for x in sorted(letters) if x in wanted] for name, wanted in known.items()}
    unknown = set(letters).difference(*groups.values())
    groups["outside IUPAC (read as unknown)"] = sorted(unknown)
    lines = []
    for name, group in groups.items():
        total = sum(letters[letter] for letter in group)
        if total:
            detail = ", ".join(f"{letter} {letters[letter]:,}" for letter in group)
            lines.append(f"  {name}: {total:,} ({total / max(1, bases):.2%}): {detail}")
    return lines
