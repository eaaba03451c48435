"""How fast it is, beside a plain loop of the same method on the same machine.

    python -m tests.benchmarks.speed                        # tasks 0, 1, 5, 9: takes half an hour
    python -m tests.benchmarks.speed --tasks 9 --repeats 3  # tasks count from 0
    python -m tests.benchmarks.speed --full                 # whole epochs instead of some steps
    python -m tests.benchmarks.speed --device cuda --json speed.json
    python -m tests.benchmarks.speed --methods --tasks 9    # a step of every method instead

Prints Markdown tables: a training step and its parts, and the epoch; memory build and evaluation;
how the cost grows with the tasks; how often the host waits; where a step's time goes; what its
convolutions take alone; peak memory.
Ours is timed through the methods that a run calls (`train_task`, `build_memory`, `evaluate`), the
plain loop is tests/benchmarks/plain.py. The images are random, of CIFAR-100's number and shape,
which costs the same as real ones; nothing is downloaded.

What is compared is paired: everything runs in one process and takes turns within each repetition,
in an order that is turned round every time. A ratio is the median of the ratios within the
repetitions, so that a machine whose speed drifts spoils the seconds more than the ratios. Spread is
the interquartile range. Peak memory is measured in a process for each. What it does on a GPU has
never been measured; README says what else has not.
"""

import argparse
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from models import find_learner
from models.methods import METHODS
from tests.benchmarks.plain import PlainLearner
from utils.augment import EvalTransform, TrainTransform
from utils.catalog import BACKBONES, DATASETS
from utils.config import Config
from utils.cuda_graph import ORDINARY_STEPS
from utils.data_manager import DataManager
from utils.devices import make_fast, peak_memory
from utils.engine.run import Run
from utils.inc_net import AdaptiveNet
from utils.loader import ResidentLoader
from utils.logbook import provenance
from utils.precision import training_precision
from utils.tables import markdown_text

log = logging.getLogger("memo.speed")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CLASSES, PER_TASK = 100, 10
PARTS = ("data", "forward", "backward", "update")
PLAIN = "plain loop"
# What makes the host wait for a GPU; the last one is also how a number is read on a CPU.
SYNCHRONISATIONS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::_local_scalar_dense",
)


# --- What is timed --------------------------------------------------------------------------------


class Marks:
    """Moments in the steps of an epoch: when its data were there, forward was over, and so on.

    On a GPU they are events in its stream, so that taking one does not make anybody wait.
    """

    clock = staticmethod(time.perf_counter)  # of a CPU

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.begin = self._now()
        self.taken: list[tuple[str, Any]] = []

    def _now(self):
        if not self.cuda:
            return self.clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def __call__(self, name: str) -> None:
        """Note that a part of a step is over now."""
        self.taken.append((name, self._now()))

    def steps(self) -> list[dict[str, float]]:
        """Return the seconds of each part of each step, and "step", their sum."""
        if self.cuda:
            torch.cuda.synchronize()
        steps, before = [], self.begin
        for name, moment in self.taken:
            if name == PARTS[0]:
                steps.append({})
            steps[-1][name] = before.elapsed_time(moment) / 1000 if self.cuda else moment - before
            before = moment
        return [{**step, "step": sum(step.values())} for step in steps]


class Data:
    """Random images in CIFAR-100's shape: so many per class to train, a fifth of that to test."""

    mean, std = DATASETS["cifar100"].mean, DATASETS["cifar100"].std

    def __init__(self, per_class: int):
        random = np.random.default_rng(0)
        self.train_labels = np.arange(CLASSES * per_class) % CLASSES
        self.test_labels = np.arange(CLASSES * max(1, per_class // 5)) % CLASSES
        self.train = random.integers(0, 256, (len(self.train_labels), 3, 32, 32), dtype=np.uint8)
        self.test = random.integers(0, 256, (len(self.test_labels), 3, 32, 32), dtype=np.uint8)


class Ours:
    """A learner at the beginning of a task, untrained, with exemplars and teacher it would have.

    Args:
        data: the images.
        task: counted from 0.
        net: backbone.
        device: where to compute.
        settings: of the configuration, such as the method or the precision; block_streams is 0
            unless given.
    """

    def __init__(self, data: Data, task: int, net: str, device: torch.device, **settings):
        # A low learning rate: random labels are no reason to diverge.
        chosen = {"init_lr": 0.01, "lrate": 0.01, "block_streams": 0, **settings}
        config = Config(convnet_type=net, **chosen)
        tasks = DataManager(data.train_labels, data.test_labels, range(CLASSES), PER_TASK, PER_TASK)
        transforms = TrainTransform(data.mean, data.std), EvalTransform(data.mean, data.std)
        train = ResidentLoader(data.train, tasks.train_labels, *transforms, device)
        test = ResidentLoader(data.test, tasks.test_labels, *transforms, device)
        torch.manual_seed(config.torch_seed)
        self.learner = find_learner(config.model_name)(Run(config, tasks, train, test, [device]))
        self.device = device
        # Epochs after which every step, the last smaller one too, is what it is from then on.
        self.graph = settings.get("cuda_graph", False) and device.type == "cuda"
        self.warm_up = ORDINARY_STEPS + 1 if self.graph else 0
        for number in range(task + 1):
            if number == task > 0 and "kd" in self.learner.method.loss_parts:
                self.learner.keep_teacher()
            self.learner.begin_task()
        if self.learner.method.exemplars:
            quota = self.learner.memory.quota(max(PER_TASK, self.learner.known_classes))
            for label in range(self.learner.known_classes):
                self.learner.memory.add(label, tasks.train_indices(label, label + 1)[:quota])
        self.memory = self.learner.memory.state_dict()

    def train(self, rows: np.ndarray, epochs: int = 1) -> float:
        """Train on these images; return the seconds of the last epoch, as the learner logs them."""
        learner = self.learner
        learner.engine.training = None
        learner.config = replace(learner.config, init_epoch=epochs, epochs=epochs)
        with patch.object(learner, "training_indices", lambda: rows):
            learner.train_task()
        learner.engine.training = None
        return learner.engine.epochs[-1]["seconds"]

    def steps(self, rows: np.ndarray) -> list[dict[str, float]]:
        """Train an epoch on these images; return the seconds of each step and of its parts."""
        if self.graph:
            # The step is one launch, without parts.
            count = len(rows) / self.learner.config.batch_size
            return [{"step": self.epoch(rows) / count}]
        marks = Marks(self.device)
        step, backward = self.learner.engine.training_step, torch.Tensor.backward

        def marked_step(*args, **kwargs):
            marks("data")
            losses = step(*args, **kwargs)
            marks("update")
            return losses

        def marked_backward(*args, **kwargs):
            marks("forward")
            backward(*args, **kwargs)
            marks("backward")

        with (
            patch.object(self.learner.engine, "training_step", marked_step),
            patch.object(torch.Tensor, "backward", marked_backward),
        ):
            self.train(rows)
        return marks.steps()

    def epoch(self, rows: np.ndarray) -> float:
        """Train an epoch on these images; return its seconds."""
        return self.train(rows, epochs=self.warm_up + 1)

    def build_memory(self) -> None:
        """Herd the task's classes, as after its training."""
        self.learner.build_memory()

    def evaluate(self) -> None:
        """Predict all test images by the classifier and by NME; the memory has been built."""
        self.learner.evaluate()

    def forget(self) -> None:
        """Put the memory back to where it was before `build_memory`."""
        self.learner.memory.load_state_dict(self.memory)


class Plain:
    """The plain loop at the same point as an `Ours`, with the same weights and exemplars."""

    def __init__(self, data: Data, ours: Ours, num_workers: int):
        learner = ours.learner
        config, first = learner.config, learner.task == 0
        nets = {name: AdaptiveNet.rebuild(net.shape()) for name, net in learner.nets.items()}
        for name, net in nets.items():
            net.load_state_dict(learner.nets[name].state_dict())
        self.device = ours.device
        self.memory = list(learner.memory.per_class)
        self.learner = PlainLearner(
            nets["network"],
            (np.ascontiguousarray(data.train.transpose(0, 2, 3, 1)), data.train_labels),
            (np.ascontiguousarray(data.test.transpose(0, 2, 3, 1)), data.test_labels),
            self.memory,
            learner.known_classes,
            learner.seen_classes,
            data.mean,
            data.std,
            device=ours.device,
            memory_size=config.memory_size,
            batch_size=config.batch_size,
            num_workers=num_workers,
            lr=config.init_lr if first else config.lrate,
            weight_decay=config.init_weight_decay if first else config.weight_decay,
            train_base=config.train_base,
            teacher=nets.get("teacher"),
            second_weight=2.0 if config.model_name == "wa" else 1.0,
        )

    def steps(self, rows: np.ndarray) -> list[dict[str, float]]:
        """Train an epoch on these images; return the seconds of each step and of its parts."""
        with pytorch_defaults():
            marks = Marks(self.device)
            optimizer = self.learner.make_optimizer()
            for images, targets in self.learner.train_batches(rows):
                marks("data")
                self.learner.training_step(optimizer, images, targets, marks)
                marks("update")
            return marks.steps()

    def epoch(self, rows: np.ndarray) -> float:
        """Train an epoch on these images; return its seconds."""
        began = time.perf_counter()
        self.steps(rows)
        return time.perf_counter() - began

    def build_memory(self) -> None:
        """Herd the task's classes, as after its training."""
        with pytorch_defaults():
            self.learner.build_memory()

    def evaluate(self) -> None:
        """Predict all test images by the classifier and by NME; the memory has been built."""
        with pytorch_defaults():
            self.learner.evaluate()

    def forget(self) -> None:
        """Put the memory back to where it was before `build_memory`."""
        self.learner.memory = list(self.memory)


@contextmanager
def pytorch_defaults():
    """Compute float32 as PyTorch does when nothing is set: on a GPU, TF32 in convolutions only."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = True, False, False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def variants(on_gpu: bool, precisions: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """Return the ways in which ours can compute: a name, and the settings that make it."""
    found = {}
    for precision in precisions or (["fp32", "tf32", "bf16"] if on_gpu else ["fp32", "bf16"]):
        found[precision] = {"precision": precision}
        if on_gpu:
            found[precision] = {"precision": precision, "cuda_graph": False}
            found[f"{precision}, CUDA graph"] = {"precision": precision, "cuda_graph": True}
            found[f"{precision}, CUDA graph, side streams"] = {
                **found[f"{precision}, CUDA graph"],
                "block_streams": Config.block_streams,
            }
    return found


# --- Measuring ------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure everything asked for; lists hold a value per repetition, seconds or bytes."""
    data = Data(args.images)
    ways = variants(device.type == "cuda", args.precision)
    found: dict[str, Any] = {
        "machine": provenance([device]),
        "arguments": vars(args),
        "tasks": {task: measure_task(args, device, data, ways, task) for task in args.tasks},
    }
    if not args.no_peak:
        log.info("peak memory, each in a process of its own")
        found["peak"] = {name: _peak_elsewhere(args, name) for name in [PLAIN, *ways]}
    return found


def measure_task(
    args: argparse.Namespace,
    device: torch.device,
    data: Data,
    ways: dict[str, dict[str, Any]],
    task: int,
) -> dict[str, Any]:
    """Measure one task: steps, epoch, memory, evaluation and how often the host waits."""
    ours = {name: Ours(data, task, args.net, device, **way) for name, way in ways.items()}
    first = next(iter(ours))
    everyone = {PLAIN: Plain(data, ours[first], args.num_workers), **ours}
    rows = ours[first].learner.training_indices()
    batch = ours[first].learner.config.batch_size
    some = np.random.default_rng(1).permutation(rows)[: args.steps * batch]
    training = measure_training(args, everyone, some, len(rows), f"task {task}")
    # The network's features are float32 whatever it trains in, so one of ours is measured.
    after = {PLAIN: everyone[PLAIN], "ours": ours[first]}
    seconds = {name: {"memory": [], "evaluation": []} for name in after}
    for repetition in range(args.slow_repeats):
        log.info("task %d: after it, repetition %d of %d", task, repetition + 1, args.slow_repeats)
        for what, method in (("memory", "build_memory"), ("evaluation", "evaluate")):
            for name in _turns(after, repetition):
                seconds[name][what].append(_seconds(getattr(after[name], method), device))
        for each in after.values():
            each.forget()
        if args.full:
            for name in _turns(everyone, repetition):
                measured = training[name][repetition]
                measured["epoch"] = everyone[name].epoch(rows)
    if args.full:
        for name in everyone:  # no estimates among what was measured
            for measured in training[name][args.slow_repeats :]:
                measured["epoch"] = None
    learner = ours[first].learner
    return {
        "training_images": len(rows),
        "test_images": len(learner.tasks.test_indices(0, learner.seen_classes)),
        "macs_per_image": macs_per_image(args.net, task),
        "training": training,
        "after": seconds,
        "profiled_steps": -(-len(some) // batch),
        "profile": {name: profile_epoch(each, some) for name, each in everyone.items()},
        "convolutions": {
            name: convolutions_alone(each, some[:batch]) for name, each in ours.items()
        },
    }


def measure_training(
    args: argparse.Namespace,
    everyone: dict[str, Ours | Plain],
    some: np.ndarray,
    images: int,
    what: str,
) -> dict[str, list[dict[str, float]]]:
    """Train everyone on some of a task's images, in turns; return a `_summary` a repetition."""
    batch = everyone[PLAIN].learner.batch_size
    for each in everyone.values():
        each.steps(some[: 2 * batch])  # what is done once: algorithms chosen, memory fetched
    training = {name: [] for name in everyone}
    for repetition in range(args.repeats):
        log.info("%s: training, repetition %d of %d", what, repetition + 1, args.repeats)
        for name in _turns(everyone, repetition):
            training[name].append(_summary(everyone[name].steps(some), images / batch))
    return training


def measure_methods(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure a training step of each method, in each task."""
    data, ways, tasks = Data(args.images), variants(device.type == "cuda", args.precision), {}
    for task in args.tasks:
        tasks[task] = {}
        for method in args.methods:
            everyone = {
                name: Ours(data, task, args.net, device, model_name=method, **way)
                for name, way in ways.items()
            }
            first = next(iter(everyone.values()))
            everyone = {PLAIN: Plain(data, first, args.num_workers), **everyone}
            rows = first.learner.training_indices()
            some = np.random.default_rng(1).permutation(rows)[: args.steps * 128]
            what = f"task {task}, {method}"
            tasks[task][method] = measure_training(args, everyone, some, len(rows), what)
    return {"machine": provenance([device]), "arguments": vars(args), "methods": tasks}


def _turns(names: dict[str, Any], repetition: int) -> list[str]:
    """Return whose turn it is, first to last: there and back, so that a drift cancels out."""
    return list(names) if repetition % 2 == 0 else list(reversed(names))


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _summary(steps: list[dict[str, float]], steps_per_epoch: float) -> dict[str, float]:
    """Return medians over the steps of an epoch but the first, and what a whole epoch would take.

    The first step waits for worker processes to start; the epoch has that once.
    """
    counted = steps[1:] or steps
    found = {part: statistics.median(s[part] for s in counted) for part in counted[0]}
    start = max(0.0, steps[0].get("data", 0.0) - found.get("data", 0.0))
    return {**found, "epoch": start + steps_per_epoch * found["step"]}


def macs_per_image(net: str, task: int) -> float:
    """Return the multiply-adds that one training image costs in a task, forward and backward."""
    network = AdaptiveNet(net)
    for _ in range(task + 1):
        network.grow(PER_TASK)
    network.freeze(generalized=False, old_specialized=True)
    with FlopCounterMode(display=False) as counter:
        outputs = network(torch.zeros(2, 3, 32, 32))
        (outputs["logits"].sum() + (outputs["aux_logits"].sum() if task else 0)).backward()
    return counter.get_total_flops() / 2 / 2  # a multiply-add is two operations; two images


def profile_epoch(each: Ours | Plain, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Train an epoch on these images under the profiler.

    Returns:
        "waits": how often the host waited for a result, by what made it wait; "milliseconds": what
        each operator took itself in the whole epoch, on a GPU there, on a CPU with all its threads.
    """
    if isinstance(each, Plain):
        calls, times = _profile(lambda: each.epoch(rows), each.device)
    else:  # what one more epoch adds to those that warm up
        calls, times = _profile(lambda: each.train(rows, each.warm_up + 2), each.device)
        warm_up = _profile(lambda: each.train(rows, each.warm_up + 1), each.device)
        calls.subtract(warm_up[0])
        times.subtract(warm_up[1])
    return {
        "waits": {name: calls[name] for name in SYNCHRONISATIONS},
        "milliseconds": {name: us / 1000 for name, us in times.most_common(12)},
    }


def _profile(call: Callable[[], float], device: torch.device) -> tuple[Counter, Counter]:
    """Return calls and microseconds of every operator."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiled:
        call()
    events = profiled.key_averages()
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return (
        Counter({event.key: event.count for event in events}),
        Counter({event.key: getattr(event, spent) for event in events}),
    )


class _Convolutions(TorchDispatchMode):
    """Notes each convolution that is computed, forward and backward, and how often it is."""

    kinds = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)

    def __init__(self):
        super().__init__()
        self.count = Counter()
        self.example: dict[str, Callable[[], Any]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.kinds:
            shapes = [
                (tuple(each.shape), each.dtype, each.stride()) if torch.is_tensor(each) else each
                for each in args
            ]
            name = f"{func} {shapes} {kwargs}"
            self.count[name] += 1
            self.example.setdefault(name, lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def convolutions_alone(each: Ours, rows: np.ndarray) -> dict[str, float]:
    """Make one step with a batch of images, then time every convolution in it alone, in a loop.

    On a GPU the time to launch each is part of it, which a recorded step does not take.

    Returns:
        "calls": convolutions in the step, forward and backward; "seconds": what they take alone,
        together.
    """
    with _Convolutions() as noted:
        each.train(rows)
    with torch.no_grad(), training_precision(each.learner.run.precision):
        seconds = {
            name: Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
            .blocked_autorange(min_run_time=0.3)
            .median
            for name, call in noted.example.items()
        }
    return {
        "calls": noted.count.total(),
        "seconds": sum(seconds[name] * count for name, count in noted.count.items()),
    }


def peak_bytes(args: argparse.Namespace, device: torch.device, name: str) -> int:
    """Train some steps, build the memory and evaluate; return the most memory held meanwhile.

    On a GPU what PyTorch reserved there, on a CPU this process's resident memory (not that of its
    worker processes).
    """
    data, task = Data(args.images), max(args.tasks)
    ways = variants(device.type == "cuda", args.precision)
    way = ways.get(name) or next(iter(ways.values()))
    each = Ours(data, task, args.net, device, **way)
    rows = each.learner.training_indices()
    if name == PLAIN:
        each = Plain(data, each, args.num_workers)
        del data
        gc.collect()  # a learner is part of a reference cycle
    each.steps(rows[: args.steps * 128])
    each.build_memory()
    each.evaluate()
    return peak_memory(device)


def _peak_elsewhere(args: argparse.Namespace, name: str) -> int | None:
    if args.device == "cpu" and not Path("/proc/self/status").exists():
        return None  # only Linux tells
    words = [sys.executable, "-m", "tests.benchmarks.speed", "--peak_of", name, *args.words]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {name!r} failed:\n{done.stderr}")
    return int(done.stdout)


# --- What is printed ------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """Return all tables."""
    args, machine = found["arguments"], found["machine"]
    where = machine["_devices"][0] if args["device"] == "cuda" else machine["_processor"]
    clock = " of processor time" if args["processor_time"] else ""
    after = f", {args['slow_repeats']} for what follows a task" if "tasks" in found else ""
    head = (
        f"{args['net']}, batch 128, {args['images']} images a class, {where}, "
        f"{machine['_threads']} threads, PyTorch {machine['_torch']}; worker processes of the "
        f"plain loop: {args['num_workers']}. Medians and interquartile ranges (in brackets) of "
        f"{args['repeats']} repetitions for steps{clock}{after}. "
        "× is how many times as fast as the plain loop, paired. Tasks count from 0.\n"
    )
    if "methods" in found:
        return f"{head}\n{_methods_table(found['methods'])}"
    parts = [
        head,
        _training_table(found["tasks"], args["full"]),
        _after_table(found["tasks"]),
        _growth_table(found["tasks"]),
        _waits_table(found["tasks"], args["device"] == "cuda"),
        _profile_table(found["tasks"][max(args["tasks"])], max(args["tasks"])),
        _convolutions_table(found["tasks"]),
    ]
    if "peak" in found:
        parts.append(_peak_table(found["peak"], max(args["tasks"])))
    return "\n".join(parts)


def _training_table(tasks: dict[int, Any], full: bool) -> str:
    kind = "measured" if full else "from steps"
    header = ["task", "", *(f"{part}, ms" for part in PARTS), "step, ms", "step ×", "images/s"]
    header += [f"epoch, s ({kind})", "epoch ×"]
    rows = []
    for task, found in tasks.items():
        plain = found["training"][PLAIN]
        for name, ours in found["training"].items():
            step = _column(ours, "step")
            rows.append(
                [
                    str(task),
                    name,
                    *(_milliseconds(_column(ours, part)) for part in PARTS),
                    _spread([1000 * s for s in step], 1),
                    _ratio(_column(plain, "step"), step),
                    f"{128 / statistics.median(step):.0f}",
                    _spread(_column(ours, "epoch"), 2),
                    _ratio(_column(plain, "epoch"), _column(ours, "epoch")),
                ]
            )
    return markdown_text(header, rows)


def _methods_table(tasks: dict[int, Any]) -> str:
    rows = []
    for task, methods in tasks.items():
        for method, training in methods.items():
            plain = _column(training[PLAIN], "step")
            for name in list(training)[1:]:
                step = _column(training[name], "step")
                rows.append([str(task), METHODS[method].title, name])
                rows[-1] += [_spread([1000 * s for s in each], 1) for each in (plain, step)]
                rows[-1].append(_ratio(plain, step))
    return markdown_text(["task", "method", "", f"{PLAIN}, step, ms", "ours, step, ms", "×"], rows)


def _after_table(tasks: dict[int, Any]) -> str:
    header = ["task", ""]
    header += [
        f"{what}{end}" for what in ("memory build", "evaluation", "both") for end in (", s", " ×")
    ]
    rows = []
    for task, found in tasks.items():
        after = {
            name: {**each, "both": [sum(pair) for pair in zip(*each.values(), strict=True)]}
            for name, each in found["after"].items()
        }
        plain = after[PLAIN]
        for name, ours in after.items():
            rows.append([str(task), name])
            for what, seconds in ours.items():
                rows[-1] += [_spread(seconds, 2), _ratio(plain[what], seconds)]
            speed = found["test_images"] / statistics.median(ours["evaluation"])
            rows[-1].append(f"{speed:.0f}")
    return (
        "After a task, in float32 whatever it trained in. The plain loop computes the class means "
        "while it builds the memory, and passes the test images through the network twice:\n\n"
        + markdown_text([*header, "test images/s"], rows)
    )


def _growth_table(tasks: dict[int, Any]) -> str:
    """Say how arithmetic and time of a step grow, relative to the first of the tasks."""
    base = tasks[min(tasks)]
    names = list(base["training"])
    header = ["task", "million multiply-adds an image", "arithmetic", *names]
    rows = []
    for task, found in sorted(tasks.items()):
        macs = found["macs_per_image"]
        times = [
            _ratio(_column(found["training"][n], "step"), _column(base["training"][n], "step"))
            for n in names
        ]
        rows.append([str(task), f"{macs / 1e6:.1f}", f"{macs / base['macs_per_image']:.2f}"])
        rows[-1] += times
    return (
        f"Arithmetic and time of a training step, relative to task {min(tasks)}:\n\n"
        f"{markdown_text(header, rows)}"
    )


def _waits_table(tasks: dict[int, Any], on_gpu: bool) -> str:
    shown = SYNCHRONISATIONS if on_gpu else SYNCHRONISATIONS[-1:]
    rows = []
    for task, found in tasks.items():
        steps = str(found["profiled_steps"])
        for name, profiled in found["profile"].items():
            waits = profiled["waits"]
            rows.append([str(task), name, steps, *(str(waits[each]) for each in shown)])
    return "How often the host waits for a result in an epoch of so many steps:\n\n" + (
        markdown_text(["task", "", "steps", *shown], rows)
    )


def _profile_table(found: dict[str, Any], task: int) -> str:
    """Say what the operators that take most take, in a step."""
    took = {name: profiled["milliseconds"] for name, profiled in found["profile"].items()}
    longest = Counter()
    for times in took.values():
        longest |= Counter(times)
    rows = [
        [
            operator,
            *(
                f"{times[operator] / found['profiled_steps']:.1f}" if operator in times else "-"
                for times in took.values()
            ),
        ]
        for operator, _ in longest.most_common(12)
    ]
    return (
        f"Where a step's milliseconds go, task {task}, by operator, under the profiler (which adds "
        f"to them); - is not among the first twelve:\n\n{markdown_text(['', *took], rows)}"
    )


def _convolutions_table(tasks: dict[int, Any]) -> str:
    """Say what is left to gain around the convolutions."""
    rows = []
    for task, found in tasks.items():
        plain = _column(found["training"][PLAIN], "step")
        for name, alone in found["convolutions"].items():
            step = _column(found["training"][name], "step")
            rows.append(
                [
                    str(task),
                    name,
                    str(alone["calls"]),
                    f"{1000 * alone['seconds']:.1f}",
                    f"{100 * alone['seconds'] / statistics.median(step):.0f} %",
                    f"{statistics.median(plain) / alone['seconds']:.2f}",
                ]
            )
    return (
        "What the convolutions of a step take, each alone in a loop of its own (not paired); × is "
        "how many times as fast as the plain loop a step of nothing else would be:\n\n"
        + markdown_text(["task", "", "convolutions", "ms", "of the step", "×"], rows)
    )


def _peak_table(peak: dict[str, int | None], task: int) -> str:
    rows = [[name, "-" if held is None else f"{held / 1e9:.2f}"] for name, held in peak.items()]
    return f"Peak memory, task {task}, training, memory build and evaluation:\n\n" + markdown_text(
        ["", "GB"], rows
    )


def _column(repetitions: list[dict[str, float]], name: str) -> list[float]:
    values = [measured.get(name) for measured in repetitions]
    return [value for value in values if value is not None]


def _milliseconds(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}" if seconds else "-"


def _spread(values: list[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = np.percentile(values, [25, 75])
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _ratio(over: list[float], under: list[float]) -> str:
    """Say how many times as large one is as the other, pair by pair."""
    if over == under:
        return "1"
    return _spread([a / b for a, b in zip(over, under, strict=True)], 2)


# --- The command ----------------------------------------------------------------------------------


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the flags; a mistake in them ends the program with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.speed",
        description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--tasks", type=int, nargs="+", default=[0, 1, 5, 9], help="tasks, from 0 to 9")
    methods = f"time a step of these methods instead, without a name of all: {', '.join(METHODS)}"
    add("--methods", nargs="*", choices=METHODS, metavar="METHOD", help=methods)
    add("--precision", nargs="+", choices=["fp32", "tf32", "bf16"], help="else all that are here")
    add("--device", choices=["cpu", "cuda"], help="else a GPU where there is one")
    add("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch on the CPU")
    busy = "on a busy CPU: time steps by this process's own use of it, of all threads together"
    add("--processor_time", action="store_true", help=busy)
    add("--repeats", type=int, default=7, help="repetitions of the training steps")
    add("--slow_repeats", type=int, default=3, help="of what takes minutes on a CPU")
    add("--steps", type=int, help="in each repetition; else 6 on a CPU, 40 on a GPU")
    add("--full", action="store_true", help="measure whole epochs too, not from some steps")
    add("--images", type=int, default=500, help="training images per class; CIFAR-100 has 500")
    add("--net", default="memo_resnet32", help="backbone for 32 x 32 images")
    add("--num_workers", type=int, default=8, help="of the plain loop; as many as the authors'")
    add("--no_peak", action="store_true", help="leave peak memory out")
    add("--json", type=Path, metavar="FILE", help="also write everything measured there")
    add("--peak_of", help=argparse.SUPPRESS)  # what the processes that measure memory are told
    args = parser.parse_args(words)
    args.words = list(words)
    if not all(0 <= task < CLASSES // PER_TASK for task in args.tasks):
        parser.error(f"--tasks go from 0 to {CLASSES // PER_TASK - 1}")
    args.tasks = sorted(set(args.tasks))
    if args.methods is not None:
        args.methods = args.methods or list(METHODS)
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.steps = args.steps or (40 if args.device == "cuda" else 6)
    for name in ("threads", "repeats", "slow_repeats", "steps", "images"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.num_workers < 0:
        parser.error("--num_workers must be at least 0")
    if args.full and args.slow_repeats > args.repeats:
        parser.error("with --full, --slow_repeats must be at most --repeats")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and PyTorch finds none here; give --device cpu")
    if args.device == "cuda" and args.processor_time:
        parser.error("--processor_time is for a CPU; the work of a GPU is not in it")
    if args.device == "cpu" and "tf32" in (args.precision or ()):
        parser.error("--precision tf32 is for GPUs; a CPU has fp32 and bf16")
    small = [f"memo_{each.name}" for each in BACKBONES.values() if each.image_size == 32]
    if args.net not in small:
        parser.error(f"--net must be one of {', '.join(small)}, not {args.net}")
    return args


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    args = parse(words)
    device = torch.device("cuda", 0) if args.device == "cuda" else torch.device("cpu")
    torch.set_num_threads(args.threads)
    make_fast()  # as a run does; the plain loop goes without
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's, which reports every call
    if args.peak_of:
        sys.stdout.write(f"{peak_bytes(args, device, args.peak_of)}\n")
        return 0
    clock = time.process_time if args.processor_time else time.perf_counter
    Marks.clock = staticmethod(clock)
    found = (measure_methods if args.methods else measure)(args, device)
    sys.stdout.write(report(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main(sys.argv[1:]))
