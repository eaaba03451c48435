"""What a run leaves under logs/, and what it says on the terminal.

A run has a folder of its own (``run_folder``) and one ``Logbook`` that writes into it:

    main.log              what the terminal says about the run, and a line per epoch, with the time
    config.json           every setting of the run, and where it ran (``provenance``)
    curves.csv            a line per task: accuracies, forgetting, exemplars held, seconds
    accuracy_matrix.csv   a line per task: accuracy on the classes of each task so far
    per_class.csv         a line per class: accuracy after the last task
    summary.json          average and last accuracy, the curves, whether the run is finished
    predictions.npz       the predictions for the test images after the last task, and the truth
    training.csv          a line per epoch: learning rate, losses, accuracies, seconds
    weight_norms.csv      the lengths of the classifier's rows before and after each alignment
    blocks.csv            with --record_blocks: what each block went through (``utils.blocks``)
    tensorboard/          with --tensorboard: the numbers of training.csv and curves.csv once more

Pictures of all that are drawn from these files by ``utils.pictures`` when the run is finished.

Accuracies and forgetting are percent, 0 to 100; tasks count from 1; classes are positions in the
class order, and per_class.csv says which class of the data set each one is. What does not exist
(old classes in the first task, images of a later task, NME without exemplars) is an empty cell in a
CSV, null in a JSON.

Everything but main.log is written anew after every task (training.csv every few seconds, and
whenever the run is saved), each file to a temporary neighbour that then takes its name: whenever a
run dies, its folder holds whole files, this task's or the last's.
A write that fails, on a full disk for instance, raises an OSError that names the file.
"""

import contextlib
import csv
import importlib.metadata
import io
import json
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm import tqdm

from models.methods import Method
from utils.files import named, write_file
from utils.metrics import HEADLINES, Metrics, TaskMetrics
from utils.settings import printable
from utils.tables import duration

if TYPE_CHECKING:
    import torch

    from utils.config import Config

LOGGER = logging.getLogger("memo")
REPOSITORY = Path(__file__).resolve().parent.parent
# Raise it with every change that gives the same settings and seeds other results: runs of different
# versions are never averaged (utils/runs.py). Of runs without it, their commits are compared.
VERSION = 1
EPOCHS_EVERY = 5.0  # seconds between two writings of training.csv


def epoch_columns(method: Method) -> tuple[str, ...]:
    """Return the columns of a method's training.csv: a loss for each part, stages of several."""
    return (
        *("task", *["stage"] * (len(method.stages) > 1), "epoch", "lr", "loss"),
        *(f"loss_{part}" for part in method.loss_parts),
        *("train_acc", "test_acc", "seconds"),
    )


def runs_folder(config: "Config") -> Path:
    """Return the folder in which the folders of runs with these settings are."""
    names = "debug" if config.debug else "", config.prefix, config.dataset, config.model_name
    return Path(config.log_dir, *names)


def run_folder(config: "Config", seed: int, start_time: float) -> Path:
    """Create the folder of a run and return its path.

    ``{log_dir}/[debug/]{prefix}/{dataset}/{model_name}/{start time}_{convnet_type}_B{base}_Inc
    {increment}_ms{memory_size}_seed{seed}``, where base is 0 when the first task is as large as
    the others. Never a folder that is there already: of runs that start in the same second, the
    second gets "-2" at the end of its name, the third "-3", also when they start on two machines.

    Args:
        config: the settings of the run.
        seed: of its class order.
        start_time: seconds since 1970, as from ``time.time()``; the name has the local time.

    Raises:
        OSError: the folder cannot be created; the error names it.
    """
    base = 0 if config.init_cls == config.increment else config.init_cls
    start = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(start_time))
    split = f"B{base}_Inc{config.increment}"
    name = f"{start}_{config.convnet_type}_{split}_ms{config.memory_size}_seed{seed}"
    parent = runs_folder(config)
    parent.mkdir(parents=True, exist_ok=True)
    folder, copies = parent / name, 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            copies += 1
            folder = parent / f"{name}-{copies}"
        else:
            return folder


class Logbook:
    """Writes the files of one run. Use it as a context manager, or call ``close`` at the end.

    While it is open, everything logged to the logger "memo" is also appended to main.log.

    Args:
        folder: the run's folder; it must exist.
        method: the run's.
        tensorboard: write for TensorBoard too.
        class_names: of the original classes, where they have names that a user knows.
    """

    def __init__(
        self,
        folder: Path,
        method: Method,
        *,
        tensorboard: bool = False,
        class_names: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.method = method
        self.class_names = class_names
        self._log_file = _LogFile(self.folder / "main.log", encoding="utf-8")
        self._log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.setLevel(logging.DEBUG)  # the file has a line per epoch, the console has not
        LOGGER.addHandler(self._log_file)
        self._tensorboard = _TensorBoard(self.folder / "tensorboard") if tensorboard else None
        self._epochs: Sequence[dict[str, Any]] | None = None  # that training.csv does not have yet
        self._epochs_written = -math.inf  # when, of time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # why the run ends, a full disk perhaps, has been said
            self._write_epochs()
        self.close()

    def note(self, said: str, level: int = logging.WARNING) -> None:
        """Put a line into main.log that the terminal has had already."""
        self._log_file.handle(LOGGER.makeRecord(LOGGER.name, level, __file__, 0, said, (), None))

    def close(self) -> None:
        """Stop writing to main.log. Closing twice is fine."""
        LOGGER.removeHandler(self._log_file)
        self._log_file.close()
        if self._tensorboard:
            self._tensorboard.close()

    def sync(self) -> int:
        """Make sure that main.log and training.csv are on the disk; return main.log's bytes.

        Raises:
            OSError: one cannot be written; the error names it.
        """
        self._write_epochs()
        self._log_file.flush()
        descriptor = self._log_file.stream.fileno()
        try:
            os.fsync(descriptor)
            return os.fstat(descriptor).st_size
        except OSError as error:
            raise named(error, self._log_file.baseFilename) from error

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json, one flat object, in the order of the keys given."""
        self._write_json("config.json", config)

    def write_epochs(self, epochs: Sequence[dict[str, Any]]) -> None:
        """Keep training.csv up to date: all epochs so far, each a dict with `epoch_columns`.

        Tasks and epochs count from 1, accuracies are percent, losses are means over the epoch.
        Epochs of a second would spend a tenth of it on the file, so it is written when the last
        time is EPOCHS_EVERY ago; what then is missing, with the next save or task.
        """
        self._epochs = epochs
        if time.monotonic() - self._epochs_written >= EPOCHS_EVERY:
            self._write_epochs()

    def _write_epochs(self) -> None:
        epochs, self._epochs = self._epochs, None
        if epochs is None:
            return
        self._epochs_written = time.monotonic()
        columns = epoch_columns(self.method)
        rows = ([_significant(row[column]) for column in columns] for row in epochs)
        self._write_csv("training.csv", list(columns), rows)
        if self._tensorboard:
            numbers = columns[columns.index("epoch") + 1 :]
            self._tensorboard.write("training", epochs, numbers)

    def write_task(
        self,
        metrics: Metrics,
        exemplars: Sequence[int],
        seconds: Sequence[float],
        predictions: Any,
        class_order: Sequence[int],
        finished: bool,
        *,
        epochs: Sequence[dict[str, Any]] = (),
        weight_norms: Sequence[dict[str, list[float]]] = (),
        blocks: Sequence[dict[str, Any]] = (),
        peak_memory: int | None = None,
    ) -> None:
        """Write all results of the tasks so far; the files of the task before are replaced.

        Args:
            metrics: of the tasks so far, at least one.
            exemplars: number of exemplars held after each task.
            seconds: time each task took.
            predictions: of the last task, for all N test images of the classes seen so far:
                ``cnn`` and ``nme`` (N, k) int64, the most likely class first (``nme`` None without
                exemplars), and ``targets`` (N,).
            class_order: the data set's class at each position.
            finished: whether this was the last task that the run is to do.
            epochs: the rows of training.csv so far.
            weight_norms: L2 norms of the classifier's rows "before" and "after" the alignment of
                each task.
            blocks: the rows of `utils.blocks`, where they are recorded.
            peak_memory: bytes that the run has held at most.

        Raises:
            OSError: a file cannot be written; the error names it, and its former content is kept.
        """
        tasks = metrics.tasks
        targets = np.asarray(predictions.targets)
        curves = {
            **metrics.curves(),
            "exemplars": list(exemplars),
            "seconds": list(seconds),
        }
        self._write_csv("curves.csv", list(curves), zip(*curves.values(), strict=True))
        self._write_csv(
            "accuracy_matrix.csv",
            ["task", *(f"task_{task.task}" for task in tasks)],
            [[task.task, *row] for task, row in zip(tasks, metrics.accuracy_matrix(), strict=True)],
        )
        task_of_class = np.repeat(np.arange(len(tasks)) + 1, metrics.task_sizes[: len(tasks)])
        images = np.bincount(targets, minlength=len(task_of_class))
        named = len(self.class_names) > 0
        self._write_csv(
            "per_class.csv",
            ["class", "original_class", "task", "top1", "test_images", *["name"] * named],
            [
                [
                    *(position, class_order[position], task_of_class[position]),
                    *(top1, images[position]),
                    *([self.class_names[class_order[position]]] if named else []),
                ]
                for position, top1 in enumerate(tasks[-1].per_class_top1)
            ],
        )
        self._write_json(
            "summary.json",
            {
                "average_accuracy": metrics.average_accuracy,
                "last_accuracy": metrics.last_accuracy,
                "average_nme_accuracy": metrics.average_nme_accuracy,
                "last_nme_accuracy": metrics.last_nme_accuracy,
                "forgetting": tasks[-1].forgetting,
                "finished": finished,
                "tasks_finished": len(tasks),
                "tasks_total": len(metrics.task_sizes),
                "task_sizes": list(metrics.task_sizes),
                "exemplars": exemplars[-1],
                "seconds": sum(seconds),
                "peak_memory_bytes": peak_memory,
                "curves": curves,
            },
        )
        arrays = {"predictions": predictions.cnn, "nme_predictions": predictions.nme}
        arrays |= {"targets": targets, "class_order": class_order}
        content = io.BytesIO()
        there = {name: each for name, each in arrays.items() if each is not None}
        np.savez_compressed(content, **there)
        write_file(self.folder / "predictions.npz", content.getvalue())
        self._epochs = epochs
        self._write_epochs()
        self._write_csv(
            "weight_norms.csv",
            ["task", "class", "before", "after"],
            [
                [task, position, before, after]
                for task, norms in enumerate(weight_norms, 1)
                for position, (before, after) in enumerate(
                    zip(norms["before"], norms["after"], strict=True)
                )
            ],
        )
        if blocks:
            rows = (map(_significant, row.values()) for row in blocks)
            self._write_csv("blocks.csv", list(blocks[0]), rows)
        if self._tensorboard:
            rows = [
                dict(zip(curves, row, strict=True)) for row in zip(*curves.values(), strict=True)
            ]
            self._tensorboard.write("after_task", rows, list(curves)[2:])

    def _write_csv(self, name: str, header: list[str], rows: Iterable[Iterable]) -> None:
        """Write a table; None and NaN are empty cells."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)
        write_file(self.folder / name, text.getvalue().encode())

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write an object, indented; NaN, which JSON does not know, is refused."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_file(self.folder / name, f"{text}\n".encode())


def task_line(
    task: TaskMetrics, num_tasks: int, exemplars: int, seconds: float | None = None
) -> str:
    """Return what a run says after a task, in one line; accuracies are top-1."""
    parts = [
        f"task {task.task}/{num_tasks}: {task.classes_seen} classes seen",
        f"CNN {task.cnn_top1:.2f} %",
    ]
    if task.nme_top1 is not None:
        parts.append(f"NME {task.nme_top1:.2f} %")
    for name, top1 in (("old", task.old_top1), ("new", task.new_top1)):
        # In the first task every class is new; nothing is measured where no test image is.
        if task.task > 1 and top1 is not None:
            parts.append(f"{name} classes {top1:.2f} %")
    parts.append(f"{exemplars} exemplars")
    return ", ".join(parts if seconds is None else [*parts, duration(seconds)])


def final_table(
    metrics: Metrics, exemplars: Sequence[int], seconds: Sequence[float], method: Method
) -> str:
    """Return the table that ends a run: average and last accuracy, of the classifier and of NME.

    What the method is quoted by comes first, and is told of each task; of NME, CNN's is as well.

    Raises:
        ValueError: when no task has been evaluated yet.
    """
    if not metrics.tasks:
        raise ValueError("there is no result to show: final_table needs an evaluated task")
    last, total = metrics.tasks[-1], len(metrics.task_sizes)
    over = "over all tasks" if last.task == total else f"over {last.task} of {total} tasks"
    names = {"cnn": "CNN (the classifier)", "nme": "NME (nearest mean of exemplars)"}
    measured = [by for by in names if getattr(last, f"{by}_top1") is not None]
    lines = [
        f"top-1 accuracy in percent, {last.classes_seen} classes seen",
        f"{'':<34}{'average accuracy':>18}{'last accuracy':>18}",
        f"{'':<34}{over:>18}{f'after task {last.task}':>18}",
    ]
    for by in sorted(measured, key=lambda by: by != method.headline):
        average, latest = (getattr(metrics, key) for key in HEADLINES[by])
        lines.append(f"{names[by]:<34}{average:>18.2f}{latest:>18.2f}")
    for by in method.compared:
        top1 = " ".join(f"{getattr(task, f'{by}_top1'):.2f}" for task in metrics.tasks)
        lines.append(f"{by.upper()} after each task: {top1}")
    if last.forgetting is not None:
        lines.append(f"forgetting (CNN): {last.forgetting:.2f} points")
    lines.append(f"exemplars held: {exemplars[-1]}; time: {duration(sum(seconds))}")
    return "\n".join(lines)


def setup_console(level: int = logging.INFO) -> None:
    """Show what is logged to "memo" on stderr, above any tqdm bar; warnings say that they are one.

    Calling it again does not double the lines.

    Args:
        level: from which on it is shown.
    """
    for handler in LOGGER.handlers[:]:
        if isinstance(handler, _Console):
            LOGGER.removeHandler(handler)
    console = _Console(level)
    console.setFormatter(_ConsoleFormatter("%(message)s"))
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.addHandler(console)


def provenance(devices: Sequence["torch.device"], processes: int = 1) -> dict[str, Any]:
    """Return where and from what code this run comes, for config.json.

    The keys begin with "_", which marks them as comments when the file is given back as a config:
    versions, platform, processor, devices with their names, the command, and the git commit of this
    repository (None outside git) with whether tracked files differ from it. `_version` is that of
    the results, `VERSION`.
    """
    import torch

    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "_version": VERSION,
        "_command": shlex.join(["python", *sys.argv]),
        "_git_commit": commit,
        "_git_dirty": bool(changes) if commit else None,
        "_python": platform.python_version(),
        "_torch": torch.__version__,
        "_torchvision": importlib.metadata.version("torchvision"),
        "_numpy": np.__version__,
        "_cuda": torch.version.cuda if any(device.type == "cuda" for device in devices) else None,
        "_platform": platform.platform(),
        "_processor": _processor_name(),
        "_threads": torch.get_num_threads(),
        "_processes": processes,
        "_devices": [
            f"{device} ({torch.cuda.get_device_name(device)})"
            if device.type == "cuda"
            else str(device)
            for device in devices
        ],
    }


def require_tensorboard() -> None:
    """Raise a TensorBoardError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401
    except ImportError as error:
        raise TensorBoardError(
            "--tensorboard needs the package tensorboard, which is not installed here: "
            "python -m pip install tensorboard, or leave the flag out (training.csv and curves.csv "
            "hold the same numbers)"
        ) from error


class TensorBoardError(Exception):
    """TensorBoard cannot be written for; the message is one sentence for the user."""


class _TensorBoard:
    """The scalars of one run, in a folder that `tensorboard --logdir` shows.

    The tables are what counts, this is a copy: it is begun anew by a run that is resumed,
    and filled from the rows of its checkpoint. So there is never a step twice.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(log_dir=str(folder))
        self._written: dict[str, int] = {}  # rows of each table

    def write(self, table: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Write the rows that are new; the step is the row's number, from 1."""
        written = self._written.get(table, 0)
        for step, row in enumerate(rows[written:], written + 1):
            for column in columns:
                if row[column] is not None:
                    self._writer.add_scalar(f"{table}/{column}", row[column], step)
        self._written[table] = len(rows)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Console(logging.Handler):
    """Prints on stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


class _ConsoleFormatter(logging.Formatter):
    """Plain text; from warnings up, the level in front."""

    def format(self, record: logging.LogRecord) -> str:
        text = printable(super().format(record))
        return f"{record.levelname}: {text}" if record.levelno >= logging.WARNING else text


class _LogFile(logging.FileHandler):
    """Appends to main.log. When that fails, raises the error, which logging would only print."""

    failed = False

    def emit(self, record: logging.LogRecord) -> None:
        # The failure is raised once: after it, the message that tells the user must still get out.
        if not self.failed:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.failed = True
        raise named(error, self.baseFilename) from error

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:
            # Every line is flushed when it is logged: after a failure, closing fails on that line
            # again, and must not hide the error that is on its way already.
            if not self.failed:
                raise named(error, self.baseFilename) from error


def _cell(value: Any) -> Any:
    """Return a value as a CSV shows it: six decimals are far below one test image."""
    if value is None or value != value:
        return ""
    return round(float(value), 6) if isinstance(value, float | np.floating) else value


def _significant(value: Any) -> Any:
    """Return a number that may be tiny (a learning rate, a loss) as a CSV shows it."""
    return f"{value:.6g}" if isinstance(value, float) else value


def _git(*arguments: str) -> str | None:
    """Return what git says about this repository, or None outside git or without git."""

    def ask(*words: str) -> str | None:
        command = ["git", "-C", str(REPOSITORY), *words]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    # A copy without .git that lies inside another checkout must not be given that one's commit.
    top = ask("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != REPOSITORY:
        return None
    return ask(*arguments)


def _processor_name() -> str:
    """Return the processor's model name where the system tells it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
