"""Training, validation and test contigs of apes, by human chromosome.

HyenaDNA's species splits hold out human chromosomes. `homology` holds out whatever is homologous to
them; `hyenadna` goes by a contig's own number, as its loader does: it trains on gorilla 17, most of
which is human chromosome 5 (exchanged with 17 in gorillas; Jauch et al. 1992).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from dnamamba.data_prep.apes import homologues, numbering_of
from dnamamba.intervals import Split

HELD_OUT: Mapping[Split, frozenset[str]] = {
    Split.VALID: frozenset({"1", "3", "12", "13"}),
    Split.TEST: frozenset({"5", "7", "9", "10", "11"}),
}
"""Human chromosomes; the others are for training."""

# HyenaDNA's lists (src/dataloaders/datasets/species_dataset.py): the chromosomes 2, 4, 6, 8 and 14
# to this one, then the sex chromosomes. Bonobo is not in them and is taken like the other apes.
_APES = ("2A 2B", 22, "X Y")
_PUBLISHED = {
    "human": ("2", 22, "X Y"),
    **dict.fromkeys(("chimpanzee", "bonobo", "gorilla", "orangutan"), _APES),
    **dict.fromkeys(("sumatran_orangutan", "bornean_orangutan"), _APES),
    "lemur": ("2", 27, "X Y"),
    "mouse": ("2", 19, "X"),
    "pig": ("2", 18, "X Y"),
    "hippo": ("2", 17, "X"),
    "goat": ("2", 29, "X Y"),
    "sheep": ("2", 26, "X Y"),
}
# Species without a list: every numbered chromosome that is not held out.
_ANY_SPECIES = ("2 2A 2B", 99, "X Y")
_OWN_NAME = re.compile(r"(?:chr)?(\d{1,2}[AB]?|X|Y)(?:(?:_\w+)?_hsa\w+)?", re.IGNORECASE)


def to_human(contigs: Iterable[str]) -> dict[str, tuple[str, ...] | None]:
    """`label/contig` -> the human chromosomes it is homologous to; None if not known."""
    label_of = {name: name.partition("/")[0] for name in contigs}
    by_label: dict[str, list[str]] = defaultdict(list)
    for name, label in label_of.items():
        by_label[label].append(name)
    numbering = {label: numbering_of(label, own) for label, own in by_label.items()}
    return {name: homologues(label, name, numbering[label]) for name, label in label_of.items()}


def split_by_homology(homologues: tuple[str, ...] | None) -> Split | None:
    """The split of all of a contig's human chromosomes; None if they differ or are not known."""
    splits = {_split_of_human(chromosome) for chromosome in homologues or ()}
    return splits.pop() if len(splits) == 1 else None


def _split_of_human(chromosome: str) -> Split:
    held_out = (split for split, names in HELD_OUT.items() if chromosome in names)
    return next(held_out, Split.TRAIN)


def published_split(species: str, contig: str) -> Split | None:
    """The split of a contig in HyenaDNA's lists, by its own name; None if it is in none.

    contig: its name in the assembly, `chr2A`, `2A` or `chr5_pat_hsa6`.
    """
    match = _OWN_NAME.fullmatch(contig)
    if match is None:
        return None
    own = match[1].upper()
    split = _split_of_human(own)
    if split is not Split.TRAIN:
        return split
    second, last, sex = _PUBLISHED.get(species.removeprefix("simulated_"), _ANY_SPECIES)
    named = {*second.split(), *sex.split(), "4", "6", "8", *map(str, range(14, last + 1))}
    return Split.TRAIN if own in named else None
