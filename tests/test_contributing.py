"""CONTRIBUTING.md leads to code that is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(
    r"^\| ([^|]+) \| `(\S+)` \| `(\w+)` \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
)


def defined_names(path: Path) -> set[str]:
    """Functions, classes and values that a module defines at its top."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names |= {getattr(target, "name", getattr(target, "id", "")) for target in targets}
    return names


def test_the_table_has_the_tasks_of_a_newcomer() -> None:
    assert len(ROWS) == 12


@pytest.mark.parametrize(("task", "file", "name"), ROWS)
def test_a_task_leads_to_a_name_that_exists(task: str, file: str, name: str) -> None:
    assert name in defined_names(ROOT / file), f"{task}: {file} defines no {name}"
