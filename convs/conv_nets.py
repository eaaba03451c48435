"""The small plain networks of the memory-agnostic comparison: conv2 (CIFAR), conv4 (ImageNet).

A block is conv (with bias), BN, ReLU, max pool 2; all blocks but the last are generalized.

    conv2, 32x32:   3 -> 64 | -> 64, average pool 8, 64 features
    conv4, 224x224: 3 -> 128 (7x7, stride 2) -> 128 -> 128 | -> 512, average pool 7, 512 features

The pool takes the whole map, so that other sizes of images work too: from 4 and from 31 pixels on.

Weights start as PyTorch starts them.
"""

from torch import Tensor, nn

from convs.split import GlobalAvgPool, SplitNet


def _block(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class Generalized(nn.Module):
    """All blocks but the last."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """conv2: (N, 3, 32, 32) -> (N, 64, 16, 16); conv4: 224 pixels -> (N, 128, 14, 14)."""
        return self.encoder(x)


class Specialized(nn.Module):
    """The last block and the average pool."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.AdaptiveBlock = block  # the published name, see convs/split.py
        self.avgpool = GlobalAvgPool()

    def forward(self, x: Tensor) -> Tensor:
        """conv2: (N, 64, 16, 16) -> (N, 64); conv4: (N, 128, 14, 14) -> (N, 512)."""
        return self.avgpool(self.AdaptiveBlock(x)).flatten(1)


def conv2() -> SplitNet:
    """Two blocks for 32x32 images, 64 features."""
    return SplitNet(
        Generalized(_block(3, 64)),
        Specialized(_block(64, 64)),
        64,
        ("encoder.1", "AdaptiveBlock"),
    )


def conv4() -> SplitNet:
    """Four blocks for 224x224 images, 512 features."""
    return SplitNet(
        Generalized(_block(3, 128, kernel_size=7, stride=2), _block(128, 128), _block(128, 128)),
        Specialized(_block(128, 512)),
        512,
        ("encoder.3", "AdaptiveBlock"),
    )
