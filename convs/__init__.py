"""Backbones by name: pure `nn.Module`s that know nothing of tasks, data or devices.

`build("resnet32")` and `build("memo_resnet32")` give the same `SplitNet`: the whole network, and
the two halves MEMO takes it apart into. README.md says how to add one.
"""

import difflib
from collections.abc import Callable
from functools import partial

from convs.cifar_resnet import cifar_resnet
from convs.conv_nets import conv2, conv4
from convs.imagenet_resnet import imagenet_resnet
from convs.split import SplitNet

__all__ = ["SplitNet", "build", "names"]

_BUILDERS: dict[str, Callable[[], SplitNet]] = {
    # 32x32 images
    "conv2": conv2,
    "resnet14_cifar": partial(cifar_resnet, 14),
    "resnet20_cifar": partial(cifar_resnet, 20),
    "resnet26_cifar": partial(cifar_resnet, 26),
    "resnet32": partial(cifar_resnet, 32),
    # 224x224 images
    "conv4": conv4,
    "resnet10_imagenet": partial(imagenet_resnet, 10),
    "resnet18": partial(imagenet_resnet, 18),
    "resnet26_imagenet": partial(imagenet_resnet, 26),
    "resnet34_imagenet": partial(imagenet_resnet, 34),
    "resnet50_imagenet": partial(imagenet_resnet, 50),
    # second published names of the two above
    "resnet34": partial(imagenet_resnet, 34),
    "resnet50": partial(imagenet_resnet, 50),
}


def names() -> list[str]:
    """Names `build` knows, without the `memo_` that may stand before each of them."""
    return list(_BUILDERS)


def build(name: str) -> SplitNet:
    """Build a freshly initialised backbone.

    Args:
        name: one of `names()`, with or without `memo_` before it.

    Raises:
        ValueError: no backbone has that name; the message gives the nearest ones.
    """
    builder = _BUILDERS.get(name.removeprefix("memo_"))
    if builder is None:
        near = difflib.get_close_matches(name.removeprefix("memo_"), _BUILDERS, cutoff=0.5)
        raise ValueError(
            f"unknown backbone {name!r}; did you mean {' or '.join(near or _BUILDERS)}?"
        )
    return builder()
