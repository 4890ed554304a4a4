"""Which bases are for what: fractions of each contig, whole contigs, or the rows of a BED."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data.splits import SplitConfig, describe_warnings, match_contigs, resolve_splits
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split
from genomes import write_bed

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST
APES = {f"{ape}/{name}": 1000 for ape in ("human", "gorilla") for name in ("chr1", "chr2")}

contigs = st.dictionaries(st.sampled_from("abc"), st.integers(0, 400), min_size=1)
fractions = st.floats(0, 0.25)


def bases(intervals):
    return [(row.chrom, i) for row in intervals for i in range(row.start, row.end)]


@given(contigs, fractions, fractions, st.integers(2, 60))
@settings(deadline=None)
def test_fractions_divide_every_base_once(lengths, valid, test, seq_len):
    config = SplitConfig(valid_fraction=valid, test_fraction=test)
    splits = resolve_splits(config, lengths, seq_len)
    divided = bases(splits[TRAIN]) + bases(splits[VALID]) + bases(splits[TEST])
    assert len(divided) == len(set(divided)), "no base is in two splits"
    assert set(divided) == {(name, i) for name, n in lengths.items() for i in range(n)}
    for split, fraction in ((VALID, valid), (TEST, test)):
        for row in splits[split]:
            assert row.length % seq_len == 0, "held-out stretches are whole windows"
            share = fraction * lengths[row.chrom]
            assert abs(row.length - share) <= seq_len
            assert row.length >= min(share, seq_len) * (1 - 1e-9), "at least one window"
            assert 0 < row.start < row.end < lengths[row.chrom], "away from the ends"
    wanted = {split for split, fraction in ((VALID, valid), (TEST, test)) if fraction > 0}
    for name, length in lengths.items():
        held_out = {split for split in (VALID, TEST) for row in splits[split] if row.chrom == name}
        if held_out or length >= 4 * seq_len:
            assert held_out == wanted, "a contig with room is divided"


def test_fractions_hold_out_a_third_and_two_thirds_in():
    splits = resolve_splits(SplitConfig(), {"chr1": 30_000}, 500)
    assert splits[VALID] == [Interval("chr1", 9250, 10_750)]
    assert splits[TEST] == [Interval("chr1", 19_250, 20_750)]
    assert sum(row.length for row in splits[TRAIN]) == 27_000


def test_a_contig_too_short_to_divide_is_for_training():
    splits = resolve_splits(SplitConfig(), {"short": 399, "long": 400}, 100)
    assert [row.chrom for row in splits[VALID]] == ["long"]
    assert Interval("short", 0, 399) in splits[TRAIN]


@pytest.mark.parametrize("length", [40, 41, 45, 47, 100, 1009])
def test_the_largest_fractions_hold_out_windows_of_any_contig(length):
    """Rounded up to whole windows, a quarter and a quarter would be more than half."""
    config = SplitConfig(valid_fraction=0.25, test_fraction=0.25)
    splits = resolve_splits(config, {"chr1": length}, 10)
    for split in (VALID, TEST):
        [row] = splits[split]
        assert 10 <= row.length <= length / 4 + 10
    assert sum(row.length for row in splits[TRAIN]) >= length / 2


def test_contigs_are_held_out_by_name_and_pattern():
    config = SplitConfig(valid_contigs=("chr2", "scaffold*"), test_contigs=("chrX",))
    lengths = {"chr1": 10, "chr2": 20, "chrX": 30, "scaffold_1": 4, "scaffold_2": 5}
    splits = resolve_splits(config, lengths, 2)
    assert splits[TRAIN] == [Interval("chr1", 0, 10)]
    assert [row.chrom for row in splits[VALID]] == ["chr2", "scaffold_1", "scaffold_2"]
    assert splits[TEST] == [Interval("chrX", 0, 30)]


def test_a_name_means_the_contig_in_every_genome():
    assert match_contigs(["chr1"], APES) == {"human/chr1", "gorilla/chr1"}
    assert match_contigs(["human/chr1"], APES) == {"human/chr1"}
    assert match_contigs(["human/*"], APES) == {"human/chr1", "human/chr2"}
    assert match_contigs(["chr*"], APES) == set(APES)
    assert match_contigs(["*/chr1"], APES) == {"human/chr1", "gorilla/chr1"}
    assert match_contigs([], APES) == set()


def test_a_name_with_a_star_in_it_is_found_as_it_is():
    names = {"HLA-A*01:01": 5, "HLA-A*24:01:01": 5}
    assert match_contigs(["HLA-A*01:01"], names) == {"HLA-A*01:01"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SplitConfig(valid_contigs=("chr9",)), "no contig is named 'chr9'; the genome has human"),
        (SplitConfig(valid_contigs=("chr1",), test_contigs=("*/chr1",)), "choose one"),
        (SplitConfig(valid_contigs=("*",)), "every contig is held out: nothing is left"),
    ],
)
def test_contigs_that_cannot_be_held_out(config, message):
    with pytest.raises(InputError, match=message):
        resolve_splits(config, APES, 10)


def test_long_lists_of_contigs_are_cut_in_messages():
    with pytest.raises(InputError, match=r"has a0, a1, a2, a3, a4, ... \(9,000 in all\)$"):
        match_contigs(["b"], {f"a{i}": 1 for i in range(9000)})


def test_a_bed_rules_alone(tmp_path):
    rows = [
        ("chr1", 50, 90, "valid"),
        ("chr1", 0, 60, "train"),
        ("chrOther", 0, 5, "train"),
        ("chr1", 80, 2000, "test"),
    ]
    config = SplitConfig(bed=str(write_bed(tmp_path / "x.bed", rows)))
    splits = resolve_splits(config, {"chr1": 100, "chr2": 100}, 10)
    assert splits == {
        TRAIN: [Interval("chr1", 0, 60)],
        VALID: [Interval("chr1", 50, 90)],
        TEST: [Interval("chr1", 80, 2000)],
    }, "rows as they are, for contigs that are there"


def test_a_bed_of_another_genome_is_refused(tmp_path):
    config = SplitConfig(bed=str(write_bed(tmp_path / "x.bed", [("1", 0, 5, "train")])))
    with pytest.raises(InputError, match="the BED has 1, the genome has chr1"):
        resolve_splits(config, {"chr1": 100}, 10)


def test_rows_of_contigs_that_are_not_there_are_told(tmp_path):
    names = ["chr1", "alt2", "alt1", "chr1", "alt1"]
    bed = write_bed(tmp_path / "x.bed", [(name, 0, 5, "train") for name in names])
    assert describe_warnings(SplitConfig(bed=str(bed)), {"chr1": 10, "alt1": 10, "alt2": 9}) == []
    assert describe_warnings(SplitConfig(bed=str(bed)), {"chr1": 100}) == [
        f"3 of 5 rows of {bed} are left out: the genome has no contig alt1, alt2"
    ]


def test_related_genomes_are_better_divided_by_contig():
    [warning] = describe_warnings(SplitConfig(), APES)
    assert "the genomes share contig names and are divided by fraction" in warning
    assert "with --valid-contigs and --test-contigs" in warning


@pytest.mark.parametrize(
    ("config", "lengths"),
    [
        (SplitConfig(valid_contigs=("chr1",)), APES),
        (SplitConfig(valid_fraction=0, test_fraction=0), APES),
        (SplitConfig(), {"chr1": 10, "chr2": 10}),
        (SplitConfig(), {"human/chr1": 10, "gorilla/chr2": 10}),
    ],
    ids=["by contig", "nothing held out", "one genome", "other names"],
)
def test_what_gives_no_doubt(config, lengths):
    assert describe_warnings(config, lengths) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bed": "x.bed", "valid_contigs": ("a",)}, "either a BED or contigs"),
        ({"bed": "x.bed", "test_contigs": ("a",)}, "either a BED or contigs"),
        ({"valid_fraction": 0.3}, "valid_fraction must be from 0 to 0.25 of each contig, got 0.3"),
        ({"test_fraction": -0.1}, "test_fraction must be from 0 to 0.25"),
        ({"test_fraction": float("nan")}, "test_fraction must be from 0 to 0.25"),
    ],
)
def test_settings_that_make_no_sense(values, message):
    with pytest.raises(InputError, match=message):
        SplitConfig(**values)
