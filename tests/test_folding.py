"""Tests of utils/folding.py: folded parts are the same function with the same gradient."""

import pytest
import torch
from torch import nn

import convs
from utils.catalog import BACKBONES
from utils.folding import fold


def settled(part: nn.Module) -> nn.Module:
    """Return the part in float64 with BatchNorm statistics and weights unlike the initial ones."""
    generator = torch.Generator().manual_seed(1)
    for module in part.double().modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in [
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ]:
                values.uniform_(low, high, generator=generator)
    return part.eval()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_folded_halves_equal_the_plain_ones_in_maps_and_gradient(name):
    net = settled(convs.build(name))
    side = BACKBONES[name].image_size
    maps = torch.randn(1, 3, side, side, dtype=torch.float64)
    for half in (net.generalized, net.specialized):
        results = []
        for part in (half, fold(half)):
            given = maps.clone().requires_grad_()
            out = part(given)
            (gradient,) = torch.autograd.grad(out.square().sum(), given)
            results.append((out.detach(), gradient))
        (plain, plain_gradient), (folded, folded_gradient) = results
        torch.testing.assert_close(folded, plain, rtol=1e-9, atol=1e-9)
        scale = plain_gradient.abs().max()
        torch.testing.assert_close(
            folded_gradient / scale, plain_gradient / scale, rtol=1e-9, atol=1e-9
        )
        maps = plain


def test_a_folded_part_is_frozen_without_batch_norm_and_the_part_is_left_alone():
    part = settled(convs.build("resnet14_cifar").specialized).train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    folded = fold(part)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training
    assert part.training
    assert all(parameter.requires_grad for parameter in part.parameters())
    for name, value in part.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_batch_norm_that_follows_no_convolution_is_refused():
    with pytest.raises(ValueError, match="does not follow a convolution"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
