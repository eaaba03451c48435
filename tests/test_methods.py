"""Finetune, Replay, iCaRL, WA and DER against the published program: steps, growth, whole runs.

Every array here was computed by that program (tests/golden/methods/README.md). The learner is the
one that the experiment uses, trained by the engine; what its steps compute is noted by hooks.
"""

import hashlib
import json
import math
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from conftest import load_golden
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import convs
from models import find_learner
from utils.config import Config
from utils.data_manager import DataManager
from utils.engine.run import Run
from utils.loader import ResidentLoader
from utils.metrics import top_k_accuracy

CPU = torch.device("cpu")
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)

near = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
exactly = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


class Unchanged:
    """A transform of images that leaves them as they are, in float64."""

    def draw(self, n, generator):
        return torch.empty(n)

    def __call__(self, images, draws=None):
        return images.double()


class Normalised(Unchanged):
    """A transform without augmentation, all of it in float64."""

    def __call__(self, images, draws=None):
        both = torch.tensor((CIFAR100_MEAN, CIFAR100_STD), dtype=torch.float64)
        mean, std = both[:, :, None, None]
        return (images.double() / 255 - mean) / std


class InStoredOrder(ResidentLoader):
    """Shows the images of an epoch in the next of its `orders`."""

    def train_batches(self, indices, batch_size, order, first_batch=0):
        shown = self.orders.pop(0)
        assert sorted(shown) == sorted(indices.tolist())
        yield from super().train_batches(shown, batch_size, torch.arange(len(shown)), first_batch)


def make_learner(method, tasks, train, test, **settings):
    """Return a learner in float64, before its first task."""
    settings = {"convnet_type": "memo_conv2", "init_lr": 0.1, "lrate": 0.1, **settings}
    config = Config(model_name=method, init_weight_decay=5e-4, weight_decay=2e-4, **settings)
    learner = find_learner(method)(Run(config, tasks, train, test, [CPU]))
    learner.network.double()
    return learner


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@contextmanager
def watched(learner):
    """Give a list that has, of every training step in here: losses, gradients, who trains, state.

    The state is that after the step.
    """
    steps, fit, network = [], learner.fit, learner.network

    def watched_fit(stage, losses, schedule, **others):
        weights = others.get("weights", {"clf": 1.0})

        def noted(*args):
            parts = losses(*args)
            total = sum(weights[name] * part for name, part in parts.items())
            steps.append({"losses": {k: v.item() for k, v in {**parts, "total": total}.items()}})
            return parts

        return fit(stage, noted, schedule, **others)

    def before_step(optimizer, *_):
        (group,) = optimizer.param_groups
        inside = {id(parameter) for parameter in group["params"]}
        named = dict(network.named_parameters())
        norms = {name: math.nan if p.grad is None else p.grad.norm() for name, p in named.items()}
        norm_layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
        steps[-1] |= {
            "settings": {key: value for key, value in group.items() if key != "params"},
            "in_optimiser": {name for name, p in named.items() if id(p) in inside},
            "requires_grad": {name for name, p in named.items() if p.requires_grad},
            "bn_train_mode": {name for name, layer in norm_layers if layer.training},
            "bn_eval_mode": {name for name, layer in norm_layers if not layer.training},
            "grad_norms": {name: float(norm) for name, norm in norms.items()},
        }

    def after_step(*_):
        steps[-1]["state"] = state_of(network)

    hooks = [
        register_optimizer_step_pre_hook(before_step),
        register_optimizer_step_post_hook(after_step),
    ]
    learner.fit = watched_fit
    try:
        yield steps
    finally:
        learner.fit = fit
        for hook in hooks:
            hook.remove()


# --- Training steps -------------------------------------------------------------------------------

STEPS = {
    "finetune": ["Finetune_step_conv2_t2"],
    "replay": ["Replay_step_conv2_init", "Replay_step_conv2_t2", "Replay_step_resnet14_t2"],
    "icarl": ["iCaRL_step_conv2_t2", "iCaRL_step_resnet14_t2"],
    "wa": ["WA_step_conv2_t2"],
    "der": [f"DER_step_{case}" for case in ("conv2_init", "conv2_t2", "conv2_t3", "resnet14_t2")],
}
LISTS_OF_NAMES = ("unchanged", "requires_grad", "in_optimiser", "bn_train_mode", "bn_eval_mode")


def our_name(name, backbone):
    """Turn a published name, of a parameter, a buffer or a BatchNorm, into ours."""
    first, _, rest = str(name).partition(".")
    if first in ("fc", "aux_fc"):
        return f"{first.replace('fc', 'classifier')}.{rest}"
    trunk, block = "generalized", "specialized.0"
    if first == "convnets":  # DER: a whole backbone for every task
        task, _, rest = rest.partition(".")
        trunk, block = f"specialized.{task}.generalized", f"specialized.{task}.specialized"
    of_trunk, of_block = (list(half) for half in backbone.split_state_dict({rest: None}))
    return f"{trunk}.{of_trunk[0]}" if of_trunk else f"{block}.{of_block[0]}"


def read_steps(file, backbone):
    """Return a file of steps, with our names of parameters; DER's keys are like the others'."""
    arrays = load_golden(f"methods/{file}.npz")
    stored = {key.removeprefix("f64/"): arrays[key] for key in arrays.files}
    for which in ("", "old_"):  # weights of which only the seeds are kept
        keys = [f"{which}generated/{key}" for key in ("names", "seeds", "shapes", "sha256")]
        for name, seed, shape, sha256 in zip(*(stored.pop(k, ()) for k in keys), strict=True):
            shape = json.loads(str(shape))
            drawn = np.random.RandomState(seed).standard_normal(shape)
            drawn = (drawn * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float16)
            assert hashlib.sha256(drawn.tobytes()).hexdigest() == str(sha256)
            stored[f"{'old' if which else 'state'}/{name}"] = drawn
    for key in list(stored):
        part, _, name = key.partition("/")
        if part in ("state", "old", "delta1", "delta3", "delta_step3"):
            stored[f"{part.replace('_step', '')}/{our_name(name, backbone)}"] = stored.pop(key)
        elif key.endswith("names") or key in LISTS_OF_NAMES:
            stored[key] = [our_name(each, backbone) for each in stored[key]]
    if "sizes" in stored:
        stored["tasks"] = stored["sizes"][: stored["task"] + 1]
    for key, other in [("before", "before_align"), ("after", "after_align")]:
        if f"align/fcw_{key}" in stored:
            stored[f"fc_weight_{other}"] = stored[f"align/fcw_{key}"]
    stored.setdefault("eval/x", stored["batch0/x"])
    return stored


def part_of(stored, part):
    """Return the arrays `part/<name>` of a file, as tensors by name."""
    return {
        key.removeprefix(f"{part}/"): torch.as_tensor(value)
        for key, value in stored.items()
        if key.startswith(f"{part}/")
    }


def learner_of(method, backbone, stored):
    """Return a learner in the task of a file, with its weights; its data are the three batches."""
    images, labels = (np.concatenate([stored[f"batch{i}/{of}"] for i in range(3)]) for of in "xy")
    classes, sizes = np.arange(sum(stored["tasks"])), stored["tasks"].tolist()
    tasks = DataManager(classes, classes, classes, sizes[0], sizes[-1])
    data = InStoredOrder(images, labels, Unchanged(), Unchanged(), CPU)
    learner = make_learner(
        method, tasks, data, data, convnet_type=f"memo_{backbone}", init_epoch=1, epochs=1,
        batch_size=len(labels) // 3,
    )  # fmt: skip
    learner.training_indices = lambda: np.arange(len(labels))
    data.orders = [list(range(len(labels)))]
    for _ in sizes[:-1]:
        learner.begin_task()
    if "eval/old_logits" in stored:
        learner.keep_teacher()
        learner.nets["teacher"].load_state_dict(part_of(stored, "old"))
    learner.begin_task()
    learner.network.load_state_dict(part_of(stored, "state"))
    return learner


@pytest.mark.parametrize(
    ("method", "file"), [(method, file) for method, files in STEPS.items() for file in files]
)
def test_three_training_steps_equal_the_published_program_s(method, file):
    backbone = "resnet14_cifar" if "resnet14" in file else "conv2"
    stored = read_steps(file, convs.build(backbone))
    learner = learner_of(method, backbone, stored)
    network, start = learner.network, state_of(learner.network)
    check_outputs(learner, stored)
    with watched(learner) as steps:
        learner.train_task()
    assert len(steps) == 3
    for part, each in {k: v for k, v in stored.items() if k.startswith("loss_")}.items():
        near([step["losses"].pop(part.removeprefix("loss_")) for step in steps], each)
    (row,) = learner.engine.epochs
    assert row["loss"] == pytest.approx(stored["loss_total"].mean(), rel=1e-6)  # in float32
    for step, norms in zip(steps, stored["grad_norms"], strict=True):
        assert not step["losses"]  # there is no other part
        near([step["grad_norms"].pop(name) for name in stored["grad_norm_names"]], norms)
        assert not step["grad_norms"]
        check_who_trains(step, stored, len(list(network.parameters())))
    check_movement(start, {1: steps[0]["state"], 3: steps[2]["state"]}, stored)
    if "fc_weight_before_align" in stored:
        near(network.classifier.weight.detach(), stored["fc_weight_before_align"])
        learner.align_weights()
        near(network.classifier.weight.detach(), stored["fc_weight_after_align"])


def check_outputs(learner, stored):
    """Compare what the start state, in evaluation mode, and the teacher make of some images."""
    x = torch.as_tensor(stored["eval/x"])
    data = ResidentLoader(x, np.zeros(len(x)), Unchanged(), Unchanged(), CPU)
    features, logits = learner.forward_all(data, np.arange(len(x)))
    near(features, stored["eval/features"])
    near(logits, stored["eval/logits"])
    if "eval/aux_logits" in stored:
        newest = features[:, -learner.network.block_dim :]
        near(learner.network.aux_classifier(newest).detach(), stored["eval/aux_logits"])
    if "eval/old_logits" in stored:
        teacher = learner.nets["teacher"].for_inference()  # as `fit` makes it for `teach`
        near(teacher(x.double())["logits"], stored["eval/old_logits"])


def check_who_trains(step, stored, parameters):
    """Compare the optimiser, what is in it, and every BatchNorm's mode in a step."""
    published = json.loads(str(stored["optimiser"]).strip("[]"))
    if "n" in published:  # names are listed only where not everything trains
        assert len(step["in_optimiser"]) == published.pop("n") == parameters
    for key, value in published.items():
        assert step["settings"][key] == value, key
    for key in set(LISTS_OF_NAMES[1:]) & stored.keys():
        assert step[key] == set(stored[key]), key


def check_movement(start, states, stored):
    """Compare how far every entry of the state dict is from the start after some steps."""
    for after, state in states.items():
        moved = {name: (state[name].double() - start[name].double()).numpy() for name in start}
        deltas = part_of(stored, f"delta{after}")  # stored in float32
        assert deltas or f"summary_step{after}/names" in stored
        summary = [stored.get(f"summary_step{after}/{key}", []) for key in ("names", "values")]
        for name, sums in zip(*summary, strict=True):
            ours = moved[name]
            near([ours.sum(), abs(ours).sum(), (ours**2).sum(), ours.flat[0]], sums, err_msg=name)
        for name, delta in deltas.items():
            np.testing.assert_allclose(moved[name], delta, rtol=1e-6, atol=1e-9, err_msg=name)
        if deltas and after == 3:
            assert deltas.keys() | stored["unchanged"] == start.keys()
    for name in stored["unchanged"]:
        assert torch.equal(start[name], states[3][name]), name
    for key in ("weight", "bias"):
        if f"fc_{key}_step3" in stored:
            near(states[3][f"classifier.{key}"], stored[f"fc_{key}_step3"])


# --- Growth and alignment -------------------------------------------------------------------------


def test_der_grows_as_in_the_published_program():
    facts = load_golden("methods/DER_growth.json")
    sizes = facts["task2"]["task_sizes"]
    classes = np.arange(sum(sizes))
    tasks = DataManager(classes, classes, classes, sizes[0], sizes[1])
    data = ResidentLoader(np.zeros((1, 3, 32, 32)), [0], Unchanged(), Unchanged(), CPU)
    learner = make_learner("der", tasks, data, data)
    network, random = learner.network, torch.Generator().manual_seed(1)
    for task, size in enumerate(sizes):
        fact, old = facts[f"task{task}"], state_of(network)
        learner.begin_task()
        classifier, aux = network.classifier, network.aux_classifier
        weight, bias = classifier.weight.detach(), classifier.bias.detach()
        assert list(weight.shape) == fact["fc"]
        assert list(aux.weight.shape) == fact["aux_fc"] == [size + 1, 64]
        assert network.feature_dim == fact["feature_dim"]
        assert not aux.bias.any()
        bound = fact["fc_init_bound_sqrt_3_over_in"]
        known = learner.known_classes
        assert 0.9 * bound < weight[known:].abs().max() <= bound
        assert not bias[known:].any()
        assert 0.9 * fact["aux_init_bound"] < aux.weight.abs().max() <= fact["aux_init_bound"]
        if task:
            was, columns = old["classifier.weight"], weight.shape[1] - 64
            assert torch.equal(weight[:known, :columns], was)
            assert torch.equal(bias[:known], old["classifier.bias"])
            fresh = weight[:known, columns:]
            assert 0.9 * bound < fresh.abs().max() <= bound
            assert fresh.std().item() == pytest.approx(fact["std_expected_sqrt_1_over_in"], rel=0.1)
            assert_same_state(network.specialized[-1], network.specialized[-2])
            for name, value in old.items():
                if name.startswith("specialized"):
                    assert torch.equal(value, network.state_dict()[name]), name
        with torch.no_grad():  # so that the next task has something to copy
            for value in network.state_dict().values():
                if value.is_floating_point():
                    value += torch.rand(value.shape, generator=random)


def assert_same_state(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("file", ["WA_align", "DER_align"])
@pytest.mark.parametrize("case", range(4))
def test_alignment_equals_the_published_program_s(file, case):
    arrays = load_golden(f"methods/{file}.npz")
    stored = {k.removeprefix(f"case{case}/"): arrays[k] for k in arrays.files if f"e{case}/" in k}
    before, sizes = torch.as_tensor(stored["w_before"]).double(), stored["sizes"].tolist()
    known = sum(sizes[:-1])
    tasks = DataManager(*[np.arange(sum(sizes))] * 3, sizes[0], sizes[-1])
    data = ResidentLoader(np.zeros((1, 3, 32, 32)), [0], Unchanged(), Unchanged(), CPU)
    learner = make_learner(file.removesuffix("_align").lower(), tasks, data, data)
    for _ in sizes:
        learner.begin_task()
    with torch.no_grad():
        learner.network.classifier.weight.copy_(before)
        learner.network.classifier.bias.fill_(0.5)
    learner.align_weights()
    after = learner.network.classifier.weight.detach()
    assert torch.equal(after[:known], before[:known])
    assert (learner.network.classifier.bias == 0.5).all()
    exactly(after[known:], stored.get("w_after_new", stored.get("f64/w_after")))
    gamma = after[known:].norm() / before[known:].norm()
    exactly(gamma, stored.get("f64/gamma", stored.get("gamma")))


# --- Whole runs -----------------------------------------------------------------------------------


def toy_learner(method, stored):
    """Return a learner on the toy data, with the stored weights, before its first task."""
    data = load_golden("methods/toyrun_data.npz")
    order, sizes = stored["class_order"], stored["tasks"].tolist()
    tasks = DataManager(data["y_train"], data["y_test"], order, sizes[0], sizes[1])
    transforms = Normalised(), Normalised()
    train, test = (
        InStoredOrder(data[f"x_{which}"].transpose(0, 3, 1, 2), labels, *transforms, CPU)
        for which, labels in (("train", tasks.train_labels), ("test", tasks.test_labels))
    )
    steps = {"init_milestones": (1,), "milestones": (1,), "scheduler": "steplr"}
    if method == "finetune":  # the run that gives others their first task
        steps["init_scheduler"] = "cosine"
    learner = make_learner(
        method, tasks, train, test, memory_size=int(stored["memory_size"]), init_epoch=2, epochs=2,
        batch_size=int(stored["batch_size"]), **steps,
    )  # fmt: skip
    backbone = convs.build("conv2")
    start = {our_name(k, backbone): value for k, value in part_of(stored, "init").items()}
    learner.network.load_state_dict(start)
    return learner


@pytest.mark.parametrize("title", ["Finetune", "Replay", "iCaRL", "WA"])
def test_a_whole_run_equals_the_published_program_s(title):
    arrays = load_golden(f"methods/toyrun_{title}.npz")
    stored = {key: arrays[key] for key in arrays.files}
    learner = toy_learner(title.lower(), stored)
    network = learner.network
    for task in range(3):
        learner.begin_task()
        now = {k.removeprefix(f"t{task}/"): v for k, v in stored.items() if f"t{task}/" in k}
        known = learner.known_classes
        with torch.no_grad():
            network.classifier.weight[known:] = torch.as_tensor(now["fresh_fc_rows"])
        learner.run.train_data.orders = [now[f"s0/order{epoch}"].tolist() for epoch in range(2)]
        with watched(learner) as steps:
            learner.train_task()
        for part in {"clf", "kd", "total"} & steps[0]["losses"].keys():
            near([step["losses"][part] for step in steps], now[f"s0/loss_{part}"])
        assert ("kd" in steps[0]["losses"]) == ("s0/loss_kd" in now)
        near([step["settings"]["lr"] for step in steps], now["s0/lr"])
        before = network.classifier.weight[known:].detach().norm()
        learner.end_task()
        gamma = network.classifier.weight[known:].detach().norm() / before
        near(gamma, now.get("gamma", 1))
        check_state(network, now)
        check_predictions(learner, now, stored["test_ids"])
        assert not learner.run.train_data.orders


def check_state(network, now):
    """Compare the network after a task: sums over every entry of its state dict, the classifier."""
    state, backbone = network.state_dict(), convs.build("conv2")
    assert len(now["state_names"]) == len(state)
    for name, values in zip(now["state_names"], now["state_values"], strict=True):
        value = state[our_name(name, backbone)].double()
        ours = [value.sum(), value.abs().sum(), value.square().sum(), value.flatten()[0]]
        near(ours, values, err_msg=name)
    near(state["classifier.weight"], now["fc_weight"])
    near(state["classifier.bias"], now["fc_bias"])


def check_predictions(learner, now, test_ids):
    """Compare logits, exemplars, class means, and the predictions of both classifiers."""
    shown = test_ids[: len(now["y_true"])]
    _, logits = learner.forward_all(learner.run.test_data, shown)
    near(logits, now["cnn_logits"])
    predictions = learner.evaluate()
    place = np.searchsorted(
        np.sort(shown), shown
    )  # evaluation goes through the data in their order
    assert predictions.targets[place].tolist() == now["y_true"].tolist()
    curves = {"cnn": predictions.cnn, "nme": predictions.nme}
    if "nme_pred" in now:
        exemplars = learner.memory.indices()
        assert exemplars.tolist() == now["exemplar_ids"].tolist()
        assert learner.tasks.train_labels[exemplars].tolist() == now["exemplar_labels"].tolist()
        near(learner._class_means[1], now["class_means"])
    else:
        assert curves.pop("nme") is None
        assert len(learner.memory) == 0
    for (name, ours), accuracy in zip(curves.items(), now["accuracy"], strict=True):
        assert ours[place, 0].tolist() == now[f"{name}_pred"].tolist()
        near(top_k_accuracy(ours[:, :1], predictions.targets), accuracy)


def test_der_s_way_through_three_tasks():
    facts = load_golden("methods/flow_facts.json")["DER"]
    labels = np.arange(200) % 10
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 8, 8), dtype=np.uint8)
    tasks = DataManager(labels, labels[:20], np.arange(10), 6, 2)
    data, test = (
        ResidentLoader(images[: len(of)], of, Normalised(), Normalised(), CPU)
        for of in (tasks.train_labels, tasks.test_labels)
    )
    learner = make_learner("der", tasks, data, test, memory_size=60, init_epoch=1, epochs=1)
    for fact in facts:
        learner.begin_task()
        assert len(learner.training_indices()) == fact["train_images"]
        learner.train_task()
        learner.end_task()
        network = learner.network
        assert len(learner.memory) == fact["exemplars_after"]
        assert {len(each) for each in learner.memory.per_class} == {fact["per_class"]}
        assert len(network.specialized) == fact["network_backbones_at_evaluation"]
        assert learner._class_means[1].shape[1] == fact["feature_dim_used_by_herding_and_NME"]
        parameters = sum(parameter.numel() for parameter in network.parameters())
        assert parameters == fact["params_of_evaluated_network"]
        _, logits = learner.forward_all(test, tasks.test_indices(0, learner.seen_classes))
        assert learner.evaluate().cnn[:, 0].tolist() == logits.argmax(dim=1).tolist()
        known, norms = learner.known_classes, network.classifier.weight.norm(dim=1)
        if known:  # aligned
            assert norms[known:].mean().item() == pytest.approx(norms[:known].mean().item())
