"""Class order, task splits and label mapping, held to the published program's values (C6)."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data_manager import DataManager, make_class_order, split_classes

GOLDEN = Path(__file__).parent / "golden"
ORDERS = np.load(GOLDEN / "C6_class_order.npz")
SPLITS = json.loads((GOLDEN / "C6_splits.json").read_text())


@pytest.mark.parametrize("key", [k for k in ORDERS.files if k.startswith("order/")])
def test_class_order_is_the_published_one(key):
    _, num_classes, seed = key.split("/")
    order = make_class_order(int(num_classes), int(seed.removeprefix("seed")))
    assert order == ORDERS[key].tolist()


def test_class_order_leaves_numpy_alone_and_can_be_switched_off():
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    assert make_class_order(100, 1993)[:5] == [68, 56, 78, 8, 23]
    assert np.random.rand() == expected
    assert make_class_order(5, 1993, shuffle=False) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("key", SPLITS)
def test_task_sizes_are_the_published_ones(key):
    num_classes, split = key.split("/")
    arguments = int(num_classes), *map(int, split.split("_"))
    if isinstance(SPLITS[key], str):
        with pytest.raises(ValueError, match="init_cls is 20 but the data set has only 10 classes"):
            split_classes(*arguments)
    else:
        assert split_classes(*arguments) == SPLITS[key]


@pytest.mark.parametrize(("init_cls", "increment", "word"), [(0, 1, "init_cls"), (5, 0, "incr")])
def test_impossible_splits_are_named(init_cls, increment, word):
    with pytest.raises(ValueError, match=word):
        split_classes(10, init_cls, increment)


def test_mapped_labels_are_the_published_ones():
    mapped = ORDERS["mapped_labels/100/seed1993"]
    labels = np.arange(100)
    manager = DataManager(labels, labels[::-1], make_class_order(100, 1993), 10, 10)
    assert manager.train_labels.dtype == np.int64
    np.testing.assert_array_equal(manager.train_labels, mapped)
    np.testing.assert_array_equal(manager.test_labels, mapped[::-1])


@given(st.data())
def test_tasks_part_the_classes_and_the_images(data):
    num_classes = data.draw(st.integers(1, 30))
    init_cls = data.draw(st.integers(1, num_classes))
    increment = data.draw(st.integers(1, 40))
    labels = np.asarray(data.draw(st.lists(st.integers(0, num_classes - 1), max_size=60)), int)
    order = data.draw(st.permutations(range(num_classes)))
    manager = DataManager(labels, labels, order, init_cls, increment)

    assert sum(manager.task_sizes) == manager.num_classes == num_classes
    assert min(manager.task_sizes) >= 1
    assert manager.known_classes(0) == 0
    assert manager.seen_classes(manager.num_tasks - 1) == num_classes
    pieces = []
    for task in range(manager.num_tasks):
        known, seen = manager.known_classes(task), manager.seen_classes(task)
        piece = manager.train_indices(known, seen)
        assert np.all(np.diff(piece) > 0)
        assert set(labels[piece]) <= set(order[known:seen])
        np.testing.assert_array_equal(piece, manager.test_indices(known, seen))
        pieces.append(piece)
    np.testing.assert_array_equal(np.sort(np.concatenate(pieces)), np.arange(len(labels)))
    np.testing.assert_array_equal(np.asarray(order, int)[manager.train_labels], labels)


@pytest.mark.parametrize("order", [[0, 1, 1], [1, 2, 3], [0, 2]])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="exactly once"):
        DataManager(np.zeros(1, int), np.zeros(1, int), order, 1, 1)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_order_is_refused(label):
    with pytest.raises(ValueError, match="test labels run from"):
        DataManager(np.zeros(1, int), np.array([label]), [0, 1, 2], 1, 1)


@pytest.mark.parametrize("task", [-1, 2])
def test_a_task_that_does_not_exist_is_refused(task):
    manager = DataManager(np.arange(4), np.arange(4), range(4), 2, 2)
    with pytest.raises(IndexError, match="tasks are 0 to 1"):
        manager.known_classes(task)
