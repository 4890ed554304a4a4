"""What every test shares; loaded before any test imports dnamamba."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Triton reads this when a kernel is defined: without a GPU the kernels then run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Names that are no folders are not looked up in the hub: no test waits for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Their failures then show the values too, as those of test modules do.
pytest.register_assert_rewrite(
    "golden_files", "golden_models", "model_cases", "runs", "triton_cases"
)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    quick = "run of each test the first and the last of its cases, and none that is marked slow"
    parser.addoption("--quick", action="store_true", help=quick)
    parser.addoption("--full", action="store_true", help="run what is marked full too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    has_gpu = torch.cuda.is_available()
    for item in items:
        if item.get_closest_marker("gpu") and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    kept = items[:]
    if not (has_gpu or config.getoption("full")):
        kept = [item for item in kept if not item.get_closest_marker("full")]
    if config.getoption("quick"):
        kept = quick_selection(kept)
    config.hook.pytest_deselected(items=list(set(items).difference(kept)))
    # Workers take whole files: those that take long come first, so that none ends alone.
    slow_files = {item.path for item in kept if item.get_closest_marker("slow")}
    items[:] = sorted(kept, key=lambda item: item.path not in slow_files)


def quick_selection(items: list[pytest.Item]) -> list[pytest.Item]:
    """The first and the last case of each test that is not marked slow, in their order."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    ends = {item for each in cases.values() for item in (each[0], each[-1])}
    return [item for item in items if item in ends]


@pytest.fixture(scope="session", autouse=True)
def shared_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Indexes, facts and compiled kernels of all tests lie here, never in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DNAMAMBA_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that this test alone fills."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DNAMAMBA_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real sequences beside the checkout; tests that need it skip without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real sequences in {SHARED_DATA}, which are not part of the project")
    return SHARED_DATA
