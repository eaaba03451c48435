"""Tests of utils/experiment.py: what is said before a run; runs are tested in test_main.py."""

from itertools import chain, repeat

import numpy as np
import pytest

from utils import experiment
from utils.config import Config


@pytest.fixture
def clock(monkeypatch):
    """Make a training step of the first task's network take 1 s, and one of the second's 1.5 s."""
    times = iter([*chain(*repeat([0.0, 1.0], 3)), *chain(*repeat([0.0, 1.5], 3))])
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(times))


def estimate(**settings):
    shape = {"convnet_type": "memo_conv2", "batch_size": 100, "init_epoch": 2, "epochs": 3}
    config = Config(**{**shape, "memory_size": 1000, **settings})
    return experiment.estimate_seconds(config, train_images=50_000)


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        # 5,000 new images, then 1,000 exemplars more: 50 and 60 steps an epoch.
        ({}, 2 * 50 * 1.0 + 3 * 60 * sum(1 + 0.5 * task for task in range(1, 10))),
        ({"stop_after_task": 2}, 2 * 50 * 1.0 + 3 * 60 * 1.5),
        ({"stop_after_task": 2, "seed": [1, 2, 3]}, 3 * (2 * 50 * 1.0 + 3 * 60 * 1.5)),
        ({"stop_after_task": 2, "skip": True, "init_checkpoint": "f"}, 3 * 60 * 1.5),
        ({"stop_after_task": 2, "fixed_memory": True}, 2 * 50 * 1.0 + 3 * 52 * 1.5),
        # No more exemplars than there are images: 5,000 of the ten classes before.
        ({"stop_after_task": 2, "memory_size": 9000}, 2 * 50 * 1.0 + 3 * 100 * 1.5),
    ],
)
def test_estimate_follows_the_schedule(settings, seconds, clock):
    assert estimate(**settings) == pytest.approx(seconds)


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
