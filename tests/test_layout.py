"""The shape of the project: packages, links, and imports that go one way.

    cli -> campaigns -> uses -> training, inference, baselines, reports -> metrics, models, data
        -> kernels, data_prep -> ground

A new package belongs into one of the LAYERS below; a new module into a package.
"""

import ast
import configparser
import functools
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINKED_FOLDERS = ("kernels", "data_prep", "cli")
MOST_MODULES = 15
MOST_MODULES_AT_THE_TOP = 12

# From the ground up: a package imports from its own layer and from those before it. Every module
# directly in dnamamba/ is ground, but for those named here.
LAYERS = {
    "ground": {"__init__"},
    "kernels and data_prep": {"kernels", "data_prep"},
    "materials": {"metrics", "models", "data"},
    "machinery": {"training", "inference", "baselines", "reports"},
    "uses": {"pretraining", "classification", "embedding", "probing", "scoring", "convert"},
    "campaigns": {"bench", "doctor"},
    "command line": {"cli", "__main__"},
}
LAYER_OF = {unit: n for n, units in enumerate(LAYERS.values()) for unit in units}
LAYER_OF |= {path.stem: 0 for path in (ROOT / "dnamamba").glob("*.py") if path.stem not in LAYER_OF}
# Neighbours of one layer that know nothing of each other.
STRANGERS = [{"kernels", "data_prep"}, {"models", "data"}]
# Pages and figures are made last, from what was computed.
MAY_IMPORT_REPORTS = {"reports", *LAYERS["campaigns"], *LAYERS["command line"]}


@dataclass(frozen=True)
class Import:
    """One import statement's target, e.g. `torch.nn` or `dnamamba.models.backbone`."""

    target: str
    line: int
    in_function: bool
    for_types_only: bool


def python_files() -> Iterator[tuple[str, Path]]:
    """(module name, file) of everything that is imported as dnamamba.*."""
    for folder in ("dnamamba", *LINKED_FOLDERS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            prefix = () if folder == "dnamamba" else ("dnamamba",)
            yield ".".join(prefix + parts).removesuffix(".__init__"), path


@functools.cache
def find_imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Every import of a file, wherever it stands; relative ones are resolved."""
    found: list[Import] = []

    def visit(node: ast.AST, in_function: bool, for_types_only: bool) -> None:
        for target in _targets(node, module, is_package):
            found.append(Import(target, getattr(node, "lineno", 0), in_function, for_types_only))
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded: list[ast.stmt] = []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            guarded = node.body
        for child in ast.iter_child_nodes(node):
            visit(child, in_function, for_types_only or child in guarded)

    visit(ast.parse(source), False, False)
    return found


def _targets(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        up = node.level - 1 if is_package else node.level
        parents = module.split(".")[: len(module.split(".")) - up]
        base = ".".join([*parents, *([base] if base else [])])
    return [f"{base}.{name.name}" for name in node.names]


def unit_of(module: str) -> str | None:
    """The part of dnamamba a dotted name lies in (`models`, `optim`); None outside dnamamba."""
    parts = module.split(".")
    if parts[0] != "dnamamba":
        return None
    is_root_name = len(parts) == 1 or parts[1] in ("__init__", "__version__")
    return "__init__" if is_root_name else parts[1]


def all_imports() -> list[tuple[str, Import]]:
    return [
        (module, found)
        for module, path in python_files()
        for found in find_imports(path.read_text(), module, path.name == "__init__.py")
    ]


def reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(name.name in ("environ", "getenv", "putenv") for name in node.names)
    names = ("os.environ", "os.getenv", "os.putenv")
    return isinstance(node, ast.Attribute) and ast.unparse(node) in names


def described(module: str, found: Import) -> str:
    return f"{module} line {found.line} imports {found.target}"


# --- packages and links


def test_setup_lists_exactly_the_folders_that_hold_code() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    folders = {
        module if path.name == "__init__.py" else module.rpartition(".")[0]
        for module, path in python_files()
    }
    assert listed == folders, "setup.cfg [options] packages must name each folder of Python files"


def test_every_folder_of_code_is_a_package() -> None:
    bare = {str(path.parent) for _, path in python_files()}
    bare = {folder for folder in bare if not Path(folder, "__init__.py").exists()}
    assert bare == set(), "these folders need an __init__.py"


@pytest.mark.parametrize("name", LINKED_FOLDERS)
def test_top_level_folders_are_linked_into_the_package(name: str) -> None:
    link = ROOT / "dnamamba" / name
    if not (ROOT / ".git").exists() and not link.exists():
        pytest.skip("an unpacked source distribution has no links")
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}", "relative, or it breaks in another checkout"


def test_no_second_copy_of_a_linked_folder_is_imported() -> None:
    assert "kernels" not in sys.modules
    assert not set(LINKED_FOLDERS) & sys.modules.keys(), "import dnamamba.<folder> instead"


# --- imports


def test_every_package_has_its_layer() -> None:
    units = {unit_of(module) for module, _ in python_files()}
    assert units - LAYER_OF.keys() == set(), (
        "add these to LAYERS in tests/test_layout.py, in the layer they belong to"
    )


def test_no_folder_holds_more_modules_than_a_reader_can_survey() -> None:
    counts: dict[Path, int] = {}
    for _, path in python_files():
        if path.name not in ("__init__.py", "__main__.py"):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    large = {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > MOST_MODULES}
    large.pop("cli", None)
    assert large == {}
    assert len(list((ROOT / "dnamamba").glob("*.py"))) <= MOST_MODULES_AT_THE_TOP


def test_imports_go_one_way() -> None:
    wrong = []
    for module, found in all_imports():
        importer, imported = unit_of(module), unit_of(found.target)
        if importer in LAYER_OF and imported in LAYER_OF:
            upward = LAYER_OF[imported] > LAYER_OF[importer]
            strange = {importer, imported} in STRANGERS
            if upward or strange:
                wrong.append(described(module, found))
    assert wrong == []


def test_no_use_imports_another_use() -> None:
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if {unit_of(module), unit_of(found.target)} <= LAYERS["uses"]
        and unit_of(module) != unit_of(found.target)
    ]
    assert wrong == []


def test_computing_never_imports_reports() -> None:
    """Only a use's pretraining/report.py, campaigns and the command line make pages and figures."""
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if unit_of(found.target) == "reports"
        and unit_of(module) not in MAY_IMPORT_REPORTS
        and not module.endswith(".report")
    ]
    assert wrong == []


def test_imports_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for module, found in all_imports():
        importer, imported = unit_of(module), unit_of(found.target)
        if importer and imported and importer != imported:
            graph.setdefault(importer, set()).add(imported)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_names_are_imported_from_their_modules() -> None:
    """Not `from dnamamba import Interval`: the public list reaches into every layer."""
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if unit_of(found.target) not in (None, *LAYER_OF)
    ]
    assert wrong == []


def test_nothing_imports_the_command_line() -> None:
    importers = {m for m, found in all_imports() if unit_of(found.target) == "cli"}
    outside = {module for module in importers if unit_of(module) != "cli"}
    assert outside <= {"dnamamba.__main__"}


def test_kernels_know_only_torch_and_compilers() -> None:
    """And runtime.cache_folder, where compiled code is kept: it alone reads the environment."""
    allowed = {"torch", "triton", "llvmlite", *sys.stdlib_module_names}
    wrong = []
    for module, found in all_imports():
        own = f"{found.target}.".startswith(("dnamamba.kernels.", "dnamamba.runtime.cache_folder."))
        if unit_of(module) == "kernels" and not own and found.target.split(".")[0] not in allowed:
            wrong.append(described(module, found))
    assert wrong == []


def test_data_preparation_never_imports_torch() -> None:
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if unit_of(module) == "data_prep" and found.target.split(".")[0] == "torch"
    ]
    assert wrong == []


def test_the_command_line_imports_torch_only_inside_functions() -> None:
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if unit_of(module) in ("cli", "__main__")
        and found.target.split(".")[0] == "torch"
        and not (found.in_function or found.for_types_only)
    ]
    assert wrong == []


def test_scikit_learn_is_imported_only_inside_functions() -> None:
    """It takes a second to load, and only judging and baselines need it."""
    wrong = [
        described(module, found)
        for module, found in all_imports()
        if found.target.split(".")[0] in ("sklearn", "scipy")
        and not (found.in_function or found.for_types_only)
    ]
    assert wrong == []


def test_the_command_line_and_data_preparation_load_without_torch() -> None:
    """Neither directly nor through what they import: --help stays fast."""
    modules = [m for m, _ in python_files() if unit_of(m) in ("cli", "data_prep")]
    code = f"import {', '.join(modules)}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, (
        "one of them, or something it imports, loads torch"
    )


def test_only_runtime_reads_the_environment() -> None:
    readers = {
        module
        for module, path in python_files()
        if any(map(reads_environment, ast.walk(ast.parse(path.read_text()))))
    }
    assert readers == {"dnamamba.runtime"}


# --- the checker itself


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("import dnamamba.data.windows as w", "dnamamba.data.windows"),
        ("from dnamamba import data", "dnamamba.data"),
        ("from dnamamba.data import windows", "dnamamba.data.windows"),
        ("from ..data import windows", "dnamamba.data.windows"),
        ("from .. import data", "dnamamba.data"),
        ("from . import layers", "dnamamba.models.layers"),
        ("def build():\n    from dnamamba.data import windows", "dnamamba.data.windows"),
        ("try:\n    import triton\nexcept ImportError:\n    triton = None", "triton"),
    ],
)
def test_the_checker_sees_imports_of_every_form(source: str, target: str) -> None:
    assert [found.target for found in find_imports(source, "dnamamba.models.backbone")] == [target]


def test_the_checker_tells_imports_in_functions_and_for_types_apart() -> None:
    source = (
        "if TYPE_CHECKING:\n    import torch\nelse:\n    import numpy\ndef f():\n    import h5py\n"
    )
    found = {
        one.target: (one.in_function, one.for_types_only)
        for one in find_imports(source, "dnamamba.runtime")
    }
    assert found == {"torch": (False, True), "numpy": (False, False), "h5py": (True, False)}


def test_the_checker_knows_the_parts_of_the_package() -> None:
    assert unit_of("dnamamba.models.backbone") == "models"
    assert unit_of("dnamamba.training.optimizer") == "training"
    assert unit_of("dnamamba.__version__") == "__init__"
    assert unit_of("dnamamba") == "__init__"
    assert unit_of("torch.nn") is None
