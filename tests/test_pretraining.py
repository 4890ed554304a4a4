"""The loop: what a step does, what stops it, and that resuming changes nothing."""

import json
import re
import signal
import threading
from dataclasses import replace

import pytest
import torch

from dnamamba.configs import from_dict, to_dict
from dnamamba.data.splits import SplitConfig
from dnamamba.errors import InputError
from dnamamba.models import DnaModel, no_weight_decay_names, preset
from dnamamba.pretraining import validation as evaluation
from dnamamba.pretraining.config import PretrainConfig, TrainConfig, read_pretrain_config
from dnamamba.pretraining.objectives import NextToken
from dnamamba.pretraining.run import Pretraining, pretrain, resume
from dnamamba.training.checkpoint import list_checkpoints
from dnamamba.training.config import RunOptions
from dnamamba.training.optimizer import parameter_groups
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import TrainingError
from model_cases import tiny_model
from runs import stop_at, tiny_config, write_store

OPTIONS = RunOptions(device="cpu", micro_batch=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("genome"))


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """One undisturbed run that others are compared with."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    pretrain(tiny_config(store), out, OPTIONS)
    return RunFolder.open(out)


def weights(run):
    return DnaModel.from_pretrained(run.model).state_dict()


def assert_same_run(one, other):
    """Weights bit for bit, and every logged number that is not a time."""
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    timeless = [
        [
            {key: row[key] for key in row if key not in ("tokens_per_s", "elapsed_s")}
            for row in run.metrics.rows()
        ]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1]


def test_a_run_learns_and_leaves_every_file(finished):
    rows = [row for row in finished.metrics.rows() if row["split"] == "valid"]
    assert [row["step"] for row in rows] == [0, 4, 8]
    assert rows[-1]["bits_per_base"] < rows[0]["bits_per_base"]
    names = {path.name for path in finished.path.iterdir()}
    assert names == {
        *("baseline.json", "checkpoints", "config.json", "manifest.json"),
        *("metrics.jsonl", "model", "report.html"),
    }
    manifest = finished.read_json("manifest")
    assert manifest["ended"] | {"at": ""} == {"at": "", "step": 8, "stopped_by": None}
    assert manifest["data"]["files"][0]["file"] == "tiny.fa"
    assert "cpu" in manifest["kernels"]["selective_scan on cpu"]


def test_the_report_is_written_after_the_manifest_says_how_a_run_ended(finished):
    """However short the run: while it trains, a report of the last minute is kept."""
    report, manifest = (finished.path / name for name in ("report.html", "manifest.json"))
    assert report.stat().st_mtime_ns >= manifest.stat().st_mtime_ns


def test_a_masked_run_goes_on_with_the_same_bases_hidden(store, tmp_path, monkeypatch):
    config = replace(tiny_config(store), objective="masked")
    pretrain(config, tmp_path / "whole", OPTIONS)
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        pretrain(config, tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    resume(run.path, RunOptions(device="cpu"))
    assert_same_run(RunFolder.open(tmp_path / "whole"), run)
    rows = [row for row in run.metrics.rows() if row["split"] == "valid"]
    assert rows[0]["targets"] == rows[-1]["targets"] > 0


def test_masked_models_are_not_measured_by_models_of_next_bases(store, tmp_path):
    config = replace(tiny_config(store), objective="masked")
    outcome = pretrain(config, tmp_path / "run", OPTIONS)
    said = "\n".join(Pretraining.conclusion(tmp_path / "run", outcome))
    assert "of hidden bases, from both sides" in said
    assert not re.search("bits (better|worse)", said)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "their numbers cannot be compared" in report
    assert not re.search("bits per base (better|worse) than", report)


def test_windows_longer_than_hyenas_filters_are_refused_before_anything_is_written(store):
    with pytest.raises(InputError, match=r"windows of 64 bases .* filters \(l_max 32\)"):
        replace(tiny_config(store), model=preset("hyena-demo", 32))


def test_training_rows_have_what_people_look_for(finished):
    row = next(row for row in finished.metrics.rows() if row["split"] == "train")
    assert row["step"] == 2
    assert row["tokens"] == 2 * 256
    assert row["learning_rate"] > 0
    assert row["grad_norm"] > 0


def test_only_the_newest_checkpoints_are_kept(finished):
    names = [path.name for path in list_checkpoints(finished.checkpoints)]
    assert names == ["step_00000006", "step_00000008"]


@pytest.mark.parametrize("step", [0, 1, 3, 4, 7])
def test_a_stopped_run_goes_on_bit_for_bit(store, finished, tmp_path, monkeypatch, step):
    with monkeypatch.context() as patched:
        stop_at(patched, step)
        outcome = pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    assert (outcome.step, outcome.stopped_by) == (step, signal.SIGTERM)
    run = RunFolder.open(tmp_path / "run")
    assert run.read_json("manifest")["ended"]["stopped_by"] == "SIGTERM"
    resume(run.path, RunOptions(device="cpu"))
    assert_same_run(finished, run)


def test_a_crashed_run_goes_on_from_its_checkpoint_with_other_workers(
    store, finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        stop_at(patched, 5, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step_00000003"]
    resume(run.path, RunOptions(device="cpu", n_workers=2))
    assert_same_run(finished, run)


def test_a_run_that_died_before_its_first_checkpoint_starts_over(
    store, finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        stop_at(patched, 2, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    resume(run.path, RunOptions(device="cpu"))
    assert_same_run(finished, run)


def test_the_step_does_not_depend_on_micro_batches(store, finished, tmp_path):
    """The loss divides by the whole batch's weight, so only rounding differs."""
    pretrain(tiny_config(store), tmp_path / "run", replace(OPTIONS, micro_batch=4))
    for name, tensor in weights(finished).items():
        torch.testing.assert_close(
            weights(RunFolder.open(tmp_path / "run"))[name], tensor, rtol=1e-3, atol=1e-4
        )


def test_recomputed_blocks_give_the_same_weights(store, finished, tmp_path):
    config = tiny_config(store, recompute="blocks")
    pretrain(config, tmp_path / "run", OPTIONS)
    assert read_pretrain_config(RunFolder.open(tmp_path / "run")).train.recompute == "blocks"
    for name, tensor in weights(finished).items():
        torch.testing.assert_close(weights(RunFolder.open(tmp_path / "run"))[name], tensor)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(store, tmp_path, monkeypatch):
    original = NextToken.forward

    def poisoned(objective, codes):
        loss, weight = original(objective, codes)
        return (loss * float("nan") if objective.training else loss), weight

    monkeypatch.setattr(NextToken, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"step 0: loss nan.*not changed.*tiny|bad_batch.json"):
        pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    bad = run.read_json("bad_batch")
    assert bad["step"] == 0
    assert len(bad["windows"]) == 4
    assert bad["windows"][0].startswith("epoch 0: chr")
    assert list_checkpoints(run.checkpoints)


def test_a_changed_genome_is_not_resumed(store, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    own_store = write_store(own)
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        pretrain(tiny_config(own_store), tmp_path / "run", OPTIONS)
    own_store.unlink()
    (own / "tiny.fa").unlink()
    write_store(own, n_bases=30_000)
    with pytest.raises(InputError, match="the data must be those"):
        resume(tmp_path / "run", RunOptions(device="cpu"))


def test_a_changed_bed_is_not_resumed(store, tmp_path, monkeypatch):
    bed = tmp_path / "splits.bed"
    bed.write_text("chr1\t0\t10000\ttrain\nchr1\t10000\t20000\tvalid\n")
    config = tiny_config(store)
    data = replace(config.data, splits=SplitConfig(bed=str(bed)))
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        pretrain(replace(config, data=data), tmp_path / "run", OPTIONS)
    bed.write_text("chr1\t0\t10000\tvalid\nchr1\t10000\t20000\ttrain\n")
    with pytest.raises(InputError, match="the data must be those"):
        resume(tmp_path / "run", RunOptions(device="cpu"))


def test_a_run_killed_before_its_baseline_was_written_can_be_resumed(store, finished, tmp_path):
    pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    run = RunFolder.open(tmp_path / "run")
    before = run.read_json("baseline")
    (run.path / "baseline.json").unlink()
    (run.path / "manifest.json").unlink()
    resume(run.path, RunOptions(device="cpu"))
    assert run.read_json("baseline") == before
    assert_same_run(finished, run)


def test_a_stop_during_validation_abandons_it_and_does_it_again(
    store, finished, tmp_path, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "evaluate", lambda *_, **__: None)
        outcome = pretrain(tiny_config(store), tmp_path / "run", OPTIONS)
    assert (outcome.step, outcome.stopped_by) == (0, signal.SIGTERM)
    resume(tmp_path / "run", RunOptions(device="cpu"))
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_a_run_in_a_thread_needs_no_signals(store, finished, tmp_path):
    thread = threading.Thread(target=pretrain, args=(tiny_config(store), tmp_path / "run", OPTIONS))
    thread.start()
    thread.join()
    assert_same_run(finished, RunFolder.open(tmp_path / "run"))


def test_parameter_groups_follow_the_paper():
    """Mamba paper E.2: weight decay 0.1; A, D, biases and norms have none."""
    model = tiny_model(n_layers=1)
    decayed, kept = parameter_groups(model, 0.1, no_weight_decay_names(model))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(value): name for name, value in model.named_parameters()}
    assert sorted(names[id(value)].removeprefix("backbone.") for value in kept["params"]) == [
        "layers.0.mixer.A_log",
        "layers.0.mixer.D",
        "layers.0.mixer.conv1d.bias",
        "layers.0.mixer.dt_proj.bias",
        "layers.0.norm.weight",
        "norm_f.weight",
    ]
    assert len(decayed["params"]) + len(kept["params"]) == len(names)


def test_the_config_of_a_run_reads_back_as_it_was(store, finished):
    """With what was left open filled in: on a CPU `auto` precision is fp32."""
    config = read_pretrain_config(finished)
    expected = tiny_config(store, precision="fp32", recompute="nothing", learning_rate=8e-3)
    assert config == replace(expected, objective="next_token")
    assert from_dict(PretrainConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be finite and >= 0, got -1"),
        ({"warmup_fraction": 1.5}, "warmup_fraction must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_recipes_are_refused_at_once(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)


def test_a_batch_is_whole_windows(store):
    message = r"batch_tokens must be a multiple of seq_len, \d+, got 100: the next one is \d+$"
    with pytest.raises(InputError, match=message):
        tiny_config(store, batch_tokens=100)
