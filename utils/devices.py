"""Which devices a run uses: the ids a user asked for, held against what this machine has."""

from collections.abc import Sequence

import torch


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


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(index) for index in ids)
