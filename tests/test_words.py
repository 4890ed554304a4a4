"""The field's words: names of code and messages of errors that every reader knows.

A judge is a validator, a recorded pass a CUDA graph; an error states the rule ("must be >= 0, got
-1"), never a fact that does not hold ("is 0 or more, got -1").
"""

import ast
import re
from collections.abc import Iterator

import pytest

from test_layout import python_files

OLD_WORDS = re.compile(
    r"judg|headline|recorded_?pass|(^|_)(hid(e|es|ing)|doubts?|told|said|facts?|places?|some|each"
    r"|stopping)(_|$)",
    re.IGNORECASE,
)
# Words that say what to do or what was expected; one of them stands in a message that has "got".
RULES = re.compile(
    r"\b(must|expected|should|cannot|takes?|needs?|accepts?|use|give|name|choose|could not)\b"
)


def names_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every class, function and parameter of a file, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def text_of(node: ast.AST) -> str:
    """A message as it is written; values of an f-string become `{}`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            text_of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return text_of(node.left) + text_of(node.right) if isinstance(node, ast.BinOp) else ""


def messages_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The text of every `raise Error("...")` of a file, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                yield text_of(argument), node.lineno


def says_no_rule(message: str) -> bool:
    return re.search(r"\bgot\b", message) is not None and RULES.search(message) is None


def test_names_are_those_of_the_field() -> None:
    found = [
        f"{module} line {line}: {name}"
        for module, path in python_files()
        for name, line in [(module.rpartition(".")[2], 1), *names_of(ast.parse(path.read_text()))]
        if OLD_WORDS.search(name)
    ]
    assert found == []


def test_messages_with_a_wrong_value_state_the_rule() -> None:
    found = [
        f"{module} line {line}: {message}"
        for module, path in python_files()
        for message, line in messages_of(ast.parse(path.read_text()))
        if says_no_rule(message)
    ]
    assert found == [], 'write "X must be >= 0, got -1"'


@pytest.mark.parametrize(
    ("name", "is_old"),
    [
        ("LabelJudge", True),
        ("_judge", True),
        ("recorded_pass", True),
        ("find_places", True),
        ("placeholder", False),
        ("replace", False),
        ("in_place", True),
        ("side", False),
        ("something", False),
    ],
)
def test_the_checker_knows_old_words(name: str, is_old: bool) -> None:
    assert (OLD_WORDS.search(name) is not None) == is_old


def test_the_checker_reads_messages_of_every_form() -> None:
    source = 'raise ValueError(f"workers is 0 or more, " + f"got {n}")'
    [(message, _)] = messages_of(ast.parse(source))
    assert message == "workers is 0 or more, got {}"
    assert says_no_rule(message)
    assert not says_no_rule("workers must be >= 0, got {}")
