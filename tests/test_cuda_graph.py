"""Tests of utils/cuda_graph.py: when a step is ordinary, recorded, replayed; on a GPU, equal."""

import contextlib
import gc
import logging
import multiprocessing
import weakref
from unittest.mock import patch

import pytest
import torch
from conftest import begin_training, tiny_learner

from utils import cuda_graph as module
from utils.cuda_graph import ORDINARY_STEPS, GraphedStep, SideStreams
from utils.distributed import Group
from utils.launch import Place
from utils.progress import StepClock


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


def test_a_step_says_whether_it_was_a_recorded_one():
    step, _ = graphed(torch.sum, [], fails_on=2)
    said = []
    for size in [4] * (ORDINARY_STEPS + 2) + [2] * (ORDINARY_STEPS + 1) + [4]:
        step(torch.zeros(size))
        said.append(step.replayed)
    assert said == [False] * ORDINARY_STEPS + [True] * 2 + [False] * (ORDINARY_STEPS + 2)


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
        ({"_graphs_fail": True}, False),
    ],
)
def test_when_steps_are_graphs(changed, expected):
    settings = {key: changed[key] for key in ("cuda_graph", "record_blocks") if key in changed}
    learner = tiny_learner(convnet_type="memo_conv2", **settings)
    learner.run.devices = [torch.device("cuda", 0)]
    for name in changed.keys() - settings.keys():
        setattr(learner.engine if name == "_graphs_fail" else learner.run, name, changed[name])
    assert learner.engine.uses_graphs() is expected


def test_on_the_cpu_a_step_is_a_plain_function():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    training = begin_training(learner)
    assert not isinstance(learner.engine.make_step(training), GraphedStep)


class FakeStreams:
    """Stands in for a GPU's streams: it notes who waits for whom, and on which one parts run."""

    def __init__(self, monkeypatch):
        self.notes, self.current = [], "main"
        streams = self

        class Stream:
            made = 0

            def __init__(self, device):
                self.name = f"side {Stream.made}"
                Stream.made += 1

            def wait_stream(self, other):
                streams.notes.append(f"{self.name} waits for {other.name}")

        main = Stream(None)
        main.name, Stream.made = "main", 0

        @contextlib.contextmanager
        def on(stream):
            self.current = stream.name
            yield
            self.current = "main"

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
        monkeypatch.setattr(torch.cuda, "stream", on)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)

    def part(self, name):
        def run(x):
            self.notes.append(f"{name} on {self.current}")
            return x * int(name)

        return run


@pytest.mark.parametrize("recording", [True, False])
def test_parts_run_on_side_streams_while_a_step_is_recorded(recording, monkeypatch):
    fake = FakeStreams(monkeypatch)
    monkeypatch.setattr(module, "_is_recording", lambda x: recording)
    side_by_side = SideStreams(torch.device("cuda", 0), 2)
    results = side_by_side([fake.part(name) for name in "1234"], torch.ones(1))
    assert [result.item() for result in results] == [1, 2, 3, 4]  # in their order
    if not recording:
        assert fake.notes == [f"{name} on main" for name in "1234"]
        return
    assert fake.notes == [
        *("side 0 waits for main", "1 on side 0", "side 1 waits for main", "2 on side 1"),
        *("side 0 waits for main", "3 on side 0", "4 on main"),
        *("main waits for side 0", "main waits for side 1"),
    ]
    fake.notes.clear()
    assert side_by_side([fake.part("7")], torch.ones(1))[0].item() == 7  # the first task
    assert fake.notes == ["7 on main"]


@pytest.mark.parametrize("train_adaptive", [False, True])
def test_frozen_blocks_only_are_computed_side_by_side(train_adaptive):
    learner = tiny_learner(convnet_type="memo_conv2", train_adaptive=train_adaptive)
    for _ in range(3):
        learner.begin_task()
    begin_training(learner)
    network, images = learner.network, torch.randn(4, 3, 32, 32)
    expected = network(images)["features"]
    asked = []

    def side_by_side(blocks, maps):
        asked.append(len(blocks))
        return [block(maps) for block in blocks]

    network.side_by_side = side_by_side
    assert torch.equal(network(images)["features"], expected)
    assert asked == ([] if train_adaptive else [3])


@pytest.mark.parametrize(
    ("settings", "number"), [({}, 4), ({"block_streams": 2}, 2), ({"block_streams": 0}, 0)]
)
def test_there_are_as_many_streams_as_asked_for(settings, number, monkeypatch):
    FakeStreams(monkeypatch)
    monkeypatch.setattr("utils.engine.fit.Engine.uses_graphs", lambda self: True)
    side_by_side = tiny_learner(convnet_type="memo_conv2", **settings).network.side_by_side
    assert number == (len(side_by_side._streams) if side_by_side else 0)


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.fixture
def repeatable(monkeypatch):
    """Let cuDNN add in one order always: the same steps then give the same bits."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def trained_on_a_gpu(prepare=lambda learner: None, tasks=3, **settings):
    """Return the learner after so many tasks, trained in batches of two sizes."""
    settings = {"init_epoch": 6, "epochs": 6, "init_milestones": [4], "milestones": [4]} | settings
    learner = tiny_learner(
        convnet_type="memo_resnet14_cifar",
        batch_size=12,
        devices=[torch.device("cuda", 0)],
        **settings,
    )
    prepare(learner)
    for _ in range(tasks):
        learner.begin_task()
        learner.train_task()
        learner.end_task()
    return learner


def assert_trained_alike(one, other):
    """Compare losses, weights and draws, bit for bit."""
    for ours, theirs in zip(one.engine.epochs, other.engine.epochs, strict=True):
        for name in ours.keys() - {"seconds"}:
            assert ours[name] == theirs[name], (name, ours, theirs)
    assert one.nets.keys() == other.nets.keys()
    for net in one.nets:
        expected = other.nets[net].state_dict()
        for name, value in one.nets[net].state_dict().items():
            assert torch.equal(value, expected[name]), (net, name)
    # The data path's generator stands where it would have stood.
    assert torch.equal(one.run.generator.get_state(), other.run.generator.get_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_streams": 0},
        {"block_streams": 1},
        {"train_base": False},
        {"train_adaptive": True},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_graphs_give_what_ordinary_steps_give(settings, caplog, repeatable):
    plain = trained_on_a_gpu(cuda_graph=False, **settings)
    replay, replays = torch.cuda.CUDAGraph.replay, []
    with patch.object(torch.cuda.CUDAGraph, "replay", lambda g: replays.append(1) or replay(g)):
        graphs = trained_on_a_gpu(cuda_graph=True, **settings)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warnings, "the step could not be recorded"
    # Of each shape of a task: 32, 56 and then 59 images in batches of 12, six times.
    steps = (6 * 2, 6, 6 * 4, 6, 6 * 4, 6)
    assert len(replays) == sum(n - ORDINARY_STEPS for n in steps)
    assert_trained_alike(plain, graphs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("method", ["icarl", "der"])
def test_graphs_of_other_methods_give_what_ordinary_steps_give(method, caplog, repeatable):
    """With a teacher beside the network; with a whole backbone that is frozen."""
    settings = {"tasks": 2, "model_name": method}
    plain = trained_on_a_gpu(cuda_graph=False, **settings)
    replay, replays = torch.cuda.CUDAGraph.replay, []
    with patch.object(torch.cuda.CUDAGraph, "replay", lambda g: replays.append(1) or replay(g)):
        graphs = trained_on_a_gpu(cuda_graph=True, **settings)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not warnings, "the step could not be recorded"
    steps = (6 * 2, 6, 6 * 4, 6)  # 32, then 56 images in batches of 12, six times
    assert len(replays) == sum(n - ORDINARY_STEPS for n in steps)
    assert_trained_alike(plain, graphs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_an_epoch_does_not_wait_for_the_gpu(cuda_graph):
    learner = tiny_learner(
        convnet_type="memo_resnet14_cifar",
        batch_size=12,
        cuda_graph=cuda_graph,
        devices=[torch.device("cuda", 0)],
    )
    for _ in range(3):  # two frozen blocks, which a recorded step computes side by side
        learner.begin_task()
    training, clock = begin_training(learner), StepClock(torch.device("cuda", 0))
    step, data = learner.engine.make_step(training), learner.run.train_data
    indices = torch.from_numpy(learner.training_indices()).to("cuda")  # as train_task does

    def epoch():
        order = data.draw_order(len(indices), learner.run.generator)
        clock.begin_epoch()
        for number, batch in enumerate(data.train_batches(indices, 12, order)):
            training.losses[number] = step(batch)
            clock.after_step("recorded" if cuda_graph and step.replayed else "ordinary")

    for _ in range(ORDINARY_STEPS + 1):  # recording and the first copies may wait
        epoch()
    torch.cuda.set_sync_debug_mode("error")
    try:
        epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    clock.end_epoch()
    assert clock.sentence().endswith("a step recorded" if cuda_graph else "a step")


def train_with_a_step_that_waits(from_task):
    """Train with a step that cannot be recorded; a process of its own does so, see below.

    From the third task (2) on the recording that fails has side streams in it.
    """
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logging.getLogger("memo").addHandler(handler)
    torch.backends.cudnn.deterministic = True

    def waits(learner):
        step = learner.engine.training_step

        def with_item(*args):
            sums = step(*args)
            if learner.task >= from_task:
                sums.sum().item()
            return sums

        learner.engine.training_step = with_item

    plain = trained_on_a_gpu(cuda_graph=False)
    drawn = torch.cuda.default_generators[0].get_state()
    failing = trained_on_a_gpu(cuda_graph=True, prepare=waits)
    (record,) = records  # of all tasks
    assert "could not be recorded" in record.getMessage()
    assert_trained_alike(plain, failing)
    # The default generator, which every recording takes part in, can be drawn from.
    assert torch.equal(torch.cuda.default_generators[0].get_state(), drawn)
    torch.rand(3, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("from_task", [0, 2])
def test_a_step_that_waits_for_the_gpu_fails_to_be_recorded_and_training_goes_on(from_task):
    # PyTorch 2.11 records nothing more in a process in which a recording failed.
    process = multiprocessing.get_context("spawn").Process(
        target=train_with_a_step_that_waits, args=(from_task,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
