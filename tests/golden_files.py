"""Golden numbers: what the official code of other projects computes, from files.

`tests/golden/` holds a part of them, enough for at least one comparison of every mixer, tokenizer
and loader; its README says where they come from. The whole files are no part of this project:
`shared/golden` beside the checkout, if it is there. A test that needs more than `tests/golden/`
has is skipped without them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

PART = Path(__file__).resolve().parent / "golden"
WHOLE = Path(__file__).resolve().parents[2] / "shared" / "golden"


@dataclass(frozen=True)
class Golden:
    """One item: its name, its description (the .json) and its tensors by full name."""

    name: str
    info: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, by the rest of their names.

        If there are none, skips the test without the whole file and fails it with that file.
        """
        start = f"{prefix}/"
        found = {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}
        if not found:
            path = WHOLE / f"{self.name}.safetensors"
            assert not path.is_file(), f"{path} has no tensors under {start}"
            skip_without(path, f" for {prefix}")
        return found


def load_golden(name: str) -> Golden:
    """Read an item: the tensors in `tests/golden/`, and those that only the whole file has."""
    info = load_golden_json(name)
    path, whole = golden_path(f"{name}.safetensors"), WHOLE / f"{name}.safetensors"
    tensors = load_file(whole) if whole.is_file() else {}
    return Golden(name, info, {**tensors, **load_file(path)})


def load_golden_json(name: str) -> dict[str, Any]:
    return json.loads(golden_path(f"{name}.json").read_text(encoding="utf-8"))


def golden_path(file: str) -> Path:
    """The file in `tests/golden/`, else the whole one; skips the test if neither is there."""
    for folder in (PART, WHOLE):
        if (folder / file).is_file():
            return folder / file
    skip_without(WHOLE / file)


def skip_without(path: Path, purpose: str = "") -> NoReturn:
    pytest.skip(f"needs {path}{purpose}, which is not part of the project")


def assert_close(found: Tensor, expected: Tensor, *, rtol: float, atol: float, what: str) -> None:
    """Every entry within rtol of itself plus atol of the tensor's largest entry."""
    assert found.shape == expected.shape, f"{what}: {found.shape} is not {expected.shape}"
    wide = torch.complex128 if expected.is_complex() else torch.float64
    found, expected = found.detach().to(wide), expected.to(wide)
    scale = expected.abs().max()
    excess = (found - expected).abs() - rtol * expected.abs() - atol * scale
    # Written so that a NaN fails.
    assert bool((excess <= 0).all()), f"{what}: worst error {(found - expected).abs().max():.3e}"
