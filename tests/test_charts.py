"""Charts: where numbers fall on a page, on plain and on logarithmic axes."""

import pytest

from dnamamba.reports.figures import Frame, LogFrame, log_ticks, spread, ticks


def test_a_frame_maps_its_ranges_to_what_its_margins_leave():
    frame = Frame(100, 60, (10, 20, 5, 30), (0, 4), (0, 2))
    assert [frame.x(value) for value in (0, 2, 4)] == [30, 55, 80]
    assert [frame.y(value) for value in (0, 2)] == [55, 10], "upwards is less in SVG"


def test_on_logarithmic_axes_equal_factors_are_equal_distances():
    frame = LogFrame(100, 60, (10, 20, 5, 30), (512, 8192), (1, 100))
    assert [frame.x(value) for value in (512, 2048, 8192)] == pytest.approx([30, 55, 80])
    assert frame.y(10) == pytest.approx((55 + 10) / 2)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.02, 900, ["0.1", "1", "10", "100"]),
        (0.02, 30_000, ["0.1", "1", "10", "100", "1,000", "10,000"]),
        (3, 70, ["5", "10", "20", "50"]),
    ],
)
def test_logarithmic_ticks_are_powers_of_ten_or_where_these_are_few_more(low, high, labels):
    assert list(log_ticks(low, high).values()) == labels


def test_plain_ticks_are_round():
    assert ticks(0, 10, 5) == [(0, "0"), (2, "2"), (4, "4"), (6, "6"), (8, "8"), (10, "10")]


def test_labels_that_would_overlap_move_apart_and_others_stay():
    assert spread([100, 200], 15) == [100, 200]
    assert spread([104, 100], 15) == pytest.approx([109.5, 94.5])
    three = spread([100, 100, 100], 15)
    assert three == pytest.approx([85, 100, 115], abs=0.1)


def test_a_file_of_its_own_is_a_whole_svg():
    frame = LogFrame(100, 60, (10, 20, 5, 30), (1, 10), (1, 10))
    drawn = frame.file(frame.powers({1: "one"}, {10: "ten"}), "a < b", "text {}")
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert 'aria-label="a &lt; b"' in drawn
    assert ">one</text>" in drawn
    assert ">ten</text>" in drawn
