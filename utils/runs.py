"""Runs found under logs/: their settings, their results, and which of them may be averaged.

A run's folder holds config.json and, once a task is finished, summary.json (utils/logbook.py).
Runs that differ in nothing but their seeds are repeats of one experiment: `Run.experiment` is
equal for them. What cannot change a result does not tell experiments apart (`NO_RESULT`); the
number of GPUs does, because each replica of BatchNorm sees its share of a batch only.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.config import SETTINGS
from utils.settings import RESULTS

SEEDS = ("seed", "torch_seed")
# Where and how a run is computed and watched.
NO_RESULT = frozenset(
    key for key, each in SETTINGS.items() if each.decides != RESULTS and key != "debug"
)
# What summary.json must hold for a run to be counted.
NEEDED = (
    *("average_accuracy", "last_accuracy", "average_nme_accuracy", "last_nme_accuracy"),
    *("forgetting", "finished", "tasks_finished", "tasks_total", "task_sizes"),
    *("exemplars", "seconds"),
)


@dataclass(frozen=True)
class Run:
    """One folder under logs/."""

    folder: Path
    config: dict[str, Any]  # every setting; empty when it cannot be read
    summary: dict[str, Any]  # content of summary.json; empty before the first task is finished
    unfinished: str  # why it is not finished, in words; empty when it is

    @property
    def tasks(self) -> int:
        """Number of tasks finished."""
        return self.summary["tasks_finished"]

    @property
    def tasks_total(self) -> int:
        """Number of tasks of the whole split, also when the run was to stop before the last."""
        return self.summary["tasks_total"]

    @property
    def task_sizes(self) -> list[int]:
        """Classes of each task finished."""
        return self.summary["task_sizes"][: self.tasks]

    @property
    def seeds(self) -> tuple[int, int]:
        """Seed of the class order, seed of everything else."""
        return self.config["seed"][0], self.config["torch_seed"]

    @property
    def devices(self) -> int:
        """Number of devices that shared each batch; config.json names rank 0's only."""
        own = len(self.config.get("_devices") or self.config["device"] or [0])
        return own * self.config.get("_processes", 1)

    @property
    def experiment(self) -> str:
        """What is equal in a finished run and its repeats with other seeds."""
        return setting_key(self.config, self.tasks_total) + f" on {self.devices}"

    @property
    def budget(self) -> int:
        """Exemplars that it was allowed to keep in the end."""
        if self.config["fixed_memory"]:
            return self.config["memory_per_class"] * sum(self.task_sizes)
        return self.config["memory_size"]


def setting_key(config: Mapping[str, Any], tasks_total: int, without: Iterable[str] = ()) -> str:
    """Return all settings that a result depends on, but for the seeds, as text that compares.

    Args:
        config: a run's settings.
        tasks_total: number of tasks of the split. To stop after the last task is not to stop.
        without: further settings to leave out.
    """
    left_out = {*SEEDS, *NO_RESULT, *without}
    kept = {key: config[key] for key in config if key not in left_out and key[0] != "_"}
    kept["stop_after_task"] = config["stop_after_task"] or tasks_total
    # Two data sets of a user have one name, `folder`; what tells them apart are their files.
    kept["files"] = config.get("_data", {}).get("files")
    return json.dumps(kept, sort_keys=True)


def title_of(config: Mapping[str, Any], task_sizes: Sequence[int]) -> str:
    """Return the setting of a run in a line: "memo, cifar100 in 10 tasks of 10 classes, ..."."""
    kept = config["memory_size"]
    if config["fixed_memory"]:
        kept = f"{config['memory_per_class']} a class"
    order = str(config["seed"][0]) if config["shuffle"] else "as numbered"
    return (
        f"{config['model_name']}, {config['dataset']} in {len(task_sizes)} tasks of "
        f"{_sizes(task_sizes)} classes, {kept} exemplars, {config['convnet_type']}, "
        f"class order {'given' if config['class_order'] else order}"
    )


_DATA_SETS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet100": "ImageNet-100",
    "imagenet1000": "ImageNet-1000",
    "synthetic": "synthetic images",
}


def words_of(config: Mapping[str, Any]) -> str:
    """Return a run's setting as a paper names it: "MEMO, CIFAR-100, Base0 Inc10"."""
    # A user's own images are called by the name of their folder.
    data = _DATA_SETS.get(config["dataset"]) or Path(config["data_dir"]).name or "own images"
    first, later = config["init_cls"], config["increment"]
    split = f"Base{0 if first == later else first} Inc{later}"
    return f"{config['model_name'].upper()}, {data}, {split}"


def _sizes(task_sizes: Sequence[int]) -> str:
    """Return "10" for equal tasks, else "50 + 10 + 10" (shortened when long)."""
    if len(set(task_sizes)) == 1:
        return str(task_sizes[0])
    shown = [str(size) for size in task_sizes]
    return " + ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Return every run in these folders and below, each once, in the order in which they began.

    Raises:
        FileNotFoundError: one of the paths does not exist; the message is a sentence.
    """
    folders = set()
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
            raise FileNotFoundError(f"{path}: there is no such folder; name a folder under logs/")
        folders |= {file.parent for file in path.rglob("config.json")}
    # A folder's name begins with the time the run began: of repeats, the newest comes last.
    return [read_run(folder) for folder in sorted(folders, key=lambda f: (f.name, f))]


def read_run(folder: Path) -> Run:
    """Return the run in a folder; what is damaged or missing is said in `unfinished`."""
    config, wrong = _read(folder / "config.json")
    if not wrong and not isinstance(config.get("seed"), list):
        wrong = "config.json is not that of a run"
    if wrong:
        return Run(folder, {}, {}, wrong)
    # A setting that came into the program after the run had its default.
    config = {key: each.default for key, each in SETTINGS.items()} | config
    if not (folder / "summary.json").exists():
        return Run(folder, config, {}, "no task finished")
    summary, wrong = _read(folder / "summary.json")
    lacking = [key for key in NEEDED if key not in summary]
    if not wrong and lacking:
        wrong = f"summary.json lacks {', '.join(lacking)}"
    if not wrong and not summary["finished"]:
        wrong = f"{summary['tasks_finished']} of {summary['tasks_total']} tasks finished"
    return Run(folder, config, summary, wrong)


def as_computed(run: Run) -> Run:
    """Return a run with what precision "auto" was on its device, to be averaged with its like.

    Where that was fp32 it stays "auto": older runs do not note it, and were all fp32.
    """
    noted = run.config.get("_precision", "fp32")
    if run.config.get("precision") != "auto" or noted == "fp32":
        return run
    return replace(run, config={**run.config, "precision": noted})


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Return the object in a JSON file, and what is wrong with it, if anything is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, f"{path.name} cannot be read ({type(error).__name__})"
    return (content, "") if isinstance(content, dict) else ({}, f"{path.name} holds no object")
