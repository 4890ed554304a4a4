"""`dnamamba bench train`: real training steps, and runs that do not fit."""

import gc
import json
import weakref
from dataclasses import replace

import pytest
import torch

from dnamamba.bench import training
from dnamamba.bench.shapes import TrainingRun
from dnamamba.bench.training import (
    TrainingBenchmark,
    default_runs,
    peak_bytes,
    random_codes,
    reset_peak,
)
from dnamamba.cli.main import main
from dnamamba.errors import InputError
from dnamamba.kernels import backend
from dnamamba.kernels.scan import chunked, op
from dnamamba.models import DnaModel, preset, preset_names
from dnamamba.pretraining.objectives import NextToken
from dnamamba.runtime import Compute, Ranks, open_compute
from dnamamba.training import memory_plan as planning
from dnamamba.training.memory_plan import estimate_memory
from dnamamba.training.step import TrainingStep

CPU = torch.device("cpu")
HERE = Compute(CPU, None, Ranks(0, 0, 1, 1))
TINY = TrainingRun("mamba-demo", 4, 64)


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", "train", "--device", "cpu", "--steps", "1", *arguments])
    return int(end.value.code or 0)


def test_runs_print_a_table_and_write_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backend, "_taken", {})
    path = tmp_path / "train.json"
    runs = ["--run", "mamba-demo:4x64", "--run", "mamba-260k:1x128"]
    assert bench(*runs, "--micro-batch", "1", "--recompute", "blocks", "--json", str(path)) == 0
    out = capsys.readouterr().out
    assert "worst error" in out
    assert "mamba-demo" in out
    assert "4 x 64" in out
    assert "blocks recomputed, 1 window(s) a pass" in out
    content = json.loads(path.read_text())
    assert {"device", "torch", "triton", "commit", "kernels"} <= content.keys()
    assert content["kernels"]["selective_scan on cpu"] == ["cpu"]
    first, second = content["rows"]
    assert (first["model"], first["batch"], first["seq_len"]) == ("mamba-demo", 4, 64)
    assert (second["model"], second["batch"], second["seq_len"]) == ("mamba-260k", 1, 128)
    for row in content["rows"]:
        assert row["tokens_per_s"] > 0
        assert 0.05 < row["peak_gib"] < 100
        assert row["recompute"] == "blocks"
        assert row["micro_batch"] == 1
        assert row["note"] is None


def test_steps_are_those_of_training(monkeypatch):
    """Every micro-batch of every step goes through the training step, at its learning rate."""
    seen = []
    original = TrainingStep.update

    def update(self, codes, weight, learning_rate):
        found = original(self, codes, weight, learning_rate)
        seen.append((sum(map(len, codes)), len(codes), float(weight), learning_rate, found))
        return found

    monkeypatch.setattr(TrainingStep, "update", update)
    (row,) = TrainingBenchmark(HERE, n_steps=3, micro_batch=2).time_runs([TINY])
    assert row.tokens_per_s > 0
    assert [step[:3] for step in seen] == [(4, 2, 4 * 63)] * (training.WARM_UP_STEPS + 3)
    rates = [step[3] for step in seen]
    assert rates == sorted(rates), "the warm-up of the schedule"
    losses = [step[4][0] for step in seen]
    assert losses[-1] < losses[0], "the same windows again: they are learned"


def test_the_plan_is_that_of_pretrain(monkeypatch):
    """Where memory is short, blocks are recomputed and the batch is made in passes."""
    monkeypatch.setattr(planning, "available_bytes", lambda *_: 3_500_000)
    row, short = TrainingBenchmark(HERE, n_steps=1).time_runs(
        [TINY, replace(TINY, batch=1, seq_len=1 << 20)]
    )
    assert (row.recompute, row.micro_batch) == ("blocks", 1)
    assert short.tokens_per_s is None
    assert short.note.startswith("out of memory by the plan: one window of 1,048,576 bases needs")


def test_a_run_that_runs_out_of_memory_is_noted_and_the_others_go_on(monkeypatch, capsys):
    original = TrainingStep.update

    def update(self, codes, *rest):
        if codes[0].shape[1] == 128:
            raise torch.OutOfMemoryError("no more")
        return original(self, codes, *rest)

    monkeypatch.setattr(TrainingStep, "update", update)
    assert bench("--run", "mamba-demo:1x128", "--run", "mamba-demo:1x64") == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.endswith("out of memory")
    assert "1 x 64 " in second
    assert "memory" not in second


def test_a_loss_that_is_not_finite_ends_a_run_without_numbers(monkeypatch):
    monkeypatch.setattr(TrainingStep, "update", lambda *_: (float("nan"), 1.0))
    (row,) = TrainingBenchmark(HERE).time_runs([TINY])
    assert row.tokens_per_s is None
    assert row.note == "stopped: loss nan, gradient norm 1.0"


def test_a_wrong_scan_is_not_trained_with(monkeypatch, capsys):
    def half(*given):
        out, last = chunked.selective_scan(*given)
        return out / 2, last

    wrong = replace(op.BACKENDS[0], name="broken", run=half)
    monkeypatch.setattr(op, "BACKENDS", (wrong, *op.BACKENDS))
    assert bench("--run", "mamba-demo:1x64") == 1
    assert "'broken' is wrong on cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--run", "mamba-9t:1x64"], 1, "no model is called 'mamba-9t'; there are mamba-demo"),
        (["--run", "mamba-demo"], 2, "must be MODEL:BATCHxSEQ_LEN, e.g. mamba-7m:4x128k; got"),
        (["--run", "mamba-demo:64"], 2, "a run must be MODEL:BATCHxSEQ_LEN"),
        (["--run", "mamba-demo:1x0"], 2, "in '1x0': a size must be a whole number"),
        (["--run", "mamba-demo:4x64", "--micro-batch", "3"], 1, "must divide the 4 windows"),
        (["--json", "nowhere/train.json"], 1, "there is no folder nowhere; make it"),
        (["--steps", "0"], 2, "0 is not in the range x>=1"),
        (["--device", "gpu"], 1, "auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_mistakes_are_told_before_any_time_is_spent(
    arguments, code, message, monkeypatch, tmp_path, capsys
):
    def refuse(*_):
        raise AssertionError("time was spent")

    monkeypatch.setattr(TrainingBenchmark, "check", refuse)
    monkeypatch.setattr(TrainingBenchmark, "_measure", refuse)
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == code
    err = capsys.readouterr().err
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_many_ranks_are_refused():
    with pytest.raises(InputError, match="in one process: start it without torchrun"):
        TrainingBenchmark(replace(HERE, ranks=Ranks(0, 0, 2, 2)))


def test_runs_read_as_they_are_written():
    run = TrainingRun.parse("mamba-7m:4x128k")
    assert run == TrainingRun("mamba-7m", 4, 131_072)
    assert str(run) == "mamba-7m:4x128k"


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_default_runs_name_models_there_are(device_type):
    runs = default_runs(device_type)
    assert {run.model for run in runs} <= set(preset_names())
    assert max(run.seq_len for run in runs) == (1 << 20 if device_type == "cuda" else 1 << 14)


def test_windows_are_random_bases():
    codes = random_codes(TrainingRun("mamba-demo", 2, 1000), CPU)
    assert codes.dtype == torch.uint8
    assert codes.unique().tolist() == [7, 8, 9, 10]


def test_planning_lets_go_of_the_model():
    model = DnaModel(preset("mamba-demo"))
    weight = weakref.ref(model.backbone.embedding.weight)
    estimate_memory(NextToken(model), HERE, preset("mamba-demo"))
    del model
    gc.collect()
    assert weight() is None


def test_the_peak_starts_again_with_every_run():
    reset_peak(CPU)
    before = peak_bytes(CPU)
    held = torch.ones(50 << 20)
    assert peak_bytes(CPU) > before + held.nbytes // 2
    del held
    reset_peak(CPU)
    assert peak_bytes(CPU) < before + (100 << 20)


@pytest.mark.gpu
def test_on_a_gpu_memory_is_the_devices():
    with open_compute("cuda") as compute:
        benchmark = TrainingBenchmark(compute, n_steps=1)
        assert benchmark.check() < 2**-7
        (row,) = benchmark.time_runs([TINY])
    assert row.tokens_per_s > 0
    assert 0 < row.peak_gib < 4
