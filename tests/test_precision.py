"""Tests of utils/precision.py, and that features and logits are computed in full float32."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import begin_training, tiny_learner

from utils.folding import fold
from utils.precision import full_float32, precision_warning, resolve_precision, training_precision


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_off_inside_and_put_back():
    before = tf32()
    torch.backends.cudnn.allow_tf32 = True
    try:
        with full_float32():
            assert tf32() == (False, False)
        assert tf32() == (True, before[1])
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]


@pytest.mark.parametrize(("precision", "on"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_training_switches_tf32_on_only_where_it_is_asked_for(precision, on):
    before = tf32()
    with training_precision(precision):
        assert tf32() == (on, False)  # in convolutions; matrix products never
        with full_float32():  # an evaluation inside training
            assert tf32() == (False, False)
    assert tf32() == before


@pytest.mark.parametrize(
    ("asked", "device", "capability", "resolved"),
    [
        ("auto", "cpu", None, "fp32"),
        ("auto", "cuda", (7, 5), "fp32"),
        ("auto", "cuda", (8, 0), "tf32"),
        ("auto", "cuda", (9, 0), "tf32"),
        ("fp32", "cuda", (9, 0), "fp32"),
        ("bf16", "cpu", None, "bf16"),
    ],
)
def test_auto_is_what_pytorch_does_by_default(asked, device, capability, resolved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision(asked, torch.device(device)) == resolved


def test_pytorch_s_default_is_still_what_auto_stands_for():
    code = "import torch; b = torch.backends; print(b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("precision", "capabilities", "words"),
    [
        ("fp32", {}, None),
        ("tf32", {}, "tf32 is for NVIDIA GPUs"),
        ("bf16", {"avx512_bf16": False, "avx2": True}, "no instructions for bfloat16"),
        ("bf16", {"avx512_bf16": True}, None),
        ("bf16", {}, None),  # this PyTorch cannot say
    ],
)
def test_a_precision_that_brings_nothing_is_named(monkeypatch, precision, capabilities, words):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    said = precision_warning(precision, torch.device("cpu"))
    assert said is None if words is None else words in said


@pytest.mark.parametrize(("precision", "inside"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_blocks_compute_in_the_precision_and_everything_else_in_float32(precision, inside):
    learner = tiny_learner(convnet_type="memo_conv2", precision=precision, epochs=1, milestones=[])
    learner.begin_task()
    learner.begin_task()
    training = begin_training(learner)
    seen = {}

    def note(name):
        def hook(_, inputs, output):
            seen[name] = inputs[0].dtype, output.dtype

        return hook

    learner.network.generalized.register_forward_hook(note("trunk"))
    learner.network.specialized[-1].register_forward_hook(note("newest"))
    for folded in learner.network._folded.values():
        folded.register_forward_hook(note("frozen"))
    learner.network.classifier.register_forward_hook(note("classifier"))
    learner.network.aux_classifier.register_forward_hook(note("auxiliary"))
    batch = torch.from_numpy(learner.training_indices()[:8])
    sums = learner.engine.make_step(training)(batch)
    inside, full = getattr(torch, inside), torch.float32
    assert seen == {
        "trunk": (full, inside),
        "newest": (inside, inside),
        "frozen": (inside, inside),
        "classifier": (full, full),
        "auxiliary": (full, full),
    }
    assert sums.dtype == full
    assert {parameter.dtype for parameter in learner.network.parameters()} == {full}
    features, logits = learner.forward_all(learner.run.test_data, np.arange(4))
    assert features.dtype == logits.dtype == full


def test_features_and_logits_are_computed_without_tf32():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    seen = []
    inference = learner.network.for_inference()
    inference.generalized.register_forward_hook(lambda *_: seen.append(tf32()))
    learner.network.for_inference = lambda: inference
    before = tf32()
    learner.forward_all(learner.run.test_data, np.arange(4))
    assert seen == [(False, False)]
    assert tf32() == before


@pytest.mark.parametrize("train_base", [True, False])
def test_frozen_parts_rounded_once_compute_what_autocast_makes_of_them(train_base):
    learner = tiny_learner(convnet_type="memo_conv2", precision="bf16", train_base=train_base)
    learner.begin_task()
    learner.begin_task()
    begin_training(learner)
    network = learner.network
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def features_and_gradients():
        network.zero_grad()
        features = network(images)["features"]
        features.square().sum().backward()
        learning = [each for each in network.parameters() if each.grad is not None]
        assert len(learning) == (8 if train_base else 4)  # convolution and BatchNorm
        return [features, *(each.grad for each in learning)]

    assert len(network._folded) == (1 if train_base else 2)
    for part in network._folded.values():
        assert {weight.dtype for weight in part.parameters()} == {torch.bfloat16}
    once = features_and_gradients()
    network._folded = {part: fold(part) for part in network._folded}
    for part in network._folded.values():
        assert {weight.dtype for weight in part.parameters()} == {torch.float32}
    assert all(map(torch.equal, once, features_and_gradients()))


def test_rounded_copies_are_not_used_where_the_net_computes_in_another_type():
    learner = tiny_learner(convnet_type="memo_conv2", precision="bf16")
    learner.begin_task()
    learner.begin_task()
    begin_training(learner)
    network, images = learner.network, torch.randn(4, 3, 32, 32)
    found = {}
    for name, copies in (("with", network._folded), ("without", {})):
        network._folded = copies
        network.train_dtype = None  # a step of an empty share under SyncBatchNorm
        found[name] = [network(images[:0])["features"]]
        network.train_dtype = torch.bfloat16
        network.eval()
        found[name].append(network(images)["features"])
        network.train()
    assert found["with"][0].shape == (0, 128)
    assert all(map(torch.equal, found["with"], found["without"]))
