"""Pictures of a run, drawn for print: what they look like, not where they are kept.

Every ``draw_*`` function takes results and returns a matplotlib ``Figure``; ``figure_bytes`` turns
a figure into the content of a PNG or PDF file, which the caller (``utils.logbook``) then writes.

House style, the same in every picture:

- 3.5 inches wide, one column of a paper, with type that is readable at that width;
- colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers,
  and a different marker and line style for each curve, so that a grey print can be read too;
- units on the axes; legends above the axes, where they can never cover a curve.

matplotlib is imported when something is drawn, not before: programs that draw nothing start
faster. Figures are made without pyplot, so no window system is needed and nothing global changes.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from utils.metrics import Metrics

COLUMN_WIDTH = 3.5  # inches
TEXT_SIZE = 7.5  # points
BLUE, VERMILION, INK, PALE = "#0072B2", "#D55E00", "#222222", "#DDDDDD"


def draw_curves(metrics: Metrics, *, title: str = "") -> Figure:
    """Draw top-1 accuracy against the number of classes seen, for the classifier and for NME.

    Average and last accuracy (percent) stand in the legend. A run of one task is one point a curve.

    Raises:
        ValueError: when no task has been evaluated yet.
    """
    if not metrics.tasks:
        raise ValueError("there is no task to draw: draw_curves needs at least one evaluated task")
    classes_seen = [task.classes_seen for task in metrics.tasks]
    figure, axes = _column_figure(height=2.7)
    curves = [
        (
            "CNN (classifier)",
            [task.cnn_top1 for task in metrics.tasks],
            metrics.average_accuracy,
            metrics.last_accuracy,
            {"color": BLUE, "marker": "o", "markersize": 3, "linestyle": "-", "zorder": 3},
        ),
        (
            "NME (nearest mean)",
            [task.nme_top1 for task in metrics.tasks],
            metrics.average_nme_accuracy,
            metrics.last_nme_accuracy,
            # Hollow and larger, so that it shows around a classifier's point on the same spot.
            {
                "color": VERMILION,
                "marker": "s",
                "markersize": 4.2,
                "markerfacecolor": "white",
                "markeredgewidth": 0.8,
                "linestyle": "--",
                "zorder": 2,
            },
        ),
    ]
    for name, top1, average, last, style in curves:
        axes.plot(
            classes_seen,
            top1,
            label=f"{name}: average {average:.2f} %, last {last:.2f} %",
            linewidth=1.2,
            clip_on=False,  # a marker at 0 % or 100 % is drawn whole
            **style,
        )
    axes.set_xlabel("Classes seen")
    axes.set_ylabel("Top-1 accuracy (%)")
    _ticks_at_tasks(axes, classes_seen)
    _percent_axis(axes, [value for _, top1, *_ in curves for value in top1])
    _legend_above(figure, title)
    return figure


def figure_bytes(figure: Figure, file_format: str = "png") -> bytes:
    """Return what a file of ``figure`` holds; ``file_format`` is "png" (300 dots an inch) or "pdf".

    The same figure gives the same bytes every time: no creation date is kept.
    """
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"CreationDate": None} if file_format == "pdf" else None
    # Type 42 keeps the letters of a PDF as TrueType fonts; many publishers refuse the default.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format=file_format, dpi=300, metadata=metadata)
    return buffer.getvalue()


def _column_figure(height: float) -> tuple[Figure, Axes]:
    """Return an empty figure one column wide and ``height`` inches high, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(labelsize=TEXT_SIZE, color=INK, labelcolor=INK, width=0.6, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(size=TEXT_SIZE + 0.5, color=INK)
    return figure, axes


def _ticks_at_tasks(axes: Axes, classes_seen: list[int]) -> None:
    """Put the ticks of the x axis where tasks end, and a number where there is room for one."""
    span = classes_seen[-1] - classes_seen[0]
    # From the end, so that the last task, whose accuracy is quoted, always has its number.
    numbered = [classes_seen[-1]]
    for seen in reversed(classes_seen[:-1]):
        if numbered[-1] - seen >= span / 10:
            numbered.append(seen)
    axes.set_xticks(numbered)
    axes.set_xticks(classes_seen, minor=True)
    axes.tick_params(axis="x", which="minor", width=0.6, length=2, color=INK)
    margin = max(0.03 * span, 0.5)
    axes.set_xlim(classes_seen[0] - margin, classes_seen[-1] + margin)


def _percent_axis(axes: Axes, values: list[float]) -> None:
    """Let the y axis reach from the ten below the lowest value to the ten above the highest."""
    from matplotlib.ticker import MaxNLocator

    low = max(0, 10 * int((min(values) - 2) // 10))
    high = min(100, 10 * -int(-(max(values) + 2) // 10))
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))


def _legend_above(figure: Figure, title: str) -> None:
    """Place the title and the legend, one curve a line, above the axes."""
    figure.legend(
        loc="outside upper left",
        title="\n".join(textwrap.wrap(title, 54)) or None,
        title_fontproperties={"size": TEXT_SIZE + 0.5},
        alignment="left",
        borderaxespad=0.2,
        borderpad=0.2,
        labelspacing=0.25,
        handlelength=2.6,
        frameon=False,
        fontsize=TEXT_SIZE,
        labelcolor=INK,
    )


def draw_area(
    megabytes: list[float],
    accuracies: dict[str, tuple[list[float], list[float | None]]],
    *,
    areas: dict[str, float],
    reference: dict[str, list[float]] | None = None,
    title: str = "",
) -> Figure:
    """Draw the performance-memory curve: top-1 accuracy of the classifier against memory.

    Args:
        megabytes: the budgets, rising.
        accuracies: "average" and "last": percent at each budget, with standard deviations (None
            for a single run), which are drawn as error bars.
        areas: the area under each of the two, for the legend.
        reference: published percentages of the two, drawn as thin lines.
        title: what stands above the legend.
    """
    figure, axes = _column_figure(height=2.7)
    styles = {
        "average": {"color": BLUE, "marker": "o", "markersize": 3, "linestyle": "-"},
        "last": {"color": VERMILION, "marker": "s", "markersize": 3, "linestyle": "--"},
    }
    letters = {"average": "A", "last": "L"}
    drawn = []
    for name, (top1, deviations) in accuracies.items():
        label = f"CNN, {name} accuracy: AUC-{letters[name]} {areas[name]:.2f}"
        axes.plot(megabytes, top1, label=label, linewidth=1.2, zorder=3, **styles[name])
        if any(deviations):
            spread = [float("nan") if each is None else each for each in deviations]
            bars = {"capsize": 2, "elinewidth": 0.8, "ecolor": styles[name]["color"], "zorder": 3}
            axes.errorbar(megabytes, top1, yerr=spread, fmt="none", **bars)
        drawn += [
            v + sign * (d or 0) for v, d in zip(top1, deviations, strict=True) for sign in (-1, 1)
        ]
    for name, top1 in (reference or {}).items():
        axes.plot(
            megabytes,
            top1,
            label=f"published, {name} accuracy",
            color=INK,
            linewidth=0.6,
            linestyle={"average": "-", "last": "--"}[name],
            zorder=4,
        )
        drawn += top1
    axes.set_xlabel("Memory: network and exemplars (MB)")
    axes.set_ylabel("Top-1 accuracy (%)")
    # From the largest budget down, a number where there is room for one.
    numbered, room = [megabytes[-1]], (megabytes[-1] - megabytes[0]) / 11
    for budget in reversed(megabytes[:-1]):
        if numbered[-1] - budget >= room:
            numbered.append(budget)
    axes.set_xticks(numbered, [f"{budget:g}" for budget in numbered])
    axes.set_xticks(megabytes, minor=True)
    axes.tick_params(axis="x", which="minor", width=0.6, length=2, color=INK)
    _percent_axis(axes, drawn)
    _legend_above(figure, title)
    return figure
