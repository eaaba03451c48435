"""A backbone as its two halves: generalized blocks, then specialized blocks.

MEMO (MEMO paper, section 4.3) shares the shallow half of a network between all tasks and gives
every task a deep half of its own. Each backbone family in this folder therefore builds ONE
definition, a `SplitNet`, from which both uses come:

- called as a module it is the whole single network, image in, features out;
- its `.generalized` and `.specialized` are the parts `utils.inc_net.AdaptiveNet` is made of.

Inside the halves the parameters keep the names of the published program (`conv_1_3x3`,
`stage_1.0.conv_a`, `final_stage.0.bn_b`, ...), so that a published state dict fits after changing
nothing but the prefix that says which half a parameter is in.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def building_blocks(half: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of one half by name, shallow to deep: residual or plain.

    In every family a half is a stem, stages and a pool, and only stages are `nn.Sequential`: either
    a stage of blocks, or (it holds a convolution itself) a single plain block. The stem, which is
    no residual block, is left out: ResNet-32 has 15 blocks.
    """
    found: dict[str, nn.Module] = {}
    for name, child in half.named_children():
        if not isinstance(child, nn.Sequential):
            continue
        if any(isinstance(module, nn.Conv2d) for module in child):
            found[name] = child
        else:
            found |= {f"{name}.{inner}": block for inner, block in child.named_children()}
    return found


class GlobalAvgPool(nn.Module):
    """The average over each whole feature map, whatever its size.

    The published networks state the size (`AvgPool2d(8)`, `AvgPool2d(7)`), and so take one size of
    images. On maps of that size this is the same operation, bit for bit; the adaptive pool is not.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 1, 1)."""
        return F.avg_pool2d(x, x.shape[-2:])


class SplitNet(nn.Module):
    """A whole network: `specialized(generalized(x))`.

    Args:
        generalized: images (N, 3, H, W) -> feature maps (N, C, h, w); shared by all tasks.
        specialized: those maps -> features (N, feature_dim), pooled and flattened.
        feature_dim: number of features, at any image size.
        last_block: the deepest block's name in published checkpoints of the whole net, and
            its name inside `specialized`. All other names are the same in both.
    """

    def __init__(
        self,
        generalized: nn.Module,
        specialized: nn.Module,
        feature_dim: int,
        last_block: tuple[str, str],
    ) -> None:
        super().__init__()
        self.generalized = generalized
        self.specialized = specialized
        self.feature_dim = feature_dim
        self.last_block = last_block

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> features (N, feature_dim)."""
        return self.specialized(self.generalized(x))

    def split_state_dict(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort a published whole-net state dict into (generalized, specialized) state dicts.

        Only names are looked at; whether they are all there is for the caller to check. A head
        of the whole net (`fc.*`) belongs to neither half and is left out.
        """
        whole_name, split_name = self.last_block
        generalized, specialized = {}, {}
        for name, value in state.items():
            if name.startswith(f"{whole_name}."):
                specialized[split_name + name.removeprefix(whole_name)] = value
            elif not name.startswith("fc."):
                generalized[name] = value
        return generalized, specialized
