"""Order and coins without state: pure functions that look random."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnamamba.data.hashing import hash_u64, permute

seeds = st.integers(-(1 << 63), 1 << 63)


@given(st.integers(1, 3000), seeds, seeds)
@example(1, 0, 0)
@example(2, 0, 0)
@example(1024, 0, 0)
@example(1025, 0, 0)
@settings(deadline=None, max_examples=60)
def test_permute_is_a_bijection(n, seed, epoch):
    assert sorted(permute(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


@given(st.integers(1, 1 << 40), st.data())
@settings(deadline=None, max_examples=60)
def test_permute_of_a_few_is_the_permutation_at_those_places(n, data):
    """Whatever is asked together, and in whatever order: nothing is drawn in sequence."""
    asked = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permute(np.array(asked), n, 5).tolist()
    assert together == [int(permute(np.array([i]), n, 5)[0]) for i in asked]
    assert all(0 <= i < n for i in together)


def test_permute_asserts_its_range():
    with pytest.raises(AssertionError, match="index outside the range"):
        permute(np.array([5]), 5, 0)


def test_permute_of_nothing():
    assert permute(np.array([], np.int64), 0, 1).tolist() == []


def test_permutations_of_different_keys_are_unrelated():
    n = 4096
    orders = [permute(np.arange(n), n, *keys) for keys in [(0, 0), (1, 0), (0, 1), (0, 0, 1)]]
    for i, one in enumerate(orders):
        for other in [np.arange(n), *orders[:i]]:
            # Unrelated permutations agree at one place on average (a Poisson variable).
            assert (one == other).sum() < 10
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(n)


def test_neighbours_do_not_stay_neighbours():
    n = 4096
    order = permute(np.arange(n), n, 0)
    assert (np.abs(np.diff(order)) == 1).sum() < 15
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(n)


def test_where_one_sample_goes_is_uniform_over_seeds():
    n, draws = 10, 2000
    places = np.array([int(permute(np.array([3]), n, seed)[0]) for seed in range(draws)])
    assert chi_square(np.bincount(places, minlength=n)) < 9 + 5 * np.sqrt(18)


def chi_square(counts: np.ndarray) -> float:
    """Mean is one less than the number of classes, variance twice that, where all are as likely."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("bit", [0, 1, 31, 63])
def test_every_bit_of_a_hash_is_a_fair_coin(bit):
    n = 40_000
    ones = int((hash_u64(np.arange(n), 7, 1, 3) >> np.uint64(bit) & np.uint64(1)).sum())
    assert abs(ones - n / 2) < 5 * np.sqrt(n / 4)


def test_hashes_depend_on_every_key_and_its_place():
    keys = [(), (0,), (1,), (1, 2), (2, 1), (-1,), (1, 2, 0)]
    values = {int(hash_u64(np.array([9]), *key)[0]) for key in keys}
    assert len(values) == len(keys)


def test_a_seed_does_not_shift_the_samples():
    """Sample i under one seed must not be sample i + 1 under the seed before."""
    n = 1000
    for shift in (-1, 0, 1, 2):
        one = hash_u64(np.arange(2, n), 0) & np.uint64(1)
        other = hash_u64(np.arange(2, n) + shift, 1) & np.uint64(1)
        assert abs(int((one == other).sum()) - n / 2) < 5 * np.sqrt(n / 4)


@given(st.lists(st.integers(0, 1 << 62), min_size=1), seeds)
@settings(deadline=None)
def test_a_hash_is_a_function_of_value_and_keys_alone(values, seed):
    together = hash_u64(np.array(values), seed).tolist()
    assert together == [int(hash_u64(np.array([value]), seed)[0]) for value in values]
