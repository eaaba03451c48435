"""Backbones: sizes and shapes of the published program, names, initial weights."""

import pytest
import torch
from conftest import load_golden
from torch import nn

import convs
from convs.cifar_resnet import cifar_resnet
from convs.imagenet_resnet import imagenet_resnet
from convs.split import GlobalAvgPool
from utils import catalog

ROWS = load_golden("A_params.json")
MEMO = [row for row in ROWS if row["name"].startswith("memo_")]
SINGLE = [row for row in ROWS if "params" in row and not row["name"].startswith("cosine_")]


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def buffers(net: nn.Module) -> int:
    return sum(b.numel() for b in net.buffers())


@pytest.mark.parametrize("row", MEMO, ids=lambda row: row["name"])
def test_halves_have_the_published_sizes(row):
    net = convs.build(row["name"])
    assert weights(net.generalized) == row["g"]
    assert weights(net.specialized) == row["s"]
    assert weights(net) == row["sum"]
    assert buffers(net.generalized) == row["g_buffers"]
    assert buffers(net.specialized) == row["s_buffers"]
    assert net.feature_dim == row["feature_dim"]
    net.eval()
    for size in (32, 64, 224):
        shapes = row.get(f"at{size}")
        if isinstance(shapes, dict):
            with torch.device("meta"):
                x = torch.empty(2, 3, size, size)
            net.to("meta")
            maps = net.generalized(x)
            assert list(maps.shape[1:]) == shapes["g_out"]
            # The published pools are of one size and give more features to larger images; ours
            # take the whole map. At the published size both are the same.
            features = list(net.specialized(maps).shape[1:])
            assert features == [net.feature_dim]
            if size == catalog.find_backbone(row["name"]).image_size:
                assert features == shapes["s_out"]


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: row["name"])
def test_whole_nets_have_the_published_sizes(row):
    net = convs.build(row["name"])
    assert weights(net) == row["params"]
    assert buffers(net) == row["buffers"]
    assert net.feature_dim == row["out_dim"]


def test_every_published_backbone_is_there_and_in_the_catalog():
    published = {row["name"] for row in MEMO}
    assert {f"memo_{name}" for name in catalog.BACKBONES} >= published
    assert set(convs.names()) >= {row["name"] for row in SINGLE}
    assert set(convs.names()) == {*catalog.BACKBONES, *catalog.ALIASES}


@pytest.mark.parametrize("name", ["resnet14_cifar", "conv2"])
def test_whole_net_is_its_halves_in_turn(name):
    net = convs.build(name).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(x), net.specialized(net.generalized(x)))
    assert net(x).shape == (2, net.feature_dim)


def test_prefix_is_optional_and_unknown_names_get_a_hint():
    assert weights(convs.build("memo_conv2")) == weights(convs.build("conv2"))
    with pytest.raises(ValueError, match=r"unknown backbone 'memo_resnet23'.*resnet32"):
        convs.build("memo_resnet23")
    with pytest.raises(ValueError, match=r"unknown backbone ''.*conv2 or"):
        convs.build("")


def test_impossible_depths_are_refused():
    with pytest.raises(ValueError, match="6n \\+ 2 layers with n >= 1, not 33"):
        cifar_resnet(33)
    with pytest.raises(ValueError, match="has 10, 18, 26, 34, 50 layers, not 101"):
        imagenet_resnet(101)


def test_cifar_resnet_starts_as_published():
    torch.manual_seed(0)
    net = convs.build("resnet32")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / (kernel * module.out_channels)) ** 0.5
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(expected, rel=0.12)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)


def test_imagenet_resnet_has_no_zero_initialised_branch():
    net = convs.build("resnet10_imagenet")
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and (m.bias == 0).all() for m in norms)


def test_conv_nets_keep_pytorch_s_init():
    facts = load_golden("C9_update_fc.json")
    bound = next(f["expect_bound"] for f in facts if "conv2" in f.get("init", ""))
    conv = convs.build("conv2").specialized.AdaptiveBlock[0]
    assert 0.95 * bound < conv.weight.abs().max() <= bound * (1 + 1e-6)
    assert 0 < conv.bias.abs().max() <= bound * (1 + 1e-6)


def test_shortcut_takes_every_second_pixel_and_appends_zero_channels():
    block = convs.build("resnet14_cifar").specialized.final_stage[0].eval()
    nn.init.zeros_(block.bn_b.weight)  # leaves the shortcut alone
    x = torch.rand(1, 32, 16, 16)
    out = block(x)
    assert torch.equal(out[:, :32], x[:, :, ::2, ::2])
    assert (out[:, 32:] == 0).all()


@pytest.mark.parametrize(
    ("name", "whole", "split"),
    [
        ("resnet14_cifar", "stage_3.1.conv_a.weight", "final_stage.1.conv_a.weight"),
        ("resnet18", "layer4.0.conv1.weight", "layer4.0.conv1.weight"),
        ("conv2", "encoder.1.0.bias", "AdaptiveBlock.0.bias"),
        ("conv4", "encoder.3.0.bias", "AdaptiveBlock.0.bias"),
    ],
)
def test_whole_net_state_dict_is_sorted_into_the_halves(name, whole, split):
    net = convs.build(name)
    other, inside = net.last_block
    state = dict(net.generalized.state_dict())
    for key, value in net.specialized.state_dict().items():
        state[key.replace(f"{inside}.", f"{other}.", 1)] = value
    assert whole in state
    generalized, specialized = net.split_state_dict(state | {"fc.weight": torch.zeros(1)})
    assert split in specialized
    assert generalized.keys() == net.generalized.state_dict().keys()
    assert specialized.keys() == net.specialized.state_dict().keys()


@pytest.mark.parametrize("size", [8, 7])
def test_the_pool_is_the_published_one_at_the_published_size(size):
    maps = [torch.randn(4, 64, size, size).requires_grad_()]
    maps.append(maps[0].detach().clone().requires_grad_())
    out = [pool(x) for pool, x in zip((nn.AvgPool2d(size), GlobalAvgPool()), maps, strict=True)]
    assert torch.equal(*out)
    for each in out:
        (each * torch.arange(64.0).view(64, 1, 1)).sum().backward()
    assert torch.equal(maps[0].grad, maps[1].grad)


@pytest.mark.parametrize("name", ["resnet14_cifar", "conv2", "conv4", "resnet10_imagenet"])
def test_the_smallest_images_train_one_at_a_time_and_smaller_ones_do_not(name):
    net, smallest = convs.build(name), catalog.BACKBONES[name].smallest
    assert net(torch.zeros(1, 3, smallest, smallest)).shape == (1, net.feature_dim)
    with pytest.raises((ValueError, RuntimeError)):
        net(torch.zeros(1, 3, smallest - 1, smallest - 1))
