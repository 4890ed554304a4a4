"""What a model's files say of it, without reading its weights."""

import json

import pytest

from dnamamba.errors import InputError
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.loading import is_preset, task_of_model, trained_seq_len
from dnamamba.task import Task
from model_cases import tiny_model

TASK = Task(labels=("a", "b"))


@pytest.fixture
def model():
    return tiny_model()


def write_run_config(run, seq_len):
    config = {"format_version": 1, "data": {"windows": {"seq_len": seq_len}}, "train": {}}
    (run / "config.json").write_text(json.dumps(config))


def test_a_pretrained_model_was_trained_at_the_length_of_its_runs_windows(model, tmp_path):
    run = tmp_path / "run"
    model.save_pretrained(run / "model")
    assert trained_seq_len(run / "model") is None
    write_run_config(run, 450)
    assert trained_seq_len(run) == trained_seq_len(run / "model") == 450


def test_a_classifier_was_trained_at_the_length_in_its_head(model, tmp_path):
    head = HeadConfig(task=TASK, trained_seq_len=64)
    DnaClassifier.from_language_model(model, head).save_pretrained(tmp_path / "run" / "model")
    assert trained_seq_len(tmp_path / "run") == 64
    assert trained_seq_len(tmp_path / "run" / "model") == 64


@pytest.mark.parametrize("source", ["mamba-demo", "no-such-folder"])
def test_length_is_unknown_without_files(source):
    assert trained_seq_len(source) is None


def test_a_damaged_run_config_is_an_error(model, tmp_path):
    model.save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json should hold"):
        trained_seq_len(tmp_path / "run")


def test_task_of_a_classifier_and_of_a_language_model(model, tmp_path):
    model.save_pretrained(tmp_path / "language")
    head = HeadConfig(task=TASK)
    DnaClassifier.from_language_model(model, head).save_pretrained(tmp_path / "classifier")
    assert task_of_model(tmp_path / "classifier") == TASK
    assert task_of_model(tmp_path / "language") is None


def test_a_folder_called_like_a_preset_is_no_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_preset("mamba-demo")
    (tmp_path / "mamba-demo").mkdir()
    assert not is_preset("mamba-demo")
