"""Coordinates and sizes: 0-based inside, 1-based for people."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split, Strand, format_size, parse_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("131072", 131_072),
        ("1k", 1024),
        ("450k", 460_800),
        ("1000k", 1_024_000),
        ("1M", MIB),
        ("1m", MIB),
        (" 1 M ", MIB),
        ("1_000_000", 1_000_000),
        ("1,000,000", 1_000_000),
        ("1.5k", 1536),
        ("2G", 2 << 30),
        ("3.0", 3),
        (7, 7),
    ],
)
def test_parse_size_reads_powers_of_two(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "0", "0k", "1.5", "0.3k", "1e6", "1Mb", "1 M 2", "1T", "one", True]
)
def test_parse_size_refuses_what_is_no_whole_number_of_bases(text):
    with pytest.raises(InputError, match="a size"):
        parse_size(text)


@given(st.integers(1, 1 << 40))
@settings(deadline=None)
def test_format_size_is_read_back(size):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("size", "text"), [(MIB, "1M"), (1024, "1k"), (1000, "1000"), (1, "1")])
def test_format_size_is_short(size, text):
    assert format_size(size) == text


def test_people_count_from_one_and_include_the_end():
    interval = Interval.parse("chr1:1,001-2,000")
    assert interval == Interval("chr1", 1000, 2000)
    assert interval.length == 1000
    assert str(interval) == "chr1:1,001-2,000"


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(names, st.integers(0, 10**10), st.integers(1, 10**9))
@example("HLA:1-2", 0, 1)
@example("a:b:3-4,5", 4, 7)
@settings(deadline=None)
def test_an_interval_is_read_back_as_it_is_shown(name, start, length):
    interval = Interval(name, start, start + length)
    assert Interval.parse(str(interval)) == interval


def test_the_last_range_is_the_region_and_the_rest_the_name():
    assert Interval.parse("HLA:1-2:5-10") == Interval("HLA:1-2", 4, 10)
    assert Interval.parse("HLA:1-2") == Interval("HLA", 0, 2)


@pytest.mark.parametrize("text", ["chr1", "chr1:5", "chr1:5-", ":1-2", "chr1:a-b", "", "c:,-5"])
def test_parse_says_what_a_region_looks_like(text):
    with pytest.raises(InputError, match="a region must look like chr1:1,001-2,000"):
        Interval.parse(text)


@pytest.mark.parametrize("text", ["chr1:0-5", "chr1:6-5"])
def test_parse_refuses_positions_that_do_not_exist(text):
    with pytest.raises(InputError, match="1 <= start <= end"):
        Interval.parse(text)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (6, 5)])
def test_an_interval_never_ends_before_its_start(start, end):
    with pytest.raises(InputError, match="0 <= start <= end"):
        Interval("chr1", start, end)


def test_strands_are_checked():
    assert Interval("chr1", 0, 1, "-").strand is Strand.REVERSE
    with pytest.raises(ValueError, match="'x' is not a valid Strand"):
        Interval("chr1", 0, 1, "x")


small = st.builds(
    lambda chrom, start, length: Interval(chrom, start, start + length),
    st.sampled_from(["a", "b"]),
    st.integers(0, 20),
    st.integers(0, 10),
)


@given(small, small)
@settings(deadline=None)
def test_overlap_is_about_shared_bases(one, other):
    def bases(interval):
        return {(interval.chrom, i) for i in range(interval.start, interval.end)}

    shared = bases(one) & bases(other)
    assert one.overlaps(other) == other.overlaps(one)
    assert one.overlaps(other) == bool(shared)


def test_splits_are_called_as_in_a_bed():
    assert [str(split) for split in Split] == ["train", "valid", "test"]
