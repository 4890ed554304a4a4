"""Training a classifier: what it learns, leaves, keeps and refuses, and that resuming is exact."""

import json
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnamamba.classification.config import ClassifyConfig, FineTuneConfig, read_classify_config
from dnamamba.classification.run import (
    Classification,
    resume_classifier,
    train_classifier,
)
from dnamamba.classification.validation import evaluation_examples
from dnamamba.configs import from_dict, to_dict
from dnamamba.data.labelled.config import TableConfig
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesFiles
from dnamamba.errors import InputError
from dnamamba.models import DnaModel, HyenaConfig
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.loading import read_language_model
from dnamamba.pretraining.run import resume
from dnamamba.tokenizer import encode, token_ids
from dnamamba.training.run_folder import RunFolder
from genomes import random_sequence
from label_runs import OPTIONS, tiny_classify, write_table
from model_cases import tiny_model
from runs import stop_at


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    for name, n, seed in (("train", 240, 1), ("dev", 40, 2), ("test", 60, 3)):
        write_table(folder / f"{name}.csv", n, seed=seed)
    tiny_model(d_model=16).save_pretrained(folder / "pretrained")
    return folder


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """One undisturbed run that others are compared with."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train_classifier(tiny_classify(folder), out, OPTIONS)
    return RunFolder.open(out)


def weights(run):
    return DnaClassifier.from_pretrained(run.model).state_dict()


def assert_same_run(one, other):
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    times = ("tokens_per_s", "elapsed_s")
    for run in (one, other):
        run.timeless = [
            {key: row[key] for key in row if key not in times} for row in run.metrics.rows()
        ]
    assert one.timeless == other.timeless
    assert one.read_json("evaluation") == other.read_json("evaluation")


def test_a_run_leaves_every_file_and_judges_the_test_once(finished):
    names = {path.name for path in finished.path.iterdir()}
    assert names == {
        *("baseline.json", "baseline.npz", "checkpoints", "config.json", "evaluation.json"),
        *("manifest.json", "metrics.jsonl", "model", "report.html"),
    }
    rows = finished.metrics.rows()
    assert [row["step"] for row in rows if row["split"] == "valid"] == [0, 4, 8]
    assert not any(row["split"] == "test" for row in rows)
    evaluation = finished.read_json("evaluation")
    assert evaluation["splits"]["test"]["model"]["n"] == 60
    assert evaluation["task"] == {"kind": "multiclass", "labels": ["none", "tata"]}
    assert finished.read_json("manifest")["data"]["examples"] == {
        "train": 240,
        "valid": 40,
        "test": 60,
    }


def test_the_report_is_written_after_the_test_is_evaluated(finished):
    report, evaluation = (finished.path / name for name in ("report.html", "evaluation.json"))
    assert report.stat().st_mtime_ns >= evaluation.stat().st_mtime_ns


def test_a_motif_is_learned(folder, tmp_path):
    config = tiny_classify(folder, max_steps=150, eval_every=50, warmup_fraction=0.1)
    outcome = train_classifier(config, tmp_path / "run", OPTIONS)
    found = RunFolder.open(tmp_path / "run").read_json("evaluation")["splits"]["test"]
    assert found["model"]["accuracy"] > 0.8
    said = "\n".join(Classification.conclusion(tmp_path / "run", outcome))
    assert "the baseline" in said
    assert "report.html" in said


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 3, 4, 7])
def test_a_stopped_run_goes_on_bit_for_bit(folder, finished, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        outcome = train_classifier(tiny_classify(folder), tmp_path / "run", OPTIONS)
    assert (outcome.step, outcome.stopped_by) == (step, signal.SIGTERM)
    assert "classify train --resume" in Classification.conclusion(tmp_path / "run", outcome)[0]
    resume_classifier(tmp_path / "run", replace(OPTIONS, n_workers=1 if step == 3 else 0))
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_a_crashed_run_goes_on_from_its_checkpoint(folder, finished, tmp_path, monkeypatch):
    """Killed after the best model was saved and before the next checkpoint."""
    with monkeypatch.context() as patched:
        stop_at(patched, 5, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            train_classifier(tiny_classify(folder), tmp_path / "run", OPTIONS)
    resume_classifier(tmp_path / "run", OPTIONS)
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_a_run_that_died_while_it_was_judged_is_judged_again(
    folder, finished, tmp_path, monkeypatch
):
    def power_cut(*_):
        raise RuntimeError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Classification, "finish", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            train_classifier(tiny_classify(folder), tmp_path / "run", OPTIONS)
    resume_classifier(tmp_path / "run", OPTIONS)
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_the_best_model_is_kept_and_patience_ends_a_run(folder, tmp_path):
    # A learning rate of 0 after the first steps never gets better than the start.
    config = tiny_classify(folder, max_steps=40, eval_every=2, patience=3, learning_rate=0.0)
    outcome = train_classifier(config, tmp_path / "run", OPTIONS)
    assert (outcome.step, outcome.stopped_by) == (6, None)
    again = resume_classifier(tmp_path / "run", OPTIONS)
    assert again.step == 6
    start = DnaModel.from_pretrained(folder / "pretrained").state_dict()
    kept = weights(RunFolder.open(tmp_path / "run"))
    for name in start:
        assert torch.equal(kept[f"model.{name}"], start[name]), name


@pytest.mark.parametrize("tune", ["head", "probe"])
def test_a_frozen_backbone_stays_as_it_was(folder, tmp_path, tune):
    train_classifier(tiny_classify(folder, tune=tune), tmp_path / "run", OPTIONS)
    start = DnaModel.from_pretrained(folder / "pretrained").state_dict()
    kept = weights(RunFolder.open(tmp_path / "run"))
    for name in start:
        assert torch.equal(kept[f"model.{name}"], start[name]), name
    evaluation = RunFolder.open(tmp_path / "run").read_json("evaluation")
    assert evaluation["splits"]["test"]["model"]["n"] == 60


LABELS = {
    "multilabel": lambda has, letters: ";".join(["gc"] * (letters.count("G") > 7) + ["tata"] * has),
    "regression": lambda _, letters: letters.count("A") * 10.0 + 3,
    "per_base": lambda _, letters: (
        "".join("x" if base in "AT" else "." for base in letters[:-1]) + "y"
    ),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("tune", ["full", "probe"])
def test_other_kinds_of_tasks_take_the_same_path(folder, tmp_path, kind, tune):
    table = write_table(tmp_path / "table.csv", 120, label=LABELS[kind])
    config = tiny_classify(
        folder,
        TableConfig(train=str(table), task_kind=kind),
        tune=tune,
        pool=None if kind == "per_base" else "mean",
    )
    outcome = train_classifier(config, tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    result = run.read_json("evaluation")["splits"]["test"]["model"]
    assert result["kind"] == kind
    assert Classification.conclusion(run.path, outcome)


def test_species_are_told_apart_with_growing_windows(folder, tmp_path):
    for label, letters in (("one", "AACGT"), ("two", "ACGGT")):
        lines = [
            f">chr{n}\n{random_sequence(3000, seed=n, letters=letters)}\n" for n in (2, 4, 1, 5)
        ]
        (tmp_path / f"{label}.fa").write_text("".join(lines))
    species = tuple(
        SpeciesFiles(label, (str(tmp_path / f"{label}.fa"),)) for label in ("one", "two")
    )
    data = SpeciesConfig(
        species=species, seq_len=64, warmup_lengths=(16, 32), epoch_size=16, n_eval=20
    )
    config = tiny_classify(folder, data, epochs=4, eval_every=0)
    train_classifier(config, tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    saved = read_classify_config(run)
    assert (saved.train.max_steps, saved.train.eval_every) == (8, 2)
    rows = [row for row in run.metrics.rows() if row["split"] == "valid"]
    assert [row["tokens"] for row in rows] == [0, 256, 768, 1792, 2816]
    assert from_dict(ClassifyConfig, json.loads(json.dumps(to_dict(saved)))) == saved


def test_two_passes_over_the_same_run_are_one(folder, finished, tmp_path):
    """Micro-batches change nothing but rounding."""
    config = tiny_classify(folder, micro_batch=8)
    train_classifier(config, tmp_path / "run", OPTIONS)
    for name, tensor in weights(finished).items():
        torch.testing.assert_close(
            weights(RunFolder.open(tmp_path / "run"))[name], tensor, rtol=1e-3, atol=1e-4
        )


def test_a_run_goes_on_only_with_the_tables_it_began_with(folder, tmp_path, monkeypatch):
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.csv").write_text((folder / f"{name}.csv").read_text())
    files = {"valid": str(tmp_path / "dev.csv"), "test": str(tmp_path / "test.csv")}
    table = TableConfig(train=str(tmp_path / "train.csv"), **files)
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        train_classifier(tiny_classify(folder, table), tmp_path / "run", OPTIONS)
    with (tmp_path / "test.csv").open("a") as file:
        file.write("ACGTACGTACGT,none\n")
    with pytest.raises(InputError, match=r"the data must be those .* was started with"):
        resume_classifier(tmp_path / "run", OPTIONS)


def test_settings_that_fight_each_other_are_refused():
    with pytest.raises(InputError, match="patience waits for a better validation"):
        FineTuneConfig(patience=2, keep="last")
    with pytest.raises(InputError, match="batch_size must be >= 1"):
        FineTuneConfig(batch_size=0)


def test_a_model_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match=r"has no config.json|no-such-model"):
        read_language_model(str(folder / "no-such-model"))
    assert read_language_model("mamba-demo").config.n_layers == 4


def test_a_run_of_something_else_is_not_resumed(finished, tmp_path):
    config = finished.read_json("config") | {"purpose": "pretrain"}
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_json("config", config)
    with pytest.raises(InputError, match="is a run of `dnamamba pretrain`"):
        resume_classifier(run.path, OPTIONS)


def test_a_classifiers_run_is_not_resumed_as_pretraining(finished):
    with pytest.raises(InputError, match="`dnamamba classify train`, not of `dnamamba pretrain`"):
        resume(finished.path, OPTIONS)


def test_a_validation_that_defines_no_headline_is_judged_by_its_loss(folder, tmp_path):
    """Numbers that are all alike have no R²."""
    table = write_table(tmp_path / "train.csv", 60, label=LABELS["regression"])
    valid = write_table(tmp_path / "valid.csv", 10, label=lambda *_: 5.0)
    data = TableConfig(train=str(table), valid=str(valid), task_kind="regression")
    outcome = train_classifier(tiny_classify(folder, data), tmp_path / "run", OPTIONS)
    assert outcome.step == 8
    rows = RunFolder.open(tmp_path / "run").metrics.rows()
    assert [row["r2"] for row in rows if row["split"] == "valid"] == [None] * 3


def test_resuming_needs_no_pretrained_model_once_there_is_a_checkpoint(
    folder, finished, tmp_path, monkeypatch
):
    pretrained = tmp_path / "pretrained"
    shutil.copytree(folder / "pretrained", pretrained)
    config = replace(tiny_classify(folder), model=str(pretrained))
    with monkeypatch.context() as patched:
        stop_at(patched, 4)
        train_classifier(config, tmp_path / "run", OPTIONS)
    shutil.rmtree(pretrained)
    resume_classifier(tmp_path / "run", OPTIONS)
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_a_classifier_is_gone_on_from(folder, finished, tmp_path, caplog):
    config = replace(tiny_classify(folder, max_steps=1), model=str(finished.path))
    with caplog.at_level("INFO", logger="dnamamba"):
        train_classifier(config, tmp_path / "more", OPTIONS)
    assert f"head: that of {finished.path}" in caplog.text
    before, after = weights(finished), weights(RunFolder.open(tmp_path / "more"))
    of_features = [each["head.weight"] / each["feature_scales"] for each in (before, after)]
    moved = (of_features[1] - of_features[0]) * after["feature_scales"]
    assert moved.abs().max() < 0.02  # one step of 1e-2
    caplog.clear()
    with caplog.at_level("INFO", logger="dnamamba"):
        other = replace(config, train=replace(config.train, pool="max"))
        train_classifier(other, tmp_path / "other", OPTIONS)
    assert "head: that of" not in caplog.text


@pytest.mark.slow
def test_sequences_beyond_a_hyenas_filters(folder, tmp_path):
    mixer = HyenaConfig(l_max=24, filter_order=8)
    tiny_model(mixer, d_model=16).save_pretrained(tmp_path / "hyena")
    config = replace(tiny_classify(folder), model=str(tmp_path / "hyena"))
    with pytest.raises(InputError, match=r"32 bases are .* \(l_max 24\): .*--extend-filters"):
        train_classifier(config, tmp_path / "refused", OPTIONS)
    extended = replace(config, train=replace(config.train, extend_filters=True))
    train_classifier(extended, tmp_path / "run", OPTIONS)
    kept = DnaClassifier.from_pretrained(tmp_path / "run" / "model")
    assert kept.config.mixer == replace(mixer, beyond="zero")
    # It stays so for whoever goes on from it.
    more = replace(config, model=str(tmp_path / "run"))
    train_classifier(more, tmp_path / "more", OPTIONS)
    with pytest.raises(InputError, match="only Hyena has filters to extend"):
        train_classifier(tiny_classify(folder, extend_filters=True), tmp_path / "no", OPTIONS)


def test_features_are_standardised_by_training_examples(finished, folder):
    kept = weights(finished)
    assert (kept["feature_scales"] != 1).all()
    before = DnaClassifier.from_language_model(
        folder / "pretrained", DnaClassifier.from_pretrained(finished.model).head_config
    )
    lines = (folder / "train.csv").read_text().splitlines()[1:]
    ids = [torch.from_numpy(token_ids(encode(line.split(",")[0])))[None] for line in lines]
    with torch.no_grad():
        means = torch.cat([before.eval().features(one) for one in ids]).mean(0)
    # Of 64 sequences of these 240.
    torch.testing.assert_close(kept["feature_means"], means, rtol=0, atol=0.2)


def test_without_a_checkpoint_the_pretrained_model_must_be_the_same(folder, tmp_path, monkeypatch):
    pretrained = tmp_path / "pretrained"
    shutil.copytree(folder / "pretrained", pretrained)
    config = replace(tiny_classify(folder), model=str(pretrained))
    with monkeypatch.context() as patched:
        stop_at(patched, 1, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            train_classifier(config, tmp_path / "run", OPTIONS)
    tiny_model(d_model=16, seed=1).save_pretrained(pretrained)
    with pytest.raises(InputError, match="its weights have changed"):
        resume_classifier(tmp_path / "run", OPTIONS)


def test_some_of_a_split_are_of_every_class(folder):
    """Species come in turn, so examples at equal distances could all be one."""
    dataset = SimpleNamespace(n_examples=1000)
    chosen = evaluation_examples(dataset, 200)
    assert len(set(chosen)) == 200
    assert np.bincount(np.array(chosen) % 5).min() > 20
    assert evaluation_examples(dataset, None) == list(range(1000))
