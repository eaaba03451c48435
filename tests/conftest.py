"""What several test modules share: golden arrays, a tiny data set, a tiny learner, the program."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"


def load_golden(name: str):
    """Return a JSON file's content or an NPZ file's arrays, as computed by the authors' program."""
    path = GOLDEN / name
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return np.load(path, allow_pickle=False)


def run_program(*flags: object, cwd: Path = REPOSITORY, timeout: float = 240, env=None):
    """Run main_memo.py as a user would; returns the completed process with its text."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "main_memo.py"), *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


class NotedDivisors(TorchDispatchMode):
    """Notes what tensors are divided by while it is active."""

    def __init__(self):
        super().__init__()
        self.divisors = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.div, torch.ops.aten.div_):
            self.divisors.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def cifar100_dir() -> Path:
    """Return the folder that holds the real CIFAR-100, where the machine has it."""
    folder = os.environ.get("CIFAR100_DIR")
    if not folder:
        pytest.skip("CIFAR100_DIR is not set: the real CIFAR-100 is not on this machine")
    return Path(folder)


def tiny_learner(
    config=None,
    *,
    classes: int = 10,
    train_per_class: int = 8,
    test_per_class: int = 4,
    devices: list[torch.device] | None = None,
    **settings,
):
    """Return a learner on random images, MEMO's or another's, with other settings than usual."""
    from models import find_learner
    from utils.augment import EvalTransform, TrainTransform
    from utils.config import Config
    from utils.data_manager import DataManager
    from utils.engine.run import Run
    from utils.loader import ResidentLoader
    from utils.seeds import WEIGHTS, stream_seed

    settings = {"init_cls": 4, "increment": 3, "memory_size": 40, **settings}
    config = replace(config or Config(), **settings)
    random = np.random.default_rng(0)
    devices = devices or [torch.device("cpu")]

    def images(n):
        return random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)

    train_labels = np.arange(classes * train_per_class) % classes
    test_labels = np.arange(classes * test_per_class) % classes
    tasks = DataManager(
        train_labels, test_labels, list(range(classes)), config.init_cls, config.increment
    )
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    transforms = TrainTransform(mean, std), EvalTransform(mean, std)
    train = ResidentLoader(images(len(train_labels)), tasks.train_labels, *transforms, devices[0])
    test = ResidentLoader(images(len(test_labels)), tasks.test_labels, *transforms, devices[0])
    torch.manual_seed(stream_seed(config.torch_seed, WEIGHTS))
    return find_learner(config.model_name)(Run(config, tasks, train, test, devices))


def begin_training(learner):
    """Return a stage's training before its first step, as `train_task` begins it."""
    from utils.engine.fit import Rehearsed

    learner.engine.rehearsing = True
    with pytest.raises(Rehearsed):
        learner.train_task()
    learner.engine.rehearsing = False
    return learner.engine.training
