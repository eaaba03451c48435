"""Tests of utils/experiment.py: what is said before a run; runs are tested in test_main.py."""

import numpy as np
import pytest

from utils import experiment
from utils.config import Config
from utils.metrics import Metrics


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        # Before the last task 15 classes are known; their share is compared with 7 images.
        ({"memory_size": 104}, None),
        ({"memory_size": 105}, "memory_size 105 "),
        ({"memory_size": 105, "stop_after_task": 1}, None),  # no memory is used at all
        ({"memory_size": 69, "stop_after_task": 3}, None),
        ({"memory_size": 70, "stop_after_task": 3}, "memory_size 70 "),
        ({"fixed_memory": True, "memory_per_class": 6}, None),
        ({"fixed_memory": True, "memory_per_class": 7}, "memory_per_class 7 "),
    ],
)
def test_a_memory_without_a_limit_is_said(settings, said):
    split = {"init_cls": 5, "increment": 5, "dataset": "synthetic", "synthetic_classes": 20}
    labels = np.repeat(np.arange(20), [7, *[5] * 19])  # the largest class decides
    warning = experiment.memory_warning(Config(**split, **settings), labels)
    assert warning is None if said is None else warning.startswith(said)
    assert said is None or "(none has more than 7)" in warning


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "average accuracy of the classifier over 2 class orders: 50.00 ± 70.71 %"),
        (
            {"model_name": "icarl", "convnet_type": "resnet32"},
            "average accuracy of NME over 2 class orders: 75.00 ± 35.36 %",
        ),
    ],
    ids=["memo", "icarl"],
)
def test_several_class_orders_are_told_by_the_headline(settings, said, caplog):
    results = [Metrics([2]), Metrics([2])]
    results[0].append([[0], [1]], [[0], [1]], [0, 1])
    results[1].append([[1], [0]], [[0], [0]], [0, 1])
    with caplog.at_level("INFO", logger="memo"):
        experiment._report_seeds(Config(**settings), results)
    assert caplog.messages[0].startswith(said)
