"""Which human chromosomes the contigs of great apes are homologous to, and their assemblies."""

import re

import pytest

from dnamamba.data_prep.apes import homologues, human_name, numbering_of
from dnamamba.data_prep.downloads.catalogue import great_apes

GORILLA = [
    *("chr1_pat_hsa1", "chr2_pat_hsa3", "chr3_pat_hsa4", "chr4_pat_hsa17x5", "chr5_mat_hsa6"),
    *("chr6_mat_hsa7", "chr7_pat_hsa8", "chr8_pat_hsa10", "chr9_pat_hsa11", "chr10_mat_hsa12"),
    *("chr11_mat_hsa2b", "chr12_pat_hsa2a", "chr13_pat_hsa9", "chr14_pat_hsa13"),
    *("chr15_pat_hsa14", "chr16_pat_hsa15", "chr17_mat_hsa18", "chr18_pat_hsa16"),
    *("chr19_pat_hsa5x17", "chr20_mat_hsa19", "chr21_pat_hsa20", "chr22_mat_hsa21"),
    *("chr23_mat_hsa22", "chrX_mat_hsaX", "chrY_pat_hsaY"),
]
"""All chromosomes of the complete gorilla genome, as published."""


@pytest.mark.parametrize(
    ("contig", "human"),
    [
        ("chr1", ("1",)),
        ("22", ("22",)),
        ("chrX", ("X",)),
        ("Y", ("Y",)),
        ("chr2A", ("2",)),
        ("2B", ("2",)),
        ("2p", ("2",)),
        ("2q", ("2",)),
        ("chr2a", ("2",)),
        ("chr2", ("2",)),
        ("chr5_hsa6", ("6",)),
        ("chr12_pat_hsa2a", ("2",)),
        ("chr13_hap1_hsa2b", ("2",)),
        ("chrX_hap1_hsaX", ("X",)),
        ("mPanTro3#1#chr13_hap1_hsa2b", ("2",)),
        ("chimpanzee/chr8_hap1_hsa10", ("10",)),
        ("chimpanzee/chr2A", ("2",)),
    ],
)
def test_every_style_of_names_is_understood(contig: str, human: tuple[str, ...]) -> None:
    assert homologues("chimpanzee", contig) == human


@pytest.mark.parametrize(
    "contig",
    [
        "chrM",
        "MT",
        "chr0",
        "chr23",
        "chr99",
        "chr3A",
        "chr1_KI270706v1_random",
        "chr6_GL000256v2_alt",
        "chrUn_NW_019932814v1",
        "NC_072398.2",
        "scaffold_12",
        "chr1_hsa23",
        "",
    ],
)
def test_what_is_not_known_is_none(contig: str) -> None:
    assert homologues("chimpanzee", contig) is None
    assert homologues("human", contig) is None


@pytest.mark.parametrize("species", ["gorilla", "western_gorilla", "Gorilla_gorilla", "mGorGor1"])
@pytest.mark.parametrize(
    "contig", ["chr5", "17", "chr4_pat_hsa17x5", "chr19_pat_hsa5x17", "chr4_hsa5", "chr19_hsa17"]
)
def test_gorilla_5_and_17_are_both_of_both(species: str, contig: str) -> None:
    assert homologues(species, contig) == ("5", "17")


def test_other_apes_exchanged_nothing() -> None:
    for species in ("human", "chimpanzee", "bonobo", "sumatran_orangutan", "simulated"):
        assert homologues(species, "chr5") == ("5",)
        assert homologues(species, "chr17") == ("17",)


def test_an_unknown_species_is_believed() -> None:
    assert homologues("my_ape", "chr4") == ("4",)
    assert homologues("my_ape", "contig_4") is None


@pytest.mark.parametrize("contig", GORILLA)
def test_own_numbers_mean_what_the_published_names_say(contig: str) -> None:
    bare = contig.partition("_")[0]
    named = homologues("gorilla", contig)
    assert named is not None
    assert homologues("gorilla", bare, "own") == named
    assert homologues("gorilla", contig, "own") == named
    if bare.removeprefix("chr").isdecimal():
        assert human_name("gorilla", bare.removeprefix("chr")) == contig.rpartition("_")[2]


@pytest.mark.parametrize("species", ["chimpanzee", "bonobo", "sumatran_orangutan"])
def test_own_numbers_cover_every_human_autosome(species: str) -> None:
    found = [homologues(species, f"chr{n}", "own") for n in range(1, 24)]
    assert {*found} == {(str(n),) for n in range(1, 23)}
    assert found.count(("2",)) == 2
    assert homologues(species, "chr24", "own") is None
    assert homologues(species, "chr2A", "own") is None
    assert homologues(species, "chr8", "own") == ("10",)


def test_the_numbering_is_told_by_all_names() -> None:
    own = [f"gorilla/chr{n}" for n in range(1, 24)]
    assert numbering_of("gorilla", own) == "own"
    assert numbering_of("gorilla", [*own[:-1], "gorilla/chr2A"]) == "human"
    assert numbering_of("gorilla", GORILLA) == "human"
    assert numbering_of("cat", own) == "human"
    assert numbering_of("human", own) == "human"


def test_human_names_are_known_for_own_numbers_alone() -> None:
    assert human_name("gorilla", "4") == "hsa17x5"
    assert human_name("bonobo", "12") == "hsa2a"
    assert human_name("bornean_orangutan", "12") == "hsa2a"
    for species, number in (("gorilla", "24"), ("gorilla", "0"), ("gorilla", "X"), ("human", "1")):
        assert human_name(species, number) is None


def test_assemblies_are_complete_and_say_who_has_no_y() -> None:
    six = ["human", "chimpanzee", "bonobo", "gorilla", "sumatran_orangutan", "bornean_orangutan"]
    assert list(great_apes()["t2t"]) == six
    assert list(great_apes()["ucsc"]) == six[:-1]
    for apes in great_apes().values():
        for species, ape in apes.items():
            assert ape.species == species
            assert re.fullmatch(r"GC[AF]_\d{9}\.\d+", ape.accession)
    assert not any(ape.note or ape.database for ape in great_apes()["t2t"].values())
    females = {species for species, ape in great_apes()["ucsc"].items() if "no Y" in ape.note}
    assert females == {"bonobo", "gorilla", "sumatran_orangutan"}
