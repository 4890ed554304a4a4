"""Units, and the file of numbers."""

import math

import pytest

from dnamamba.training.metrics_log import IntervalMean, MetricsFile, bits_per_base, perplexity


def test_uniform_over_four_bases_is_two_bits_and_perplexity_four():
    assert bits_per_base(math.log(4)) == pytest.approx(2.0)
    assert perplexity(math.log(4)) == pytest.approx(4.0)
    assert perplexity(1e9) == math.inf


def test_a_line_cut_off_by_a_kill_is_passed_over(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": 1.0})
    with open(file.path, "a") as raw:
        raw.write('{"step": 2, "lo')
    assert file.rows() == [{"step": 1, "loss": 1.0}]


def test_rewind_forgets_what_comes_after_a_step(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(5):
        file.append({"step": step})
    file.rewind(2)
    assert [row["step"] for row in file.rows()] == [0, 1, 2]
    MetricsFile(tmp_path / "absent.jsonl").rewind(3)


def test_interval_mean_starts_over_after_each_row():
    interval = IntervalMean()
    interval.add(1.0, 10)
    interval.add(3.0, 10)
    mean, tokens_per_s = interval.take()
    assert mean == 2.0
    assert tokens_per_s > 0
    interval.add(5.0, 10)
    assert interval.take()[0] == 5.0


def test_an_interval_begun_before_a_restart_is_finished_after_it():
    begun = IntervalMean()
    begun.add(1.0, 10)
    resumed = IntervalMean(begun.losses)
    resumed.add(3.0, 10)
    assert resumed.take()[0] == 2.0
