"""Time against length on logarithmic axes: figure 8 (left) of the Mamba paper, on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dnamamba.bench.operators import OPERATORS, SCAN, Where
from dnamamba.bench.scan import ScanRow
from dnamamba.errors import InputError
from dnamamba.intervals import format_size
from dnamamba.reports.figures import LogFrame, Point, log_ticks, spread
from dnamamba.reports.page import CHARTS, LIGHT, with_fixed_colours

_COLOURS = {SCAN: "blue", "attention": "orange", "fft_convolution": "green"}
_Y_TITLE = "forward and backward, milliseconds"
_X_TITLE = "sequence length"
_STYLE = with_fixed_colours(
    CHARTS
    + """
text { font-family: system-ui, "Segoe UI", Roboto, Helvetica, sans-serif; }
.paper { fill: var(--paper); } .heading { font-size: 16px; fill: var(--ink); font-weight: 600; }
"""
    + "\n".join(
        f"polyline.{op}, circle.{op} {{ stroke: var(--{colour}); stroke-width: 2; }} "
        f"circle.{op}, text.{op} {{ fill: var(--{colour}); }} "
        f"text.{op} {{ font-size: 13px; font-weight: 600; stroke: var(--paper); stroke-width: 4; "
        "paint-order: stroke; }"
        for op, colour in _COLOURS.items()
    )
)


def check_chart_target(path: Path | None) -> None:
    """Raise InputError for a kind of file that cannot be drawn here."""
    if path is None or path.suffix.lower() == ".svg":
        return
    if path.suffix.lower() != ".png":
        raise InputError(f"--plot is an .svg or .png file, got {path}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--plot {path}: PNG needs matplotlib: pip install matplotlib, or name an .svg"
        ) from error


def write_scan_chart(path: Path, rows: Sequence[ScanRow], device: str, where: Where) -> None:
    """Draw a sweep's rows as SVG or, by matplotlib, PNG. device: its name, for people.

    Raises InputError where no row has a time.
    """
    lines = _lines(rows)
    if not lines:
        raise InputError(f"--plot {path}: nothing was timed, so there is nothing to draw")
    heading = ", ".join(OPERATORS[op].label for op in lines)
    heading = heading[0].upper() + heading[1:]
    dtypes = where.dtype_name
    if {row.dtype for row in rows} != {dtypes}:
        dtypes += " (FFT float32)"
    detail = (
        f"{device}; {rows[0].batch:,} x {rows[0].d_inner:,} channels in {dtypes}; "
        f"scan by {where.backend!r}"
    )
    if path.suffix.lower() == ".png":
        _write_png(path, lines, _remarks(rows), [heading, detail])
    else:
        drawn = _draw(lines, _remarks(rows), heading, detail)
        path.write_text(drawn, encoding="utf8")


def _lines(rows: Sequence[ScanRow]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for row in rows:
        if row.both_ms is not None:
            lines.setdefault(row.op, []).append((row.seq_len, row.both_ms))
    return lines


def _remarks(rows: Sequence[ScanRow]) -> list[str]:
    return [
        f"{OPERATORS[row.op].label} at {format_size(row.seq_len)}: {row.note}"
        for row in rows
        if row.note is not None
    ]


def _labels(lines: Mapping[str, Sequence[Point]]) -> dict[str, str]:
    return {op: f"{OPERATORS[op].label} {_short(line[-1][1])}" for op, line in lines.items()}


def _short(ms: float) -> str:
    """Three digits: `0.0312 ms`, `20.4 ms`, `2.23 s`."""
    return f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1e3:,.3g} s"


def _x_labels(lines: Mapping[str, Sequence[Point]]) -> dict[float, str]:
    lengths = sorted({x for line in lines.values() for x, _ in line})
    return {x: format_size(int(x)) for x in lengths}


def _frame(lines: Mapping[str, Sequence[Point]], n_remarks: int) -> LogFrame:
    lengths = list(_x_labels(lines))
    times = [y for line in lines.values() for _, y in line]
    if len(lengths) == 1:
        lengths = [lengths[0] / 2, lengths[0] * 2]
    return LogFrame(
        760,
        440 + 16 * n_remarks,
        (62, 200, 52 + 16 * n_remarks, 62),
        (lengths[0], lengths[-1]),
        (min(times) / 1.5, max(times) * 2),
    )


def _draw(
    lines: Mapping[str, Sequence[Point]], remarks: Sequence[str], heading: str, detail: str
) -> str:
    frame = _frame(lines, len(remarks))
    base = frame.height - frame.margins[2]
    middle = frame.x(frame.x_range[0]) / 2 + frame.x(frame.x_range[1]) / 2
    parts = [
        frame.text(16, 24, heading, "start", "heading"),
        frame.text(16, 44, detail, "start"),
        frame.powers(_x_labels(lines), log_ticks(*frame.y_range)),
        frame.text(middle, base + 36, _X_TITLE),
    ]
    up = frame.text(-(frame.margins[0] + base) / 2, 16, _Y_TITLE)
    parts.append(f'<g transform="rotate(-90)">{up}</g>')
    for op, line in lines.items():
        parts.append(frame.line(line, op) if len(line) > 1 else "")
        parts += [frame.line([point], op) for point in line]
    parts += _place_labels(frame, lines)
    for number, remark in enumerate(remarks):
        parts.append(frame.text(16, base + 56 + 16 * number, remark, "start"))
    return frame.file("".join(parts), f"{_Y_TITLE}, over {_X_TITLE}", _STYLE)


def _place_labels(frame: LogFrame, lines: Mapping[str, Sequence[Point]]) -> list[str]:
    """At the end of each line: beside those that reach the edge, above those that end before."""
    labels = _labels(lines)
    at_edge = {op: line[-1] for op, line in lines.items() if line[-1][0] == frame.x_range[1]}
    places = spread([frame.y(y) for _, y in at_edge.values()], 17)
    parts = [
        frame.text(frame.x(frame.x_range[1]) + 9, y + 4, labels[op], "start", op)
        for op, y in zip(at_edge, places, strict=True)
    ]
    for op, line in lines.items():
        if op not in at_edge:
            x, y = line[-1]
            parts.append(frame.text(frame.x(x), frame.y(y) - 10, labels[op], "middle", op))
    return parts


def _write_png(
    path: Path,
    lines: Mapping[str, Sequence[Point]],
    remarks: Sequence[str],
    headings: Sequence[str],
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.4), dpi=200, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", ylabel=_Y_TITLE)
    for op, label in _labels(lines).items():
        colour, end = LIGHT[_COLOURS[op]], lines[op][-1]
        axes.plot(*zip(*lines[op], strict=True), color=colour, marker="o", markersize=4)
        axes.annotate(label, end, (6, 0), textcoords="offset points", color=colour, va="center")
    axes.set_title("\n".join(headings), loc="left", fontsize=9)
    axes.set_xlabel("\n".join([_X_TITLE, *remarks]))
    named = _x_labels(lines)
    axes.set_xticks(list(named), list(named.values()))
    axes.minorticks_off()
    axes.grid(color=LIGHT["rule"])
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
