"""One seed, several streams of random numbers that have nothing to do with each other.

Two generators started with the same number give the same draws, and PyTorch advises against numbers
of few bits such as 1, 2, 3 (torch.Generator.manual_seed). So a seed and the name of a stream are
mixed into 63 bits first, with NumPy's SeedSequence (O'Neill, 2015), whose output is the same on
every machine and version. Whether bare numbers ever did harm is not known.

The class order is not drawn like this: its seed is the published one (utils/data_manager.py).
"""

import random
from typing import Any

import numpy as np
import torch

WEIGHTS = 0  # initial weights, drawn on the CPU
DATA = 1  # order and augmentation of the training images, drawn where the images are
MOVED_DATA = 2  # the same for a run that goes on on another type of device; its task comes next


def stream_seed(seed: int, *stream: int) -> int:
    """Return the start of a stream for `torch.Generator.manual_seed`, 0 to 2**63 - 1."""
    mixed = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return int(mixed >> np.uint64(1))


def random_state() -> dict[str, Any]:
    """Return the state of every global random generator, as a checkpoint can hold it."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take back what `random_state` gave; GPUs that are not here any more are left out."""
    set_generators(state, random, np.random, torch.default_generator)
    for index, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_device, index)


def set_generators(state: dict[str, Any], plain: Any, of_numpy: Any, of_torch: Any) -> None:
    """Put what `random_state` gave into these generators of Python, NumPy and PyTorch."""
    version, numbers, gauss = state["python"]
    plain.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    of_numpy.set_state((name, keys.numpy().astype(np.uint32), *rest))
    of_torch.set_state(state["torch"])
