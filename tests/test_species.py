"""Windows of species: what is drawn, how often, and that anybody reads the same."""

import gzip
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dnamamba.configs import from_dict, to_dict
from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.data.species.dataset import (
    SpeciesConfig,
    SpeciesDataset,
    SpeciesFiles,
    build_species_datasets,
    open_species,
    resolve_species_splits,
    species_task,
    warmup_lengths,
)
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split, Strand
from dnamamba.task import Task
from dnamamba.tokenizer import decode, encode, reverse_complement
from genomes import (
    MemoryGenome,
    naive_parse,
    random_sequence,
    write_bed,
    write_fasta,
    write_store,
)

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST
SPECIES = ("human", "gorilla", "bonobo")
SIZE = 64
# chr2 is much shorter than chr4, chr6 has a gap; chr1 is for validation and chr7 for the test.
LENGTHS = {"chr2": 100, "chr4": 1000, "chr6": 500, "chr1": 400, "chr7": 300}


def letters(species, chromosome, length):
    sequence = random_sequence(length, len(species) + 10 * int(chromosome[3:]), "ACGTacgt")
    return sequence if chromosome != "chr6" else sequence[:200] + "N" * 100 + sequence[300:]


RECORDS = {
    f"{species}/{name}": letters(species, name, length)
    for species in SPECIES
    for name, length in LENGTHS.items()
}
GENOME = MemoryGenome(RECORDS)


def config_of(species=SPECIES, **settings):
    files = tuple(SpeciesFiles(label, (f"{label}.fa",)) for label in species)
    return SpeciesConfig(species=files, **{"seq_len": SIZE, "n_eval": 60} | settings)


def dataset_of(split=TRAIN, genome=GENOME, **settings) -> SpeciesDataset:
    return build_species_datasets(genome, config_of(**settings))[split]


def drawn(dataset, samples) -> list[tuple[str, Interval]]:
    """Species and place of samples, as `describe` tells them."""
    windows = []
    for line in dataset.describe(samples):
        place, _, turned = line.partition(": ")[2].partition(", reverse")
        found = Interval.parse(place)
        strand = Strand.REVERSE if turned else Strand.FORWARD
        windows.append((place.partition("/")[0], replace(found, strand=strand)))
    return windows


# --- a batch


def test_a_batch_is_upper_case_and_labelled_with_its_species():
    dataset = dataset_of()
    batch = dataset[range(200)]
    assert batch.codes.shape == (200, SIZE)
    assert (batch.codes.dtype, batch.lengths.dtype, batch.targets.dtype) == (
        torch.uint8,
        torch.int64,
        torch.int64,
    )
    assert batch.lengths.tolist() == [SIZE] * 200
    assert dataset.task == Task(labels=("bonobo", "gorilla", "human"))
    rows = zip(batch.codes.numpy(), batch.targets.tolist(), drawn(dataset, range(200)), strict=True)
    for codes, target, (species, place) in rows:
        expected = encode(RECORDS[place.chrom][place.start : place.end].upper())
        if place.strand is Strand.REVERSE:
            expected = reverse_complement(expected)
        assert decode(codes) == decode(expected)
        assert dataset.task.labels[target] == species


def test_every_window_is_whole_bases_of_its_contig():
    """No letter is made up at an end: MemoryGenome refuses reads past it."""
    windows = drawn(dataset_of(max_n_fraction=0.0), range(5000))
    assert all(place.length == SIZE for _, place in windows)
    assert not any("N" in RECORDS[place.chrom][place.start : place.end] for _, place in windows)


def test_training_windows_come_from_either_strand_and_others_from_the_one_given():
    turned = [place.strand is Strand.REVERSE for _, place in drawn(dataset_of(), range(4000))]
    assert 0.47 < np.mean(turned) < 0.53
    for dataset in (dataset_of(rc_augment=False), dataset_of(VALID), dataset_of(TEST)):
        assert not any(place.strand is Strand.REVERSE for _, place in drawn(dataset, range(60)))


def test_bases_of_training_windows_are_changed_at_the_rate_asked_for():
    plain, changed = dataset_of(), dataset_of(mutation_rate=0.05)
    differs = plain[range(2000)].codes != changed[range(2000)].codes
    assert 0.04 < differs.float().mean().item() < 0.05
    assert (changed[range(2000)].codes == changed[range(2000)].codes).all()
    assert (changed[[7]].codes == changed[range(20)].codes[7]).all(), "whatever is beside it"
    held_out = (dataset_of(TEST)[range(60)].codes, dataset_of(TEST, mutation_rate=0.05)[range(60)])
    assert (held_out[0] == held_out[1].codes).all()
    with pytest.raises(InputError, match=r"mutation_rate must be from 0 to 0\.5 of the bases"):
        config_of(mutation_rate=0.7)


# --- how often


def test_species_and_chromosomes_are_drawn_alike():
    windows = drawn(dataset_of(), range(6000))
    counts = [
        [sum(place.chrom == f"{species}/{name}" for _, place in windows) for name in LENGTHS]
        for species in SPECIES
    ]
    assert [row[3:] for row in counts] == [[0, 0]] * 3, "what is held out is not trained on"
    for_training = np.array(counts)[:, :3]
    assert stats.chisquare(for_training.ravel()).pvalue > 1e-3
    assert stats.chisquare(for_training.sum(axis=1)).pvalue > 1e-3


def test_starts_are_drawn_alike_and_reach_both_ends():
    starts = [
        place.start
        for _, place in drawn(dataset_of(), range(20_000))
        if place.chrom == "human/chr2"
    ]
    counts = np.bincount(starts, minlength=100 - SIZE + 1)
    assert len(counts) == 100 - SIZE + 1
    assert stats.chisquare(counts).pvalue > 1e-3


def test_long_chromosomes_are_drawn_more_often_by_length():
    windows = drawn(dataset_of(chromosomes="length"), range(6000))
    counts = [sum(place.chrom.endswith(name) for _, place in windows) for name in LENGTHS]
    expected = 6000 * np.array([100, 1000, 500]) / 1600
    assert stats.chisquare(counts[:3], expected).pvalue > 1e-3


def test_every_epoch_draws_anew_and_another_seed_otherwise():
    dataset = dataset_of(epoch_size=100)
    first, second = dataset[range(100)].codes, dataset[range(100, 200)].codes
    assert (first == second).all(dim=1).sum() < 10
    other = dataset_of(epoch_size=100, seed=1)[range(100)].codes
    assert (first == other).all(dim=1).sum() < 10
    assert dataset.describe([5, 105])[1].startswith("epoch 1: ")


# --- validation and test


@pytest.mark.parametrize(("split", "name"), [(VALID, "chr1"), (TEST, "chr7")])
def test_evaluation_windows_are_balanced_and_stay(split, name):
    dataset = dataset_of(split)
    assert dataset.n_examples == 60
    windows = drawn(dataset, range(60))
    assert [species for species, _ in windows] == ["bonobo", "gorilla", "human"] * 20
    assert {place.chrom for _, place in windows} == {f"{species}/{name}" for species in SPECIES}
    again = dataset[range(60, 120)]
    assert (again.codes == dataset[range(60)].codes).all()


def test_evaluation_draws_are_not_those_of_training_nor_of_each_other():
    """Even where they may draw from the same bases."""
    genome = MemoryGenome({f"{s}/chr{n}": "ACGT" * 5000 for s in SPECIES for n in (1, 2, 7)})
    starts = [
        {place.start for _, place in drawn(dataset_of(split, genome), range(60))} for split in Split
    ]
    assert len(set.union(*starts)) > 170


# --- warm-up of lengths


def test_the_lengths_of_the_paper():
    assert warmup_lengths(1 << 20) == tuple(1 << n for n in range(14, 20))
    assert warmup_lengths(1 << 16) == (1 << 14, 1 << 15)
    assert warmup_lengths(1 << 14) == warmup_lengths(1024) == ()
    assert warmup_lengths(20_000) == (1 << 14,)


def test_windows_grow_in_warm_up_epochs_of_training():
    dataset = dataset_of(warmup_lengths=(16, 32), epoch_size=10)
    sizes = [dataset[[sample]].codes.shape[1] for sample in (0, 9, 10, 19, 20, 1000)]
    assert sizes == [16, 16, 32, 32, 64, 64]
    assert dataset[range(25, 35)].codes.shape == (10, 64), "over the end of an epoch"
    with pytest.raises(InputError, match="from 16 to 32 bases: an epoch must be a whole number"):
        dataset[range(5, 15)]
    assert dataset_of(VALID, warmup_lengths=(16,)).length(0) == SIZE


def test_a_contig_too_short_for_a_window_is_left_out():
    windows = drawn(dataset_of(seq_len=200), range(500))
    assert not any(place.chrom.endswith("chr2") for _, place in windows)


# --- the same for everybody


@pytest.fixture
def on_disk(tmp_path):
    """Two species in stores, one in a FASTA."""
    files = []
    for species in SPECIES:
        own = {name: RECORDS[f"{species}/{name}"] for name in LENGTHS}
        path = tmp_path / f"{species}.h5"
        path = write_store(path, own) if species != "human" else write_fasta(path, own)
        files.append(SpeciesFiles(species, (str(path),)))
    return SpeciesConfig(species=tuple(files), seq_len=SIZE)


def stream(dataset, n_workers=0, rank=0, world_size=1):
    ranges = BatchRanges(
        batch_size=16,
        micro_batch_size=4,
        first_batch=0,
        last_batch=6,
        rank=rank,
        world_size=world_size,
    )
    read = list(build_loader(dataset, ranges, n_workers=n_workers))
    codes = torch.cat([batch.codes for batch in read])
    return codes, torch.cat([batch.targets for batch in read])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # on two cores
def test_any_number_of_workers_and_ranks_reads_the_same_stream(on_disk):
    dataset = build_species_datasets(open_species(on_disk), on_disk)[TRAIN]
    expected = dataset_of(n_eval=1000)[range(96)]
    for n_workers in (0, 1, 4):
        codes, targets = stream(dataset, n_workers)
        assert (codes == expected.codes).all()
        assert (targets == expected.targets).all()
    shares = [stream(dataset, rank=rank, world_size=2)[0] for rank in range(2)]
    joined = torch.cat([share.reshape(6, 8, SIZE) for share in shares], dim=1)
    assert (joined.reshape(-1, SIZE) == expected.codes).all()


def test_a_pickled_dataset_reads_the_same(on_disk):
    dataset = build_species_datasets(open_species(on_disk), on_disk)[TEST]
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy[range(50)].codes == dataset[range(50)].codes).all()


def test_neither_order_of_species_nor_of_their_files_matters(on_disk):
    reverse = SpeciesConfig(species=on_disk.species[::-1], seq_len=SIZE)
    one, other = (build_species_datasets(open_species(c), c)[TRAIN] for c in (on_disk, reverse))
    assert (one[range(99)].codes == other[range(99)].codes).all()
    assert (one[range(99)].targets == other[range(99)].targets).all()


# --- genomes


def test_contigs_are_called_by_species_from_any_number_of_files(tmp_path):
    one = write_fasta(tmp_path / "one.fa", {"chr1": "ACGT"})
    two = write_store(tmp_path / "two.h5", {"chr2": "GG"})
    config = SpeciesConfig(
        species=(SpeciesFiles("human", (str(one), str(two))), SpeciesFiles("bonobo", (str(two),))),
        seq_len=2,
    )
    genome = open_species(config)
    assert genome.contigs == {"bonobo/chr2": 2, "human/chr1": 4, "human/chr2": 2}
    assert decode(genome.read("human/chr2", 0, 2)) == "GG"
    assert open_genome([one]).contigs == {"chr1": 4}, "elsewhere names stay as they are"


def test_a_contig_in_two_files_of_a_species_is_refused(tmp_path):
    path = str(write_fasta(tmp_path / "x.fa", {"chr1": "ACGT"}))
    config = SpeciesConfig(species=(SpeciesFiles("human", (path, path)),), seq_len=2)
    with pytest.raises(InputError, match="human: contig chr1 is in more than one of its files"):
        open_species(config)


def test_windows_of_real_apes_are_the_letters_of_their_files(shared_data):
    """Aligned pieces of chromosome 22; the folder cannot be written to."""
    folder = shared_data / "apes" / "chr22"
    files = {label: folder / f"{label}.fa.gz" for label in ("human", "orangutan")}
    config = SpeciesConfig(
        species=tuple(SpeciesFiles(label, (str(path),)) for label, path in files.items()),
        seq_len=1 << 14,
        split="contigs",
        valid_contigs=("hs22_17",),
        test_contigs=("hs22_18", "hs22_19"),
    )
    dataset = build_species_datasets(open_species(config), config)[TEST]
    batch = dataset[range(8)]
    records = {
        label: naive_parse(gzip.decompress(path.read_bytes()).decode())
        for label, path in files.items()
    }
    for codes, (species, place) in zip(batch.codes.numpy(), drawn(dataset, range(8)), strict=True):
        contig = records[species][place.chrom.partition("/")[2]]
        assert decode(codes) == contig[place.start : place.end].upper()


# --- splits


def test_homologues_of_held_out_chromosomes_are_in_no_other_split():
    names = ("chr1", "chr2A", "chr5", "chr7", "chr17", "chrM", "chrUn_1")
    contigs = {f"{species}/{name}": 99 for species in ("gorilla", "bonobo") for name in names}
    splits = resolve_species_splits(contigs, config_of())
    named = {split: [row.chrom for row in rows] for split, rows in splits.items()}
    assert named == {
        TRAIN: ["gorilla/chr2A", "bonobo/chr2A", "bonobo/chr17"],
        VALID: ["gorilla/chr1", "bonobo/chr1"],
        TEST: ["gorilla/chr7", "bonobo/chr5", "bonobo/chr7"],
    }, "gorilla 5 and 17 are each human 5 and 17: in no split"
    published = resolve_species_splits(contigs, config_of(split="hyenadna"))
    assert "gorilla/chr17" in [row.chrom for row in published[TRAIN]]
    assert "gorilla/chr5" in [row.chrom for row in published[TEST]]


def test_contigs_held_out_by_name_are_those_of_every_species():
    config = config_of(split="contigs", valid_contigs=("chr4",), test_contigs=("human/chr6",))
    splits = resolve_species_splits(GENOME.contigs, config)
    assert [row.chrom for row in splits[VALID]] == [f"{species}/chr4" for species in SPECIES]
    assert [row.chrom for row in splits[TEST]] == ["human/chr6"]
    with pytest.raises(InputError, match="bonobo has nothing for test by the contigs split"):
        build_species_datasets(GENOME, config)
    without = config_of(split="contigs", valid_contigs=("chr4",))
    assert set(build_species_datasets(GENOME, without)) == {TRAIN, VALID}, "none needs a test"


def test_a_bed_divides_chromosomes_and_shares_no_base(tmp_path):
    rows = [(f"{s}/chr4", *row) for s in SPECIES for row in ((0, 500, "train"), (400, 800, "test"))]
    rows += [(f"{s}/chr4", 700, 1000, "valid") for s in SPECIES]
    bed = str(write_bed(tmp_path / "x.bed", rows))
    config = config_of(split="bed", bed=bed)
    splits = resolve_species_splits(GENOME.contigs, config)
    human = {split: [row for row in splits[split] if row.chrom == "human/chr4"] for split in Split}
    assert human == {
        TRAIN: [Interval("human/chr4", 0, 400)],
        VALID: [Interval("human/chr4", 800, 1000)],
        TEST: [Interval("human/chr4", 400, 800)],
    }
    windows = drawn(build_species_datasets(GENOME, config)[VALID], range(60))
    assert all(place.start >= 800 and place.end <= 1000 for _, place in windows)


def test_rows_of_a_bed_that_are_left_out_are_told(tmp_path, caplog):
    rows = [
        (f"{s}/chr{n}", 0, 300, split) for s in SPECIES for n, split in ((4, "train"), (1, "valid"))
    ]
    bed = str(write_bed(tmp_path / "x.bed", [*rows, ("human/chr9", 0, 9, "test")]))
    build_species_datasets(GENOME, config_of(split="bed", bed=bed))
    assert "the genome has no contig human/chr9" in caplog.text


# --- what cannot be used


def test_a_species_without_a_window_is_named():
    short = MemoryGenome(RECORDS | {"human/chr1": "ACGT" * 5})
    with pytest.raises(InputError, match=r"human has no valid window of 64 bases .* has 20,"):
        build_species_datasets(short, config_of())
    gaps = MemoryGenome(RECORDS | {"human/chr1": "N" * 400})
    with pytest.raises(InputError, match="human has no valid window of 64 bases"):
        build_species_datasets(gaps, config_of())
    renamed = MemoryGenome({**RECORDS, **{f"lemur/scaffold{n}": "ACGT" for n in range(9)}})
    with pytest.raises(
        InputError,
        match=r"lemur has nothing for train by the homology split \(no name of a contig tells its "
        r"human chromosome\); its contigs are .*scaffold4, ... \(9 in all\): hold contigs out by",
    ):
        build_species_datasets(renamed, config_of((*SPECIES, "lemur")))


def test_a_task_of_other_species_is_refused():
    with pytest.raises(InputError, match="labels that the training examples do not have: 'bonobo'"):
        SpeciesDataset(GENOME, config_of(), TEST, Task(labels=("gorilla", "human")))


def test_a_task_with_more_labels_numbers_by_them():
    task = Task(labels=("aotus", "bonobo", "gorilla", "human"))
    assert SpeciesDataset(GENOME, config_of(), TEST, task)[range(3)].targets.tolist() == [1, 2, 3]


def test_one_species_is_no_task():
    with pytest.raises(InputError, match="needs 2 labels or more, got human"):
        species_task(config_of(("human",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"species": ("human", "human")}, "different names, got human, human; name several files"),
        ({"species": ("great/ape",)}, "a name without a slash, got 'great/ape'"),
        ({"split": "chromosome"}, r"split must be one of .*, got 'chromosome'"),
        ({"chromosomes": "big"}, r"chromosomes must be one of .*, got 'big'"),
        ({"split": "contigs"}, "the split 'contigs' and no contigs"),
        ({"valid_contigs": ("chr1",)}, "got the split 'homology' and some contigs"),
        ({"split": "bed"}, "got the split 'bed' and no BED"),
        ({"bed": "x.bed"}, "got the split 'homology' and x.bed"),
        ({"seq_len": 1}, "windows must be >= 2 bases, got 1"),
        ({"warmup_lengths": (128,)}, "128 is longer than 64"),
        ({"max_n_fraction": 1.5}, "max_n_fraction must be from 0 to 1, got 1.5"),
        ({"epoch_size": 0}, "epoch_size must be >= 1 sample, got 0"),
        ({"n_eval": 2}, "n_eval must be >= 3 windows, one of each species, got 2"),
        ({"seed": -1}, "must be >= 0 and below 2\\^63, got -1"),
    ],
)
def test_settings_that_cannot_be_meant(settings, message):
    with pytest.raises(InputError, match=message):
        config_of(**settings)


def test_a_species_without_files_is_refused():
    with pytest.raises(InputError, match="human has no file"):
        SpeciesFiles("human", ())


def test_the_config_is_saved_and_read_again():
    config = config_of(warmup_lengths=(16,), split="contigs", valid_contigs=("chr1",))
    assert from_dict(SpeciesConfig, json.loads(json.dumps(to_dict(config)))) == config
