"""Judging of labels: against counts by hand, and honest where a split is too small to say."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from dnamamba.errors import InputError
from dnamamba.metrics import bootstrap
from dnamamba.metrics.bootstrap import interval_of
from dnamamba.metrics.evaluation import evaluate, evaluate_beside, primary_metric
from dnamamba.metrics.metrics import Scores, gather_scores, wilson_interval
from dnamamba.task import IGNORED_LABEL, Task

APES = Task(labels=("bonobo", "gorilla", "human"))
MARKS = Task(kind="multilabel", labels=("CTCF", "H3K27ac"))
AGE = Task(kind="regression", labels=("age",))


def told(task: Task, right: list[int], said: list[int], sure: float = 0.8) -> Scores:
    """Scores of a model that says `said` with probability `sure`, the rest shared evenly."""
    n_labels = len(task.labels)
    scores = np.full((len(said), n_labels), (1 - sure) / (n_labels - 1), np.float32)
    scores[np.arange(len(said)), said] = sure
    return Scores(scores, np.array(right), np.full(len(said), 100))


def numbers(scores: list[list[float]], targets: list[list[float]]) -> Scores:
    return Scores(
        np.array(scores, np.float32), np.array(targets, np.float32), np.full(len(scores), 100)
    )


def compare(model: Scores, baseline: Scores, task: Task) -> str:
    """The sentence that says how two models compare."""
    return evaluate_beside(model, baseline, task)["comparison"]["sentence"]


# --- classes


def test_classes_are_judged_as_counted_by_hand() -> None:
    """Six windows: bonobo and human are told right twice, one gorilla of two is called human."""
    result = evaluate(told(APES, [0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 2]), APES)
    assert result["n"] == 6
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert result["balanced_accuracy"] == pytest.approx(5 / 6)
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["confusion"] == [[2, 0, 0], [0, 1, 1], [0, 0, 2]]
    gorilla, human = result["labels"][1:]
    assert (gorilla["precision"], gorilla["recall"], gorilla["support"]) == (1, 0.5, 2)
    assert human["precision"] == pytest.approx(2 / 3)
    assert human["predicted"] == 3
    assert result["by_length"] == []
    assert primary_metric(result, APES) == ("accuracy", pytest.approx(5 / 6))


def test_chance_is_the_share_of_the_largest_class() -> None:
    result = evaluate(told(APES, [2, 2, 2, 1], [2, 2, 2, 2]), APES)
    assert result["accuracy"] == result["chance"] == 0.75
    assert result["mcc"] == 0, "saying one thing always tells nothing"
    assert result["balanced_accuracy"] == 0.5


def test_what_a_missing_class_leaves_undefined_is_none() -> None:
    result = evaluate(told(APES, [0, 0, 1], [0, 1, 1]), APES)
    assert result["auroc"] is None, "not a mean over two of three classes"
    human = result["labels"][2]
    assert human == {"label": "human", "support": 0, "predicted": 0} | dict.fromkeys(
        ("precision", "recall", "f1", "auroc", "auprc")
    )


@pytest.mark.parametrize("task", [APES, MARKS, AGE])
def test_one_example_is_judged_and_everything_is_ready_for_json(task: Task) -> None:
    n_labels = len(task.labels)
    scores = (
        told(task, [1], [1]) if task.has_classes else numbers([[0.4] * n_labels], [[1] * n_labels])
    )
    result = evaluate(scores, task)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == 1


def test_wilson_interval_is_that_of_the_paper() -> None:
    """81 of 263: Newcombe 1998, table I, method 3."""
    assert wilson_interval(81, 263) == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx([0, 0.1611], abs=1e-4)
    assert wilson_interval(20, 20)[1] == 1


def test_a_calibrated_model_has_no_calibration_error() -> None:
    """Of ten windows told with 0.8 eight are right; overconfident by 0.3 where five are."""
    right = [0] * 8 + [1] * 2
    honest, proud = told(APES, right, [0] * 10), told(APES, [0] * 5 + [1] * 5, [0] * 10)
    assert evaluate(honest, APES)["ece"] == pytest.approx(0, abs=1e-6)
    result = evaluate(proud, APES)
    assert result["ece"] == pytest.approx(0.3, abs=1e-6)
    (row,) = result["reliability"]
    assert (row["from"], row["to"], row["n"], row["accuracy"]) == (0.8, 0.9, 10, 0.5)


def test_accuracy_is_told_by_length_where_lengths_differ() -> None:
    scores = told(APES, [0, 0, 1, 1], [0, 1, 1, 1])._replace(lengths=np.array([64, 64, 128, 128]))
    short, long = evaluate(scores, APES)["by_length"]
    assert (short["from"], short["to"], short["n"], short["accuracy"]) == (64, 64, 2, 0.5)
    assert long["accuracy"] == 1


def test_many_lengths_are_grouped_by_powers_of_two() -> None:
    n = 100
    scores = told(APES, [0] * n, [0] * n)._replace(lengths=np.arange(200, 200 + n))
    rows = evaluate(scores, APES)["by_length"]
    assert [(row["from"], row["to"], row["n"]) for row in rows] == [(200, 255, 56), (256, 299, 44)]


# --- labels and numbers


def test_labels_are_averaged_over_those_that_can_be_judged() -> None:
    """No window has H3K27ac, so there is nothing to rank for it."""
    result = evaluate(
        numbers([[0.9, 0.1], [0.2, 0.3], [0.6, 0.1]], [[1, 0], [0, 0], [1, 0]]), MARKS
    )
    assert result["auprc"] == result["auroc"] == result["f1"] == 1
    assert result["n_labels_judged"] == 1
    assert result["chance"] == pytest.approx(2 / 3)
    assert result["labels"][1]["auroc"] is None
    assert result["f1_micro"] == 1
    assert primary_metric(result, MARKS) == ("auprc", 1.0)


def test_labels_that_nothing_has_leave_no_headline() -> None:
    result = evaluate(numbers([[0.9, 0.1], [0.2, 0.3]], [[0, 0], [0, 0]]), MARKS)
    assert primary_metric(result, MARKS) == ("auprc", None)
    assert result["auprc_interval"] is None


def test_numbers_are_judged_by_their_variance() -> None:
    result = evaluate(numbers([[1], [2], [3], [4], [6]], [[1], [2], [3], [4], [5]]), AGE)
    assert result["r2"] == pytest.approx(0.9)
    assert result["mae"] == pytest.approx(0.2)
    assert result["rmse"] == pytest.approx(math.sqrt(0.2))
    assert result["spearman"] == pytest.approx(1)
    low, high = result["labels"][0]["pearson_interval"]
    assert low < result["pearson"] < high
    assert result["chance"] == 0


def test_numbers_that_do_not_vary_have_no_r2() -> None:
    result = evaluate(numbers([[1], [2]], [[3], [3]]), AGE)
    assert result["r2"] is result["pearson"] is result["r2_interval"] is None
    assert result["mae"] == 1.5


def test_a_constant_prediction_has_no_correlation() -> None:
    result = evaluate(numbers([[2], [2], [2]], [[1], [2], [3]]), AGE)
    assert result["r2"] == pytest.approx(0)
    assert result["pearson"] is result["spearman"] is None


# --- resampling


def test_resampled_metrics_are_those_of_scikit_learn_with_sample_weight() -> None:
    """Scores of two decimals have ties; weights of two resamplings at once."""
    random = np.random.default_rng(1)
    found, targets = random.random(200).round(2), random.integers(0, 2, 200).astype(float)
    weights = random.integers(0, 3, (2, 200)).astype(float)
    expected = {
        "auprc": metrics.average_precision_score,
        "auroc": metrics.roc_auc_score,
        "r2": metrics.r2_score,
        "mae": metrics.mean_absolute_error,
    }
    for name, function in expected.items():
        values = getattr(bootstrap, name)(found, targets, weights)
        right = [function(targets, found, sample_weight=row) for row in weights]
        assert values == pytest.approx(right), name


def test_metrics_of_a_split_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(6)
    targets = random.integers(0, 3, 200)
    scores = random.dirichlet(np.ones(3), 200).astype(np.float32)
    predicted = scores.argmax(axis=1)
    result = evaluate(Scores(scores, targets, np.full(200, 100)), APES)
    assert result["mcc"] == pytest.approx(metrics.matthews_corrcoef(targets, predicted))
    expected = metrics.balanced_accuracy_score(targets, predicted)
    assert result["balanced_accuracy"] == pytest.approx(expected)
    table = metrics.precision_recall_fscore_support(targets, predicted)
    for name, values in zip(("precision", "recall", "f1", "support"), table, strict=True):
        assert [row[name] for row in result["labels"]] == pytest.approx(values), name
    for name, function in (
        ("auroc", metrics.roc_auc_score),
        ("auprc", metrics.average_precision_score),
    ):
        values = [function(targets == i, scores[:, i]) for i in range(3)]
        assert [row[name] for row in result["labels"]] == pytest.approx(values), name


def test_metrics_of_decisions_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(7)
    has, found = random.integers(0, 2, (100, 2)), random.random((100, 2))
    result = evaluate(numbers(found.tolist(), has.tolist()), MARKS)
    decided = found >= 0.5
    expected = [metrics.f1_score(has[:, i], decided[:, i]) for i in range(2)]
    assert [row["f1"] for row in result["labels"]] == pytest.approx(expected)
    assert result["f1_micro"] == pytest.approx(metrics.f1_score(has.ravel(), decided.ravel()))
    expected = metrics.matthews_corrcoef(has.ravel(), decided.ravel())
    assert result["mcc_micro"] == pytest.approx(expected)


def test_resampled_metrics_of_classes_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(4)
    found = random.dirichlet(np.ones(3), 100).astype(np.float32)
    targets, predicted = random.integers(0, 3, 100), found.argmax(axis=1)
    weights = random.integers(0, 3, (2, 100)).astype(float)
    resampled = bootstrap.class_metrics(found, targets)
    expected = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "mcc": metrics.matthews_corrcoef,
    }
    for name, function in expected.items():
        right = [function(targets, predicted, sample_weight=row) for row in weights]
        assert resampled[name](weights) == pytest.approx(right), name


def test_resampled_correlations_are_those_of_the_examples_drawn() -> None:
    random = np.random.default_rng(5)
    one, other = random.random((2, 80)).round(1)
    weights = random.integers(0, 3, (1, 80)).astype(float)
    drawn = np.repeat(np.arange(80), weights[0].astype(int))
    expected = stats.spearmanr(one[drawn], other[drawn]).statistic
    assert bootstrap.spearman(one, other, weights) == pytest.approx([expected])
    expected = stats.pearsonr(one[drawn], other[drawn]).statistic
    assert bootstrap.pearson(one, other, weights) == pytest.approx([expected])


def test_an_interval_holds_its_number_and_repeats() -> None:
    random = np.random.default_rng(2)
    targets = random.normal(size=(300, 1)).astype(np.float32)
    found = targets + random.normal(size=(300, 1)).astype(np.float32) / 2
    low, high = interval_of(bootstrap.r2, found, targets) or (math.nan, math.nan)
    assert low < metrics.r2_score(targets, found) < high
    assert high - low < 0.2
    assert interval_of(bootstrap.r2, found, targets) == [low, high]


# --- wrong scores


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[3.0, 1.0, -2.0]], "expected probabilities, got scores from -2 to 3"),
        ([[0.5, 0.5, 0.5]], "sum to 1, a row sums to 1.5"),
        ([[math.nan, 0.5, 0.5]], "row 0 has"),
        ([[0.5, 0.5]], r"must be \[\(1, 3\), \(1,\), \(1,\)\]"),
    ],
)
def test_scores_that_are_no_probabilities_are_refused(scores: list, message: str) -> None:
    one = Scores(np.array(scores, np.float32), np.array([0]), np.array([10]))
    with pytest.raises(InputError, match=message):
        evaluate(one, APES)


def test_targets_that_are_not_the_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="expected targets 0 to 2, got 0 to 7"):
        evaluate(told(APES, [0, 7], [0, 0]), APES)
    with pytest.raises(InputError, match=r"must be \[\(2, 3\), \(2,\), \(2,\)\]"):
        evaluate(told(APES, [0, 1, 2], [0, 0]), APES)


# --- comparing


def test_a_better_model_is_said_to_be_better() -> None:
    right = [0] * 100
    model, baseline = told(APES, right, [0] * 90 + [1] * 10), told(APES, right, [0] * 60 + [1] * 40)
    assert compare(model, baseline, APES) == (
        "The model's accuracy is 90.0 %, the baseline's 60.0 %: the model is better (100 examples; "
        "right where the other is wrong: 30 against 0; McNemar's exact test: p < 0.0001)."
    )
    assert "the model is worse" in compare(baseline, model, APES)


def test_a_small_difference_is_no_difference() -> None:
    """Three gained and one lost: p = 2 (1 + 4) / 2^4."""
    right = [0] * 10
    model = told(APES, right, [0] * 9 + [1])
    baseline = told(APES, right, [1] * 3 + [0] * 7)
    assert "no difference beyond chance" in compare(model, baseline, APES)
    assert "3 against 1; McNemar's exact test: p = 0.62" in compare(model, baseline, APES)
    assert "p = 1)" in compare(model, model, APES)


def test_numbers_and_labels_are_compared_by_resampling() -> None:
    random = np.random.default_rng(3)
    targets = random.normal(size=(200, 1))
    good, bad = targets + 0.1, targets + random.normal(size=(200, 1))
    sentence = compare(
        numbers(good.tolist(), targets.tolist()), numbers(bad.tolist(), targets.tolist()), AGE
    )
    assert "The model's R² is " in sentence
    assert ": the model is better (200 examples; 95 % interval of the difference +" in sentence


def test_only_the_same_examples_are_compared() -> None:
    with pytest.raises(InputError, match="the same examples in the same order"):
        compare(told(APES, [0, 1], [0, 1]), told(APES, [1, 0], [0, 1]), APES)


# --- gathering


def test_batches_are_gathered_in_order() -> None:
    parts = [
        (np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([1, 0]), np.array([4, 3])),
        (np.array([[0.2, 0.8]]), np.array([1]), np.array([2])),
    ]
    scores = gather_scores(parts, Task(labels=("no", "yes")))
    assert scores.scores[:, 1] == pytest.approx([0.9, 0.5, 0.8])
    assert scores.targets.tolist() == [1, 0, 1]
    assert scores.lengths.tolist() == [4, 3, 2]


def test_bases_without_a_label_are_left_out() -> None:
    """Two sequences, of 3 and 2 bases; padding and one base have no label."""
    targets = np.array([[0, IGNORED_LABEL, 1], [1, 1, IGNORED_LABEL]])
    task = Task(kind="per_base", labels=("exon", "intron"))
    found = np.zeros((2, 3, 2)) + [0.25, 0.75]
    scores = gather_scores([(found, targets, np.array([3, 2]))], task)
    assert scores.targets.tolist() == [0, 1, 1, 1]
    assert scores.lengths.tolist() == [3, 3, 2, 2]
    assert evaluate(scores, task)["accuracy"] == 0.75


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        gather_scores([], APES)
