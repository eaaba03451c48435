"""What a run achieved: accuracies after each task, their average, the last one, and forgetting.

After each task the learner is tested on all classes seen so far, twice: with its classifier (CNN)
and, if its method keeps exemplars, with their nearest mean (NME). Predictions name up to five
classes, best first. A class is its position in the class order, so that tasks are ranges of
classes.

    top-1, top-5       the target is the first, or among all (at most five) classes named
    old, new           top-1 on the classes of earlier tasks, and on those of this task
    accuracy matrix    row t, column j: top-1 after task t on the classes of task j, j <= t
    average accuracy   mean of top-1 over the tasks so far ("average incremental accuracy")
    last accuracy      top-1 after the latest task, on all classes seen
    forgetting         mean over earlier tasks of their best earlier top-1 minus the present one
    AUC-A, AUC-L       area under average, last accuracy/100 against memory in MB

All of them are the classifier's unless they say NME. All are percent, 0 to 100 (forgetting may be
negative), unrounded. Tasks count from 1. Where there is nothing to measure (old classes in the
first task, a class without test images, NME without exemplars) a value is None, and NaN inside an
array.
"""

from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CURVES = (
    "task",
    "classes_seen",
    "cnn_top1",
    "cnn_top5",
    "nme_top1",
    "nme_top5",
    "old_top1",
    "new_top1",
    "forgetting",
)

# Average and last accuracy by each of the two, as `Metrics` and summary.json call them: what a
# method is quoted by are those of its row's headline (models/methods.py).
HEADLINES = {
    "cnn": ("average_accuracy", "last_accuracy"),
    "nme": ("average_nme_accuracy", "last_nme_accuracy"),
}


@dataclass(frozen=True)
class TaskMetrics:
    """The measures after one task; the module docstring defines them."""

    task: int  # from 1
    classes_seen: int
    cnn_top1: float
    cnn_top5: float
    nme_top1: float | None
    nme_top5: float | None
    old_top1: float | None
    new_top1: float | None
    forgetting: float | None  # needs the tasks before: `Metrics.append` fills it in
    per_task_top1: list[float | None]  # this task's row of the accuracy matrix
    per_class_top1: np.ndarray  # (classes_seen,) float64


def top_k_accuracy(predictions: ArrayLike, targets: ArrayLike) -> float:
    """Return how often the target is among the classes named, in percent.

    Args:
        predictions: (n, k) classes; all k columns count.
        targets: (n,) classes.

    Raises:
        ValueError: for no images or shapes that do not match.
    """
    predictions, targets = np.asarray(predictions), np.asarray(targets)
    if predictions.ndim != 2 or targets.shape != predictions.shape[:1]:
        raise ValueError(
            f"{len(targets)} targets need predictions of shape ({len(targets)}, k), "
            f"not {predictions.shape}"
        )
    if len(targets) == 0:
        raise ValueError("there are no images to measure an accuracy on")
    return float(100 * (predictions == targets[:, None]).any(axis=1).mean())


def forgetting(accuracy_matrix: np.ndarray) -> float | None:
    """Return the mean over earlier tasks of their best earlier accuracy minus the last one.

    Args:
        accuracy_matrix: (t, t), row after a task, column of a task; NaN where nothing was measured.

    Returns:
        a difference of percentages, or None after the first task.
    """
    earlier = accuracy_matrix[:-1, :-1]
    measured = ~np.isnan(accuracy_matrix[-1, :-1])
    if not measured.any():
        return None
    drops = np.nanmax(earlier[:, measured], axis=0) - accuracy_matrix[-1, :-1][measured]
    return float(drops.mean())


def area_under_curve(megabytes: list[float], accuracies: list[float]) -> float:
    """Return the area under accuracy/100 against memory, by the trapezoid rule: AUC-A or AUC-L.

    From MEMO (ICLR 2023), section 4.2: AUC-A takes average accuracies, AUC-L last accuracies.

    Args:
        megabytes: budgets, rising, two or more.
        accuracies: percent, one for each budget.

    Raises:
        ValueError: fewer than two points, unequal lengths, or budgets that do not rise.
    """
    points = list(zip(megabytes, accuracies, strict=True))
    if len(points) < 2 or any(a >= b for a, b in pairwise(megabytes)):
        raise ValueError(f"an area needs two or more rising budgets, not {megabytes}")
    return sum((x2 - x1) * (y1 + y2) / 200 for (x1, y1), (x2, y2) in pairwise(points))


def evaluate_task(
    task: int,
    cnn_predictions: ArrayLike,
    nme_predictions: ArrayLike | None,
    targets: ArrayLike,
    task_sizes: list[int],
) -> TaskMetrics:
    """Return the measures after one task, all but forgetting.

    Args:
        task: the task just learned, from 1.
        cnn_predictions: (n, k) int, by the classifier, best first, k = min(5, classes seen).
        nme_predictions: (n, k) int, by the nearest mean of exemplars, nearest first; None where
            there are no exemplars.
        targets: (n,) int, test images of all classes seen.
        task_sizes: number of classes of each task; later tasks' sizes are not looked at.

    Raises:
        ValueError: for no images, shapes that do not match, or a target not seen yet.
    """
    cnn, targets = np.asarray(cnn_predictions), np.asarray(targets)
    nme = None if nme_predictions is None else np.asarray(nme_predictions)
    borders = [0, *accumulate(task_sizes[:task])]  # task j has the classes borders[j - 1 : j]
    seen, known = borders[-1], borders[-2]
    cnn_top5 = top_k_accuracy(cnn, targets)  # first, because it checks the shapes
    if targets.max() >= seen:
        raise ValueError(f"a test image has class {targets.max()}, but task {task} ends at {seen}")

    correct = cnn[:, 0] == targets

    def top1(first: int, last: int) -> float | None:
        of_classes = correct[(targets >= first) & (targets < last)]
        return float(100 * of_classes.mean()) if len(of_classes) else None

    per_class = [top1(label, label + 1) for label in range(seen)]
    return TaskMetrics(
        task=task,
        classes_seen=seen,
        cnn_top1=top_k_accuracy(cnn[:, :1], targets),
        cnn_top5=cnn_top5,
        nme_top1=None if nme is None else top_k_accuracy(nme[:, :1], targets),
        nme_top5=None if nme is None else top_k_accuracy(nme, targets),
        old_top1=top1(0, known),
        new_top1=top1(known, seen),
        forgetting=None,
        per_task_top1=[top1(first, last) for first, last in pairwise(borders)],
        per_class_top1=np.array(per_class, dtype=np.float64),
    )


class Metrics:
    """The measures of a run, task after task.

    Attributes:
        task_sizes: number of classes of each task of the whole run.
        tasks: the measures after each task learned so far.
    """

    def __init__(self, task_sizes: list[int]) -> None:
        self.task_sizes = list(task_sizes)
        self.tasks: list[TaskMetrics] = []

    def append(
        self, cnn_predictions: ArrayLike, nme_predictions: ArrayLike | None, targets: ArrayLike
    ) -> TaskMetrics:
        """Measure the next task; for arguments and errors see `evaluate_task`.

        Raises:
            ValueError: also when all tasks have been measured.
        """
        task = len(self.tasks) + 1
        if task > len(self.task_sizes):
            raise ValueError(f"all {len(self.task_sizes)} tasks of this run are measured already")
        measured = evaluate_task(task, cnn_predictions, nme_predictions, targets, self.task_sizes)
        matrix = _matrix([*self.tasks, measured])
        self.tasks.append(replace(measured, forgetting=forgetting(matrix)))
        return self.tasks[-1]

    def accuracy_matrix(self) -> np.ndarray:
        """Return (t, t) float64: row after a task, column of a task, NaN above the diagonal."""
        return _matrix(self.tasks)

    def curves(self) -> dict[str, list[Any]]:
        """Return each measure in CURVES as a list with one value a task."""
        return {name: [getattr(task, name) for task in self.tasks] for name in CURVES}

    @property
    def average_accuracy(self) -> float:
        """Mean over the tasks so far of the classifier's top-1."""
        return self._mean("cnn_top1")

    @property
    def last_accuracy(self) -> float:
        """The classifier's top-1 after the latest task."""
        return self._last("cnn_top1")

    @property
    def average_nme_accuracy(self) -> float | None:
        """Mean over the tasks so far of NME's top-1; None without exemplars."""
        return self._mean("nme_top1")

    @property
    def last_nme_accuracy(self) -> float | None:
        """NME's top-1 after the latest task; None without exemplars."""
        return self._last("nme_top1")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and None, for a checkpoint or JSON."""
        tasks = []
        for task in self.tasks:
            per_class = [
                None if np.isnan(value) else value for value in task.per_class_top1.tolist()
            ]
            tasks.append({**asdict(task), "per_class_top1": per_class})
        return {"task_sizes": list(self.task_sizes), "tasks": tasks}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Metrics":
        """Return what `to_dict` described."""
        metrics = cls(state["task_sizes"])
        for task in state["tasks"]:
            per_class = np.array(task["per_class_top1"], dtype=np.float64)  # None becomes NaN
            metrics.tasks.append(TaskMetrics(**{**task, "per_class_top1": per_class}))
        return metrics

    def _last(self, name: str) -> float | None:
        if not self.tasks:
            raise ValueError("no task has been measured yet")
        return getattr(self.tasks[-1], name)

    def _mean(self, name: str) -> float | None:
        if self._last(name) is None:  # and an average of nothing is refused
            return None
        return float(np.mean([getattr(task, name) for task in self.tasks]))


def _matrix(tasks: list[TaskMetrics]) -> np.ndarray:
    matrix = np.full((len(tasks), len(tasks)), np.nan)
    for row, task in enumerate(tasks):
        matrix[row, : row + 1] = np.array(task.per_task_top1, dtype=np.float64)
    return matrix
