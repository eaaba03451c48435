"""What each block of the network goes through while a task is learned (`--record_blocks`).

Recorded on the path of the task in training: the trunk's blocks, then those of its specialized
block, or those of its own backbone (`AdaptiveNet.path`). For every epoch and block:

    gradient           mean over steps of ||dL/dw||, the L2 norm of the loss's gradient by all
                       weights w of the block, as the optimiser saw it; None where it is frozen
    shift              mean over the weights of (w - w_0)^2, w_0 from before the task's first step
    shift_from_first   the same against w_1, the weights after the task's first epoch

These are the measures of the paper's figures 2 and 3 (Zhou et al., MEMO, ICLR 2023, section 4.3):
the "block-wise gradient", and the "block-wise shift" between the first and the last epoch, which is
`shift_from_first` of a task's last epoch. A block's weights are all its parameters, BatchNorm's
included, its running statistics not.

Recording reads gradients and weights after a step and draws no random number, so training is the
same to the bit with it and without. To cost little, one step in ten is read (the first of each
epoch, then every tenth), and nothing waits for the device before the end of the epoch.
`utils.analysis` draws what is recorded here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

EVERY = 10  # steps between two that are read

Parameters = list[list[nn.Parameter]]


class BlockRecorder:
    """Records the blocks; see the module's docstring.

    Attributes:
        rows: one for every epoch and block, plain values: task and epoch (from 1), block (from 1,
            shallow to deep), name, and the three measures.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._task = 0
        self._epoch = 0
        self._start: list[Tensor] = []  # a block's weights before the task, as one vector
        self._first: list[Tensor] = []  # the same after its first epoch
        self._follow({})  # nothing, where the first task is not trained but read

    def begin_task(self, task: int, path: Mapping[str, nn.Module]) -> None:
        """Begin a task (from 1) on the path that it trains; the blocks have their first weights."""
        self._follow(path)
        self._task, self._epoch = task, 0
        self._start, self._first = [_vector(block) for block in self._blocks], []

    def after_step(self) -> None:
        """Read the gradients of the step just made, if it is this one's turn."""
        if self._steps % EVERY == 0:
            norms = torch.stack([_gradient_norm(block) for block in self._blocks])
            self._sum = norms if self._sum is None else self._sum + norms
            self._read += 1
        self._steps += 1

    def end_epoch(self) -> None:
        """Add the epoch's rows."""
        self._epoch += 1
        now = [_vector(block) for block in self._blocks]
        self._first = self._first or now
        gradients = (self._sum / self._read).tolist() if self._read else [None] * len(now)
        shifts = torch.stack([_shift(*pair) for pair in zip(now, self._start, strict=True)])
        from_first = torch.stack([_shift(*pair) for pair in zip(now, self._first, strict=True)])
        shifts, from_first = shifts.tolist(), from_first.tolist()
        for index, (name, block) in enumerate(zip(self._names, self._blocks, strict=True)):
            frozen = not any(parameter.requires_grad for parameter in block)
            self.rows.append(
                {
                    "task": self._task,
                    "epoch": self._epoch,
                    "block": index + 1,
                    "name": name,
                    "gradient": None if frozen else gradients[index],
                    "shift": shifts[index],
                    "shift_from_first": from_first[index],
                }
            )
        self._steps, self._read, self._sum = 0, 0, None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint made after any step."""
        return {
            "rows": self.rows,
            "task": self._task,
            "epoch": self._epoch,
            "start": self._start,
            "first": self._first,
            "steps": self._steps,
            "read": self._read,
            "sum": self._sum,
        }

    def load_state_dict(self, state: Mapping[str, Any], path: Mapping[str, nn.Module]) -> None:
        """Go on from `state_dict()`, on the path of the task that it was in."""
        self._follow(path)
        sizes = [sum(parameter.numel() for parameter in block) for block in self._blocks]
        for name in ("start", "first"):
            if state[name] and [len(vector) for vector in state[name]] != sizes:
                raise ValueError("the recorded blocks are not those of the network")
        if state["sum"] is not None and len(state["sum"]) != len(sizes):
            raise ValueError("the recorded gradients are not those of the network's blocks")
        device = self._blocks[0][0].device
        self.rows = list(state["rows"])
        self._task, self._epoch = state["task"], state["epoch"]
        self._start = [vector.to(device) for vector in state["start"]]
        self._first = [vector.to(device) for vector in state["first"]]
        self._steps, self._read = state["steps"], state["read"]
        self._sum = None if state["sum"] is None else state["sum"].to(device)

    def _follow(self, path: Mapping[str, nn.Module]) -> None:
        self._names = list(path)
        self._blocks: Parameters = [list(block.parameters()) for block in path.values()]
        self._steps, self._read = 0, 0
        self._sum: Tensor | None = None


def _gradient_norm(block: list[nn.Parameter]) -> Tensor:
    gradients = [parameter.grad for parameter in block if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=block[0].device, dtype=block[0].dtype)
    return nn.utils.get_total_norm(gradients)


@torch.no_grad()
def _vector(block: list[nn.Parameter]) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in block])  # a copy


def _shift(now: Tensor, before: Tensor) -> Tensor:
    return (now - before).square().mean()
