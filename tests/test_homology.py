"""Which split a contig is in, by human chromosome or by its own number."""

import pytest

from dnamamba.data.species.homology import HELD_OUT, published_split, split_by_homology, to_human
from dnamamba.intervals import Split
from golden_files import load_golden_json

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST


@pytest.mark.parametrize(
    ("human", "split"),
    [
        (("1",), VALID),
        (("13",), VALID),
        (("5",), TEST),
        (("2",), TRAIN),
        (("X",), TRAIN),
        (("7", "9"), TEST),
        (("5", "17"), None),
        (("1", "5"), None),
        ((), None),
        (None, None),
    ],
)
def test_a_contig_is_in_the_split_of_all_its_human_chromosomes(human, split):
    assert split_by_homology(human) is split


def test_own_numbers_of_complete_genomes_are_told_from_human_ones():
    """Chromosome 10 of a chimpanzee is human 12; only names up to 23 say which numbers they are."""
    own = [f"chimpanzee/chr{n}" for n in range(1, 24)]
    by_human = [f"human/chr{n}" for n in range(1, 23)]
    found = to_human([*own, *by_human, "gorilla/chr4_pat_hsa17x5", "gorilla/chrM"])
    assert found["chimpanzee/chr10"] == ("12",)
    assert found["human/chr10"] == ("10",)
    assert found["gorilla/chr4_pat_hsa17x5"] == ("5", "17")
    assert found["gorilla/chrM"] is None
    assert list(found)[:2] == ["chimpanzee/chr1", "chimpanzee/chr2"]


def test_no_human_chromosome_is_held_out_twice():
    assert not HELD_OUT[VALID] & HELD_OUT[TEST]


@pytest.mark.parametrize(
    ("species", "contig", "split"),
    [
        ("human", "chr1", VALID),
        ("human", "2", TRAIN),
        ("gorilla", "chr2A", TRAIN),
        ("gorilla", "chr2b", TRAIN),
        ("gorilla", "chr5", TEST),
        ("gorilla", "chr17", TRAIN),  # a good part of it is human 5
        ("bonobo", "chr12_pat_hsa2a", VALID),  # and this one human 2: its own number counts
        ("human", "chrY", TRAIN),
        ("hippo", "chrY", None),
        ("mouse", "chr20", None),
        ("goat", "chr29", TRAIN),
        ("axolotl", "chr29", TRAIN),
        ("human", "chrM", None),
        ("human", "chr1_KI270706v1_random", None),
        ("human", "chrUn_GL000220v1", None),
    ],
)
def test_the_published_lists_go_by_a_chromosomes_own_number(species, contig, split):
    assert published_split(species, contig) is split


def test_the_published_lists_are_those_of_the_loader():
    for species, splits in load_golden_json("loader_species_a")["splits"].items():
        for split, names in splits.items():
            assert {published_split(species, f"chr{name}") for name in names} == {Split(split)}
        named = {name for names in splits.values() for name in names}
        others = {*map(str, range(1, 40)), "X", "Y"} - named
        assert {published_split(species, f"chr{name}") for name in others} == {None}
