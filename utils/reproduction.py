"""README's table of the published results: ours beside each of them, or "not measured".

    python -m utils.report --published logs/published

prints it: a line for every file of a published setting in exps/, with "-" where no result of it is
published; methods of which nothing is published have no lines. A run fills a line when it is
finished to the last task and every setting that the file states is as there: budget, schedule and
epochs included, so that no short run stands beside a published number. What the file leaves open
(precision, say) is told in the line where it is not the default, and runs that differ in it, or in
the number of devices, have lines of their own. The area under each performance-memory curve has a
line too; it is measured when all budgets of the curve are. Of a method that is quoted by NME the
classifier's results stand in brackets. No torch here.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.methods import find_method
from utils import published
from utils.config import EXPS_DIR, SETTINGS, load_config
from utils.metrics import HEADLINES
from utils.runs import NO_RESULT, SEEDS, Run
from utils.tables import duration, markdown_text

if TYPE_CHECKING:
    from utils.report import Curve, Group, Spread

HEADER = (
    *("setting", "file in exps/", "exemplars", "published average / last", "ours"),
    *("difference", "n: class order/torch seed", "hardware", "time of a run"),
)
NOT_MEASURED = ("not measured", *["-"] * 4)
# Files that repeat another one's setting, or have nothing to do with published results.
LEFT_OUT = ("memo", "quickstart")
DATASET_NAMES = {
    "cifar100": "CIFAR100",
    "imagenet100": "ImageNet100",
    "imagenet1000": "ImageNet1000",
}
SCHEDULES = {"steplr": "steps", "cosine": "cosine"}


def table(groups: Iterable["Group"], curves: Iterable["Curve"]) -> str:
    """Return the table as Markdown.

    Args:
        groups: finished runs.
        curves: those of them that make whole performance-memory curves.
    """
    groups, rows = list(groups), []
    for path, config, theirs in experiments():
        ours = [group for group in groups if matches(group.runs[0], path, config)]
        said = f"{theirs.average:.2f} / {theirs.last:.2f}" if theirs else "-"
        first = [_name(config), f"`{path.name}`", str(config["memory_size"]), said]
        rows += [[*first, *_measured(group, theirs, config)] for group in ours]
        if not ours:
            rows.append([*first, *NOT_MEASURED])
    rows += _areas(list(curves))
    return markdown_text(HEADER, rows)


def experiments() -> list[tuple[Path, dict[str, Any], published.Published | None]]:
    """Return the files in exps/ of published methods, their settings and published results.

    In the published order, what has no published result at the end; the curves' points last.
    """
    found, known = [], {row.method for row in published.rows()}
    for path in sorted(EXPS_DIR.glob("*.json")):
        if path.stem not in LEFT_OUT:
            config = load_config(["--config", str(path)])[0].to_dict()
            if config["model_name"] in known:
                found.append((path, config, published.find(config)))
    order = {row: number for number, row in enumerate(published.rows())}

    def place(entry: tuple[Path, dict[str, Any], published.Published | None]) -> tuple:
        path, config, theirs = entry
        # Within a setting the schedule of the script's default comes first.
        setting = path.stem.removesuffix("_steps").removesuffix("_cosine")
        published_as = order.get(theirs, len(order))
        is_point, is_cosine = config["prefix"] == "auc", config["scheduler"] == "cosine"
        return is_point, published_as, setting, is_cosine

    return sorted(found, key=place)


def matches(run: Run, path: Path, config: Mapping[str, Any]) -> bool:
    """Return whether a finished run is the whole experiment that a file describes.

    Args:
        run: it.
        path: the file.
        config: the file's settings, resolved.
    """
    stated = json.loads(path.read_text(encoding="utf-8")).keys() & SETTINGS.keys() - SEEDS
    same = all(run.config.get(key) == config[key] for key in stated)
    return same and run.tasks == run.tasks_total


def has_schedule_of(config: Mapping[str, Any], theirs: published.Published) -> bool:
    """Return whether a run trains with a schedule that a file in exps/ has for a published result.

    Args:
        config: the run's settings.
        theirs: the published result.
    """
    keys = [key for key, each in SETTINGS.items() if each.section == "Training"]
    keys.remove("precision")
    return any(
        row == theirs and all(config[key] == other[key] for key in keys)
        for _, other, row in experiments()
    )


def hardware(run: Run) -> str:
    """Return on what a run was computed: "4 x NVIDIA H200 (4 processes), PyTorch 2.14.1"."""
    facts, names = run.config, []
    processes = facts.get("_processes", 1)
    for device in facts.get("_devices", []):
        if gpu := re.fullmatch(r"\S+ \((.*)\)", device):
            names += [gpu[1]] * processes  # rank 0 writes of its own GPU; the others have one each
        else:
            names.append(facts.get("_processor", "CPU"))
    names = names or ["hardware not recorded"]
    counts = ((names.count(name), name) for name in dict.fromkeys(names))
    parts = [" + ".join(f"{count} x {name}" if count > 1 else name for count, name in counts)]
    if processes > 1:
        parts[0] += f" ({processes} processes)"
    if "cpu" in facts.get("_devices", []) and "_threads" in facts:
        each = " each" * (processes > 1)
        parts.append(f"{facts['_threads']} thread{'s' * (facts['_threads'] != 1)}{each}")
    if "_torch" in facts:
        parts.append(f"PyTorch {facts['_torch'].partition('+')[0]}")
    return ", ".join(parts)


def _measured(
    group: "Group", theirs: published.Published | None, config: Mapping[str, Any]
) -> list[str]:
    """Return the cells that say what we measured."""
    ours = [[group.over_runs(key) for key in HEADLINES[by]] for by in group.method.compared]
    seeds = ", ".join(f"{run.seeds[0]}/{run.seeds[1]}" for run in group.runs)
    where = "; ".join(dict.fromkeys(hardware(run) for run in group.runs))
    other = [
        f"{key}={group.config[key]}"
        for key in config
        if key not in {*SEEDS, *NO_RESULT, "stop_after_task"} and group.config[key] != config[key]
    ]
    return [
        *_compared(ours, (theirs.average, theirs.last) if theirs else None),
        f"{len(group.runs)}: {seeds}",
        ", ".join([where, *other]),
        duration(group.over_runs("seconds").mean),
    ]


def _compared(ours: Sequence[Sequence["Spread"]], theirs: Sequence[float] | None) -> list[str]:
    """Return the cells of our results and of their differences from the published ones.

    Args:
        ours: two results by the headline; then by the classifier, where that is another curve.
        theirs: the same two, where they are published.
    """
    differences = ["-"]
    if theirs:
        differences = [
            " / ".join(f"{a.mean - b:+.2f}" for a, b in zip(each, theirs, strict=True))
            for each in ours
        ]
    return [beside([" / ".join(map(str, each)) for each in ours]), beside(differences)]


def beside(cells: Sequence[str]) -> str:
    """Return a cell: what it says by the headline, and in brackets by the classifier, if given."""
    return cells[0] if len(cells) == 1 else f"{cells[0]} (CNN: {cells[1]})"


def _areas(curves: list["Curve"]) -> list[list[str]]:
    """Return a row for each curve that exps/ has the points of, with each of ours of its split."""
    keys = ("model_name", "dataset", "init_cls", "increment")
    points = (config for _, config, _ in experiments() if config["prefix"] == "auc")
    rows = []
    for split in dict.fromkeys(tuple(config[key] for key in keys) for config in points):
        theirs = next(
            (
                area
                for area in published.areas()
                if (area.method, area.dataset, area.init_cls, area.increment) == split
            ),
            None,
        )
        name = f"{_split(dict(zip(keys, split, strict=True)))}, AUC-A / AUC-L"
        said = f"{theirs.auc_average:.2f} / {theirs.auc_last:.2f}" if theirs else "-"
        others = [f"`auc_{split[1]}_*.json`", "-", said]
        ours = [
            curve for curve in curves if tuple(curve.groups[0].config[key] for key in keys) == split
        ]
        for curve in ours:
            areas = [[curve.area(key) for key in HEADLINES[by]] for by in curve.method.compared]
            both = (theirs.auc_average, theirs.auc_last) if theirs else None
            schedule = SCHEDULES[curve.groups[0].config["scheduler"]]
            runs = [run for group in curve.groups for run in group.runs]
            numbers = dict.fromkeys(str(len(group.runs)) for group in curve.groups)
            rows.append([f"{name}, {schedule}", *others, *_compared(areas, both)])
            rows[-1].append(f"{' or '.join(numbers)} a point")
            rows[-1].append("; ".join(dict.fromkeys(hardware(run) for run in runs)))
            rows[-1].append("-")
        if not ours:
            rows.append([name, *others, *NOT_MEASURED])
    return rows


def _name(config: Mapping[str, Any]) -> str:
    """Return an experiment's name in the papers' words, with its schedule."""
    point = ""
    if config["prefix"] == "auc":
        point = f" {config['convnet_type'].removeprefix('memo_').partition('_')[0]}"
    return f"{_split(config)}, {config['prefix']}{point}, {SCHEDULES[config['scheduler']]}"


def _split(setting: Mapping[str, Any]) -> str:
    """Return "CIFAR100 Base0 Inc10", behind the name of a method that is not MEMO."""
    method = find_method(setting["model_name"])
    title = "" if method.name == "memo" else f"{method.title}, "
    first, later = setting["init_cls"], setting["increment"]
    split = f"Base{0 if first == later else first} Inc{later}"
    return f"{title}{DATASET_NAMES[setting['dataset']]} {split}"
