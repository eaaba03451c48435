"""The learner against the authors' program: training steps (C3) and who trains (C5)."""

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import begin_training, load_golden, tiny_learner

from utils.engine.fit import TrainingError
from utils.inc_net import AdaptiveNet

PUBLISHED_PREFIXES = {
    "TaskAgnosticExtractor": "generalized",
    "fc": "classifier",
    "aux_fc": "aux_classifier",
}


def published_name(name: str) -> str:
    """Turn a name of the authors' program into ours."""
    first, _, rest = name.partition(".")
    if first == "AdaptiveExtractors":
        return f"specialized.{rest}"
    return f"{PUBLISHED_PREFIXES[first]}.{rest}"


def golden_learner(golden, convnet_type, tasks, dtype, **settings):
    """Return a learner in its last task, with the golden weights, before training."""
    learner = tiny_learner(
        classes=sum(tasks),
        train_per_class=2,
        convnet_type=convnet_type,
        init_cls=tasks[0],
        increment=tasks[-1],
        **settings,
    )
    for _ in tasks:
        learner.begin_task()
    learner.network.to(dtype)
    state = {
        key.removeprefix("state/"): torch.from_numpy(golden[key])
        for key in golden.files
        if key.startswith("state/")
    }
    learner.network.load_published_state_dict(state)
    return learner


C3_CASES = [
    ("C3_step_resnet32.npz", "memo_resnet32", [10, 10], 1, base, adapt)
    for base, adapt in [(1, 0), (0, 0)]
]
C3_CASES += [
    ("C3_step_conv2.npz", "memo_conv2", [10, 10], 3, base, adapt)
    for base in (0, 1)
    for adapt in (0, 1)
]
C3_CASES += [("C3_step_conv2_init.npz", "memo_conv2", [10], 3, 1, 0)]


@pytest.mark.parametrize(("file", "net", "tasks", "steps", "base", "adapt"), C3_CASES)
def test_training_steps_equal_the_authors_program(file, net, tasks, steps, base, adapt):
    golden = load_golden(file)
    case = f"base{base}_adapt{adapt}/f64"
    learner = golden_learner(
        golden, net, tasks, torch.float64, train_base=bool(base), train_adaptive=bool(adapt)
    )
    network = learner.network
    start = copy.deepcopy(network.state_dict())
    training = begin_training(learner)
    optimizer = training.optimizer

    asked = json.loads(str(golden[f"{case}/opt"]))
    group = optimizer.param_groups[0]
    assert len(group["params"]) == asked["n_params_in_opt"]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (
        asked["lr"],
        asked["wd"],
        asked["mom"],
    )
    assert not group["nesterov"]

    names = [published_name(name) for name in golden[f"{case}/grad_norm_names"]]
    parameters = dict(network.named_parameters())
    assert set(names) == set(parameters)
    for step in range(steps):
        images = torch.from_numpy(golden[f"batch{step}/x"]).double()
        targets = torch.from_numpy(golden[f"batch{step}/y"])
        sums = learner.engine.training_step(training, network, images, targets) / len(targets)
        assert sums[0].item() == pytest.approx(golden[f"{case}/loss_clf"][step], abs=1e-9)
        if len(tasks) > 1:
            assert sums[1].item() == pytest.approx(golden[f"{case}/loss_aux"][step], abs=1e-9)
        for name, expected in zip(names, golden[f"{case}/grad_norms"][step], strict=True):
            gradient = parameters[name].grad
            if np.isnan(expected):
                assert gradient is None, name
            else:
                # Conv biases before a BatchNorm in train mode: zero but for rounding, so absolute.
                assert gradient.norm().item() == pytest.approx(expected, rel=1e-8, abs=1e-10), name

    end = network.state_dict()
    unchanged = {published_name(str(name)) for name in golden[f"{case}/unchanged"]}
    prefix = f"{case}/delta_step{steps}/"
    moved = {
        published_name(key.removeprefix(prefix)): golden[key]
        for key in golden.files
        if key.startswith(prefix)
    }
    # The arrays list the moved entries but for the BatchNorms' counters, which count the steps.
    for name in set(end) - unchanged - set(moved):
        assert name.endswith("num_batches_tracked"), name
        assert end[name] - start[name] == steps, name
    for name in unchanged:
        assert torch.equal(start[name], end[name]), name
    for name, delta in moved.items():
        ours = (end[name].double() - start[name].double()).numpy()
        np.testing.assert_allclose(ours, delta, rtol=1e-6, atol=1e-10, err_msg=name)

    if len(tasks) > 1:
        before = golden[f"{case}/fc_weight_before_align"]
        np.testing.assert_allclose(network.classifier.weight.detach(), before, atol=1e-9)
        network.align_weights(tasks[-1])
        after = golden[f"{case}/fc_weight_after_align"]
        np.testing.assert_allclose(network.classifier.weight.detach(), after, atol=1e-9)


@pytest.mark.parametrize("adapt", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_who_trains_equals_the_authors_program(base, adapt):
    """Every block's mode, gradients, movement and BatchNorm count, task by task (C5)."""
    rows = {
        (row["task"], published_name(row["group"] + ".").rstrip(".")): row
        for row in load_golden("C5_mode_audit.json")
        if (row["train_base"], row["train_adaptive"]) == (base, adapt)
    }
    assert len(rows) == 15
    learner = tiny_learner(
        convnet_type="memo_resnet14_cifar",
        train_base=base,
        train_adaptive=adapt,
        init_epoch=2,
        epochs=2,
        batch_size=16,
        init_milestones=(1,),
        milestones=(1,),
    )
    network = learner.network
    step = learner.engine.training_step
    for task in range(3):
        learner.begin_task()
        groups = {name: network.get_submodule(name) for t, name in rows if t == task}
        start = {name: copy.deepcopy(group.state_dict()) for name, group in groups.items()}
        steps = []

        def audited_step(*args, task=task, groups=groups, steps=steps):
            assert network.training
            for name, group in groups.items():
                row = rows[task, name]
                assert (
                    group.training
                    == (row["mode_ep0"] == "train")
                    == (row["mode_later"] == ["train"])
                )
                norms = [m for m in group.modules() if isinstance(m, torch.nn.BatchNorm2d)]
                in_train = sum(norm.training for norm in norms)
                assert row["bn_ep0"] == f"{in_train}/{len(norms)}"
                parameters = list(group.parameters())
                learning = sum(parameter.requires_grad for parameter in parameters)
                assert row["rg_ep0"] == f"{learning}/{len(parameters)}"
                assert row["rg_later"] == [row["rg_ep0"]]
            steps.append(1)
            return step(*args)

        learner.engine.training_step = audited_step
        learner.train_task()
        assert len(steps) > 2
        for name, group in groups.items():
            row = rows[task, name]
            end = group.state_dict()
            parameter_names = {key for key, _ in group.named_parameters()}
            for key, value in end.items():
                moved = not torch.equal(value, start[name][key])
                if key in parameter_names:
                    assert moved == row["params_moved_ep0"], (name, key)
                elif key.endswith("num_batches_tracked"):
                    per_step = row["num_batches_tracked_inc_ep0"] / row["iters_per_epoch"]
                    assert value - start[name][key] == per_step * len(steps), (name, key)
                else:
                    assert moved == row["running_stats_moved_ep0"], (name, key)
        learner.end_task()


def test_the_gradient_reaches_the_trunk_through_frozen_blocks():
    """With train_base the loss moves the trunk through frozen blocks, which do not move."""
    learner = tiny_learner(convnet_type="memo_conv2", train_base=True)
    learner.begin_task()
    learner.begin_task()
    begin_training(learner)
    learner.network.zero_grad()
    images = torch.randn(4, 3, 32, 32)
    old_features = learner.network(images)["features"][:, : learner.network.block_dim]
    old_features.square().sum().backward()
    trunk = [parameter.grad for parameter in learner.network.generalized.parameters()]
    assert all(gradient is not None for gradient in trunk)
    assert trunk[0].abs().sum() > 0
    assert all(p.grad is None for p in learner.network.specialized[0].parameters())


def test_first_task_has_no_auxiliary_loss_and_later_targets_start_at_one():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    logits, images = torch.randn(6, 4), torch.randn(6, 3, 32, 32)
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    parts = learner.losses({"logits": logits}, images, targets)
    assert list(parts) == ["clf"]
    assert torch.equal(parts["clf"], F.cross_entropy(logits, targets))

    learner.begin_task()
    logits, aux_logits = torch.randn(6, 7), torch.randn(6, 4)
    targets = torch.tensor([0, 3, 4, 5, 6, 4])
    parts = learner.losses({"logits": logits, "aux_logits": aux_logits}, images, targets)
    assert torch.equal(parts["aux"], F.cross_entropy(aux_logits, torch.tensor([0, 0, 1, 2, 3, 1])))


def test_schedules_follow_the_config():
    """Steps and cosine, task 0 and later, against the formulae."""
    settings = {
        "convnet_type": "memo_conv2",
        "init_epoch": 6,
        "epochs": 4,
        "t_max": 5,
        "init_lr": 0.2,
        "lrate": 0.1,
        "init_milestones": (2, 4),
        "milestones": (3,),
        "init_lr_decay": 0.5,
        "lrate_decay": 0.1,
    }

    def rates(learner, epochs):
        training = begin_training(learner)
        optimizer, scheduler = training.optimizer, training.scheduler
        seen = []
        for _ in range(epochs):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return seen

    learner = tiny_learner(scheduler="steplr", **settings)
    learner.begin_task()
    assert rates(learner, 6) == pytest.approx([0.2, 0.2, 0.1, 0.1, 0.05, 0.05])
    learner.begin_task()
    assert rates(learner, 4) == pytest.approx([0.1, 0.1, 0.1, 0.01])

    learner = tiny_learner(scheduler="cosine", init_scheduler="cosine", **settings)
    learner.begin_task()
    cosine = 0.2 * (1 + np.cos(np.pi * np.arange(6) / 6)) / 2
    assert rates(learner, 6) == pytest.approx(list(cosine))
    learner.begin_task()
    cosine = 0.1 * (1 + np.cos(np.pi * np.arange(4) / 5)) / 2
    assert rates(learner, 4) == pytest.approx(list(cosine))


def test_training_set_is_new_images_and_exemplars_and_memory_is_bounded():
    learner = tiny_learner(
        convnet_type="memo_conv2", init_epoch=1, epochs=1, init_milestones=(), milestones=()
    )
    labels = learner.tasks.train_labels
    for task, (known, seen) in enumerate([(0, 4), (4, 7), (7, 10)]):
        learner.begin_task()
        assert (learner.task, learner.known_classes, learner.seen_classes) == (task, known, seen)
        indices = learner.training_indices()
        new = indices[labels[indices] >= known]
        assert sorted(new) == sorted(np.flatnonzero((labels >= known) & (labels < seen)))
        assert len(indices) == len(new) + len(learner.memory)
        old = list(learner.memory.per_class)
        learner.train_task()
        learner.end_task()
        assert len(learner.memory) <= 40
        quota = min(40 // seen, 8)
        for class_id, kept in enumerate(learner.memory.per_class):
            assert len(kept) == quota
            assert set(labels[kept]) == {class_id}
            if class_id < known:
                np.testing.assert_array_equal(kept, old[class_id][:quota])
        predictions = learner.evaluate()
        assert predictions.cnn.shape == predictions.nme.shape == (4 * seen, min(5, seen))
        assert predictions.cnn.max() < seen
        assert set(predictions.targets) == set(range(seen))


def test_evaluation_inside_a_task_changes_nothing():
    """eval_every must not touch the random numbers, BatchNorm statistics or weights."""
    settings = {"convnet_type": "memo_conv2", "init_epoch": 3, "init_milestones": ()}
    states = []
    for eval_every in (0, 1):
        learner = tiny_learner(eval_every=eval_every, **settings)
        learner.begin_task()
        learner.train_task()
        states.append(learner.network.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_a_loss_that_is_not_finite_stops_with_a_sentence():
    learner = tiny_learner(
        convnet_type="memo_conv2", init_epoch=2, init_lr=1e30, init_milestones=()
    )
    learner.begin_task()
    with pytest.raises(
        TrainingError, match=r"task 1, epoch 2 of 2, step 1 of 1, at learning rate 1e\+30"
    ):
        learner.train_task()


def test_extracting_features_leaves_no_gradient_and_uses_running_statistics():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    indices = np.arange(10)
    before = copy.deepcopy(learner.network.state_dict())
    features, logits = learner.forward_all(learner.run.train_data, indices)
    assert not features.requires_grad
    assert features.dtype == logits.dtype == torch.float32
    for name, value in learner.network.state_dict().items():
        assert torch.equal(value, before[name]), name
    # Batch composition is irrelevant in evaluation mode.
    one, _ = learner.forward_all(learner.run.train_data, indices[3:4])
    torch.testing.assert_close(one[0], features[3])


def test_features_of_several_batches_are_in_the_order_of_the_images(monkeypatch):
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    indices = np.arange(10)[::-1].copy()
    together = learner.forward_all(learner.run.train_data, indices)
    monkeypatch.setattr("models.base.EVAL_BATCH", 4)  # the last one has 2 images
    for pieces, whole in zip(
        learner.forward_all(learner.run.train_data, indices), together, strict=True
    ):
        torch.testing.assert_close(pieces, whole)


def test_network_is_the_adaptive_net():
    assert isinstance(tiny_learner(convnet_type="memo_conv2").network, AdaptiveNet)


def test_a_network_that_diverged_in_its_last_step_stops_with_a_sentence():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    with torch.no_grad():
        next(learner.network.generalized.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"task 1.*lower learning rate"):
        learner.end_task()


@pytest.mark.parametrize("method", ["memo", "wa", "der"])
def test_several_devices_train_and_evaluate_through_data_parallel(method, monkeypatch):
    """The published line asks for four GPUs; here DataParallel is a stand-in that takes notes."""
    calls = []

    class NotingDataParallel(torch.nn.Module):
        def __init__(self, module, device_ids):
            super().__init__()
            self.module = module
            self.device_ids = device_ids

        def forward(self, images):
            calls.append((self.device_ids, self.module.training, len(images)))
            return self.module(images)

    monkeypatch.setattr(torch.nn, "DataParallel", NotingDataParallel)
    settings = {"init_epoch": 1, "init_milestones": [], "epochs": 1, "milestones": []}
    learner = tiny_learner(model_name=method, convnet_type="memo_conv2", **settings)
    one, four = learner.run.devices, [torch.device("cuda", index) for index in range(4)]
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **more: zeros(*size, **more))
    for _ in range(2):
        learner.begin_task()
        learner.run.devices = four
        learner.train_task()
        learner.run.devices = one  # what moves a network to the first device does so here
        learner.end_task()
    # The first task has 32 images, the second 24 new ones and 32 exemplars.
    teacher = [([0, 1, 2, 3], False, 56)] if method == "wa" else []
    assert calls == [([0, 1, 2, 3], True, 32), ([0, 1, 2, 3], True, 56), *teacher]
    learner.run.devices = four
    learner.forward_all(learner.run.test_data, np.arange(5))
    assert calls[-1] == ([0, 1, 2, 3], False, 5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_data_parallel_equals_one_device_in_evaluation_mode():
    devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    learner = tiny_learner(convnet_type="memo_conv2", devices=devices)
    learner.begin_task()
    together = learner.forward_all(learner.run.test_data, np.arange(8))
    learner.run.devices = devices[:1]
    alone = learner.forward_all(learner.run.test_data, np.arange(8))
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_training_goes_on_from_momentum_that_lies_in_memory_in_another_way():
    """A checkpoint may come from a version that laid its tensors out otherwise."""
    weights = []
    for layout in (torch.channels_last, torch.contiguous_format):
        learner = tiny_learner(convnet_type="memo_conv2", batch_size=8)
        learner.begin_task()
        training = learner.engine.training = begin_training(learner)
        step = learner.engine.make_step(training)
        step(torch.from_numpy(learner.training_indices()[:8]))
        training.step, training.order = 1, torch.arange(len(learner.training_indices()))
        state = copy.deepcopy(learner.state_dict())
        momenta = state["training"]["momenta"]
        state["training"]["momenta"] = [
            each.contiguous(memory_format=layout) if each is not None and each.ndim == 4 else each
            for each in momenta
        ]
        again = tiny_learner(convnet_type="memo_conv2", batch_size=8)
        again.load_state_dict(state)
        step = again.engine.make_step(begin_training(again))
        step(torch.from_numpy(again.training_indices()[8:16]))
        weights.append(again.network.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_cudnn_searches_for_full_batches_in_training_only(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    learner = tiny_learner(
        convnet_type="memo_conv2", batch_size=12, init_epoch=1, init_milestones=[], eval_every=1
    )
    seen = []

    def note(_, inputs):
        seen.append((learner.network.training, len(inputs[0]), torch.backends.cudnn.benchmark))

    inference = learner.network.for_inference

    def noted_inference():
        network = inference()
        network.register_forward_pre_hook(
            lambda _, inputs: seen.append((False, len(inputs[0]), torch.backends.cudnn.benchmark))
        )
        return network

    learner.network.register_forward_pre_hook(note)
    learner.network.for_inference = noted_inference
    learner.begin_task()
    learner.train_task()  # 32 images, and a test
    learner.end_task()
    learner.evaluate()
    training = [(n, search) for trains, n, search in seen if trains]
    assert training == [(12, True), (12, True), (8, False)]
    tested = [search for trains, _, search in seen if not trains]
    assert len(tested) == 3
    assert not any(tested)
    assert torch.backends.cudnn.benchmark is True


@pytest.mark.parametrize(
    ("device", "dataset", "net", "expected"),
    [
        ("cpu", "cifar100", "memo_conv2", 250),
        ("cuda", "cifar100", "memo_conv2", 1000),
        ("cuda", "imagenet100", "memo_conv4", 250),
    ],
)
def test_a_gpu_tests_more_small_images_at_once(device, dataset, net, expected):
    learner = tiny_learner(convnet_type=net, dataset=dataset)
    learner.begin_task()
    learner.run.devices = [torch.device(device)]
    asked = []

    class Asked(Exception):
        pass

    def eval_batches(indices, batch_size):
        asked.append(batch_size)
        raise Asked

    learner.run.test_data.eval_batches = eval_batches
    with pytest.raises(Asked):
        learner.forward_all(learner.run.test_data, np.arange(4))
    assert asked == [expected]
