"""One seed, several streams of random numbers that have nothing to do with each other.

Two generators started with the same number give the same draws, and PyTorch advises against numbers
of few bits such as 1, 2, 3 (torch.Generator.manual_seed). So a seed and the name of a stream are
mixed into 63 bits first, with NumPy's SeedSequence (O'Neill, 2015), whose output is the same on
every machine and version. Whether bare numbers ever did harm is not known.

The class order is not drawn like this: its seed is the published one (utils/data_manager.py).
"""

import numpy as np

WEIGHTS = 0  # initial weights, drawn on the CPU
DATA = 1  # order and augmentation of the training images, drawn where the images are
MOVED_DATA = 2  # the same for a run that goes on on another type of device; its task comes next


def stream_seed(seed: int, *stream: int) -> int:
    """Return the start of a stream for `torch.Generator.manual_seed`, 0 to 2**63 - 1."""
    mixed = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return int(mixed >> np.uint64(1))
