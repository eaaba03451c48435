"""Tests of utils/plots.py: what can be measured of a picture; how it looks was judged by eye."""

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPOSITORY

from utils.plots import COLUMN_WIDTH, draw_area, draw_curves, figure_bytes

PUBLISHED = [90.40, 80.30, 78.33, 74.65, 71.74, 69.67, 68.19, 65.34, 63.10, 61.98]


def results(task_sizes, cnn, nme):
    """Return what draw_curves reads of Metrics, for any accuracies."""
    tasks = [
        SimpleNamespace(classes_seen=int(seen), cnn_top1=first, nme_top1=second)
        for seen, first, second in zip(np.cumsum(task_sizes), cnn, nme, strict=True)
    ]
    return SimpleNamespace(
        tasks=tasks,
        average_accuracy=float(np.mean(cnn)),
        last_accuracy=cnn[-1],
        average_nme_accuracy=float(np.mean(nme)),
        last_nme_accuracy=nme[-1],
    )


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
    title = "memo_resnet32, cifar100, base 0 increment 5, 4771 exemplars, class order 1993"
    figure = draw_curves(run, title=title)
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
    assert run.tasks[-1].classes_seen in figure.axes[0].get_xticks()


def test_every_task_has_its_number_while_there_is_room():
    ten, twenty = (draw_curves(falling(sizes)).axes[0] for sizes in ([10] * 10, [5] * 20))
    assert sorted(ten.get_xticks()) == list(range(10, 101, 10))
    assert sorted(twenty.get_xticks()) == list(range(10, 101, 10))
    assert set(twenty.get_xticks(minor=True)) >= set(range(5, 100, 10))


def test_points_lie_within_the_axes():
    axes = draw_curves(results([5, 5], [100.0, 0.0], [99.0, 0.5])).axes[0]
    assert axes.get_ylim() == (0, 100)
    assert axes.get_xlim()[0] < 5 < 10 < axes.get_xlim()[1]


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one evaluated task"):
        draw_curves(SimpleNamespace(tasks=[]))


@pytest.mark.parametrize(("file_format", "start"), [("png", b"\x89PNG\r\n"), ("pdf", b"%PDF-")])
def test_a_figure_as_a_file_is_the_same_every_time(file_format, start):
    once, again = (figure_bytes(draw_curves(falling([10] * 3)), file_format) for _ in range(2))
    assert once.startswith(start)
    assert once == again
    assert b"CreationDate" not in once


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, utils.plots, utils.logbook; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


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
        assert plain.axes[0].containers == []
        # A point of a single run has no bar.
        assert len(self.draw([None, 2.0, 3.0]).axes[0].containers) == 2
        thin = [line for line in figure.axes[0].lines if line.get_linewidth() < 1]
        assert [list(line.get_ydata()) for line in thin[-2:]] == [[54.9, 69.1, 72.4], [40.0] * 3]
