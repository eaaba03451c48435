"""In how many bits things are computed.

Training computes with what `precision` says:

    fp32    float32 everywhere
    tf32    convolutions of float32 numbers keep 10 of their 23 bits; the classifiers' matrix
            products stay float32 (NVIDIA GPUs since Ampere; elsewhere it is fp32)
    bf16    the blocks compute in bfloat16 by autocast; weights, updates, classifiers and losses
            stay float32 (fast on GPUs since Ampere, and on processors with avx512_bf16 or amx)
    auto    what PyTorch does where nothing is set, and so the authors' program: tf32 on NVIDIA GPUs
            since Ampere, fp32 elsewhere

What selects exemplars or ends up in a table of results is computed under `full_float32`, whatever
training uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

AMPERE = (8, 0)  # compute capability of the first NVIDIA GPUs that have TF32 and bfloat16


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return "fp32", "tf32" or "bf16" for the setting, which may be "auto", on a device."""
    if asked != "auto":
        return asked
    has_tf32 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= AMPERE
    return "tf32" if has_tf32 else "fp32"


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return what the blocks of a network that trains compute in, None for their own type."""
    return torch.bfloat16 if precision == "bf16" else None


def precision_warning(precision: str, device: torch.device) -> str | None:
    """Say if a precision brings nothing on a device, or return None."""
    if device.type == "cuda":
        if precision != "fp32" and torch.cuda.get_device_capability(device) < AMPERE:
            return f"{precision} needs an NVIDIA GPU of the Ampere generation or newer to be fast"
    elif precision == "tf32":
        return "tf32 is for NVIDIA GPUs: on the CPU it is fp32"
    elif precision == "bf16":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # not in every version of PyTorch
        if known and not any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
            return "this processor has no instructions for bfloat16: bf16 will be slower than fp32"
    return None


def training_precision(precision: str):
    """Return the context in which training runs: TF32 in convolutions for "tf32", else none."""
    return _tf32(precision == "tf32")


def full_float32():
    """Return a context with TF32 switched off for convolutions and matrix products."""
    return _tf32(False)


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = on, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
