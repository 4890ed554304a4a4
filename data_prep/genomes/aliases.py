"""Tables of contig names: new names for NC_072398.2 or 2p of a published FASTA.

They are NCBI's assembly reports, UCSC's chromAlias tables, or two columns: the name in the FASTA
and the new one. Chromosomes are called `chr1`, `chr2A`, `chrX`, `chrM`. The complete ape genomes
number their chromosomes by themselves: the human one is added as they do (`chr4_hsa17x5`), so that
no number is taken for a human one.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from dnamamba.data_prep.apes import human_name, numbering_of
from dnamamba.errors import InputError
from dnamamba.files import open_input

_NCBI_HEADER = "Sequence-Name"
_NCBI_NAMES = ("Sequence-Name", "GenBank-Accn", "RefSeq-Accn", "UCSC-style-name")
_MISSING = ("", "na")
_HUMAN_PART = re.compile(r"_(hsa\d+(?:[ab]|x\d+)?)$", re.IGNORECASE)
# NCBI has called the two halves of human chromosome 2 after its arms.
_MOLECULES = {"MT": "M", "2p": "2A", "2q": "2B", "2a": "2A", "2b": "2B"}


def read_aliases(path: Path) -> dict[str, str]:
    """Every name in the table -> the contig's new name; new names stay as they are.

    Scaffolds get UCSC's name if there is one, else keep their own.
    Raises InputError for a file of another kind and for a name that would mean two contigs.
    """
    with open_input(path) as file:
        lines = file.read().decode("utf-8", "replace").splitlines()
    comments = [line.lstrip("# ") for line in lines if line.startswith("#")]
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    ncbi_header = next((line for line in comments if line.startswith(_NCBI_HEADER)), None)
    organism = next((line for line in comments if line.startswith("Organism name:")), "")
    if ncbi_header is not None:
        pairs = _name_by_report(ncbi_header.split("\t"), rows, organism, path)
    elif comments:
        pairs = _name_by_alias_table(comments[-1].split("\t"), rows, path)
    else:
        pairs = [(row[:1], row[1]) for row in _checked(rows, 2, path)]
    aliases: dict[str, str] = {}
    for names, target in pairs:
        for name in names:
            if name not in _MISSING and aliases.setdefault(name, target) != target:
                raise InputError(
                    f"{path}: {name!r} is called {aliases[name]!r} and {target!r}: remove one"
                )
    if not aliases:
        raise InputError(
            f"{path} names no contig: expected an assembly report of NCBI, a chromAlias table of "
            "UCSC, or two columns with a tab between (name in the FASTA, new name)"
        )
    return aliases | {target: target for target in aliases.values() if target not in aliases}


def rename(name: str, aliases: dict[str, str], table: Path) -> str:
    """The new name of a contig; InputError if `table` does not have it."""
    if name not in aliases:
        raise InputError(
            f"contig {name!r} is not in {table}, which has {', '.join([*aliases][:4])} ...: name "
            "the table that belongs to the FASTA, or add the contig to it"
        )
    return aliases[name]


def _checked(rows: Sequence[list[str]], n_columns: int, path: Path) -> Sequence[list[str]]:
    for row in rows:
        if len(row) != n_columns:
            raise InputError(
                f"{path}: expected {n_columns} columns with tabs between, got {len(row)} in "
                f"{' '.join(row)[:60]!r}"
            )
    return rows


def _name_by_report(
    header: list[str], rows: Sequence[list[str]], organism: str, path: Path
) -> list[tuple[list[str], str]]:
    table = [dict(zip(header, row, strict=True)) for row in _checked(rows, len(header), path)]
    needed = {*_NCBI_NAMES, "Sequence-Role", "Assigned-Molecule"}
    if missing := sorted(needed - {*header}):
        raise InputError(f"{path} is an assembly report without the column {missing[0]}")
    molecules = [_molecule(row) for row in table]
    own = numbering_of(organism, [name for name in molecules if name]) == "own"
    pairs = []
    for row, molecule in zip(table, molecules, strict=True):
        names = [row[column] for column in _NCBI_NAMES]
        if molecule is None:
            ucsc = row["UCSC-style-name"]
            # Without UCSC's name, the FASTA's stays, GenBank's or RefSeq's.
            pairs += [([name], name if ucsc in _MISSING else ucsc) for name in names]
            continue
        human = _human_part(names)
        if own and human is None:
            human = human_name(organism, molecule)
        pairs.append((names, _chromosome(molecule, human)))
    return pairs


def _molecule(row: dict[str, str]) -> str | None:
    """`1`, `2A`, `X`, `M` of a whole chromosome; None for scaffolds."""
    if row["Sequence-Role"] != "assembled-molecule" or row["Assigned-Molecule"] in _MISSING:
        return None
    molecule = row["Assigned-Molecule"].removeprefix("chr")
    return _MOLECULES.get(molecule, molecule)


def _name_by_alias_table(
    header: list[str], rows: Sequence[list[str]], path: Path
) -> list[tuple[list[str], str]]:
    # Older tables say in words that the first column is UCSC's.
    column = header.index("ucsc") if "ucsc" in header else 0
    pairs = []
    for row in rows:
        target = row[column] if column < len(row) else ""
        if target in _MISSING:
            pairs += [([name], name) for name in row]
            continue
        number = target.removeprefix("chr")
        pairs.append((row, _chromosome(number, _human_part(row)) if number.isdecimal() else target))
    return pairs


def _human_part(names: Sequence[str]) -> str | None:
    found = (_HUMAN_PART.search(name) for name in names)
    return next((match[1].lower() for match in found if match), None)


def _chromosome(molecule: str, human: str | None) -> str:
    return f"chr{molecule}_{human}" if human and molecule.isdecimal() else f"chr{molecule}"
