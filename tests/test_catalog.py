"""The facts of utils/catalog.py against the counts of the authors' program."""

import pytest
from conftest import load_golden

import convs
from utils.catalog import (
    ALIASES,
    BACKBONES,
    DATASETS,
    FOLDER_DATASETS,
    find_backbone,
)

PUBLISHED = {row["name"]: row for row in load_golden("A_params.json")}


def test_every_published_memo_backbone_is_there():
    assert {f"memo_{name}" for name in BACKBONES} == {n for n in PUBLISHED if n.startswith("memo_")}


@pytest.mark.parametrize("name", BACKBONES)
def test_weights_are_the_published_ones(name):
    net, split = BACKBONES[name], PUBLISHED[f"memo_{name}"]
    assert net.name == name
    assert (net.generalized, net.specialized) == (split["g"], split["s"])
    assert net.weights == split["sum"] == PUBLISHED[name]["params"]
    assert net.feature_dim == split["feature_dim"] == PUBLISHED[name]["out_dim"]
    assert split[f"at{net.image_size}"]["s_out"] == [net.feature_dim]


@pytest.mark.parametrize("name", BACKBONES)
def test_buffers_are_those_of_the_networks(name):
    net, split = BACKBONES[name], PUBLISHED[f"memo_{name}"]
    halves = convs.build(name)
    for stated, half, golden in (
        (net.generalized_buffer_bytes, halves.generalized, split["g_buffers"]),
        (net.specialized_buffer_bytes, halves.specialized, split["s_buffers"]),
    ):
        buffers = list(half.buffers())
        assert stated == sum(each.numel() * each.element_size() for each in buffers)
        assert golden == sum(each.numel() for each in buffers)


def test_aliases_are_the_same_networks():
    for alias, name in ALIASES.items():
        assert PUBLISHED[alias]["params"] == BACKBONES[name].weights


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet32", "resnet32"),
        ("memo_resnet32", "resnet32"),
        ("MEMO_ResNet32", "resnet32"),
        ("resnet34", "resnet34_imagenet"),
        ("memo_resnet50_imagenet", "resnet50_imagenet"),
    ],
)
def test_find_backbone(name, found):
    assert find_backbone(name) is BACKBONES[found]


def test_unknown_backbones_are_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no backbone 'memo_resnet31'.*did you mean resnet32\?"):
        find_backbone("memo_resnet31")
    with pytest.raises(ValueError, match=r"no backbone 'vgg'.*known are resnet32, .*conv4"):
        find_backbone("vgg")


def test_data_sets():
    assert DATASETS["cifar100"].image_bytes == 3072
    assert DATASETS["imagenet100"].image_bytes == 150_528
    assert {name: facts.classes for name, facts in DATASETS.items()} == {
        "cifar10": 10,
        "cifar100": 100,
        "synthetic": 100,
        "imagenet100": 100,
        "imagenet1000": 1000,
        "folder": 0,  # open
    }
    assert set(FOLDER_DATASETS) <= set(DATASETS)
