"""`dnamamba pretrain` as a user types it: processes of its own, signals, ranks, mistakes."""

import os
import random
import signal
import time
from unittest import mock

import pytest
import torch
from click.testing import CliRunner

from dnamamba.cli.main import cli, main
from dnamamba.models import DnaModel
from dnamamba.pretraining import run as pretraining
from dnamamba.training.metrics_log import MetricsFile
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome
from runs import TINY_OPTIONS, TORCHRUN, launch, run, start, write_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_store(folder)
    return folder


def command(folder, out, *more):
    steps = ["--steps", "200", "--save-every", "5", "--log-every", "5", "--eval-every", "100"]
    return ["pretrain", str(folder / "tiny.h5"), *TINY_OPTIONS, *steps, "--out", str(out), *more]


@pytest.fixture(scope="module")
def undisturbed(folder):
    code, out, err = launch("dnamamba", *command(folder, folder / "undisturbed"), cache=folder)
    assert code == 0, err
    return RunFolder.open(folder / "undisturbed"), out, err


def weights(run_folder):
    return DnaModel.from_pretrained(run_folder.model).state_dict()


def timeless(run_folder):
    return [
        {key: row[key] for key in row if key not in ("tokens_per_s", "elapsed_s")}
        for row in run_folder.metrics.rows()
    ]


def wait_for_new_row(path, rows_before, process):
    """Until this process has added a row to metrics.jsonl (or is gone); returns the last step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        rows = MetricsFile(path / "metrics.jsonl").rows()
        if rows and rows != rows_before:
            return rows[-1]["step"]
        time.sleep(0.005)
    return None


@pytest.mark.slow
def test_a_run_tells_what_it_does_and_what_came_out(undisturbed):
    run_folder, out, err = undisturbed
    assert "Validation: " in out
    assert "order-3 Markov model" in out
    assert str(run_folder.path / "report.html") in out
    assert "step 200/200: train" in err
    assert "selective_scan on cpu: auto takes 'cpu' (a fused kernel)" in err
    assert "Traceback" not in err
    assert "Warning" not in err


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_sigterm_to_all_processes_saves_and_resumes_exactly(folder, undisturbed, tmp_path, workers):
    """Schedulers signal the whole group, loader workers included."""
    out = tmp_path / "run"
    process = start(*command(folder, out, "--workers", workers), cache=folder)
    wait_for_new_row(out, [], process)
    os.killpg(process.pid, signal.SIGTERM)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert f"continue with: dnamamba pretrain --resume {out}" in printed
    assert "Traceback" not in err
    code, _, err = run("pretrain", "--resume", str(out), "--workers", "1", cache=folder)
    assert code == 0, err
    resumed = RunFolder.open(out)
    for name, tensor in weights(undisturbed[0]).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert timeless(resumed) == timeless(undisturbed[0])


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(folder, undisturbed, tmp_path):
    """kill -9 and --resume, again and again; the run ends as the undisturbed one, bit for bit.

    Every kill hits a process that has trained: it waits for a row this process has written.
    """
    moments = random.Random(0)
    out = tmp_path / "run"
    arguments = command(folder, out)
    steps = []
    for _ in range(20):
        before = MetricsFile(out / "metrics.jsonl").rows()
        process = start(*arguments, cache=folder)
        steps.append(wait_for_new_row(out, before, process))
        time.sleep(moments.random() * 0.1)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        workers = str(moments.choice([0, 1, 2]))
        arguments = ["pretrain", "--resume", str(out), "--workers", workers]
    assert len(set(steps)) > 5
    code, _, err = run(*arguments, cache=folder)
    assert code == 0, err
    resumed = RunFolder.open(out)
    for name, tensor in weights(undisturbed[0]).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert timeless(resumed) == timeless(undisturbed[0])


@pytest.mark.slow
def test_two_ranks_train_the_same_model(folder, undisturbed, tmp_path):
    """Half the batch on each of two ranks: the same batches, sums rounded in another order."""
    code, out, err = launch(*TORCHRUN, *command(folder, tmp_path / "run"), cache=folder)
    assert code == 0, err
    assert out.count("Report: ") == 1
    two = RunFolder.open(tmp_path / "run")
    one_rows, two_rows = (
        [row["loss"] for row in run_folder.metrics.rows()] for run_folder in (undisturbed[0], two)
    )
    assert two_rows == pytest.approx(one_rows, rel=1e-3)


def test_dry_run_prints_the_plan_and_writes_nothing(folder, tmp_path):
    code, out, err = run(*command(folder, tmp_path / "run", "--dry-run"), cache=folder)
    assert code == 0, err
    assert "131,904" in out
    assert "256 tokens = 4 windows (1 rank(s) x 2 x 2)" in out
    assert "memory" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mistakes_in_a_forced_run_leave_the_old_one_alone(folder, undisturbed):
    old = undisturbed[0].path
    code, _, err = run(*command(folder, old, "--force", "--micro-batch", "3"), cache=folder)
    assert code == 1
    assert "do not divide a batch of 4" in err
    assert (old / "model" / "model.safetensors").exists()


def test_training_that_diverges_ends_with_a_sentence(folder, tmp_path):
    arguments = ["--learning-rate", "1e30", "--warmup-fraction", "0", "--grad-clip", "0"]
    code, _, err = run(*command(folder, tmp_path / "run", *arguments), cache=folder)
    assert code == 1
    assert "The weights were not changed by this batch and are saved" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused(folder, undisturbed):
    code, _, err = run(*command(folder, undisturbed[0].path), cache=folder)
    assert code == 1
    assert "holds a run already: continue it with --resume" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.fa"], 1, "no such file"),
        (["--model", "mamba-9t"], 1, "no model is called 'mamba-9t'; there are mamba-demo"),
        (["--seq-len", "12x"], 2, "a size must look like 1024, 1_000_000, 450k or 1M"),
        (["--windows", "mamba"], 1, "the mamba rule lays windows on the rows of a BED"),
        (["--device", "gpu"], 1, "auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--steps", "0"], 2, "'--steps': 0 is not in the range x>=1"),
        (["--workers", "-1"], 1, "workers must be >= 0, got -1"),
        (["--seed", "-1"], 1, "seed must be >= 0"),
        (["--data-seed", "-1"], 1, "data seed must be >= 0"),
        (
            ["--valid-fraction", "0.1", "--valid-contigs", "chr1"],
            2,
            "has no meaning with a BED",
        ),
        (["--micro-batch", "3"], 1, "do not divide a batch of 8"),
        (["--resume", "run", "--steps", "5"], 2, "--steps would change a run"),
        (["--resume", "nowhere"], 1, "no run in nowhere"),
        (["--batch-tokens", "1000"], 1, "must be a multiple of seq_len"),
    ],
)
def test_mistakes_get_a_sentence_and_an_exit_code(
    arguments, code, message, folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *arguments])
    assert ended.value.code == code
    assert message in capsys.readouterr().err


def test_options_become_exactly_these_settings(folder, tmp_path):
    """The library is called once, with what was typed; everything else is a default."""
    with mock.patch("dnamamba.training.run.start_run", return_value=Outcome(1)) as called:
        CliRunner().invoke(
            cli,
            command(folder, tmp_path / "run", "--softmask-weight", "0.5", "--max-n-fraction", "0"),
        )
    (_, config, out, options), keywords = called.call_args
    assert out == tmp_path / "run"
    assert keywords == {"force": False}
    assert options == pretraining.RunOptions(device="cpu", micro_batch=2)
    assert config.genome == (str(folder / "tiny.h5"),)
    assert config.train.max_steps == 200
    assert config.train.softmask_weight == 0.5
    assert config.data.windows.seq_len == 64
    assert config.data.windows.max_n_fraction == 0.0
    assert config.data.windows.rule == "tile"
    assert config.data.rc_augment


def test_settings_of_a_command_without_options(monkeypatch, tmp_path):
    """What `dnamamba pretrain` alone does on a CPU: the demo genomes, a chromosome held out."""
    monkeypatch.chdir(tmp_path)
    with mock.patch("dnamamba.training.run.start_run", return_value=Outcome(1)) as called:
        CliRunner().invoke(cli, ["pretrain", "--device", "cpu"])
    (_, config, out, options), _ = called.call_args
    assert config.genome == ("demo",)
    assert config.data.splits.valid_contigs == ("chr5",)
    assert config.data.splits.test_contigs == ("chr4",)
    assert str(out) == "runs/demo-mamba-demo-1k"
    assert (config.train.max_steps, config.train.batch_tokens) == (300, 1 << 13)
    assert options == pretraining.RunOptions(device="cpu")
