"""Tests of utils/devices.py: what is asked for against what is there."""

import pytest
import torch

from utils.devices import resolve_devices

CPU = torch.device("cpu")


def gpus(*ids):
    return [torch.device("cuda", index) for index in ids]


@pytest.mark.parametrize(
    ("present", "asked", "used", "words"),
    [
        (0, [], [CPU], None),
        (0, [-1], [CPU], None),
        (2, [-1], [CPU], None),
        (2, [], gpus(0), None),
        (2, [1], gpus(1), None),
        (4, [0, 1, 2, 3], gpus(0, 1, 2, 3), None),
        (0, [3], [CPU], ["GPU 3", "no GPU", "using the CPU"]),
        (0, [0, 1, 2, 3], [CPU], ["GPU 0, 1, 2, 3", "no GPU", "using the CPU"]),
        (1, [0, 1, 2, 3], gpus(0), ["GPU 0, 1, 2, 3", "has GPU 0", "using GPU 0"]),
        (2, [2, 1], gpus(1), ["GPU 2, 1", "has GPU 0, 1", "using GPU 1"]),
        (1, [5], [CPU], ["GPU 5", "has GPU 0", "using the CPU"]),
    ],
)
def test_devices_that_exist_are_used_and_others_are_named(monkeypatch, present, asked, used, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    devices, warning = resolve_devices(asked)
    assert devices == used
    if words is None:
        assert warning is None
    else:
        assert all(word in warning for word in words)
