"""Accuracies against the authors' program, forgetting against its definition."""

import json
import math
from itertools import accumulate

import numpy as np
import pytest
from conftest import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.metrics import Metrics, area_under_curve, evaluate_task, forgetting, top_k_accuracy

GOLDEN_CASES = load_golden("C8_metrics.json")


@pytest.mark.parametrize("golden", GOLDEN_CASES, ids=lambda golden: f"case{golden['case']}")
def test_accuracies_are_the_golden_ones(golden):
    """The authors round to two decimals, so 0.005 is the exact tolerance."""
    arrays = load_golden("C8_metrics.npz")
    predictions = arrays[f"case{golden['case']}/y_pred_top5"]
    targets = arrays[f"case{golden['case']}/y_true"]
    expected, known = golden["accuracy"], golden["nb_old"]
    near = {"abs": 0.005 + 1e-9}
    assert top_k_accuracy(predictions[:, :1], targets) == pytest.approx(golden["top1"], **near)
    assert top_k_accuracy(predictions, targets) == pytest.approx(golden["top5"], **near)

    # Two tasks, old and new, as the golden "old" and "new".
    new = golden["max_label"] + 1 - known
    sizes = [known, max(new, 1)] if known else [new]
    task = evaluate_task(len(sizes), predictions, predictions, targets, sizes)
    assert task.cnn_top1 == task.nme_top1 == pytest.approx(expected["total"], **near)
    assert task.cnn_top5 == task.nme_top5 == pytest.approx(golden["top5"], **near)
    if known == 0:  # the authors write 0 where there is nothing to measure
        assert task.old_top1 is None
    else:
        assert task.old_top1 == pytest.approx(expected["old"], **near)
    if math.isnan(expected["new"]):
        assert task.new_top1 is None
    else:
        assert task.new_top1 == pytest.approx(expected["new"], **near)

    # Tasks of ten, as the golden groups.
    groups = golden["max_label"] // 10 + 1
    task = evaluate_task(groups, predictions, predictions, targets, [10] * groups)
    for label, value in expected.items():
        if "-" in label:
            group = int(label[:2]) // 10
            assert task.per_task_top1[group] == pytest.approx(value, **near)


def test_top_k_counts_the_target_in_any_column():
    predictions = np.array([[0, 1], [1, 0], [2, 1], [0, 2]])
    targets = np.array([0, 0, 0, 1])
    assert top_k_accuracy(predictions[:, :1], targets) == 25.0
    assert top_k_accuracy(predictions, targets) == 50.0


def test_top_k_refuses_what_has_no_accuracy():
    with pytest.raises(ValueError, match="no images"):
        top_k_accuracy(np.empty((0, 5), int), np.empty(0, int))
    with pytest.raises(ValueError, match=r"4 targets.*\(3, 2\)"):
        top_k_accuracy(np.zeros((3, 2), int), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"3 targets.*\(3,\)"):
        top_k_accuracy(np.zeros(3, int), np.zeros(3, int))


# ---------------------------------------------------------------- a run, worked out by hand


def predict(correct: list[int], per_class: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (n, 1) that get `correct[c]` of `per_class` images of each class c right."""
    classes = len(correct)
    targets = np.repeat(np.arange(classes), per_class)
    predictions = targets.copy()
    for label, right in enumerate(correct):
        start = label * per_class
        predictions[start + right : start + per_class] = (label + 1) % classes
    return predictions[:, None], targets


def run_by_hand() -> Metrics:
    """Three tasks of 2, 1 and 1 classes; NME one image better in class 0 after the first task."""
    metrics = Metrics([2, 1, 1])
    for cnn, nme in (([3, 4], [4, 4]), ([2, 3, 4], [2, 3, 4]), ([2, 0, 1, 4], [1, 1, 1, 1])):
        predictions, targets = predict(cnn)
        metrics.append(predictions, predict(nme)[0], targets)
    return metrics


def test_a_run_by_hand():
    metrics = run_by_hand()
    first, second, third = metrics.tasks
    assert [task.task for task in metrics.tasks] == [1, 2, 3]
    assert [task.classes_seen for task in metrics.tasks] == [2, 3, 4]
    assert (first.cnn_top1, first.nme_top1) == (87.5, 100.0)
    assert (first.old_top1, first.new_top1, first.forgetting) == (None, 87.5, None)
    assert second.cnn_top1 == pytest.approx(75.0)
    assert (second.old_top1, second.new_top1) == (62.5, 100.0)
    assert second.forgetting == pytest.approx(87.5 - 62.5)
    assert third.per_task_top1 == [25.0, 25.0, 100.0]
    assert third.forgetting == pytest.approx(((87.5 - 25.0) + (100.0 - 25.0)) / 2)
    np.testing.assert_array_equal(third.per_class_top1, [50.0, 0.0, 25.0, 100.0])
    np.testing.assert_array_equal(
        metrics.accuracy_matrix(),
        [[87.5, np.nan, np.nan], [62.5, 100.0, np.nan], [25.0, 25.0, 100.0]],
    )
    assert metrics.average_accuracy == pytest.approx((87.5 + 75.0 + 43.75) / 3)
    assert metrics.last_accuracy == 43.75
    assert metrics.average_nme_accuracy == pytest.approx((100.0 + 75.0 + 25.0) / 3)
    assert metrics.last_nme_accuracy == 25.0


def test_curves_have_one_value_a_task():
    metrics = run_by_hand()
    curves = metrics.curves()
    assert list(curves) == [
        "task",
        "classes_seen",
        "cnn_top1",
        "cnn_top5",
        "nme_top1",
        "nme_top5",
        "old_top1",
        "new_top1",
        "forgetting",
    ]
    assert curves["cnn_top1"] == [task.cnn_top1 for task in metrics.tasks]
    assert curves["forgetting"][0] is None
    assert all(len(values) == 3 for values in curves.values())
    json.dumps(curves, allow_nan=False)


def test_metrics_return_from_plain_numbers():
    metrics = run_by_hand()
    state = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    restored = Metrics.from_dict(state)
    assert restored.task_sizes == metrics.task_sizes
    assert restored.curves() == metrics.curves()
    np.testing.assert_array_equal(restored.accuracy_matrix(), metrics.accuracy_matrix())
    np.testing.assert_array_equal(
        restored.tasks[-1].per_class_top1, metrics.tasks[-1].per_class_top1
    )
    assert restored.to_dict() == metrics.to_dict()


def test_classes_without_test_images_have_no_accuracy_and_spoil_no_mean():
    metrics = Metrics([1, 2, 1])
    metrics.append([[0], [0]], [[0], [0]], [0, 0])
    metrics.append([[1], [0]], [[0], [0]], [0, 0])  # no image of classes 1 and 2
    metrics.append([[3], [0]], [[0], [0]], [3, 0])
    assert metrics.tasks[1].per_task_top1 == [50.0, None]
    assert metrics.tasks[1].new_top1 is None
    assert np.isnan(metrics.accuracy_matrix()[2, 1])
    np.testing.assert_array_equal(metrics.tasks[2].per_class_top1, [100.0, np.nan, np.nan, 100.0])
    assert metrics.tasks[2].forgetting == 0.0  # of the first task alone: 100, 50, 100
    restored = Metrics.from_dict(json.loads(json.dumps(metrics.to_dict(), allow_nan=False)))
    assert np.isnan(restored.tasks[2].per_class_top1[1])


def test_metrics_refuse_misuse():
    metrics = Metrics([1, 1])
    with pytest.raises(ValueError, match="no task"):
        _ = metrics.average_accuracy
    with pytest.raises(ValueError, match=r"class 1.*task 1"):
        metrics.append([[0]], [[0]], [1])
    assert metrics.tasks == []
    metrics.append([[0]], [[0]], [0])
    metrics.append([[0]], [[0]], [0])
    with pytest.raises(ValueError, match="2 tasks"):
        metrics.append([[0]], [[0]], [0])


# ---------------------------------------------------------------- forgetting, and bounds


def test_forgetting_is_best_earlier_minus_final():
    matrix = np.array([[90.0, np.nan, np.nan], [95.0, 80.0, np.nan], [70.0, 85.0, 60.0]])
    assert forgetting(matrix) == pytest.approx(((95 - 70) + (80 - 85)) / 2)
    assert forgetting(matrix[:1, :1]) is None


@given(st.integers(2, 8), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_forgetting_follows_its_definition(tasks, seed):
    matrix = np.random.RandomState(seed).uniform(0, 100, (tasks, tasks))
    matrix[np.triu_indices(tasks, 1)] = np.nan
    drops = [
        max(matrix[after, task] for after in range(task, tasks - 1)) - matrix[-1, task]
        for task in range(tasks - 1)
    ]
    assert forgetting(matrix) == pytest.approx(sum(drops) / len(drops))


@given(
    task_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_every_measure_of_any_predictions_is_a_percentage(task_sizes, seed):
    random = np.random.RandomState(seed)
    metrics = Metrics(task_sizes)
    for seen in accumulate(task_sizes):
        targets = np.repeat(np.arange(seen), 3)
        cnn, nme = (
            np.stack([random.permutation(seen)[: min(5, seen)] for _ in targets]) for _ in range(2)
        )
        metrics.append(cnn, nme, targets)
        task = metrics.tasks[-1]
        assert 0 <= task.cnn_top1 <= task.cnn_top5 <= 100
        assert 0 <= task.nme_top1 <= task.nme_top5 <= 100
        assert task.cnn_top5 == pytest.approx(100) or seen > 5
        assert all(0 <= value <= 100 for value in [*task.per_task_top1, *task.per_class_top1])
        # As many test images of every class: overall accuracy is the mean over classes.
        assert task.cnn_top1 == pytest.approx(np.mean(task.per_class_top1))
        assert task.cnn_top1 == pytest.approx(
            np.average(task.per_task_top1, weights=task_sizes[: task.task])
        )
        if task.task == 1:
            assert task.old_top1 is None
            assert task.forgetting is None
        else:
            assert 0 <= task.old_top1 <= 100
            assert -100 <= task.forgetting <= 100
        assert task.new_top1 == task.per_task_top1[-1]
    top1 = metrics.curves()["cnn_top1"]
    assert min(top1) - 1e-9 <= metrics.average_accuracy <= max(top1) + 1e-9
    assert metrics.last_accuracy == top1[-1]


def test_area_under_curve_by_hand():
    # (4 - 1) x (.5 + .7) / 2 + (6 - 4) x (.7 + .9) / 2 = 1.8 + 1.6
    assert area_under_curve([1.0, 4.0, 6.0], [50.0, 70.0, 90.0]) == pytest.approx(3.4)


@pytest.mark.parametrize("megabytes", [[1.0], [2.0, 1.0], [1.0, 1.0]])
def test_an_area_needs_rising_budgets(megabytes):
    with pytest.raises(ValueError, match="two or more rising budgets"):
        area_under_curve(megabytes, [50.0] * len(megabytes))


def test_without_exemplars_there_is_no_nme():
    metrics = Metrics([2, 1])
    metrics.append([[0], [1]], None, [0, 0])
    metrics.append([[0], [1], [2]], None, [0, 1, 2])
    again = Metrics.from_dict(json.loads(json.dumps(metrics.to_dict())))
    for each in (metrics, again):
        assert each.curves()["nme_top1"] == each.curves()["nme_top5"] == [None, None]
        assert each.average_nme_accuracy is each.last_nme_accuracy is None
        assert each.average_accuracy == 75.0
