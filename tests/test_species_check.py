"""What `dnamamba data check --species` finds: who is where, and which chromosomes match."""

import pytest
from click.testing import CliRunner

from dnamamba.cli.main import cli
from dnamamba.cli.options import parse_labelled
from dnamamba.data.species.check import SpeciesRow, check_species, leak_warning
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles
from dnamamba.data_prep.apes import human_name
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from genomes import (
    MemoryGenome,
    random_sequence,
    write_bed,
    write_fasta,
)

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST
NAMES = ("chr1", "chr2", "chr5", "chr17", "chrM")
SPECIES = ("gorilla", "human")


def genome_of(*names, species=SPECIES, length=100):
    return MemoryGenome(
        {f"{label}/{name}": "ACGT" * (length // 4) for label in species for name in names}
    )


GENOME = genome_of(*NAMES)


def config_of(species=SPECIES, **settings):
    files = tuple(SpeciesFiles(label, (f"{label}.fa",)) for label in species)
    return SpeciesConfig(species=files, **{"seq_len": 30, "n_eval": 4} | settings)


def test_contigs_bases_and_windows_of_each_species_and_split():
    gorilla = {"chr1": 100, "chr2A": 65, "chr7": 40, "chr17": 90}
    human = {"chr1": 90, "chr2": 60, "chr6": 20, "chr5": 30}
    genome = MemoryGenome(
        {f"gorilla/{name}": random_sequence(length) for name, length in gorilla.items()}
        | {f"human/{name}": random_sequence(length) for name, length in human.items()}
    )
    result = check_species(genome, config_of())
    assert result.rows == [
        SpeciesRow("gorilla", TRAIN, 1, 65, 2),
        SpeciesRow("gorilla", VALID, 1, 100, 3),
        SpeciesRow("gorilla", TEST, 1, 40, 1),
        SpeciesRow("human", TRAIN, 2, 80, 2),
        SpeciesRow("human", VALID, 1, 90, 3),
        SpeciesRow("human", TEST, 1, 30, 1),
    ]
    assert result.unused == {"gorilla": ["chr17"]}
    assert result.problem is None
    assert "  gorilla train         1              65          2" in result.lines()


def test_the_homology_split_shares_nothing_where_the_published_one_does():
    result = check_species(GENOME, config_of(split="homology"))
    assert not result.leaks
    assert not result.shared
    assert result.unknown == []
    lines = result.lines()
    assert "  No chromosome is homologous to one of another split." in lines
    assert lines[-2:] == [
        "  human 5: train gorilla/chr17; test gorilla/chr5, human/chr5",
        "  human 17: train gorilla/chr17, human/chr17; test gorilla/chr5",
    ]


def test_the_published_split_leaks_gorilla_17():
    result = check_species(GENOME, config_of(split="hyenadna"))
    assert result.leaks
    assert result.shared["5"] == {
        TRAIN: ["gorilla/chr17"],
        TEST: ["gorilla/chr5", "human/chr5"],
    }
    lines = result.lines()
    assert "  LEAK: splits share homologous chromosomes" in lines
    assert not any(line.startswith("As published") for line in lines), "it is the one used"


def test_own_numbers_of_a_complete_genome_leak_by_the_published_lists():
    """Chromosome 5 of a bonobo is human 6, which is trained on in humans."""
    own = {f"bonobo/chr{n}_pat_{human_name('bonobo', str(n))}": "ACGT" * 25 for n in range(1, 24)}
    human = {f"human/chr{n}": "ACGT" * 25 for n in range(1, 23)}
    config = config_of(("bonobo", "human"))
    result = check_species(MemoryGenome(own | human), config)
    assert not result.leaks
    assert result.published["6"] == {TRAIN: ["human/chr6"], TEST: ["bonobo/chr5_pat_hsa6"]}
    order = list(result.published)
    assert order == sorted(order, key=int)


def test_contigs_held_out_in_one_species_alone_leak():
    config = config_of(split="contigs", valid_contigs=("chr1",), test_contigs=("human/chr2",))
    result = check_species(GENOME, config)
    assert result.leaks
    assert result.shared == {"2": {TRAIN: ["gorilla/chr2"], TEST: ["human/chr2"]}}
    assert result.problem.startswith("gorilla has nothing for test by the contigs split")
    assert f"  Cannot be used: {result.problem}" in result.lines()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": "hyenadna"}, "splits share homologues of human 5, 17: "),
        (
            {"split": "contigs", "valid_contigs": ("chr1",), "test_contigs": ("human/chr2",)},
            "splits share homologues of human 2: ",
        ),
        ({"split": "contigs", "valid_contigs": ("chr1",), "test_contigs": ("chr2",)}, None),
        ({"split": "homology"}, None),
    ],
)
def test_training_is_told_of_homologues_in_several_splits(settings, said):
    warning = leak_warning(GENOME.contigs, config_of(**settings))
    assert warning is None if said is None else warning.startswith(said)


def test_a_classifiers_training_warns_of_them(genomes, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "propagate", True)
    given = ["classify", "train", "mamba-demo", *genomes, "--seq-len", "50", "--dry-run"]
    held_out = ["--valid-contigs", "chr1", "--test-contigs", "chr2,human/chr5"]
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(cli, [*given, *held_out, *out])
    assert done.exit_code == 0, done.stderr
    assert "splits share homologues of human 5" in caplog.text


def test_names_that_tell_nothing_are_said_to():
    genome = genome_of("a", "b", "c")
    config = config_of(split="contigs", valid_contigs=("human/b", "gorilla/a"))
    result = check_species(genome, config)
    assert not result.leaks
    lines = result.lines()
    assert lines[-2].startswith("  Warning: 6 contigs are homologous to nothing known (gorilla/a,")
    assert lines[-1] == (
        "  Warning: contigs of one name are in different splits, which may be homologous: "
        "gorilla/b and human/b, human/a and gorilla/a"
    )


def test_a_bed_that_divides_chromosomes_is_no_leak_but_pointed_at(tmp_path):
    rows = [
        (f"{species}/chr1", start, start + 40, split)
        for species in SPECIES
        for start, split in ((0, "train"), (50, "valid"))
    ]
    config = config_of(split="bed", bed=str(write_bed(tmp_path / "x.bed", rows)))
    result = check_species(GENOME, config)
    assert not result.leaks
    assert "  The BED divides homologues of human 1: look at its rows" in result.lines()


def test_scaffolds_drawn_as_often_as_chromosomes_are_pointed_at():
    scaffolds = {f"{s}/scaffold{n}": "ACGT" * 10 for s in SPECIES for n in range(30)}
    chromosomes = {f"{s}/{name}": "ACGT" * 10_000 for s in SPECIES for name in ("chr1", "chr2")}
    genome = MemoryGenome(chromosomes | scaffolds)
    config = config_of(split="contigs", valid_contigs=("chr1",))
    warnings = check_species(genome, config).warnings
    assert len(warnings) == 2
    assert warnings[1].startswith("97% of human's windows for training come from contigs with 5%")
    by_length = config_of(split="contigs", valid_contigs=("chr1",), chromosomes="length")
    assert check_species(genome, by_length).warnings == []
    assert check_species(genome, config_of(split="homology")).warnings == []


# --- the command


def run(*arguments):
    return CliRunner().invoke(cli, ["data", "check", *map(str, arguments)])


@pytest.fixture
def genomes(tmp_path):
    """Options that name two species."""
    for species in SPECIES:
        write_fasta(tmp_path / f"{species}.fa", {name: random_sequence(100) for name in NAMES})
    return [
        option
        for species in SPECIES
        for option in ("--species", f"{species}={tmp_path / species}.fa")
    ]


def test_the_command_shows_the_check(genomes):
    result = run(*genomes, "--seq-len", "50", "--valid-contigs", "chr1", "--test-contigs", "chr2")
    assert result.exit_code == 0
    assert result.stdout.startswith("As used: split contigs, seq_len 50\n")
    assert "human 17: train gorilla/chr17, human/chr17; test gorilla/chr5" in result.stdout


def test_the_command_ends_with_1_where_splits_leak_or_cannot_be_used(genomes):
    leak = run(*genomes, "--seq-len", "50", "--split", "hyenadna")
    assert (leak.exit_code, "LEAK" in leak.stdout) == (1, True)
    missing = run(*genomes, "--seq-len", "50")
    assert (missing.exit_code, "LEAK" in missing.stdout) == (1, False)
    assert "Cannot be used: gorilla has nothing for test by the homology split" in missing.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--windows", "tile"], "--windows is for windows that tile a genome"),
        (["--keep-overlap"], "--keep-overlap is for windows that tile a genome"),
        (["x.fa"], "either with --species or as files, got both (x.fa)"),
    ],
)
def test_options_that_do_not_go_with_species(genomes, options, message):
    result = run(*genomes, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_split_needs_species():
    result = run("x.fa", "--split", "homology")
    assert result.exit_code == 2
    assert "name them with --species LABEL=FILE" in result.stderr


def test_a_species_on_the_command_line():
    assert parse_labelled("human=a.fa, b.fa") == ("human", ("a.fa", "b.fa"))
    assert parse_labelled("human=odd=name.fa") == ("human", ("odd=name.fa",))
    for text in ("human", "human=", "=a.fa", ""):
        with pytest.raises(
            InputError, match=r"a label and its files must look like human=human\.h5"
        ):
            parse_labelled(text)
