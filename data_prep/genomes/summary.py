"""A summary of a sequence file, in lines for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

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
        sources = [f"sha256 {scanned.sha256}"]
    if letters := foreign_letters(statistics):
        logger.warning("%s: %s", path, letters)
    lines = [f"{path}: {kind}, {path.stat().st_size:,} bytes"]
    lines += [f"  source: {source}" for source in sources]
    return lines + _describe(statistics, n_contigs)


def _describe(statistics: Sequence[ContigStatistics], n_contigs: int) -> list[str]:
    bases = sum(row.length for row in statistics)
    letters: Counter[str] = Counter()
    for row in statistics:
        letters.update({letter.upper(): 0 for letter in row.letters})
        for letter, count in row.letters.items():
            letters[letter.upper()] += count
    masked = sum(row.soft_masked for row in statistics)
    lengths = sorted((row.length for row in statistics), reverse=True)
    lines = [
        f"  {count_contigs(len(statistics))}, {bases:,} bases; longest {lengths[0]:,}, "
        f"N50 {_n50(lengths):,}, shortest {lengths[-1]:,}",
        f"  soft-masked (lower case): {masked:,} ({masked / max(1, bases):.2%})",
    ]
    lines += _describe_letters(letters, bases)
    empty = sum(length == 0 for length in lengths)
    if empty:
        lines.append(f"  without sequence: {count_contigs(empty)}")
    longest = sorted(statistics, key=lambda row: -row.length)[:n_contigs]
    lines += [f"    {row.length:>13,}  {row.name}" for row in longest]
    if len(statistics) > len(longest):
        lines.append(f"    and {len(statistics) - len(longest):,} more")
    return lines


def _describe_letters(letters: Counter[str], bases: int) -> list[str]:
    groups = {
        "A, C, G, T": [letter for letter in letters if letter in "ACGT"],
        "U (read as T)": [letter for letter in letters if letter == "U"],
        "N": [letter for letter in letters if letter == "N"],
        "other IUPAC letters (read as N)": [
            letter for letter in letters if letter in IUPAC_AMBIGUOUS and letter != "N"
        ],
        "gaps (read as N)": [letter for letter in letters if letter in GAPS],
    }
    known = {letter for group in groups.values() for letter in group}
    groups["outside IUPAC (read as unknown)"] = [x for x in letters if x not in known]
    lines = []
    for name, group in groups.items():
        total = sum(letters[letter] for letter in group)
        if total:
            detail = ", ".join(f"{letter} {letters[letter]:,}" for letter in sorted(group))
            lines.append(f"  {name}: {total:,} ({total / max(1, bases):.2%}): {detail}")
    return lines


def _n50(lengths: Sequence[int]) -> int:
    """The largest length such that contigs at least as long hold half of all bases."""
    half, seen = sum(lengths) / 2, 0
    for length in lengths:
        seen += length
        if seen >= half:
            return length
    return 0
