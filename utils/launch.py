"""Where this process runs: which of torchrun's it is, on how many cores. Asked without torch.

    torchrun --nproc_per_node=4 main_memo.py ...

starts four processes and tells each in its environment which one it is. Without torchrun there is
one process, rank 0 of 1.
"""

import os
import time
from dataclasses import dataclass

_RANK_0_SPEAKS = 5.0  # seconds; processes started together are not that far apart


@dataclass(frozen=True)
class Place:
    """A process among those of a run.

    Attributes:
        rank: from 0; rank 0 is the one that writes and speaks.
        world: how many there are.
        local_rank: from 0, among those on this machine.
        local_world: how many there are on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def place() -> Place:
    """Return this process's place, from the variables that torchrun sets."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    # Queues set some of these names too. The address to meet at is torchrun's.
    if not {*names, "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return Place()
    return Place(*(int(os.environ[name]) for name in names))


def cores() -> int:
    """Return how many cores this process may use, as torch counts them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def after_rank_0() -> None:
    """Wait, before saying what is wrong, until rank 0 would have said the same and ended.

    A mistake in the settings is found by every process. When one of them ends, torchrun ends the
    others: whoever is still there after the wait has something of its own to say.
    """
    if place().rank > 0:
        time.sleep(_RANK_0_SPEAKS)
