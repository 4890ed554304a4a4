"""Figures as SVG for a page, whose colours they follow."""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
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

    root = ET.fromstring(_drawn(size, lambda ax: figure(*data, **options, ax=ax)))
    _tidy(root)
    _rename_ids(root, re.sub(r"\W+", "-", f"{title} {size[0]}".lower()))
    root.attrib.clear()
    label = figures.plain_text(title)
    root.attrib |= {"role": "img", "aria-label": label, "viewBox": f"0 0 {size[0]} {size[1]}"}
    return Markup(ET.tostring(root, encoding="unicode"))


def _drawn(size: tuple[int, int], figure: Callable[["Axes"], Any]) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser's fonts have them
        whole = Figure((size[0] / 72, size[1] / 72), dpi=72, layout="constrained")
        whole.patch.set_visible(False)
        axes = whole.add_subplot()
        axes.patch.set_visible(False)
        figure(axes)
        FigureCanvasSVG(whole).print_svg(file)  # savefig draws twice
    return file.getvalue()


def draw_both(title: str, figure: Callable[..., Any], *data: Any, **options: Any) -> "list[Markup]":
    """The figure for wide pages, and for phones and narrow windows."""
    return [draw(title, figure, *data, size=size, **options) for size in (_WIDE, _NARROW)]


def _tidy(root: ET.Element) -> None:
    """Drop fonts, white space and decimals; make colours variables."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for child in element.findall("{*}metadata") + element.findall("{*}style"):
            element.remove(child)
        for name, value in element.items():
            if name == "style":
                value = re.sub(r"#[0-9a-f]{6}", lambda hex: _VARIABLES.get(hex[0], hex[0]), value)
                element.set(name, re.sub(r"font-family: [^;]*;? ?", "", value))
            elif value.startswith("rotate(-0 "):
                del element.attrib[name]
            elif name in ("d", "x", "y", "transform"):
                element.set(name, _SHORT.sub(r"\1", value))
        element.tail = None
        if element.tag != "text":
            element.text = None


def _rename_ids(root: ET.Element, figure: str) -> None:
    """Make ids that are referred to unique to this figure, and tooltips titles."""
    names: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return "#" + names.setdefault(found[1], f"{figure}-{len(names)}")

    for element in root.iter():
        for name in [name for name in element.attrib if name.endswith(("href", "clip-path"))]:
            link = re.sub(r"#([^)]+)", renamed, element.attrib.pop(name))
            element.set(name.rpartition("}")[2], link)
    for element in root.iter():
        identity = element.attrib.pop("id", "")
        if identity in names:
            element.set("id", names[identity])
        elif identity.startswith(figures.TIP):
            tip = ET.Element("title")
            tip.text = identity.removeprefix(figures.TIP)
            element.insert(0, tip)
