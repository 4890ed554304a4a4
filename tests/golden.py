"""Numbers computed by the official code of other projects, kept beside the checkout.

They are no part of this project: a test that needs them is skipped where they are absent.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


@dataclass(frozen=True)
class Golden:
    """One item: its description (the .json) and its tensors by full name."""

    info: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix/`, by the rest of their names."""
        start = f"{prefix}/"
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


def load_golden(name: str) -> Golden:
    """Read an item with tensors; skips the test where it is absent."""
    return Golden(load_golden_json(name), load_file(GOLDEN / f"{name}.safetensors"))


def load_golden_json(name: str) -> dict[str, Any]:
    """Read an item's .json; skips the test where it is absent."""
    path = GOLDEN / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"needs the golden numbers in {GOLDEN}, which are not part of the project")
    return json.loads(path.read_text(encoding="utf-8"))


def assert_close(found: Tensor, expected: Tensor, *, rtol: float, atol: float, what: str) -> None:
    """Every entry within rtol of itself plus atol of the tensor's largest entry."""
    assert found.shape == expected.shape, f"{what}: {found.shape} is not {expected.shape}"
    wide = torch.complex128 if expected.is_complex() else torch.float64
    found, expected = found.detach().to(wide), expected.to(wide)
    scale = expected.abs().max()
    excess = (found - expected).abs() - rtol * expected.abs() - atol * scale
    # Written so that a NaN fails.
    assert bool((excess <= 0).all()), f"{what}: worst error {(found - expected).abs().max():.3e}"
