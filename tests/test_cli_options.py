"""Groups of options: a command gets one typed argument for each."""

from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from dnamamba.cli.options import choice, grouped, number, option, switch, typed_values, whole


@dataclass(frozen=True, kw_only=True)
class Window:
    size: int
    edge: str
    keep: bool


@click.command()
@grouped(
    "window",
    Window,
    [
        whole("--size", "Bases.", default=64),
        choice("--edge shift|pad", "Past the end.", default="shift"),
        switch("--keep", "Keep it."),
    ],
)
@grouped(
    "recipe", typed_values, [number("--rate", "Rate.", default=0.5), option("--name", "Name.")]
)
def show(*, window: Window, recipe: dict[str, object]) -> None:
    click.echo(f"{window} {recipe}")


def run(*arguments: str) -> str:
    return CliRunner().invoke(show, arguments).output


def test_a_group_is_one_argument_with_its_defaults():
    assert run() == "Window(size=64, edge='shift', keep=False) {}\n"
    assert run("--size", "8", "--keep").startswith("Window(size=8, edge='shift', keep=True)")


def test_typed_values_are_those_on_the_command_line():
    assert run("--rate", "0.5").endswith("{'rate': 0.5}\n")


def test_help_lists_options_in_order_and_shows_defaults():
    text = run("--help")
    flags = [line.split()[0] for line in text.splitlines() if line.startswith("  --")]
    assert flags == ["--size", "--edge", "--keep", "--rate", "--name", "--help"]
    assert "Rate.  [default: 0.5]" in text


@pytest.mark.parametrize("arguments", [("--size", "0"), ("--edge", "clip")])
def test_values_outside_the_choices_are_usage_errors(arguments):
    assert CliRunner().invoke(show, arguments).exit_code == 2
