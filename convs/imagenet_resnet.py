"""The ResNets for 224x224 images, cut in front of layer4.

    generalized: conv 7x7, BN, ReLU, max pool, layer1, layer2, layer3
    specialized: layer4, global average pool, flatten (512 features, 2048 with bottlenecks)

Blocks, names and initialisation (kaiming-normal fan_out, BatchNorm 1 / 0) are torchvision's; only
the cut is made here. Images may have other sizes, from 33 pixels on. Blocks per layer (MEMO paper,
appendix):

    10: [1, 1, 1, 1]   18: [2, 2, 2, 2]   34: [3, 4, 6, 3]   basic blocks
    26: [2, 2, 2, 2]   50: [3, 4, 6, 3]                      bottlenecks
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from convs.split import SplitNet

_LAYERS = {
    10: (BasicBlock, [1, 1, 1, 1]),
    18: (BasicBlock, [2, 2, 2, 2]),
    26: (Bottleneck, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
}


class Generalized(nn.Module):
    """Stem to layer3 of a torchvision ResNet."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1 = resnet.conv1
        self.bn1 = resnet.bn1
        self.relu = resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1 = resnet.layer1
        self.layer2 = resnet.layer2
        self.layer3 = resnet.layer3

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224) -> (N, 256 or 1024, 14, 14)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class Specialized(nn.Module):
    """layer4 and the global average pool of a torchvision ResNet."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.layer4 = resnet.layer4
        self.avgpool = resnet.avgpool

    def forward(self, x: Tensor) -> Tensor:
        """(N, 256 or 1024, 14, 14) -> (N, 512 or 2048)."""
        return self.avgpool(self.layer4(x)).flatten(1)


def imagenet_resnet(depth: int) -> SplitNet:
    """Build the ImageNet ResNet of `depth` 10, 18, 26, 34 or 50 layers."""
    if depth not in _LAYERS:
        known = ", ".join(map(str, _LAYERS))
        raise ValueError(f"an ImageNet ResNet has {known} layers, not {depth}")
    block, layers = _LAYERS[depth]
    resnet = ResNet(block, layers)  # its classifier is left behind
    feature_dim = 512 * block.expansion
    return SplitNet(Generalized(resnet), Specialized(resnet), feature_dim, ("layer4", "layer4"))
