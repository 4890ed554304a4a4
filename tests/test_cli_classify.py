"""`dnamamba classify` as a user types it: processes of its own, kills, ranks, mistakes."""

import random
import signal
import time
from unittest import mock

import pytest
import torch
from click.testing import CliRunner

from dnamamba.classification import run as classification
from dnamamba.classification.config import default_learning_rate
from dnamamba.cli.main import cli, main
from dnamamba.data.species.dataset import SpeciesFiles
from dnamamba.models import DnaModel, preset
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.task import Task
from dnamamba.training.metrics_log import MetricsFile
from dnamamba.training.run_folder import RunFolder
from dnamamba.training.trainer import Outcome
from label_runs import write_table
from model_cases import tiny_model
from runs import TORCHRUN, launch, run, start

RECIPE = [
    *("--steps", "120", "--batch-size", "8", "--micro-batch", "4", "--learning-rate", "1e-2"),
    *("--eval-every", "40", "--save-every", "7", "--log-every", "5", "--pool", "mean"),
    *("--device", "cpu"),
]


TABLE = ["--table", "train.csv"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    for name, n, seed in (("train", 240, 1), ("dev", 40, 2), ("test", 60, 3)):
        write_table(folder / f"{name}.csv", n, seed=seed)
    tiny_model(d_model=16).save_pretrained(folder / "pretrained")
    return folder


def command(folder, out, *more):
    tables = [f"--{split}table" for split in ("", "valid-", "test-")]
    files = [str(folder / f"{name}.csv") for name in ("train", "dev", "test")]
    named = [text for pair in zip(tables, files, strict=True) for text in pair]
    model = str(folder / "pretrained")
    return ["classify", "train", model, *named, *RECIPE, "--out", str(out), *more]


@pytest.fixture(scope="module")
def undisturbed(folder):
    code, out, err = launch("dnamamba", *command(folder, folder / "undisturbed"), cache=folder)
    assert code == 0, err
    return RunFolder.open(folder / "undisturbed"), out, err


def assert_same_run(one, other):
    kept = DnaClassifier.from_pretrained(other.model).state_dict()
    for name, tensor in DnaClassifier.from_pretrained(one.model).state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    timeless = [
        [
            {key: row[key] for key in row if key not in ("tokens_per_s", "elapsed_s")}
            for row in each.metrics.rows()
        ]
        for each in (one, other)
    ]
    assert timeless[0] == timeless[1]
    assert one.read_json("evaluation") == other.read_json("evaluation")


@pytest.mark.slow
def test_a_run_tells_what_it_does_and_what_came_out(undisturbed):
    run_folder, out, err = undisturbed
    assert "labels: none, tata" in err
    assert "baseline: Logistic regression of" in err
    assert "step 120/120: train loss" in err
    assert "test: accuracy" in out
    assert "McNemar" in out
    assert str(run_folder.path / "report.html") in out
    assert "Traceback" not in err


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(folder, undisturbed, tmp_path):
    """kill -9 and --resume, again and again; the run ends as the undisturbed one, bit for bit."""
    moments = random.Random(0)
    out = tmp_path / "run"
    arguments = command(folder, out)
    for _ in range(10):
        before = MetricsFile(out / "metrics.jsonl").rows()
        process = start(*arguments, cache=folder)
        while process.poll() is None and MetricsFile(out / "metrics.jsonl").rows() == before:
            time.sleep(0.005)
        time.sleep(moments.random() * 0.2)
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break  # it was faster
        workers = str(moments.choice([0, 1, 2]))
        arguments = ["classify", "train", "--resume", str(out), "--workers", workers]
    code, _, err = run(*arguments, cache=folder)
    assert code == 0, err
    assert_same_run(undisturbed[0], RunFolder.open(out))


@pytest.mark.slow
def test_two_ranks_train_and_judge_the_same_model(folder, undisturbed, tmp_path):
    code, out, err = launch(*TORCHRUN, *command(folder, tmp_path / "run"), cache=folder)
    assert code == 0, err
    assert out.count("Report: ") == 1
    one, two = (
        [row["loss"] for row in each.metrics.rows()]
        for each in (undisturbed[0], RunFolder.open(tmp_path / "run"))
    )
    assert two == pytest.approx(one, rel=2e-3)
    found = RunFolder.open(tmp_path / "run").read_json("evaluation")["splits"]["test"]["model"]
    assert found["n"] == 60


def test_dry_run_prints_the_plan_and_writes_nothing(folder, tmp_path):
    code, out, err = run(*command(folder, tmp_path / "run", "--dry-run"), cache=folder)
    assert code == 0, err
    assert "120 steps" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name a MODEL"),
        (["nowhere"], 1, "nowhere"),
        (["mamba-demo", "--table", "nothing.csv"], 1, "nothing.csv"),
        (["mamba-demo", "--table", "a.csv", "--records", "x=b.fa"], 2, "two sources"),
        (["mamba-demo", "--table", "a.csv", "--split", "hyenadna"], 2, "no meaning for --table"),
        (["mamba-demo", "--group-column", "gene"], 2, "no meaning for --species"),
        (["mamba-demo", "--species", "human"], 2, "a label and its files must look like"),
        (["mamba-demo", "--epochs", "2", "--steps", "5"], 2, "both say how long"),
        (["mamba-demo", "--task", "regression"], 2, "species make a multiclass task"),
        (["--resume", "run", "--epochs", "5"], 2, "--epochs would change a run"),
        (["--resume", "nowhere"], 1, "no run in nowhere"),
        (["pretrained", *TABLE, "--tune", "probe", "--epochs", "3"], 2, "fitted without steps"),
        (["pretrained", *TABLE, "--keep", "last", "--patience", "2"], 1, "waits for a better"),
        (["pretrained", *TABLE, "--label-columns", "class"], 1, "class"),
        (["pretrained", *TABLE, "--pool", "first"], 1, "sees the first base alone"),
        (["hyena-demo", *TABLE, "--seq-len", "0"], 2, "a size must be a whole number"),
        (["pretrained", "--regions", "r.bed"], 1, "--genome"),
    ],
)
def test_mistakes_get_a_sentence_and_an_exit_code(
    arguments, code, message, folder, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(["classify", "train", *arguments, "--device", "cpu"])
    assert ended.value.code == code
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_a_forced_mistake_leaves_the_old_run_alone(folder, undisturbed):
    old = undisturbed[0].path
    code, _, err = run(*command(folder, old, "--force", "--micro-batch", "3"), cache=folder)
    assert code == 1, err
    assert (old / "model" / "model.safetensors").exists()
    code, _, err = run(*command(folder, old), cache=folder)
    assert code == 1
    assert "holds a run already" in err


@pytest.mark.slow
def test_eval_judges_again(folder, undisturbed, tmp_path):
    out = tmp_path / "again"
    code, printed, err = run(
        "classify", "eval", str(undisturbed[0].path), "--out", str(out), cache=folder
    )
    assert code == 0, err
    assert printed.splitlines()[:2] == undisturbed[1].splitlines()[:2]
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seq-len", "20"], "--seq-len is for other sequences than the run's own"),
        (["--task", "regression"], "No such option"),
        (["--table", "test.csv", "--data-seed", "1"], "all of these are evaluated: leave it out"),
        (
            ["--species", "a=a.fa", "--seq-len", "20", "--lengths", "30,40"],
            "--seq-len and --lengths both say how long windows are",
        ),
    ],
)
def test_eval_refuses_what_it_would_ignore(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["classify", "eval", "run", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_eval_knows_the_task_of_several_columns(folder, tmp_path):
    """Two columns of numbers, which are no classes."""
    labels = {"header": ("sequence", "a", "b"), "label": lambda has, _: (str(int(has)), "0.5")}
    write_table(tmp_path / "numbers.csv", 40, **labels)
    torch.manual_seed(0)
    task = Task(kind="regression", labels=("a", "b"))
    model = DnaModel.from_pretrained(folder / "pretrained")
    classifier = DnaClassifier.from_language_model(model, HeadConfig(task=task, pool="mean"))
    classifier.save_pretrained(tmp_path / "classifier")
    given = ("--table", str(tmp_path / "numbers.csv"), "--label-columns", "a,b")
    out = ("--out", str(tmp_path / "out"))
    code, printed, err = run(
        *("classify", "eval", str(tmp_path / "classifier")), *given, *out, cache=folder
    )
    assert code == 0, err
    assert "test: " in printed


def test_options_become_exactly_these_settings(folder, tmp_path):
    """The library is called once, with what was typed; everything else is a default."""
    called_with = ["--class-weights", "balanced", "--seq-len", "20", "--rc-augment"]
    with mock.patch("dnamamba.training.run.start_run", return_value=Outcome(1)) as called:
        CliRunner().invoke(cli, command(folder, tmp_path / "run", *called_with))
    (_, config, out, options), keywords = called.call_args
    assert (out, keywords) == (tmp_path / "run", {"force": False})
    assert options == classification.RunOptions(device="cpu", micro_batch=4)
    assert config.model == str(folder / "pretrained")
    assert (config.data.seq_len, config.data.rc_augment) == (20, True)
    assert (config.train.epochs, config.train.max_steps) == (None, 120)
    assert config.train.class_weights == "balanced"
    assert (config.train.warmup_fraction, config.train.min_learning_rate) == (0.5, 1e-6)


@pytest.mark.parametrize(
    ("model", "rate"), [("mamba-demo", 1e-4), ("hyena-demo", 4e-5), ("transformer-demo", 1e-4)]
)
def test_species_follow_the_paper(monkeypatch, tmp_path, model, rate):
    """E.3.4: batch 64, 10 epochs of 1,024 steps, warm-up of lengths from 2^14 and of the rate."""
    monkeypatch.chdir(tmp_path)
    species = [f"--species={label}={label}.h5" for label in ("human", "gorilla")]
    on_gpu = ["--seq-len", "64k", "--batch-size", "64", "--steps-per-epoch", "1024"]
    with mock.patch("dnamamba.training.run.start_run", return_value=Outcome(1)) as called:
        CliRunner().invoke(cli, ["classify", "train", model, *species, *on_gpu])
    (_, config, out, _), _ = called.call_args
    assert str(out) == f"runs/classify-species-{model}"
    assert config.data.warmup_lengths == (1 << 14, 1 << 15)
    assert config.data.epoch_size == 1024 * 64
    assert config.data.split == "homology"
    assert config.data.species[0] == SpeciesFiles("human", (str(tmp_path / "human.h5"),))
    train = config.train.for_examples(config.data.epoch_size)
    assert (train.max_steps, train.warmup_steps) == (10_240, 5_120)
    assert (train.learning_rate, train.min_learning_rate) == (None, 1e-6)
    assert default_learning_rate(preset(model), train.tune) == rate
