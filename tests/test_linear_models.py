"""Linear probes, against scikit-learn's own predictions."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnamamba.baselines.linear_models import STRENGTHS, fit_probe
from dnamamba.errors import InputError
from dnamamba.models import BiMambaConfig, DnaClassifier, HeadConfig, ModelConfig
from dnamamba.task import IGNORED_LABEL, Task

APES = Task(labels=("bonobo", "gorilla", "human"))
TWO = Task(labels=("cat", "dog"))
MARKS = Task(kind="multilabel", labels=("a", "b", "c"))
LEVELS = Task(kind="regression", labels=("liver", "brain"))
LEVEL = Task(kind="regression", labels=("liver",))
PARTS = Task(kind="per_base", labels=("exon", "intron", "utr"))
TASKS = [APES, TWO, MARKS, LEVELS, LEVEL, PARTS]


def draw(task: Task, n: int = 300, d: int = 6, seed: int = 0):
    """Features of very different means and scales, of which targets are a noisy function."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, d))
    weight = np.random.default_rng(9).normal(size=(d, len(task.labels)))
    scores = hidden @ weight + random.normal(size=(n, len(task.labels)))
    features = hidden * 10.0 ** np.arange(-2, d - 2) + np.arange(d) * 100
    if task.has_classes:
        targets = scores.argmax(1)
    else:
        targets = scores if task.kind == "regression" else (scores > 1).astype(np.float32)
    return features.astype(np.float32), targets


def pipeline_of(model):
    return make_pipeline(StandardScaler(), model)


def softmax(scores):
    return torch.tensor(scores).softmax(-1).numpy()


@pytest.mark.parametrize("task", TASKS)
def test_shapes(task):
    weight, bias = fit_probe(*draw(task), task, draw(task, seed=1))
    assert weight.shape == (len(task.labels), 6)
    assert bias.shape == (len(task.labels),)
    assert weight.dtype == bias.dtype == np.float32


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("task", [APES, TWO, PARTS])
def test_classes_are_scikit_learns_at_the_best_strength(task, balanced):
    (x, y), (valid_x, valid_y) = draw(task), draw(task, seed=1)
    weight, bias = fit_probe(x, y, task, (valid_x, valid_y), balanced=balanced)
    weights = "balanced" if balanced else None
    count = np.bincount(valid_y)
    share = (1 / count)[valid_y] if balanced else None
    losses, predictions = [], []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000, class_weight=weights)
        predictions.append(pipeline_of(model).fit(x, y).predict_proba(valid_x))
        losses.append(log_loss(valid_y, predictions[-1], sample_weight=share))
    expected = predictions[int(np.argmin(losses))]
    found = softmax(valid_x @ weight.T + bias)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_labels_are_scikit_learns_one_against_the_rest():
    (x, y), (valid_x, valid_y) = draw(MARKS), draw(MARKS, seed=1)
    weight, bias = fit_probe(x, y, MARKS, (valid_x, valid_y))
    losses, predictions = [], []
    for strength in STRENGTHS:
        models = [pipeline_of(LogisticRegression(C=strength, max_iter=1000)) for _ in range(3)]
        found = [
            model.fit(x, y[:, i]).predict_proba(valid_x)[:, 1] for i, model in enumerate(models)
        ]
        predictions.append(np.stack(found, 1))
        losses.append(np.mean([log_loss(valid_y[:, i], found[i]) for i in range(3)]))
    expected = predictions[int(np.argmin(losses))]
    found = 1 / (1 + np.exp(-(valid_x @ weight.T + bias)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("task", [LEVELS, LEVEL])
def test_numbers_are_scikit_learns_ridge(task):
    (x, y), (valid_x, valid_y) = draw(task), draw(task, seed=1)
    weight, bias = fit_probe(x, y, task, (valid_x, valid_y))
    predictions = [
        pipeline_of(Ridge(alpha=1 / strength)).fit(x, y).predict(valid_x).reshape(valid_y.shape)
        for strength in STRENGTHS
    ]
    losses = [np.square(one - valid_y).mean() for one in predictions]
    expected = predictions[int(np.argmin(losses))]
    np.testing.assert_allclose(valid_x @ weight.T + bias, expected, rtol=0, atol=2e-3)


def test_validation_chooses_the_strength():
    """Where training labels are noise, the strongest penalty does the least harm."""
    random = np.random.default_rng(0)
    x, valid_x = (random.normal(size=(60, 40)).astype(np.float32) for _ in range(2))
    y, valid_y = (random.integers(0, 3, 60) for _ in range(2))
    noise, _ = fit_probe(x, y, APES, (valid_x, valid_y))
    known, _ = fit_probe(x, y, APES, (x, y))
    assert np.abs(noise).max() < 0.01
    assert np.abs(known).max() > 0.5


def test_bases_without_a_label_are_left_out():
    x, y = draw(PARTS)
    expected = fit_probe(x, y, PARTS, (x, y))
    more_x = np.concatenate([np.full((5, 6), np.nan, np.float32), x])
    more_y = np.concatenate([np.full(5, IGNORED_LABEL), y])
    found = fit_probe(more_x, more_y, PARTS, (more_x, more_y))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_feature_that_does_not_vary_counts_for_nothing():
    x, y = draw(APES)
    constant = np.full((len(x), 1), 0.1, np.float32)
    weight, bias = fit_probe(np.hstack([x, constant]), y, APES, (np.hstack([x, constant]), y))
    assert np.abs(weight[:, -1]).max() < 1e-6
    expected, _ = fit_probe(x, y, APES, (x, y))
    np.testing.assert_allclose(weight[:, :-1], expected, rtol=1e-3, atol=1e-5)
    assert np.isfinite(bias).all()


def test_a_label_that_every_example_has_or_none():
    x, y = draw(MARKS)
    y[:, 0], y[:, 2] = 0, 1
    weight, bias = fit_probe(x, y, MARKS, (x, y))
    assert (weight[[0, 2]] == 0).all()
    assert bias[0] == -bias[2] == pytest.approx(np.log(0.5 / 300.5))
    assert np.abs(weight[1]).max() > 0


def test_balanced_classes_find_the_rare_one():
    random = np.random.default_rng(3)
    y = (random.random(600) < 0.05).astype(np.int64)
    x = (random.normal(size=(600, 2)) + y[:, None]).astype(np.float32)
    recalls = []
    for balanced in (False, True):
        weight, bias = fit_probe(x, y, TWO, (x, y), balanced=balanced)
        recalls.append(((x @ weight.T + bias).argmax(1)[y == 1] == 1).mean())
    assert recalls[0] < 0.4
    assert recalls[1] > 0.6


def test_a_classifier_takes_it(caplog):
    """Features of a frozen model, and the head that was fitted to them."""
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layers=1, mixer=BiMambaConfig(d_state=4))
    classifier = DnaClassifier(config, HeadConfig(task=TWO)).eval()
    targets = torch.arange(40) % 2
    # Rich in A and C, or in G and T.
    ids = 7 + 2 * targets.unsqueeze(1) + torch.randint(0, 2, (40, 30))
    with torch.no_grad():
        features = classifier.features(ids).numpy()
    with caplog.at_level(logging.INFO, "dnamamba"):
        head = fit_probe(features, targets.numpy(), TWO, (features, targets.numpy()))
    assert "linear probe: C = 10, validation loss" in caplog.text
    classifier.set_head(*head)
    assert torch.equal(classifier.predict(ids).argmax(1), targets)


def test_the_same_twice():
    for task in (APES, LEVELS):
        one, other = (fit_probe(*draw(task), task, draw(task, seed=1)) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_cannot_be_fitted_is_refused():
    x, y = draw(APES)
    broken = x.copy()
    broken[3, 2] = np.inf
    with pytest.raises(InputError, match="training features must be finite numbers"):
        fit_probe(broken, y, APES, (x, y))
    with pytest.raises(InputError, match="validation features must be finite numbers"):
        fit_probe(x, y, APES, (broken, y))
    with pytest.raises(InputError, match="no training example of gorilla, so a linear probe"):
        fit_probe(x[y != 1], y[y != 1], APES, (x, y))
    with pytest.raises(InputError, match="there are no validation examples"):
        fit_probe(x, y, APES, (x[:0], y[:0]))
    with pytest.raises(InputError, match="a regression task has no classes to be balanced"):
        fit_probe(*draw(LEVEL), LEVEL, draw(LEVEL), balanced=True)


def test_it_needs_no_torch():
    code = "import dnamamba.baselines.linear_models, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
