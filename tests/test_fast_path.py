"""A fixed run's losses, step by step: what makes training faster must not change them.

tests/golden/fixed_run_losses.json was written by this file itself (`python tests/test_fast_path.py`
in the repository's root) with the plain path: no folded blocks, SGD one parameter at a time,
float64. The fast path has to give the same losses.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # when run as a program

from conftest import GOLDEN, begin_training, tiny_learner

FILE = GOLDEN / "fixed_run_losses.json"
CASES = {
    "trunk trains": {},
    "trunk frozen": {"train_base": False},
    "old blocks train": {"train_adaptive": True},
    "conv2": {"convnet_type": "memo_conv2"},
}


def set_weights(network: nn.Module, seed: int) -> None:
    """Give the network weights that no version of PyTorch and no processor draws otherwise."""
    random = np.random.RandomState(seed)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = torch.from_numpy(random.random_sample(value.shape)).to(value.dtype)
        if "running_var" in name or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(0.5 + drawn)
        elif value.ndim == 1:
            value.copy_(0.2 * (drawn - 0.5))
        else:
            value.copy_((drawn - 0.5) * (12 / value[0].numel()) ** 0.5)


def losses(case: str, dtype: torch.dtype, plain: bool = False) -> list[list[float]]:
    """Return what `training_step` gives in the steps of three tasks, odd last batches included."""
    settings = {"convnet_type": "memo_resnet14_cifar", "batch_size": 16, "lrate": 0.02}
    learner = tiny_learner(**{**settings, "init_lr": 0.02, **CASES[case]})
    learner.network.to(dtype)
    if plain:
        learner.network.fold_frozen = lambda: None
        learner.network.to(memory_format=torch.contiguous_format)
    rows = []
    for task in range(3):
        learner.begin_task()
        set_weights(learner.network, task)
        training = begin_training(learner)
        if plain:
            training.optimizer.param_groups[0]["fused"] = False
            training.optimizer.param_groups[0]["foreach"] = False
        indices, data = learner.training_indices(), learner.run.train_data
        for _ in range(2):
            order = data.draw_order(len(indices), learner.run.generator)
            for batch in data.train_batches(indices, 16, order):
                images, targets = data.make_batch(batch, learner.run.generator)
                sums = learner.engine.training_step(
                    training, learner.network, images.to(dtype), targets
                )
                rows.append((sums / len(targets)).tolist())
        for new_class in range(learner.known_classes, learner.seen_classes):
            of_class = np.flatnonzero(learner.tasks.train_labels == new_class)
            learner.memory.add(new_class, of_class[:4])
    return rows


@pytest.mark.parametrize("case", CASES)
def test_losses_in_float64_are_those_of_the_plain_path(case):
    expected = json.loads(FILE.read_text())[case]
    np.testing.assert_allclose(losses(case, torch.float64), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_first_losses_of_each_task_in_float32_are_close_to_them(case):
    # Rounding grows from step to step; the weights are set anew before each task's first.
    first = [0, 1, 4, 5, 10, 11]
    expected = np.array(json.loads(FILE.read_text())[case])
    measured = np.array(losses(case, torch.float32))
    np.testing.assert_allclose(measured[first, :2], expected[first, :2], rtol=1e-4)


def test_the_fast_path_is_taken():
    learner = tiny_learner(convnet_type="memo_conv2")
    for _ in range(3):
        learner.begin_task()
    training = begin_training(learner)
    folded = learner.network._folded
    assert list(folded) == list(learner.network.specialized[:-1])
    assert training.optimizer.param_groups[0]["fused"]
    weight = learner.network.specialized[-1].AdaptiveBlock[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("task", [0, 1])
def test_a_step_reads_nothing_back(task):
    """On a GPU a number that is read makes the host wait; there is a test of that, too."""
    learner = tiny_learner(convnet_type="memo_conv2", batch_size=4)
    for _ in range(task + 1):
        learner.begin_task()
    training = begin_training(learner)
    step = learner.engine.make_step(training)
    indices, data = learner.training_indices(), learner.run.train_data
    order = data.draw_order(len(indices), learner.run.generator)
    batches = list(data.train_batches(indices, 4, order))
    assert len(batches) > 2
    step(batches[0])
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in batches:
            step(batch)
    called = {event.key for event in profiled.key_averages()}
    assert "aten::convolution_backward" in called
    assert not called & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero"}


if __name__ == "__main__":
    FILE.write_text(
        json.dumps({case: losses(case, torch.float64, plain=True) for case in CASES}, indent=1)
    )
