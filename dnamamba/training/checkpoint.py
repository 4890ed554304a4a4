"""Training state on disk, written whole or not at all.

step_00000008/state.safetensors   `model.<name>` and `optimizer.<index>.<key>`
step_00000008/checkpoint.json     format_version, step, torch's version, the caller's extra

Neither file can carry code, so resuming somebody else's run is safe.
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

    step: optimiser steps done. extra: JSON values to keep. The optimizer's state must be tensors.
    Keeps a checkpoint of this step that loads: it is the same by construction. Raises OSError, and
    leaves nothing half made, if the disk fails.
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
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_BUILDING}*"):
            shutil.rmtree(leftover)
        if not _loads(target, model, optimizer):
            _write(building, details, _tensors(model, optimizer))
            shutil.rmtree(target, ignore_errors=True)  # it does not load
            os.replace(building, target)
            sync_to_disk(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise OSError(f"{target} cannot be written: {error}") from error
    # Later ones are damaged, or training would have continued from them.
    for old in [path for path in list_checkpoints(folder) if _step_of(path) <= step][:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Load weights and optimiser state in place, onto the parameters' devices.

    Keeps the optimizer's own learning rate and weight decay. Returns the content of
    checkpoint.json, with "step" and "extra". Raises InputError, before it changes anything, for a
    checkpoint that is damaged, of another format or of another model.
    """
    details, tensors = _read(path, model, optimizer)
    state: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in _model_tensors(model).items():
        tensor.copy_(tensors[name])
    for name, tensor in tensors.items():
        if found := _OPTIMIZER_TENSOR.fullmatch(name):
            # Without the copy, training could write to the file that safetensors maps.
            state[int(found[1])][found[2]] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
    return details


def load_newest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Load the newest sound checkpoint, warning about damaged ones; None if there is none.

    Raises InputError if all are damaged.
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
    """Return the whole checkpoints in a folder, oldest first."""
    found = [path.parent for path in folder.glob(f"step_*/{DETAILS_NAME}")]
    return sorted((path for path in found if _FOLDER.fullmatch(path.name)), key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, tied ones once."""
    tensors: dict[str, Tensor] = {}
    seen: set[object] = set()
    for name, tensor in model.state_dict().items():
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and memory in seen:
            continue
        seen.add(memory)
        tensors[f"model.{name}"] = tensor
    return tensors


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state; parameters are numbered in the order of the optimiser's groups."""
    state = optimizer.state_dict()["state"]
    return _model_tensors(model) | {
        f"optimizer.{index}.{key}": value
        for index, values in state.items()
        for key, value in values.items()
    }


def _write(building: Path, details: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    building.mkdir()
    save_file({name: t.contiguous() for name, t in tensors.items()}, building / STATE_NAME)
    (building / DETAILS_NAME).write_text(json.dumps(details, indent=2) + "\n", encoding="utf8")
    # safetensors makes files that only their owner can read.
    shutil.copymode(building / DETAILS_NAME, building / STATE_NAME)
    for path in (building / STATE_NAME, building / DETAILS_NAME, building):
        sync_to_disk(path)


def _loads(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    try:
        _read(path, model, optimizer)
    except InputError:
        return False
    return True


def _read(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    details, file = _read_details(path / DETAILS_NAME), path / STATE_NAME
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file} is missing or damaged ({error}); copy it again, or delete {path} to go on "
            "from an older checkpoint"
        ) from error
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    expected = _model_tensors(model)
    problems = _model_problems(tensors, expected) or _optimizer_problems(tensors, parameters)
    if problems:
        more = f"; and {len(problems) - 5} more" * (len(problems) > 5)
        raise InputError(
            f"{path} does not fit this run's model: {'; '.join(problems[:5])}{more}. Resume it "
            "with the config it was written with, or start a new run"
        )
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


def _model_problems(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    problems = [f"{name} is missing" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected and not name.startswith("optimizer."):
            problems.append(f"{name} is not known")
        elif name in expected and _kind(tensor) != _kind(expected[name]):
            problems.append(f"{name} is {_kind(tensor)}, not {_kind(expected[name])}")
    return problems


def _optimizer_problems(found: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[str]:
    """A fused optimiser trusts its state's sizes, so wrong ones would corrupt memory."""
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
    missing = [(index, key) for index, own in keys.items() for key in sorted(every - own)]
    return problems + [f"optimizer.{index}.{key} is missing" for index, key in missing]


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
