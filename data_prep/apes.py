"""The human chromosomes that contigs of great apes match.

Two numberings are in use. UCSC's panTro6, panPan3, gorGor6 and ponAbe3 number chromosomes as in
human, with 2A and 2B for the two that fused into human 2. The complete genomes (Yoo 2025, Nature
641:401) number each ape's chromosomes 1 to 23 by themselves and add the human one to the name:
gorilla `chr2_pat_hsa3` is human 3, `chr4_pat_hsa17x5` a part each of human 17 and 5.
"""

import re
from collections.abc import Iterable
from typing import Literal

Numbering = Literal["human", "own"]

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
