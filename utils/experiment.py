"""The run: every class order asked for, task by task, from the data to the files under logs/.

One class order (`seed`) is one run with a folder of its own. Everything a user sees on the terminal
is said here or by the progress bar of a task; everything a run leaves is written by the logbook.
"""

import contextlib
import logging
import os
import shlex
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import find_learner
from models.base import Learner, Predictions
from models.methods import find_method
from utils import pictures
from utils.augment import EvalTransform, TrainTransform
from utils.budget import Cost, run_table
from utils.checkpoint import (
    NEWEST,
    CheckpointError,
    load_run,
    save_run,
    save_task_checkpoint,
)
from utils.config import Config, ConfigError, changed_keys, require_log_folder
from utils.control import Control, Stopped, locked
from utils.data import DataError, ImageArrays, ImageFiles, data_settings, describe, load_dataset
from utils.data_manager import DataManager, make_class_order, split_classes
from utils.devices import (
    device_of_rank,
    machine_facts,
    peak_memory,
    resolve_devices,
    set_up_cudnn,
)
from utils.distributed import Group
from utils.engine.fit import TrainingError
from utils.engine.run import Run
from utils.exemplars import ExemplarMemory
from utils.file_loader import FileLoader, FileReader
from utils.files import remove_leftovers
from utils.images import SystemLimitError
from utils.loader import ResidentLoader
from utils.logbook import (
    Logbook,
    final_table,
    provenance,
    require_tensorboard,
    run_folder,
    runs_folder,
    setup_console,
    task_line,
)
from utils.metrics import HEADLINES, Metrics
from utils.precision import precision_warning, resolve_precision
from utils.progress import Display, Forecast, work_of
from utils.resume import (
    Call,
    changed_machine,
    find_call,
    is_finished,
    noted_data,
    refuse_changes,
    refuse_other_files,
    tasks_done,
    tasks_to_do,
)
from utils.runs import read_config, title_of
from utils.seeds import WEIGHTS, random_state, set_random_state, stream_seed

log = logging.getLogger("memo")


def run(
    config: Config,
    resume: str | bool | None = None,
    started: float | None = None,
    warnings: Sequence[str] = (),
    group: Group | None = None,
) -> list[Metrics]:
    """Run the experiment once for every class order in `config.seed`.

    Several processes that run it together (`group`) all call this.

    Args:
        config: the settings.
        resume: go on with the run in this folder or, for True, with the newest unfinished run
            that has these settings; None starts a new one.
        started: when the process began, of time.monotonic(), for `config.max_minutes`.
        warnings: what the terminal has been told of the settings already, for main.log.
        group: the processes, where there are several.

    Returns:
        the metrics of each run, in the order of the seeds.

    Raises:
        DataError: the data set is missing or damaged.
        CheckpointError: the file to start from, or the run to go on with, cannot be used.
        TensorBoardError: asked for, but not installed.
        ConfigError: the devices do not allow what is asked for.
        FolderInUseError: another process is running what is to be resumed.
        TrainingError: training cannot go on.
        Stopped: the run was asked to stop and has been saved.
        OSError: something cannot be written; the error names it.
        RankZeroFailedError: not on rank 0, which raised one of the others.
    """
    group = group or Group()
    setup_console(logging.INFO if group.main else logging.ERROR)
    if config.tensorboard:
        group.on_main(require_tensorboard)
    set_up_cudnn(config.deterministic)
    call = group.from_main(find_call, config, resume)
    finished = group.from_main(_all_finished, call, config)
    if finished:
        return finished
    group.on_main(_require_first_task, config)
    group.on_main(_require_folders, config, call)
    devices, warning = group.from_main(find_devices, config, group)
    if group.world > 1:  # each process has its own
        devices, _ = find_devices(config, group)
    if devices[0].type == "cuda":
        torch.cuda.set_device(devices[0])
    noted = group.from_main(noted_data, call)
    data = group.on_main(_load_data, config, noted)  # first alone: it may download
    if not group.main:
        data = _load_data(config, noted)
    if devices[0].type == "cpu" and config.device != [-1]:
        warning = warning or "no GPU on this machine: using the CPU"
    for sentence in data.listing.found if data.listing else ():
        log.info("%s: %s", config.dataset, sentence)
    notes = list(warnings)
    unsupported = precision_warning(resolve_precision(config.precision, devices[0]), devices[0])
    unlimited = memory_warning(config, data.train_labels)
    for sentence in filter(None, (warning, unsupported, unlimited)):
        log.warning("%s", sentence)
        notes.append(sentence)
    with Control(config.checkpoint_every, config.max_minutes, started, group) as control:
        session = Session(config, data, devices, group, control, call, notes)
        results = [run_class_order(session, seed) for seed in config.seed]
    _report_seeds(config, results)
    others = [seed for seed in call.seeds if seed not in config.seed]
    if others:
        log.info(
            "class orders %s belong to the same call: to go on with all of them, give the first "
            "command again with --resume",
            ", ".join(map(str, others)),
        )
    return results


@dataclass(frozen=True)
class Session:
    """What the runs of one call of the program have in common.

    notes: warnings that the terminal has had before there was a main.log.
    """

    config: Config
    data: ImageArrays | ImageFiles
    devices: list[torch.device]
    group: Group
    control: Control
    call: Call
    notes: Sequence[str]

    def run_of(self, seed: int, device: torch.device | None = None, workers: int = 0) -> Run:
        """Return what the learner of a class order works with, on another device if one is given.

        Args:
            seed: of the class order.
            device: where to compute, alone; None means where the session does.
            workers: processes that read images.
        """
        tasks = make_tasks(self.config, self.data, seed)
        devices = self.devices if device is None else [device]
        loaders = make_loaders(self.data, tasks, devices[0], workers)
        group = self.group if device is None else Group()
        return Run(self.config, tasks, *loaders, devices, group)


def find_devices(config: Config, group: Group) -> tuple[list[torch.device], str | None]:
    """Return the devices of this process, and a warning where they are not those asked for.

    Raises:
        ConfigError: the devices do not allow what is asked for.
    """
    if group.world == 1:
        devices, warning = resolve_devices(config.device)
        wrong = len(devices) > 1
    else:
        device, warning = device_of_rank(config.device, group.local_rank, group.local_world)
        devices, wrong = [device], device.type == "cpu"
    if config.sync_batchnorm and wrong:
        raise ConfigError(
            [
                "sync_batchnorm is for several processes with a GPU each (torchrun "
                f"--nproc_per_node=N main_memo.py), but here "
                f"{'several GPUs share one process' if group.world == 1 else 'they are on CPUs'}; "
                "leave it out, or start the program so"
            ]
        )
    return devices, warning


def _all_finished(call: Call, config: Config) -> list[Metrics]:
    """Return what all runs of a call achieved, or nothing if there is something left to do."""
    folders = [call.folders.get(seed) for seed in config.seed]
    if not all(folder and is_finished(folder, config) for folder in folders):
        return []
    results = [_finished(folder) for folder in folders]
    _report_seeds(config, results)
    return results


def _require_first_task(config: Config) -> None:
    if not config.skip:
        return
    path = config.init_checkpoint
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        what = "is no regular file" if os.path.lexists(path) else "is not there"
        raise CheckpointError(f"{path} {what}; --init_checkpoint must name a trained first task")


def _require_folders(config: Config, call: Call) -> None:
    """Raise ConfigError, before anything is read or trained, where no run can be written."""
    for folder in {call.folders.get(seed, runs_folder(config)) for seed in config.seed}:
        require_log_folder(folder)


def _load_data(config: Config, noted: dict[str, Any] | None) -> ImageArrays | ImageFiles:
    settings = data_settings(config.to_dict(), noted)
    data = load_dataset(config.dataset, config.data_dir, **settings)
    if data.listing and data.num_classes != config.classes:
        raise DataError(
            f"classes were added to {config.data_dir} or taken away while the program started; "
            "start it again"
        )
    return data


def run_class_order(session: Session, seed: int) -> Metrics:
    """Run all tasks of one class order, or those that are left of it.

    Its files are brought up to date after every task, its checkpoint more often.
    """
    config, group, call = session.config, session.group, session.call
    resumed = seed in call.folders
    folder = call.folders.get(seed) or group.from_main(run_folder, config, seed, time.time())
    with contextlib.ExitStack() as stack:
        if not resumed:
            group.on_main(stack.enter_context, _leaving_nothing_useless(folder))
        group.on_main(stack.enter_context, locked(folder))
        if resumed:
            there = read_config(folder)[0]
            group.on_main(refuse_other_files, folder, there, describe(session.data))
        checkpoint = group.from_main(_checkpoint_of, folder, session, seed) if resumed else None
        if checkpoint and tasks_done(checkpoint) >= tasks_to_do(config):
            return group.from_main(_finished, folder)
        metrics = _run_in_folder(session, seed, folder, checkpoint)
        with _saying_how_to_go_on(folder, call, group, "all is saved but its pictures; "):
            group.on_main(_draw, folder, session.control)
        log.info("results and pictures: %s", folder)
        return metrics


def _run_in_folder(
    session: Session, seed: int, folder: Path, checkpoint: dict[str, Any] | None
) -> Metrics:
    """Run the tasks of one class order that come after a checkpoint, or all of them."""
    config, group, control = session.config, session.group, session.control
    with contextlib.ExitStack() as stack:
        writer = _Writer(session, seed, folder)
        group.on_main(stack.enter_context, writer)  # the other ranks write nothing
        stack.enter_context(_saying_how_to_go_on(folder, session.call, group))
        torch.manual_seed(stream_seed(config.torch_seed, WEIGHTS))
        run = session.run_of(seed, workers=config.num_workers)
        stack.callback(run.train_data.close)
        stack.callback(run.test_data.close)
        learner = find_learner(config.model_name)(run)
        progress = writer.begin(learner, checkpoint)
        began = time.perf_counter() - progress.spent  # the task in progress

        def save() -> None:
            learner.engine.collect()
            group.on_main(writer.write_checkpoint, learner, progress, time.perf_counter() - began)

        def end_task() -> tuple[Progress, dict[str, Any]]:
            task, doing = len(progress.seconds), run.display.doing
            with control.interruptible():
                with doing("choosing exemplars", task):
                    learner.end_task()
                with doing("testing", task):
                    predictions = learner.evaluate()
            progress.add(predictions, len(learner.memory), time.perf_counter() - began)
            progress.peak_memory = max(progress.peak_memory, peak_memory(run.devices[0]))
            writer.write_task(learner, progress, predictions)
            return progress, learner.hand_out()

        control.save = save
        run.control = control
        while len(progress.seconds) < tasks_to_do(config):
            if learner.task < len(progress.seconds):
                began = time.perf_counter()
                learner.begin_task()
            if not progress.trained:
                learner.learn_task()
                progress.trained = True
                control.checkpoint()
            progress, handed = group.from_main(end_task)
            learner.follow(handed)
            began = time.perf_counter()
            if len(progress.seconds) < tasks_to_do(config):
                control.checkpoint()
            else:
                save()  # finished: a request to stop that came now has nothing left to stop
    return progress.metrics


@contextlib.contextmanager
def _leaving_nothing_useless(folder: Path) -> Iterator[None]:
    """Remove the folder of a new run that an error ends before there is anything to go on from."""
    try:
        yield
    except TrainingError:
        raise  # the log shows how it came to that
    except Exception:
        if not any(folder.glob("*.pt")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def _saying_how_to_go_on(folder: Path, call: Call, group: Group, left: str = "") -> Iterator[None]:
    """Say, when a run ends early, what it leaves and how to go on with it."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stop:
        say = f"stopped by {stop}" if isinstance(stop, Stopped) else "left at once"
        several = f"torchrun --nproc_per_node={group.local_world}"
        start = several if group.world > 1 else "python"
        again = f"{start} main_memo.py --resume {shlex.quote(str(folder))}"
        if len(call.seeds) > 1:
            again += ", or for all its class orders the same command again with --resume"
        log.info("%s; %sto go on: %s", say, left, again)
        raise
    except (
        TrainingError,
        DataError,
        SystemLimitError,
    ) as error:  # of data: an image that cannot be read
        log.debug("%s", error)
        if isinstance(error, DataError) and not any(folder.glob("*.pt")):
            raise  # nothing is kept
        raise type(error)(f"{error} {_kept(folder)}") from error


def _budget(config: Config, tasks: DataManager) -> str:
    """Return the table of what the network and the exemplars will cost."""
    sizes = tasks.task_sizes[: tasks_to_do(config)]
    budget = config.memory_size
    if config.fixed_memory:
        budget = config.memory_per_class * sum(sizes)
    kind = config.model_name, config.dataset, config.convnet_type
    cost = Cost.after(*kind, sizes, budget, config.image_size)
    return run_table(cost, len(sizes))


@dataclass
class Progress:
    """How far a run has come, and what it achieved."""

    metrics: Metrics
    exemplars: list[int]  # held after each task
    seconds: list[float]  # that each finished task took
    trained: bool = False  # the training of the task in progress is over
    spent: float = 0.0  # seconds on the task in progress, when it was saved
    peak_memory: int = 0  # bytes

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


class _Writer:
    """What one run leaves in its folder and says; a context manager, for rank 0 alone."""

    def __init__(self, session: Session, seed: int, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.settings = {**session.config.to_dict(), "seed": [seed]}
        self.logbook: Logbook | None = None
        self.machines: list[dict[str, Any]] = []
        self.about: dict[str, Any] = {}

    def __enter__(self) -> "_Writer":
        config, call, data = self.session.config, self.session.call, self.session.data
        devices = self.session.devices
        self.about = {"_call": call.name, "_seeds": call.seeds}
        self.about |= provenance(devices, self.session.group.world)
        self.about["_precision"] = resolve_precision(config.precision, devices[0])
        if describe(data):
            self.about["_data"] = describe(data)
        self.logbook = Logbook(
            self.folder,
            find_method(config.model_name),
            tensorboard=config.tensorboard,
            class_names=data.listing.classes if data.listing else (),
        )
        self.logbook.write_config({**self.settings, **self.about})
        return self

    def __exit__(self, *exception: object) -> None:
        self.logbook.__exit__(*exception)

    def begin(self, learner: Learner, checkpoint: dict[str, Any] | None) -> "Progress":
        """Say what begins or is resumed, and resume it: all processes load the checkpoint."""
        config, data, run = self.session.config, self.session.data, learner.run
        group = run.group
        run.files = data.listing.identity if data.listing else None
        if group.main:
            seed = self.settings["seed"][0]
            work = work_of(config, run.tasks, tasks_to_do(config))
            forecast = Forecast(work, config.seed[config.seed.index(seed) + 1 :])
            run.display = Display(run.tasks.num_tasks, forecast, shown=True)
            run.write_epochs = self.logbook.write_epochs
        self.machines = list(checkpoint["machines"]) if checkpoint else []
        machine = machine_facts(config, run.devices, group.world)
        if machine not in self.machines:
            self.machines.append(machine)
        if checkpoint is None:
            log.info("%s", title_of(self.settings, run.tasks.task_sizes))
            where = ", ".join(str(device) for device in run.devices)
            if group.world > 1:
                where = f"{group.world} processes, the first on {where}"
            log.info("on %s; logs in %s", where, self.folder)
            group.on_main(self._write_notes)
            log.info("%s", _budget(config, run.tasks))
            return Progress(Metrics(run.tasks.task_sizes), [], [])
        learner.load_state_dict(checkpoint["learner"])
        progress = Progress.from_dict(checkpoint["progress"])
        set_random_state(checkpoint["random"])
        task = len(progress.seconds)
        where = "in" if learner.task == task else "before"
        log.info("resumed %s task %d: going on with %s", where, task + 1, self.folder)
        warning = changed_machine(self.machines)
        if warning:
            log.warning("%s", warning)
        return progress

    def _write_notes(self) -> None:
        """Put into main.log what the terminal was told before there was one."""
        listing = self.session.data.listing
        for sentence in listing.found if listing else ():
            self.logbook.note(f"{self.session.config.dataset}: {sentence}", logging.INFO)
        for note in self.session.notes:
            self.logbook.note(note)

    def write_checkpoint(self, learner: Learner, progress: "Progress", spent: float) -> None:
        """Save the run as it is now, `spent` seconds into its task."""
        progress.spent = spent
        progress.peak_memory = max(progress.peak_memory, peak_memory(self.session.devices[0]))
        versions = {key: str(self.about[key]) for key in ("_python", "_torch", "_numpy")}
        save_run(
            self.folder,
            {
                "config": self.settings,
                "machines": self.machines,
                "call": [self.session.call.name, self.session.call.seeds],
                "versions": versions,
                "learner": learner.state_dict(),
                "progress": progress.to_dict(),
                "random": random_state(),
                "log_bytes": self.logbook.sync(),
            },
        )

    def write_task(self, learner: Learner, progress: "Progress", predictions: Predictions) -> None:
        """Write and say what a finished task gave."""
        config, tasks = learner.config, learner.tasks
        metrics, exemplars, seconds = progress.metrics, progress.exemplars, progress.seconds
        finished = len(seconds) == tasks_to_do(config)
        # The results first: a disk too full for the network may have room for them.
        self.logbook.write_task(
            metrics,
            exemplars,
            seconds,
            predictions,
            tasks.class_order,
            finished,
            epochs=learner.engine.epochs,
            weight_norms=learner.weight_norms,
            blocks=learner.engine.blocks.rows if learner.engine.blocks else (),
            peak_memory=progress.peak_memory,
        )
        log.info("%s", task_line(metrics.tasks[-1], tasks.num_tasks, exemplars[-1], seconds[-1]))
        save_task_checkpoint(
            self.folder / f"task_{len(seconds)}.pt",
            {
                "model_name": config.model_name,
                "convnet_type": config.convnet_type,
                "dataset": config.dataset,
                "task": len(seconds),
                "task_sizes": tasks.task_sizes,
                "class_order": tasks.class_order,
                "shape": learner.network.shape(),
                "network": learner.network.state_dict(),
                "extra": learner.extra_state(),
                "exemplars": learner.memory.state_dict(),
                "test_accuracy": metrics.tasks[-1].cnn_top1,
                "draws": learner.draws(),
                "files": learner.run.files,
            },
        )
        if finished:
            log.info("%s", final_table(metrics, exemplars, seconds, learner.method))


def _require_fit(checkpoint: dict[str, Any], session: Session, seed: int) -> None:
    """Raise ValueError, or another of UNFIT, if a run could not go on from what a checkpoint says.

    Tried with a learner that is thrown away: the one that is to go on must not be left half-way.
    """
    run = session.run_of(seed, torch.device("cpu"))
    if checkpoint["progress"]["metrics"]["task_sizes"] != run.tasks.task_sizes:
        raise ValueError("its tasks have other numbers of classes")
    learner = find_learner(session.config.model_name)(run)
    learner.load_state_dict(checkpoint["learner"])
    learner.rehearse()
    training, over = learner.engine.training, checkpoint["progress"]["trained"]
    if training and over:
        stage = training.stage
        if (stage.name, training.epoch) != (learner.method.stages[-1], stage.schedule.epochs):
            raise ValueError("its training is said to be over, but was not")


def make_tasks(config: Config, data: ImageArrays | ImageFiles, seed: int) -> DataManager:
    """Return the tasks of one class order."""
    order = config.class_order or make_class_order(data.num_classes, seed, config.shuffle)
    return DataManager(
        data.train_labels, data.test_labels, order, config.init_cls, config.increment
    )


def _checkpoint_of(folder: Path, session: Session, seed: int) -> dict[str, Any] | None:
    """Return the checkpoint that a run goes on from, and bring its folder back to that moment.

    Lines of main.log about work that will be done again are cut off, so that none is there twice.
    """
    config = session.config
    remove_leftovers(folder)

    def fits(content: dict[str, Any]) -> None:
        # Not where the settings are others: that is said below, in its own words.
        if not changed_keys(content["config"] | {"seed": config.seed}, config.to_dict()):
            _require_fit(content, session, seed)

    checkpoint, warning = load_run(folder, fits)
    if warning:
        log.warning("%s", warning)
        _set_aside(folder / NEWEST)
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


def _set_aside(newest: Path) -> None:
    """Rename a damaged checkpoint: kept for a look at it, but no longer in the good one's place."""
    aside = newest.with_name("checkpoint_damaged.pt")
    if newest.is_dir() or aside.is_dir():  # which no rename replaces
        aside = newest.with_name(f"checkpoint_damaged_{time.time_ns()}")
    os.replace(newest, aside)


def _finished(folder: Path) -> Metrics:
    """Say that there is nothing left to do in a run; return what it achieved.

    Pictures that are missing, because it was killed while it drew them, are drawn.
    """
    checkpoint, _ = load_run(folder)
    progress = Progress.from_dict(checkpoint["progress"])
    metrics = progress.metrics
    log.info("%s is finished: nothing to do", folder)
    if pictures.are_outdated(folder):
        log.info("but for its pictures, which are drawn now")
        _draw(folder)
    method = find_method(checkpoint["config"]["model_name"])
    log.info("%s", final_table(metrics, progress.exemplars, progress.seconds, method))
    return metrics


def _draw(folder: Path, control: Control | None = None) -> None:
    """Draw the pictures of a finished run; where they cannot be drawn, say so."""
    interruptible = control.interruptible() if control else contextlib.nullcontext()
    try:
        with interruptible, Display(shown=True).doing("drawing pictures"):
            pictures.draw_run(folder)
    except pictures.PicturesError as error:
        log.warning("%s", error)


def _kept(folder: Path) -> str:
    """Say what a run that cannot go on leaves."""
    if (folder / NEWEST).exists():
        return f"(the checkpoint from before is kept in {folder})"
    return f"(there was no checkpoint yet; the log is in {folder})"


def memory_warning(config: Config, train_labels: np.ndarray) -> str | None:
    """Say if no task of the run trains with a limited exemplar memory, or return None.

    Not noticed where only a class that never has exemplars in training (of the last task, or of one
    that is not run) is larger than its share.

    Args:
        config: the settings.
        train_labels: `(N,)` integer, original class ids from 0.
    """
    if not find_method(config.model_name).exemplars:
        return None
    sizes = split_classes(config.classes, config.init_cls, config.increment)[: tasks_to_do(config)]
    memory = ExemplarMemory(config.memory_size, config.fixed_memory, config.memory_per_class)
    largest = int(np.bincount(train_labels).max())
    if len(sizes) < 2 or memory.quota(sum(sizes[:-1])) < largest:
        return None
    name = "memory_per_class" if config.fixed_memory else "memory_size"
    return (
        f"{name} {getattr(config, name)} has room for every training image of the classes before "
        f"task {len(sizes)} (none has more than {largest}): no task up to that one trains with a "
        f"limited memory; a smaller {name} limits it"
    )


def make_loaders(
    data: ImageArrays | ImageFiles, tasks: DataManager, device: torch.device, num_workers: int = 0
) -> tuple[ResidentLoader, ResidentLoader] | tuple[FileLoader, FileLoader]:
    """Return the training and the test images for a device, with the labels of the class order.

    Images in memory are put on the device, those in files are read by `num_workers` processes.
    """
    test = EvalTransform(data.mean, data.std)
    if isinstance(data, ImageFiles):
        pinned = device.type == "cuda"
        reader = FileReader(*data.transforms, num_workers, pinned, data.upright)
        common = data.size, reader, test, device
        return (
            FileLoader(data.listing.train, tasks.train_labels, *common),
            FileLoader(data.listing.test, tasks.test_labels, *common),
        )
    train = TrainTransform(data.mean, data.std, data.padding)
    return (
        ResidentLoader(data.train_images, tasks.train_labels, train, test, device),
        ResidentLoader(data.test_images, tasks.test_labels, train, test, device),
    )


def _report_seeds(config: Config, results: list[Metrics]) -> None:
    """Say mean and standard deviation over several class orders; of one, nothing."""
    if len(results) < 2:
        return
    headline = find_method(config.model_name).headline
    for name, key in zip(("average", "last"), HEADLINES[headline], strict=True):
        values = [getattr(metrics, key) for metrics in results]
        log.info(
            "%s accuracy of %s over %d class orders: %.2f ± %.2f %% (standard deviation)",
            name,
            {"cnn": "the classifier", "nme": "NME"}[headline],
            len(results),
            statistics.mean(values),
            statistics.stdev(values),
        )
