"""Which devices a run uses: the ids a user asked for, held against what this machine has."""

import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from utils.config import Config, ConfigError
from utils.precision import resolve_precision


def resolve_devices(asked: Sequence[int]) -> tuple[list[torch.device], str | None]:
    """Turn asked ids into devices that exist.

    Args:
        asked: GPU ids; [-1] is the CPU; [] is the best present (the first GPU, else the CPU).

    Returns:
        the devices, and a warning that names what was asked and what is used instead, or None
        where everything asked for exists.
    """
    present = torch.cuda.device_count()
    cpu = torch.device("cpu")
    if not asked:
        return [torch.device("cuda", 0) if present else cpu], None
    if list(asked) == [-1]:
        return [cpu], None
    existing = [index for index in asked if index < present]
    devices = [torch.device("cuda", index) for index in existing] or [cpu]
    if len(existing) == len(asked):
        return devices, None
    here = f"GPU {_listed(range(present))}" if present else "no GPU"
    used = f"GPU {_listed(existing)}" if existing else "the CPU"
    return devices, f"asked for GPU {_listed(asked)}, but this machine has {here}: using {used}"


def device_of_rank(
    asked: Sequence[int], local_rank: int, local_world: int
) -> tuple[torch.device, str | None]:
    """Return the one device of a process among several that torchrun started on this machine.

    Args:
        asked: as in `resolve_devices`; of GPU ids, each process takes one, in their order.
        local_rank: which of the processes on this machine, from 0.
        local_world: how many there are.

    Returns:
        the device, and the warning of `resolve_devices`, which there is on a machine without GPUs
        only.

    Raises:
        ConfigError: there are not enough ids, or GPUs, for as many processes.
    """
    present = torch.cuda.device_count()
    if not present or list(asked) == [-1]:
        devices, warning = resolve_devices(asked)
        return devices[0], warning
    ids = list(asked) or list(range(present))
    if len(ids) < local_world or max(ids[:local_world]) >= present:
        given = f"-d {' '.join(map(str, asked))}" if asked else "the default"
        raise ConfigError(
            [
                f"{local_world} processes on one machine need a GPU each, but {given} gives them "
                f"GPU {_listed(ids)}, and this machine has GPU {_listed(range(present))}; give "
                "--nproc_per_node and -d so that they fit, or -d -1 for the CPU"
            ]
        )
    return torch.device("cuda", ids[local_rank]), None


def make_deterministic() -> None:
    """Let PyTorch use only algorithms that give the same bits every time, for this whole process.

    Call it before the first work on a GPU: cuBLAS reads its setting when it starts.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # It also fills all fresh memory with NaN, to show who reads what was never written: a kernel
    # for each tensor of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False


def make_fast() -> None:
    """Let cuDNN try its algorithms on a new shape of input and keep the fastest.

    That takes 0.05 to 0.2 s a convolution, so it is for shapes that come again and again:
    `without_search` is for the others.
    """
    torch.backends.cudnn.benchmark = True


def set_up_cudnn(deterministic: bool) -> None:
    """Do what --deterministic asks for; whoever trains or tests calls it first."""
    if deterministic:
        make_deterministic()
    else:
        make_fast()


@contextmanager
def without_search() -> Iterator[None]:
    """While inside, let cuDNN take the algorithm it thinks good for a shape, without trials."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def peak_memory(device: torch.device) -> int:
    """Return the bytes that this process has held at most, so far.

    On a GPU of its memory, as PyTorch reserved it; on a CPU resident.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        # Not getrusage: its maximum counts what the parent held when it started this process.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1]) * 1024
    except (OSError, TypeError):  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def machine_facts(
    config: Config, devices: Sequence[torch.device], processes: int = 1
) -> dict[str, str | int]:
    """Return what may change the last bits of a result although no setting changed, by name."""
    gpus = [torch.cuda.get_device_name(d) for d in devices if d.type == "cuda"]
    recorded = config.cuda_graph and not config.record_blocks
    graph = recorded and len(gpus) == processes == 1
    return {
        "devices": ", ".join(gpus) if gpus else "CPU",
        "cuda_graph": "on" if graph else "off",
        "block_streams": config.block_streams if graph else 0,
        "precision": resolve_precision(config.precision, devices[0]),
        "threads": torch.get_num_threads(),
        "num_workers": config.num_workers,
        "processes": processes,
        "torch": str(torch.__version__),
    }


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(index) for index in ids)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error is some device's way of saying that its memory is used up."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(
        words in str(error) for words in ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def out_of_memory(batch_size: int, convnet_type: str, devices: list[torch.device]) -> str:
    """Say what did not fit into which device."""
    sizes = ", ".join(
        f"{device} has {torch.cuda.get_device_properties(device).total_memory / 2**30:.1f} GiB"
        for device in devices
        if device.type == "cuda"
    )
    return (
        f"the memory of the device is not enough for a batch of {batch_size} images with "
        f"{convnet_type} ({sizes or 'it is the CPU'}, other programs may use some of it): "
        "give a smaller --batch_size or another -d"
    )
