"""Figures as SVG for a page, whose colours they follow."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Any

from dnamamba.reports import figures

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# Variables of templates/report.css.
_NAMES = ("ink", "quiet", "rule", "paper", "blue", "orange", "green", "purple")
_VARIABLES = {getattr(figures, name.upper()): f"var(--{name})" for name in _NAMES}
_VARIABLES |= {figures.TONES[i]: f"var(--tone{i})" for i in (1, 2, 3)}
_STYLE: Any = {"svg.fonttype": "none", "font.size": 12, "text.parse_math": False}
_WIDE, _NARROW = (880, 400), (380, 330)
_SHORT = re.compile(r"(\.\d\d)\d+")


def draw(
    title: str,
    figure: Callable[..., Any],
    *data: Any,
    size: tuple[int, int] = (400, 370),
    **options: Any,
) -> "Markup":
    """One of `figures` as an <svg> element.

    title: for screen readers. size: width and height in CSS pixels.
    """
    from markupsafe import Markup

    label = figures.plain_text(title)
    salt = f"{label} {size[0]}"  # makes ids unique in the page
    svg = _drawn(size, salt, lambda ax: figure(*data, **options, ax=ax))
    root, used = ET.fromstring(svg), set(re.findall(r"#(\w+)", svg))
    for element in list(root.iter()):
        _tidy(element, used)
    root.attrib.clear()
    root.attrib |= {"role": "img", "aria-label": label, "viewBox": f"0 0 {size[0]} {size[1]}"}
    return Markup(ET.tostring(root, encoding="unicode"))


def _drawn(size: tuple[int, int], salt: str, figure: Callable[["Axes"], Any]) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser's fonts have them
        whole = Figure((size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        whole.patch.set_visible(False)
        axes = whole.add_subplot()
        axes.patch.set_visible(False)
        figure(axes)
        FigureCanvasSVG(whole).print_svg(file)  # savefig draws twice
    return file.getvalue().decode()


def draw_both(title: str, figure: Callable[..., Any], *data: Any, **options: Any) -> "list[Markup]":
    """The figure for wide pages, and for phones and narrow windows."""
    return [draw(title, figure, *data, size=size, **options) for size in (_WIDE, _NARROW)]


def _tidy(element: ET.Element, used: Container[str]) -> None:
    """Drop fonts, white space, decimals and unused ids; make colours variables, tooltips titles."""
    element.tag, element.tail = element.tag.rpartition("}")[2], None
    element.text = element.text if element.tag == "text" else None
    for child in element.findall("{*}metadata") + element.findall("{*}style"):
        element.remove(child)
    for name, value in element.items():
        if name == "style":
            value = re.sub(r"#[0-9a-f]{6}", lambda hex: _VARIABLES.get(hex[0], hex[0]), value)
            element.set(name, re.sub(r"font-family: [^;]*;? ?", "", value))
        elif (name == "id" and value not in used) or value.startswith("rotate(-0 "):
            del element.attrib[name]
        elif name in ("d", "x", "y", "transform"):
            element.set(name, _SHORT.sub(r"\1", value))
        elif name.startswith("{"):  # xlink:href
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
        if name == "id" and value.startswith(figures.TIP):
            tip = ET.Element("title")
            tip.text = value.removeprefix(figures.TIP)
            element.insert(0, tip)
