"""`dnamamba pretrain` as a user types it: processes of its own, signals, ranks, mistakes."""

import random
import signal
import time
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from runs import TINY_OPTIONS, run, start, write_store

from dnamamba import pretraining
from dnamamba.cli.main import cli
from dnamamba.metrics import MetricsFile
from dnamamba.models import DnaModel
from dnamamba.run_folder import RunFolder
from dnamamba.training import Outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_store(folder)
    return folder


def command(folder, out, *more):
    steps = ["--steps", "60", "--save-every", "5", "--log-every", "5", "--eval-every", "30"]
    return ["pretrain", str(folder / "tiny.h5"), *TINY_OPTIONS, *steps, "--out", str(out), *more]


@pytest.fixture(scope="module")
def undisturbed(folder):
    code, out, err = run(*command(folder, folder / "undisturbed"), cache=folder)
    assert code == 0, err
    return RunFolder.open(folder / "undisturbed"), out, err


def weights(run_folder):
    return DnaModel.from_pretrained(run_folder.model).state_dict()


def timeless(run_folder):
    return [
        {key: row[key] for key in row if key not in ("tokens_per_s", "elapsed_s")}
        for row in run_folder.metrics.rows()
    ]


def wait_for_step(path, step, process):
    """Until metrics.jsonl has a row of this step, or the process is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        rows = MetricsFile(path / "metrics.jsonl").rows()
        if rows and rows[-1]["step"] >= step:
            return
        time.sleep(0.01)


def test_a_run_tells_what_it_does_and_what_came_out(undisturbed):
    run_folder, out, err = undisturbed
    assert "Validation: " in out
    assert "order-3 Markov model" in out
    assert str(run_folder.path / "report.html") in out
    assert "step 60/60: train" in err
    assert "selective_scan on cpu: auto takes 'chunked'" in err
    assert "Traceback" not in err
    assert "Warning" not in err


def test_sigterm_saves_stops_with_143_and_resumes_exactly(folder, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(*command(folder, out), cache=folder)
    wait_for_step(out, 10, process)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert f"continue with: dnamamba pretrain --resume {out}" in printed
    code, _, err = run("pretrain", "--resume", str(out), "--workers", "1", cache=folder)
    assert code == 0, err
    resumed = weights(RunFolder.open(out))
    for name, tensor in weights(undisturbed[0]).items():
        assert torch.equal(tensor, resumed[name]), name


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(folder, undisturbed, tmp_path):
    """kill -9 and --resume, again and again; the run ends as the undisturbed one, bit for bit."""
    moments = random.Random(0)
    out = tmp_path / "run"
    process = start(*command(folder, out), cache=folder)
    for kill in range(20):
        # At least one new row each time, so that the run gets somewhere.
        wait_for_step(out, min(50, 5 * (kill // 2) + 1), process)
        time.sleep(moments.random() * 0.3)
        process.kill()
        process.communicate()
        workers = str(moments.choice([0, 1, 2]))
        process = start("pretrain", "--resume", str(out), "--workers", workers, cache=folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    resumed = RunFolder.open(out)
    for name, tensor in weights(undisturbed[0]).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert timeless(resumed) == timeless(undisturbed[0])


@pytest.mark.slow
def test_two_ranks_train_the_same_model(folder, undisturbed, tmp_path):
    """Half the batch on each of two ranks: the same batches, sums rounded in another order."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511")
    code, out, err = run(*command(folder, tmp_path / "run"), cache=folder, launcher=launcher)
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
        (["--seq-len", "12x"], 2, "a size looks like 1024, 1_000_000, 450k or 1M"),
        (["--windows", "mamba"], 1, "the mamba rule lays windows on the rows of a BED"),
        (["--device", "gpu"], 1, "auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--steps", "0"], 1, "max_steps is at least 1, got 0"),
        (["--resume", "run", "--steps", "5"], 2, "leave out --steps"),
        (["--resume", "nowhere"], 1, "no run in nowhere"),
        (["--batch-tokens", "1000"], 1, "not a multiple of seq_len"),
    ],
)
def test_mistakes_get_a_sentence_and_an_exit_code(arguments, code, message, folder):
    found, _, err = run("pretrain", *arguments, cache=folder)
    assert found == code
    assert message in err
    assert "Traceback" not in err


def test_options_become_exactly_these_settings(folder, tmp_path):
    """The library is called once, with what was typed; everything else is a default."""
    with mock.patch.object(pretraining, "pretrain", return_value=Outcome(1)) as called:
        CliRunner().invoke(
            cli,
            command(folder, tmp_path / "run", "--softmask-weight", "0.5", "--max-n-fraction", "0"),
        )
    (config, out, options), keywords = called.call_args
    assert out == tmp_path / "run"
    assert keywords == {"force": False}
    assert options == pretraining.RunOptions(device="cpu", micro_batch=2)
    assert config.genome == (str(folder / "tiny.h5"),)
    assert config.train.max_steps == 60
    assert config.train.softmask_weight == 0.5
    assert config.data.windows.seq_len == 64
    assert config.data.windows.max_n_fraction == 0.0
    assert config.data.windows.rule == "tile"
    assert config.data.rc_augment


def test_settings_of_a_command_without_options(monkeypatch, tmp_path):
    """What `dnamamba pretrain` alone does on a CPU: the demo genomes, a chromosome held out."""
    monkeypatch.chdir(tmp_path)
    with mock.patch.object(pretraining, "pretrain", return_value=Outcome(1)) as called:
        CliRunner().invoke(cli, ["pretrain", "--device", "cpu"])
    (config, out, options), _ = called.call_args
    assert config.genome == ("demo",)
    assert config.data.splits.valid_contigs == ("chr5",)
    assert config.data.splits.test_contigs == ("chr4",)
    assert str(out) == "runs/demo-mamba-demo-1k"
    assert (config.train.max_steps, config.train.batch_tokens) == (300, 1 << 13)
    assert options == pretraining.RunOptions(device="cpu")
