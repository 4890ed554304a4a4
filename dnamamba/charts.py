"""Line charts as inline SVG, drawn without a plotting library so that a report needs none."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
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

    def x(self, value: float) -> float:
        low, high = self.x_range
        _, right, _, left = self.margins
        return left + (value - low) / (high - low) * (self.width - left - right)

    def y(self, value: float) -> float:
        low, high = self.y_range
        top, _, bottom, _ = self.margins
        return self.height - bottom - (value - low) / (high - low) * (self.height - top - bottom)

    def line(self, points: Sequence[Point], style: str) -> str:
        if len(points) == 1:
            (x, y) = points[0]
            return f'<circle class="{style}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="2.5"/>'
        drawn = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in thinned(points))
        return f'<polyline class="{style}" points="{drawn}"/>'

    def across(self, value: float, style: str) -> str:
        return self.line([(self.x_range[0], value), (self.x_range[1], value)], style)

    def text(self, x: float, y: float, text: str, anchor: str = "middle") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'

    def grid(self, unit: str, y_ticks: int = 5) -> str:
        """Horizontal lines with their values, and the x axis in `unit`s of a readable size."""
        left, base = self.margins[3], self.height - self.margins[2]
        parts = []
        for value, label in ticks(*self.y_range, y_ticks):
            parts.append(self.across(value, "grid"))
            parts.append(self.text(left - 6, self.y(value) + 4, label, "end"))
        scale, word = scale_of(self.x_range[1])
        for value, label in ticks(0, self.x_range[1] / scale, int(self.width / 80)):
            parts.append(self.text(self.x(value * scale), base + 17, label))
        middle = (left + self.width - self.margins[1]) / 2
        parts.append(self.text(middle, base + 34, word + unit))
        return "".join(parts)

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


def ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values, with labels."""
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * n for n in (1, 2, 5, 10)), key=lambda size: abs(math.log(size / raw)))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:,.{decimals}f}") for n in range(first, last + 1)]


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
