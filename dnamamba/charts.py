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
