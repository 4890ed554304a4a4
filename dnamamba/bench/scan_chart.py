"""Time against length on logarithmic axes: figure 8 (left) of the Mamba paper, on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnamamba.bench.operators import OPERATORS, Where
from dnamamba.bench.scan import ScanRow
from dnamamba.errors import InputError
from dnamamba.intervals import format_size
from dnamamba.reports import figures


def check_chart_target(path: Path | None) -> None:
    """Raise InputError for a kind of file that cannot be drawn here."""
    if path is not None and path.suffix.lower() not in (".svg", ".png"):
        raise InputError(f"--plot must be an .svg or .png file, got {path}")


def write_scan_chart(path: Path, rows: Sequence[ScanRow], device: str, where: Where) -> None:
    """Draw a sweep's rows as SVG or PNG. device: its name, for people.

    Raises InputError if no row has a time.
    """
    import matplotlib
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.both_ms is not None:
            lines.setdefault(OPERATORS[row.op].label, []).append((row.seq_len, row.both_ms))
    if not lines:
        raise InputError(f"--plot {path}: nothing was timed, so there is nothing to draw")
    remarks = [
        f"{OPERATORS[row.op].label} at {format_size(row.seq_len)}: {row.note}"
        for row in rows
        if row.note is not None
    ]
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "scan", "text.parse_math": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 4.6 + 0.2 * len(remarks)), dpi=200, layout="constrained")
        ax = figures.time_over_length(lines, ax=figure.add_subplot())
        ax.set_xlabel("\n".join(["sequence length", *remarks]))
        ax.set_ylabel("forward and backward, milliseconds")
        figure.suptitle(_setting(rows, device, where), x=0.01, ha="left", fontsize=9)
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _setting(rows: Sequence[ScanRow], device: str, where: Where) -> str:
    dtypes = where.dtype_name
    if {row.dtype for row in rows} != {dtypes}:
        dtypes += " (FFT float32)"
    return (
        f"{device}; {rows[0].batch:,} x {rows[0].d_inner:,} channels in {dtypes}; "
        f"scan by {where.backend!r}"
    )
