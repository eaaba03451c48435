"""What is kept on disk: a run's checkpoints, a file after every task, trained first tasks to read.

**A run's checkpoint** (`save_run`, `load_run`) is all that is needed to go on from any training
step as if nothing had happened. The newest is checkpoint.pt, the one before it
checkpoint_previous.pt; a new one is read back before it takes their place.

**Our own task checkpoint** is one dict of plain values (tensors, numbers, strings, lists, dicts),
so that `torch.load(path, weights_only=True)` reads it and no code can hide in it:

    format         "memo-task-1"
    convnet_type   "memo_resnet32", ...
    task           1 for the first
    task_sizes     classes of each task, of the whole run
    class_order    original class ids in the order they are shown
    model_name     "memo", ...
    network        AdaptiveNet.state_dict()
    shape          AdaptiveNet.shape()
    extra          what the method keeps beside them
    exemplars      one int64 tensor per class: indices into the training set, in herding order
    test_accuracy  top-1 of the classifier after this task, percent

Both are plain values, written to a temporary file beside it, flushed to the disk and renamed, so
that a file of that name is always whole. Reading checks the CRC-32 sums inside it, which torch.load
does not. Files from before there were several methods lack model_name, shape and extra, and are
MEMO's; the checkpoints of such runs have one network. They are read as if they were written now.

**The survey's release** (Zhou et al., "Class-Incremental Learning: A Survey") of trained first
tasks is a dict of `convnet` (a whole network's state dict), `fc` (its classifier's) and `test_acc`
(percent, a NumPy scalar, for which exactly NumPy's scalar and dtype classes are let through).
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

import convs
from utils.checkpoint_form import UNFIT, require_run, require_task
from utils.config import resolve
from utils.files import named, open_file, sync_folder, write_file
from utils.inc_net import AdaptiveNet, state_mismatch
from utils.settings import printable

FORMAT = "memo-task-1"
RUN_FORMAT = "memo-run-1"
NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"
_AUX = "aux_classifier."
_DIGEST = 64  # hexadecimal digits of SHA-256
MOST_BYTES = 2**36  # of a checkpoint: 64 GiB, some five times that of a hundred tasks of ResNet-50
MOST_PICKLED = 2**28  # of them all but the tensors: 256 MiB; the records of a long run take 10
_REMEDY = "; copy or make it again, or give another file"

# How a pickle spells a NumPy scalar: a function and its dtype. NumPy 1 and 2 keep the function in
# different modules, and a file may come from either.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_SAFE_GLOBALS = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8")},
]


class CheckpointError(Exception):
    """A checkpoint cannot be written, read or used; the message is one sentence for the user."""


class SurveyCheckpoint(NamedTuple):
    """A first task as the survey released it, sorted into the parts of an AdaptiveNet."""

    generalized: dict[str, Tensor]
    specialized: dict[str, Tensor]
    classifier: dict[str, Tensor]
    test_accuracy: float  # percent


def save_task_checkpoint(path: str | Path, payload: dict[str, Any]) -> None:
    """Write a task checkpoint atomically; `format` is added to the payload.

    Raises:
        OSError: the file cannot be written; an older file of that name is untouched.
        TypeError: something in the payload would not load with weights_only=True.
    """
    _write(Path(path), {"format": FORMAT, **payload})


def save_state_dict(path: Path, network: dict[str, Tensor]) -> None:
    """Write a network's weights alone, for `torch.load(path, weights_only=True)` anywhere.

    Raises:
        OSError: the file cannot be written; an older file of that name is untouched.
    """
    _write(path, dict(network))


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read what `save_state_dict` wrote; all tensors are on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    content, whole = _read(path)
    if not whole or not isinstance(content, dict):
        raise CheckpointError(f"{path} is not what --export wrote; copy it again, or export again")
    return content


def save_run(folder: Path, content: dict[str, Any]) -> None:
    """Make `content` the newest checkpoint of a run; the newest so far becomes the previous one.

    Raises:
        OSError: it cannot be written, or does not read back; the other checkpoints are untouched.
        TypeError: something in it would not load with weights_only=True.
    """
    fresh, newest = folder / "checkpoint_new.pt", folder / NEWEST
    try:
        _write(fresh, {"format": RUN_FORMAT, **content})
        with open_file(fresh, MOST_BYTES) as file:
            whole = _is_whole(file)
        if not whole:
            raise OSError(errno.EIO, "what was written does not read back", str(fresh))
        if newest.exists():
            os.replace(newest, folder / PREVIOUS)
        os.replace(fresh, newest)
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise named(error, newest) from error


def load_run(
    folder: Path, fits: Callable[[dict[str, Any]], None] = lambda content: None
) -> tuple[dict[str, Any] | None, str | None]:
    """Read a run's newest good checkpoint; all tensors are on the CPU.

    Args:
        folder: of the run.
        fits: raises one of `UNFIT` where the content does not fit the run's data and network.

    Returns:
        what `save_run` was given, or None if the run has no checkpoint yet; and a sentence for the
        user where the newest is bad and this is the one before it, or None.

    Raises:
        CheckpointError: there are checkpoints, but none can be used.
    """
    newest, previous = folder / NEWEST, folder / PREVIOUS
    if not newest.exists() and not previous.exists():
        return None, None
    try:
        # A run killed between the two renames of `save_run` has only a previous one: no damage.
        return _as_run(newest if newest.exists() else previous, fits), None
    except CheckpointError as bad:
        if not (newest.exists() and previous.exists()):
            raise CheckpointError(f"{bad}; {_BEGIN_AGAIN.format(folder)}") from bad
        try:
            content = _as_run(previous, fits)
        except CheckpointError as worse:
            raise CheckpointError(f"{bad}; {worse}; {_BEGIN_AGAIN.format(folder)}") from worse
        return content, f"{bad}; going on from the one before it, {previous}"


_BEGIN_AGAIN = (
    "no good checkpoint is left in {0}: put a copy back, or delete it to begin this run again"
)


def _as_run(path: Path, fits: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    content, whole = _read(path, remedy="")
    _require_own(content, whole, path, RUN_FORMAT, "run's checkpoint")
    try:
        learner = content["learner"]
        if "network" in learner:  # of before there were several methods
            sizes = content["progress"]["metrics"]["task_sizes"]
            kind = content["config"]["convnet_type"], sizes[: learner["task"] + 1]
            weights = learner.pop("network")
            learner["nets"] = {"network": {"shape": memo_shape(*kind), "weights": weights}}
            learner["extra"] = {}
            if learner["training"] is not None:
                held = learner["training"].pop("optimizer")
                kept = [held["state"].get(i, {}) for i in held["param_groups"][0]["params"]]
                learner["training"]["momenta"] = [each.get("momentum_buffer") for each in kept]
                learner["training"]["stage"] = "train"
            for row in learner["records"]["epochs"]:
                row["stage"] = "train"
        require_run(content)
        content["config"] = resolve(content["config"])
        fits(content)
    except UNFIT as error:
        raise CheckpointError(
            f"{path} holds what this program does not write: {printable(str(error))}"
        ) from error
    return content


def memo_shape(convnet_type: str, task_sizes: Sequence[int]) -> dict[str, Any]:
    """Return the shape of MEMO's network after tasks of these sizes: older files do not tell it."""
    return {
        "convnet_type": convnet_type.removeprefix("memo_"),
        "trunks": "one",
        "blocks": "per task",
        "num_blocks": len(task_sizes),
        "classes": sum(task_sizes),
        "aux_classes": task_sizes[-1] + 1,
        "aux_head": True,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    _require_plain(content, "payload", set())
    # Through memory, so that a full disk is an OSError here rather than an error inside torch.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    # The last bytes of a zip archive are its comment: there goes the digest of all bytes before.
    # The archive's own checksums do not cover its directory.
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _DIGEST
    file = buffer.getbuffer()
    file[-_DIGEST:] = hashlib.sha256(file[:-_DIGEST]).hexdigest().encode()
    write_file(path, file)


def _is_whole(file: BinaryIO) -> bool:
    """Return whether a file of `_write` is, to the last bit, what was written."""
    digest, left = hashlib.sha256(), os.fstat(file.fileno()).st_size - _DIGEST
    file.seek(max(left, 0))
    written = file.read(_DIGEST)
    if not re.fullmatch(rb"[0-9a-f]{%d}" % _DIGEST, written):
        return False  # not one of ours; known without reading all of a large file
    file.seek(0)
    # In pieces: a checkpoint may be large, and a network that trains is in memory too.
    while left > 0 and (piece := file.read(min(left, 2**20))):
        digest.update(piece)
        left -= len(piece)
    file.seek(0)
    return written == digest.hexdigest().encode()


def load_task_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a task checkpoint of this program; all tensors are on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged or something else.
    """
    return _as_task_checkpoint(*_read(path), path)


@dataclass(frozen=True)
class FirstTask:
    """What a file with a trained first task says beside the weights.

    accuracy: on the test images, in percent, or None. draws: where the data path's random numbers
    stood when it was written, of `Learner.draws`, or None.
    """

    accuracy: float | None = None
    draws: dict[str, Any] | None = None


def load_first_task(
    path: str | Path,
    net: AdaptiveNet,
    class_order: Sequence[int],
    dataset: str | None = None,
    files: str | None = None,
) -> FirstTask:
    """Load a trained first task into a net grown to it, keeping the net's dtype and device.

    Any method's first task will do: a backbone and a classifier. An auxiliary classifier keeps its
    fresh weights: the first task does not train it. The survey's files hold no class order, so for
    them it is the user who knows that it fits.

    Args:
        path: a task checkpoint of this program, made after task 1, or a file of the survey.
        net: grown to its first task.
        class_order: this run's original class ids in the order they are shown.
        dataset: this run's data set; a file that names another one is refused.
        files: what identifies this run's image files, where there are some; likewise.

    Returns:
        what the file says beside the weights.

    Raises:
        CheckpointError: the file cannot be read or holds another network or other tasks; the net
            is then unchanged.
    """
    content, whole = _read(path)
    if isinstance(content, dict) and {"convnet", "fc"} <= content.keys():
        survey = _as_survey_checkpoint(content, path, net.convnet_type)
        state = {
            **{f"generalized.{name}": value for name, value in survey.generalized.items()},
            **{f"specialized.0.{name}": value for name, value in survey.specialized.items()},
            **{f"classifier.{name}": value for name, value in survey.classifier.items()},
        }
        classes = len(survey.classifier.get("weight", ()))
        first_task = FirstTask(survey.test_accuracy)
    else:
        ours = _as_task_checkpoint(content, whole, path)
        state = {
            _as_shared(name): value
            for name, value in ours["network"].items()
            if not name.startswith(_AUX)
        }
        classes = ours["task_sizes"][0]
        first_task = FirstTask(ours.get("test_accuracy"), ours.get("draws"))
        if ours["task"] != 1:
            raise CheckpointError(
                f"{path} was made after task {ours['task']}, but a run can only start from one "
                "made after task 1"
            )
        if dataset is not None and ours.get("dataset", dataset) != dataset:
            raise CheckpointError(
                f"{path} was trained on {ours['dataset']}, but dataset is {dataset}"
            )
        if files is not None and (ours.get("files") or files) != files:
            raise CheckpointError(
                f"{path} was trained on other image files, or other classes of them, than those in "
                "data_dir"
            )
        held = ours["convnet_type"].removeprefix("memo_")
        if held != net.convnet_type:
            raise CheckpointError(f"{path} holds a {held}, but convnet_type is {net.convnet_type}")
        if ours["class_order"] != list(class_order):
            raise CheckpointError(
                f"{path} was trained on another class order (it starts "
                f"{_start(ours['class_order'])}, this run's {_start(class_order)}); use the seed "
                "or class_order it was made with"
            )
    if classes != net.num_classes:
        raise CheckpointError(
            f"{path} holds a first task of {classes} classes, but init_cls is {net.num_classes}"
        )
    names = {name: _as_shared(name) for name in net.state_dict() if not name.startswith(_AUX)}
    expected = {names[name]: value for name, value in net.state_dict().items() if name in names}
    problem = state_mismatch(expected, state)
    if problem:
        raise CheckpointError(f"{path} does not fit a {net.convnet_type}: {problem}")
    # The names were compared just above.
    net.load_state_dict({ours: state[name] for ours, name in names.items()}, strict=False)
    return first_task


def _as_shared(name: str) -> str:
    """Return a weight's name in a first task as nets with a shared trunk call it."""
    whole = "specialized.0.generalized.", "specialized.0.specialized."
    return name.replace(whole[0], "generalized.").replace(whole[1], "specialized.0.")


def _start(class_order: Sequence[int]) -> str:
    return ", ".join(map(str, class_order[:4])) + ", ..."


def _read(path: str | Path, remedy: str = _REMEDY) -> tuple[Any, bool]:
    """Read any file of torch.save, without running code from it.

    Returns:
        what is in it; and whether it is, to the last bit, what this program wrote.
    """
    reason = "it is cut short or of another kind"
    try:
        with open_file(path, MOST_BYTES) as file:
            whole = _is_whole(file)
            if whole or zipfile.is_zipfile(file):
                reason = "a checksum inside it is wrong"
                _require_no_surprise(zipfile.ZipFile(file), os.fstat(file.fileno()).st_size, whole)
                reason = "it holds more than tensors and plain values"
            file.seek(0)
            with torch.serialization.safe_globals(_SAFE_GLOBALS):
                content = torch.load(file, map_location="cpu", weights_only=True)
            if whole:
                _require_plain(content, "the file", set())
            return content, whole
    except Exception as error:  # damaged bytes may show up as any exception at all
        # Of OSErrors, those without a file's name are such: a place before the file's start, say.
        if isinstance(error, OSError) and error.filename:
            raise CheckpointError(
                f"cannot read the checkpoint {path}: {error.strerror or error}"
            ) from error
        raise CheckpointError(
            f"{path} is damaged or is no checkpoint ({reason}){remedy}"
        ) from error


def _require_no_surprise(archive: zipfile.ZipFile, size: int, whole: bool) -> None:
    """Raise ValueError if an archive would unpack to more than it is, or to something else."""
    entries = archive.infolist()
    if any(
        # torch compresses nothing, and reads nothing for what says it is a folder, silently.
        entry.compress_type != zipfile.ZIP_STORED or entry.is_dir() or entry.external_attr & 0x10
        for entry in entries
    ):
        raise ValueError("compressed or a folder")
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if sum(entry.file_size for entry in entries) > size or pickles > MOST_PICKLED:
        raise ValueError("more than there is room for")
    if not whole and archive.testzip() is not None:
        raise ValueError("a checksum")


def _require_own(content: Any, whole: bool, path: str | Path, kind: str, what: str) -> None:
    """Raise CheckpointError unless this is what `_write` wrote, in this format."""
    if not isinstance(content, dict) or content.get("format") != kind:
        raise CheckpointError(f"{path} is not a {what} of this program (format = {kind!r})")
    if not whole:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one written with it")


def _as_task_checkpoint(content: Any, whole: bool, path: str | Path) -> dict[str, Any]:
    _require_own(content, whole, path, FORMAT, "task checkpoint")
    try:
        require_task(content)
        sizes = content["task_sizes"][: content["task"]]
        content.setdefault("shape", memo_shape(content["convnet_type"], sizes))
        content.setdefault("extra", {})
    except UNFIT as error:
        raise CheckpointError(
            f"{path} holds what this program does not write: {printable(str(error))}"
        ) from error
    return content


def _as_survey_checkpoint(content: Any, path: str | Path, convnet_type: str) -> SurveyCheckpoint:
    if not isinstance(content, dict) or not {"convnet", "fc", "test_acc"} <= content.keys():
        raise CheckpointError(
            f"{path} is not in the survey's format, a dict of convnet, fc and test_acc"
        )
    for key in ("convnet", "fc"):
        part = content[key]
        if not isinstance(part, dict) or not all(isinstance(v, Tensor) for v in part.values()):
            raise CheckpointError(f"{key} in {path} is not a state dict of tensors")
    try:
        accuracy = float(content["test_acc"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"test_acc in {path} is not a number") from error
    generalized, specialized = convs.build(convnet_type).split_state_dict(content["convnet"])
    return SurveyCheckpoint(generalized, specialized, dict(content["fc"]), accuracy)


def _require_plain(value: Any, where: str, seen: set[int]) -> None:
    """Refuse what weights_only=True would refuse when reading (say, a NumPy number) at once.

    Args:
        value: what to look at, with all that is in it.
        where: what to call it.
        seen: the ids of the containers looked at already: one may be in another a thousand times.
    """
    if isinstance(value, dict | list | tuple):
        if id(value) in seen:
            return
        seen.add(id(value))
    if isinstance(value, dict):
        for key, item in value.items():
            _require_plain(key, f"a key of {where}", seen)
            _require_plain(item, f"{where}[{key!r}]", seen)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]", seen)
    elif type(value) not in (Tensor, int, float, bool, str, type(None)):
        raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")
    elif type(value) is Tensor and (value.is_meta or value.layout != torch.strided):
        raise TypeError(
            f"{where} is a tensor without plain numbers, which a checkpoint cannot hold"
        )
