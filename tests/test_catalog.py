"""The facts of utils/catalog.py against the counts of the authors' program."""

import pytest
from conftest import REPOSITORY, load_golden

import convs
from utils import count
from utils.catalog import (
    ALIASES,
    BACKBONES,
    DATASETS,
    FOLDER_DATASETS,
    Backbone,
    find_backbone,
)

CATALOG = (REPOSITORY / "utils/catalog.py").read_text()

PUBLISHED = {row["name"]: row for row in load_golden("A_params.json")}
NAMES = [name.removeprefix("memo_") for name in PUBLISHED if name.startswith("memo_")]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_row_is_what_is_counted_of_its_network(name):
    net = BACKBONES[name]
    assert count.count(name, net.image_size) == net
    assert f"{count.row(net)}\n" in CATALOG


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_the_published_ones(name):
    net, split = BACKBONES[name], PUBLISHED[f"memo_{name}"]
    assert (net.generalized, net.specialized) == (split["g"], split["s"])
    assert net.weights == split["sum"] == PUBLISHED[name]["params"]
    assert net.feature_dim == split["feature_dim"] == PUBLISHED[name]["out_dim"]
    assert split[f"at{net.image_size}"]["s_out"] == [net.feature_dim]


def test_a_network_is_counted_by_hand(capsys):
    # conv2: kernels of 3 x 3, biases and BatchNorm; means, variances and an int64 each.
    weights = [3 * 64 * 9 + 3 * 64, 64 * 64 * 9 + 3 * 64]
    buffers = [2 * 64 * 4 + 8] * 2
    assert count.count("conv2", 32) == Backbone("conv2", 32, 4, *weights, 64, *buffers)
    assert count.main(["-net", "conv4", "--image_size", "224"]) == 0
    assert capsys.readouterr().out == f"{count.row(BACKBONES['conv4'])}\n"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "-net: say which backbone of convs/__init__.py is to be counted"),
        ("-net conv22", "-net: must be one of conv2, "),
        (
            "-net conv4 --image_size 30",
            "conv4: it cannot be trained on an image of 30 x 30 pixels: ",
        ),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(typed, says, capsys):
    assert count.main(typed.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"utils.count: {says}")
    assert said.count("\n") == 1


def test_features_must_be_as_many_as_the_network_says(monkeypatch):
    net = convs.build("conv2").to("meta")
    net.feature_dim += 1
    monkeypatch.setitem(convs._BUILDERS, "odd", lambda: net)
    with pytest.raises(ValueError, match=r"^odd: .* 32 x 32 pixels it makes \(1, 64\), not the"):
        count.count("odd", 32)


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
