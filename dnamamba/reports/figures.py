"""Line charts as SVG, drawn without a plotting library so that a report needs none."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

Point = tuple[float, float]

_POINTS_DRAWN = 600


@dataclass(frozen=True)
class Frame:
    """Where numbers fall in a drawing. Sizes in SVG units; margins are top, right, bottom, left."""

    width: float
    height: float
    margins: tuple[float, float, float, float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def share(self, value: float, limits: tuple[float, float]) -> float:
        """How far along an axis a number lies, 0 to 1."""
        low, high = limits
        return (value - low) / (high - low)

    def x(self, value: float) -> float:
        _, right, _, left = self.margins
        return left + self.share(value, self.x_range) * (self.width - left - right)

    def y(self, value: float) -> float:
        top, _, bottom, _ = self.margins
        return self.height - bottom - self.share(value, self.y_range) * (self.height - top - bottom)

    def line(self, points: Sequence[Point], style: str) -> str:
        if len(points) == 1:
            (x, y) = points[0]
            return f'<circle class="{style}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.5"/>'
        drawn = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in thinned(points))
        return f'<polyline class="{style}" points="{drawn}"/>'

    def across(self, value: float, style: str) -> str:
        return self.line([(self.x_range[0], value), (self.x_range[1], value)], style)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
        named = f' class="{style}"' if style else ""
        return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    def grid(self, unit: str, y_ticks: int = 5) -> str:
        """Horizontal lines with their values, and the x axis in `unit`s of a readable size."""
        base = self.height - self.margins[2]
        parts = [self.horizontals(y_ticks)]
        scale, word = scale_of(self.x_range[1])
        for value, label in ticks(0, self.x_range[1] / scale, int(self.width / 80)):
            parts.append(self.text(self.x(value * scale), base + 17, label))
        parts.append(self._x_title(word + unit))
        return "".join(parts)

    def horizontals(self, y_ticks: int = 5) -> str:
        """Horizontal lines with their values."""
        left = self.margins[3]
        parts = []
        for value, label in ticks(*self.y_range, y_ticks):
            parts.append(self.across(value, "grid"))
            parts.append(self.text(left - 6, self.y(value) + 4, label, "end"))
        return "".join(parts)

    def verticals(self, title: str, x_ticks: int = 3) -> str:
        """Vertical lines with their values below, and what they are."""
        top, base = self.margins[0], self.height - self.margins[2]
        parts = [self._x_title(title)]
        for value, label in ticks(*self.x_range, x_ticks):
            x = f"{self.x(value):.1f}"
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{base}"/>')
            parts.append(self.text(self.x(value), base + 17, label))
        return "".join(parts)

    def _x_title(self, title: str) -> str:
        middle = (self.margins[3] + self.width - self.margins[1]) / 2
        return self.text(middle, self.height - self.margins[2] + 34, title)

    def clipped(self, drawing: str) -> str:
        """The drawing without what lies outside the axes: a nested svg cuts at its edges."""
        top, right, bottom, left = self.margins
        width, height = self.width - left - right, self.height - top - bottom
        area = f"{left} {top} {width} {height}"
        box = f'x="{left}" y="{top}" width="{width}" height="{height}" viewBox="{area}"'
        return f"<svg {box}>{drawing}</svg>"

    def svg(self, drawing: str, label: str, style: str) -> str:
        return (
            f'<svg class="{style}" role="img" aria-label="{escape(label)}" '
            f'viewBox="0 0 {self.width} {self.height}">{drawing}</svg>'
        )

    def file(self, drawing: str, label: str, css: str) -> str:
        """A drawing that stands alone: a whole SVG file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" '
            f'width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}">'
            f'<style>{css}</style><rect class="paper" width="100%" height="100%"/>{drawing}</svg>\n'
        )


class LogFrame(Frame):
    """A frame whose axes are both logarithmic; its numbers are above 0."""

    def share(self, value: float, limits: tuple[float, float]) -> float:
        low, high = limits
        return math.log(value / low) / math.log(high / low)

    def powers(self, x_labels: Mapping[float, str], y_labels: Mapping[float, str]) -> str:
        """Lines across and up at the numbers named, with their names."""
        left, base, top = self.margins[3], self.height - self.margins[2], self.margins[0]
        parts = []
        for value, label in y_labels.items():
            parts += [
                self.across(value, "grid"),
                self.text(left - 6, self.y(value) + 4, label, "end"),
            ]
        for value, label in x_labels.items():
            x = f"{self.x(value):.1f}"
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{base}"/>')
            parts.append(self.text(self.x(value), base + 17, label))
        return "".join(parts)


def ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values, with labels."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * n for n in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> dict[float, str]:
    """Powers of ten between two values with labels; 2 and 5 times these where they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 2, 5)):
        found = [n * 10.0**power for power in range(first, last + 1) for n in steps]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) > 2:
            break
    return {value: f"{value:,.0f}" if value >= 1 else f"{value:g}" for value in found}


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places for labels, in the order given, at least `gap` apart and near where they belong."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    for _ in range(100):
        for above, below in pairwise(order):
            short = gap - (places[below] - places[above])
            if short > 1e-6:
                places[above] -= short / 2
                places[below] += short / 2
    return places


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Every n-th point, so that long runs stay small files, and always the last."""
    stride = math.ceil(len(points) / _POINTS_DRAWN) or 1
    return [*points[:-1:stride], *points[-1:]]


def smoothing_reach(points: Sequence[Any]) -> int:
    """How many neighbours on each side count; 0 where there are too few points to smooth."""
    return len(points) // 40


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of each point's neighbours, a twentieth of all points.

    The fall at the start is averaged evenly, fewer points the steeper; the end looks back only.
    """
    sums = list(accumulate((y for _, y in points), initial=0.0))
    reach = smoothing_reach(points)
    smooth = []
    for i, (x, _) in enumerate(points):
        first, last = i - min(reach, i), min(i + min(reach, i) + 1, len(points))
        smooth.append((x, (sums[last] - sums[first]) / (last - first)))
    return smooth


def escape(value: Any) -> str:
    """Text for HTML and SVG."""
    return html.escape(str(value))


def scale_of(value: float) -> tuple[float, str]:
    """The power of a thousand a number is read in, and its word with a space behind it."""
    for scale, word in (
        (1e12, "trillion "),
        (1e9, "billion "),
        (1e6, "million "),
        (1e3, "thousand "),
    ):
        if value >= scale:
            return scale, word
    return 1.0, ""


# --- Charts of how well labels are told, as SVG

Row = Mapping[str, Any]

MOST_CLASSES_DRAWN = 40
_MOST_WITH_COUNTS, _MOST_WITH_SHARES = 8, 15
_LONGEST_LABEL = 18


def key(entries: Sequence[tuple[str, str]]) -> str:
    """The legend: (style, text) of each line."""
    return "".join(
        f'<span><svg class="key" viewBox="0 0 24 10"><line class="{style}" x1="1" y1="5" x2="23" '
        f'y2="5"/></svg> {escape(text)}</span>'
        for style, text in entries
    )


def figure(title: str, drawing: str, legend: str = "") -> str:
    keys = f'<div class="keys">{legend}</div>' if legend else ""
    return f"<figure><figcaption>{title}{keys}</figcaption>{drawing}</figure>"


# --- training


def steps_chart(
    frame: Frame,
    style: str,
    title: str,
    lines: Sequence[tuple[str, Sequence[Point]]],
    levels: Sequence[tuple[str, str, float]] = (),
) -> str:
    """Numbers over steps. lines: (style, points), `valid` with spots. levels: (style, name, value)
    of what they are held against, named at the right."""
    parts = [frame.grid("steps")]
    labels = spread([frame.y(value) + 4 for _, _, value in levels], 15)
    for (kind, name, value), label_y in zip(levels, labels, strict=True):
        parts.append(frame.across(value, kind))
        x = frame.width - frame.margins[1] + 6
        parts.append(frame.text(x, label_y, name, "start"))
    for kind, points in lines:
        if points:
            parts.append(frame.clipped(frame.line(points, kind)))
        if kind == "valid":
            parts += [_spot(frame, x, y) for x, y in points if _is_inside(frame, y)]
    return frame.svg("".join(parts), title, style)


def _is_inside(frame: Frame, y: float) -> bool:
    return frame.y_range[0] <= y <= frame.y_range[1]


def _spot(frame: Frame, x: float, y: float) -> str:
    spot = f'class="spot" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5"'
    return f"<circle {spot}><title>step {x:,}: {y:.4g}</title></circle>"


def training_lines(points: Sequence[Point]) -> list[tuple[str, Sequence[Point]]]:
    """A noisy curve and, where there are enough points, its smoothed one before it."""
    if not smoothing_reach(points):
        return [("smooth", points)]
    return [("raw", points), ("smooth", smoothed(points))]


# --- shares of shares


def _share_frame() -> Frame:
    return Frame(340, 330, (26, 14, 44, 44), (0, 1), (0, 1))


def _y_title(frame: Frame, text: str) -> str:
    return frame.text(4, 14, text, "start")


def curve_chart(curves: Sequence[Row], x_title: str, y_title: str, diagonal: bool) -> str:
    """ROC or precision-recall curves; dotted is chance, of the latter where it is one for all."""
    frame = _share_frame()
    parts = [frame.grid(x_title), _y_title(frame, y_title)]
    if diagonal:
        parts.append(frame.line([(0, 0), (1, 1)], "uniform"))
    shares = {curve["share"] for curve in curves if "share" in curve}
    if len(shares) == 1:
        parts.append(frame.across(shares.pop(), "uniform"))
    for n, curve in enumerate(curves):
        parts.append(frame.line([tuple(point) for point in curve["points"]], f"series{n}"))
    return frame.svg("".join(parts), f"{y_title} over {x_title}", "one")


def reliability_chart(rows: Sequence[Row]) -> str:
    """How often each confidence is right, with 95 % intervals; bars are shares of examples."""
    frame = _share_frame()
    total = sum(row["n"] for row in rows)
    parts = [frame.grid("confidence"), _y_title(frame, "share that is right")]
    for row in rows:
        height = frame.y(0) - frame.y(0.3 * row["n"] / total)
        x, width = frame.x(row["from"]), frame.x(row["to"]) - frame.x(row["from"])
        box = f'x="{x + 1:.1f}" y="{frame.y(0) - height:.1f}" width="{width - 2:.1f}"'
        parts.append(f'<rect class="bar" {box} height="{height:.1f}"/>')
    parts.append(frame.line([(0, 0), (1, 1)], "uniform"))
    parts.append(frame.line([(row["confidence"], row["accuracy"]) for row in rows], "series0"))
    for row in rows:
        text = f"{row['confidence']:.0%} sure: right in {row['accuracy']:.1%} of {row['n']:,}"
        parts.append(_whisker(frame, row["confidence"], row, "series0", text))
    return frame.svg("".join(parts), "Share that is right over confidence", "one")


def _whisker(frame: Frame, x: float, row: Row, style: str, text: str, scale: float = 1) -> str:
    """A dot with its interval. x: in the frame's numbers; scale: of the row's shares to them."""
    low, high = (frame.y(scale * limit) for limit in row["interval"])
    at, y = frame.x(x), frame.y(scale * row["accuracy"])
    return (
        f'<line class="{style} whole" x1="{at:.1f}" x2="{at:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<circle class="{style} dot" cx="{at:.1f}" cy="{y:.1f}" r="3.5">'
        f"<title>{escape(text)}</title></circle>"
    )


def length_chart(model: Sequence[Row], baseline: Sequence[Row], chance: float) -> str:
    """Accuracy in % by length of the sequence, with 95 % intervals, beside the baseline's."""
    rows = [*model, *baseline]
    lowest = min(chance, *(row["interval"][0] for row in rows))
    highest = max(chance, *(row["interval"][1] for row in rows))
    pad = 5.0
    limits = (max(0, 100 * lowest - pad), min(100, 100 * highest + pad))
    frame = Frame(700, 300, (26, 70, 44, 44), (-0.5, len(model) - 0.5), limits)
    parts = [
        frame.horizontals(),
        _y_title(frame, "accuracy, %"),
        frame.across(100 * chance, "uniform"),
    ]
    right = frame.width - frame.margins[1]
    parts.append(frame.text(right + 6, frame.y(100 * chance) + 4, "chance", "start"))
    for style, found, aside in (("series0", model, -0.06), ("series1", baseline, 0.06)):
        shift = aside if baseline else 0
        for n, row in enumerate(found):
            text = f"{length_name(row)}: {row['accuracy']:.1%} of {row['n']:,}"
            parts.append(_whisker(frame, n + shift, row, style, text, scale=100))
    base = frame.height - frame.margins[2]
    for n, row in enumerate(model):
        parts.append(frame.text(frame.x(n), base + 17, length_name(row)))
    parts.append(frame.text((frame.margins[3] + right) / 2, base + 34, "bases of the sequence"))
    return frame.svg("".join(parts), "Accuracy by length", "one")


def length_name(row: Row) -> str:
    """`1,024`, `1M` or `200 to 255`."""
    low, high = _size(row["from"]), _size(row["to"])
    return low if row["from"] == row["to"] else f"{low} to {high}"


def _size(bases: int) -> str:
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if bases >= unit and bases % unit == 0:
            return f"{bases // unit:,}{name}"
    return f"{bases:,}"


def dots_chart(points: Sequence[Sequence[float]], name: str) -> str:
    """Predicted over true numbers; the line is where they are equal."""
    values = [value for point in points for value in point]
    low, high = min(values), max(values)
    pad = 0.04 * (high - low) or 1.0
    limits = (low - pad, high + pad)
    frame = Frame(340, 330, (26, 34, 44, 58), limits, limits)
    parts = [frame.horizontals(), frame.verticals(f"{name}, true"), _y_title(frame, "predicted")]
    parts.append(frame.line([(limits[0], limits[0]), (limits[1], limits[1])], "uniform"))
    parts += [
        f'<circle class="speck" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2"/>'
        for x, y in points
    ]
    return frame.svg("".join(parts), f"{name}: predicted over true", "one")


def scatter_chart(
    points: Sequence[Sequence[float]], styles: Sequence[str], x_title: str, y_title: str
) -> str:
    """Dots (x, y), each in its style; a few that lie far out are left outside the frame."""
    ranges = []
    for axis in (0, 1):
        values = sorted(point[axis] for point in points)
        spare = len(values) // 200
        low, high = values[spare], values[-1 - spare]
        pad = 0.06 * (high - low) or 1.0
        ranges.append((low - pad, high + pad))
    frame = Frame(340, 330, (26, 14, 44, 44), ranges[0], ranges[1])
    dots = "".join(
        f'<circle class="point {style}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2"/>'
        for (x, y), style in zip(points, styles, strict=True)
    )
    parts = [frame.horizontals(), frame.verticals(x_title), _y_title(frame, y_title)]
    return frame.svg("".join([*parts, frame.clipped(dots)]), f"{y_title} over {x_title}", "one")


# --- which is taken for which


def confusion_chart(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """Rows are true classes, columns predicted ones; the darker, the larger the share of a row."""
    n = len(labels)
    cell = min(76.0, 560 / n)
    names = [_shortened(label) for label in labels]
    left = 30 + 7.2 * max(map(len, names))
    are_long = 7.2 * max(map(len, names)) > cell - 6
    top = 26 + (5.6 * max(map(len, names)) if are_long else 16)
    width, height = left + n * cell + (60 if are_long else 8), top + n * cell + 8
    frame = Frame(round(width), round(height), (0, 0, 0, 0), (0, 1), (0, 1))
    parts = [frame.text(left, 14, "predicted", "start"), frame.text(4, top - 6, "true", "start")]
    for i, label in enumerate(names):
        x, y = left + (i + 0.5) * cell, top + (i + 0.5) * cell
        if cell >= 12:
            parts.append(frame.text(left - 8, y + 4, label, "end"))
            parts.append(_column_name(frame, x, top - 6, label, are_long))
        for j, count in enumerate(matrix[i]):
            share = count / max(1, sum(matrix[i]))
            tip = f"{labels[i]} predicted as {labels[j]}: {count:,} ({share:.1%})"
            parts.append(_cell(frame, (left + j * cell, top + i * cell), cell, share, tip))
            if n <= _MOST_WITH_SHARES:
                parts.append(_cell_text(frame, (left + (j + 0.5) * cell, y), share, count, n))
    drawn = frame.svg("".join(parts), "Confusion matrix", "matrix")
    size = f"max-width: {frame.width:.0f}px; min-width: {0.8 * frame.width:.0f}px"
    return f'<div class="scroll"><div style="{size}">{drawn}</div></div>'


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _column_name(frame: Frame, x: float, y: float, label: str, is_long: bool) -> str:
    if not is_long:
        return frame.text(x, y, label)
    turned = frame.text(0, 0, label, "start")
    return f'<g transform="translate({x - 4:.1f} {y:.1f}) rotate(-45)">{turned}</g>'


def _cell(frame: Frame, corner: Point, size: float, share: float, tip: str) -> str:
    box = f'x="{corner[0]:.1f}" y="{corner[1]:.1f}" width="{size - 1:.1f}" height="{size - 1:.1f}"'
    paper = f'<rect class="cell" {box}/>'
    return (
        f'{paper}<rect class="heat" {box} fill-opacity="{share:.3f}">'
        f"<title>{escape(tip)}</title></rect>"
    )


def _cell_text(frame: Frame, middle: Point, share: float, count: int, n: int) -> str:
    x, y = middle
    style = "strong" if share > 0.55 else "weak"
    if n > _MOST_WITH_COUNTS:
        return frame.text(x, y + 4, f"{100 * share:.0f}", style=style)
    percent = frame.text(x, y - 1, f"{100 * share:.1f} %", style=style)
    return percent + frame.text(x, y + 15, f"{count:,}", style=style)
