"""What every test shares; loaded before any test imports dnamamba."""

import os
from pathlib import Path

import pytest
import torch

# Triton reads this when a kernel is defined: without a GPU the kernels then run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Their failures then show the values too, as those of test modules do.
pytest.register_assert_rewrite("golden_files", "golden_models", "model_cases", "triton_cases")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sequences beside the checkout; tests that need it skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real sequences in {SHARED_DATA}, which are not part of the project")
    return SHARED_DATA
