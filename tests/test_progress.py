"""What a run shows of itself: plain lines in a log, one live line on a terminal."""

import io
import logging
import re

import pytest
from rich.console import Console

from dnamamba.pretraining.validation import describe_row
from dnamamba.training import progress
from dnamamba.training.progress import TrainingProgress, format_rate


def trained(step, **more):
    row = {"split": "train", "step": step, "bits_per_base": 1.9, "tokens_per_s": 2.5e6}
    return row | more


def validated(step):
    return {"split": "valid", "step": step, "bits_per_base": 1.91234, "perplexity": 3.76}


@pytest.fixture
def log(caplog, monkeypatch):
    """The library's lines, whether or not an entry point set up logging before."""
    monkeypatch.setattr(logging.getLogger("dnamamba"), "propagate", True)
    caplog.set_level(logging.INFO, "dnamamba")
    return caplog


@pytest.fixture
def console(monkeypatch):
    """Returns a function that makes progress write to a console in memory and gives its text."""

    def use(*, is_terminal: bool) -> io.StringIO:
        screen = io.StringIO()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(
            progress,
            "Console",
            lambda **_: Console(file=screen, force_terminal=is_terminal, width=100),
        )
        return screen

    return use


def words_on(screen):
    """The text of all redraws, without the codes that move the cursor and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (1234567.0, "1.23 Mb/s"),
        (1e6, "1.00 Mb/s"),
        (999_949, "999.9 kb/s"),
        (1500, "1.5 kb/s"),
        (0, "0.0 kb/s"),
    ],
)
def test_format_rate_counts_in_thousands_or_millions(per_second, text):
    assert format_rate(per_second) == text


def test_a_log_gets_a_line_for_each_row(console, log):
    screen = console(is_terminal=False)
    with TrainingProgress(100, summary=describe_row) as shown:
        shown.validated(validated(0))
        shown.advanced(9)
        shown.trained(trained(10))
        shown.trained(trained(20, gpu_memory_gib=12.34))
    first, second, third = log.messages
    assert first == "step 0: validation 1.9123 bits/base, perplexity 3.7600"
    assert re.fullmatch(r"step 10/100: train 1.9000 bits/base, 2.50 Mb/s, \d+:\d\d left", second)
    assert "2.50 Mb/s, 12.3 GiB, " in third
    assert screen.getvalue().strip() == ""


def test_the_time_left_counts_only_this_process_steps(console, log, monkeypatch):
    """Resumed at 50 of 100; 10 steps took 60 s, so the 40 left take 240 s."""
    console(is_terminal=False)
    times = iter([1000.0, 1060.0])
    shown = TrainingProgress(100, first_step=50, summary=describe_row)
    monkeypatch.setattr(shown, "_started", next(times))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    shown.trained(trained(60))
    assert log.messages[0].endswith("4:00 left")


def test_a_terminal_has_one_live_line_with_validations_above(console, log):
    screen = console(is_terminal=True)
    with TrainingProgress(100, first_step=50, summary=describe_row) as shown:
        shown.trained(trained(60))
        shown.validated(validated(60))
        shown.advanced(61)
    text = words_on(screen)
    assert "61/100" in text
    assert "1.9000 bits/base, 2.50 Mb/s" in text
    assert "step 60: validation 1.9123 bits/base, perplexity 3.7600" in text
    assert log.messages == []


def test_the_cursor_is_given_back_when_training_fails(console):
    screen = console(is_terminal=True)
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        TrainingProgress(100, summary=describe_row),
    ):
        raise RuntimeError("out of memory")
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_other_ranks_are_silent(console, log, is_terminal):
    screen = console(is_terminal=is_terminal)
    with TrainingProgress(100, enabled=False, summary=describe_row) as shown:
        shown.trained(trained(10))
        shown.advanced(11)
        shown.validated(validated(20))
    assert words_on(screen).strip() == ""
    assert log.messages == []
