"""In how many bits things are computed.

Training computes with what `precision` says:

    fp32    float32 everywhere
    tf32    convolutions and matrix products of float32 numbers keep 10 of their 23 bits
            (NVIDIA GPUs since Ampere; elsewhere it is fp32)
    bf16    the blocks compute in bfloat16 by autocast; weights, updates, classifiers and losses
            stay float32 (fast on GPUs since Ampere, and on processors with avx512_bf16 or amx)
    auto    fp32. (PyTorch's own default on NVIDIA GPUs since Ampere is tf32 in convolutions, and so
            may have been that of the published runs.) Another choice is the user's

What selects exemplars or ends up in a table of results is computed under `full_float32`, whatever
training uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_precision(asked: str) -> str:
    """Return "fp32", "tf32" or "bf16" for the setting, which may be "auto"."""
    return "fp32" if asked == "auto" else asked


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return what the blocks of a network that trains compute in, None for their own type."""
    return torch.bfloat16 if precision == "bf16" else None


def precision_warning(precision: str, device: torch.device) -> str | None:
    """Say if a precision brings nothing on a device, or return None."""
    if device.type == "cuda":
        if precision != "fp32" and torch.cuda.get_device_capability(device) < (8, 0):
            return f"{precision} needs an NVIDIA GPU of the Ampere generation or newer to be fast"
    elif precision == "tf32":
        return "tf32 is for NVIDIA GPUs: on the CPU it is fp32"
    elif precision == "bf16":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version of PyTorch
        if known and not any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
            return "this processor has no instructions for bfloat16: bf16 will be slower than fp32"
    return None


def training_precision(precision: str):
    """Return the context in which training runs: TF32 on for "tf32", off for the others."""
    return _tf32(precision == "tf32")


def full_float32():
    """Return a context with TF32 switched off for convolutions and matrix products."""
    return _tf32(False)


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
