"""What `dnamamba data check` finds: windows and bases of each split, and what splits share."""

from itertools import combinations

import numpy as np
import pytest

from dnamamba.data.ranges import merge
from dnamamba.data.split_check import check_splits, lay_out, shared_bases
from dnamamba.data.splits import SplitConfig
from dnamamba.data.window_dataset import DataConfig, build_indexes
from dnamamba.data.windows import WindowConfig
from dnamamba.intervals import Split
from genomes import MemoryGenome, random_sequence, write_bed

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST
GENOME = MemoryGenome(
    {
        "chr1": random_sequence(4000, 1, "ACGTacgt"),
        "chr2": random_sequence(1000, 2) + "N" * 100 + random_sequence(1000, 3),
    }
)
ROWS = [
    ("chr1", 0, 200, "train"),
    ("chr1", 200, 400, "valid"),
    ("chr1", 400, 600, "train"),
    ("chr1", 600, 800, "test"),
    ("chr1", 2000, 2200, "train"),
    ("chr2", 900, 1300, "train"),
    ("chr2", 1600, 1800, "valid"),
]


@pytest.fixture
def bed(tmp_path) -> SplitConfig:
    return SplitConfig(bed=str(write_bed(tmp_path / "splits.bed", ROWS)))


def config_of(splits, seq_len=400, rule="mamba", **options) -> DataConfig:
    return DataConfig(windows=WindowConfig(seq_len=seq_len, rule=rule, **options), splits=splits)


def counted_slowly(config):
    """Bases that each pair of splits shares, position by position."""
    covered = {}
    for split, index in build_indexes(GENOME, config).items():
        picked = index.windows(0, np.arange(index.n_windows()))
        columns = (picked.contig.tolist(), picked.start.tolist(), picked.n_bases.tolist())
        covered[split] = {
            (contig, i)
            for contig, start, n_bases in zip(*columns, strict=True)
            for i in range(start, start + n_bases)
        }
    return {
        (one, other): len(covered[one] & covered[other])
        for one, other in combinations((TRAIN, VALID, TEST), 2)
    }, covered


@pytest.mark.parametrize(
    ("rule", "seq_len"),
    [("tile", 100), ("tile", 200)]
    + [(rule, n) for rule in ("mamba", "hyenadna", "caduceus") for n in (100, 200, 400)],
)
def test_no_base_is_shared_by_default(rule, seq_len, bed, monkeypatch):
    monkeypatch.setattr("dnamamba.data.windows.CADUCEUS_SEGMENT", 400)
    result = check_splits(GENOME, config_of(bed, seq_len, rule))
    assert result.used.shared == {(TRAIN, VALID): 0, (TRAIN, TEST): 0, (VALID, TEST): 0}
    assert not result.leaks
    assert "  No base is in two splits." in result.lines()


@pytest.mark.parametrize("rule", ["mamba", "hyenadna"])
def test_the_leak_of_the_published_rules_is_counted_exactly(rule, bed):
    config = config_of(bed, rule=rule, drop_overlap=False)
    expected, covered = counted_slowly(config)
    assert expected[TRAIN, VALID] > 100
    layout = lay_out("here", GENOME, config)
    assert layout.shared == expected
    for split, summary in layout.splits.items():
        assert summary.bases == len(covered[split])


def test_published_rules_are_shown_beside_the_one_used(bed):
    result = check_splits(GENOME, config_of(bed))
    names = [layout.name for layout in result.published]
    assert names == [f"As published: {rule}" for rule in ("mamba", "hyenadna", "caduceus")]
    assert not result.leaks, "what is published is no verdict on what is used"
    for layout in result.published:
        assert layout.shared[TRAIN, VALID] > 0
        share = layout.shared[TRAIN, VALID] / layout.splits[VALID].bases
        line = f"  bases in both train and valid: {layout.shared[TRAIN, VALID]:,} ({share:.1%} of"
        assert any(shown.startswith(line) for shown in layout.lines())


def test_without_a_bed_there_is_nothing_published_to_show():
    result = check_splits(GENOME, config_of(SplitConfig(), seq_len=50, rule="tile"))
    assert result.published == []
    assert not result.leaks


def test_rows_that_are_left_out_are_counted(tmp_path):
    rows = [*ROWS, ("chrUn", 0, 99, "train"), ("chrUn", 100, 199, "valid")]
    path = write_bed(tmp_path / "more.bed", rows)
    result = check_splits(GENOME, config_of(SplitConfig(bed=str(path))))
    line = f"  Warning: 2 of 9 rows of {path} are left out: the genome has no contig chrUn"
    assert line in result.lines()


def test_overlap_that_is_kept_is_a_leak(bed):
    result = check_splits(GENOME, config_of(bed, drop_overlap=False))
    assert result.leaks
    assert "  LEAK: splits share bases" in result.lines()


def test_windows_bases_and_soft_masking_are_those_of_the_windows():
    splits = SplitConfig(valid_contigs=("chr1",))
    used = check_splits(GENOME, config_of(splits, seq_len=100, rule="tile")).used
    masked = sum(letter.islower() for letter in random_sequence(4000, 1, "ACGTacgt"))
    valid, test = used.splits[VALID], used.splits[TEST]
    assert (valid.windows, valid.bases, valid.n_bases, valid.soft_masked) == (40, 4000, 0, masked)
    assert (test.windows, test.bases, test.n_bases, test.soft_masked) == (0, 0, 0, 0)
    line = next(line for line in used.lines() if line.startswith("  valid"))
    assert line.split() == ["valid", "40", "4,000", "0.00%", f"{masked / 4000:.2%}"]


def test_n_inside_windows_are_counted():
    splits = SplitConfig(valid_contigs=("chr1",))
    used = check_splits(GENOME, config_of(splits, seq_len=300, rule="tile")).used
    assert used.splits[TRAIN].n_bases == 100


def test_the_caduceus_rule_ends_at_a_million_bases(bed):
    config = config_of(bed, seq_len=(1 << 20) + 1, rule="tile", edge="pad")
    published = check_splits(GENOME, config).published
    assert (
        published[2]
        .lines()[0]
        .startswith(
            "As published: caduceus (not at this seq_len: seq_len must be <= 2^20 for caduceus"
        )
    )


def test_shared_bases_are_counted_by_contig():
    one = {0: merge([(0, 10), (20, 30)]), 1: merge([(0, 5)])}
    other = {0: merge([(5, 25)]), 2: merge([(0, 100)])}
    assert shared_bases(one, other) == shared_bases(other, one) == 10
    assert shared_bases(one, {}) == 0
