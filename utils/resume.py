"""Which runs a --resume means, and whether they may go on with the settings given.

A call of the program makes one run for each class order (`seed`), each with its own folder and its
own checkpoints. The runs of one call belong together: their config.json has the same `_call`, and
`_seeds` lists all of them. `--resume` without a folder looks, under the log folder, for the newest
call with the same settings that is not finished.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from utils.catalog import FOLDER_DATASETS
from utils.checkpoint import NEWEST, CheckpointError, load_run
from utils.config import Config, changed_keys
from utils.data_manager import split_classes
from utils.folders import DataError, find_classes
from utils.logbook import runs_folder
from utils.runs import read_config, read_run
from utils.settings import shown

log = logging.getLogger("memo")


@dataclass(frozen=True)
class Call:
    """One call of the program: its runs that exist already.

    Attributes:
        name: what tells it from other calls.
        folders: of its runs, by seed.
        seeds: all that the call was asked for.
    """

    name: str
    folders: dict[int, Path]
    seeds: list[int]


def new_call(config: Config) -> Call:
    """Return a call that has no runs yet."""
    return Call(uuid4().hex, {}, config.seed)


def tasks_to_do(config: Config) -> int:
    """Return after how many tasks a run with these settings is finished."""
    sizes = split_classes(config.classes, config.init_cls, config.increment)
    return config.stop_after_task or len(sizes)


def tasks_done(checkpoint: dict[str, Any]) -> int:
    """Return how many tasks a run had finished when this checkpoint was made."""
    return len(checkpoint["progress"]["seconds"])


def is_finished(folder: Path, config: Config) -> bool:
    """Return whether a run has done all that the settings ask for.

    Raises:
        CheckpointError: none of its checkpoints can be read.
    """
    run = read_run(folder)
    if run.summary and run.tasks < tasks_to_do(config):
        return False  # the usual case, known without reading a large file
    checkpoint, _ = load_run(folder)
    return checkpoint is not None and tasks_done(checkpoint) >= tasks_to_do(config)


def refuse_changes(folder: Path, before: dict[str, Any], config: Config) -> None:
    """Raise CheckpointError if settings that decide the results are not those of the run."""
    now = config.to_dict()
    changed = changed_keys(before, now)
    if changed:
        listed = ", ".join(
            f"{key} is {shown(now[key])} but was {shown(before[key])}" for key in changed
        )
        raise CheckpointError(
            f"the run in {folder} was made with other settings: {listed}; give those it was made "
            "with (--resume with its folder and no other flags reads them there) or start a new run"
        )


def refuse_other_files(folder: Path, notes: dict[str, Any], data: dict[str, Any] | None) -> None:
    """Raise CheckpointError if the image files are not those of the run: its exemplars are numbers.

    Args:
        folder: of the run.
        notes: its config.json, of `read_config`; empty where that cannot be read.
        data: of `utils.data.describe`.
    """
    noted = notes.get("_data")
    if noted and data is not None and noted["files"] != data["files"]:
        raise CheckpointError(
            f"the image files are not those that the run in {folder} began with: files or classes "
            "were added, renamed or taken away; restore them, or give the --data_dir of that run, "
            "or start a new run"
        )


def noted_data(call: Call) -> dict[str, Any] | None:
    """Return what a call noted of its data set (`utils.data.describe`), None where it did not."""
    for folder in call.folders.values():
        noted = read_config(folder)[0].get("_data")
        if noted:
            return noted
    return None


def find_call(config: Config, resume: str | bool | None) -> Call:
    """Return the call to go on with; a new one where nothing is to be resumed.

    Args:
        config: the settings.
        resume: the folder of a run, True for the newest unfinished call with these settings, or
            None for a new one.

    Raises:
        CheckpointError: the folder is no run's, or a run that was made with other settings.
    """
    if resume is None:
        return new_call(config)
    if resume is not True:
        folder = Path(resume)
        checkpoint, _ = load_run(folder)
        notes, wrong = read_config(folder)
        # One whose disk was full at the very start has only a main.log: it begins there again.
        if checkpoint is None and wrong and not _has_only_begun(folder):
            raise CheckpointError(
                f"{folder} is not the folder of a run that could go on: it has no checkpoint, and "
                f"{wrong}"
            )
        if checkpoint or notes:
            refuse_changes(folder, checkpoint["config"] if checkpoint else notes, config)
        name, seeds = (checkpoint or {}).get("call") or (
            notes.get("_call", uuid4().hex),
            notes.get("_seeds", config.seed),
        )
        return Call(name, {config.seed[0]: folder}, list(seeds))

    parent = runs_folder(config)
    calls: dict[str, dict[int, Path]] = {}
    # Names begin with the time, so the newest is last.
    begun = {*parent.glob("*/config.json"), *parent.glob(f"*/{NEWEST}")}
    for path in sorted({file.with_name("config.json") for file in begun}):
        notes, wrong = read_config(path.parent)
        if wrong:
            log.warning(
                "%s: %s, so its run is passed over; to go on with that one, give --resume %s and "
                "its settings with --config",
                path.parent,
                wrong,
                path.parent,
            )
        elif _belongs(notes, config):
            calls.setdefault(notes["_call"], {})[notes["seed"][0]] = path.parent
    newest_first = [Call(name, folders, config.seed) for name, folders in reversed(calls.items())]
    for call in newest_first:
        if not _call_is_finished(call, config):
            return call
    if newest_first:
        return newest_first[0]
    log.info(
        "--resume: no run with these settings has begun in %s; starting from the beginning", parent
    )
    return new_call(config)


def _has_only_begun(folder: Path) -> bool:
    """Return whether a run made this folder but could not write its settings into it."""
    return (folder / "main.log").is_file() and not os.path.lexists(folder / "config.json")


def _belongs(notes: dict[str, Any], config: Config) -> bool:
    """Return whether a config.json is of a call with these settings and seeds."""
    return (
        "_call" in notes
        and notes.get("_seeds") == config.seed
        and (config.dataset != "folder" or _same_path(notes["data_dir"], config.data_dir))
        and (config.dataset not in FOLDER_DATASETS or _same_classes(notes.get("_data"), config))
        and set(changed_keys(notes, config.to_dict())) <= {"seed"}
    )


def _same_classes(noted: Any, config: Config) -> bool:
    try:
        chosen = find_classes(config.data_dir, config.class_list)
    except DataError:  # which is said where the data is read
        return True
    return not noted or noted.get("classes") == chosen


def _same_path(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _call_is_finished(call: Call, config: Config) -> bool:
    try:
        return all(
            seed in call.folders and is_finished(call.folders[seed], config) for seed in config.seed
        )
    except CheckpointError as error:
        log.warning("passed over: %s", error)
        return True


def changed_machine(machines: list[dict[str, Any]]) -> str | None:
    """Return the sentence that warns of another machine, or None where there was only one.

    Args:
        machines: facts of `utils.devices.machine_facts` of the processes that made the run, each
            once: first the one that began it.
    """
    changes = {}
    lacking = {"processes": 1, "cuda_graph": "off", "block_streams": 0}  # in older checkpoints
    machines = [{**lacking, **machine} for machine in machines]
    for machine in machines[1:]:
        for name in {**machines[0], **machine}:
            if machine.get(name) != machines[0].get(name):
                changes[f"{name} {machines[0].get(name)} -> {machine.get(name)}"] = None
    if not changes:
        return None
    return (
        f"this run has not stayed on the machine that it began on ({'; '.join(changes)}): the "
        "result will no longer be bit for bit that of an uninterrupted run"
    )
