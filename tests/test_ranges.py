"""Arithmetic on stretches of one contig, against sets of positions."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data.ranges import NO_RUNS, ContigLine, bases_within, count_bases, merge, subtract
from dnamamba.data_prep.genomes.statistics import n_runs_of, runs_where
from dnamamba.tokenizer import encode

spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda row: (row[0], row[0] + row[1])),
    max_size=8,
)


def positions(runs) -> set[int]:
    return {i for start, end in np.asarray(runs).tolist() for i in range(start, end)}


def assert_is_merged(runs):
    assert runs.dtype == np.int64
    assert runs.shape == (len(runs), 2)
    assert (runs[:, 0] < runs[:, 1]).all(), "no stretch is empty"
    assert (runs[1:, 0] > runs[:-1, 1]).all(), "sorted, and none touches the next"


@given(spans)
@settings(deadline=None)
def test_merge_keeps_the_positions_and_joins_what_touches(rows):
    merged = merge(rows)
    assert positions(merged) == positions(rows)
    assert_is_merged(merged)
    assert (merge(merged) == merged).all()


@given(spans, spans)
@settings(deadline=None)
def test_subtract_leaves_the_positions_outside(rows, taken):
    left = subtract(merge(rows), merge(taken))
    assert positions(left) == positions(rows) - positions(taken)
    assert_is_merged(left)


@given(spans)
@settings(deadline=None)
def test_count_bases_counts_positions(rows):
    assert count_bases(merge(rows)) == len(positions(rows))


@given(spans, st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30)), min_size=1))
@settings(deadline=None)
def test_bases_within_counts_positions_in_each_stretch(rows, asked):
    starts = np.array([start for start, _ in asked])
    ends = np.array([start + length for start, length in asked])
    inside = positions(rows)
    expected = [
        len(inside & set(range(start, end))) for start, end in zip(starts, ends, strict=True)
    ]
    assert bases_within(merge(rows), starts, ends).tolist() == expected


def test_nothing_is_a_set_of_stretches_too():
    assert merge([]).shape == NO_RUNS.shape == (0, 2)
    assert subtract(NO_RUNS, merge([(0, 5)])).shape == (0, 2)
    assert count_bases(NO_RUNS) == 0
    assert bases_within(NO_RUNS, np.array([0, 1]), np.array([5, 6])).tolist() == [0, 0]


@given(st.lists(st.booleans()))
@settings(deadline=None)
def test_runs_where_finds_every_stretch(mask):
    runs = runs_where(np.array(mask, bool))
    assert positions(runs) == {i for i, is_true in enumerate(mask) if is_true}
    assert_is_merged(runs)


def test_n_runs_hold_everything_that_is_no_base():
    assert n_runs_of(encode("NNACGTnRxA-UN")).tolist() == [[0, 2], [6, 9], [10, 11], [12, 13]]
    assert n_runs_of(encode("")).shape == (0, 2)


def test_merge_leaves_what_it_is_given_as_it_is():
    rows = np.array([[5, 9], [1, 6], [3, 3]])
    assert merge(rows).tolist() == [[1, 9]]
    assert rows.tolist() == [[5, 9], [1, 6], [3, 3]]
    assert merge(rows[:1]).tolist() == [[5, 9]]
    assert merge(rows[2:]).shape == (0, 2)


stretches = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 30), st.integers(-5, 30)))


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4), stretches)
@settings(deadline=None)
def test_contigs_on_a_line_stay_apart(lengths, rows):
    line = ContigLine({f"chr{i}": length for i, length in enumerate(lengths)})
    runs = line.lay(*np.array(rows, np.int64).reshape(-1, 3).T)
    by_contig = line.split(runs)
    for contig, length in enumerate(lengths):
        spans = [(max(a, 0), min(b, length)) for i, a, b in rows if i == contig]
        expected = merge([(a, b) for a, b in spans if a < b])
        assert by_contig.get(contig, NO_RUNS).tolist() == expected.tolist()
    assert all(len(found) for found in by_contig.values())
    assert line.join(by_contig).tolist() == runs.tolist()
