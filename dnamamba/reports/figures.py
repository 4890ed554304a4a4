"""Figures of reports and notebooks: each takes data and an `Axes` and returns the `Axes`.

    ax = figures.learning_curve(train, valid, baselines={"Markov order 3": 1.95})
    ax.figure.savefig("loss.svg")

Without `ax` a figure makes its own by pyplot. Names from data are drawn literally: `$` starts no
formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnamamba.intervals import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

INK, QUIET, RULE, PAPER = "#1b1f24", "#5a6470", "#d9dee4", "#ffffff"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c44e00", "#00795a", "#94507e"
CLASSES = (BLUE, ORANGE, GREEN, PURPLE, INK, RULE)
TONES = (BLUE, "#316999", "#626080", "#935766", ORANGE)  # from low to high numbers
_DOTTED = (0, (1, 3))
# Dashes tell curves apart without colours.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 2)), (0, (6, 2, 1.5, 2)), (0, (3, 3)), "-.")
TIP = "tip:"
"""Prefix of the gid of an artist with a tooltip."""

MOST_CLASSES_DRAWN = 40
_MOST_WITH_COUNTS, _MOST_WITH_SHARES = 8, 15
_MOST_POINTS, _LEAST_SMOOTHED = 600, 40


# --- training


def learning_curve(
    train: Sequence[tuple[float, float]],
    valid: Sequence[tuple[float, float]] = (),
    *,
    baselines: Mapping[str, float] | None = None,
    tokens_per_step: float | None = None,
    y_label: str = "loss",
    ax: Axes | None = None,
) -> Axes:
    """Draw training and validation over steps, and baselines as horizontal lines.

    train, valid: (step, value) points; 40 or more of training are smoothed too. The first steps may
    leave the frame. tokens_per_step: gives an x axis in tokens, and one above it in steps.
    """
    ax, baselines = _dressed(ax), baselines or {}
    last = max((step for step, _ in (*train, *valid)), default=0) or 1
    scale, word = scale_of(last * (tokens_per_step or 1))
    unit = (tokens_per_step or 1) / scale
    if train:
        steps, values = np.array(train, dtype=float).T
        marker = "o" if len(steps) == 1 else ""
        if len(steps) < _LEAST_SMOOTHED:
            ax.plot(steps * unit, values, marker=marker, color=BLUE, lw=2, label="training")
        else:
            kept = _thinned(len(steps))
            x, smooth = steps[kept] * unit, _smoothed(values)[kept]
            ax.plot(x, values[kept], color=BLUE, lw=1, alpha=0.45, label="training")
            ax.plot(x, smooth, color=BLUE, lw=2, label="smoothed")
    if valid:
        x, y = np.array(valid, dtype=float).T
        ax.plot(x * unit, y, "o-", color=ORANGE, mec=PAPER, label="validation")
    for n, (name, value) in enumerate(baselines.items(), start=1):
        style = (QUIET, _DOTTED) if n == len(baselines) else (CLASSES[1 + n % 3], _DASHES[n % 3])
        ax.axhline(value, color=style[0], ls=style[1], label=f"{short_name(name, 30)} {value:.5g}")
    low, high = _settled(train, valid, baselines)
    for step, y in valid:
        if low <= y <= high:
            tip = _tip(f"step {step:,}: {y:.5g} {y_label}")
            ax.plot(step * unit, y, "o", color=ORANGE, mec=PAPER, clip_on=False, gid=tip)
    ax.set(xlim=(0, last * unit), ylim=(low, high), ylabel=y_label)
    ax.set_xlabel(word + ("tokens" if tokens_per_step else "steps"))
    if tokens_per_step:
        functions: Any = (lambda x: x / unit, lambda x: x * unit)
        above = ax.secondary_xaxis("top", functions=functions)
        above.set_xlabel("step", color=QUIET)
        above.tick_params(length=0, colors=QUIET)
        above.spines["top"].set_visible(False)
        above.patch.set_visible(False)
    return _finished(ax, above=44 if tokens_per_step else 6)


def over_steps(points: Sequence[tuple[float, float]], *, ax: Axes | None = None) -> Axes:
    """Draw (step, value) points of a number >= 0: learning rate, throughput."""
    ax = _dressed(ax)
    x, y = np.array(points, dtype=float).T[:, _thinned(len(points))]
    scale, word = scale_of(x[-1])
    ax.plot(x / scale, y, marker="o" if len(x) == 1 else "", color=BLUE, lw=2)
    ax.set(xlim=(0, x[-1] / scale or 1), ylim=(0, 1.08 * y.max() or 1), xlabel=f"{word}steps")
    return _finished(ax)


def _settled(train: Sequence[Any], valid: Sequence[Any], levels: Row) -> tuple[float, float]:
    """Limits of y without the first steps and the noisiest rows."""
    settled = sorted(y for _, y in train[len(train) // 10 :])
    spare = len(settled) // 50
    values = settled[spare : len(settled) - spare] + [y for _, y in (train and valid[1:]) or valid]
    values = [*values, *levels.values()] or [0.0]
    pad = 0.06 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 0.01
    return min(values) - pad, max(values) + pad


def _smoothed(values: NDArray[Any]) -> NDArray[Any]:
    """Mean of a twentieth of all values around each one; of fewer at both ends."""
    sums, i = np.append(0, np.cumsum(values)), np.arange(len(values))
    reach = np.minimum(i, len(values) // 40)
    first, last = i - reach, np.minimum(i + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _thinned(n: int) -> NDArray[Any]:
    """Indices of at most 600 of n points, with both ends."""
    return np.unique(np.linspace(0, n - 1, min(n, _MOST_POINTS)).astype(int))


# --- classes


def roc_curves(curves: Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Draw ROC curves; the diagonal is chance.

    curves: rows of evaluation.json: `name`, `area`, `points` (false, true positive rate).
    """
    ax = _dressed(ax)
    ax.plot([0, 1], [0, 1], color=QUIET, ls=_DOTTED)
    return _curves(ax, curves, "false positive rate", "true positive rate")


def precision_recall_curves(curves: Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Draw precision over recall, and chance if it is the same for all curves.

    curves: rows with `name`, `area`, `points` (recall, precision) and the `share` of positives.
    """
    ax = _dressed(ax)
    shares = {curve["share"] for curve in curves if "share" in curve}
    if len(shares) == 1:
        ax.axhline(shares.pop(), color=QUIET, ls=_DOTTED)
    return _curves(ax, curves, "recall", "precision")


def _curves(ax: Axes, curves: Sequence[Row], x_label: str, y_label: str) -> Axes:
    colours = (*CLASSES[:5], QUIET)
    for curve, colour, dashes in zip(curves, colours, _DASHES, strict=False):
        x, y = np.array(curve["points"]).T
        label = f"{short_name(curve['name'], 30)} {curve['area']:.3f}"
        ax.plot(x, y, color=colour, ls=dashes, lw=2, label=label)
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=x_label, ylabel=y_label)
    return _finished(ax)


def confusion_matrix(labels: Sequence[str], counts: ArrayLike, *, ax: Axes | None = None) -> Axes:
    """Draw true (rows) by predicted classes; darker is a larger share of the row.

    labels: C names. counts: (C, C) examples.
    """
    from matplotlib.patches import Rectangle

    ax = _dressed(ax)
    n, names = len(labels), [short_name(label) for label in labels]
    table = np.asarray(counts)
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    for (i, j), share in np.ndenumerate(shares):
        tip = _tip(f"{labels[i]} predicted as {labels[j]}: {table[i, j]:,} ({share:.1%})")
        cell: Any = {"xy": (j - 0.49, i - 0.49), "width": 0.98, "height": 0.98, "lw": 0}
        ax.add_patch(Rectangle(**cell, color=RULE, alpha=0.35))
        ax.add_patch(Rectangle(**cell, color=BLUE, alpha=share, gid=tip))
        lines = [f"{100 * share:.0f}"] if n <= _MOST_WITH_SHARES else []
        if n <= _MOST_WITH_COUNTS:
            lines = [f"{100 * share:.1f} %", f"{table[i, j]:,}"]
        for line, y in zip(lines, (i - 0.13, i + 0.15) if len(lines) > 1 else (i,), strict=False):
            text = ax.text(j, y, line, ha="center", va="center", color=INK)
            if share > 0.55:
                text.set(color=PAPER, weight="bold")
    turned: Any = {"rotation": 45, "ha": "left"} if _are_turned(names) else {}
    ax.set_xticks(range(n), names, parse_math=False, **turned)
    ax.set_yticks(range(n), names, parse_math=False)
    ax.tick_params(labeltop=True, labelbottom=False)
    ax.xaxis.set_label_position("top")
    ax.xaxis.labelpad = 8
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="predicted", ylabel="true")
    ax.set_aspect("equal")
    return _finished(ax)


def confusion_size(labels: Sequence[str]) -> tuple[int, int]:
    """Return width and height in points that make a confusion matrix readable."""
    names = [short_name(label) for label in labels]
    cells, longest = min(76.0 * len(names), 560), 7 * max(map(len, names))
    top = 40 + (0.75 * longest if _are_turned(names) else 16)
    return round(cells + longest + 50), round(cells + top)


def _are_turned(names: Sequence[str]) -> bool:
    return max(map(len, names)) * 7 > min(76, 560 / len(names)) - 6


def reliability(rows: Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Draw accuracy over confidence, with 95 % intervals; bars are shares of examples.

    rows: with `from`, `to`, `confidence`, `accuracy`, `interval` and `n`.
    """
    ax = _dressed(ax)
    low, high, n = (np.array([row[key] for row in rows]) for key in ("from", "to", "n"))
    ax.bar(low, 0.3 * n / n.sum(), 0.96 * (high - low), align="edge", color=RULE)
    ax.plot([0, 1], [0, 1], color=QUIET, ls=_DOTTED)
    x, y = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
    ax.plot(x, y, color=BLUE)
    tips = [f"{a:.0%} confident: {b:.1%} of {m:,} right" for a, b, m in zip(x, y, n, strict=True)]
    ax.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="confidence", ylabel="share that is right")
    return dots_with_intervals(x, y, [row["interval"] for row in rows], tips=tips, ax=ax)


def dots_with_intervals(
    x: Sequence[float],
    values: Sequence[float],
    intervals: ArrayLike,
    *,
    tips: Sequence[str] = (),
    second: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw numbers (N,) with intervals (N, 2). second: hollow, as of a baseline."""
    ax = _dressed(ax) if ax is None else ax
    colour = ORANGE if second else BLUE
    ax.vlines(x, *np.asarray(intervals, dtype=float).T, color=colour, lw=1.5)
    for n, (at, value) in enumerate(zip(x, values, strict=True)):
        tip = _tip(tips[n]) if tips else None
        ax.plot(at, value, "o", color=colour, mfc=PAPER if second else colour, gid=tip)
    return _finished(ax)


def accuracy_by_length(
    model: Sequence[Row],
    baseline: Sequence[Row] = (),
    *,
    chance: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy in % by length of the sequence, with 95 % intervals.

    model, baseline: rows with `from` and `to` (bases), `accuracy`, `interval` and `n`. chance: 0 to
    1.
    """
    ax = _dressed(ax)
    for rows, aside, second in ((model, -0.06, False), (baseline, 0.06, True)):
        x = [n + (aside if baseline else 0) for n in range(len(rows))]
        y = [100 * row["accuracy"] for row in rows]
        tips = [f"{length_name(row)}: {row['accuracy']:.1%} of {row['n']:,}" for row in rows]
        if rows:
            limits = 100 * np.array([row["interval"] for row in rows])
            dots_with_intervals(x, y, limits, tips=tips, second=second, ax=ax)
    if baseline:
        ax.plot([], "o", color=BLUE, label="model")
        ax.plot([], "o", color=ORANGE, mfc=PAPER, label="k-mer baseline")
    if chance is not None:
        ax.axhline(100 * chance, color=QUIET, ls=_DOTTED, label=f"chance {chance:.1%}")
    ax.set_xticks(range(len(model)), [length_name(row) for row in model])
    ax.set(xlim=(-0.5, len(model) - 0.5), xlabel="bases of the sequence", ylabel="accuracy, %")
    return _finished(ax)


def length_name(row: Row) -> str:
    """Format as `1k` or `200 to 255`. row: with `from` and `to`, in bases."""
    low, high = format_size(row["from"]), format_size(row["to"])
    return low if low == high else f"{low} to {high}"


# --- numbers and dots


def predicted_over_true(points: ArrayLike, *, name: str = "", ax: Axes | None = None) -> Axes:
    """Draw dots (N, 2): true, predicted; on the line both are equal. name: of the number."""
    ax = _dressed(ax)
    values = np.asarray(points, dtype=float)
    pad = 0.04 * np.ptp(values) or 1.0
    limits = (values.min() - pad, values.max() + pad)
    ax.plot(limits, limits, color=QUIET, ls=_DOTTED)
    ax.plot(*values.T, "o", color=BLUE, ms=4, mew=0, alpha=0.5)
    ax.set(xlim=limits, ylim=limits, ylabel="predicted")
    ax.set_xlabel(f"{short_name(name)}, true" if name else "true", parse_math=False)
    return _finished(ax)


def scatter(
    points: ArrayLike,
    groups: ArrayLike,
    names: Sequence[str],
    *,
    colours: Sequence[str] = CLASSES,
    axis_labels: tuple[str, str] = ("", ""),
    ax: Axes | None = None,
) -> Axes:
    """Draw dots (N, 2) coloured by group; a few far out may leave the frame.

    groups: (N,) indices into `names`. colours: one a group.
    """
    ax = _dressed(ax)
    values, group = np.asarray(points, dtype=float), np.asarray(groups)
    for i, (name, colour) in enumerate(zip(names, colours, strict=False)):
        style: Any = {"color": colour, "ms": 4, "mew": 0, "alpha": 0.6, "label": short_name(name)}
        ax.plot(*values[group == i].T, "o", **style)
    low, high = np.percentile(values, (0.5, 99.5), axis=0)
    pad = np.where(high > low, 0.06 * (high - low), 1.0)
    (left, bottom), (right, top) = low - pad, high + pad
    ax.set(xlim=(left, right), ylim=(bottom, top), xlabel=axis_labels[0], ylabel=axis_labels[1])
    return _finished(ax)


def probe_layers(rows: Sequence[Row], *, ax: Axes | None = None) -> Axes:
    """Draw the validation loss of a probe's layers; the best one is filled.

    rows: of probe.json, with `name`, `validation_loss` and `is_best`.
    """
    ax = _dressed(ax)
    ax.plot([row["validation_loss"] for row in rows], color=BLUE, lw=1)
    for n, row in enumerate(rows):
        loss, face = row["validation_loss"], BLUE if row["is_best"] else PAPER
        ax.plot(n, loss, "o", color=BLUE, mfc=face, gid=_tip(f"{row['name']}: {loss:.4f}"))
    names = [short_name(row["name"]) for row in rows]
    ax.set_xticks(range(len(rows)), names, rotation=45, ha="right", parse_math=False)
    ax.set_ylabel("validation loss")
    return _finished(ax)


def time_over_length(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, ax: Axes | None = None
) -> Axes:
    """Draw times over sequence length, both axes logarithmic.

    lines: name -> (bases, milliseconds) points, one or more.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax = _dressed(ax)
    ax.set(xscale="log", yscale="log", xlabel="sequence length")
    for (name, line), colour in zip(lines.items(), CLASSES, strict=False):
        ms = line[-1][1]
        end = f"{ms:.3g} ms" if ms < 999.5 else f"{ms / 1e3:,.3g} s"
        label = f"{short_name(name, 30)} {end}"
        ax.plot(*np.array(line, dtype=float).T, "o-", color=colour, lw=2, label=label)
    lengths = sorted({x for line in lines.values() for x, _ in line})
    ax.set_xticks(lengths, [format_size(int(x)) for x in lengths])
    ax.xaxis.set_minor_locator(NullLocator())
    times = [y for line in lines.values() for _, y in line]
    subs = (1, 2, 5) if max(times) < 200 * min(times) else (1,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}"))
    return _finished(ax)


# --- shared


def _dressed(ax: Axes | None) -> Axes:
    """Give axes, or new ones, light horizontal lines and no frame."""
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        if hasattr(formatter := axis.get_major_formatter(), "set_useOffset"):
            formatter.set_useOffset(False)
    ax.grid(axis="y", color=RULE, lw=1)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(RULE)
    ax.tick_params(which="both", length=0, colors=QUIET)
    ax.xaxis.label.set_color(QUIET)
    ax.yaxis.label.set_color(QUIET)
    return ax


def _finished(ax: Axes, above: float = 6) -> Axes:
    """Add a legend `above` points over the axes."""
    handles, names = ax.get_legend_handles_labels()
    if names:
        width, height = 72 * ax.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
        legend = ax.legend(
            handles, names, ncols=max(1, int((width - 60) // (45 + 7 * max(map(len, names))))),
            loc="lower left", bbox_to_anchor=(0, 1 + above / (height - 110)), frameon=False,
            borderaxespad=0, borderpad=0, labelcolor=QUIET,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    return ax


def scale_of(value: float) -> tuple[float, str]:
    """Return the power of a thousand to read a number in, and its word with a space."""
    words = {1e12: "trillion ", 1e9: "billion ", 1e6: "million ", 1e3: "thousand "}
    return next(((scale, word) for scale, word in words.items() if value >= scale), (1.0, ""))


def short_name(name: str, longest: int = 18) -> str:
    """Cut a name off with an ellipsis."""
    name = plain_text(name)
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return f"\u200b{name}" if name.startswith("_") else name  # else no legend would have it


def _tip(text: str) -> str:
    return TIP + plain_text(text)


def plain_text(text: str) -> str:
    """Replace line ends, control characters and broken letters, which no SVG may hold."""
    text = str(text).encode("utf8", "replace").decode("utf8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
