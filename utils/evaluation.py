"""Testing a run's network again, from the file of a task, and handing out its weights.

    python main_memo.py --evaluate RUN_DIR                  the last task's network
    python main_memo.py --evaluate RUN_DIR --task 2         that after task 2
    python main_memo.py --evaluate RUN_DIR --export FILE    also write its plain state dict

Nothing in the run's folder is changed, so a run that is still going can be looked at.
"""

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

from models import METHODS
from utils.checkpoint import CheckpointError, load_task_checkpoint, save_state_dict
from utils.config import Config
from utils.data import data_settings, describe, load_dataset
from utils.data_manager import DataManager
from utils.devices import resolve_devices, set_up_cudnn
from utils.experiment import make_loaders
from utils.inc_net import state_mismatch
from utils.logbook import LOGGER, setup_console, task_line
from utils.metrics import TaskMetrics, evaluate_task
from utils.resume import read_notes, refuse_changes, refuse_other_files

# What a network and its exemplars tell by themselves; forgetting belongs to the whole run.
_MEASURED = ("cnn_top1", "cnn_top5", "nme_top1", "nme_top5", "old_top1", "new_top1")


def evaluate_run(config: Config, run_dir: str | Path, task: int | None, export: str | None) -> str:
    """Rebuild a run's network after a task, test it, and say what came out, in a few lines.

    Args:
        config: the settings of the run; where and how it is computed may differ.
        run_dir: the run's folder.
        task: which task's file, counted from 1; None is the last one there.
        export: where to write the network's plain state dict, if anywhere.

    Raises:
        CheckpointError: the folder, the task's file or the file to write cannot be used.
        DataError: the data set is missing or damaged.
    """
    setup_console()
    set_up_cudnn(config.deterministic)
    folder = Path(run_dir)
    notes = read_notes(folder / "config.json")
    if notes is not None:
        refuse_changes(folder, notes, config)
    saved = _load(folder, task)
    said = ""
    if export is not None:
        said = _export(Path(export), saved)

    devices, warning = resolve_devices(config.device)
    if warning:
        LOGGER.warning("%s", warning)
    settings = data_settings(config.to_dict(), (notes or {}).get("_data"))
    data = load_dataset(config.dataset, config.data_dir, **settings)
    refuse_other_files(folder, notes, describe(data))
    tasks = DataManager(
        data.train_labels,
        data.test_labels,
        saved["class_order"],
        config.init_cls,
        config.increment,
    )
    train_data, test_data = make_loaders(data, tasks, devices[0], config.num_workers)
    learner = METHODS[config.model_name](config, tasks, train_data, test_data, devices)
    for _ in range(saved["task"]):
        learner.begin_task()
    problem = state_mismatch(learner.network.state_dict(), saved["network"])
    if problem:
        raise CheckpointError(f"task_{saved['task']}.pt in {folder} does not fit: {problem}")
    learner.network.load_state_dict(saved["network"])
    learner.memory.load_state_dict(saved["exemplars"])
    predictions = learner.evaluate()
    train_data.close()
    test_data.close()
    measured = evaluate_task(
        saved["task"], predictions.cnn, predictions.nme, predictions.targets, tasks.task_sizes
    )
    each = " ".join("-" if top1 is None else f"{top1:.2f}" for top1 in measured.per_task_top1)
    return (
        f"{task_line(measured, tasks.num_tasks, len(learner.memory))}\n"
        f"CNN on the classes of each task: {each}\n"
        f"{_compare(folder / 'curves.csv', measured)}\n{said}"
    )


def _load(folder: Path, task: int | None) -> dict[str, Any]:
    """Read the file of a task, or of the last one there."""
    there = sorted(
        int(path.stem.removeprefix("task_"))
        for path in folder.glob("task_*.pt")
        if path.stem.removeprefix("task_").isdecimal()
    )
    if not there:
        raise CheckpointError(
            f"{folder} has no task_N.pt: no task of a run has been finished there"
        )
    if task is not None and task not in there:
        raise CheckpointError(
            f"{folder} has no task_{task}.pt; --task can be {', '.join(map(str, there))}"
        )
    saved = load_task_checkpoint(folder / f"task_{task or there[-1]}.pt")
    if "exemplars" not in saved:
        raise CheckpointError(
            f"task_{saved['task']}.pt in {folder} holds no exemplars to test with"
        )
    return saved


def _export(path: Path, saved: dict[str, Any]) -> str:
    """Write the plain state dict; say what must be known to load it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        save_state_dict(path, saved["network"])
    except OSError as error:
        raise CheckpointError(
            f"cannot write --export {path}: {error.strerror}; the path of a new file is needed, in "
            "a folder that is there and has room"
        ) from error
    sizes = saved["task_sizes"][: saved["task"]]
    classes = saved["class_order"][: sum(sizes)]
    return (
        f"{path}: state dict of {saved['convnet_type']} after tasks of {sizes} classes; class k of "
        f"the network is class c[k] of the data set, c = {json.dumps(classes)}\n"
    )


def _compare(path: Path, measured: TaskMetrics) -> str:
    """Say whether the accuracies are those that the run noted."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["task"] == str(measured.task)]
        noted = {name: rows[0][name] for name in _MEASURED}
    except (OSError, UnicodeDecodeError, KeyError, IndexError, csv.Error) as error:
        return f"there is nothing to compare with in {path} ({type(error).__name__})"
    here = {name: _cell(getattr(measured, name)) for name in _MEASURED}
    differing = [
        f"{name} is {here[name] or 'empty'} here and {noted[name] or 'empty'} there"
        for name in _MEASURED
        if here[name] != noted[name]
    ]
    if differing:
        return f"not the same as in {path}: {'; '.join(differing)}"
    return f"the same as in {path}"


def _cell(value: float | None) -> str:
    """Return a measure as curves.csv shows it, to six decimals."""
    return "" if value is None else str(round(value, 6))
