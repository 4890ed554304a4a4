"""The report of labels: what it says of a run, whatever part of the run is missing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import auc

from dnamamba.baselines.kmer_classifier import KmerBaseline
from dnamamba.classification.report import write_label_report
from dnamamba.errors import InputError
from dnamamba.metrics.curves import MOST_CURVES, curves
from dnamamba.metrics.evaluation import evaluation_record
from dnamamba.metrics.metrics import Scores
from dnamamba.task import Task
from report_pages import CONFIG, MANIFEST, Page, draw_nothing, make_run

APES = Task(labels=("bonobo", "chimpanzee", "gorilla", "human", "orangutan"))
PROMOTER = Task(labels=("no", "yes"))
MARKS = Task(kind="multilabel", labels=("CTCF", "DNase", "never"))
HEIGHT = Task(kind="regression", labels=("height, cm", "mass, g"))


def class_scores(task: Task, n: int, skill: float, lengths: tuple[int, ...] = (1024,)) -> Scores:
    """Example i is of class i mod C; the larger `skill`, the surer the right one."""
    random = np.random.default_rng(n)
    targets = np.arange(n) % len(task.labels)
    scores = random.random((n, len(task.labels)))
    scores[np.arange(n), targets] += skill
    scores /= scores.sum(axis=1, keepdims=True)
    return Scores(scores.astype(np.float32), targets, np.resize(lengths, n))


def number_scores(task: Task, n: int, noise: float) -> Scores:
    random = np.random.default_rng(n)
    targets = random.normal(size=(n, len(task.labels)))
    scores = targets + noise * random.normal(size=targets.shape)
    if task.kind == "multilabel":
        targets, scores = targets > [0, 1, 99], 1 / (1 + np.exp(-scores))
    return Scores(scores.astype(np.float32), targets.astype(np.float32), np.full(n, 100))


def apes_record() -> dict[str, Any]:
    lengths = (1024, 4096)
    model, baseline = (class_scores(APES, 200, skill, lengths) for skill in (0.8, 0.1))
    return evaluation_record(APES, {"valid": (model, baseline), "test": (model, baseline)})


def baseline_of(record: dict[str, Any]) -> dict[str, Any]:
    return KmerBaseline(APES).summary | {"valid": record["splits"]["valid"]["baseline"]}


ROWS = [
    *(
        {"split": "train", "step": step, "loss": 1.6 - step / 1000, "examples_per_s": 90.0}
        | {"learning_rate": 1e-4, "grad_norm": 0.7, "elapsed_s": 1.0 * step, "examples": 64 * step}
        for step in range(10, 401, 10)
    ),
    {"split": "valid", "step": 200, "loss": 1.5, "accuracy": 0.61},
    {"split": "valid", "step": 400, "loss": 1.4, "accuracy": 0.58},
]


@pytest.fixture
def with_figures() -> None:
    """Asked for by tests of figures; others read the words alone."""


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("dnamamba.reports.svg._drawn", draw_nothing)


def source_of(folder: Path) -> str:
    return write_label_report(folder).read_text(encoding="utf8")


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    record = apes_record()
    parts = {"config": CONFIG, "manifest": MANIFEST, "baseline": baseline_of(record)}
    return make_run(tmp_path, ROWS, evaluation=record, **parts)


def test_the_headline_stands_beside_the_baseline_and_chance(whole_run: Path) -> None:
    text = Page(source_of(whole_run)).text
    evaluated = json.loads((whole_run / "evaluation.json").read_text())["splits"]["test"]
    accuracy, other = (f"{100 * evaluated[who]['accuracy']:.1f} %" for who in ("model", "baseline"))
    low, high = (f"{100 * limit:.1f} %" for limit in evaluated["model"]["accuracy_interval"])
    assert f"Test, accuracy {accuracy} 95 %: {low} to {high}, 200 examples" in text
    assert f"k-mer baseline, test {other} 95 %" in text
    assert "Chance, test 20.0 % always predicting bonobo, the largest class" in text
    assert evaluated["comparison"] in text
    assert "the model is better" in text


def test_the_page_says_what_was_trained_on_what(whole_run: Path) -> None:
    text = Page(source_of(whole_run)).text
    assert "mamba, 4 layers, width 128, 471,808 parameters" in text
    assert "Finished after step 400 of 400" in text
    assert "25.6 thousand examples · 6 min 40 s" in text
    assert "k-mer baseline, not fitted" in text, "the description in baseline.json"


def test_every_part_of_a_classification_is_drawn(whole_run: Path, with_figures: None) -> None:
    text = Page(source_of(whole_run)).text
    for part in (
        *("Model and baseline", "Test, confusion of classes", "Test, by label"),
        *("Test, each label against the rest", "Test, calibration of probabilities"),
        *("Test, accuracy by length", "bases of the sequence", "Loss, nats"),
        *("Validation, accuracy, %", "Throughput, examples per second", "Settings"),
    ):
        assert part in text


def test_validation_alone_is_said_to_have_chosen_the_model(tmp_path: Path) -> None:
    record = evaluation_record(APES, {"valid": (class_scores(APES, 50, 0.5), None)})
    text = Page(source_of(make_run(tmp_path, ROWS, evaluation=record))).text
    assert "There is no test split: the model was chosen by these numbers." in text
    assert "Validation, by label" in text


def test_a_run_that_goes_on_shows_its_best_validation(tmp_path: Path) -> None:
    record = apes_record()
    text = Page(source_of(make_run(tmp_path, ROWS, baseline=baseline_of(record)))).text
    assert "Validation, accuracy 58.0 % step 400" in text
    assert "Best so far: 61.0 % at step 200." in text
    assert "Chance 20.0 %" in text


@pytest.mark.parametrize("missing", ["config", "manifest", "baseline", "evaluation", "rows"])
def test_each_part_may_be_missing(tmp_path: Path, missing: str) -> None:
    record = apes_record()
    parts: dict[str, Any] = {"config": CONFIG, "manifest": MANIFEST, "rows": ROWS}
    parts |= {"baseline": baseline_of(record), "evaluation": record}
    del parts[missing]
    text = Page(source_of(make_run(tmp_path, **parts))).text
    assert ("Test, by label" in text) == (missing != "evaluation")
    assert ("No step has been logged yet." in text) == (missing == "rows")
    assert (f"{missing}.json is not there yet." in text) == (missing in ("config", "manifest"))


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    text = Page(source_of(tmp_path)).text
    assert "No validation yet." in text


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder"):
        write_label_report(tmp_path / "missing")


@pytest.mark.parametrize("attack", ["<script src='http://x'>&", "$\\bad{$ {{ 7 * 7 }} &amp;"])
def test_names_of_classes_columns_splits_and_runs_are_never_markup(
    tmp_path: Path, attack: str, with_figures: None
) -> None:
    task = Task(labels=(attack, "human"))
    scores = class_scores(task, 60, 0.3, (64, 128))
    record = evaluation_record(task, {attack: (scores, scores)})
    numbers = Task(kind="regression", labels=(attack,))
    other = evaluation_record(numbers, {"test": (number_scores(numbers, 60, 0.1), None)})
    rows = [*ROWS, {"split": attack, "step": 5}]
    for name, found in (("classes", record), ("numbers", other)):
        folder = make_run(tmp_path / name, rows, evaluation=found, config={attack: attack})
        page = Page(source_of(folder))
        page.assert_nothing_is_fetched()
        assert page.text.count(attack) >= (6 if name == "classes" else 3)


def test_labels_and_numbers_have_their_own_parts(tmp_path: Path) -> None:
    model, baseline = (number_scores(MARKS, 100, noise) for noise in (0.2, 2))
    marks = evaluation_record(MARKS, {"test": (model, baseline)})
    text = Page(source_of(make_run(tmp_path / "marks", evaluation=marks))).text
    assert "Test, mean AUPRC" in text
    assert "the mean share of examples with a label" in text
    assert "never 0" in text, "a label that nothing has stands in the table, without numbers"
    assert "confusion of classes" not in text
    model, baseline = (number_scores(HEIGHT, 100, noise) for noise in (0.2, 2))
    height = evaluation_record(HEIGHT, {"test": (model, baseline)})
    text = Page(source_of(make_run(tmp_path / "height", evaluation=height))).text
    assert "Test, R²" in text
    assert "Test, predicted and true numbers" in text
    assert "root mean square error" not in text, "a mean of centimetres and grams"


def test_evaluation_is_ready_for_json_and_small() -> None:
    record = evaluation_record(APES, {"test": (class_scores(APES, 20_000, 0.4), None)})
    assert len(json.dumps(record, allow_nan=False)) < 40_000
    assert record["task"] == {"kind": "multiclass", "labels": list(APES.labels)}
    assert record["splits"]["test"]["comparison"] is None


# --- curves


def test_a_thinned_curve_has_the_area_of_the_whole() -> None:
    found = curves(class_scores(APES, 5_000, 0.4), APES)
    for curve in found["roc"]:
        x, y = np.array(curve["points"]).T
        assert len(x) <= 101
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert auc(x, y) == pytest.approx(curve["area"], abs=0.003)
    for curve in found["pr"]:
        x, y = np.array(curve["points"]).T
        assert x[-1] == 1
        assert auc(x, y) == pytest.approx(curve["area"], abs=0.01)


def test_of_two_classes_the_second_is_drawn_beside_the_baseline() -> None:
    model, baseline = (class_scores(PROMOTER, 100, skill) for skill in (0.5, 0.1))
    found = curves(model, PROMOTER, baseline)
    assert [curve["name"] for curve in found["roc"]] == ["model", "baseline"]
    assert found["roc"][0]["area"] > found["roc"][1]["area"]
    assert found["pr"][0]["share"] == 0.5


def test_of_many_labels_the_worst_are_drawn() -> None:
    task = Task(labels=tuple(f"family {i:02d}" for i in range(20)))
    scores = class_scores(task, 2_000, 0.8)
    scores.scores[:, 7] = 0.01  # family 07 is told by nothing, an AUROC of a half
    found = curves(scores, task)
    assert len(found["roc"]) == MOST_CURVES
    assert found["n_left_out"] == 20 - MOST_CURVES
    assert ("family 07", 0.5) in [(curve["name"], curve["area"]) for curve in found["roc"]]


def test_many_classes_are_a_table_of_what_is_confused_most(tmp_path: Path) -> None:
    task = Task(labels=tuple(f"{i:03d}" for i in range(50)))
    record = evaluation_record(task, {"test": (class_scores(task, 500, 0.5), None)})
    source = source_of(make_run(tmp_path, evaluation=record))
    assert "Confusion matrix" not in source
    assert "of its class" in Page(source).text
