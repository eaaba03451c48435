"""The run: every class order asked for, task by task, from the data to the files under logs/.

One class order (`seed`) is one run with a folder of its own. Everything a user sees on the terminal
is said here or by the progress bar of a task; everything a run leaves is written by the logbook.
"""

import logging
import os
import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from models import METHODS
from models.base import Learner, Predictions, TrainingError
from utils.augment import EvalTransform, TrainTransform
from utils.budget import Cost, run_table
from utils.catalog import DATASETS
from utils.checkpoint import (
    NEWEST,
    CheckpointError,
    load_run,
    random_state,
    save_run,
    save_task_checkpoint,
    set_random_state,
)
from utils.config import Config, num_classes
from utils.control import Control, Stopped, locked
from utils.data import ImageArrays, load_dataset
from utils.data_manager import DataManager, make_class_order, split_classes
from utils.devices import machine_facts, make_deterministic, resolve_devices
from utils.files import remove_leftovers
from utils.inc_net import AdaptiveNet
from utils.loader import ResidentLoader
from utils.logbook import (
    Logbook,
    duration,
    final_table,
    provenance,
    require_tensorboard,
    run_folder,
    setup_console,
    task_line,
)
from utils.metrics import Metrics
from utils.published import find as find_published
from utils.resume import (
    Call,
    changed_machine,
    find_call,
    is_finished,
    refuse_changes,
    tasks_done,
    tasks_to_do,
)

log = logging.getLogger("memo")


def run(
    config: Config,
    resume: str | bool | None = None,
    started: float | None = None,
    warnings: Sequence[str] = (),
) -> list[Metrics]:
    """Run the experiment once for every class order in `config.seed`.

    Args:
        config: the settings.
        resume: go on with the run in this folder or, for True, with the newest unfinished run
            that has these settings; None starts a new one.
        started: when the process began, of time.monotonic(), for `config.max_minutes`.
        warnings: what the terminal has been told of the settings already, for main.log.

    Returns:
        the metrics of each run, in the order of the seeds.

    Raises:
        DataError: the data set is missing or damaged.
        CheckpointError: the file to start from, or the run to go on with, cannot be used.
        TensorBoardError: asked for, but not installed.
        FolderInUseError: another process is running what is to be resumed.
        TrainingError: training cannot go on.
        Stopped: the run was asked to stop and has been saved.
        OSError: something cannot be written; the error names it.
    """
    setup_console()
    if config.tensorboard:
        require_tensorboard()
    if config.deterministic:
        make_deterministic()
    call = find_call(config, resume)
    if all(
        seed in call.folders and is_finished(call.folders[seed], config) for seed in config.seed
    ):
        return [_finished(call.folders[seed]) for seed in config.seed]
    if config.skip and not Path(config.init_checkpoint).is_file():
        raise CheckpointError(
            f"there is no file {config.init_checkpoint}; --init_checkpoint must name a trained "
            "first task"
        )
    devices, warning = resolve_devices(config.device)
    if devices[0].type == "cpu" and config.device != [-1]:
        expected = duration(estimate_seconds(config))
        warning = warning or "no GPU on this machine: using the CPU"
        warning += f"; the schedule will take about {expected} there"
    notes = list(warnings)
    if warning:
        log.warning("%s", warning)
        notes.append(warning)
    data = load_dataset(
        config.dataset,
        config.data_dir,
        synthetic_classes=config.synthetic_classes,
        synthetic_train_per_class=config.synthetic_train_per_class,
        synthetic_test_per_class=config.synthetic_test_per_class,
    )
    with Control(config.checkpoint_every, config.max_minutes, started) as control:
        results = [
            run_class_order(config, data, devices, seed, control, call, notes)
            for seed in config.seed
        ]
    if len(results) > 1:
        _report_seeds(config.seed, results)
    others = [seed for seed in call.seeds if seed not in config.seed]
    if others:
        log.info(
            "class orders %s belong to the same call: to go on with all of them, give the first "
            "command again with --resume",
            ", ".join(map(str, others)),
        )
    return results


def run_class_order(
    config: Config,
    data: ImageArrays,
    devices: list[torch.device],
    seed: int,
    control: Control,
    call: Call,
    notes: Sequence[str],
) -> Metrics:
    """Run all tasks of one class order, or those that are left of it.

    Its files are brought up to date after every task, its checkpoint more often.
    """
    resumed = seed in call.folders
    folder = call.folders.get(seed) or run_folder(
        log_dir=config.log_dir,
        prefix=config.prefix,
        dataset=config.dataset,
        model_name=config.model_name,
        convnet_type=config.convnet_type,
        init_cls=config.init_cls,
        increment=config.increment,
        memory_size=config.memory_size,
        seed=seed,
        start_time=time.time(),
        debug=config.debug,
    )
    with locked(folder):
        checkpoint = _take_up(folder, config) if resumed else None
        if checkpoint and tasks_done(checkpoint) >= tasks_to_do(config):
            return _finished(folder)
        return _run_in_folder(folder, config, data, devices, seed, control, call, notes, checkpoint)


def _run_in_folder(
    folder: Path,
    config: Config,
    data: ImageArrays,
    devices: list[torch.device],
    seed: int,
    control: Control,
    call: Call,
    notes: Sequence[str],
    checkpoint: dict[str, Any] | None,
) -> Metrics:
    """Run the tasks of one class order that come after a checkpoint, or all of them."""
    order = config.class_order or make_class_order(data.num_classes, seed, config.shuffle)
    tasks = DataManager(
        data.train_labels, data.test_labels, order, config.init_cls, config.increment
    )
    kept = f"{config.memory_per_class} a class" if config.fixed_memory else config.memory_size
    setting = (
        f"{config.model_name}, {config.dataset} in {tasks.num_tasks} tasks of "
        f"{_sizes(tasks.task_sizes)} classes, {kept} exemplars, {config.convnet_type}, "
        f"class order {_order_name(config, seed)}"
    )
    published = find_published(config)
    with Logbook(
        folder,
        setting,
        published=published.curve if published else None,
        tensorboard=config.tensorboard,
    ) as logbook:
        written = {**config.to_dict(), "seed": [seed]}
        about = {"_call": call.name, "_seeds": call.seeds, **provenance(devices)}
        logbook.write_config({**written, **about})
        machines = list(checkpoint["machines"]) if checkpoint else []
        machine = machine_facts(devices, config.num_workers)
        if machine not in machines:
            machines.append(machine)
        torch.manual_seed(config.torch_seed)
        train_data, test_data = make_loaders(data, tasks, devices[0])
        learner = METHODS[config.model_name](config, tasks, train_data, test_data, devices)
        learner.after_epoch = lambda: logbook.write_epochs(learner.epochs)
        progress = Progress(Metrics(tasks.task_sizes), [], [])
        if checkpoint is None:
            log.info("%s", setting)
            log.info("on %s; logs in %s", ", ".join(str(device) for device in devices), folder)
            for note in notes:  # said on the terminal before there was a main.log
                logbook.note(note)
            log.info("%s", _budget(config, tasks))
        else:
            learner.load_state_dict(checkpoint["learner"])
            progress = Progress.from_dict(checkpoint["progress"])
            set_random_state(checkpoint["random"])
            task = len(progress.seconds)
            where = "in" if learner.task == task else "before"
            log.info("resumed %s task %d: going on with %s", where, task + 1, folder)
            warning = changed_machine(machines)
            if warning:
                log.warning("%s", warning)
        began = time.perf_counter() - progress.spent  # the task in progress

        def save() -> None:
            progress.spent = time.perf_counter() - began
            save_run(
                folder,
                {
                    "config": written,
                    "machines": machines,
                    "call": [call.name, call.seeds],
                    "versions": {key: str(about[key]) for key in ("_python", "_torch", "_numpy")},
                    "learner": learner.state_dict(),
                    "progress": progress.to_dict(),
                    "random": random_state(),
                    "log_bytes": logbook.sync(),
                },
            )

        control.save = save
        learner.control = control
        try:
            while len(progress.seconds) < tasks_to_do(config):
                if learner.task < len(progress.seconds):
                    began = time.perf_counter()
                    learner.begin_task()
                if not progress.trained:
                    learner.train_task()
                    progress.trained = True
                    control.checkpoint()
                with control.interruptible():
                    learner.end_task()
                    predictions = learner.evaluate()
                progress.add(predictions, len(learner.memory), time.perf_counter() - began)
                _write_task(folder, config, tasks, learner, logbook, progress, predictions)
                began = time.perf_counter()
                if len(progress.seconds) < tasks_to_do(config):
                    control.checkpoint()
                else:
                    save()  # finished: a request to stop that came now has nothing left to stop
        except (Stopped, KeyboardInterrupt) as stop:
            say = f"stopped by {stop}" if isinstance(stop, Stopped) else "left at once"
            again = f"python main_memo.py --resume {shlex.quote(str(folder))}"
            if len(call.seeds) > 1:
                again += ", or for all its class orders the same command again with --resume"
            log.info("%s; to go on: %s", say, again)
            raise
        except TrainingError as error:
            log.debug("%s", error)
            raise TrainingError(f"{error} {_kept(folder)}") from error
    return progress.metrics


def _budget(config: Config, tasks: DataManager) -> str:
    """Return the table of what the network and the exemplars will cost."""
    sizes = tasks.task_sizes[: tasks_to_do(config)]
    budget = config.memory_size
    if config.fixed_memory:
        budget = config.memory_per_class * sum(sizes)
    cost = Cost.after(config.model_name, config.dataset, config.convnet_type, sizes, budget)
    return run_table(cost, len(sizes))


@dataclass
class Progress:
    """How far a run has come, and what it achieved."""

    metrics: Metrics
    exemplars: list[int]  # held after each task
    seconds: list[float]  # that each finished task took
    trained: bool = False  # the training of the task in progress is over
    spent: float = 0.0  # seconds on the task in progress, when it was saved

    def add(self, predictions: Predictions, exemplars: int, seconds: float) -> None:
        """Note what a finished task gave."""
        self.metrics.append(predictions.cnn, predictions.nme, predictions.targets)
        self.exemplars.append(exemplars)
        self.seconds.append(seconds)
        self.trained, self.spent = False, 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {**vars(self), "metrics": self.metrics.to_dict()}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Progress":
        """Return what `to_dict` described."""
        return cls(**{**state, "metrics": Metrics.from_dict(state["metrics"])})


def _write_task(
    folder: Path,
    config: Config,
    tasks: DataManager,
    learner: Learner,
    logbook: Logbook,
    progress: Progress,
    predictions: Predictions,
) -> None:
    """Write and say what a finished task gave."""
    metrics, exemplars, seconds = progress.metrics, progress.exemplars, progress.seconds
    finished = len(seconds) == tasks_to_do(config)
    # The results first: a disk too full for the network may have room for them.
    logbook.write_task(
        metrics,
        exemplars,
        seconds,
        predictions,
        tasks.class_order,
        finished,
        epochs=learner.epochs,
        weight_norms=learner.weight_norms,
        blocks=learner.blocks.rows if learner.blocks else (),
    )
    log.info("%s", task_line(metrics.tasks[-1], tasks.num_tasks, exemplars[-1], seconds[-1]))
    save_task_checkpoint(
        folder / f"task_{len(seconds)}.pt",
        {
            "convnet_type": config.convnet_type,
            "dataset": config.dataset,
            "task": len(seconds),
            "task_sizes": tasks.task_sizes,
            "class_order": tasks.class_order,
            "network": learner.network.state_dict(),
            "exemplars": learner.memory.state_dict(),
            "test_accuracy": metrics.tasks[-1].cnn_top1,
        },
    )
    if finished:
        log.info("%s", final_table(metrics, exemplars, seconds))


def _take_up(folder: Path, config: Config) -> dict[str, Any] | None:
    """Return the checkpoint that a run goes on from, and bring its folder back to that moment.

    Lines of main.log about work that will be done again are cut off, so that none is there twice.
    """
    remove_leftovers(folder)
    checkpoint, warning = load_run(folder)
    if warning:
        log.warning("%s", warning)
        # Kept for who wants to look at it, but it must not take the place of the good one.
        os.replace(folder / NEWEST, folder / "checkpoint_damaged.pt")
    if checkpoint is None:
        log.info("%s has no checkpoint yet; starting from the beginning there", folder)
        os.truncate(folder / "main.log", 0)
        return None
    refuse_changes(folder, checkpoint["config"] | {"seed": config.seed}, config)
    recorded = checkpoint["config"].get("record_blocks", False)
    if recorded != config.record_blocks and tasks_done(checkpoint) < tasks_to_do(config):
        raise CheckpointError(
            f"the run in {folder} was begun {'with' if recorded else 'without'} --record_blocks; "
            "blocks are recorded from the beginning of a run or not at all"
        )
    length = min(checkpoint["log_bytes"], (folder / "main.log").stat().st_size)
    if tasks_done(checkpoint) < tasks_to_do(config):
        os.truncate(folder / "main.log", length)
    return checkpoint


def _finished(folder: Path) -> Metrics:
    """Say that there is nothing left to do in a run; return what it achieved."""
    checkpoint, _ = load_run(folder)
    progress = Progress.from_dict(checkpoint["progress"])
    metrics = progress.metrics
    log.info("%s is finished: nothing to do", folder)
    log.info("%s", final_table(metrics, progress.exemplars, progress.seconds))
    return metrics


def _kept(folder: Path) -> str:
    """Say what a run that cannot go on leaves."""
    if (folder / NEWEST).exists():
        return f"(the checkpoint from before is kept in {folder})"
    return f"(there was no checkpoint yet; the log is in {folder})"


def estimate_seconds(config: Config) -> float:
    """Estimate the time that the training of all class orders takes on this CPU, in seconds.

    Times a training step of the first task's network and one of the second's: each further task
    adds one more frozen block, which costs what the second one's did.
    """
    facts = DATASETS[config.dataset]
    classes = num_classes(config.dataset, config.synthetic_classes)
    per_class = facts.train_images / facts.classes
    if config.dataset == "synthetic":
        per_class = config.synthetic_train_per_class
    task_sizes = split_classes(classes, config.init_cls, config.increment)
    network = AdaptiveNet(config.convnet_type)
    # No larger than a usual batch: the memory of the real one is not this estimate's to ask for.
    images = torch.zeros(min(config.batch_size, 128), 3, facts.image_size, facts.image_size)
    step_times = []
    for new_classes in task_sizes[:2]:
        network.grow(new_classes)
        first = len(step_times) == 0
        network.freeze(
            generalized=not (first or config.train_base),
            old_specialized=not (first or config.train_adaptive),
        )
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            logits = network(images)["logits"]
            F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64)).backward()
            times.append(time.perf_counter() - begin)
        step_times.append(min(times))
    per_block = step_times[1] - step_times[0] if len(step_times) > 1 else 0.0
    seconds = 0.0
    for task in range(1 if config.skip else 0, tasks_to_do(config)):
        epochs = config.init_epoch if task == 0 else config.epochs
        known = sum(task_sizes[:task])
        stored = known * config.memory_per_class if config.fixed_memory else config.memory_size
        shown = task_sizes[task] * per_class + (stored if task else 0)
        seconds += epochs * shown / len(images) * (step_times[0] + task * max(per_block, 0.0))
    return len(config.seed) * seconds


def make_loaders(
    data: ImageArrays, tasks: DataManager, device: torch.device
) -> tuple[ResidentLoader, ResidentLoader]:
    """Return the training and the test images on a device, with the labels of the class order."""
    train, test = TrainTransform(data.mean, data.std), EvalTransform(data.mean, data.std)
    return (
        ResidentLoader(data.train_images, tasks.train_labels, train, test, device),
        ResidentLoader(data.test_images, tasks.test_labels, train, test, device),
    )


def _report_seeds(seeds: list[int], results: list[Metrics]) -> None:
    """Say mean and standard deviation over several class orders."""
    for name, values in (
        ("average accuracy", [metrics.average_accuracy for metrics in results]),
        ("last accuracy", [metrics.last_accuracy for metrics in results]),
    ):
        log.info(
            "%s of the classifier over %d class orders: %.2f ± %.2f %% (standard deviation)",
            name,
            len(seeds),
            statistics.mean(values),
            statistics.stdev(values),
        )


def _order_name(config: Config, seed: int) -> str:
    if config.class_order:
        return "given"
    return str(seed) if config.shuffle else "as numbered"


def _sizes(task_sizes: list[int]) -> str:
    """Return "10" for equal tasks, else "50 + 10 + 10" (shortened when long)."""
    if len(set(task_sizes)) == 1:
        return str(task_sizes[0])
    shown = [str(size) for size in task_sizes]
    return " + ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])
