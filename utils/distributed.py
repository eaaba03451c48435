"""Several processes that train as one: DistributedDataParallel under torchrun.

    torchrun --nproc_per_node=4 main_memo.py ...

Every process holds the network and the data, draws the same random numbers, and makes its share of
each batch. torch's DistributedDataParallel brings the gradients together, over gloo on CPUs and
NCCL on GPUs, so that all processes make the same update. What is done once is done by rank 0 and
handed to the others: reading checkpoints, herding, testing, everything that is written or said.

All processes take the same way through the program, and `Group` is where they meet:

    group.on_main(function, ...)     rank 0 calls it, the others wait until it is done
    group.from_main(function, ...)   the same, and all get what it returned
    group.share(n)                   this process's part of a batch of n images

An error of rank 0 in there ends them all: it says what is wrong, and they leave with its exit code.
A process that fails elsewhere leaves by itself, and torchrun ends the rest; where one was killed,
the first of the others that misses it says so. A single process is a group of one, which does all
this without torch.distributed.
"""

import contextlib
import inspect
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.launch import Place, place

# How long a process waits for the others. Rank 0 downloads, herds and tests meanwhile, which may
# take hours on CPUs, and a process that has died is noticed by torchrun, not by waiting.
PATIENCE = timedelta(days=1)

_LETTING_GO = 0.5  # seconds at the very end; a thread needs some milliseconds

# Whether BatchNorm's statistics are made equal before each step; called so since PyTorch 2.14.
_SYNC_BUFFERS = "forward_sync_buffers"
if _SYNC_BUFFERS not in inspect.signature(nn.parallel.DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"


class RankZeroFailedError(Exception):
    """Rank 0 cannot go on; it says why, and who catches this says nothing."""


class LostProcessError(Exception):
    """Another process of the run is gone; the message is one sentence for the user."""


class Group:
    """The processes of a run; made without arguments, a single one.

    Attributes:
        rank, world: which process this is, and of how many.
        main: whether it is rank 0.
        local_rank, local_world: the same among the processes on this machine.
        ending: all processes know that the run ends, so that they can leave together.
    """

    def __init__(self, where: Place | None = None) -> None:
        where = where or Place()
        self.rank, self.world = where.rank, where.world
        self.local_rank, self.local_world = where.local_rank, where.local_world
        self.main = where.rank == 0
        self.ending = False

    def share(self, n: int) -> slice:
        """Return which of `n` images are this process's: shares follow each other in rank order.

        They differ by at most one image, the larger ones first; some are empty if n < world.
        """
        size, larger = divmod(n, self.world)
        start = self.rank * size + min(self.rank, larger)
        return slice(start, start + size + (self.rank < larger))

    def share_and_weight(self, n: int) -> tuple[slice, float]:
        """Return this process's part of a batch of `n` images, and the weight of its mean loss.

        The mean over all processes of weight x mean loss is the mean loss of the batch.

        A process that is left without an image (n < processes) must still take part in the sum of
        the gradients. It computes with the batch's first image and weight 0. That reaches nothing
        but its own BatchNorm statistics, and only rank 0's, which always has images, are used. With
        SyncBatchNorm that image would count in everyone's, but there a batch may be empty, so that
        the step leaves it out (no loader needs to make a batch of nothing).
        """
        share = self.share(n)
        size = share.stop - share.start
        return (share if size else slice(0, 1)), size * self.world / n

    def on_main(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a function on rank 0 while the others wait; return what it gave, elsewhere None.

        Raises:
            RankZeroFailedError: on the others, when it raised an error on rank 0.
        """
        return self._call(lambda: function(*args, **named), hand_out=False)

    def from_main(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Do what `on_main` does, but return what it gave everywhere: plain values, CPU tensors."""
        return self._call(lambda: function(*args, **named), hand_out=True)

    def collect(self, sums: Tensor) -> None:
        """Bring sums of all processes together in place: on rank 0; the others' begin at 0 again.

        What every process holds can be collected again after more was added to it.
        """
        if self.world > 1:
            dist.reduce(sums, dst=0)
            if not self.main:
                sums.zero_()

    def copy_main(self, network: nn.Module) -> None:
        """Give every process rank 0's weights and BatchNorm statistics, in place."""
        if self.world > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, src=0)

    def parallel(self, network: nn.Module, without: nn.Module | None = None) -> nn.Module:
        """Return a network whose gradients are the mean over all processes.

        While it trains, the BatchNorm statistics of each process follow its own share; rank 0's are
        the ones that are tested and saved.

        Args:
            network: on its device; what asks for gradients now is what trains.
            without: a part whose gradients no loss will reach: nobody must wait for them.
        """
        if self.world == 1:
            return network
        device = next(network.parameters()).device
        idle = [p for p in without.parameters() if p.requires_grad] if without else []
        for parameter in idle:
            parameter.requires_grad_(False)
        wrapped = nn.parallel.DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            **{_SYNC_BUFFERS: False},
        )
        for parameter in idle:
            parameter.requires_grad_(True)
        return wrapped

    def _call(self, function: Callable[[], Any], hand_out: bool) -> Any:
        if self.world == 1:
            return function()
        if not self.main:
            failed, value = self._talk(None)
            if failed:
                self.ending = True
                raise RankZeroFailedError
            return value
        try:
            value = function()
        except BaseException:
            self._talk((True, None))
            self.ending = True
            raise
        self._talk((False, value if hand_out else None))
        return value

    def _talk(self, message: tuple[bool, Any] | None) -> tuple[bool, Any]:
        """Hand rank 0's message to all; through the CPU's engine, so that no GPU is waited for."""
        box = [message]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def together(work: Callable[[Group], int]) -> int:
    """Meet the other processes that torchrun started, work, and leave together.

    Args:
        work: what this process does; returns its exit code.

    Returns:
        the exit code: rank 0's, wherever all processes came to the end of the same work.

    Raises:
        LostProcessError: another process is gone, and no other has said so.
    """
    group = Group(place())
    if group.world == 1:
        return work(group)
    # NCCL begins with the first tensor on a GPU that is to be exchanged, not here.
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    code = 1
    try:
        with contextlib.suppress(RankZeroFailedError):
            code = work(group)
        if code == 0 or group.ending:
            # torchrun ends all processes when the first one fails: that must not be before rank 0
            # has said and written all it had to.
            code = group.from_main(lambda: code)
            dist.destroy_process_group()
            # gloo's threads outlive that (DistributedDataParallel keeps them), and one may be about
            # to let go of the last message's tensors. It needs Python for that: if the interpreter
            # ended first, the process would be aborted, with an exit code that is not ours.
            time.sleep(_LETTING_GO)
    except RankZeroFailedError:
        return 1
    except RuntimeError as error:
        # NCCL's errors have a type, gloo's only name its files.
        if not isinstance(error, dist.DistError) and "gloo/" not in str(error):
            raise
        if _was_said():
            return 1
        raise LostProcessError(
            "another process of this run is gone (killed, perhaps for want of memory) or cannot be "
            "reached any more; --resume goes on from the last checkpoint"
        ) from error
    return code


def _was_said() -> bool:
    """Return whether another process has asked this before."""
    try:
        return dist.distributed_c10d._get_default_store().add("a process is gone", 1) > 1
    except RuntimeError:  # so is the store, which is rank 0's without torchrun
        return False
