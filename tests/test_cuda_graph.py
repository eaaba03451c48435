"""Tests of utils/cuda_graph.py: when a step is ordinary, recorded, replayed; on a GPU, equal."""

import gc
import weakref
from unittest.mock import patch

import pytest
import torch
from conftest import tiny_learner

from utils.cuda_graph import ORDINARY_STEPS, GraphedStep
from utils.distributed import Group
from utils.launch import Place


class NotingRecorder:
    """Stands in for recording on a GPU: it notes what it is asked for."""

    def __init__(self, notes, fails_on=None):
        self.notes, self.fails_on = notes, fails_on

    def ordinary(self, step, inputs):
        self.notes.append(("ordinary", len(inputs[0])))
        return step(*inputs)

    def record(self, step, inputs):
        if len(inputs[0]) == self.fails_on:
            raise RuntimeError("operation not permitted when stream is capturing\nmore lines")
        self.notes.append(("recorded", len(inputs[0])))
        step(*inputs)  # Python runs, the GPU does not

        def replay(*given):
            self.notes.append(("replayed", len(given[0])))
            return step(*given)

        return replay


def graphed(step, notes, fails_on=None):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.5)
    recorder = NotingRecorder(notes, fails_on)
    return GraphedStep(step, optimizer, torch.Generator(), recorder), optimizer


def test_each_shape_is_recorded_once_and_every_step_is_made_once():
    notes = []
    step, _ = graphed(torch.sum, notes)
    sizes = [4, 4, 2] * 6
    for number, size in enumerate(sizes):
        assert step(torch.full((size,), number)) == number * size
    for size in (4, 2):
        kinds = [kind for kind, n in notes if n == size]
        replays = sizes.count(size) - ORDINARY_STEPS
        assert kinds == ["ordinary"] * ORDINARY_STEPS + ["recorded"] + ["replayed"] * replays


def test_the_rate_is_a_tensor_inside_of_every_step_and_a_plain_number_outside():
    inside = []
    step, optimizer = graphed(lambda _: inside.append((group["lr"], group["lr"].item())), [])
    group = optimizer.param_groups[0]
    for rate in [0.5] * (ORDINARY_STEPS + 2) + [0.25]:
        group["lr"] = rate
        step(torch.zeros(3))
        assert inside[-1][1] == rate
        assert group["lr"] == rate
        assert isinstance(group["lr"], float)
    (tensor,) = step._rates
    assert all(each is tensor for each, _ in inside)  # the one that a recording would read


@pytest.mark.parametrize("fails_on", [4, 2])
def test_a_step_that_cannot_be_recorded_is_made_all_the_same_and_said_once(fails_on, caplog):
    notes, made = [], []
    step, optimizer = graphed(lambda batch: made.append(len(batch)), notes, fails_on)
    sizes = [4] * 6 + [2] * 6 + [4] * 3
    for size in sizes:
        step(torch.zeros(size))
    assert [size for kind, size in notes if kind != "recorded"] == sizes
    assert {kind for kind, _ in notes[-3:]} == {"ordinary"}  # what had been recorded, too
    assert step.failed
    assert optimizer.param_groups[0]["lr"] == 0.5
    (record,) = caplog.records
    assert "operation not permitted when stream is capturing)" in record.message
    assert "--no-cuda_graph" in record.message


@pytest.mark.parametrize("error", [RuntimeError, AttributeError])
def test_a_failed_recording_has_given_back_its_memory_before_the_ordinary_step(error, caplog):
    class Held:
        pass

    held, alive = [], []

    class Failing(NotingRecorder):
        def ordinary(self, step, inputs):
            gc.collect()
            alive.extend(each() is not None for each in held)
            return super().ordinary(step, inputs)

        def record(self, step, inputs):
            pool = Held()  # as a graph holds its memory
            held.append(weakref.ref(pool))
            try:
                raise error("the cause")
            except Exception as cause:
                raise error("failed due to a previous error during capture") from cause

    step, _ = graphed(torch.sum, [])
    step._recorder = Failing([])
    for _ in range(ORDINARY_STEPS + 2):
        step(torch.ones(2))
    assert len(held) == 1
    assert alive == [False, False]
    (record,) = caplog.records
    assert "(the cause)" in record.message  # and not what followed from it


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"cuda_graph": False}, False),
        ({"record_blocks": True}, False),
        ({"devices": [torch.device("cpu")]}, False),
        ({"devices": [torch.device("cuda", 0), torch.device("cuda", 1)]}, False),
        ({"group": Group(Place(0, 2, 0, 2))}, False),
        ({"train_data": object()}, False),
        ({"graphs_fail": True}, False),
    ],
)
def test_when_steps_are_graphs(changed, expected):
    settings = {key: changed[key] for key in ("cuda_graph", "record_blocks") if key in changed}
    learner = tiny_learner(convnet_type="memo_conv2", **settings)
    learner.devices = [torch.device("cuda", 0)]
    for name in changed.keys() - settings.keys():
        setattr(learner, name, changed[name])
    assert learner.uses_graphs() is expected


def test_on_the_cpu_a_step_is_a_plain_function():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    training = learner.begin_training()
    assert not isinstance(learner.make_step(training.optimizer), GraphedStep)


def trained_on_a_gpu(prepare=lambda learner: None, **settings):
    """Return the learner after two tasks, trained in batches of two sizes."""
    settings = {"init_epoch": 6, "epochs": 6, "init_milestones": [4], "milestones": [4]} | settings
    learner = tiny_learner(
        convnet_type="memo_resnet14_cifar",
        batch_size=12,
        devices=[torch.device("cuda", 0)],
        **settings,
    )
    prepare(learner)
    for _ in range(2):
        learner.begin_task()
        learner.train_task()
        learner.end_task()
    return learner


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("settings", [{}, {"train_base": False}, {"precision": "bf16"}])
def test_graphs_give_what_ordinary_steps_give(settings, caplog):
    plain = trained_on_a_gpu(cuda_graph=False, **settings)
    replay, replays = torch.cuda.CUDAGraph.replay, []
    with patch.object(torch.cuda.CUDAGraph, "replay", lambda g: replays.append(1) or replay(g)):
        graphs = trained_on_a_gpu(cuda_graph=True, **settings)
    assert not caplog.records, "the step could not be recorded"
    # Of each shape of a task: 32 and then 56 images in batches of 12, six times.
    steps = (6 * 2, 6, 6 * 4, 6)
    assert len(replays) == sum(n - ORDINARY_STEPS for n in steps)
    # The same draws: the data path's generator stands where it would have stood.
    assert torch.equal(plain.generator.get_state(), graphs.generator.get_state())
    for ours, theirs in zip(plain.epochs, graphs.epochs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
        assert ours["lr"] == theirs["lr"]
    assert plain.epochs[0]["loss"] == pytest.approx(graphs.epochs[0]["loss"], rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_epoch_does_not_wait_for_the_gpu(cuda_graph):
    learner = tiny_learner(
        convnet_type="memo_resnet14_cifar",
        batch_size=12,
        cuda_graph=cuda_graph,
        devices=[torch.device("cuda", 0)],
    )
    learner.begin_task()
    training = learner.begin_training()
    step, data = learner.make_step(training.optimizer), learner.train_data
    indices = torch.from_numpy(learner.training_indices()).to("cuda")  # as train_task does

    def epoch():
        order = data.draw_order(len(indices), learner.generator)
        for number, batch in enumerate(data.train_batches(indices, 12, order)):
            training.losses[number] = step(batch)

    for _ in range(ORDINARY_STEPS + 1):  # recording and the first copies may wait
        epoch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_step_that_waits_for_the_gpu_fails_to_be_recorded_and_training_goes_on(caplog):
    def waits(learner):
        step = learner.training_step

        def with_item(*args):
            sums = step(*args)
            sums.sum().item()
            return sums

        learner.training_step = with_item

    plain = trained_on_a_gpu(cuda_graph=False)
    failing = trained_on_a_gpu(cuda_graph=True, prepare=waits)
    (record,) = caplog.records  # of two tasks
    assert "could not be recorded" in record.message
    for ours, theirs in zip(plain.epochs, failing.epochs, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
