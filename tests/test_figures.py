"""Figures: what they draw, and how they stand in a page."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes

from dnamamba.reports import figures
from dnamamba.reports.svg import draw

# Markup, a formula that cannot be parsed, an entity, a control character, a broken letter.
ATTACK = "<b>$\\bad{$ &amp; \x07\udc80"
SHOWN = "<b>$\\bad{$ &amp; ?"
CURVE = {"name": ATTACK, "area": 0.75, "points": [[0, 0], [0.5, 1], [1, 1]], "share": 0.5}
BIN = {"from": 0.5, "to": 1.0, "confidence": 0.8, "accuracy": 0.75, "interval": [0.6, 0.9], "n": 40}
LENGTH = BIN | {"from": 1024, "to": 2048}
LAYER = {"name": ATTACK, "validation_loss": 0.5, "is_best": True}

# Every figure with an example of its data, data's names being an attack.
EXAMPLES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "learning_curve": ([[(1, 2.0), (2, 1.9)], [(2, 1.95)]], {"baselines": {ATTACK: 1.9}}),
    "over_steps": ([[(1, 0.1), (2, 0.2)]], {}),
    "roc_curves": ([[CURVE]], {}),
    "precision_recall_curves": ([[CURVE]], {}),
    "confusion_matrix": ([[ATTACK, "human"], [[3, 1], [0, 0]]], {}),
    "reliability": ([[BIN]], {}),
    "dots_with_intervals": ([[1.0], [0.5], [[0.4, 0.6]]], {"tips": [ATTACK]}),
    "accuracy_by_length": ([[LENGTH], [LENGTH]], {"chance": 0.5}),
    "predicted_over_true": ([[[1.0, 1.1], [2.0, 2.2]]], {"name": ATTACK}),
    "scatter": ([[[0.0, 1.0], [1.0, 0.0]], [0, 1], [ATTACK, "human"]], {}),
    "probe_layers": ([[LAYER, LAYER | {"is_best": False}]], {}),
    "time_over_length": ([{ATTACK: [(512, 1.0), (1024, 2.0)]}], {}),
}


def texts_of(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter("text")]


def tips_of(svg: str) -> list[str]:
    return [tip.text or "" for tip in ET.fromstring(svg).iter("title")]


def labels_of(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_every_public_figure_has_an_example() -> None:
    drawn = {
        name
        for name, value in vars(figures).items()
        if callable(value) and "ax" in getattr(value, "__annotations__", {})
    }
    assert {name for name in drawn if not name.startswith("_")} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_figures_draw_on_given_axes_and_return_them(name: str) -> None:
    data, options = EXAMPLES[name]
    figure, ax = pyplot.subplots()
    assert getattr(figures, name)(*data, **options, ax=ax) is ax
    figure.canvas.draw()  # would parse a formula
    pyplot.close(figure)


@pytest.mark.parametrize("name", EXAMPLES)
def test_names_from_data_are_text_in_an_svg_of_its_own(name: str) -> None:
    data, options = EXAMPLES[name]
    svg = draw(ATTACK, getattr(figures, name), *data, **options)
    root = ET.fromstring(svg)
    assert {element.tag for element in root.iter()} <= {
        *("svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "title")
    }
    assert root.attrib["aria-label"] == SHOWN
    if name not in ("over_steps", "reliability", "accuracy_by_length"):
        assert any(SHOWN[:9] in text for text in [*texts_of(svg), *tips_of(svg)])
    links = [value for element in root.iter() for key, value in element.items() if "href" in key]
    assert all(link.startswith("#") for link in links)
    assert svg == draw(ATTACK, getattr(figures, name), *data, **options)


def test_two_figures_share_no_ids() -> None:
    ids = [
        {element.get("id") for element in ET.fromstring(svg).iter()} - {None}
        for svg in (
            draw("Loss", figures.learning_curve, [(1, 2.0)], [(1, 2.0)]),
            draw("Loss", figures.learning_curve, [(1, 2.0)], [(1, 2.0)], size=(880, 400)),
        )
    ]
    assert ids[0]
    assert ids[0] & ids[1] == set()


def test_colours_follow_the_page() -> None:
    svg = draw("Loss", figures.learning_curve, [(1, 2.0), (2, 1.9)])
    assert "var(--blue)" in svg
    assert "#" not in svg.replace("url(#", "").replace('href="#', "")


def test_without_axes_a_pyplot_figure_is_made() -> None:
    ax = figures.over_steps([(1, 0.1), (2, 0.2)])
    assert ax.figure is pyplot.gcf()
    pyplot.close(pyplot.gcf())


def test_a_learning_curve_shows_validations_and_baselines_after_the_first_fall() -> None:
    train = [(step, 1.9 + 2 / step) for step in range(1, 101)]
    ax = figures.learning_curve(
        train, [(0, 9.0), (50, 1.95)], baselines={"order 3": 1.96, "uniform": 2}, y_label="bits"
    )
    low, high = ax.get_ylim()
    assert 1.9 < low < 1.95
    assert 2 < high < 2.2, "neither the first steps nor the first validation"
    names = ["training", "smoothed", "validation", "order 3 1.96", "uniform 2"]
    assert labels_of(ax) == names
    tips = [line.get_gid() for line in ax.get_lines() if line.get_gid()]
    assert tips == [f"{figures.TIP}step 50: 1.95 bits"]
    pyplot.close(ax.figure)


def test_tokens_are_below_and_steps_above() -> None:
    svg = draw(
        "Loss",
        figures.learning_curve,
        [(0, 2.0), (400, 1.9)],
        tokens_per_step=1000,
        size=(880, 400),
    )
    texts = texts_of(svg)
    assert {"thousand tokens", "step", "400"} <= set(texts)


def test_smoothing_keeps_a_constant_and_long_runs_are_thinned() -> None:
    ax = figures.learning_curve([(step, 2.0) for step in range(20_000)])
    raw, smooth = (np.asarray(line.get_ydata()) for line in ax.get_lines())
    assert smooth == pytest.approx(np.full(600, 2.0))
    assert len(raw) == 600
    pyplot.close(ax.figure)


def test_a_confusion_matrix_shows_shares_and_counts() -> None:
    svg = draw("Confusion", figures.confusion_matrix, ["gorilla", "human"], [[3, 1], [0, 0]])
    assert {"75.0 %", "25.0 %", "3", "predicted", "true"} <= set(texts_of(svg))
    assert "gorilla predicted as human: 1 (25.0%)" in tips_of(svg)


def test_a_legend_has_names_that_start_with_an_underscore() -> None:
    ax = figures.scatter([[0.0, 1.0], [1.0, 0.0]], [0, 1], ["_a", "b"])
    assert [name.strip("\u200b") for name in labels_of(ax)] == ["_a", "b"]
    pyplot.close(ax.figure)


def test_lengths_are_sizes_if_they_are_round() -> None:
    rows = [{"from": a, "to": b} for a, b in ((1024, 1024), (1 << 20, 1 << 20), (200, 255))]
    assert [figures.length_name(row) for row in rows] == ["1k", "1M", "200 to 255"]


def test_importing_dnamamba_and_help_load_no_plotting_library() -> None:
    code = (
        "import sys, dnamamba, dnamamba.pretraining.report, dnamamba.classification.report\n"
        "from dnamamba.cli.main import main\n"
        "assert not {'matplotlib', 'jinja2'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_figure_can_be_drawn_twice_on_the_same_axes():
    ax = figures.confusion_matrix(["a", "b"], [[3, 1], [0, 2]])
    assert figures.confusion_matrix(["a", "b"], [[3, 1], [0, 2]], ax=ax) is ax
