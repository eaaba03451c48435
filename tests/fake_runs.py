"""Folders of runs as the program leaves them, with results made up, for report and sweep."""

import json
import os
import statistics
from itertools import accumulate
from pathlib import Path

from models.methods import find_method
from utils.config import Config
from utils.data_manager import split_classes


def fake_run(
    folder: Path,
    top1,
    *,
    finished=True,
    nme=None,
    devices=("cpu",),
    processes=1,
    notes=(),
    curves=False,
    **settings,
) -> Path:
    """Write config.json and summary.json of a run; returns its folder.

    Args:
        folder: the run's folder; created.
        top1: percent after each task done.
        finished: what summary.json says.
        nme: NME's percentages; 1 below `top1` when left open, none without exemplars.
        devices: what the run used, or each of its processes.
        processes: how many there were.
        notes: further facts in config.json.
        curves: also note the curves in summary.json.
        settings: changes to the defaults; `average` and `last` replace what `top1` gives.
    """
    average, last = settings.pop("average", None), settings.pop("last", None)
    lost = settings.pop("forgetting", 20.0)
    config = Config(**settings)
    sizes = split_classes(config.classes, config.init_cls, config.increment)
    kept = find_method(config.model_name).exemplars
    nme = [value - 1 if kept else None for value in top1] if nme is None else nme
    folder.mkdir(parents=True)
    values = {**config.to_dict(), "_devices": list(devices), "_processes": processes}
    values |= dict(notes)
    (folder / "config.json").write_text(json.dumps(values))
    summary = {
        "average_accuracy": statistics.mean(top1) if average is None else average,
        "last_accuracy": top1[-1] if last is None else last,
        "average_nme_accuracy": statistics.mean(nme) if kept else None,
        "last_nme_accuracy": nme[-1],
        "forgetting": lost,
        "finished": finished,
        "tasks_finished": len(top1),
        "tasks_total": len(sizes),
        "task_sizes": sizes,
        "exemplars": 3300 if kept else 0,
        "seconds": 60.0,
    }
    if curves:
        seen = list(accumulate(sizes))[: len(top1)]
        summary["curves"] = {"classes_seen": seen, "cnn_top1": list(top1), "nme_top1": nme}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _changed(name: str, **entries):
    """Return what puts other entries into a JSON file of a run."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return damage


def _replaced(name: str, make):
    """Return what puts something else where a run has a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def _long(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**41)


_BOMBS = {
    "a pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "two terabytes": _long,
    "a folder": Path.mkdir,
    "nested deeply": lambda path: path.write_bytes(b'{"a":' + b"[" * 200_000),
    "nested": lambda path: path.write_text('{"seed":' + "[" * 500 + "]" * 500 + "}"),
    "a long number": lambda path: path.write_bytes(b'{"seed": ' + b"9" * 5000 + b"}"),
    "a list": lambda path: path.write_text("[1]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0"),
}
_WRONG = {
    "config.json": [
        *({"seed": value} for value in (7.5, [], [[1]], None, {}, ["a"], "x")),
        {"model_name": "coil"}, {"model_name": 3}, {"convnet_type": []}, {"torch_seed": []},
        {"memory_size": "many"}, {"device": {}}, {"device": 3.5}, {"_devices": 5},
        {"_processes": "x"}, {"_data": [1]}, {"_data": {"files": []}}, {"_precision": []},
        {"init_cls": -1}, {"init_cls": "10"}, {"dataset": "mnist"}, {"image_size": [1]},
        {"fixed_memory": "no"}, {"stop_after_task": None}, {"_seeds": 3}, {"_call": {}},
        {"lrate": float("nan")},
    ],
    "summary.json": [
        *({"task_sizes": value} for value in (3, [], ["a"], [10**9] * 10, [-1] * 10, [[1]] * 10)),
        *({"tasks_finished": value} for value in ("3", None, 0, 99, 2.5, [])),
        {"tasks_total": "x"}, {"tasks_total": 10**12}, {"exemplars": None}, {"exemplars": "x"},
        {"seconds": "x"}, {"seconds": 1e300}, {"seconds": float("nan")}, {"seconds": None},
        {"average_accuracy": None}, {"average_accuracy": [1]}, {"last_accuracy": float("inf")},
        {"average_nme_accuracy": None},
        {"forgetting": "x"}, {"finished": "yes"}, {"curves": []}, {"curves": {"cnn_top1": 3}},
    ],
}  # fmt: skip
# Ways in which a run of `fake_run` can be damaged: a name, and what does it to the folder.
DAMAGES = {
    **{
        f"{name} is {what}": _replaced(name, make)
        for name in _WRONG
        for what, make in _BOMBS.items()
    },
    **{
        f"{name}{number}": _changed(name, **entries)
        for name, wrong in _WRONG.items()
        for number, entries in enumerate(wrong)
    },
}
