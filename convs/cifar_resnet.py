"""The ResNets for 32x32 images: depth 6n + 2, three stages of n basic blocks (He et al., 2016).

    image (3, 32, 32)
      -> conv 3x3, BN, ReLU            16 x 32 x 32  \
      -> stage_1: n blocks             16 x 32 x 32   > generalized
      -> stage_2: n blocks, stride 2   32 x 16 x 16  /
      -> final_stage: n blocks, str. 2 64 x  8 x  8  \
      -> average pool 8x8, flatten     64            / specialized

Where a stage halves the image, the shortcut takes every second pixel and appends zero channels:
it has no weights ("option A" of the ResNet paper). Convolutions have no bias and start at
N(0, sqrt(2 / (k * k * out_channels))); BatchNorm starts at weight 1, bias 0.
Other sizes of images, from 5 pixels on, make larger or smaller maps and the same 64 features.
ResNet-32 has 112,016 generalized and 351,488 specialized weights.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from convs.split import GlobalAvgPool, SplitNet


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus a weightless shortcut, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(
            in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        self.bn_a = nn.BatchNorm2d(out_channels)
        self.conv_b = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn_b = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)."""
        out = F.relu(self.bn_a(self.conv_a(x)), inplace=True)
        out = self.bn_b(self.conv_b(out))
        if self.stride != 1:
            # Every second pixel, as a pooling of single pixels: the gradient of x[:, :, ::2, ::2]
            # comes in another memory format, which slows all of backward before it.
            x = F.pad(F.avg_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(out.add_(x), inplace=True)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1))
    )


class Generalized(nn.Module):
    """Stem and the first two stages."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv_1_3x3 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(16)
        self.stage_1 = _stage(16, 16, blocks, stride=1)
        self.stage_2 = _stage(16, 32, blocks, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 32, 16, 16)."""
        x = F.relu(self.bn_1(self.conv_1_3x3(x)), inplace=True)
        return self.stage_2(self.stage_1(x))


class Specialized(nn.Module):
    """The last stage and the average pool."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.final_stage = _stage(32, 64, blocks, stride=2)
        self.avgpool = GlobalAvgPool()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, 16, 16) -> (N, 64)."""
        return self.avgpool(self.final_stage(x)).flatten(1)


def cifar_resnet(depth: int) -> SplitNet:
    """Build the CIFAR ResNet of `depth` = 6n + 2 layers (14, 20, 26, 32, ...), 64 features."""
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"a CIFAR ResNet has 6n + 2 layers with n >= 1, not {depth}")
    net = SplitNet(Generalized(blocks), Specialized(blocks), 64, ("stage_3", "final_stage"))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net
