"""A kind of task of one's own: counts, with Poisson's loss, by one registration."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import d2_tweedie_score

from dnamamba.classification.evaluate import evaluate_classifier
from dnamamba.classification.predict import PredictionCells, predict_sequences
from dnamamba.classification.run import train_classifier
from dnamamba.data.labelled.config import TableConfig
from dnamamba.errors import InputError
from dnamamba.metrics import bootstrap
from dnamamba.metrics.evaluation import evaluate
from dnamamba.metrics.metrics import Scores, evaluate_numbers
from dnamamba.metrics.task_kinds import TaskKind, register_task_kind, task_kind
from dnamamba.models import DnaModel, ModelConfig
from dnamamba.models.classifier import DnaClassifier
from dnamamba.probing.problem import ProbeConfig
from dnamamba.probing.report import write_probe_report
from dnamamba.probing.run import probe_embeddings
from dnamamba.task import LabelKind, Task, label_kind, number_targets
from dnamamba.tokenizer import encode
from dnamamba.training.run_folder import RunFolder
from label_runs import OPTIONS, tiny_classify, write_table
from probe_cases import embeddings, labels, named


def deviance_losses(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return scores - targets * np.log(np.maximum(scores, 1e-9))


def evaluate_counts(scores: Scores, task: Task) -> dict:
    predicted = np.maximum(scores.scores[:, 0], 1e-9)
    d2 = float(d2_tweedie_score(scores.targets[:, 0], predicted, power=1))
    return evaluate_numbers(scores, task) | {"d2": d2}


def poisson_regression(strength, settings):
    return PoissonRegressor(alpha=1 / strength, max_iter=settings.max_iter, warm_start=True)


COUNTS = TaskKind(
    labels=LabelKind(
        name="counts",
        has_numbers=True,
        read_labels=lambda columns, source: tuple(columns),
        read_targets=number_targets,
    ),
    scores=lambda logits: logits.exp(),
    loss=lambda logits, targets, weights: (logits.exp() - targets * logits).mean(1),
    score_losses=deviance_losses,
    primary_metric="r2",
    evaluate=evaluate_counts,
    resampled=lambda scores: {
        "r2": bootstrap.mean_over_labels(bootstrap.r2, scores.scores, scores.targets)
    },
    linear_model="poisson",
    estimator=poisson_regression,
    fits_columns=True,
    columns=lambda labels: [f"mean_{label}" for label in labels],
    cells=lambda labels, scores: [f"{score:.3f}" for score in scores],
)
register_task_kind(COUNTS)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """Trained to count the peaks of a sequence: 6 on average if it has a motif, else 1."""
    folder = tmp_path_factory.mktemp("counts")
    random = np.random.default_rng(0)
    for name, n, seed in (("train", 200, 1), ("dev", 40, 2), ("test", 40, 3)):
        write_table(
            folder / f"{name}.csv",
            n,
            seed=seed,
            label=lambda has_motif, letters: str(random.poisson(6 if has_motif else 1)),
        )
    torch.manual_seed(0)
    DnaModel(ModelConfig(d_model=16, n_layers=2)).save_pretrained(folder / "pretrained")
    table = TableConfig(
        task_kind="counts",
        train=str(folder / "train.csv"),
        valid=str(folder / "dev.csv"),
        test=str(folder / "test.csv"),
    )
    train_classifier(tiny_classify(folder, table, max_steps=40), folder / "run", OPTIONS)
    return RunFolder.open(folder / "run")


def test_a_registered_kind_is_trained_and_evaluated_beside_its_own_baseline(run) -> None:
    test = run.read_json("evaluation")["splits"]["test"]
    assert test["model"]["kind"] == "counts"
    assert test["model"]["r2"] > 0.1
    assert math.isfinite(test["model"]["d2"])
    assert "The model's R² is" in test["comparison"]
    assert run.read_json("baseline")["description"].startswith("Poisson regression of ")
    assert run.read_json("baseline")["valid"]["d2"] > 0
    assert (run.path / "report.html").exists()


def test_a_registered_kind_is_evaluated_again_from_its_saved_model(run, tmp_path: Path) -> None:
    (line, _) = evaluate_classifier(run.path, tmp_path / "again", options=OPTIONS)
    assert line.startswith("valid: r2 0.")
    again = RunFolder(tmp_path / "again").read_json("evaluation")
    assert again["splits"] == run.read_json("evaluation")["splits"]


def test_a_registered_kind_predicts_by_its_own_scores_and_cells(run) -> None:
    classifier = DnaClassifier.from_pretrained(run.model)
    codes = encode("ACGTACGTTATAAATAACGTACGT")
    (values,) = predict_sequences(classifier, [codes])
    with torch.no_grad():
        logit = classifier(torch.from_numpy(codes)[None].long())
    assert values == pytest.approx(logit.exp().numpy()[0], rel=1e-5)
    cells = PredictionCells(classifier.task, has_alternatives=True)
    assert cells.columns == ["ref_mean_label", "alt_mean_label", "difference_mean_label"]
    assert cells.of([values])[0] == f"{values[0]:.3f}"


def test_a_registered_kind_is_probed_with_its_own_linear_model(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(150, 4))
    counts = random.poisson(np.exp(1 + vectors[:, 1]))
    table = labels(tmp_path / "counts.tsv", named(counts.tolist()))
    result = probe_embeddings(embeddings(vectors).layers, table, ProbeConfig(task="counts"))
    assert result.record["settings"]["model"] == "poisson"
    assert result.record["judged"]["model"]["d2"] > 0.5
    assert result.probe is not None
    assert result.probe.scores(vectors).min() > 0
    result.write(tmp_path / "probe")
    write_probe_report(tmp_path / "probe")


def test_a_name_is_registered_once() -> None:
    register_task_kind(COUNTS)  # the same object again changes nothing
    with pytest.raises(ValueError, match="'counts' is taken"):
        register_task_kind(replace(COUNTS, labels=replace(COUNTS.labels)))


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"must be one of multiclass, .*counts.*, got 'ranks'"):
        Task(kind="ranks", labels=("a", "b"))
    assert label_kind("counts") is COUNTS.labels


@pytest.mark.parametrize("name", ["multiclass", "multilabel", "regression", "per_base"])
def test_every_kind_agrees_on_the_primary_metric_that_it_resamples(name: str) -> None:
    kind = task_kind(name)
    task = Task(kind=name, labels=("a", "b"))
    targets = task.empty_targets(8, 1).reshape(8, *([] if task.has_classes else [2]))
    targets[::2] = 1
    scores = np.tile(np.array([[0.7, 0.3], [0.2, 0.8]], np.float32), (4, 1))
    made = Scores(scores, targets, np.ones(8, np.int64))
    resampled = kind.resampled(made)[kind.primary_metric](np.ones((1, 8)))
    assert evaluate(made, task)[kind.primary_metric] == pytest.approx(resampled[0])
