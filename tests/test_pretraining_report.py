"""The report: complete, self-contained, and readable whatever part of a run is missing."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from dnamamba.errors import InputError
from dnamamba.pretraining.report import write_report
from report_pages import CONFIG, MANIFEST, SIMULATED, Page, draw_nothing, make_run


def row(split: str, step: int, bits: float, **more: Any) -> dict[str, Any]:
    nats = bits * math.log(2)
    tokens = step * 1000
    values = {"loss": nats, "bits_per_base": bits, "perplexity": math.exp(nats), "tokens": tokens}
    if split == "train":
        values |= {"learning_rate": 0.008, "grad_norm": 0.5, "tokens_per_s": 2e4}
        values |= {"elapsed_s": step * 0.5}
    return {"split": split, "step": step} | values | more


BASELINE = {
    "orders": [{"order": k, "bits_per_base": 1.99 - 0.01 * k} for k in range(6)],
    "best_order": 5,
    "train_bases": 1_000_000,
    "targets": 10_000,
}
ROWS = [
    row("valid", 0, 3.2),
    *(row("train", step, 1.9 + 2 / step) for step in range(10, 401, 10)),
    row("valid", 200, 1.9211),
    row("valid", 400, 1.9012),
]


@pytest.fixture
def with_figures() -> None:
    """Asked for by tests of figures; others read the words alone."""


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("dnamamba.reports.svg._drawn", draw_nothing)


def read_report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf8"))


@pytest.fixture
def whole_run(tmp_path: Path) -> Path:
    return make_run(tmp_path, ROWS, config=CONFIG, manifest=MANIFEST, baseline=BASELINE)


def test_the_page_says_what_was_trained_on_what_and_how_it_ended(whole_run: Path) -> None:
    text = read_report(whole_run).text
    assert "mamba, 4 layers, width 128, 471,808 parameters" in text
    assert f"Data: {SIMULATED}" in text
    assert "Finished after step 400 of 400" in text
    assert "2026-11-22 10:13:00 UTC" in text
    assert "400 thousand tokens" in text


def test_the_headline_holds_the_model_against_markov_models(whole_run: Path) -> None:
    text = read_report(whole_run).text
    assert f"1.9012 perplexity {2**1.9012:.4f}, step 400" in text
    assert "0.0388 bits per base better than the best Markov model (order 5)" in text
    assert "0.0588 bits per base better than the Markov model of order 3" in text


def test_a_model_that_lost_is_said_to_be_worse(tmp_path: Path) -> None:
    rows = [row("valid", 100, 1.93), row("valid", 200, 1.95)]
    text = read_report(make_run(tmp_path, rows, baseline=BASELINE)).text
    assert "0.0100 bits per base worse than the best Markov model (order 5)" in text
    assert "Its lowest validation was 1.9300 at step 100." in text


def test_order_three_is_named_once_where_it_is_the_best(tmp_path: Path) -> None:
    baseline = {"orders": BASELINE["orders"][:4], "best_order": 3}  # type: ignore[index]
    text = read_report(make_run(tmp_path, ROWS, baseline=baseline)).text
    assert text.count("Markov order 3, the best order") == 1
    assert "and 0." not in text


def test_every_markov_order_is_listed_with_its_bits(whole_run: Path) -> None:
    text = read_report(whole_run).text
    for order in range(5):
        bits = 1.99 - 0.01 * order
        assert f"{order} {bits:.4f} {bits - 1.9012:+.4f}" in text


def test_settings_and_manifest_are_listed_with_dotted_keys(whole_run: Path) -> None:
    text = read_report(whole_run).text
    assert "train.betas 0.9, 0.95" in text
    assert "train.softmask_weight none" in text
    assert "data.files[0].sha256 " + "ab12" * 16 in text


def test_nothing_is_fetched_from_anywhere(whole_run: Path, with_figures: None) -> None:
    source = write_report(whole_run).read_text()
    Page(source).assert_nothing_is_fetched()
    assert "http" not in source
    assert "url(" not in source.replace("url(#", "")
    assert "@import" not in source


def test_it_is_made_for_dark_screens_phones_and_paper(whole_run: Path) -> None:
    source = write_report(whole_run).read_text()
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert 'name="viewport"' in source


def test_figures_show_validations_baselines_and_training(
    whole_run: Path, with_figures: None
) -> None:
    """The validation before training (3.2 bits) lies above: the frame is for what came after."""
    text = read_report(whole_run).text
    assert text.count("step 200: 1.9211 bits per base") == 2, "for wide pages and for phones"
    assert "step 400: 1.9012 bits per base" in text
    assert "3.2 bits" not in text
    for part in ("smoothed", "validation", "Markov order 5 1.94", "uniform 2", "thousand tokens"):
        assert part in text
    for title in ("Learning rate", "Throughput, tokens per second", "Gradient norm"):
        assert title in text


def test_soft_masked_bases_that_count_less_are_mentioned(tmp_path: Path) -> None:
    text = read_report(make_run(tmp_path, ROWS, config={"train": {"softmask_weight": 0.1}})).text
    assert "Soft-masked bases count less in the training loss" in text


def test_a_long_run_stays_a_small_file(tmp_path: Path, with_figures: None) -> None:
    rows = [row("train", step, 1.9 + 0.01 * math.sin(step)) for step in range(1, 20_001)]
    assert write_report(make_run(tmp_path, rows)).stat().st_size < 100_000


@pytest.mark.parametrize("missing", ["config", "manifest", "baseline", "rows"])
def test_each_part_may_be_missing(tmp_path: Path, missing: str) -> None:
    parts: dict[str, Any] = {
        "config": CONFIG,
        "manifest": MANIFEST,
        "baseline": BASELINE,
        "rows": ROWS,
    }
    del parts[missing]
    text = read_report(make_run(tmp_path, **parts)).text
    assert ("1.9012" in text) == (missing != "rows")
    if missing != "rows":
        assert f"{missing}.json is not there yet" in text


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    text = read_report(tmp_path).text
    assert f"Run {tmp_path.name}" in text
    assert "No validation yet." in text
    assert "No step has been logged yet." in text


@pytest.mark.parametrize("only", [row("valid", 0, 2.3), row("train", 10, 2.3)])
def test_one_point_makes_a_figure(tmp_path: Path, only: dict[str, Any], with_figures: None) -> None:
    page = read_report(make_run(tmp_path, [only], config=CONFIG, baseline=BASELINE))
    assert "use" in page.tags, "the dot"
    assert f"Running, or cut off: last seen at step {only['step']} of 400" in page.text


def test_a_truncated_last_line_is_passed_over(whole_run: Path) -> None:
    with open(whole_run / "metrics.jsonl", "a") as file:
        file.write('{"split": "valid", "step": 500, "bits_per_b')
    assert "step 400" in read_report(whole_run).text


def test_losses_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    rows = [*ROWS, row("train", 410, math.nan), row("valid", 410, math.inf)]
    source = write_report(make_run(tmp_path, rows)).read_text()
    assert "nan" not in source
    assert "1.9012" in source


def test_every_string_is_escaped(tmp_path: Path) -> None:
    attack = "<script>alert('$x$ &amp;')</script>"
    folder = make_run(
        tmp_path,
        ROWS,
        config={"model": {"mixer": {"kind": attack}}, attack: attack},
        manifest={"data": {"description": attack}, "ended": {"step": 400, "stopped_by": attack}},
        baseline=BASELINE,
    )
    page = read_report(folder)
    page.assert_nothing_is_fetched()
    assert page.text.count(attack) >= 6


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    stopped = MANIFEST | {"ended": {"at": "now", "step": 400, "stopped_by": "SIGTERM"}}
    text = read_report(make_run(tmp_path, ROWS, manifest=stopped)).text
    assert "Stopped by SIGTERM after step 400" in text


def test_a_resumed_run_is_running_and_its_time_adds_up(tmp_path: Path) -> None:
    rows = [
        row("train", 100, 2.0, elapsed_s=60.0),
        row("train", 200, 1.9, elapsed_s=70.0),
        row("train", 300, 1.9, elapsed_s=10.0),
    ]
    ended = {"at": "2026-11-22T10:13:00+00:00", "step": 200, "stopped_by": "SIGINT"}
    text = read_report(make_run(tmp_path, rows, manifest={"ended": ended})).text
    assert "Running, or cut off: last seen at step 300" in text
    assert "1 min 20 s" in text
    assert "2026-11-22 10:13" not in text


def test_writing_again_replaces_the_page_and_leaves_nothing_else(whole_run: Path) -> None:
    before = set(whole_run.iterdir()) | {whole_run / "report.html"}
    write_report(whole_run)
    make_run(whole_run, [*ROWS, row("valid", 410, 1.8888)])
    assert "1.8888" in read_report(whole_run).text
    assert set(whole_run.iterdir()) == before


def test_training_waits_for_a_report_once_a_minute(whole_run: Path) -> None:
    path = write_report(whole_run, is_running=True)
    make_run(whole_run, [*ROWS, row("valid", 410, 1.8888)])
    write_report(whole_run, is_running=True)
    assert "1.8888" not in path.read_text()
    os.utime(path, (0, 0))
    write_report(whole_run, is_running=True)
    assert "1.8888" in path.read_text()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[1]", "got a list")])
def test_a_damaged_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=f"manifest.json .*{message}"):
        write_report(tmp_path)
