"""Training state on disk: a torch.distributed.checkpoint folder, whole or not there at all.

Weights for use are saved apart, as safetensors, by the model. Nothing here unpickles.
"""

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from dnamamba.errors import InputError

FORMAT_VERSION = 1
_NAME = re.compile(r"step_(\d+)")


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int = 2,
) -> Path:
    """Write `folder/step_N` and delete all but the newest `keep`; returns its path.

    step: optimiser steps done. The stream's position and the learning rate follow from it.
    """
    import torch.distributed.checkpoint as dcp

    target = folder / f"step_{step:08d}"
    building = folder / f".building-{target.name}"
    shutil.rmtree(building, ignore_errors=True)
    building.parent.mkdir(parents=True, exist_ok=True)
    with _single_process():
        dcp.save(_state(model, optimizer), checkpoint_id=building, no_dist=True)
    facts = {"format_version": FORMAT_VERSION, "step": step, "torch": torch.__version__}
    (building / "checkpoint.json").write_text(json.dumps(facts))
    _sync(building)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(building, target)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and optimiser state in place; returns the optimiser steps done.

    Raises InputError for a checkpoint of another format or of another model.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    facts = json.loads((path / "checkpoint.json").read_text())
    if facts["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {facts['format_version']}, this dnamamba reads "
            f"{FORMAT_VERSION}"
        )
    state = _state(model, optimizer)
    try:
        with _single_process():
            dcp.load(state, checkpoint_id=path, no_dist=True)
    except (CheckpointException, ValueError, RuntimeError) as error:
        raise InputError(f"{path} does not fit this run's model: {error}") from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    return int(facts["step"])


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and (path / "checkpoint.json").exists()
    )


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {"model": model_state, "optimizer": optimizer_state}


@contextlib.contextmanager
def _single_process() -> Iterator[None]:
    """Rank 0 alone saves what all ranks hold alike; torch warns of that even when told so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
