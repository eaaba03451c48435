"""Testing a run's network again, from the file of a task, and handing out its weights.

    python main_memo.py --evaluate RUN_DIR                  the last task's network
    python main_memo.py --evaluate RUN_DIR --task 2         that after task 2
    python main_memo.py --evaluate RUN_DIR --export FILE    also write it for use elsewhere

Nothing in the run's folder is changed, so a run that is still going can be looked at.

**An export** is two files: FILE, the plain state dict of an AdaptiveNet, and beside it the file of
the same name that ends in .json, which says what else is needed to use it:

    format                "memo-export-1"
    weights_sha256        of FILE, so that the two cannot be mixed up
    convnet_type          "memo_resnet32", "resnet32", ...
    shape                 of the network, for `AdaptiveNet.rebuild`
    task, task_sizes      after which task, counted from 1; the classes of each up to that one
    class_order           the data set's class at each position of the logits
    class_names           their names, or the data set's numbers in words where it has no names
    image_size, upright   side in pixels; whether images were turned as their EXIF orientation says
    mean, std             of each channel, of pixels scaled to [0, 1]
    test_accuracy         of the classifier on all these classes, percent
    dataset, model_name, program, torch      where it comes from; program is the run's git commit

`load_exported(FILE)` makes a network of the two.
"""

import csv
import errno
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from models import find_learner
from utils.augment import EvalTransform
from utils.catalog import DATASETS
from utils.checkpoint import (
    CheckpointError,
    load_state_dict,
    load_task_checkpoint,
    memo_shape,
    save_state_dict,
)
from utils.checkpoint_form import UNFIT
from utils.config import Config
from utils.data import data_settings, describe, load_dataset
from utils.data_manager import DataManager, split_classes
from utils.devices import resolve_devices, set_up_cudnn
from utils.engine.run import Run
from utils.experiment import make_loaders
from utils.files import read_json, write_file
from utils.images import eval_transform, open_image
from utils.inc_net import AdaptiveNet, state_mismatch
from utils.logbook import LOGGER, setup_console, task_line
from utils.metrics import TaskMetrics, evaluate_task
from utils.pixels import bits_a_sample, to_rgb
from utils.resume import refuse_changes, refuse_other_files
from utils.runs import read_config

EXPORT_FORMAT = "memo-export-1"

# What a network and its exemplars tell by themselves; forgetting belongs to the whole run.
_MEASURED = ("cnn_top1", "cnn_top5", "nme_top1", "nme_top5", "old_top1", "new_top1")


def evaluate_run(config: Config, run_dir: str | Path, task: int | None, export: str | None) -> str:
    """Rebuild a run's network after a task, test it, and say what came out, in a few lines.

    Args:
        config: the settings of the run; where and how it is computed may differ.
        run_dir: the run's folder.
        task: which task's file, counted from 1; None is the last one there.
        export: where to write the network for use elsewhere, if anywhere.

    Raises:
        CheckpointError: the folder, the task's file or the file to write cannot be used.
        DataError: the data set is missing or damaged.
    """
    setup_console()
    set_up_cudnn(config.deterministic)
    folder = Path(run_dir)
    notes, _ = read_config(folder)
    if notes:
        refuse_changes(folder, notes, config)
    saved = _load(folder, task)
    said = ""
    if export is not None:
        said = _export(Path(export), saved, _facts(saved, config, notes))

    devices, warning = resolve_devices(config.device)
    if warning:
        LOGGER.warning("%s", warning)
    settings = data_settings(config.to_dict(), notes.get("_data"))
    data = load_dataset(config.dataset, config.data_dir, **settings)
    refuse_other_files(folder, notes, describe(data))
    file = folder / f"task_{saved['task']}.pt"
    sizes = split_classes(data.num_classes, config.init_cls, config.increment)
    if saved["task_sizes"] != sizes:
        raise CheckpointError(f"{file} is of tasks of {saved['task_sizes']} classes, not {sizes}")
    tasks = DataManager(
        data.train_labels,
        data.test_labels,
        saved["class_order"],
        config.init_cls,
        config.increment,
    )
    loaders = make_loaders(data, tasks, devices[0], config.num_workers)
    learner = find_learner(config.model_name)(Run(config, tasks, *loaders, devices))
    network = {"shape": saved["shape"], "weights": saved["network"]}
    try:
        kept = saved["extra"], saved["exemplars"]
        learner.load_task(saved["task"] - 1, {"network": network}, *kept)
    except UNFIT as error:
        raise CheckpointError(f"{file} does not fit: {error}") from error
    predictions = learner.evaluate()
    for loader in loaders:
        loader.close()
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


def _facts(saved: dict[str, Any], config: Config, notes: dict[str, Any]) -> dict[str, Any]:
    """Return what an export says beside the weights."""
    noted = notes.get("_data") or {}
    sizes = saved["task_sizes"][: saved["task"]]
    classes = saved["class_order"][: sum(sizes)]
    names = noted.get("classes")
    return {
        "format": EXPORT_FORMAT,
        "convnet_type": saved["convnet_type"],
        "shape": saved["shape"],
        "task": saved["task"],
        "task_sizes": sizes,
        "class_order": classes,
        "class_names": [names[label] if names else str(label) for label in classes],
        "image_size": config.image_side,
        "upright": config.dataset == "folder",
        "mean": noted.get("mean") or config.mean or DATASETS[config.dataset].mean,
        "std": noted.get("std") or config.std or DATASETS[config.dataset].std,
        "test_accuracy": saved.get("test_accuracy"),
        "dataset": config.dataset,
        "model_name": config.model_name,
        "program": notes.get("_git_commit"),
        "torch": notes.get("_torch"),
    }


def _export(path: Path, saved: dict[str, Any], facts: dict[str, Any]) -> str:
    """Write the plain state dict and what must be known to use it; say so."""
    beside = _beside(path)
    if path == beside:
        raise CheckpointError(
            f"cannot write --export {path}: the file of that name says what the network is; give "
            f"the weights another ending, such as {path.with_suffix('.pt')}"
        )
    try:
        for each in (path, beside):
            if os.path.lexists(each):
                number = errno.EISDIR if each.is_dir() else errno.EEXIST
                raise OSError(number, os.strerror(number), str(each))
        save_state_dict(path, saved["network"])
        facts = {**facts, "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        write_file(beside, (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise CheckpointError(
            f"cannot write --export {error.filename or path}: {error.strerror}; the path of a new "
            "file is needed, in a folder that is there and has room"
        ) from error
    return (
        f"{path}: state dict of {facts['convnet_type']} after tasks of {facts['task_sizes']} "
        f"classes; {beside}: its classes, image size, mean and deviation\n"
    )


def _beside(path: Path) -> Path:
    """Return the path of the JSON that belongs to exported weights."""
    return path.parent / f"{path.stem}.json"


@dataclass(frozen=True)
class Exported:
    """A network that was exported, and what its images and answers mean.

    network: in evaluation mode, on the CPU; its "logits" (N, classes) follow `class_names`.
    facts: all that the JSON says.
    """

    network: AdaptiveNet
    class_names: list[str]
    facts: dict[str, Any]

    def preprocess(self, image: str | Path | Image.Image) -> Tensor:
        """Return what the network is shown of an image, (3, size, size) float32.

        As when the run was tested: resized, cropped in the middle, normalised.

        Args:
            image: its file, or the image itself where it has been opened with Pillow.

        Raises:
            DataError: it is no image, or one that training would have refused.
        """
        facts = self.facts
        if isinstance(image, Image.Image):
            image = to_rgb(image, bits_a_sample(image, "the image"), "the image")
        else:
            image = open_image(str(image), facts["upright"])
        pixels = eval_transform(facts["image_size"])(image)
        return EvalTransform(facts["mean"], facts["std"])(pixels[None])[0]


def load_exported(path: str | Path) -> Exported:
    """Return a network that `--export` wrote; neither its run nor the data set is needed.

    Args:
        path: of the weights; the JSON lies beside them.

    Raises:
        CheckpointError: a file is missing or damaged, or the two do not belong together.
    """
    path = Path(path)
    beside = _beside(path)
    try:
        facts = read_json(beside)
    except (OSError, ValueError):
        facts = {}
    if facts.get("format") != EXPORT_FORMAT:
        raise CheckpointError(
            f"{beside} is missing or is not what --export writes beside the weights (format = "
            f"{EXPORT_FORMAT!r}); copy it there with {path.name}, or export again"
        )
    state = load_state_dict(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != facts.get("weights_sha256"):
        raise CheckpointError(
            f"{path} is not the file that {beside} was written with (weights_sha256 is another); "
            "copy both of one export, or export again"
        )
    try:
        shape = facts.get("shape") or memo_shape(facts["convnet_type"], facts["task_sizes"])
        network = AdaptiveNet.rebuild(shape)
        problem = state_mismatch(network.state_dict(), state)
        if sum(facts["task_sizes"]) != network.num_classes:
            problem = (
                f"task_sizes of {sum(facts['task_sizes'])} and not {network.num_classes} classes"
            )
        if len(facts["class_names"]) != network.num_classes:
            problem = f"{len(facts['class_names'])} class_names for {network.num_classes} classes"
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise CheckpointError(f"{beside} does not describe {path} ({problem}); export again")
    network.load_state_dict(state)
    return Exported(network.eval(), facts["class_names"], facts)


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
