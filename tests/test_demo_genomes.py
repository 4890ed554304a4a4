"""Simulated great-ape genomes: reproducible, complete or absent, and shaped like the real tree."""

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.demo import simulate as demo
from dnamamba.data_prep.demo.ancestor import AncestorContent
from dnamamba.data_prep.demo.evolution import (
    CPG_ISLAND,
    EXON,
    MASKED,
    UNIQUE,
    Draws,
    MutationRates,
    Stretch,
    align_to_ancestor,
    insert_pieces,
    mutate,
    random_bases,
)
from dnamamba.data_prep.demo.simulate import (
    SPECIES,
    DemoConfig,
    simulate_chromosome,
    write_demo_genomes,
)
from dnamamba.errors import InputError

SMALL = DemoConfig(chromosome_lengths=(60_000, 40_000))
SMALL_SHA256 = "bf38d8c526d5f1d71cd31d651f03c2f00fddf9cc604e5603581e06e52a1c7e49"
TINY = DemoConfig(chromosome_lengths=(20_000, 20_000))


@pytest.fixture(scope="module")
def genomes(tmp_path_factory):
    """Paths of one small set of genomes."""
    return write_demo_genomes(tmp_path_factory.mktemp("demo") / "genomes", SMALL)


@pytest.fixture(scope="module")
def record(genomes):
    return json.loads((genomes["human"].parent / "demo.json").read_text())


def read_fasta(path: Path) -> dict[str, str]:
    """Header line -> sequence."""
    records = path.read_text().split(">")[1:]
    return {
        header: body.replace("\n", "") for header, body in (text.split("\n", 1) for text in records)
    }


def kmers(sequence: str, size: int = 16) -> set[str]:
    """Words of either strand, the smaller of the two."""
    forward = sequence.upper()
    backward = forward.translate(str.maketrans("ACGT", "TGCA"))[::-1]
    last = len(forward) - size
    return {
        min(forward[i : i + size], backward[last - i : last - i + size]) for i in range(last + 1)
    }


def sha256_of_all(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def test_same_config_gives_the_same_bytes_on_every_machine(genomes):
    """A pinned sum, for every platform; whoever changes the sequence raises FORMAT_VERSION."""
    sequences = b"".join(genomes[species].read_bytes() for species in SPECIES)
    assert hashlib.sha256(sequences).hexdigest() == SMALL_SHA256


def test_a_second_folder_is_identical_in_every_file(genomes, tmp_path):
    write_demo_genomes(tmp_path / "again", SMALL)
    assert sha256_of_all(tmp_path / "again") == sha256_of_all(genomes["human"].parent)


def test_another_seed_gives_other_sequence(genomes, tmp_path):
    other = write_demo_genomes(tmp_path / "other", replace(SMALL, seed=1))
    assert other["human"].read_bytes() != genomes["human"].read_bytes()


def test_files_say_that_they_are_simulated(genomes):
    folder = genomes["human"].parent
    assert {path.name for path in folder.iterdir()} == {
        "README.txt",
        "demo.json",
        *(f"simulated_{species}.fa" for species in SPECIES),
    }
    assert "No base comes from a real genome" in (folder / "README.txt").read_text()
    for species, path in genomes.items():
        expected = [f"chr{n} simulated {species}, not real sequence" for n in (1, 2)]
        assert list(read_fasta(path)) == expected


@pytest.mark.parametrize("species", SPECIES)
def test_sequence_is_acgt_of_about_the_length_asked_half_of_it_masked(species, genomes, record):
    lines = genomes[species].read_text().splitlines()
    assert max(len(line) for line in lines) == 60
    sequences = list(read_fasta(genomes[species]).values())
    for sequence, asked in zip(sequences, SMALL.chromosome_lengths, strict=True):
        assert set(sequence) == set("ACGTacgt")
        assert 0.95 * asked < len(sequence) < 1.3 * asked
        masked = sum(map(str.islower, sequence)) / len(sequence)
        assert 0.35 < masked < 0.65
        gc = sum(map(sequence.upper().count, "GC")) / len(sequence)
        assert 0.35 < gc < 0.55
    assert list(record["lengths"][species].values()) == [len(each) for each in sequences]


def test_divergence_follows_the_tree_of_the_apes(record):
    """Published: chimpanzee-bonobo 0.4 %, human-chimpanzee 1.2 %, gorilla 1.7 %, orangutan 3 %."""
    divergence = record["substitutions_per_shared_site"]
    assert 0.002 < divergence["chimpanzee-bonobo"] < 0.006
    assert 0.010 < divergence["human-chimpanzee"] < 0.014
    assert 0.014 < divergence["human-gorilla"] < 0.020
    assert 0.026 < divergence["human-orangutan"] < 0.034


def test_shared_words_tell_the_same_tree(genomes):
    """Read from the files alone, as Mash does: the share of 16-base words in common."""
    words = {
        species: kmers("".join(read_fasta(path).values())) for species, path in genomes.items()
    }

    def similarity(one: str, other: str) -> float:
        return len(words[one] & words[other]) / len(words[one] | words[other])

    pairs = [("chimpanzee", "bonobo"), ("human", "bonobo"), ("human", "gorilla")]
    similarities = [similarity(*pair) for pair in [*pairs, ("human", "orangutan")]]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] > 0.8
    assert similarities[-1] < 0.6


def test_every_rate_names_its_source(record):
    named = {row["name"] for row in record["rates"]}
    assert {each.name for part in (MutationRates, AncestorContent) for each in fields(part)} < named
    assert all(row["source"] for row in record["rates"])


def test_repeats_of_one_chromosome_foretell_those_of_another():
    """What a language model can learn: words in repeats come back elsewhere, others hardly do."""
    first, second = (
        simulate_chromosome(name, 100_000, DemoConfig())["human"] for name in ("chr1", "chr2")
    )

    def words(stretch: Stretch, masked: bool) -> set[str]:
        letters = np.frombuffer(b"ACGT", np.uint8)[stretch.bases]
        letters[(stretch.feature >= MASKED) != masked] = ord("N")
        return set().union(*(kmers(run) for run in letters.tobytes().decode().split("N") if run))

    seen = words(first, True) | words(first, False)
    repeats, rest = words(second, True), words(second, False)
    assert len(repeats & seen) / len(repeats) > 0.1
    assert len(rest & seen) / len(rest) < 0.001


def test_species_differ_by_repeats_that_recur_on_every_chromosome():
    """Words that only human chr1 has are found on human chr2, and less on chr2 of the others."""
    config = DemoConfig(tip_insertions_per_mb=300.0)
    first, second = (simulate_chromosome(name, 60_000, config) for name in ("chr1", "chr2"))

    def words(stretch: Stretch) -> set[str]:
        return kmers(np.frombuffer(b"ACGT", np.uint8)[stretch.bases].tobytes().decode())

    only_human = words(first["human"]).difference(*(words(first[name]) for name in SPECIES[1:]))
    found = {species: len(only_human & words(second[species])) for species in SPECIES}
    assert found["human"] > 200
    assert max(found[species] for species in SPECIES[1:]) < found["human"] / 4


def test_exons_change_least():
    config = DemoConfig(content=AncestorContent(coding=0.3))
    apes = simulate_chromosome("chr1", 100_000, config)
    human, orangutan = (align_to_ancestor(apes[name], 200_000) for name in ("human", "orangutan"))
    in_exon = np.zeros(200_000, bool)
    exon_sites = apes["human"].site[apes["human"].feature == EXON]
    in_exon[exon_sites[exon_sites >= 0]] = True
    shared = (human < 4) & (orangutan < 4)
    assert (human < 4)[in_exon].all()
    assert (orangutan < 4)[in_exon].all()

    differs = human != orangutan
    assert differs[in_exon].mean() < 0.6 * differs[shared & ~in_exon].mean()


def test_a_complete_folder_is_kept_as_it_is(genomes):
    folder = genomes["human"].parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write_demo_genomes(folder, SMALL) == genomes
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_an_empty_folder_is_filled(tmp_path):
    paths = write_demo_genomes(tmp_path, TINY)
    assert all(path.is_file() for path in paths.values())


def test_a_folder_of_another_config_is_refused(genomes):
    folder = genomes["human"].parent
    with pytest.raises(InputError, match=r"another config \(seed 0 there, 7 asked\); remove it or"):
        write_demo_genomes(folder, replace(SMALL, seed=7))
    slower = replace(SMALL, mutation=MutationRates(exon_factor=0.1))
    with pytest.raises(InputError, match=r"another config .*exon_factor"):
        write_demo_genomes(folder, slower)


def test_a_folder_of_another_version_is_refused(tmp_path, monkeypatch):
    write_demo_genomes(tmp_path / "genomes", TINY)
    monkeypatch.setattr(demo, "FORMAT_VERSION", demo.FORMAT_VERSION + 1)
    with pytest.raises(InputError, match="of format 1, this version makes format 2; remove it"):
        write_demo_genomes(tmp_path / "genomes", TINY)


@pytest.mark.parametrize("content", ["", "not json", "[1]", '{"name": "something else"}'])
def test_a_folder_of_other_files_is_refused_and_left_alone(content, tmp_path):
    (tmp_path / "demo.json").write_text(content)
    with pytest.raises(InputError, match=r"holds something else .* choose another folder"):
        write_demo_genomes(tmp_path, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_a_changed_or_missing_file_is_noticed(tmp_path):
    human = write_demo_genomes(tmp_path / "genomes", TINY)["human"]
    human.write_text(human.read_text().replace("A", "C", 1))
    with pytest.raises(InputError, match=r"simulated_human\.fa is missing or was changed"):
        write_demo_genomes(tmp_path / "genomes", TINY)
    human.unlink()
    with pytest.raises(InputError, match=r"simulated_human\.fa is missing or was changed"):
        write_demo_genomes(tmp_path / "genomes", TINY)


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failed_run_leaves_nothing_behind(error, tmp_path, monkeypatch):
    write_lines, calls = demo._fasta_lines, []

    def fail_in_the_middle(stretch: Stretch) -> bytes:
        calls.append(stretch)
        if len(calls) == 7:
            raise error
        return write_lines(stretch)

    monkeypatch.setattr(demo, "_fasta_lines", fail_in_the_middle)
    with pytest.raises(type(error)):
        write_demo_genomes(tmp_path / "genomes", TINY)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.undo()
    assert write_demo_genomes(tmp_path / "genomes", TINY)["human"].is_file()


def test_two_processes_may_write_one_folder(tmp_path, monkeypatch):
    """The one that comes second finds the other's complete folder in its way, and takes it."""
    folder, write_files = tmp_path / "genomes", demo._write_files

    def be_overtaken(staged: Path, config: DemoConfig) -> None:
        monkeypatch.undo()
        write_demo_genomes(folder, config)
        write_files(staged, config)

    monkeypatch.setattr(demo, "_write_files", be_overtaken)
    assert write_demo_genomes(folder, TINY)["human"].is_file()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: DemoConfig(chromosome_lengths=()), "one length or more"),
        (lambda: DemoConfig(chromosome_lengths=(60_000, 1000)), "each >= 20,000, got"),
        (lambda: DemoConfig(seed=-1), "seed must be >= 0, got -1"),
        (lambda: DemoConfig(tip_insertions_per_mb=-1.0), "tip_insertions_per_mb must be from 0"),
        (lambda: MutationRates(transition_share=1.5), "transition_share must be from 0 to 1"),
        (lambda: AncestorContent(alu=0.6, l1=0.3), "must sum to <= 0.8, got 1.1"),
        (lambda: AncestorContent(lowest_gc=0.6), "lowest_gc 0.6 must not be above"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        wrong()


def test_a_genome_without_repeats_and_genes_is_plain_background():
    content = AncestorContent(
        **{each.name: 0.0 for each in fields(AncestorContent) if not each.name.endswith("_gc")}
    )
    config = DemoConfig(content=content, tip_insertions_per_mb=0, inner_insertions_per_mb=0)
    apes = simulate_chromosome("chr1", 20_000, config)
    assert all((stretch.feature == UNIQUE).all() for stretch in apes.values())
    assert all(abs(stretch.length - 20_000) < 200 for stretch in apes.values())


def test_draws_are_fixed_by_their_key():
    assert Draws(0, "human", "chr1").words(3).tolist() == [674710354, 1390838481, 3589533839]
    assert Draws(0, "human", "chr1").below(10, 5).tolist() == [1, 3, 8, 9, 3]
    counts = np.bincount(Draws(0).choice([1, 0, 3], 4000))
    assert counts[1] == 0
    assert 2.5 < counts[2] / counts[0] < 3.5


def test_background_has_human_dinucleotides():
    bases = random_bases(200_000, 0.41, Draws(0))
    pairs = np.bincount(bases[:-1].astype(int) * 4 + bases[1:], minlength=16).reshape(4, 4)
    share = pairs / pairs.sum()
    odds = share / np.outer(share.sum(axis=1), share.sum(axis=0))
    assert odds[1, 2] == pytest.approx(0.21, abs=0.03)  # CpG
    assert odds[3, 0] == pytest.approx(0.73, abs=0.05)  # TpA
    assert odds[1, 0] == pytest.approx(1.22, abs=0.06)  # CpA


def test_cpg_mutates_faster_outside_islands_and_exons_slower():
    no_cpg, cpg = [0, 1, 3, 2], [1, 2, 1, 2]
    kinds = {
        "plain": (no_cpg, UNIQUE),
        "cpg": (cpg, UNIQUE),
        "island": (cpg, CPG_ISLAND),
        "exon": (no_cpg, EXON),
    }
    parts = [
        Stretch.of(np.tile(np.array(bases, np.uint8), 100_000), feature)
        for bases, feature in kinds.values()
    ]
    stretch = Stretch.join(parts)
    mutated = mutate(stretch, 0.02, MutationRates(indels_per_substitution=0.0), Draws(1))
    shares = (mutated.bases != stretch.bases).reshape(4, -1).mean(axis=1)
    assert shares.mean() == pytest.approx(0.02, rel=0.1)
    share = dict(zip(kinds, shares, strict=True))
    assert share["cpg"] / share["plain"] == pytest.approx(7, rel=0.05)  # 10 x 2/3 + 1/3
    assert share["island"] / share["plain"] == pytest.approx(1, rel=0.05)
    assert share["exon"] / share["plain"] == pytest.approx(0.4, rel=0.05)


def test_transitions_are_twice_the_transversions():
    bases = np.tile(np.array([0, 1, 3, 2], np.uint8), 100_000)
    mutated = mutate(
        Stretch.of(bases, UNIQUE), 0.1, MutationRates(indels_per_substitution=0.0), Draws(1)
    )
    changes = np.bincount(mutated.bases ^ bases, minlength=4)
    assert changes[2] / (changes[1] + changes[3]) == pytest.approx(2, rel=0.05)


def test_microsatellites_change_by_whole_units():
    unit = np.array([1, 0, 0], np.uint8)
    array = Stretch.of(np.tile(unit, 1000), MASKED + 3)
    slipped = mutate(array, 0.001, MutationRates(substitutions_per_base_year=0.0), Draws(2))
    assert slipped.length != array.length
    assert slipped.length % 3 == 0


def test_insert_pieces_by_hand():
    """AAAA with CC before position 1 and G before position 3, one base duplicated behind each."""
    host = replace(Stretch.of(np.array([0, 0, 3, 0], np.uint8), UNIQUE), site=np.arange(4))
    pieces = Stretch.of(np.array([1, 1, 2], np.uint8), MASKED)
    result = insert_pieces(host, np.array([1, 3]), pieces, np.array([2, 1]), duplicated=1)
    assert result.bases.tolist() == [0, 1, 1, 0, 0, 3, 2, 3, 0]
    assert result.site.tolist() == [0, -1, -1, -1, 1, 2, -1, -1, 3]


@settings(deadline=None, max_examples=50)
@given(
    length=st.integers(1, 400),
    substitutions=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
    feature=st.sampled_from([UNIQUE, EXON, CPG_ISLAND, MASKED, MASKED + 3]),
)
def test_sites_stay_in_order_whatever_happens(length, substitutions, seed, feature):
    stretch = Stretch.of(random_bases(length, 0.5, Draws(seed)), feature)
    stretch = replace(stretch, site=np.arange(length, dtype=np.int32))
    mutated = mutate(stretch, substitutions, MutationRates(), Draws(seed, "mutations"))
    kept = mutated.site[mutated.site >= 0]
    assert (np.diff(kept) > 0).all()
    assert len(mutated.bases) == len(mutated.feature) == len(mutated.site)
    assert mutated.bases.size == 0 or mutated.bases.max() < 4
    if feature == EXON:
        assert kept.tolist() == list(range(length))
