"""The Markov baseline: what it counts, what it predicts, and that it agrees with a slow copy."""

import gzip
from collections import Counter
from math import log2
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.baselines import markov
from dnamamba.baselines.markov import MarkovBaseline
from dnamamba.errors import InputError
from dnamamba.tokenizer import Codes, decode, encode, reverse_complement

SMALL_PRIOR = 1e-9


def random_bases(n: int, seed: int = 0) -> Codes:
    letters = encode("ACGT")
    return letters[np.random.default_rng(seed).integers(0, 4, n)]


def orders_of(baseline: MarkovBaseline, windows) -> list[dict]:
    return baseline.summarise(windows)["orders"]


def bits_of(baseline: MarkovBaseline, order: int, windows) -> float:
    return orders_of(baseline, windows)[order]["bits_per_base"]


class SlowMarkov:
    """The same model with dictionaries of strings, one base at a time."""

    def __init__(self, max_order: int, concentration: float, both_strands: bool) -> None:
        self.max_order, self.concentration = max_order, concentration
        self.both_strands = both_strands
        self.words: Counter[str] = Counter()
        self.contexts: Counter[str] = Counter()

    def fit(self, windows: list[str]) -> None:
        if self.both_strands:
            windows = windows + [decode(reverse_complement(encode(text))) for text in windows]
        for text in windows:
            for end, base in enumerate(text):
                if base not in "ACGT":
                    continue
                for order in range(len(self.clean_context(text, end)) + 1):
                    self.words[text[end - order : end + 1]] += 1
                    self.contexts[text[end - order : end]] += 1

    def clean_context(self, text: str, end: int) -> str:
        start = end
        while start > max(0, end - self.max_order) and text[start - 1] in "ACGT":
            start -= 1
        return text[start:end]

    def probability(self, context: str, base: str) -> float:
        shorter = self.probability(context[1:], base) if context else 0.25
        s = self.concentration
        return (self.words[context + base] + s * shorter) / (self.contexts[context] + s)

    def bits_per_base(self, order: int, windows: list[str]) -> float:
        bits = [
            -log2(self.probability(self.clean_context(text, i)[-order:] if order else "", text[i]))
            for text in windows
            for i in range(1, len(text))
            if text[i] in "ACGT"
        ]
        return sum(bits) / len(bits)


def test_counted_by_hand() -> None:
    """ACAC holds A, C twice each; C follows A twice, A follows C once."""
    baseline = MarkovBaseline(max_order=1, concentration=1.0).fit([encode("ACAC")])
    order_0 = (2 + 0.25) / (4 + 1)  # of A as of C
    c_after_a = (2 + order_0) / (2 + 1)
    a_after_c = (1 + order_0) / (1 + 1)
    rows = orders_of(baseline, [encode("ACA")])  # two targets: C after A, A after C
    assert rows[0]["bits_per_base"] == pytest.approx(-log2(order_0))
    assert rows[1]["bits_per_base"] == pytest.approx(-(log2(c_after_a) + log2(a_after_c)) / 2)
    assert [row["order"] for row in rows] == [0, 1]


@settings(deadline=None, max_examples=60)
@given(
    train=st.lists(st.text("ACGTN", min_size=1, max_size=40), min_size=1, max_size=4),
    valid=st.text("ACGTN", min_size=1, max_size=40),
    max_order=st.integers(0, 5),
    both_strands=st.booleans(),
    block=st.integers(1, 50),
)
def test_equals_the_slow_implementation(
    train: list[str], valid: str, max_order: int, both_strands: bool, block: int
) -> None:
    valid += "NACGT"
    slow = SlowMarkov(max_order, 2.0, both_strands)
    slow.fit(train)
    with mock.patch.object(markov, "_BLOCK", block):  # also cut within a window
        fast = MarkovBaseline(max_order, 2.0, both_strands).fit([encode(text) for text in train])
        rows = orders_of(fast, [encode(valid)])
    expected = [slow.bits_per_base(order, [valid]) for order in range(max_order + 1)]
    assert [row["bits_per_base"] for row in rows] == pytest.approx(expected)


def test_windows_in_one_array_or_several_or_in_two_calls_count_alike() -> None:
    windows = random_bases(600).reshape(20, 30)
    valid = [random_bases(200, seed=1)]
    at_once = MarkovBaseline(4).fit([windows])
    one_by_one = MarkovBaseline(4).fit(iter(windows))
    in_two_calls = MarkovBaseline(4).fit([windows[:7]])
    orders_of(in_two_calls, valid)  # looking does not stop the counting
    in_two_calls.fit([windows[7:]])
    assert (
        orders_of(at_once, valid) == orders_of(one_by_one, valid) == orders_of(in_two_calls, valid)
    )
    assert at_once.train_bases == 600


def test_uniform_bases_cost_two_bits() -> None:
    baseline = MarkovBaseline(max_order=3).fit([random_bases(400_000)])
    for row in orders_of(baseline, [random_bases(100_000, seed=1)]):
        assert row["bits_per_base"] == pytest.approx(2.0, abs=0.001)


def test_a_repeat_of_period_three_is_known_from_two_bases() -> None:
    repeat = np.tile(encode("AAC"), 1000)
    bits = [
        row["bits_per_base"] for row in orders_of(MarkovBaseline(4, 1.0).fit([repeat]), [repeat])
    ]
    assert bits[0] > 0.9
    assert bits[1] > 0.6  # A follows A as often as C does
    assert max(bits[2:]) < 0.01


def test_the_first_base_of_a_window_is_no_target() -> None:
    baseline = MarkovBaseline(0, SMALL_PRIOR).fit([encode("AAAAAAAC")])
    assert bits_of(baseline, 0, [encode("CA")]) == pytest.approx(-log2(7 / 8))


@pytest.mark.parametrize("between", ["N", "-", "R", "!"])
def test_what_is_no_base_breaks_the_context(between: str) -> None:
    """C always follows A, but not across a gap; after one, the longest clean context counts."""
    baseline = MarkovBaseline(1, SMALL_PRIOR).fit([encode("ACACACAC")])
    certain = bits_of(baseline, 1, [encode("AC")])
    across = bits_of(baseline, 1, [encode("A" + between + "C")])
    assert certain == pytest.approx(0.0, abs=1e-6)
    assert across == pytest.approx(1.0)  # order 0: half of the bases are C


def test_a_window_edge_breaks_the_context() -> None:
    windows = np.stack([encode("AA"), encode("CC")])
    counted_apart = MarkovBaseline(1, SMALL_PRIOR).fit([windows])
    assert bits_of(counted_apart, 1, [encode("AC")]) > 20  # C after A was never seen


def test_lower_case_is_the_same_base() -> None:
    upper, lower = MarkovBaseline(3), MarkovBaseline(3)
    text = decode(random_bases(300))
    valid = [encode("ACGGTCA")]
    upper.fit([encode(text)])
    lower.fit([encode(text.lower())])
    assert orders_of(upper, valid) == orders_of(lower, [encode("acggtca")])


def test_both_strands_count_as_the_sequence_and_its_reverse_complement() -> None:
    train, valid = encode(decode(random_bases(500)) + "NNACGTTTTN"), [random_bases(200, seed=1)]
    both = MarkovBaseline(5, both_strands=True).fit([train])
    by_hand = MarkovBaseline(5).fit([train, reverse_complement(train)])
    assert orders_of(both, valid) == orders_of(by_hand, valid)
    mirrored = MarkovBaseline(5, both_strands=True).fit([reverse_complement(train)])
    assert orders_of(both, valid) == orders_of(mirrored, valid)
    assert both.train_bases == 507


def test_counts_widen_before_they_overflow() -> None:
    train, valid = random_bases(1000), [random_bases(100, seed=1)]
    with mock.patch.object(markov, "_BASES_FOR_UINT32", 500):
        wide = MarkovBaseline(3).fit([train[:400]]).fit([train[400:]])
    narrow = MarkovBaseline(3).fit([train[:400]]).fit([train[400:]])
    assert orders_of(wide, valid) == orders_of(narrow, valid)


def test_more_context_helps_until_the_counts_run_out() -> None:
    """A noisy repeat of period five: order 4 knows the phase, order 12 only sees the noise."""
    train, valid = (np.tile(encode("ACGTT"), 4000) for _ in range(2))
    for codes, seed in ((train, 0), (valid, 1)):
        noisy = np.random.default_rng(seed).random(codes.size) < 0.3
        codes[noisy] = random_bases(int(noisy.sum()), seed=seed + 2)
    summary = MarkovBaseline(max_order=12, concentration=1.0).fit([train]).summarise([valid])
    bits = [row["bits_per_base"] for row in summary["orders"]]
    assert bits[0] > bits[2] > bits[4]
    assert bits[12] > bits[4]
    assert summary["best_order"] == int(np.argmin(bits))
    assert (summary["train_bases"], summary["targets"]) == (20_000, 19_999)


def test_without_training_every_base_costs_two_bits() -> None:
    assert bits_of(MarkovBaseline(2), 2, [encode("ACGT")]) == 2.0


def test_real_sequence_costs_less_than_two_bits(shared_data: Path) -> None:
    with gzip.open(shared_data / "genomes" / "lambda_phage.fa.gz") as file:
        codes = encode(file.read().partition(b"\n")[2].replace(b"\n", b""))
    summary = MarkovBaseline(6, both_strands=True).fit([codes[:40_000]]).summarise([codes[40_000:]])
    assert 1.9 < summary["orders"][summary["best_order"]]["bits_per_base"] < 1.99


@pytest.mark.parametrize("max_order", [-1, 15])
def test_orders_out_of_range_are_refused(max_order: int) -> None:
    with pytest.raises(InputError, match="max_order must be 0 to 14"):
        MarkovBaseline(max_order)


def test_a_concentration_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        MarkovBaseline(2, concentration=0.0)


@pytest.mark.parametrize("bad", [np.zeros(4, np.int64), np.zeros((1, 2, 3), np.uint8)])
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 codes"):
        MarkovBaseline(2).fit([bad])


@pytest.mark.parametrize("windows", [[], [encode("A")], [encode("NNNN")], [encode("")]])
def test_nothing_to_predict_is_an_error(windows: list[Codes]) -> None:
    with pytest.raises(InputError, match="nothing to predict"):
        MarkovBaseline(2).summarise(windows)
