"""Class order, tasks, and which images each task trains and tests on.

Class-incremental learning shows the classes of a data set a few at a time. Three facts describe it:

* the **class order**: which original class is shown first, second, ... The published runs draw it
  with NumPy's legacy generator; seed 1993 gives 68, 56, 78, 8, 23, ... on 100 classes;
* the **task sizes**: `init_cls` classes first, then `increment` at a time, and whatever is left in
  the last task;
* the **mapped label** of an image: the position of its class in the class order. Task 0 then has
  the labels 0 .. init_cls - 1, and "all classes seen so far" is always a range that starts at 0.
  Past this file every label is a mapped label.

This file knows labels only. Images stay where they are and are named by their index in the data
set, so that a task, an exemplar, or a test set is an array of integers. It needs no torch.

    order = make_class_order(100, seed=1993)
    data = DataManager(train_labels, test_labels, order, init_cls=10, increment=10)
    for task in range(data.num_tasks):
        known, seen = data.known_classes(task), data.seen_classes(task)
        new_images = data.train_indices(known, seen)
        test_images = data.test_indices(0, seen)
"""

from collections.abc import Sequence

import numpy as np


def make_class_order(num_classes: int, seed: int, shuffle: bool = True) -> list[int]:
    """Return the original classes in the order in which they are shown.

    The permutation is the one `np.random.seed(seed); np.random.permutation(num_classes)` gives,
    but NumPy's global state is left alone. With `shuffle` off the classes keep their own order.
    """
    if not shuffle:
        return list(range(num_classes))
    return np.random.RandomState(seed).permutation(num_classes).tolist()


def split_classes(num_classes: int, init_cls: int, increment: int) -> list[int]:
    """Return the number of classes of every task: `init_cls`, then `increment` at a time, the rest.

    `increment` may be larger than what is left (the last task is then smaller), and is of no
    effect where the first task takes every class.

    Raises:
        ValueError: `init_cls` or `increment` is below 1, or `init_cls` exceeds `num_classes`.
    """
    if init_cls < 1:
        raise ValueError(f"init_cls is {init_cls}; the first task needs at least 1 class")
    if increment < 1:
        raise ValueError(f"increment is {increment}; every later task needs at least 1 class")
    if init_cls > num_classes:
        raise ValueError(
            f"init_cls is {init_cls} but the data set has only {num_classes} classes; "
            f"it must be {num_classes} or less"
        )
    starts = [0, *range(init_cls, num_classes, increment), num_classes]
    return np.diff(starts).tolist()


class DataManager:
    """Class order, tasks, and which images each task trains and tests on.

    Attributes:
        class_order: `class_order[k]` is the original class shown k-th.
        task_sizes: number of classes of each task.
        train_labels: `(N,) int64` mapped label (position in the class order) of each train image.
        test_labels: the same for the test images.
    """

    def __init__(
        self,
        train_labels: np.ndarray,
        test_labels: np.ndarray,
        class_order: Sequence[int],
        init_cls: int,
        increment: int,
    ):
        """Map the labels and split the classes into tasks.

        Args:
            train_labels: `(N,)` integer, original class of each train image.
            test_labels: `(M,)` integer, original class of each test image.
            class_order: every class 0 .. C - 1 exactly once, in the order of showing.
            init_cls: number of classes of the first task.
            increment: number of classes of every later task, except perhaps the last.

        Raises:
            ValueError: the order is no permutation, a label is outside it, or the split is
                impossible (see `split_classes`).
        """
        self.class_order = [int(c) for c in class_order]
        if sorted(self.class_order) != list(range(len(self.class_order))):
            raise ValueError(
                f"class_order must hold each class from 0 to {len(self.class_order) - 1} "
                f"exactly once, it is {self.class_order}"
            )
        self.task_sizes = split_classes(self.num_classes, init_cls, increment)
        self._task_ends = np.cumsum(self.task_sizes).tolist()
        # position[original class] = mapped label: the inverse permutation.
        position = np.argsort(np.asarray(self.class_order, dtype=np.int64))
        self.train_labels = self._map(train_labels, position, "train")
        self.test_labels = self._map(test_labels, position, "test")

    @property
    def num_classes(self) -> int:
        """Number of classes over all tasks."""
        return len(self.class_order)

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.task_sizes)

    def known_classes(self, task: int) -> int:
        """Return how many classes came before `task` (counted from 0)."""
        return self.seen_classes(task) - self.task_sizes[task]

    def seen_classes(self, task: int) -> int:
        """Return how many classes have come once `task` (counted from 0) is done."""
        if not 0 <= task < self.num_tasks:
            raise IndexError(f"task {task} does not exist; tasks are 0 to {self.num_tasks - 1}")
        return self._task_ends[task]

    def train_indices(self, first_class: int, last_class: int) -> np.ndarray:
        """Return, ascending, the train images with mapped label in `[first_class, last_class)`."""
        return _indices_between(self.train_labels, first_class, last_class)

    def test_indices(self, first_class: int, last_class: int) -> np.ndarray:
        """Return, ascending, the test images with mapped label in `[first_class, last_class)`."""
        return _indices_between(self.test_labels, first_class, last_class)

    @staticmethod
    def _map(labels: np.ndarray, position: np.ndarray, split: str) -> np.ndarray:
        labels = np.asarray(labels)
        # A negative label would silently count from the end of `position`.
        if labels.size and (labels.min() < 0 or labels.max() >= len(position)):
            raise ValueError(
                f"{split} labels run from {labels.min()} to {labels.max()}, "
                f"but class_order has only the classes 0 to {len(position) - 1}"
            )
        return position[labels]


def _indices_between(labels: np.ndarray, first_class: int, last_class: int) -> np.ndarray:
    return np.flatnonzero((labels >= first_class) & (labels < last_class))
