"""The exemplar budgets of utils/budget.py against the authors' exemplar calculator."""

import re

import pytest
from conftest import load_golden

from utils.budget import aligned_memory_size

BACKBONE = {"cifar100": "memo_resnet32", "imagenet100": "memo_resnet18"}


def published_budgets():
    """Yield (data set, init_cls, increment, exemplars) for each line about MEMO under `fair`."""
    for arguments, printed in load_golden("A_compute_exemplar.json").items():
        split = re.fullmatch(r"-p fair -init (\d+) -incre (\d+)", arguments)
        for line in printed["stdout"].splitlines() if split else ():
            method, *columns = line.split(", ")
            if method == "memo":
                yield columns[0], int(split[1]), int(split[2]), int(columns[1])


PUBLISHED = list(published_budgets())


def test_the_published_calculator_was_read():
    assert len(PUBLISHED) == 14
    assert ("cifar100", 10, 10, 3312) in PUBLISHED


@pytest.mark.parametrize(("dataset", "init_cls", "increment", "exemplars"), PUBLISHED)
def test_fair_budget_is_the_published_one(dataset, init_cls, increment, exemplars):
    assert aligned_memory_size(dataset, BACKBONE[dataset], init_cls, increment) == exemplars


def test_one_resnet32_costs_603_exemplars():
    # Two tasks of 50: DER has one trunk more than MEMO.
    extra = aligned_memory_size("cifar100", "resnet32", 50, 50) - 2000
    assert extra == 112_016 * 4 // 3072
    assert 463_504 * 4 // 3072 == 603


def test_a_last_task_that_takes_what_is_left_counts():
    # 30 + 30 + 30 + 10 classes are four tasks.
    assert aligned_memory_size("cifar100", "resnet32", 30, 30) == 2000 + 3 * 112_016 * 4 // 3072


def test_fewer_classes_make_fewer_tasks():
    full = aligned_memory_size("synthetic", "resnet32", 10, 10)
    assert full == aligned_memory_size("cifar100", "resnet32", 10, 10)
    assert aligned_memory_size("synthetic", "resnet32", 10, 10, classes=10) == 2000


@pytest.mark.parametrize(("init_cls", "increment"), [(0, 10), (10, 0), (101, 1)])
def test_impossible_splits_are_refused(init_cls, increment):
    with pytest.raises(ValueError, match=r"init_cls|increment"):
        aligned_memory_size("cifar100", "resnet32", init_cls, increment)


def test_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="no backbone"):
        aligned_memory_size("cifar100", "memo_resnet31", 10, 10)
