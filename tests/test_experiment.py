"""Tests of utils/experiment.py: what is estimated before a run; runs are tested in test_main.py."""

from itertools import chain, repeat

import pytest

from utils import experiment
from utils.config import Config


@pytest.fixture
def clock(monkeypatch):
    """Make a training step of the first task's network take 1 s, and one of the second's 1.5 s."""
    times = iter([*chain(*repeat([0.0, 1.0], 3)), *chain(*repeat([0.0, 1.5], 3))])
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(times))


def estimate(**settings):
    settings = {"convnet_type": "memo_conv2", "batch_size": 100, "epochs": 3, **settings}
    config = Config(memory_size=1000, init_epoch=2, **settings)
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
    ],
)
def test_estimate_follows_the_schedule(settings, seconds, clock):
    assert estimate(**settings) == pytest.approx(seconds)
