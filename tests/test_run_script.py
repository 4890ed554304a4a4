"""run.py: what each of its commands would start. The commands themselves are run by .ci/run."""

import runpy

import click
import pytest

from dnamamba.cli.main import cli
from runs import REPOSITORY


@pytest.fixture
def script():
    return runpy.run_path(str(REPOSITORY / "run.py"))


@pytest.mark.parametrize("name", ["pretrain", "classify"])
def test_the_demos_are_commands_that_dnamamba_takes(script, name):
    extras, commands = script["job"](["demo", name, "--device", "cpu"])
    assert extras == ""
    assert commands[-1][-2:] == ["--device", "cpu"]
    for command in commands:
        found, arguments = cli, list(command[1:])
        while isinstance(found, click.Group):
            found = found.get_command(click.Context(found), arguments.pop(0))
        # Raises for an option that there is not, and for a value that does not fit.
        found.make_context(found.name, arguments)


@pytest.mark.parametrize("multiplies", [True, False])
def test_the_long_demo_trains_in_bf16_where_the_cpu_multiplies_it(script, multiplies):
    script["job"].__globals__["multiplies_bf16"] = lambda: multiplies
    _, commands = script["job"](["demo", "classify", "--precision", "fp32"])
    said = [command.count("--precision") for command in commands]
    assert said == ([1, 2] if multiplies else [0, 1])
    assert commands[-1][-2:] == ["--precision", "fp32"], "the last one is what counts"


def test_without_a_name_the_demo_is_pretraining(script):
    _, commands = script["job"](["demo", "--steps", "5"])
    assert [command[1] for command in commands] == ["pretrain"]
    assert commands[0][-2:] == ["--steps", "5"]


@pytest.mark.parametrize("options", [[], ["--quick"], ["--full"]], ids=" ".join)
def test_the_suite_and_its_selections_run_on_every_core(script, options):
    extras, ((_, *command),) = script["job"](["test", *options])
    assert extras == "[test]"
    assert command[: 2 + len(options)] == ["-m", "pytest", *options]
    assert command[command.index("-n") + 1] == "auto"


def test_tests_that_are_named_run_in_one_process(script):
    _, ((_, *command),) = script["job"](["test", "--quick", "-k", "tokenizer"])
    assert command == ["-m", "pytest", "--quick", "-k", "tokenizer"]
