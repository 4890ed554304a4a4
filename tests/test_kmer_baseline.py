"""The k-mer baseline: its counts, what it can and cannot tell, and what it is chosen by."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dnamamba.baselines import kmer_classifier as kmer_baseline
from dnamamba.baselines.kmer_classifier import KmerBaseline
from dnamamba.baselines.kmers import surrounding_bases, word_frequencies
from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.metrics.evaluation import evaluate
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import PAD_ID, decode, encode, reverse_complement

SPECIES = Task(labels=("gorilla", "human"))


def words_of(sequence: str, k: int) -> list[str]:
    found = [sequence[i : i + k] for i in range(len(sequence) - k + 1)]
    return [word for word in found if set(word) <= set("ACGT")]


def all_words(k: int) -> list[str]:
    return ["".join(word) for word in itertools.product("ACGT", repeat=k)]


# --- features


@pytest.mark.parametrize(
    "sequence", ["ACGTTGCANACG", "NNNNNNNNNNNN", "AAAAAAAAAAAC", "TNTNTNGGNNCC"]
)
def test_frequencies_are_those_of_a_slow_count(sequence: str) -> None:
    tables = word_frequencies(encode(sequence)[None], max_k=4)
    for k in (1, 2, 3, 4):
        words = words_of(sequence, k)
        expected = [words.count(word) / max(1, len(words)) for word in all_words(k)]
        assert tables[k][0] == pytest.approx(expected)


def test_case_padding_and_neighbours_change_nothing() -> None:
    """A row is a sequence: no word runs from one into the next, nor into its padding."""
    plain = word_frequencies(encode("ACGTTG")[None], max_k=3)
    padded = np.full((2, 9), PAD_ID, np.uint8)
    padded[0, :6], padded[1, :3] = encode("acgttg"), encode("GGG")
    for k, table in word_frequencies(padded, max_k=3).items():
        assert table[0].tolist() == plain[k][0].tolist()
    assert word_frequencies(padded, max_k=3)[3][1, all_words(3).index("GGG")] == 1


def test_many_rows_are_counted_in_blocks() -> None:
    codes = np.tile(encode("ACGTACGGTA"), (1100, 1))
    table = word_frequencies(codes, max_k=2)[2]
    assert table.shape == (1100, 16)
    assert (table == table[0]).all()


def test_a_sequence_and_its_other_strand_have_the_same_words() -> None:
    codes = encode("ACGTTGCANACGGGTTA")
    one, other = (
        word_frequencies(strand[None], max_k=3, both_strands=True)
        for strand in (codes, reverse_complement(codes))
    )
    assert [one[k].shape[1] for k in (1, 2, 3)] == [2, 10, 32]
    for k in (1, 2, 3):
        assert one[k] == pytest.approx(other[k])
        assert one[k].sum() == pytest.approx(1)


def test_surroundings_are_the_bases_beside_a_position() -> None:
    """Around the G of NAGT: A before, T behind, and beyond the end nothing."""
    codes = encode("NAGT")[None]
    rows, positions = np.array([0, 0]), np.array([2, 3])
    around = surrounding_bases(codes, rows, positions, reach=2).reshape(2, 5, 4)
    nothing, a, _, g, t = [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]
    assert around[0].tolist() == [nothing, a, g, t, nothing]
    assert around[1].tolist() == [a, g, t, nothing, nothing]


# --- the model


def sequences(n: int, seed: int, gc: float = 0.5, length: int = 200) -> np.ndarray:
    """Random sequences of codes, uint8 (n, length), with a share of G and C."""
    shares = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    letters = np.frombuffer(b"ACGT", np.uint8)
    drawn = np.random.default_rng(seed).choice(letters, (n, length), p=shares)
    return encode(drawn.tobytes()).reshape(n, length)


def batches(codes: np.ndarray, targets: np.ndarray, size: int = 64) -> Iterator[Examples]:
    for i in range(0, len(codes), size):
        part = np.ascontiguousarray(codes[i : i + size])
        lengths = torch.full((len(part),), part.shape[1])
        yield Examples(torch.from_numpy(part), lengths, torch.from_numpy(targets[i : i + size]))


def two_species(n: int, seed: int, gc: float) -> list[Examples]:
    """Every second sequence is human, of another composition than gorilla's half and half."""
    codes = sequences(n, seed)
    codes[1::2] = sequences(n // 2, seed + 1000, gc)
    return list(batches(codes, np.arange(n) % 2))


def test_composition_is_told() -> None:
    baseline = KmerBaseline(SPECIES, max_k=3)
    baseline.fit(two_species(400, 1, gc=0.68), two_species(100, 2, gc=0.68))
    result = evaluate(baseline.scored(two_species(200, 3, gc=0.68)), SPECIES)
    assert result["accuracy"] > 0.95
    assert baseline.description.startswith(
        f"Logistic regression of {baseline.k}-mer frequencies, C"
    )
    assert "learned from 400 sequences, chosen on 100 of validation" in baseline.description


def test_nothing_is_told_where_there_is_nothing() -> None:
    baseline = KmerBaseline(SPECIES, max_k=4)
    baseline.fit(two_species(300, 100, gc=0.5), two_species(300, 120, gc=0.5))
    low, high = evaluate(baseline.scored(two_species(400, 140, gc=0.5)), SPECIES)[
        "accuracy_interval"
    ]
    assert low < 0.5 < high


def marked(n: int, seed: int, word: str) -> list[Examples]:
    """Human sequences hold a word three times, those of gorilla its letters in another order."""
    codes = sequences(n, seed, length=60)
    for i, at in itertools.product(range(n), (5, 25, 45)):
        letters = word if i % 2 else word[::-1]
        codes[i, at : at + len(word)] = encode(letters)
    return list(batches(codes, np.arange(n) % 2))


def test_the_length_of_words_is_chosen_on_validation() -> None:
    """TACG and GCAT differ in no single base; words of two or more tell them apart."""
    baseline = KmerBaseline(SPECIES, max_k=4)
    baseline.fit(marked(300, 7, "TACG"), marked(100, 8, "TACG"))
    assert baseline.k is not None
    assert baseline.k > 1
    assert evaluate(baseline.scored(marked(100, 9, "TACG")), SPECIES)["accuracy"] > 0.95
    assert baseline.summary["k"] == baseline.k
    assert baseline.summary["n_valid"] == 100


def test_it_repeats_bit_for_bit() -> None:
    train, valid = two_species(200, 10, gc=0.55), two_species(60, 11, gc=0.55)
    one, other = (KmerBaseline(SPECIES, max_k=3).fit(train, iter(valid)) for _ in range(2))
    assert one.summary == other.summary
    assert (one.scored(valid).scores == other.scored(valid).scores).all()


def test_both_strands_have_the_same_scores() -> None:
    train, valid = marked(200, 12, "TACG"), marked(60, 13, "TACG")
    codes = valid[0].codes.numpy()
    turned = [valid[0]._replace(codes=torch.from_numpy(reverse_complement(codes)))]
    for both_strands, is_same in ((True, True), (False, False)):
        baseline = KmerBaseline(SPECIES, max_k=3, both_strands=both_strands).fit(train, valid)
        scores, other = baseline.scored(valid[:1]).scores, baseline.scored(turned).scores
        assert np.allclose(scores, other, atol=1e-6) == is_same


def test_three_classes_one_of_which_was_never_trained() -> None:
    """The class without an example is never told, and the others are as they would be."""
    task = Task(labels=("bonobo", "gorilla", "human"))
    codes = np.concatenate([sequences(50, 14, gc=0.4), sequences(50, 15, gc=0.6)])
    targets = np.repeat([0, 2], 50)
    train = list(batches(codes, targets))
    scores = KmerBaseline(task, max_k=2).fit(train, train).scored(train).scores
    assert scores[:, 1].max() < 1e-6
    assert (scores.argmax(axis=1) == targets).mean() > 0.9
    assert scores.sum(axis=1) == pytest.approx(1)


def test_labels_are_told_each_by_itself() -> None:
    """`rich` is a high share of G and C; every sequence has `all`, none `none`: their scores are
    the shares with half an example more of either."""
    task = Task(kind="multilabel", labels=("all", "none", "rich"))
    codes = np.concatenate([sequences(100, 16, gc=0.4), sequences(100, 17, gc=0.6)])
    targets = np.zeros((200, 3), np.float32)
    targets[:, 0], targets[100:, 2] = 1, 1
    train = list(batches(codes, targets))
    baseline = KmerBaseline(task, max_k=2).fit(train, train)
    scores = baseline.scored(train).scores
    assert scores[:, 0] == pytest.approx(200.5 / 201)
    assert scores[:, 1] == pytest.approx(0.5 / 201)
    assert evaluate(baseline.scored(train), task)["labels"][2]["auroc"] > 0.95


def test_of_many_labels_the_balanced_ones_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmer_baseline, "_LABELS_SEARCHED", 1)
    task = Task(kind="multilabel", labels=("half", "rare"))
    targets = np.zeros((60, 2), np.float32)
    targets[::2, 0], targets[0, 1] = 1, 1
    train = list(batches(sequences(60, 18), targets))
    baseline = KmerBaseline(task, max_k=1).fit(train, train)
    assert baseline._searched_labels(targets) == [0]
    assert baseline.scored(train).scores.shape == (60, 2)


def test_numbers_are_told_in_their_own_unit() -> None:
    """Twice the number of Gs plus 1,000, and a number that is always 7."""
    task = Task(kind="regression", labels=("height", "seven"))
    codes = sequences(300, 19)
    n_g = np.array([decode(row).count("G") for row in codes])
    targets = np.stack([1000 + 2 * n_g, np.full(300, 7)], axis=1).astype(np.float32)
    train, test = (list(batches(codes[i], targets[i])) for i in (slice(200), slice(200, 300)))
    baseline = KmerBaseline(task, max_k=2).fit(train, train)
    result = evaluate(baseline.scored(test), task)
    assert result["labels"][0]["r2"] > 0.99
    assert result["labels"][1]["mae"] == pytest.approx(0, abs=1e-3)
    assert baseline.description.startswith("Ridge regression")


def test_bases_are_told_from_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label of a base is whether a G comes next; the last of a row has none."""
    monkeypatch.setattr(kmer_baseline, "_BASES_AT_ONCE", 100)
    task = Task(kind="per_base", labels=("no", "yes"))
    codes = sequences(20, 20, length=50)
    targets = np.full(codes.shape, IGNORED_LABEL)
    targets[:, :-1] = codes[:, 1:] == encode("G")
    train = list(batches(codes, targets))
    baseline = KmerBaseline(task).fit(train, train)
    scored = baseline.scored(train)
    assert len(scored.scores) == 20 * 49
    assert evaluate(scored, task)["accuracy"] == 1
    assert baseline.summary["k"] is None
    assert "the 5 bases on each side" in baseline.description


# --- errors


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="max_k must be 1 to 8, got 9"):
        KmerBaseline(SPECIES, max_k=9)
    with pytest.raises(InputError, match="call fit first"):
        KmerBaseline(SPECIES).scored([])
    with pytest.raises(InputError, match="examples with labels in valid, got none"):
        KmerBaseline(SPECIES, max_k=1).fit(two_species(10, 21, gc=0.5), [])
