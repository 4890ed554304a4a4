"""Training state on disk: tensors as safetensors, details as JSON, whole or not there at all.

step_00000008/state.safetensors   `model.<name>` and `optimizer.<index>.<key>`
step_00000008/checkpoint.json     format_version, step, torch's version, what the caller adds

Neither file can carry code, so it is safe to resume somebody else's run. Weights for use are saved
apart, by the model.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dnamamba.errors import InputError
from dnamamba.files import read_json
from dnamamba.runtime import logger, sync_to_disk

FORMAT_VERSION = 1
STATE_NAME = "state.safetensors"
DETAILS_NAME = "checkpoint.json"
_FOLDER = re.compile(r"step_(\d+)")
_OPTIMIZER_TENSOR = re.compile(r"optimizer\.(\d{1,9})\.(\w+)")
_BUILDING = ".building-"


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int = 2,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write `folder/step_N`, delete all but the newest `keep` up to it, and return its path.

    step: optimiser steps done. The stream's position and the learning rate follow from it.
    extra: JSON values to keep beside it. optimizer: one whose state is tensors, like AdamW's.
    A checkpoint of this step that loads already is the same by construction, so it stays.
    Raises OSError, and leaves nothing half made, if the disk fails.
    """
    target = folder / f"step_{step:08d}"
    building = folder / f"{_BUILDING}{target.name}"
    details = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "torch": torch.__version__,
        "extra": dict(extra or {}),
    }
    try:
        _remove_leftovers(folder)
        if not _loads(target, model, optimizer):
            _write(building, details, _model_tensors(model) | _optimizer_tensors(optimizer))
            shutil.rmtree(target, ignore_errors=True)  # of use only if it had loaded
            os.replace(building, target)
            sync_to_disk(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise OSError(f"{target} cannot be written: {error}") from error
    # A later one is damaged, or training would have gone on from it: it does not count.
    for old in [path for path in list_checkpoints(folder) if _step_of(path) <= step][:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load weights and optimiser state in place, onto the parameters' devices.

    Learning rate, weight decay and the like stay those of `optimizer`. Returns the facts of
    checkpoint.json, among them "step" and "extra".
    Raises InputError, before anything is changed, for a checkpoint that is damaged, of another
    format or of another model.
    """
    details, tensors = _read(path, model, optimizer)
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in _model_tensors(model).items():
        tensor.copy_(tensors[name])
    for name, tensor in tensors.items():
        if found := _OPTIMIZER_TENSOR.fullmatch(name):
            # safetensors may map the file, which training would write to.
            state[int(found[1])][found[2]] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
    return details


def load_newest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be loaded; None without any.

    A damaged one is skipped with a warning. Raises InputError if none of them loads.
    """
    errors = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path, model, optimizer)
        except InputError as error:
            logger.warning("passed over checkpoint %s: %s", path.name, error)
            errors.append(error)
    if errors:
        raise InputError(f"no checkpoint in {folder} can be loaded; the newest: {errors[0]}")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _FOLDER.fullmatch(path.name))
    return sorted((path for path in found if (path / DETAILS_NAME).exists()), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


# --- tensors and their names


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; of tied ones the first alone."""
    tensors: dict[str, Tensor] = {}
    seen: set[object] = set()
    for name, tensor in model.state_dict().items():
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and memory in seen:
            continue
        seen.add(memory)
        tensors[f"model.{name}"] = tensor
    return tensors


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of each parameter, numbered in the order of the optimiser's groups."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
    }


# --- writing


def _remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"{_BUILDING}*"):
        shutil.rmtree(path)


def _write(building: Path, details: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    building.mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, building / STATE_NAME)
    (building / DETAILS_NAME).write_text(json.dumps(details, indent=2) + "\n", encoding="utf8")
    # safetensors makes files for their owner alone; runs are shared as the umask says.
    shutil.copymode(building / DETAILS_NAME, building / STATE_NAME)
    for path in (building / STATE_NAME, building / DETAILS_NAME, building):
        sync_to_disk(path)


def _loads(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    try:
        _read(path, model, optimizer)
    except InputError:
        return False
    return True


# --- reading


def _read(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors, checked against the model and the optimiser they are for."""
    details = _read_details(path / DETAILS_NAME)
    file = path / STATE_NAME
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file} is missing or damaged ({error}); copy it again, or delete {path} to go on "
            "from an older checkpoint"
        ) from error
    _check_model(path, tensors, _model_tensors(model))
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    _check_optimizer(path, tensors, parameters)
    return details, tensors


def _read_details(file: Path) -> dict[str, Any]:
    advice = f"copy it again, or delete {file.parent} to go on from an older checkpoint"
    try:
        details = read_json(file)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from error
    if "format_version" not in details:
        raise InputError(f"{file} should hold one object with a format_version; {advice}")
    if details["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{file.parent} has format_version {details['format_version']}, this dnamamba reads "
            f"{FORMAT_VERSION}; resume it with the dnamamba that wrote it"
        )
    step, extra = details.get("step"), details.setdefault("extra", {})
    if type(step) is not int or step < 0 or not isinstance(extra, dict):
        raise InputError(
            f"{file} should hold a step of 0 or more and an object as extra, got "
            f"{step!r} and {extra!r}; {advice}"
        )
    return details


def _check_model(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected and not name.startswith("optimizer."):
            problems.append(f"{name} is not known")
        elif name in expected and _kind(tensor) != _kind(expected[name]):
            problems.append(f"{name} is {_kind(tensor)}, not {_kind(expected[name])}")
    _refuse(path, problems)


def _check_optimizer(path: Path, found: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
    """Also for safety: a fused optimiser trusts its state to have the parameter's size."""
    problems = []
    keys: dict[int, set[str]] = defaultdict(set)
    for name, tensor in found.items():
        if not name.startswith("optimizer."):
            continue
        match = _OPTIMIZER_TENSOR.fullmatch(name)
        if not match or int(match[1]) >= len(parameters):
            problems.append(f"{name} is not known")
            continue
        index, key = int(match[1]), match[2]
        keys[index].add(key)
        shape = () if key == "step" else tuple(parameters[index].shape)
        if tuple(tensor.shape) != shape:
            problems.append(f"{name} is {tuple(tensor.shape)}, not {shape}")
    every = set().union(*keys.values())
    for index, own in keys.items():
        problems += [f"optimizer.{index}.{key} is missing" for key in sorted(every - own)]
    _refuse(path, problems)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if not problems:
        return
    shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" * (len(problems) > 5))
    raise InputError(
        f"{path} does not fit this run's model: {shown}. Resume it with the config it was written "
        "with, or start a new run"
    )
