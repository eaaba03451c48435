"""Pictures of a run, drawn for print: what they look like, not where they are kept.

Every ``draw_*`` function takes results and returns a matplotlib ``Figure``; ``figure_bytes`` turns
a figure into the content of a PNG or PDF file, which the caller (``utils.pictures``) then writes.

House style, the same in every picture:

- 3.5 inches wide, one column of a paper, with type that is readable at that width;
- colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers,
  and a different marker and line style for each curve, so that a grey print can be read too;
- units on the axes, and "log scale" where it is one; panels have letters; legends above the axes,
  where they can never cover a curve, say what each line is, published and dashed ones too;
- maps from light to dark, so that a grey print keeps their order.

matplotlib is imported when something is drawn, not before: programs that draw nothing start
faster. Figures are made without pyplot, so no window system is needed. What a user's MPLBACKEND,
matplotlibrc or style says is for the user's own figures: every function that draws does so under
`house_style`.
"""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, cycle, groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.5  # inches
TEXT_SIZE = 7.5  # points
BLUE, VERMILION, INK, PALE = "#0072B2", "#D55E00", "#222222", "#DDDDDD"
GREEN, PURPLE, GREY = "#009E73", "#CC79A7", "#777777"
# Parts of a loss (models/methods.py) in words.
PARTS = {"clf": "classifier", "aux": "auxiliary classifier", "kd": "distillation"}
_PART_STYLES = (
    {"color": BLUE, "marker": "o"},
    {"color": VERMILION, "linestyle": "--", "marker": "^"},
    {"color": GREEN, "linestyle": "-.", "marker": "D"},
    {"color": PURPLE, "linestyle": ":", "marker": "P"},
)
_STYLE = {
    "figure.constrained_layout.use": True,
    "font.size": TEXT_SIZE,
    **dict.fromkeys(("axes.titlesize", "figure.titlesize"), "medium"),
    "axes.titlepad": 2,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a $ in the name of a class is a $
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **{"grid.color": PALE, "grid.linewidth": 0.6},
    **{"lines.linewidth": 1.2, "lines.markersize": 3},
    **{"image.cmap": "YlGnBu", "image.interpolation": "nearest"},
    **{"legend.frameon": False, "legend.borderaxespad": 0.2, "legend.borderpad": 0.2},
    **{"legend.labelspacing": 0.25, "legend.handlelength": 2.6},
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters as TrueType fonts; many publishers refuse the default
}
# Hollow and larger, so that it shows around a point of the other curve on the same spot.
_HOLLOW = {
    "color": VERMILION,
    "marker": "s",
    "markersize": 4.2,
    "markerfacecolor": "white",
    "markeredgewidth": 0.8,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw as matplotlib does by itself, but for our style, whatever the user has set up."""
    # With an unknown one, matplotlib could not even be imported.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    # Files need no backend, and a change of it would outlive the context.
    usual = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    with matplotlib.rc_context(usual | _STYLE):
        yield


@house_style()
def draw_curves(
    summary: Mapping[str, Any],
    *,
    title: str = "",
    published: Sequence[float] | None = None,
    same_schedule: bool = True,
) -> Figure:
    """Draw top-1 accuracy against the number of classes seen, for the classifier and for NME.

    Without exemplars there is no NME and one curve. Average and last accuracy (percent) stand in
    the legend. A run of one task is one point a curve.

    Args:
        summary: the results of one or more tasks, as in summary.json.
        title: what stands above the legend.
        published: the published top-1 in percent, one value for every task of the whole run; drawn
            as a thin line, as far as the run has come.
        same_schedule: whether it was trained as the run was; where not, it is paler and says so.
    """
    classes_seen = summary["curves"]["classes_seen"]
    figure, axes = _column_figure(height=2.7)
    curves = [
        (
            "CNN (classifier)",
            summary["curves"]["cnn_top1"],
            summary["average_accuracy"],
            summary["last_accuracy"],
            {"color": BLUE, "marker": "o", "linestyle": "-", "zorder": 3},
        ),
        (
            "NME (nearest mean)",
            summary["curves"]["nme_top1"],
            summary["average_nme_accuracy"],
            summary["last_nme_accuracy"],
            {**_HOLLOW, "linestyle": "--", "zorder": 2},
        ),
    ]
    if summary["average_nme_accuracy"] is None:
        del curves[1]
    for name, top1, average, last, style in curves:
        axes.plot(
            classes_seen,
            top1,
            label=f"{name}: average {average:.2f} %, last {last:.2f} %",
            clip_on=False,  # a marker at 0 % or 100 % is drawn whole
            **style,
        )
    values = [value for _, top1, *_ in curves for value in top1]
    if published is not None:
        published = list(published[: len(classes_seen)])
        label = f"published: average {np.mean(published):.2f} %, last {published[-1]:.2f} %"
        axes.plot(
            classes_seen,
            published,
            label=label if same_schedule else f"{label}\n(trained with another schedule)",
            color=GREY if same_schedule else "#BBBBBB",
            linewidth=0.8,
            zorder=1,
        )
        values += published
    axes.set_xlabel("Classes seen")
    axes.set_ylabel("Top-1 accuracy (%)")
    _ticks_at_tasks(axes, classes_seen)
    _percent_axis(axes, values)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_confusion(
    predicted: np.ndarray,
    targets: np.ndarray,
    task_sizes: Sequence[int],
    *,
    names: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draw which classes the test images of each class are taken for, with lines between tasks.

    The colours follow the square root of the share, so that rare confusions can be seen too. Up to
    20 classes have their names, and up to 10 the numbers in their cells.

    Args:
        predicted: (N,) int, the class predicted for each test image; a class is its position in
            the class order.
        targets: (N,) int, its class.
        task_sizes: number of classes of each task learned so far.
        names: of the classes, in the class order, where they have some.
        title: what stands above the picture.
    """
    from matplotlib.colors import PowerNorm

    classes = sum(task_sizes)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (targets, predicted), 1)
    images = counts.sum(axis=1, keepdims=True)
    # A class without test images is an empty row.
    share = np.divide(100 * counts, images, out=np.full_like(counts, np.nan), where=images > 0)

    named = len(names) > 0 and classes <= 20
    figure, axes = _column_figure(height=3.3, grid=False)
    picture = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    label = "Share of a class's test images (%)\nsquare-root scale"
    _colour_bar(figure, picture, label, [0, 1, 5, 10, 25, 50, 100])
    _task_axes(axes, task_sizes)
    if classes <= 10:
        _cell_numbers(axes, share, digits=0, dark=30)
    if named:
        short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
        size = TEXT_SIZE if classes <= 10 else TEXT_SIZE - 2.5
        axes.set_xticks(range(classes), short, rotation=90, fontsize=size)
        axes.set_yticks(range(classes), short, fontsize=size)
    axes.set_xlabel("Predicted class" if named else "Predicted class, by task")
    axes.set_ylabel("True class" if named else "True class, by task")
    _title_above(figure, title)
    return figure


@house_style()
def draw_accuracy_matrix(matrix: np.ndarray, *, title: str = "") -> Figure:
    """Draw the accuracy on each task's classes after each task: forgetting is read down a column.

    Args:
        matrix: (t, t) percent, row after a task, column of a task; NaN where nothing was measured.
        title: what stands above the picture.
    """
    tasks = len(matrix)
    figure, axes = _column_figure(height=3.1, grid=False)
    picture = axes.imshow(matrix, vmin=0, vmax=100)
    _colour_bar(figure, picture, "Top-1 accuracy (%)", range(0, 101, 20))
    if tasks <= 10:  # more numbers would not be readable at this width
        _cell_numbers(axes, matrix, digits=1, dark=55)
    numbered = _spread(range(tasks), tasks / 12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(numbered, [str(task + 1) for task in numbered])
    axes.tick_params(length=0)
    axes.set_xlabel("Classes of task")
    axes.set_ylabel("After task")
    _title_above(figure, title)
    return figure


@house_style()
def draw_weight_norms(
    before: Sequence[float],
    after: Sequence[float],
    task_sizes: Sequence[int],
    *,
    title: str = "",
) -> Figure:
    """Draw the length of each class's row of the classifier before and after weight alignment.

    Where nothing was aligned the two are the same, and drawn once.

    Args:
        before: (classes seen,) L2 norms when training ended.
        after: (classes seen,) L2 norms after alignment.
        task_sizes: number of classes of each task learned so far, two or more, since the first task
            has no old classes to compare with; the last one is the new one.
        title: what stands above the legend.
    """
    figure, axes = _column_figure(height=2.7)
    classes, size = np.arange(len(before)), 3 if len(before) <= 60 else 2
    known = len(before) - task_sizes[-1]
    label = f"after task {len(task_sizes)}"
    if list(before) != list(after):
        gamma = np.mean(before[:known]) / np.mean(before[known:])
        marks = {**_HOLLOW, "markersize": size + 1.4, "linestyle": ""}
        axes.plot(classes, before, label=f"before alignment in task {len(task_sizes)}", **marks)
        label = f"after alignment (new rows × {gamma:.3f})"
    axes.plot(classes, after, "o", color=BLUE, markersize=size, label=label)
    label = "mean of the old classes"
    axes.axhline(np.mean(before[:known]), color=INK, linewidth=0.8, linestyle="--", label=label)
    axes.set_xlim(-1, len(before))
    axes.set_ylim(0, 1.08 * max(*before, *after))
    axes.set_ylabel("Classifier row (L2 norm)")
    axes.set_xlabel("Class, by task")
    centres = [first + (last - first - 1) / 2 for first, last in _borders(task_sizes)]
    numbered = _spread(centres, len(before) / 12)
    axes.set_xticks(numbered, [str(centres.index(centre) + 1) for centre in numbered])
    axes.tick_params(axis="x", length=0)
    for first, _ in _borders(task_sizes)[1:]:
        axes.axvline(first - 0.5, color=GREY, linewidth=0.5)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_training(epochs: Sequence[dict[str, Any]], *, title: str = "") -> Figure:
    """Draw loss parts, train accuracy and learning rate over the epochs of all tasks.

    Args:
        epochs: the rows of training.csv, at least one.
        title: what stands above the legend.

    Raises:
        ValueError: when there is no epoch.
    """
    if not epochs:
        raise ValueError("there is no epoch to draw: draw_training needs at least one")
    figure, panels = _panels(heights=[1.4, 1.2, 0.8])
    tasks = np.array([row["task"] for row in epochs])
    # A line for every task, and in it for every stage, if it has several.
    trainings = [(row["task"], row.get("stage")) for row in epochs]
    ends = [i for i in range(1, len(epochs)) if trainings[i] != trainings[i - 1]]
    pieces = np.split(np.arange(len(epochs)), ends)

    def draw(axes: Axes, key: str, **style: Any) -> None:
        """Draw a column."""
        for piece in pieces:
            y = [epochs[i][key] for i in piece]
            if None not in y:
                axes.plot(piece + 1, y, **{"linewidth": 1.0, **style})
                style.pop("label", None)  # once is enough for the legend

    # A task of few epochs would hardly be seen as a line.
    dots = {"markersize": 2.5} if len(epochs) <= 60 else {"marker": ""}
    losses, accuracies, rates = panels
    parts = [key.removeprefix("loss_") for key in epochs[0] if key.startswith("loss_")]
    for part, style in zip(parts, cycle(_PART_STYLES), strict=False):
        draw(losses, f"loss_{part}", **{**style, **dots}, label=f"loss: {PARTS.get(part, part)}")
    draw(accuracies, "train_acc", color=INK, linestyle="-.", **{"marker": "v", **dots},
         label="accuracy: training images")  # fmt: skip
    measured = [
        (i + 1, row["test_acc"]) for i, row in enumerate(epochs) if row["test_acc"] is not None
    ]
    if measured:
        hollow = {**_HOLLOW, "markersize": 2.8 if len(measured) <= 60 else 1.2}
        accuracies.plot(*zip(*measured, strict=True), **hollow, linestyle="",
                        label="accuracy: test images")  # fmt: skip
    draw(rates, "lr", color=INK, drawstyle="steps-mid", **{"marker": ".", **dots})
    values = [row[f"loss_{part}"] for row in epochs for part in parts]
    _log_axis(losses, values, "Mean loss (nats)")
    _log_axis(rates, [row["lr"] for row in epochs], "Learning rate")
    accuracies.set_ylabel("Top-1\naccuracy (%)")
    shown = [row["train_acc"] for row in epochs] + [value for _, value in measured]
    _percent_axis(accuracies, shown, nbins=5)
    _task_scale(panels, tasks)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_block_gradients(
    gradients: np.ndarray, tasks: Sequence[int], num_generalized: int, *, title: str = ""
) -> Figure:
    """Draw how large each block's gradient is: over all epochs as a map, and its mean by depth.

    Args:
        gradients: (epochs, blocks) mean L2 norm of each block's gradient; NaN where it is frozen.
        tasks: (epochs,) the task of each epoch, from 1.
        num_generalized: how many of the blocks, from the shallow end, all tasks share; a line marks
            where the others begin, if there are both.
        title: what stands above the picture.
    """
    from matplotlib.colors import LogNorm

    figure, (over, by_depth) = _panels(heights=[1.6, 1.5], sharex=False)
    positive = gradients[gradients > 0]
    low, high = (positive.min() / 1.3, positive.max() * 1.3) if positive.size else (0.1, 1)
    epochs, blocks = gradients.shape
    picture = over.imshow(
        np.ma.masked_invalid(gradients.T),
        norm=LogNorm(low, high),
        aspect="auto",
        origin="lower",
        extent=(0.5, epochs + 0.5, 0.5, blocks + 0.5),
    )
    over.patch.set(hatch="/////", facecolor="white", edgecolor=PALE)
    if np.isnan(gradients).any():
        over.plot([], [], "s", color=PALE, markersize=6, label="hatched in the map: frozen")
    if 0 < num_generalized < blocks:
        over.axhline(num_generalized + 0.5, color=INK, linewidth=0.8, linestyle=":")
    bar = _colour_bar(figure, picture, "Gradient (L2 norm)\nlog scale", axes=over)
    _log_numbers(bar.ax.yaxis, low, high)
    over.yaxis.get_major_locator().set_params(integer=True)
    over.set_ylabel("Block")
    _task_scale([over], np.asarray(tasks))
    label = "Gradient (L2 norm)"
    _by_depth(by_depth, gradients, np.asarray(tasks), num_generalized, label)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_block_shift(
    shift: np.ndarray, tasks: Sequence[int], num_generalized: int, *, title: str = ""
) -> Figure:
    """Draw how far each block's weights moved while a task was learned, by depth.

    Args:
        shift: (tasks, blocks) mean squared difference of each block's weights.
        tasks: (tasks,) their numbers, from 1.
        num_generalized: how many of the blocks, from the shallow end, all tasks share; a line marks
            where the others begin, if there are both.
        title: what stands above the legend.
    """
    figure, axes = _column_figure(height=2.5)
    moved, label = np.where(shift > 0, shift, np.nan), "Mean squared shift"
    _by_depth(axes, moved, np.asarray(tasks), num_generalized, label)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_cka(cka: np.ndarray, num_generalized: int, *, title: str = "") -> Figure:
    """Draw how alike the feature maps of different tasks' networks are, by depth.

    Args:
        cka: (blocks, tasks, tasks) linear CKA, 0 to 1, at least two tasks.
        num_generalized: how many of the blocks, from the shallow end, all tasks share; a line marks
            where the others begin, if there are both.
        title: what stands above the legend.
    """
    blocks, tasks, _ = cka.shape
    pairs = cka[:, *np.triu_indices(tasks, 1)]
    figure, axes = _column_figure(height=2.5)
    x = np.arange(1, blocks + 1)
    label = "the pair of tasks" if tasks == 2 else f"mean of {pairs.shape[1]} pairs of tasks"
    axes.plot(x, pairs.mean(axis=1), "o-", color=BLUE, label=label)
    if pairs.shape[1] > 1:
        axes.fill_between(x, pairs.min(axis=1), pairs.max(axis=1), color=BLUE, alpha=0.2,
                          linewidth=0, label="least to most alike pair")  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("Similarity (linear CKA)")
    _depth_axis(axes, blocks, num_generalized)
    _legend_above(figure, title)
    return figure


@house_style()
def draw_cka_tasks(
    cka: np.ndarray, blocks: Sequence[int], tasks: Sequence[int], *, title: str = ""
) -> Figure:
    """Draw the similarity of every pair of tasks at two depths, side by side.

    Args:
        cka: (2, tasks, tasks) linear CKA, 0 to 1, at the shallow and at the deep block.
        blocks: the numbers of the two blocks, from 1.
        tasks: the numbers of the tasks, from 1.
        title: what stands above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, 2.2))
    panels = figure.subplots(1, 2, sharey=True)
    numbered = _spread(range(len(tasks)), len(tasks) / 5)
    for axes, values, block, letter in zip(panels, cka, blocks, "ab", strict=True):
        picture = axes.imshow(values, vmin=0, vmax=1)
        axes.set_title(f"({letter}) block {block}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(numbered, [str(tasks[i]) for i in numbered])
        axes.tick_params(length=0)
        axes.set_xlabel("Network after task")
    panels[0].set_ylabel("Network after task")
    _colour_bar(figure, picture, "Linear CKA", axes=list(panels))
    _title_above(figure, title)
    return figure


@house_style()
def figure_bytes(figure: Figure, file_format: str = "png") -> bytes:
    """Return what a file of ``figure`` holds; ``file_format`` is "png" (300 dots an inch) or "pdf".

    The same figure gives the same bytes every time: no creation date is kept.
    """
    buffer = io.BytesIO()
    metadata = {"CreationDate": None} if file_format == "pdf" else None
    figure.savefig(buffer, format=file_format, metadata=metadata)
    return buffer.getvalue()


def _column_figure(height: float, *, grid: bool = True) -> tuple[Figure, Axes]:
    """Return an empty figure one column wide and ``height`` inches high, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, height))
    axes = figure.add_subplot()
    axes.grid(grid, axis="y")
    return figure, axes


def _panels(heights: list[float], *, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure of lettered panels below each other, whose heights are given in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_WIDTH, sum(heights) + 1.1 + 0.15 * len(heights)))
    panels = figure.subplots(len(heights), 1, sharex=sharex, height_ratios=heights)
    for axes, letter in zip(panels, "abcdef", strict=False):
        axes.set_title(f"({letter})", loc="left")
    figure.align_ylabels(panels)
    return figure, list(panels)


def _cell_numbers(axes: Axes, values: np.ndarray, *, digits: int, dark: float) -> None:
    """Write the values into the cells of a map, in white above `dark`; NaN is left empty."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(
                column,
                row,
                f"{value + 1e-9:.{digits}f}",  # halves are rounded up, as by hand
                ha="center",
                va="center",
                fontsize=TEXT_SIZE - 0.2 * len(values),
                color="white" if value > dark else INK,
            )


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return those positions, in rising order, that can have a number: ``gap`` apart or more.

    From the end, so that the last task, whose accuracy is quoted, always has its number.
    """
    kept = [positions[-1]]
    for position in reversed(positions[:-1]):
        if kept[-1] - position >= gap:
            kept.append(position)
    return kept[::-1]


def _borders(task_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first class of each task and the first that is no longer its own."""
    return list(pairwise([0, *accumulate(task_sizes)]))


def _task_axes(axes: Axes, task_sizes: Sequence[int]) -> None:
    """Number the tasks along both axes of a classes x classes picture, with lines between them."""
    borders = _borders(task_sizes)
    centres = [(first + last - 1) / 2 for first, last in borders]
    numbered = _spread(centres, borders[-1][1] / 12)
    names = [str(centres.index(centre) + 1) for centre in numbered]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(numbered, names)
    axes.tick_params(length=0)
    for first, _ in borders[1:]:
        axes.axhline(first - 0.5, color=GREY, linewidth=0.35)
        axes.axvline(first - 0.5, color=GREY, linewidth=0.35)
    axes.spines[["top", "right"]].set_visible(True)
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.6)


def _task_scale(panels: Sequence[Axes], tasks: np.ndarray) -> None:
    """Draw a line where a task starts, number the tasks above the first panel, the epochs below.

    Args:
        panels: axes whose x counts epochs from 1; the last one has the numbers.
        tasks: (epochs,) the task of each epoch.
    """
    from matplotlib.ticker import MaxNLocator

    lengths = [(task, len(list(epochs))) for task, epochs in groupby(tasks.tolist())]
    borders = _borders([length for _, length in lengths])
    for axes in panels:
        for start, _ in borders[1:]:
            axes.axvline(start + 0.5, color=GREY, linewidth=0.5)
        axes.set_xlim(0.5, len(tasks) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    centres = [(start + end + 1) / 2 for start, end in borders]
    numbered = _spread(centres, len(tasks) / 14)
    top = panels[0].secondary_xaxis("top")
    top.set_xticks(numbered, [str(lengths[centres.index(centre)][0]) for centre in numbered])
    top.tick_params(length=0, pad=1)
    top.spines["top"].set_visible(False)
    top.set_xlabel("Task", labelpad=2)
    # The first task is not trained by a run that reads it (--skip).
    panels[-1].set_xlabel(f"Epoch, counted from the start of task {tasks[0]}")


def _by_depth(
    axes: Axes, values: np.ndarray, tasks: np.ndarray, num_generalized: int, label: str
) -> None:
    """Draw the mean over the first task's rows and over the later tasks' rows, by depth.

    Means and the range are over tasks, so that a long task counts as much as a short one.
    """
    first = _mean_of(values[tasks == 1])
    later = np.array([_mean_of(values[tasks == task]) for task in np.unique(tasks[tasks > 1])])
    x = np.arange(1, values.shape[1] + 1)
    if not np.isnan(first).all():
        axes.plot(x, first, **_HOLLOW, linewidth=1.0, linestyle="--",
                  label="first task (from random weights)")  # fmt: skip
    if not np.isnan(later).all():
        axes.plot(x, _mean_of(later), "o-", color=BLUE, label="later tasks, mean")
    if len(later) > 1:
        axes.fill_between(x, np.fmin.reduce(later), np.fmax.reduce(later), color=BLUE, alpha=0.2,
                          linewidth=0, label="later tasks, least to most")  # fmt: skip
    axes.grid(axis="y")
    _log_axis(axes, [*first, *later.ravel()], label)
    _depth_axis(axes, values.shape[1], num_generalized)


def _mean_of(rows: np.ndarray) -> np.ndarray:
    """Return the mean of the rows, NaN aside; NaN where there is nothing but NaN."""
    there = ~np.isnan(rows)
    count = there.sum(axis=0)
    total = np.where(there, rows, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(rows.shape[1], np.nan), where=count > 0)


def _depth_axis(axes: Axes, blocks: int, num_generalized: int) -> None:
    """Number the blocks along the x axis and mark where the specialized ones begin."""
    numbered = [int(block) for block in _spread(range(1, blocks + 1), blocks / 12)]
    axes.set_xticks(numbered, [str(block) for block in numbered])
    axes.set_xlim(0.5, blocks + 0.5)
    if 0 < num_generalized < blocks:
        axes.axvline(num_generalized + 0.5, color=INK, linewidth=0.8, linestyle=":",
                     label="where the specialized blocks begin")  # fmt: skip
    axes.set_xlabel("Block, shallow to deep")


def _colour_bar(
    figure: Figure,
    picture: Any,
    label: str,
    ticks: Sequence[float] | None = None,
    axes: Any = None,
) -> Any:
    """Draw the scale of a map beside it and return it."""
    bar = figure.colorbar(picture, ax=axes or picture.axes, ticks=ticks, pad=0.02, fraction=0.05)
    bar.set_label(label)
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    return bar


def _ticks_at_tasks(axes: Axes, classes_seen: list[int]) -> None:
    """Put the ticks of the x axis where tasks end, and a number where there is room for one."""
    span = classes_seen[-1] - classes_seen[0]
    axes.set_xticks(_spread(classes_seen, span / 10))
    axes.set_xticks(classes_seen, minor=True)
    margin = max(0.03 * span, 0.5)
    axes.set_xlim(classes_seen[0] - margin, classes_seen[-1] + margin)


def _percent_axis(axes: Axes, values: list[float], nbins: int = 8) -> None:
    """Let the y axis reach from the ten below the lowest value to the ten above the highest."""
    from matplotlib.ticker import MaxNLocator

    low = max(0, 10 * int((min(values) - 2) // 10))
    high = min(100, 10 * -int(-(max(values) + 2) // 10))
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=nbins, steps=[1, 2, 5, 10], integer=True))


def _wrap(title: str) -> str:
    return "\n".join(textwrap.wrap(title, 54))


def _title_above(figure: Figure, title: str) -> None:
    """Place the title of a picture without a legend where the others have theirs."""
    if title:
        figure.suptitle(_wrap(title), x=0.02, ha="left")


def _log_axis(axes: Axes, values: Sequence[float | None], label: str) -> None:
    """Make the y axis logarithmic, with room around the values, and say so behind its label."""
    axes.set_ylabel(label)
    there = np.array(values, dtype=float)
    there = there[there > 0]  # neither None nor a 0, which no logarithmic axis can show
    if there.size:
        axes.set_yscale("log")
        axes.set_ylabel(f"{label}\nlog scale")
        # Of 1, 2, 5, 10, ... at least one lies between limits that are a factor 2.56 apart.
        axes.set_ylim(there.min() / 1.6, there.max() * 1.6)
        _log_numbers(axes.yaxis, *axes.get_ylim())


def _log_numbers(axis: Any, low: float, high: float) -> None:
    """Number a logarithmic axis without a crowd: each power of ten, over a short range 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 60 else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_above(figure: Figure, title: str) -> None:
    """Place the title and the legend, one curve a line, above the axes."""
    figure.legend(loc="outside upper left", title=_wrap(title) or None, alignment="left")


@house_style()
def draw_area(
    megabytes: list[float],
    accuracies: dict[str, tuple[list[float], list[float | None]]],
    *,
    areas: dict[str, float],
    reference: dict[str, list[float | None]] | None = None,
    by: str = "CNN",
    title: str = "",
) -> Figure:
    """Draw the performance-memory curve: top-1 accuracy against memory.

    Args:
        megabytes: the budgets, rising.
        accuracies: "average" and "last": percent at each budget, with standard deviations (None
            for a single run), which are drawn as error bars.
        areas: the area under each of the two, for the legend; empty where budgets are missing.
        reference: published percentages of the two, drawn as thin lines; None where there is none.
        by: whose accuracies they are, "CNN" or "NME".
        title: what stands above the legend.
    """
    figure, axes = _column_figure(height=2.7)
    styles = {
        "average": {"color": BLUE, "marker": "o", "linestyle": "-"},
        "last": {"color": VERMILION, "marker": "s", "linestyle": "--"},
    }
    letters = {"average": "A", "last": "L"}
    drawn = []
    for name, (top1, deviations) in accuracies.items():
        label = f"{by}, {name} accuracy"
        if name in areas:
            label += f": AUC-{letters[name]} {areas[name]:.2f}"
        axes.plot(megabytes, top1, label=label, zorder=3, **styles[name])
        if any(deviations):
            spread = [float("nan") if each is None else each for each in deviations]
            bars = {"capsize": 2, "elinewidth": 0.8, "ecolor": styles[name]["color"], "zorder": 3}
            label = "bars: ± one standard deviation over seeds" if name == "average" else None
            axes.errorbar(megabytes, top1, yerr=spread, fmt="none", label=label, **bars)
        drawn += [
            v + sign * (d or 0) for v, d in zip(top1, deviations, strict=True) for sign in (-1, 1)
        ]
    for name, values in (reference or {}).items():
        there = [i for i, value in enumerate(values) if value is not None]
        if len(there) < 2:
            continue  # no line
        top1 = [values[i] for i in there]
        axes.plot(
            [megabytes[i] for i in there],
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
    _percent_axis(axes, drawn)
    _legend_above(figure, title)
    return figure


class SeedCurve(NamedTuple):
    """What `draw_seed_curves` draws of one experiment."""

    name: str
    top1: Sequence[Sequence[float]]  # percent after each task, for each seed: (n, tasks)
    published: Sequence[float] | None = None  # percent after each task
    same_schedule: bool = True  # as that of the published run
    by: str = "CNN"  # whose accuracy it is; or "NME"


@house_style()
def draw_seed_curves(
    classes_seen: Sequence[int], curves: Sequence[SeedCurve], *, title: str = ""
) -> Figure:
    """Draw top-1 accuracy against classes seen: mean and deviation over seeds.

    Where not all curves are the classifier's, the legend says whose each is.

    From two seeds on there is a band of one standard deviation (of a sample: n - 1). Published
    curves are dotted, and paler where they were trained with another schedule.

    Args:
        classes_seen: after each task.
        curves: up to seven; some may end after fewer tasks.
        title: what stands above the legend.
    """
    of_cnn = all(curve.by == "CNN" for curve in curves)
    labels = []
    for name, top1, *_, by in curves:
        said = f"{name} (n = {len(top1)})" if of_cnn else f"{name} ({by}, n = {len(top1)})"
        labels.append(textwrap.fill(said, 50))
    lines = sum(label.count("\n") + 1 for label in labels) + _wrap(title).count("\n")
    figure, axes = _column_figure(height=2.5 + 0.14 * lines)
    colours = (BLUE, VERMILION, GREEN, PURPLE, "#E69F00", "#56B4E9", INK)
    drawn: list[float] = []
    for curve, label, colour, marker in zip(curves, labels, colours, "osv^DPX", strict=False):
        top1 = np.array(curve.top1)
        mean, x = top1.mean(axis=0), classes_seen[: top1.shape[1]]
        axes.plot(x, mean, color=colour, marker=marker, label=label)
        drawn += [*mean]
        if len(top1) > 1:
            low, high = mean - top1.std(axis=0, ddof=1), mean + top1.std(axis=0, ddof=1)
            if len(x) > 1:
                axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            else:  # a band of no width
                axes.errorbar(x, mean, yerr=high - mean, color=colour, capsize=3)
            drawn += [*low, *high]
        if curve.published is not None:
            paler = 1 if curve.same_schedule else 0.4
            axes.plot(x, curve.published, ":", color=colour, linewidth=0.9, alpha=paler)
            drawn += curve.published
    if any(len(curve.top1) > 1 for curve in curves):
        label = "band, bars: ± one standard deviation over n seeds"
        axes.fill_between([], [], color=GREY, alpha=0.3, linewidth=0, label=label)
    schedules = {curve.same_schedule for curve in curves if curve.published is not None}
    for same in sorted(schedules, reverse=True):
        label = "dotted: published" if same else "dotted, pale: published, with another schedule"
        axes.plot([], [], ":", color=GREY, linewidth=0.9, alpha=1 if same else 0.4, label=label)
    axes.set_xlabel("Classes seen")
    axes.set_ylabel("Top-1 accuracy of the CNN (%)" if of_cnn else "Top-1 accuracy (%)")
    _ticks_at_tasks(axes, list(classes_seen))
    _percent_axis(axes, drawn)
    _legend_above(figure, title)
    return figure
