"""What is done to training sequences so that models do not learn them by heart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnamamba.data.augment import check_mutation_rate, substitute
from dnamamba.errors import InputError
from dnamamba.tokenizer import decode, encode, is_base
from genomes import random_sequence


def changed(letters, rate, key=1):
    codes = encode(letters)
    substitute(codes, rate, key)
    return codes


def test_about_the_share_of_bases_that_was_asked_for_changes():
    letters = random_sequence(100_000, seed=1)
    before, after = encode(letters), changed(letters, 0.05)
    differs = before != after
    assert 0.045 < differs.mean() < 0.05  # a base that is drawn twice changes once
    assert is_base(after).all()
    # Anywhere, and into each of the other three alike.
    assert abs(np.flatnonzero(differs).mean() / 50_000 - 1) < 0.05
    for base in "ACGT":
        into = after[differs & (before == encode(base)[0])]
        shares = np.bincount(into, minlength=11)[7:11] / len(into)
        assert sorted(shares)[0] == 0
        assert min(sorted(shares)[1:]) > 0.3


def test_a_key_decides_all_of_it():
    letters = random_sequence(1000, seed=1)
    assert decode(changed(letters, 0.1)) == decode(changed(letters, 0.1))
    assert decode(changed(letters, 0.1)) != decode(changed(letters, 0.1, key=2))


def test_rates_below_a_base_a_sequence_come_out_on_average():
    changes = [
        int((changed("ACGT" * 5, 0.01, key) != encode("ACGT" * 5)).sum()) for key in range(5000)
    ]
    assert 0.17 < np.mean(changes) < 0.23


@given(st.text("ACGTNacgtnRY-", max_size=40), st.integers(0, 2**64 - 1))
def test_what_is_no_base_and_case_stay(letters, key):
    before, after = encode(letters), changed(letters, 0.5, key)
    assert (before[~is_base(before)] == after[~is_base(before)]).all()
    assert ((before ^ after) & 0x80 == 0).all()
    assert (is_base(before) == is_base(after)).all()


def test_a_rate_of_nothing_changes_nothing():
    assert decode(changed("ACGT" * 10, 0.0)) == "ACGT" * 10


@pytest.mark.parametrize("rate", [-0.1, 0.6, float("nan")])
def test_rates_that_make_no_sense(rate):
    with pytest.raises(InputError, match=r"mutation_rate must be from 0 to 0\.5 of the bases, got"):
        check_mutation_rate(rate)
