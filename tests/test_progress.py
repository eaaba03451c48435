"""Tests of utils/progress.py: the speed, the work and the forecast, and what a terminal shows."""

import logging
import re

import numpy as np
import pytest
import torch
from conftest import tiny_learner
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from models.methods import METHODS
from utils import progress
from utils.config import Config
from utils.data_manager import DataManager
from utils.inc_net import AdaptiveNet
from utils.progress import Display, Forecast, StepClock, Work, macs_per_image, work_of


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still unless it is moved."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    fake = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", fake)
    return fake


class TestStepClock:
    @pytest.mark.parametrize(
        ("steps", "said"),
        [
            ([], ""),
            ([("ordinary", 0.0098)], "9.80 ms a step"),
            # The median: not the first, which is slow.
            ([("ordinary", 9.0), ("ordinary", 0.5681), ("ordinary", 0.5)], "568 ms a step"),
            (
                [*[("ordinary", 0.0098)] * 3, ("recorded", 1.5), *[("recorded", 0.00231)] * 3],
                "2.31 ms a step recorded (9.80 ordinary)",
            ),
            ([("recorded", 0.2)], "200 ms a step recorded"),
        ],
    )
    def test_sentence(self, steps, said, clock):
        measured = StepClock(torch.device("cpu"))
        for half in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):  # two epochs
            clock.now += 50  # between epochs
            measured.begin_epoch()
            for kind, seconds in half:
                clock.now += seconds
                measured.after_step(kind)
            measured.end_epoch()
        assert measured.sentence() == said

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_on_a_gpu_it_is_the_gpu_s_time(self):
        device = torch.device("cuda", 0)
        measured, matrix = StepClock(device), torch.rand(4096, 4096, device=device)
        matrix @ matrix
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            measured.begin_epoch()
            for _ in range(5):
                for _ in range(20):
                    matrix @ matrix
                measured.after_step("ordinary")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        measured.end_epoch()
        # 20 x 137 GFLOP take some 20 ms or more on any GPU; to launch them takes far less.
        assert float(measured.sentence().split()[0]) > 5


@pytest.mark.parametrize(
    "trains", [{}, {"train_base": False}, {"train_adaptive": True}], ids=["base", "frozen", "all"]
)
def test_multiply_adds_are_those_that_pytorch_counts(trains):
    found = macs_per_image("memo_resnet14_cifar", [5, 3, 3, 3], 32, METHODS["memo"], **trains)
    network = AdaptiveNet("memo_resnet14_cifar")
    for task, (training, forward) in enumerate(found):
        network.grow(5)
        first = task == 0
        network.freeze(
            generalized=not (first or trains.get("train_base", True)),
            old_specialized=not (first or trains.get("train_adaptive", False)),
        )
        with FlopCounterMode(display=False) as counter:
            outputs = network(torch.zeros(2, 3, 32, 32))
            once = counter.get_total_flops()
            outputs["logits"].sum().backward()
        # Two images of two operations a multiply-add; the classifiers take no hundredth.
        assert forward == pytest.approx(once / 4, rel=0.01)
        assert training == pytest.approx(counter.get_total_flops() / 4, rel=0.01)


@pytest.mark.parametrize("name", ["der", "replay", "wa"])
def test_multiply_adds_of_every_kind_of_network_are_those_that_pytorch_counts(name):
    method = METHODS[name]
    # A single backbone learns as a whole, whatever MEMO's trunk would do.
    found = macs_per_image("resnet14_cifar", [5, 3, 3, 3], 32, method, train_base=False)
    network = AdaptiveNet("resnet14_cifar", method.trunks, method.blocks, method.aux_head)
    images, teacher = torch.zeros(2, 3, 32, 32), None
    for training, forward in found:
        network.grow(5)
        network.freeze(old_specialized=name == "der")
        with FlopCounterMode(display=False) as counter:
            outputs = network(images)
            once = counter.get_total_flops()
            outputs["logits"].sum().backward()
            if teacher and name == "wa":
                teacher(images)
        assert forward == pytest.approx(once / 4, rel=0.01)
        assert training == pytest.approx(counter.get_total_flops() / 4, rel=0.01)
        teacher = network.for_inference()


def test_counting_leaves_no_trace():
    before = torch.get_rng_state()
    macs_per_image("memo_conv2", [2, 2], 32, METHODS["memo"])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "epochs", "shown", "between"),
    [
        # 50 new images a task; then 30 exemplars, or all of 5 classes with fewer.
        ({}, [2, 3, 3], [50, 80, 80], 0),
        ({"skip": True, "init_checkpoint": "f"}, [0, 3, 3], [50, 80, 80], 0),
        ({"fixed_memory": True, "memory_per_class": 2}, [2, 3, 3], [50, 60, 70], 0),
        ({"memory_size": 1000}, [2, 3, 3], [50, 100, 150], 0),
        ({"eval_every": 5}, [2, 3, 3], [50, 80, 80], 1 / 5),
        # A single backbone, taught; nothing kept, so nothing looked at by herding.
        ({"model_name": "icarl"}, [2, 3, 3], [50, 80, 80], 0),
        ({"model_name": "finetune", "memory_size": 0}, [2, 3, 3], [50, 50, 50], 0),
    ],
)
def test_work_follows_the_schedule(settings, epochs, shown, between):
    method = METHODS[settings.get("model_name", "memo")]
    net = "memo_conv2" if method.name == "memo" else "conv2"
    shape = {"convnet_type": net, "init_epoch": 2, "epochs": 3, "memory_size": 30}
    config = Config(**{"init_cls": 5, "increment": 5, **shape, **settings})
    tasks = DataManager(np.arange(200) % 20, np.arange(40) % 20, range(20), 5, 5)
    found = work_of(config, tasks, 3)  # of four
    costs = macs_per_image(net, [5, 5, 5], 32, method)
    assert [each.epochs for each in found] == epochs
    for task, (each, (training, forward)) in enumerate(zip(found, costs, strict=True)):
        tests = 10 * (task + 1)
        assert each.training == shown[task] * training
        herded = shown[task] if method.exemplars else 0
        assert each.after == (herded + tests) * forward
        assert each.testing == pytest.approx(between * tests * forward)


class TestForecast:
    WORK = (Work(2, 10.0, after=5.0), Work(4, 20.0, testing=5.0, after=8.0))  # 25 and 108

    def test_nothing_is_said_before_something_was_measured(self):
        assert Forecast(self.WORK).seconds_left(0, 0) is None
        assert Forecast().seconds_left(0, 0, 3.0) is None
        forecast = Forecast()
        forecast.after_epoch(0, 1.0)
        assert forecast.seconds_left(0, 1) is None

    def test_before_an_epoch_is_over_its_steps_tell(self):
        # 0.5 s a unit.
        assert Forecast(self.WORK).seconds_left(0, 0.5, 5.0) == 0.5 * (15 + 5 + 108)

    def test_epochs_correct_it_and_one_slow_one_does_not_count(self):
        forecast = Forecast(self.WORK)
        forecast.after_epoch(0, 5.0)
        assert forecast.seconds_left(0, 1, 7.0) == 0.5 * (10 + 5 + 108)
        forecast.after_epoch(0, 50.0)
        forecast.after_epoch(1, 10.0)
        assert forecast.seconds_left(1, 1) == 0.5 * (3 * 25 + 8)
        for _ in range(5):
            forecast.after_epoch(1, 20.0)  # the machine is busy from now on
        assert forecast.seconds_left(1, 3) == 1.0 * (25 + 8)

    def test_a_run_that_goes_on_in_task_2_does_not_count_task_1(self):
        assert Forecast(self.WORK).seconds_left(1, 2, 20.0) == 1.0 * (2 * 25 + 8)


class Terminal:
    """A stderr that is a terminal, and what was shown there, without control characters."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += re.sub(r"\x1b\[[0-9;]*\w", "", text)

    def flush(self):
        pass

    def isatty(self):
        return True

    def lines(self):
        return [line.strip() for line in re.split(r"[\r\n]", self.text) if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    found = Terminal()
    bar = progress.tqdm

    def on_terminal(*args, **kwargs):
        kwargs.pop("dynamic_ncols", None)
        return bar(*args, file=found, ncols=110, mininterval=0, **kwargs)

    monkeypatch.setattr(progress, "tqdm", on_terminal)
    return found


def shown(terminal, display, clock, steps=4):
    """Train the second of three tasks in two epochs, with a test after the first."""
    with display.training(1, 2, steps, 0):
        for epoch in (1, 2):
            for step in range(steps):
                clock.now += 1.0
                display.after_step(lambda step=step: f"loss 0.{step}")
            if epoch == 1:
                with display.doing("testing"):
                    pass
            display.after_epoch(float(steps), f"loss of epoch {epoch}")
    return terminal.lines()


class TestDisplay:
    WORK = (Work(1, 1.0), Work(2, 4.0, after=2.0), Work(2, 8.0, after=3.0))

    def test_the_line_has_the_time_left_of_the_run_and_the_loss(self, terminal, clock):
        display = Display(3, Forecast(self.WORK), shown=True)
        lines = shown(terminal, display, clock)
        assert lines[0].startswith("task 2/3:   0%|")
        # Within the first epoch the steps do not tell yet; the loss is there.
        assert re.fullmatch(r"task 2/3:  25%\|\S+ *\| 2/8, loss 0.1", lines[2])
        # After it: an epoch, herding and testing, then all of task 3: 4 + 2 + 16 + 3.
        assert any(line.startswith("task 2/3, testing:  50%") for line in lines)
        assert any(
            line.startswith("task 2/3, 25 s left:  50%") and "loss of epoch 1" in line
            for line in lines
        )
        assert any(line.startswith("task 2/3, 21 s left: 100%") for line in lines)

    def test_what_comes_after_training_is_said(self, terminal, clock):
        display = Display(3, Forecast(self.WORK), shown=True)
        shown(terminal, display, clock)
        terminal.text = ""
        with display.doing("choosing exemplars", 1):
            pass
        with display.doing("drawing pictures"):
            pass
        assert terminal.lines() == ["task 2/3, choosing exemplars, 21 s left", "drawing pictures"]

    def test_long_epochs_tell_by_their_steps(self, terminal, clock):
        lines = shown(terminal, Display(3, Forecast(self.WORK), shown=True), clock, steps=16)
        # 1 s a step, 16 s for 4 units: after 8 steps 2 + 4 + 2 + 16 + 3 units of 4 s are left.
        assert any(line.startswith("task 2/3, 1 min 48 s left:  25%") for line in lines)

    def test_nothing_is_shown_where_it_is_not_wanted(self, terminal, clock):
        assert shown(terminal, Display(3, Forecast(self.WORK)), clock) == []

    # In the first of two epochs of 16 steps, and at the end of the second of 4.
    @pytest.mark.parametrize(("steps", "left"), [(16, "1 min 48 s"), (4, "21 s")])
    def test_the_log_is_told_once_a_task(self, steps, left, terminal, clock, caplog):
        caplog.set_level(logging.INFO, "memo")
        display = Display(3, Forecast(self.WORK), shown=True)
        for times in (1, 2):
            shown(terminal, display, clock, steps)
            assert len(caplog.messages) == times
        assert caplog.messages[0] == f"about {left} left of this run"

    def test_further_class_orders_count(self, terminal, clock, caplog):
        caplog.set_level(logging.INFO, "memo")
        shown(terminal, Display(3, Forecast(self.WORK, [7, 8]), shown=True), clock)
        # 21 s of this one; 1 + 8 + 2 + 16 + 3 units of 1 s for each of the others.
        (message,) = caplog.messages
        assert message == "about 1 min 21 s left of this run and those of class orders 7, 8"

    def test_where_reading_the_loss_would_wait_only_epochs_tell(self, terminal, clock, caplog):
        caplog.set_level(logging.INFO, "memo")
        display = Display(3, Forecast(self.WORK), shown=True)
        with display.training(2, 5, 20, 0):
            for epoch in range(1, 5):
                for _ in range(20):
                    display.after_step()
                assert bool(caplog.messages) == (epoch > 3)
                display.after_epoch(0.8, "")
        # The first epochs have the recording in them, so three are waited for; 0.1 s a unit.
        (message,) = caplog.messages
        assert message == "about 0 s left of this run"


def test_the_line_fits_80_columns(monkeypatch, clock):
    found, bar = Terminal(), progress.tqdm

    def narrow(*args, dynamic_ncols, **kwargs):
        return bar(*args, file=found, ncols=80, mininterval=0, **kwargs)

    monkeypatch.setattr(progress, "tqdm", narrow)
    display = Display(10, Forecast([Work(200, 1.0)] * 10), shown=True)
    with display.training(9, 200, 400, 79_000):
        for _ in range(10):
            clock.now += 36_000 / 400
            display.after_step(lambda: "loss 2.022, train 21.9 %")
    line = found.lines()[-1]
    assert len(line) <= 80
    assert line.startswith("task 10/10, 24 h 45 min left:  99%|#")
    assert line.endswith("| 79010/80000, loss 2.022, train 21.9 %")


def test_a_learner_says_loss_and_accuracy_within_the_epoch(monkeypatch):
    learner = tiny_learner(
        convnet_type="memo_conv2", batch_size=12, init_epoch=1, init_milestones=[]
    )
    words = []
    after_step = Display.after_step
    monkeypatch.setattr(
        Display, "after_step", lambda self, w=None: words.append(w()) or after_step(self, w)
    )
    learner.begin_task()
    learner.train_task()
    assert len(words) == 3
    (epoch,) = learner.engine.epochs
    first = learner.engine.training.losses[0] / 12  # of the first step's 12 images
    loss, _, correct = first.tolist()
    assert words[0] == f"loss {loss:.3f}, train {100 * correct:.1f} %"
    assert words[-1] == f"loss {epoch['loss']:.3f}, train {epoch['train_acc']:.1f} %"
    assert all(re.fullmatch(r"loss \d\.\d{3}, train \d+\.\d %", each) for each in words)
    assert not list(tqdm._instances)  # every bar was closed
