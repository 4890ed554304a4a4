"""Where windows may begin, and draws from there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.hashing import hash_u64
from dnamamba.data.ranges import NO_RUNS, ContigLine, merge
from dnamamba.data.species.sampler import WindowSampler, starts_within_limit, weigh_contigs

STRETCHES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)


def counted_slowly(stretches, covered, size, most):
    """Start by start."""
    is_covered = np.zeros(100, bool)
    for start, end in covered:
        is_covered[start:end] = True
    return [
        start
        for first, end in stretches
        for start in range(first, end - size + 1)
        if is_covered[start : start + size].sum() <= most
    ]


@given(STRETCHES, STRETCHES, st.integers(1, 20), st.integers(0, 20))
def test_starts_are_those_with_few_enough_covered_bases(stretches, covered, size, most):
    stretches, covered = merge(stretches), merge(covered)
    found = starts_within_limit(stretches, covered, size, most)
    listed = [start for first, end in found.tolist() for start in range(first, end)]
    assert listed == counted_slowly(stretches, covered, size, most)


LINE = ContigLine({"a": 100, "b": 50, "c": 200, "d": 30})
GROUPS = np.array([1, 0, 1, 0])  # contigs of two species, mixed


def draws(places, groups):
    """Contig and start of each of `groups`."""
    i = np.arange(len(groups))
    return places.draw(groups, hash_u64(i, 1), hash_u64(i, 2))


def test_a_draw_stays_in_its_group_and_reaches_both_ends_of_each_contig():
    whole = LINE.join({i: np.array([[0, n]]) for i, n in enumerate(LINE.lengths)})
    places = WindowSampler(starts_within_limit(whole, NO_RUNS, 20, 0), LINE, GROUPS)
    assert places.contigs.tolist() == [1, 3, 0, 2], "species by species"
    assert places.n_starts.tolist() == [31, 11, 81, 181]
    groups = np.arange(20_000) % 2
    contig, start = draws(places, groups)
    assert (GROUPS[contig] == groups).all()
    for i, length in enumerate(LINE.lengths):
        reached = start[contig == i]
        assert (reached.min(), reached.max()) == (0, length - 20)
        assert set(reached.tolist()) == set(range(length - 19))


def test_contigs_without_a_place_are_never_drawn():
    whole = LINE.join({i: np.array([[0, n]]) for i, n in enumerate(LINE.lengths)})
    places = WindowSampler(starts_within_limit(whole, NO_RUNS, 60, 0), LINE, GROUPS)
    assert places.groups.tolist() == [1], "both contigs of species 0 are too short"
    contig, _ = draws(places, np.ones(1000, np.int64))
    assert set(contig.tolist()) == {0, 2}
    nothing = WindowSampler(starts_within_limit(whole, NO_RUNS, 201, 0), LINE, GROUPS)
    assert nothing.groups.tolist() == nothing.contigs.tolist() == []


@pytest.mark.parametrize(
    ("rule", "shares"), [("uniform", (0.5, 0.5)), ("length", (1 / 3, 2 / 3)), ("callable", (1, 1))]
)
def test_weights_of_contigs(rule, shares):
    whole = LINE.join({i: np.array([[0, n]]) for i, n in enumerate(LINE.lengths)})
    n_runs = LINE.join({2: np.array([[50, 150]])})
    weights = weigh_contigs(rule, whole, n_runs, LINE)
    places = WindowSampler(starts_within_limit(whole, n_runs, 10, 10), LINE, GROUPS, weights)
    contig, _ = draws(places, np.ones(20_000, np.int64))
    found = np.array([np.mean(contig == 0), np.mean(contig == 2)])
    assert found == pytest.approx(np.array(shares) / sum(shares), abs=0.015)
