"""Checkpoints: exact, whole or not there, and nothing in them can run."""

import ast
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dnamamba.errors import InputError
from dnamamba.models import DnaModel, no_weight_decay_names
from dnamamba.training import checkpoint
from dnamamba.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from dnamamba.training.optimizer import build_optimizer
from model_cases import tiny_model

NAME = "model.backbone.layers.0.mixer.D"


class Training(NamedTuple):
    """A model in training."""

    model: DnaModel
    optimizer: torch.optim.AdamW

    def update(self, step: int) -> None:
        """One optimiser step, on bases that follow from its number."""
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(7, 11, (2, 16), generator=generator)
        logits = self.model(ids.to(next(self.model.parameters()).device))
        self.optimizer.zero_grad()
        logits.float().log_softmax(-1)[..., 7].mean().neg().backward()
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments."""
        found = dict(self.model.state_dict())
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{index}.{key}": value for key, value in state.items()}
        return {name: value.clone().cpu() for name, value in found.items()}


def start_training(
    seed: int = 0,
    *,
    d_model: int = 16,
    tied: bool = True,
    learning_rate: float = 1e-2,
    device: str = "cpu",
) -> Training:
    model = tiny_model(d_model=d_model, n_layers=1, tie_embeddings=tied, seed=seed).to(device)
    optimizer = build_optimizer(
        model,
        learning_rate=learning_rate,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        no_decay=no_weight_decay_names(model),
    )
    return Training(model, optimizer)


def train_and_save(folder: Path, *steps: int, keep: int = 2) -> Training:
    """Train to the last of some steps, saving at each of them."""
    training = start_training()
    for step in range(1, steps[-1] + 1):
        training.update(step)
        if step in steps:
            save_checkpoint(folder, step, *training, keep=keep)
    return training


def assert_equal(one: Training, other: Training) -> None:
    found, expected = one.tensors(), other.tensors()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def change_state(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite a checkpoint's tensors."""
    tensors = {
        name: tensor.clone() for name, tensor in load_file(path / "state.safetensors").items()
    }
    change(tensors)
    save_file(tensors, path / "state.safetensors")


def tear(file: Path) -> None:
    """Cut a file in half, as a full disk or a broken copy does."""
    os.truncate(file, file.stat().st_size // 2)


# --- what is restored


def test_training_goes_on_bit_for_bit(tmp_path):
    training = train_and_save(tmp_path, 3)
    resumed = start_training(seed=1)
    details = load_checkpoint(tmp_path / "step_00000003", *resumed)
    assert details["step"] == 3
    assert_equal(resumed, training)
    for step in (4, 5):
        training.update(step)
        resumed.update(step)
    assert_equal(resumed, training)


def test_a_checkpoint_before_the_first_step_has_weights_alone(tmp_path):
    training, resumed = start_training(), start_training(seed=1)
    resumed.update(1)
    load_checkpoint(save_checkpoint(tmp_path, 0, *training), *resumed)
    assert_equal(resumed, training)


def test_loading_leaves_the_file_as_it_was(tmp_path):
    """Tensors may come as views of the file's pages; training on must not write there."""
    train_and_save(tmp_path, 1)
    content = (tmp_path / "step_00000001" / "state.safetensors").read_bytes()
    resumed = start_training(seed=1)
    load_newest(tmp_path, *resumed)
    resumed.update(2)
    assert (tmp_path / "step_00000001" / "state.safetensors").read_bytes() == content


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    train_and_save(tmp_path, 1)
    saved = load_file(tmp_path / "step_00000001" / "state.safetensors")
    assert "model.backbone.embedding.weight" in saved
    assert "model.lm_head.weight" not in saved
    resumed = start_training(seed=1)
    load_newest(tmp_path, *resumed)
    assert resumed.model.lm_head.weight is resumed.model.backbone.embedding.weight
    assert torch.equal(resumed.model.lm_head.weight, saved["model.backbone.embedding.weight"])


def test_buffers_are_restored_and_those_of_no_state_are_not_saved(tmp_path):
    def build(value: float) -> nn.Module:
        module = nn.Linear(2, 2)
        module.register_buffer("mean", torch.full((2,), value))
        module.register_buffer("scratch", torch.full((2,), value), persistent=False)
        return module

    saved, loaded = build(1.0), build(2.0)
    path = save_checkpoint(tmp_path, 1, saved, torch.optim.AdamW(saved.parameters()))
    load_checkpoint(path, loaded, torch.optim.AdamW(loaded.parameters()))
    assert loaded.get_buffer("mean").tolist() == [1, 1]
    assert loaded.get_buffer("scratch").tolist() == [2, 2]


def test_learning_rate_and_weight_decay_are_those_of_the_run_that_goes_on(tmp_path):
    train_and_save(tmp_path, 1)
    resumed = start_training(learning_rate=0.5)
    load_newest(tmp_path, *resumed)
    groups = resumed.optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_facts_come_back(tmp_path):
    extra = {"world_size": 2, "tokens": [1, 2]}
    path = save_checkpoint(tmp_path, 7, *start_training(), extra=extra)
    assert load_checkpoint(path, *start_training()) == {
        "format_version": 1,
        "step": 7,
        "torch": torch.__version__,
        "extra": extra,
    }


@pytest.mark.gpu
def test_a_checkpoint_goes_from_the_cpu_to_a_gpu_and_back(tmp_path):
    training = train_and_save(tmp_path / "cpu", 2)
    on_gpu = start_training(seed=1, device="cuda")
    load_newest(tmp_path / "cpu", *on_gpu)
    moments = on_gpu.optimizer.state[on_gpu.model.lm_head.weight]
    assert {value.device.type for value in moments.values()} == {"cuda"}
    assert_equal(on_gpu, training)
    on_gpu.update(3)
    back = start_training(seed=2)
    load_checkpoint(save_checkpoint(tmp_path / "gpu", 3, *on_gpu), *back)
    assert_equal(back, on_gpu)


# --- whole or not there


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train_and_save(tmp_path, 1, 2, 3, 4, keep=2)
    assert names_in(tmp_path) == ["step_00000003", "step_00000004"]


def test_checkpoints_are_listed_by_their_number(tmp_path):
    training = start_training()
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, *training)
    (tmp_path / "step_00000005").mkdir()  # nothing in it: not a whole one
    (tmp_path / "notes").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_99999999", "step_100000000"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_what_a_killed_process_left_is_never_loaded_and_cleared_away(tmp_path):
    train_and_save(tmp_path, 1)
    leftover = tmp_path / ".building-step_00000002"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half a file")
    training = start_training(seed=1)
    assert load_newest(tmp_path, *training) is not None
    save_checkpoint(tmp_path, 3, *training)
    assert names_in(tmp_path) == ["step_00000001", "step_00000003"]


@pytest.mark.parametrize("moment", ["save_file", "sync_to_disk"])
def test_a_process_killed_while_saving_leaves_the_older_checkpoint(tmp_path, monkeypatch, moment):
    class Killed(BaseException):
        """No handler for ordinary errors sees it, just as none sees SIGKILL."""

    def die(*_: object) -> None:
        raise Killed

    training = train_and_save(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, moment, die)
        with pytest.raises(Killed):
            save_checkpoint(tmp_path, 2, *training)
    assert names_in(tmp_path) == [".building-step_00000002", "step_00000001"]
    resumed = start_training(seed=1)
    details = load_newest(tmp_path, *resumed)
    assert details is not None
    assert details["step"] == 1
    assert_equal(resumed, training)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("No space left on device")]
)
def test_a_full_disk_is_one_clear_error_and_costs_nothing(tmp_path, monkeypatch, error):
    def fail(_: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise error

    training = train_and_save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match=r"step_00000002 cannot be written: .*No space left"):
        save_checkpoint(tmp_path, 2, *training, keep=1)
    assert names_in(tmp_path) == ["step_00000001"]


def test_a_folder_that_cannot_be_made_is_the_same_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"step_00000001 cannot be written: .*file"):
        save_checkpoint(tmp_path / "file", 1, *start_training())


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    training = train_and_save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "save_file", None)
    assert save_checkpoint(tmp_path, 1, *training) == tmp_path / "step_00000001"


def test_a_damaged_checkpoint_of_the_same_step_is_written_again(tmp_path):
    training = train_and_save(tmp_path, 1)
    tear(tmp_path / "step_00000001" / "state.safetensors")
    save_checkpoint(tmp_path, 1, *training)
    resumed = start_training(seed=1)
    load_newest(tmp_path, *resumed)
    assert_equal(resumed, training)


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        path = save_checkpoint(tmp_path, 1, *start_training())
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o644}


# --- damaged ones


def test_an_empty_folder_has_no_newest(tmp_path):
    assert load_newest(tmp_path, *start_training()) is None
    assert load_newest(tmp_path / "nowhere", *start_training()) is None


@pytest.mark.parametrize("file", ["state.safetensors", "checkpoint.json"])
def test_a_damaged_newest_is_passed_over_aloud(tmp_path, caplog, monkeypatch, file):
    monkeypatch.setattr(logging.getLogger("dnamamba"), "propagate", True)
    train_and_save(tmp_path, 1, 2)
    tear(tmp_path / "step_00000002" / file)
    resumed = start_training(seed=1)
    details = load_newest(tmp_path, *resumed)
    assert details is not None
    assert details["step"] == 1
    assert "passed over checkpoint step_00000002" in caplog.text
    assert_equal(resumed, train_and_save(tmp_path / "again", 1))


def test_a_damaged_newest_does_not_push_out_the_ones_that_load(tmp_path):
    training = train_and_save(tmp_path, 1, 9, keep=2)
    tear(tmp_path / "step_00000009" / "state.safetensors")
    save_checkpoint(tmp_path, 2, *training, keep=1)
    assert names_in(tmp_path) == ["step_00000002", "step_00000009"]


def test_a_folder_without_a_sound_checkpoint_is_refused(tmp_path):
    train_and_save(tmp_path, 1, 2)
    for path in list_checkpoints(tmp_path):
        tear(path / "state.safetensors")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be loaded.*step_00000002"):
        load_newest(tmp_path, *start_training())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "checkpoint.json is missing.* older checkpoint"),
        (b'{"format_version": 1, "st', "checkpoint.json is not JSON.* copy it again, or delete"),
        (b"\xff\xfe\x00", "checkpoint.json is not JSON"),
        (b"[1]", "should hold one JSON object"),
        (b"{}", "should hold one object with a format_version"),
        (b'{"format_version": 9, "step": 1}', "format_version 9, this dnamamba reads 1"),
        (b'{"format_version": 1}', "a step of 0 or more .* got None"),
        (b'{"format_version": 1, "step": "1"}', "got '1'"),
        (b'{"format_version": 1, "step": 1, "extra": 5}', "an object as extra, got 1 and 5"),
    ],
)
def test_bad_facts_are_refused(tmp_path, content, message):
    train_and_save(tmp_path, 1)
    details = tmp_path / "step_00000001" / "checkpoint.json"
    details.unlink() if content is None else details.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "step_00000001", *start_training())


@pytest.mark.parametrize("size", [None, 0, 5, 200, -1])
def test_a_torn_or_missing_state_is_refused(tmp_path, size):
    train_and_save(tmp_path, 1)
    state = tmp_path / "step_00000001" / "state.safetensors"
    if size is None:
        state.unlink()
    else:
        os.truncate(state, size % (state.stat().st_size))
    with pytest.raises(InputError, match=r"state.safetensors is missing or damaged .* or delete"):
        load_checkpoint(tmp_path / "step_00000001", *start_training())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), rf"{NAME} is missing"),
        (lambda t: t.update({"model.more": torch.ones(1)}), "model.more is not known"),
        (lambda t: t.update({"more": torch.ones(1)}), "more is not known"),
        (lambda t: t.update({NAME: torch.ones(3)}), r"D is float32 \(3,\), not float32 \(32,\)"),
        (lambda t: t.update({NAME: t[NAME].double()}), r"D is float64 \(32,\), not float32"),
        (lambda t: t.pop("optimizer.1.exp_avg"), "optimizer.1.exp_avg is missing"),
        (lambda t: t.update({"optimizer.99.exp_avg": torch.ones(1)}), "99.exp_avg is not known"),
        (lambda t: t.update({"optimizer.exp_avg": torch.ones(1)}), "optimizer.exp_avg is not"),
        (lambda t: t.update({"optimizer.1.exp_avg": torch.ones(1)}), r"1.exp_avg is \(1,\), not"),
        (lambda t: t.update({"optimizer.1.step": torch.ones(2)}), r"1.step is \(2,\), not \(\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed(tmp_path, change, message):
    train_and_save(tmp_path, 1)
    change_state(tmp_path / "step_00000001", change)
    resumed = start_training(seed=1)
    resumed.update(1)
    before = resumed.tensors()
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "step_00000001", *resumed)
    for name, tensor in resumed.tensors().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"d_model": 32}, "does not fit this run's model: .*; and \\d+ more. Resume it with"),
        ({"tied": False}, "model.lm_head.weight is missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, message):
    train_and_save(tmp_path, 1)
    with pytest.raises(InputError, match=message):
        load_newest(tmp_path, *start_training(**other))


# --- nothing in them can run


def test_the_module_knows_nothing_that_unpickles():
    tree = ast.parse(Path(checkpoint.__file__).read_text())
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    words |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            words |= {alias.name for alias in node.names} | {getattr(node, "module", "")}
    assert "load_file" in words
    assert not words & {"load", "pickle", "distributed", "torch.distributed.checkpoint", "eval"}


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json", ".metadata"])
def test_a_crafted_pickle_is_never_opened(tmp_path, name):
    train_and_save(tmp_path, 1)
    fired = tmp_path / "fired"
    path = tmp_path / "step_00000001"
    (path / name).write_bytes(pickle.dumps(Bomb(fired)))
    if name == ".metadata":  # torch.distributed.checkpoint would read it
        load_newest(tmp_path, *start_training())
    else:
        with pytest.raises(InputError, match=r"damaged|not JSON"):
            load_newest(tmp_path, *start_training())
    assert not fired.exists()
    pickle.loads((path / name).read_bytes())
    assert fired.exists(), "the bomb works"


def test_the_facts_are_readable(tmp_path):
    """For people, and for other programs."""
    path = save_checkpoint(tmp_path, 1, *start_training())
    assert names_in(path) == ["checkpoint.json", "state.safetensors"]
    assert json.loads((path / "checkpoint.json").read_text())["step"] == 1
