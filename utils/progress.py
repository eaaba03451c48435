"""How fast a run goes, how long it will still take, and the line on the terminal that says so.

    StepClock   milliseconds of the training steps of a task
    Work        how many multiply-adds each task of a run takes
    Forecast    the time left of the whole run: its multiply-adds, at the speed of the last epochs
    Display     the bar: the task and its step, time left, loss and accuracy, or what else goes on

Where a method adds to its network, a further task is slower than the one before: there is one
frozen block more. There are more exemplars, too. Multiply-adds tell by how much before it has
begun. Where a step is not limited by its arithmetic, as on a large GPU, they expect too long a time
for later tasks; the fewer of these are left, the better the forecast.
"""

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.methods import Method, find_method
from utils.config import Config
from utils.data_manager import DataManager
from utils.exemplars import ExemplarMemory
from utils.inc_net import AdaptiveNet
from utils.tables import duration

log = logging.getLogger("memo")

WARM_STEPS = 8  # on a CPU: after so many steps their median says how fast it is
WARM_EPOCHS = 3  # on a GPU: the first has the algorithms tried and the recording in it
SHOWN_EVERY = 0.2  # seconds between two readings of loss and accuracy within an epoch
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class StepClock:
    """Times the training steps of a task, by their kind.

    On a GPU a moment is an event in its stream, so that taking one makes nobody wait.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: list[tuple[str, Any]] = []
        self._milliseconds: dict[str, list[float]] = {}

    def begin_epoch(self) -> None:
        """The next step begins now."""
        self._moments = [("", self._now())]

    def after_step(self, kind: str) -> None:
        """A step of this kind, "recorded" or "ordinary", is over, or launched."""
        self._moments.append((kind, self._now()))

    def end_epoch(self) -> None:
        """Read the times of the steps since `begin_epoch`; waits until a GPU has made them."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            self._moments[-1][1].synchronize()
        for (_, before), (kind, after) in pairwise(self._moments):
            took = before.elapsed_time(after) if on_gpu else 1000 * (after - before)
            self._milliseconds.setdefault(kind, []).append(took)
        self._moments = []

    def sentence(self) -> str:
        """Return the median times: "2.31 ms a step recorded (9.80 ordinary)", "" without a step."""
        said = {}
        for kind, times in self._milliseconds.items():
            median = statistics.median(times)
            said[kind] = f"{median:.2f}" if median < 100 else f"{median:.0f}"
        if "recorded" in said:
            ordinary = f" ({said['ordinary']} ordinary)" if "ordinary" in said else ""
            return f"{said['recorded']} ms a step recorded{ordinary}"
        return f"{said['ordinary']} ms a step" if said else ""

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one task."""

    epochs: int
    training: float  # of an epoch's steps
    testing: float = 0.0  # between two epochs, on average (--eval_every)
    after: float = 0.0  # of herding and testing after the last epoch

    def from_epoch(self, epoch: float) -> float:
        """Return what is left when so many epochs are over."""
        return (self.epochs - epoch) * (self.training + self.testing) + self.after


def work_of(config: Config, tasks: DataManager, num_tasks: int) -> list[Work]:
    """Return the work of each of the first `num_tasks` tasks of a run."""
    method = find_method(config.model_name)
    memory = ExemplarMemory(config.memory_size, config.fixed_memory, config.memory_per_class)
    costs = macs_per_image(
        config.convnet_type,
        tasks.task_sizes[:num_tasks],
        config.image_side,
        method,
        train_base=config.train_base,
        train_adaptive=config.train_adaptive,
    )
    images = np.bincount(tasks.train_labels, minlength=tasks.num_classes)  # of each class
    found = []
    for task, (training, forward) in enumerate(costs):
        known, seen = tasks.known_classes(task), tasks.seen_classes(task)
        new = int(images[known:seen].sum())
        kept = memory.quota(known) if known and method.exemplars else 0
        old = int(np.minimum(images[:known], kept).sum())
        tests = len(tasks.test_indices(0, seen))
        epochs = config.init_epoch if task == 0 else config.epochs
        found.append(
            Work(
                epochs=0 if task == 0 and config.skip else epochs,
                training=(new + old) * training,
                testing=tests * forward / config.eval_every if config.eval_every else 0.0,
                # Herding looks at what was trained with.
                after=((new + old) * method.exemplars + tests) * forward,
            )
        )
    return found


def macs_per_image(
    convnet_type: str,
    task_sizes: Sequence[int],
    side: int,
    method: Method,
    *,
    train_base: bool = True,
    train_adaptive: bool = False,
) -> list[tuple[float, float]]:
    """Return the multiply-adds of an image in each task: of a training step, and of a forward pass.

    Those of the convolutions, counted while one image is computed on the CPU. From the third task
    on each has one frozen block more, as the third has more than the second, if the method adds
    any. Where one has a teacher, the network of the task before, computes each image too.

    Args:
        convnet_type: backbone.
        task_sizes: classes of each task.
        side: of the images, in pixels.
        method: whose network it is.
        train_base: whether the trunk learns after the first task.
        train_adaptive: whether old specialized blocks do; neither is asked of a single backbone,
            which learns as a whole.
    """
    found: list[tuple[float, float]] = []
    training = forward = 0.0

    def count(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal training, forward
        macs = output[0].numel() * layer.weight[0].numel()
        forward += macs
        # Backward: the gradient of the weights costs as much again, and so does that of the input.
        training += macs * (1 + layer.weight.requires_grad + inputs[0].requires_grad)

    with torch.random.fork_rng(devices=[]):
        network = AdaptiveNet(convnet_type, method.trunks, method.blocks, method.aux_head)
        whole = method.blocks == "one"
        for classes in task_sizes[:3]:
            network.grow(classes)
            all_learn = whole or not found
            network.freeze(
                generalized=not (all_learn or train_base),
                old_specialized=not (all_learn or train_adaptive),
            )
            layers = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
            hooks = [layer.register_forward_hook(count) for layer in layers]
            taught = found[-1][1] if found and method.teacher else 0.0
            training, forward = taught, 0.0
            network.eval()(torch.zeros(1, 3, side, side))
            found.append((training, forward))
            for hook in hooks:
                hook.remove()
    for _ in task_sizes[3:]:
        found.append(tuple(2 * a - b for a, b in zip(found[-1], found[-2], strict=True)))
    return found


class Forecast:
    """The time left of a run.

    Args:
        work: of its tasks; without, nothing is forecast.
        seeds_after: of runs of the same work that are to follow, whose time counts too.
    """

    def __init__(self, work: Sequence[Work] = (), seeds_after: Sequence[int] = ()) -> None:
        self._work = work
        self.seeds_after = seeds_after
        self._speeds: deque[float] = deque(maxlen=5)  # seconds a multiply-add

    @property
    def is_warm(self) -> bool:
        """Whether enough epochs were measured to believe their median on a GPU."""
        return len(self._speeds) >= WARM_EPOCHS

    def after_epoch(self, task: int, seconds: float) -> None:
        """Note what an epoch of a task (from 0) took."""
        if self._work:
            self._speeds.append(seconds / self._work[task].training)

    def seconds_left(
        self, task: int, epoch: float, seconds_an_epoch: float | None = None
    ) -> float | None:
        """Return how many seconds the run will still take, or None where nothing tells.

        Args:
            task: in progress, from 0.
            epoch: epochs of it that are over; with a fraction for the one in progress.
            seconds_an_epoch: what its steps make expect, used while no epoch was measured.
        """
        if not self._work:
            return None
        speeds = list(self._speeds)
        if not speeds and seconds_an_epoch is not None:
            speeds = [seconds_an_epoch / self._work[task].training]
        if not speeds:
            return None
        later = [*self._work[task + 1 :], *len(self.seeds_after) * list(self._work)]
        macs = self._work[task].from_epoch(epoch) + sum(each.from_epoch(0) for each in later)
        return statistics.median(speeds) * macs


class Display:
    """The line on the terminal; there is none where stderr is no terminal.

        task 3/10, 2 h 05 min left:  45%|###   | 3570/7990, loss 0.512, train 83.2 %

    Args:
        num_tasks: of the run.
        forecast: of the run.
        shown: whether there is to be a line.
    """

    def __init__(
        self, num_tasks: int = 0, forecast: Forecast | None = None, shown: bool = False
    ) -> None:
        self._num_tasks = num_tasks
        self._forecast = forecast or Forecast()
        self._disable = None if shown else True  # None: where stderr is no terminal
        self._bar: tqdm | None = None  # while a task is trained
        self._task = 0
        self._steps, self._done = 1, 0  # of an epoch; of the task, so far
        self._step_seconds: deque[float] = deque(maxlen=100)  # where steps can be timed
        self._last_step = self._last_words = 0.0
        self._told_log = False  # in this task, how long the run will take

    @contextmanager
    def training(self, task: int, epochs: int, steps: int, done: int) -> Iterator[None]:
        """Show the training of a task (from 0) meanwhile.

        Args:
            task: the task.
            epochs: of it.
            steps: of an epoch.
            done: steps made before, by a run that was stopped.
        """
        self._task, self._steps, self._told_log = task, steps, False
        self._step_seconds.clear()
        self._last_step = time.perf_counter()
        self._done = done
        with tqdm(
            desc=self._described(),
            initial=done,
            total=epochs * steps,
            leave=False,
            dynamic_ncols=True,
            disable=self._disable,
            bar_format=_BAR,
        ) as self._bar:
            try:
                yield
            finally:
                self._bar = None

    def after_step(self, words: Callable[[], str] | None = None) -> None:
        """Show that a step was made.

        Args:
            words: gives loss and accuracy of the epoch so far; None where asking would make the
                host wait, so that it cannot know either how long the step took.
        """
        self._done += 1
        if words is not None:
            now = time.perf_counter()
            self._step_seconds.append(now - self._last_step)
            self._last_step = now
            if not self._told_log and len(self._step_seconds) >= WARM_STEPS:
                self._tell_log()
            if not self._bar.disable and now - self._last_words >= SHOWN_EVERY:
                self._last_words = now
                self._bar.set_postfix_str(words(), refresh=False)
                self._bar.set_description_str(self._described(), refresh=False)
        self._bar.update()

    def after_epoch(self, seconds: float, words: str) -> None:
        """Show loss and accuracy of an epoch, which took so long, and correct the forecast."""
        self._forecast.after_epoch(self._task, seconds)
        if not self._told_log and self._forecast.is_warm:
            self._tell_log()
        self._bar.set_postfix_str(words, refresh=False)
        self._bar.set_description_str(self._described())

    @contextmanager
    def doing(self, what: str, task: int | None = None) -> Iterator[None]:
        """Say meanwhile what is done: while a task is trained, after that, or after all tasks.

        Args:
            what: "testing", say.
            task: whose training is over; None while one is in training, or after all.
        """
        if self._bar is not None:
            self._bar.set_description_str(self._described(what))
            yield
            self._bar.set_description_str(self._described())
            return
        words = what
        if task is not None:
            self._task = task
            words = self._described(what)
        with tqdm(total=0, bar_format="{desc}", desc=words, leave=False, disable=self._disable):
            yield

    def _described(self, what: str = "") -> str:
        left = self._seconds_left()
        said = None if left is None else f"{duration(left)} left"
        parts = f"task {self._task + 1}/{self._num_tasks}", what, said
        return ", ".join(filter(None, parts))

    def _seconds_left(self) -> float | None:
        guess = None
        if len(self._step_seconds) >= WARM_STEPS:
            guess = self._steps * statistics.median(self._step_seconds)
        epochs = self._done / self._steps
        return self._forecast.seconds_left(self._task, epochs, guess)

    def _tell_log(self) -> None:
        """Say once a task in the log how long the run will take: not everyone has a terminal."""
        left = self._seconds_left()
        if left is not None:
            self._told_log = True
            seeds = ", ".join(map(str, self._forecast.seeds_after))
            more = f" and those of class orders {seeds}" if seeds else ""
            log.info("about %s left of this run%s", duration(left), more)
