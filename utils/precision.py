"""In how many bits things are computed.

On recent NVIDIA GPUs PyTorch lets convolutions of float32 tensors use TF32, which keeps 10 of
float32's 23 bits. What selects exemplars or ends up in a table of results is computed under
`full_float32`, whatever training uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Switch TF32 off for convolutions and matrix products, and put it back afterwards."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
