"""Tests of utils/devices.py: what is asked for against what is there."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY

from utils.config import Config
from utils.devices import machine_facts, peak_memory, resolve_devices, without_search

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


@pytest.mark.parametrize(
    ("deterministic", "search", "only_repeatable"), [(False, True, False), (True, False, True)]
)
def test_cudnn_is_set_up_as_asked(deterministic, search, only_repeatable):
    code = f"""
import json, torch
from utils.devices import set_up_cudnn
set_up_cudnn({deterministic})
print(json.dumps([
    torch.backends.cudnn.benchmark,
    torch.are_deterministic_algorithms_enabled(),
    torch.utils.deterministic.fill_uninitialized_memory,
]))
"""
    words = [sys.executable, "-c", code]
    said = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    # Filling fresh memory is a kernel for every tensor of a step.
    assert json.loads(said.stdout) == [search, only_repeatable, not deterministic]


@pytest.mark.parametrize("before", [True, False])
def test_without_search_cudnn_tries_nothing(before, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with contextlib.suppress(KeyError), without_search():
        assert torch.backends.cudnn.benchmark is False
        raise KeyError
    assert torch.backends.cudnn.benchmark is before


def test_peak_memory_is_this_process_s():
    before = peak_memory(CPU)
    held = torch.ones(50_000_000)  # 200 MB
    peak = peak_memory(CPU)
    del held
    assert peak > 300e6  # with PyTorch
    assert before - 1e6 < peak  # the kernel counts roughly
    assert peak_memory(CPU) > peak - 1e6
    # A child starts with its own, not with what its parent held.
    code = "import sys; sys.path.insert(0, '.'); from utils import devices; import torch; "
    code += "print(devices.peak_memory(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert 50e6 < int(child.stdout) < peak


def test_what_is_noted_of_the_machine(monkeypatch):
    def noted(config, devices):
        facts = machine_facts(config, devices)
        return [facts[key] for key in ("cuda_graph", "block_streams", "precision")]

    assert noted(Config(), [CPU]) == ["off", 0, "fp32"]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert noted(Config(), gpus(0)) == ["on", 4, "tf32"]
    assert noted(Config(cuda_graph=False, precision="fp32"), gpus(0)) == ["off", 0, "fp32"]
