"""How charts and report.html look: light and dark, wide and narrow, on paper."""

import re

LIGHT = {
    "paper": "#fff",
    "ink": "#1b1f24",
    "quiet": "#5a6470",
    "rule": "#d9dee4",
    "box": "#f5f7f9",
    "blue": "#0072b2",
    "orange": "#c44e00",
    "green": "#00795a",
    "purple": "#94507e",
}
DARK = {
    "paper": "#14181d",
    "ink": "#e6e9ec",
    "quiet": "#a3adb8",
    "rule": "#343c45",
    "box": "#1d232a",
    "blue": "#5bb6ec",
    "orange": "#f0a03c",
    "green": "#2fc79d",
    "purple": "#dd94c3",
}


def _as_variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def with_fixed_colours(css: str) -> str:
    """The same in light colours, for files that viewers without CSS variables open."""
    return re.sub(r"var\(--(\w+)\)", lambda found: LIGHT[found[1]], css)


CHARTS = """
text { font-size: 12px; fill: var(--quiet); }
polyline, line, circle { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.grid { stroke: var(--rule); stroke-width: 1; }
"""

_COLOURS = f"""
:root {{ color-scheme: light dark; {_as_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_as_variables(DARK)} }} }}
"""

_PAGE = """
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .5rem; }
p { margin: .25rem 0; } .quiet, figcaption, thead th, dt, dd + dd { color: var(--quiet); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: .75rem;
  margin: 1.25rem 0 .75rem; }
.cards div { background: var(--box); border: 1px solid var(--rule); border-radius: 8px;
  padding: .6rem .9rem; }
dt, dd + dd { font-size: .85rem; } dd { margin: 0; } dt + dd { font-size: 1.7rem; font-weight: 600;
  font-variant-numeric: tabular-nums; line-height: 1.3; }
.verdict { font-weight: 600; }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; } .narrow { display: none; }
.raw { stroke: var(--blue); stroke-opacity: .45; stroke-width: 1; }
.smooth { stroke: var(--blue); stroke-width: 2; } .valid { stroke: var(--orange); }
.spot { fill: var(--orange); stroke: var(--paper); }
.best { stroke: var(--green); stroke-dasharray: 8 4; }
.reference { stroke: var(--purple); stroke-dasharray: 3 3; }
.uniform { stroke: var(--quiet); stroke-dasharray: 1 4; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.25rem; font-size: .85rem; }
.key { display: inline; width: 24px; height: 10px; }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(250px, 1fr)); gap: 1rem;
  margin-top: 1.5rem; } .small figcaption { font-size: .85rem; }
.small svg { max-width: 370px; }
table { border-collapse: collapse; font-size: .9rem; margin-top: .5rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; font-weight: 400;
  border-bottom: 1px solid var(--rule); overflow-wrap: anywhere; }
.numbers td, .numbers th { text-align: right; font-variant-numeric: tabular-nums; }
.settings { width: 100%; } .settings th { width: 40%; color: var(--quiet); }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; } }
@media print { body { font-size: 13px; } main { max-width: none; padding: 0; }
  .small { grid-template-columns: repeat(3, 1fr); } h2 { break-after: avoid; }
  figure, .cards div, tr { break-inside: avoid; }
  .wide { display: block; } .narrow { display: none; } }
"""

# Curves differ in their dashes too, for eyes and printers without colours.
_LABELS = """
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 1.5rem; }
.pair svg { max-width: 440px; } .pair .keys { margin-top: .2rem; }
.series0 { stroke: var(--blue); stroke-width: 2; }
.series1 { stroke: var(--orange); stroke-width: 2; stroke-dasharray: 7 3; }
.series2 { stroke: var(--green); stroke-width: 2; stroke-dasharray: 2 3; }
.series3 { stroke: var(--purple); stroke-width: 2; stroke-dasharray: 9 3 2 3; }
.series4 { stroke: var(--ink); stroke-dasharray: 4 4; }
.series5 { stroke: var(--quiet); stroke-dasharray: 12 4; }
.whole { stroke-dasharray: none; stroke-width: 1.5; }
.series0.dot { fill: var(--blue); } .series1.dot { fill: var(--paper); stroke-dasharray: none; }
.speck { fill: var(--blue); fill-opacity: .5; stroke: none; } .bar { fill: var(--rule); }
.point0 { stroke: var(--blue); fill: var(--blue); }
.point1 { stroke: var(--orange); fill: var(--orange); }
.point2 { stroke: var(--green); fill: var(--green); }
.point3 { stroke: var(--purple); fill: var(--purple); }
.point4 { stroke: var(--ink); fill: var(--ink); }
.point5 { stroke: var(--rule); fill: var(--rule); }
.tone0 { --tone: var(--blue); }
.tone1 { --tone: color-mix(in srgb, var(--blue) 75%, var(--orange)); }
.tone2 { --tone: color-mix(in srgb, var(--blue) 50%, var(--orange)); }
.tone3 { --tone: color-mix(in srgb, var(--blue) 25%, var(--orange)); }
.tone4 { --tone: var(--orange); }
.tone { stroke: var(--tone); fill: var(--tone); }
circle.point { stroke: none; fill-opacity: .6; } line.tone { stroke-width: 4; }
.matrix { max-width: 640px; } .cell { fill: var(--box); } .heat { fill: var(--blue); }
.matrix .strong { fill: var(--paper); font-weight: 600; } .matrix .weak { fill: var(--ink); }
.scroll { overflow-x: auto; } .labels th, .labels td { white-space: nowrap; }
.labels th:first-child, .pairs td:nth-child(2), .pairs th:nth-child(2) { text-align: left; }
"""

STYLE = _COLOURS + CHARTS + _PAGE + _LABELS
