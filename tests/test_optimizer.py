"""The learning rate of every step, from the paper's words."""

import itertools

import pytest

from dnamamba.training.optimizer import cosine_with_warmup


def rates(max_steps: int, warmup_steps: int) -> list[float]:
    return [
        cosine_with_warmup(
            step, max_steps=max_steps, warmup_steps=warmup_steps, peak=8e-3, floor=1e-5
        )
        for step in range(max_steps)
    ]


def test_warm_up_is_linear_and_reaches_the_peak():
    first = rates(100, 10)[:10]
    assert first[-1] == pytest.approx(8e-3)
    assert first[4] == pytest.approx(4e-3)
    assert first[0] > 0


def test_cosine_falls_from_the_peak_to_the_floor_at_the_last_step():
    after = rates(100, 10)[10:]
    assert after[0] == pytest.approx(8e-3)
    assert after[-1] == pytest.approx(1e-5)
    assert all(later < earlier for earlier, later in itertools.pairwise(after))


def test_runs_of_a_step_or_two_still_have_a_rate():
    assert rates(1, 0) == [pytest.approx(8e-3)]
    assert len(rates(2, 1)) == 2
