"""The great apes: public assemblies, and the human chromosomes that their contigs match.

Assemblies are described as in public recipes and papers; the note of an entry says what is only
general knowledge.

Two numberings are in use. UCSC's panTro6, panPan3, gorGor6 and ponAbe3 number chromosomes as in
human, with 2A and 2B for the two that fused into human 2. The complete genomes (Yoo 2025, Nature
641:401) number each ape's chromosomes 1 to 23 by themselves and add the human one to the name:
gorilla `chr2_pat_hsa3` is human 3, `chr4_pat_hsa17x5` a part each of human 17 and 5.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Assembly = Literal["t2t", "ucsc"]
Numbering = Literal["human", "own"]


@dataclass(frozen=True, kw_only=True)
class ApeAssembly:
    """One genome of one great ape.

    species: the species' label. name: the assembly's name in its newest spelling, older_names: its
    other spellings. accession: NCBI's, with version. database: UCSC's name; "" for files of NCBI.
    has_y: whether it has a Y chromosome, which an assembly of a female lacks.
    size: bytes of the compressed FASTA, None if not known. note: a sentence for readers.
    """

    species: str
    name: str
    accession: str
    database: str = ""
    older_names: tuple[str, ...] = ()
    has_y: bool = True
    size: int | None = None
    note: str = ""


_UNCONFIRMED = "(general knowledge, not confirmed)"
_FEMALE = f"no Y: of a female {_UNCONFIRMED}"


def _complete(species: str, code: str, accession: str, size: int | None = None) -> ApeAssembly:
    # The same accession's folder has been called v2.0 and v2.1.
    newest, older = (f"NHGRI_{code}-{version}_pri" for version in ("v2.1", "v2.0"))
    return ApeAssembly(
        species=species, name=newest, accession=accession, older_names=(older,), size=size
    )


_T2T = (
    ApeAssembly(species="human", name="T2T-CHM13v2.0", accession="GCF_009914755.1"),
    _complete("chimpanzee", "mPanTro3", "GCF_028858775.2", 940_198_818),
    _complete("bonobo", "mPanPan1", "GCF_029289425.2"),
    _complete("gorilla", "mGorGor1", "GCF_029281585.2"),
    _complete("sumatran_orangutan", "mPonAbe1", "GCF_028885655.2"),
    _complete("bornean_orangutan", "mPonPyg2", "GCF_028885625.2"),
)

_UCSC = (
    ApeAssembly(
        species="human",
        name="GRCh38",
        accession="GCF_000001405.40",
        database="hg38",
        size=983_659_424,
        note="the accession is that of a later patch release with the same chromosomes",
    ),
    ApeAssembly(
        species="chimpanzee", name="Clint_PTRv2", accession="GCF_002880755.1", database="panTro6"
    ),
    ApeAssembly(
        species="bonobo",
        name="Mhudiblu_PPA_v0",
        accession="GCF_013052645.1",
        database="panPan3",
        has_y=False,
        note=_FEMALE,
    ),
    ApeAssembly(
        species="gorilla",
        name="Kamilah_GGO_v0",
        accession="GCF_008122165.1",
        database="gorGor6",
        has_y=False,
        note=_FEMALE,
    ),
    ApeAssembly(
        species="sumatran_orangutan",
        name="Susie_PABv2",
        accession="GCF_002880775.1",
        database="ponAbe3",
        has_y=False,
        note=f"{_FEMALE}; name and accession likewise",
    ),
)

GREAT_APES: dict[Assembly, dict[str, ApeAssembly]] = {
    "t2t": {ape.species: ape for ape in _T2T},
    "ucsc": {ape.species: ape for ape in _UCSC},
}
"""Assemblies by species: `t2t` complete ones at NCBI, `ucsc` those that many papers used."""

# Chromosomes 1 to 23 of the complete genomes, by the human chromosome in their names, as several
# public projects list them. NCBI's records count alike: C13H9orf43 lies on gorilla 13.
_PAN = "1 3 4 5 6 7 8 10 11 12 9 2a 2b 13 14 15 18 16 17 19 20 21 22"
_GORILLA = "1 3 4 17x5 6 7 8 10 11 12 2b 2a 9 13 14 15 18 16 5x17 19 20 21 22"
_PONGO = "1 3 4 5 6 7 8 10 11 12 2b 2a 9 13 14 15 18 16 17 19 20 21 22"

# Common, Latin, UCSC and assembly names in labels.
_APES = (
    ("chimpanzee", re.compile(r"chimp|troglodytes|pantro"), _PAN),
    ("bonobo", re.compile(r"bonobo|paniscus|panpan"), _PAN),
    ("gorilla", re.compile(r"gorilla|gorgor"), _GORILLA),
    ("orangutan", re.compile(r"orang|pongo|abelii|pygmaeus|ponabe|ponpyg"), _PONGO),
)

_NAMED_HUMAN = re.compile(r"hsa(?:([1-9]\d?)(?:[ab]|x([1-9]\d?))?|([xy]))$", re.IGNORECASE)
_PLAIN = re.compile(
    r"(?:chr(?:omosome)?_?)?(?:([1-9]\d?)([abpq])?|([xy]))(?:_(?:hap\d|pat|mat))?$", re.IGNORECASE
)
# Human 5 and 17 exchanged arms in the gorilla (Jauch 1992, PNAS 89:8611).
_EXCHANGED = ("5", "17")
_LAST_AUTOSOME = 22
_HUMAN = {*(str(n) for n in range(1, _LAST_AUTOSOME + 1)), "X", "Y"}


def homologues(species: str, contig: str, numbering: Numbering = "human") -> tuple[str, ...] | None:
    """Human chromosomes ("1" to "22", "X", "Y") that a contig of a great ape is homologous to.

    species: a label; those of apes other than human have rules of their own.
    contig: UCSC's, NCBI's, Ensembl's or the complete genomes' name (`chr2A`, `2p`, `17`,
        `chr12_pat_hsa2a`), after an optional prefix with "/" or "#".
    numbering: whether a number without `hsa` is the human chromosome's or the ape's own
        (`numbering_of`).

    None for scaffolds, mitochondria and other names. Numbers of species that are no apes are taken
    for human ones: labels do not tell.
    """
    name = re.split(r"[/#]", contig)[-1]
    known = _from_human_name(name) or _from_number(species, name, numbering)
    if known is None or not {*known} <= _HUMAN:
        return None
    if _ape_of(species) == "gorilla" and {*known} & {*_EXCHANGED}:
        return _EXCHANGED
    return known


def numbering_of(species: str, contigs: Iterable[str]) -> Numbering:
    """The numbering of an ape's contigs: its own if they go up to 23, else the human one."""
    plain = (_PLAIN.match(re.split(r"[/#]", contig)[-1]) for contig in contigs)
    counts_to_23 = any(match and match[1] == str(_LAST_AUTOSOME + 1) for match in plain)
    return "own" if counts_to_23 and _own_chromosomes(species) else "human"


def human_name(species: str, number: str) -> str | None:
    """The human part of a complete genome's name, `hsa17x5` for gorilla 4; None if unknown."""
    own = _own_chromosomes(species)
    if not number.isdecimal() or not 1 <= int(number) <= len(own):
        return None
    return f"hsa{own[int(number) - 1]}"


def _from_human_name(name: str) -> tuple[str, ...] | None:
    match = _NAMED_HUMAN.search(name)
    if match is None:
        return None
    return tuple(part.upper() for part in match.groups() if part is not None)


def _from_number(species: str, name: str, numbering: Numbering) -> tuple[str, ...] | None:
    match = _PLAIN.match(name)
    if match is None or (match[2] and match[1] != "2"):
        return None
    if match[3]:
        return (match[3].upper(),)
    if numbering == "human" or not _own_chromosomes(species):
        return (match[1],)
    named = human_name(species, match[1])
    return None if named is None or match[2] else _from_human_name(named)


def _ape_of(species: str) -> str | None:
    return next((ape for ape, pattern, _ in _APES if pattern.search(species.lower())), None)


def _own_chromosomes(species: str) -> list[str]:
    ape = _ape_of(species)
    return next((numbers.split() for name, _, numbers in _APES if name == ape), [])
