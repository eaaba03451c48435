"""Runs found under logs/: their settings, their results, and which of them may be averaged.

A run's folder holds config.json and, once a task is finished, summary.json (utils/logbook.py).
Runs that differ in nothing but their seeds are repeats of one experiment: `Run.experiment` is
equal for them. What cannot change a result does not tell experiments apart (`NO_RESULT`); the
number of GPUs does, because each replica of BatchNorm sees its share of a batch only, and so does
the version of the program.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.methods import Method, find_method
from utils.config import EXPS_DIR, SETTINGS, resolve
from utils.files import read_json
from utils.metrics import HEADLINES
from utils.settings import RESULTS, SWITCH, entries, number, or_none, several, whole

PUBLISHED = EXPS_DIR.parent / "logs" / "published"
SEEDS = ("seed", "torch_seed")
# Where and how a run is computed and watched.
NO_RESULT = frozenset(
    key for key, each in SETTINGS.items() if each.decides != RESULTS and key != "debug"
)
# Numbers in summary.json and in checkpoints; a rounded mean may be a little above 100.
PERCENT = number("a percentage", lambda value: 0 <= value < 100.001)
FORGETTING = or_none(number("a number from -100 to 100", lambda value: abs(value) < 100.001))
TASK_SIZES = several("the classes of each task", whole(1), lambda sizes: 0 < sum(sizes) <= 10**6)
_NUMBERS = number("", lambda _: True)
# The curves that pictures show.
DRAWN = dict.fromkeys(("classes_seen", "cnn_top1"), several("numbers", _NUMBERS))
DRAWN["nme_top1"] = several("numbers, or null", or_none(_NUMBERS))  # null without exemplars
# What summary.json must hold for a run to be counted.
SUMMARY = entries(
    {
        "average_accuracy": PERCENT,
        "last_accuracy": PERCENT,
        "average_nme_accuracy": or_none(PERCENT),
        "last_nme_accuracy": or_none(PERCENT),
        "forgetting": FORGETTING,
        "finished": SWITCH,
        "tasks_finished": whole(1),
        "tasks_total": whole(1),
        "task_sizes": TASK_SIZES,
        "exemplars": number("a number of at least 0", lambda value: value >= 0),
        "seconds": number("a time below 300 years", lambda value: 0 <= value < 1e10),
    },
    {"curves": entries(DRAWN)},
)


@dataclass(frozen=True)
class Run:
    """One folder under logs/."""

    folder: Path
    config: dict[str, Any]  # every setting; empty when it cannot be read
    summary: dict[str, Any]  # content of summary.json; empty before the first task is finished
    unfinished: str  # why it is not finished, in words; empty when it is

    @property
    def method(self) -> Method:
        """The row of its method."""
        return find_method(self.config["model_name"])

    @property
    def curve(self) -> list[float]:
        """The accuracy it is quoted by after each task; nothing where it is not noted."""
        return self.summary.get("curves", {}).get(f"{self.method.headline}_top1", [])

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
    def version(self) -> str:
        """Which program made it, in words: see `logbook.VERSION`."""
        if "_version" in self.config:
            return f"version {self.config['_version']}"
        commit = self.config.get("_git_commit")
        return f"commit {str(commit)[:7]}" if commit else "version not recorded"

    @property
    def experiment(self) -> str:
        """What is equal in a finished run and its repeats with other seeds."""
        return self.experiment_but()

    def experiment_but(self, *without: str) -> str:
        """Return what `experiment` is if these settings do not matter."""
        key = setting_key(self.config, self.tasks_total, without)
        return f"{key} on {self.devices}, {self.version}"

    @property
    def budget(self) -> int:
        """Exemplars that it was allowed to keep in the end."""
        if self.config.get("fixed_memory"):
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
    kept = {key: config[key] for key in config if key not in left_out and key[:1] != "_"}
    kept["stop_after_task"] = config["stop_after_task"] or tasks_total
    # Two data sets of a user have one name, `folder`; what tells them apart are their files.
    kept["files"] = (config.get("_data") or {}).get("files")
    return json.dumps(kept, sort_keys=True)


def telling_apart(run: Run, others: Sequence[Run], but_for: Iterable[str] = ()) -> list[str]:
    """Return in short words what differs between a run's experiment and others.

    Args:
        run: it.
        others: they; the run itself may be among them.
        but_for: settings that are told elsewhere.
    """
    left_out = {*SEEDS, *NO_RESULT, *but_for}
    # Settings that a run of another method has not are told by its method.
    told = [
        f"{key}={_brief(run.config[key])}"
        for key in SETTINGS
        if key in run.config.keys() - left_out
        and any(other.config.get(key, run.config[key]) != run.config[key] for other in others)
    ]
    if any(other.devices != run.devices for other in others):
        told.append(f"on {run.devices} device{'s' * (run.devices != 1)}")
    if any(other.version != run.version for other in others):
        told.append(run.version)
    return told


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:10]}...{text[-11:]}"


def title_of(config: Mapping[str, Any], task_sizes: Sequence[int]) -> str:
    """Return the setting of a run in a line: "memo, cifar100 in 10 tasks of 10 classes, ..."."""
    kept = config["memory_size"]
    if config.get("fixed_memory"):
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
    return f"{find_method(config['model_name']).title}, {data}, {split}"


def _sizes(task_sizes: Sequence[int]) -> str:
    """Return "10" for equal tasks, else "50 + 10 + 10" (shortened when long)."""
    if len(set(task_sizes)) == 1:
        return str(task_sizes[0])
    shown = [str(size) for size in task_sizes]
    return " + ".join(shown if len(shown) <= 6 else [*shown[:3], "...", shown[-1]])


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Return every run in these folders and below, each once, in the order in which they began.

    What lies in logs/published/ is left out, unless a path leads into that folder.

    Raises:
        FileNotFoundError: one of the paths does not exist; the message is a sentence.
    """
    folders = set()
    for path in paths:
        if not os.path.isdir(path):  # Path.is_dir raises where a name is too long
            raise FileNotFoundError(f"{path}: there is no such folder; name a folder under logs/")
        found = {file.parent for file in path.rglob("config.json")}
        if not is_published(path):
            found = {folder for folder in found if not is_published(folder)}
        folders |= found
    # A folder's name begins with the time the run began: of repeats, the newest comes last.
    return [read_run(folder) for folder in sorted(folders, key=lambda f: (f.name, f))]


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """Return a run's config.json as `utils.config.resolve` does, and what is wrong with it.

    One of the two is empty. Who has the settings can trust their types.
    """
    content, wrong = _read(folder / "config.json")
    if wrong:
        return {}, wrong
    try:
        return resolve(content), ""
    except ValueError as error:
        return {}, f"config.json is not that of a run of this program: {error}"


def is_published(folder: Path) -> bool:
    """Return whether a folder is logs/published/ or lies in it."""
    return folder.resolve().is_relative_to(PUBLISHED)


def read_run(folder: Path) -> Run:
    """Return the run in a folder; what is damaged or missing is said in `unfinished`.

    Its settings and results are of the right types, or not there.
    """
    config, wrong = read_config(folder)
    if wrong:
        return Run(folder, {}, {}, wrong)
    if not os.path.lexists(folder / "summary.json"):
        return Run(folder, config, {}, "no task finished")
    summary, wrong = _read(folder / "summary.json")
    if not wrong:
        try:
            SUMMARY.check(summary)
            _require_fitting(summary, find_method(config["model_name"]))
        except ValueError as error:
            wrong = f"summary.json {error}"
    if wrong:
        return Run(folder, config, {}, wrong)
    done, total = summary["tasks_finished"], summary["tasks_total"]
    said = "" if summary["finished"] else f"{done} of {total} tasks finished"
    return Run(folder, config, summary, said)


def _require_fitting(summary: Mapping[str, Any], method: Method) -> None:
    """Raise ValueError if the numbers in a summary.json contradict each other or the method."""
    done, total = summary["tasks_finished"], summary["tasks_total"]
    if not done <= total == len(summary["task_sizes"]):
        raise ValueError(f"has {done} of {total} tasks finished, but task_sizes of another number")
    if "curves" in summary and any(len(summary["curves"][name]) != done for name in DRAWN):
        raise ValueError("has curves of another number of tasks than finished")
    of_nme = [summary[key] for key in HEADLINES["nme"]]
    of_nme += summary.get("curves", {}).get("nme_top1", [])
    if method.exemplars and None in of_nme:
        raise ValueError(f"has no NME for every task, but {method.title} keeps exemplars")


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
        return read_json(path), ""
    except OSError as error:
        return {}, f"{path.name} cannot be read ({error.strerror})"
    except ValueError as error:
        return {}, f"{path.name} cannot be read ({error})"
