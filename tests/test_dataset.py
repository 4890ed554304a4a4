"""Windows as batches of codes: right bases, strands, padding, and what each split may be."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig, WindowDataset, build_datasets, build_indexes
from dnamamba.data.windows import WindowConfig, WindowIndex
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split
from dnamamba.runtime import logger
from dnamamba.tokenizer import PAD_ID, decode, encode, is_base, reverse_complement, token_ids
from genomes import MemoryGenome, random_sequence, write_bed

GENOME = MemoryGenome(
    {
        "chr1": random_sequence(5000, 1, "ACGTacgt"),
        "chr2": random_sequence(3000, 2) + "N" * 500,
        "short": random_sequence(40, 3),
    }
)


def config_of(seq_len=64, **options) -> DataConfig:
    """Options of WindowConfig and DataConfig by name."""
    about_windows = {"rule", "edge", "max_n_fraction"} & options.keys()
    windows = {key: options.pop(key) for key in about_windows}
    return DataConfig(windows=WindowConfig(seq_len=seq_len, **windows), **options)


def padded_dataset(rc_augment=False, **options) -> WindowDataset:
    """The short contig alone, in windows of 64: bases on the left, padding on the right."""
    config = WindowConfig(seq_len=64, edge="pad")
    index = WindowIndex(config, [Interval("short", 0, 40)], GENOME.contigs, {}, **options)
    return WindowDataset(GENOME, index, rc_augment=rc_augment)


# --- what a batch is


def test_a_batch_is_rows_of_codes():
    dataset = build_datasets(GENOME, config_of())[Split.TRAIN]
    batch = dataset[range(5, 9)]
    assert batch.dtype == torch.uint8
    assert batch.shape == (4, 64)
    assert (batch.numpy() == dataset.read(range(5, 9))).all()
    assert dataset[[]].shape == (0, 64)


def test_soft_masking_travels_with_the_bases():
    dataset = build_datasets(GENOME, config_of(rc_augment=False))[Split.TRAIN]
    letters = "".join(decode(row) for row in dataset.read(range(50)))
    assert set(letters) == set("ACGTacgt")


@given(st.lists(st.integers(0, 400), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_a_sample_is_the_same_alone_and_in_any_batch(samples):
    """With the bases that are hidden in it."""
    dataset = build_datasets(GENOME, config_of(), masks_bases=True)[Split.TRAIN]
    fresh = build_datasets(GENOME, config_of(), masks_bases=True)[Split.TRAIN]
    batch = dataset.read(samples)
    for row, sample in zip(batch, samples, strict=True):
        assert (row == fresh.read([sample])[0]).all()
        assert (row == dataset.read([sample])[0]).all()


PLACE = re.compile(r"epoch (\d+): (.+) \(([+-])\)")


@pytest.mark.parametrize("edge", ["shift", "pad"])
def test_describe_names_the_place_and_strand_of_every_row(edge):
    """Read again from the genome by hand, every sample of two epochs is what was given."""
    dataset = build_datasets(GENOME, config_of(edge=edge))[Split.TRAIN]
    n_first = dataset.index.n_windows(0)
    samples = range(n_first + dataset.index.n_windows(1))
    lines, batch = dataset.describe(samples), dataset.read(samples)
    strands = set()
    for sample, line, row in zip(samples, lines, batch, strict=True):
        epoch, place, strand = PLACE.fullmatch(line).groups()
        interval = Interval.parse(place)
        expected = np.full(64, PAD_ID, np.uint8)
        expected[: interval.length] = GENOME.read(interval.chrom, interval.start, interval.end)
        if strand == "-":
            expected = reverse_complement(expected)
        assert (row == expected).all()
        assert int(epoch) == (sample >= n_first)
        strands.add(strand)
    assert strands == {"+", "-"}


# --- strands


def test_augmentation_changes_training_data():
    """D24: in a peer, the augmented data was thrown away and nobody noticed."""
    on, off = (
        build_datasets(GENOME, config_of(rc_augment=rc))[Split.TRAIN].read(range(60))
        for rc in (True, False)
    )
    changed = (on != off).any(axis=1)
    assert 15 < changed.sum() < 45, "about one half"
    assert (on[changed] == reverse_complement(off[changed])).all()


def test_augmentation_gives_a_window_both_strands_over_epochs():
    dataset = padded_dataset(rc_augment=True, shuffled=True)
    seen = {decode(dataset.read([sample])[0]) for sample in range(20)}
    forward = GENOME.read("short", 0, 40)
    assert seen == {
        decode(forward) + "-" * 24,
        "-" * 24 + decode(reverse_complement(forward)),
    }, "padding changes sides with the bases (D2)"


def test_padding_is_no_base_of_any_kind():
    row = padded_dataset().read([0])[0]
    assert is_base(row).tolist() == [True] * 40 + [False] * 24
    assert (token_ids(row[40:]) == PAD_ID).all()


@pytest.mark.parametrize("split", [Split.VALID, Split.TEST])
def test_evaluation_windows_never_change(split):
    """D10, D12: neither with the seed, nor with augmentation, nor from epoch to epoch."""
    plain = build_datasets(GENOME, config_of(rc_augment=False))[split]
    n = plain.index.n_windows()
    expected = plain.read(range(n))
    for seed in range(4):
        dataset = build_datasets(GENOME, config_of(rc_augment=True, seed=seed))[split]
        assert (dataset.read(range(n)) == expected).all()
        assert (dataset.read(range(3 * n, 4 * n)) == expected).all()
        assert not any("(-)" in line for line in dataset.describe(range(n)))


def test_the_seed_changes_training_windows():
    one, other = (
        build_datasets(GENOME, config_of(seed=seed))[Split.TRAIN].describe(range(20))
        for seed in (0, 1)
    )
    assert one != other


# --- splits


def test_the_splits_of_a_genome_cover_it_without_sharing():
    indexes = build_indexes(GENOME, config_of())
    covered = {}
    for split, index in indexes.items():
        picked = index.windows(0, np.arange(index.n_windows()))
        covered[split] = {
            (contig, i)
            for contig, start in zip(picked.contig.tolist(), picked.start.tolist(), strict=True)
            for i in range(start, start + 64)
        }
    assert not covered[Split.TRAIN] & covered[Split.VALID]
    assert not covered[Split.TRAIN] & covered[Split.TEST]
    assert not covered[Split.VALID] & covered[Split.TEST]
    assert sum(len(bases) for bases in covered.values()) > 0.85 * 8500


def test_windows_of_n_are_left_out_of_training():
    dataset = build_datasets(GENOME, config_of(max_n_fraction=0.1))[Split.TRAIN]
    batch = dataset.read(range(dataset.index.n_windows()))
    assert (~is_base(batch)).sum(axis=1).max() <= 6


def test_held_out_contigs_never_reach_training():
    splits = SplitConfig(valid_contigs=("chr2",))
    datasets = build_datasets(GENOME, config_of(splits=splits))
    n = datasets[Split.TRAIN].index.n_windows()
    assert all("chr1:" in line for line in datasets[Split.TRAIN].describe(range(n)))
    assert all("chr2:" in line for line in datasets[Split.VALID].describe(range(10)))
    assert datasets[Split.TEST].index.n_windows() == 0, "a test split is not needed to train"


@pytest.mark.parametrize("rule", ["tile", "mamba"])
def test_held_out_rows_never_reach_training_even_where_they_have_no_window(rule, tmp_path):
    """The second held-out row is all N: no window to judge on, but none to train on either."""
    genome = MemoryGenome({"chr1": random_sequence(600) + "N" * 60 + random_sequence(400)})
    rows = [("chr1", 0, 1060, "train"), ("chr1", 200, 300, "valid"), ("chr1", 595, 665, "valid")]
    bed = SplitConfig(bed=str(write_bed(tmp_path / "x.bed", rows)))
    config = config_of(10, rule=rule, splits=bed, max_n_fraction=0.2)
    indexes = build_indexes(genome, config)
    for epoch in range(20):
        n = indexes[Split.TRAIN].n_windows(epoch)
        starts = indexes[Split.TRAIN].windows(epoch, np.arange(n)).start
        assert len(starts) > 50
        assert not ((starts > 190) & (starts < 300)).any()
        assert not ((starts > 585) & (starts < 665)).any()


def test_a_genome_without_any_n_and_without_a_test_split():
    genome = MemoryGenome({"chr1": random_sequence(2000)})
    indexes = build_indexes(genome, config_of(splits=SplitConfig(test_fraction=0)))
    assert indexes[Split.TEST].n_windows() == 0
    assert indexes[Split.TRAIN].n_windows() > 20


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            config_of(seq_len=10_000),
            r"no contig is as long as a window of 10,000 bases \(0 of 3 contigs are that long, the "
            r"longest has 5,000\): use a shorter --seq-len, or --edge pad",
        ),
        (
            config_of(seq_len=3000),
            r"the valid split has no window of 3,000 bases \(0 bases in 0 stretches.*use a shorter",
        ),
        (
            config_of(splits=SplitConfig(valid_contigs=("short",))),
            r"the valid split has no window of 64 bases \(40 bases in 1 stretches",
        ),
        (
            config_of(splits=SplitConfig(valid_contigs=("chr1", "chr2"))),
            r"the train split has no window of 64 bases \(40 bases in 1 .* hold out less",
        ),
    ],
)
def test_a_split_without_windows_is_refused_with_what_to_do(config, message):
    with pytest.raises(InputError, match=message):
        build_indexes(GENOME, config)


def test_thousands_of_contigs_shorter_than_a_window():
    """Hairpins of some 100 bases: refused as they are, padded on demand."""
    genome = MemoryGenome({f"hairpin{i}": random_sequence(60 + i % 60, i) for i in range(3000)})
    with pytest.raises(InputError, match=r"no contig is as long as a window of 1,024 .*0 of 3,000"):
        build_datasets(genome, config_of(seq_len=1024))
    splits = SplitConfig(valid_contigs=("hairpin1*",))
    datasets = build_datasets(genome, config_of(seq_len=1024, edge="pad", splits=splits))
    assert datasets[Split.TRAIN].index.n_windows() == 3000 - 1111
    row = datasets[Split.VALID].read([0])[0]
    assert decode(row) == decode(genome.read("hairpin1", 0, 61)) + "-" * (1024 - 61)


@pytest.mark.parametrize(
    ("splits", "seq_len", "advice"),
    [
        (SplitConfig(valid_fraction=0), 64, "use a --valid-fraction above 0, or"),
        (SplitConfig(), 2000, r"a contig is divided if it has room for 4 windows\), or hold out"),
        (SplitConfig(test_fraction=0), 3000, "if it has room for 2 windows"),
        (SplitConfig(test_contigs=("chr2",)), 64, "name other contigs with --valid-contigs"),
    ],
)
def test_the_advice_for_validation_helps(splits, seq_len, advice):
    with pytest.raises(InputError, match=f"the valid split has no window .*{advice}"):
        build_indexes(GENOME, config_of(seq_len, splits=splits))


def test_a_bed_without_validation_on_these_contigs_is_said_to_be_so(tmp_path):
    """As the split of a whole genome may be on one chromosome of it."""
    bed = write_bed(tmp_path / "x.bed", [("chr1", 0, 900, "train"), ("chrX", 0, 900, "valid")])
    with pytest.raises(InputError, match="the BED has no valid row on the contigs of this genome"):
        build_indexes(GENOME, config_of(splits=SplitConfig(bed=str(bed))))
    write_bed(bed, [("chr1", 0, 900, "train"), ("chr1", 1000, 1050, "valid")])
    splits = SplitConfig(bed=str(bed))
    with pytest.raises(InputError, match="use a shorter --seq-len, --edge pad, or a BED with"):
        build_indexes(GENOME, config_of(splits=splits))


def test_contigs_with_room_as_advised_are_divided():
    for splits, n_windows in ((SplitConfig(), 4), (SplitConfig(test_fraction=0), 2)):
        indexes = build_indexes(GENOME, config_of(5000 // n_windows, splits=splits))
        assert indexes[Split.VALID].n_windows() == 1


# --- doubts


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The warnings that were logged."""
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("WARNING", logger="dnamamba")
    return lambda: [record.getMessage() for record in caplog.records]


PROTEIN = random_sequence(2000, 4, "ACDEFGHIKLMNPQRSTVWY")


def test_a_protein_is_asked_whether_it_is_dna(warnings):
    build_indexes(MemoryGenome({"p": PROTEIN.lower()}), config_of(max_n_fraction=1))
    [warning] = warnings()
    assert re.match(r"the genome: (2[5-9]|3\d)% of the letters mean no base ", warning)
    assert warning.endswith("(E, F, I, L, P, Q): is this DNA?")


def test_one_letter_in_a_hundred_is_let_pass(warnings):
    build_indexes(MemoryGenome({"a": "ACGT" * 495 + "E" * 20}), config_of())
    assert warnings() == []
    build_indexes(MemoryGenome({"a": "ACGT" * 495 + "E" * 21}), config_of())
    assert len(warnings()) == 1


def test_rows_and_relatives_are_warned_about(warnings, tmp_path):
    rows = [("chr1", 0, 999, "train"), ("chr1", 2000, 2100, "valid"), ("chrUn", 0, 99, "test")]
    bed = SplitConfig(bed=str(write_bed(tmp_path / "x.bed", rows)))
    build_indexes(GENOME, config_of(splits=bed))
    apes = {f"{ape}/chr1": random_sequence(2000) for ape in ("human", "gorilla")}
    build_indexes(MemoryGenome(apes), config_of())
    one, other = warnings()
    assert "1 of 3 rows" in one
    assert "the genome has no contig chrUn" in one
    assert "the genomes share contig names" in other


@pytest.mark.parametrize("rule", ["mamba", "hyenadna", "caduceus"])
def test_published_rules_need_a_bed(rule, tmp_path):
    with pytest.raises(InputError, match=rf"the {rule} rule lays windows on the rows of a BED"):
        config_of(rule=rule)
    rows = [("chr1", 0, 1000, "train"), ("chr1", 2000, 2100, "valid"), ("chr2", 0, 99, "test")]
    bed = SplitConfig(bed=str(write_bed(tmp_path / "x.bed", rows)))
    config = config_of(rule=rule, splits=bed)
    datasets = build_datasets(GENOME, replace(config, rc_augment=False))
    place = datasets[Split.VALID].describe([0])[0]
    assert place == "epoch 0: chr1:2,001-2,064 (+)"


def test_a_padded_window_of_the_hyenadna_rule_is_centred():
    config = WindowConfig(seq_len=60, rule="hyenadna", edge="pad")
    index = WindowIndex(config, [Interval("short", 0, 40)], GENOME.contigs, {})
    row = WindowDataset(GENOME, index).read([0])[0]
    short = GENOME.read("short", 0, 40)
    assert decode(row) == "-" * 10 + decode(short) + "-" * 10
    assert (encode(decode(short)) == short).all()
