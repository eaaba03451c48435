"""Tests of utils/plots.py: what can be measured of a picture; how it looks was judged by eye."""

import hashlib
import inspect
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.axes import Axes
from matplotlib.text import Text

from utils import plots
from utils.plots import (
    BLUE,
    COLUMN_WIDTH,
    VERMILION,
    draw_accuracy_matrix,
    draw_area,
    draw_block_gradients,
    draw_block_shift,
    draw_cka,
    draw_cka_tasks,
    draw_confusion,
    draw_curves,
    draw_training,
    draw_weight_norms,
    figure_bytes,
    house_style,
)

TITLE = "MEMO, a folder of a user's own with a rather long name, Base50 Inc10, after task 2 of 6"
PUBLISHED = [90.40, 80.30, 78.33, 74.65, 71.74, 69.67, 68.19, 65.34, 63.10, 61.98]


@pytest.fixture(autouse=True)
def drawn_as_files_are():
    """Ticks are made when a figure is drawn, in the style that then holds."""
    with house_style():
        yield


def results(task_sizes, cnn, nme):
    """Return what draw_curves reads of a summary.json, for any accuracies."""
    seen = np.cumsum(task_sizes).tolist()
    return {
        "curves": {"classes_seen": seen, "cnn_top1": cnn, "nme_top1": nme},
        "task_sizes": task_sizes,
        "average_accuracy": float(np.mean(cnn)),
        "last_accuracy": cnn[-1],
        "average_nme_accuracy": float(np.mean(nme)),
        "last_nme_accuracy": nme[-1],
    }


def falling(task_sizes, high=95.0, low=40.0):
    values = list(np.linspace(high, low, len(task_sizes)))
    return results(task_sizes, values, [value - 1 for value in values])


def texts_on(figure):
    axes = figure.axes[0]
    legend = figure.legends[0]
    ticks = [label for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()]
    return [axes.xaxis.label, axes.yaxis.label, legend.get_title(), *legend.get_texts(), *ticks]


def test_curves_show_both_classifiers_and_name_average_and_last():
    nme = [value - 1 for value in PUBLISHED]
    figure = draw_curves(results([10] * 10, PUBLISHED, nme), title="MEMO, cifar100")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "Classes seen"
    assert axes.get_ylabel() == "Top-1 accuracy (%)"
    cnn_line, nme_line = axes.get_lines()
    assert list(cnn_line.get_xdata()) == list(range(10, 101, 10))
    assert list(cnn_line.get_ydata()) == PUBLISHED
    assert list(nme_line.get_ydata()) == nme
    assert cnn_line.get_marker() != nme_line.get_marker()  # a grey print can be read as well
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "CNN (classifier): average 72.37 %, last 61.98 %",
        "NME (nearest mean): average 71.37 %, last 60.98 %",
    ]
    assert figure.legends[0].get_title().get_text() == "MEMO, cifar100"


@pytest.mark.parametrize(
    "run",
    [
        results([10], [100.0], [100.0]),
        results([10], [0.0], [0.0]),
        results([1, 1, 1], [100.0, 50.0, 0.0], [100.0, 100.0, 0.0]),
        falling([50, 50]),
        falling([5] * 20),
        falling([100] * 10),
        falling([50] + [1] * 50),
        falling([1] * 1000),
        falling([10] * 9 + [1]),
    ],
    ids=[
        "one task",
        "at zero",
        "all or nothing",
        "two",
        "twenty",
        "to 1000",
        "51",
        "1000 tasks",
        "9 + 1",
    ],
)
def test_no_text_is_cut_or_overlaps_another(run):
    figure = draw_curves(run, title=TITLE)
    figure.draw_without_rendering()
    page = figure.bbox
    visible = [text for text in texts_on(figure) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in visible]
    for words, box in boxes:
        assert page.x0 <= box.x0, f"{words!r} is cut on the left"
        assert box.x1 <= page.x1, f"{words!r} is cut on the right"
        assert page.y0 <= box.y0, f"{words!r} is cut below"
        assert box.y1 <= page.y1, f"{words!r} is cut above"
    for (first, one), (second, other) in itertools.combinations(boxes, 2):
        assert not one.padded(3, 0).overlaps(other), f"{first!r} touches {second!r}"
    assert figure.get_size_inches()[0] == COLUMN_WIDTH
    # The last task's accuracy is quoted in the legend, so its number is on the axis.
    assert run["curves"]["classes_seen"][-1] in figure.axes[0].get_xticks()


def test_every_task_has_its_number_while_there_is_room():
    ten, twenty = (draw_curves(falling(sizes)).axes[0] for sizes in ([10] * 10, [5] * 20))
    assert sorted(ten.get_xticks()) == list(range(10, 101, 10))
    assert sorted(twenty.get_xticks()) == list(range(10, 101, 10))
    assert set(twenty.get_xticks(minor=True)) >= set(range(5, 100, 10))


def test_points_lie_within_the_axes():
    axes = draw_curves(results([5, 5], [100.0, 0.0], [99.0, 0.5])).axes[0]
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlim()[0] < 5 < 10 < axes.get_xlim()[1]


@pytest.mark.parametrize(("file_format", "start"), [("png", b"\x89PNG\r\n"), ("pdf", b"%PDF-")])
def test_a_figure_as_a_file_is_the_same_every_time(file_format, start):
    once, again = (figure_bytes(draw_curves(falling([10] * 3)), file_format) for _ in range(2))
    assert once.startswith(start)
    assert once == again
    assert b"CreationDate" not in once


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, utils.plots, utils.pictures; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


HOSTILE = "text.usetex: True\nfont.size: 20\naxes.facecolor: black\nsavefig.bbox: tight\n"


def test_files_do_not_depend_on_how_matplotlib_is_set_up(tmp_path):
    (tmp_path / "matplotlibrc").write_text(HOSTILE)  # and there is no LaTeX
    code = (
        "import hashlib; from utils.plots import *; figure = draw_block_shift("
        "np.full((2, 3), 0.5), [1, 2], 1); print(*(hashlib.md5(figure_bytes(figure, form))"
        ".hexdigest() for form in ('png', 'pdf')))"
    )
    environment = {"MPLBACKEND": "module://matplotlib_inline.misspelt", "MATPLOTLIBRC": "."}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    figure = draw_block_shift(np.full((2, 3), 0.5), [1, 2], 1)
    digests = [hashlib.md5(figure_bytes(figure, form)).hexdigest() for form in ("png", "pdf")]
    assert done.stdout.split() == digests, done.stderr


def test_whatever_draws_does_so_in_the_house_style():
    functions = [f for name, f in inspect.getmembers(plots) if name.startswith("draw_")]
    assert len(functions) >= 9
    for function in (*functions, figure_bytes):
        assert hasattr(function, "__wrapped__"), function.__name__


class TestArea:
    MB = (7.6, 12.4, 23.5)

    def draw(self, deviations=None, reference=None, mb=None):
        accuracies = {
            "average": ([55.0, 69.0, 72.0], deviations or [None] * 3),
            "last": ([41.0, 57.0, 62.0], deviations or [None] * 3),
        }
        areas = {"average": 10.86, "last": 9.04}
        return draw_area(
            list(mb or self.MB), accuracies, areas=areas, reference=reference, title="t"
        )

    def test_both_curves_and_their_areas(self):
        figure = self.draw()
        (axes,) = figure.axes
        assert [tuple(line.get_xdata()) for line in axes.lines] == [self.MB, self.MB]
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert any("AUC-A 10.86" in label for label in labels)
        assert any("AUC-L 9.04" in label for label in labels)
        assert "(MB)" in axes.get_xlabel()
        assert "(%)" in axes.get_ylabel()

    def test_numbers_of_close_budgets_do_not_overlap(self):
        def numbers(figure):
            return [text.get_text() for text in figure.axes[0].get_xticklabels()]

        assert sorted(numbers(self.draw()), key=float) == ["7.6", "12.4", "23.5"]
        assert numbers(self.draw(mb=(7.6, 7.8, 11.2))) == ["11.2", "7.8"]

    def test_deviations_are_error_bars_and_the_published_curve_a_thin_line(self):
        plain = self.draw()
        figure = self.draw([1.0, 2.0, 3.0], {"average": [54.9, 69.1, 72.4], "last": [40.0] * 3})
        assert len(figure.axes[0].containers) == 2
        (legend,) = figure.legends
        said = [text.get_text() for text in legend.get_texts()]
        assert said[-1] == "bars: ± one standard deviation over seeds"
        assert plain.axes[0].containers == []
        # A point of a single run has no bar.
        assert len(self.draw([None, 2.0, 3.0]).axes[0].containers) == 2
        thin = [line for line in figure.axes[0].lines if line.get_linewidth() < 1]
        assert [list(line.get_ydata()) for line in thin[-2:]] == [[54.9, 69.1, 72.4], [40.0] * 3]


# --- the other pictures of a run ------------------------------------------------------------------

SPLITS = {"one": [5], "ten": [10] * 10, "twenty": [5] * 20, "51": [50] + [1] * 50}


def epochs_of(tasks, epochs=5, evaluated=True):
    """Return rows of training.csv."""
    return [
        {
            "task": task,
            "epoch": epoch,
            "lr": 0.1 * 0.1 ** (epoch // 2),
            "loss": 1.0 / epoch,
            "loss_clf": 1.0 / epoch,
            "loss_aux": None if task == 1 else 0.5 / epoch,
            "train_acc": 15.0 * epoch,
            "test_acc": 12.0 * epoch if evaluated and epoch % 2 == 0 else None,
            "seconds": 1.0,
        }
        for task in range(1, tasks + 1)
        for epoch in range(1, epochs + 1)
    ]


def triangle(tasks):
    matrix = np.full((tasks, tasks), np.nan)
    matrix[np.tril_indices(tasks)] = 50.0
    return matrix


def pictures(sizes):
    """Return one of each picture for a run of tasks of these sizes."""
    random = np.random.default_rng(0)
    classes, tasks = sum(sizes), len(sizes)
    targets = np.repeat(np.arange(classes), 4)
    norms = random.uniform(1, 2, classes)
    gradients = random.uniform(0.01, 1, (tasks * 5, 15))
    gradients[5:, :10] = np.nan
    epochs = np.repeat(np.arange(tasks) + 1, 5)
    aligned = {}
    if tasks > 1:
        aligned["weight_norms"] = draw_weight_norms(norms, norms / 2, sizes, title=TITLE)
    names = [f"$\\odd class {n}$" for n in range(classes)]  # no formula
    return {
        **aligned,
        "confusion": draw_confusion(
            random.permutation(targets), targets, sizes, names=names, title=TITLE
        ),
        "accuracy_matrix": draw_accuracy_matrix(triangle(tasks), title=TITLE),
        "training": draw_training(epochs_of(tasks), title=TITLE),
        "block_gradients": draw_block_gradients(gradients, epochs, 10, title=TITLE),
        "block_shift": draw_block_shift(gradients[::5] ** 4, np.unique(epochs), 10, title=TITLE),
        "cka": draw_cka(random.uniform(0, 1, (15, max(tasks, 2), max(tasks, 2))), 10, title=TITLE),
        "cka_tasks": draw_cka_tasks(
            random.uniform(0, 1, (2, tasks, tasks)), [5, 15], list(range(1, tasks + 1)), title=TITLE
        ),
    }


def all_texts(figure):
    """Return every text that is on the page, of all axes, with its box."""
    figure.draw_without_rendering()
    found = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text.figure is not None
    ]
    # Ticks outside the limits exist too, but are not drawn.
    hidden = set()
    for axes in figure.findobj(Axes):
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(tick) for tick in axis._update_ticks()}
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if id(tick) not in drawn or not axes.get_visible():
                    hidden |= {id(tick.label1), id(tick.label2)}
    return [(t.get_text(), t.get_window_extent()) for t in found if id(t) not in hidden]


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=list(SPLITS))
def test_no_picture_has_texts_that_are_cut_or_touch(sizes):
    for name, figure in pictures(sizes).items():
        boxes = all_texts(figure)
        page = figure.bbox
        assert figure.get_size_inches()[0] == COLUMN_WIDTH
        assert len(boxes) > 4, name
        for words, box in boxes:
            inside = page.x0 <= box.x0 < box.x1 <= page.x1 and page.y0 <= box.y0 < box.y1 <= page.y1
            assert inside, f"{name}: {words!r} is cut"
        for (first, one), (second, other) in itertools.combinations(boxes, 2):
            assert not one.padded(-0.5).overlaps(other), f"{name}: {first!r} touches {second!r}"


def test_the_published_curve_is_a_thin_line_over_the_tasks_that_were_run():
    run = results([10] * 3, [50.0] * 3, [50.0] * 3)
    run["task_sizes"] = [10] * 10
    lines = [
        draw_curves(run, published=PUBLISHED, same_schedule=same).axes[0].get_lines()[-1]
        for same in (True, False)
    ]
    for line in lines:
        assert list(line.get_xdata()) == [10, 20, 30]
        assert list(line.get_ydata()) == PUBLISHED[:3]
        assert line.get_linewidth() < 1
    same, other = lines
    said = "published: average 83.01 %, last 78.33 %"
    assert same.get_label() == said
    assert other.get_label() == f"{said}\n(trained with another schedule)"
    assert other.get_color() > same.get_color()  # paler
    assert same.axes.get_ylim()[1] > max(PUBLISHED)


def test_confusion_is_the_share_of_each_class():
    figure = draw_confusion(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1]), [1, 2])
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(shown, [[75, 25, 0], [0, 100, 0], [np.nan] * 3])
    assert axes.get_ylabel().startswith("True")  # rows; columns are predictions
    borders = {line.get_xdata()[0] for line in axes.get_lines()} | {
        line.get_ydata()[0] for line in axes.get_lines()
    }
    assert 0.5 in borders
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert [text.get_text() for text in axes.texts] == ["75", "25", "0", "0", "100", "0"]
    assert figure.axes[1].get_ylabel().endswith("(%)\nsquare-root scale")


@pytest.mark.parametrize(("classes", "named", "numbered"), [(10, 1, 1), (20, 1, 0), (22, 0, 0)])
def test_few_classes_have_their_names_and_fewer_their_numbers(classes, named, numbered):
    targets = np.arange(classes)
    names = [f"name of class {n}" for n in targets]
    axes = draw_confusion(targets, targets, [classes // 2] * 2, names=names).axes[0]
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == (["name of class…"] * classes if named else ["1", "2"])
    assert len(axes.texts) == numbered * classes**2


def test_accuracies_have_one_decimal_and_halves_are_rounded_up():
    axes = draw_accuracy_matrix(np.array([[12.25, np.nan], [100, 0.05]])).axes[0]
    assert [text.get_text() for text in axes.texts] == ["12.3", "100.0", "0.1"]


def test_weight_norms_show_what_alignment_did():
    before = [1.0, 3.0, 4.0, 4.0]
    axes = draw_weight_norms(before, [1.0, 3.0, 2.0, 2.0], [2, 2]).axes[0]
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels[:3] == [
        "before alignment in task 2",
        "after alignment (new rows × 0.500)",
        "mean of the old classes",
    ]
    assert axes.get_lines()[2].get_ydata()[0] == 2.0


def test_weight_norms_without_alignment_are_drawn_once():
    norms = [1.0, 3.0, 4.0, 4.0]
    axes = draw_weight_norms(norms, norms, [2, 2]).axes[0]
    labels = [line.get_label() for line in axes.get_lines()]
    assert labels[:2] == ["after task 2", "mean of the old classes"]
    assert list(axes.get_lines()[0].get_ydata()) == norms


def test_curves_of_a_method_without_exemplars_have_no_nme():
    run = results([10, 10], [50.0, 40.0], [50.0, 40.0])
    run["curves"]["nme_top1"] = [None, None]
    run |= dict.fromkeys(("average_nme_accuracy", "last_nme_accuracy"))
    figure = draw_curves(run)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "CNN (classifier): average 45.00 %, last 40.00 %"
    ]


def test_training_draws_the_parts_of_the_loss_that_there_are_and_each_stage():
    rows = [{key: value for key, value in row.items() if key != "loss_aux"} for row in epochs_of(2)]
    for row in rows:
        row["stage"] = "train" if row["epoch"] < 4 else "bias"
        row["loss_kd"] = None if row["task"] == 1 or row["stage"] == "bias" else 0.25
        row["loss_new"] = 0.1
    figure = draw_training(rows)
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    lines = [list(line.get_xdata()) for line in drawn if line.get_color() == BLUE]
    assert lines == [[1, 2, 3], [4, 5], [6, 7, 8], [9, 10]]
    assert [text.get_text() for text in figure.legends[0].get_texts()][:3] == [
        "loss: classifier",
        "loss: distillation",
        "loss: new",
    ]
    assert [list(line.get_xdata()) for line in drawn if line.get_color() == VERMILION] == [
        [6, 7, 8]
    ]


def test_training_breaks_its_lines_between_tasks_and_leaves_out_what_was_not_measured():
    losses, accuracies, rates = draw_training(epochs_of(2, evaluated=False)).axes[:3]
    drawn = [list(line.get_xdata()) for line in losses.get_lines() if len(line.get_xdata()) > 2]
    assert drawn == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [6, 7, 8, 9, 10]]
    assert not [t for t in accuracies.get_lines() if "test" in str(t.get_label())]
    assert rates.get_yscale() == losses.get_yscale() == "log"
    assert rates.get_ylabel() == "Learning rate\nlog scale"
    assert losses.get_ylabel() == "Mean loss (nats)\nlog scale"
    titles = [panel.get_title(loc="left") for panel in (losses, accuracies, rates)]
    assert titles == ["(a)", "(b)", "(c)"]
    with pytest.raises(ValueError, match="at least one"):
        draw_training([])


def test_training_that_never_loses_a_bit_is_drawn():
    rows = [{**row, "loss_clf": 0.0, "loss_aux": 0.0, "lr": 0.0} for row in epochs_of(2)]
    figure = draw_training(rows)
    assert figure.axes[0].get_ylabel() == "Mean loss (nats)"  # no logarithm of 0
    assert figure_bytes(figure).startswith(b"\x89PNG")


def test_blocks_are_counted_in_whole_numbers():
    gradients = np.random.default_rng(0).uniform(0.1, 1, (4, 2))  # a network of two blocks
    figure = draw_block_gradients(gradients, [1, 1, 2, 2], 1)
    figure.draw_without_rendering()
    over, by_depth = figure.axes[:2]
    for tick in [*over.get_yticks(), *over.get_xticks(), *by_depth.get_xticks()]:
        assert tick == int(tick)
    (legend,) = figure.legends
    assert "where the specialized blocks begin" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("shared", [0, 2], ids=["der", "single"])
def test_no_line_is_drawn_where_all_blocks_are_shared_or_none(shared):
    figures = [
        draw_block_gradients(np.ones((2, 2)), [1, 2], shared),
        draw_block_shift(np.ones((2, 2)), [1, 2], shared),
        draw_cka(np.ones((2, 3, 3)), shared),
    ]
    for figure in figures:
        said = [text.get_text() for text in figure.legends[0].get_texts()]
        assert "where the specialized blocks begin" not in said
        assert all(line.get_linestyle() != ":" for axes in figure.axes for line in axes.get_lines())


@pytest.mark.parametrize("first", [1, 2])  # 2: the first task was read, not trained
def test_epochs_are_counted_from_the_first_task_that_was_trained(first):
    rows = [{**row, "task": row["task"] + first - 1} for row in epochs_of(2)]
    gradients = draw_block_gradients(np.ones((2, 3)), [first, first + 1], 1)
    said = f"Epoch, counted from the start of task {first}"
    assert draw_training(rows).axes[2].get_xlabel() == gradients.axes[0].get_xlabel() == said
