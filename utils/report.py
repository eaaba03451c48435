"""Tables of results: average and last accuracy of runs, over their seeds, beside published numbers.

    python -m utils.report logs                        every run under logs/ but logs/published/
    python -m utils.report logs/fair --compare         with the published numbers and the difference
    python -m utils.report --auc logs/auc              the performance-memory curve and its area
    python -m utils.report --published logs/published  README's table of the published results

Runs that differ only in their seeds are one row: mean ± standard deviation (of a sample: n - 1) of
each result. Runs that are not finished are listed below the table and never averaged in. A run that
reached its --stop_after_task is finished, and stands in a row with its like only.

The table is printed as Markdown and written as report.md, report.csv and report.tex to the folder
named, or the one above several (`--out` names another; logs/ stands for logs/published/, whose
content git keeps). report_curves.png and .pdf show the accuracy after each task, of each row the
mean and a band of one standard deviation; of several splits, report_curves_1.png and so on.

With --auc the files are auc.md, auc.csv, auc_areas.csv, auc.tex, auc.png and auc.pdf. Where budgets
of the curve have no finished run, the others are drawn, and the area is left out.

Pictures of a run that are missing or older than its results, as they are while it is not finished,
are drawn into its folder; copies of runs, without a checkpoint.pt, are left as they are. With
--published nothing is written; see utils/reproduction.py.

Exit codes: 0 done; 1 a file cannot be written; 2 there is nothing to report, or a path does not
exist.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("utils.report")

import argparse
import os
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from models.methods import Method
from utils import pictures, published, reproduction
from utils.budget import MB, Cost, Point, curve_points
from utils.catalog import find_backbone
from utils.config import EXPS_DIR, SETTINGS, Config
from utils.files import explain, write_file
from utils.metrics import HEADLINES, area_under_curve
from utils.plots import SeedCurve, draw_area, draw_seed_curves
from utils.reproduction import beside
from utils.runs import (
    NO_RESULT,
    SEEDS,
    Run,
    as_computed,
    find_runs,
    is_published,
    telling_apart,
    words_of,
)
from utils.settings import escaped, printable
from utils.tables import csv_text, duration, latex_text, markdown_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a row measures: key in summary.json, and its name in the tables. "CNN" and "NME" are told
# in words below each table.
MEASURES = {
    "average_accuracy": "CNN average (%)",
    "last_accuracy": "CNN last (%)",
    "forgetting": "CNN forgetting",
    "average_nme_accuracy": "NME average (%)",
    "last_nme_accuracy": "NME last (%)",
}
AT_A_POINT = ("convnet_type", "point", "memory_size")  # what differs between the points of a curve
CURVES_A_PICTURE = 7  # as many as there are colours
LONGEST_LABEL = 80  # of a curve, in letters
COMPARED = {"average_accuracy": "average", "last_accuracy": "last", "forgetting": "forgetting"}
WORDS = (
    "CNN: the trained classifier. NME: nearest mean of exemplars. Top-1 accuracy in percent; "
    "average: mean over the tasks; last: after the last task; forgetting: points lost, mean over "
    "earlier tasks. ± is the standard deviation over n runs with different seeds (n - 1 in the "
    "denominator). exemplars: held at the end. MB (2^20 bytes): float32 convolution and BatchNorm "
    "weights and the exemplar budget as uint8 images, as published budgets count. time: mean of "
    "one run."
)
HEADLINE_WORDS = (
    "headline: the accuracy that a method is quoted by, which its published number is compared "
    "with: of {} that of NME, with CNN's beside it because it is not certain which of the two was "
    "published; else of CNN."
)


class ReportError(Exception):
    """There is nothing to report; the message is for the user."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one result over n runs; None where nothing was measured."""

    mean: float | None
    sd: float | None  # of a sample (n - 1); None for a single run

    @classmethod
    def over(cls, values: Iterable[float | None]) -> "Spread":
        """Return mean and deviation of values; if one is missing, so is the mean."""
        values = list(values)
        if None in values:
            return cls(None, None)
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        return f"{self.mean:.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")


@dataclass(frozen=True)
class Group:
    """Finished runs that differ in their seeds only."""

    runs: tuple[Run, ...]

    @property
    def config(self) -> dict[str, Any]:
        """The settings they share (the seeds are those of the first)."""
        return self.runs[0].config

    @property
    def cost(self) -> Cost:
        """What network and exemplar budget cost after the last task."""
        run = self.runs[0]
        names = (self.config[key] for key in ("model_name", "dataset", "convnet_type"))
        return Cost.after(*names, run.task_sizes, run.budget, self.config["image_size"])

    @property
    def method(self) -> Method:
        """The row of their method."""
        return self.runs[0].method

    @property
    def stopped(self) -> bool:
        """Whether the runs stopped before the last task of the split."""
        return self.runs[0].tasks < self.runs[0].tasks_total

    def over_runs(self, key: str) -> Spread:
        """Return mean and deviation of a number in summary.json."""
        return Spread.over(run.summary[key] for run in self.runs)

    def compared(self, by: str) -> dict[str, float | None]:
        """Return the means compared with published results, by "cnn" or "nme".

        The keys are those of COMPARED; by NME there is no forgetting.
        """
        forgetting = self.over_runs("forgetting").mean if by == "cnn" else None
        accuracies = (self.over_runs(key).mean for key in HEADLINES[by])
        return dict(zip(COMPARED, (*accuracies, forgetting), strict=True))

    def exemplars(self) -> str:
        """Return the number of exemplars held, or the range where runs differ."""
        held = [run.summary["exemplars"] for run in self.runs]
        return str(held[0]) if len(set(held)) == 1 else f"{min(held)}-{max(held)}"


def _quoted(groups: Iterable[Group]) -> tuple[str, str]:
    """Return how columns name what groups are quoted by, and what is to be said of it in words."""
    methods = (group.method for group in groups)
    by_nme = dict.fromkeys(each.title for each in methods if each.headline == "nme")
    return ("headline", HEADLINE_WORDS.format(", ".join(by_nme)) + "\n") if by_nme else ("CNN", "")


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[tuple[Run, str]]]:
    """Sort runs into groups that may be averaged, and others with the reason why they may not.

    Of two runs with the same settings and seeds the later folder counts: a repeat that ought to
    give the same numbers is no second sample.
    """
    by_experiment: dict[str, dict[tuple[int, int], Run]] = {}
    left_out = []
    for run in runs:
        if run.unfinished:
            left_out.append((run, run.unfinished))
            continue
        repeats = by_experiment.setdefault(run.experiment, {})
        if run.seeds in repeats:
            left_out.append((repeats[run.seeds], f"done again with the same seeds in {run.folder}"))
        repeats[run.seeds] = run
    groups = [
        Group(tuple(repeats[seeds] for seeds in sorted(repeats)))
        for repeats in by_experiment.values()
    ]
    return groups, left_out


# --- The table of results -------------------------------------------------------------------------


def results_report(runs: list[Run], compare: bool, titles: bool = True) -> dict[str, str | bytes]:
    """Return the content of report.md, report.csv, report.tex and the pictures of the curves.

    Args:
        runs: at least one finished run among them.
        compare: put published numbers beside ours.
        titles: write titles above the pictures.

    Raises:
        ReportError: no run is finished.
    """
    groups, left_out = group_runs(runs)
    if not groups:
        raise ReportError("no run is finished:\n" + _listed(left_out))
    differences = _differences(groups)
    rows_published = [
        published.find(group.config) if compare and not group.stopped else None for group in groups
    ]
    compared = [
        key
        for key, name in COMPARED.items()
        if compare and (key != "forgetting" or any(r and r.forgetting for r in rows_published))
    ]
    differ = any(differences)
    header = ["setting", "method", *["told apart by"] * differ, "n", *MEASURES.values()]
    header += ["exemplars", "MB", "time"]
    quoted, in_words = _quoted(groups)
    for key in compared:
        header += [f"published {quoted} {COMPARED[key]}", "difference"]
    rows, details = [], []
    for number, (group, row) in enumerate(zip(groups, rows_published, strict=True), 1):
        method, *setting = _short(group)
        cells = [
            f"{number}: {', '.join(setting)}",
            method,
            *[differences[number - 1] or "-"] * differ,
            str(len(group.runs)),
            *(str(group.over_runs(key)) for key in MEASURES),
            group.exemplars(),
            f"{group.cost.total_bytes / MB:.2f}",
            duration(group.over_runs("seconds").mean),
        ]
        for key in compared:
            theirs = getattr(row, COMPARED[key], None)
            each = [_less(group.compared(by)[key], theirs) for by in group.method.compared]
            cells += ["-", "-"] if theirs is None else [f"{theirs:.2f}", beside(each)]
        rows.append(cells)
        details.append(_details(number, group))
    text = [markdown_text(header, rows), WORDS + "\n", *details]
    text[2:2] = [in_words] * bool(in_words)
    if compare:
        text.append(_published_beside(groups))
    if left_out:
        text.append(f"Not averaged:\n\n{_listed(left_out)}")
    return {
        "report.md": "\n".join(text),
        "report.csv": _results_csv(groups, differences, rows_published),
        "report.tex": latex_text(header, rows),
        **_curve_pictures(groups, differences, titles),
    }


def _less(ours: float | None, theirs: float | None) -> str:
    """Return the difference of our result from a published one."""
    return "-" if ours is None or theirs is None else f"{ours - theirs:+.2f}"


def _differences(groups: list[Group]) -> list[str]:
    """Return for each group what tells it from those that `_short` calls the same."""
    short = [_short(group) for group in groups]
    told = []
    for group, name in zip(groups, short, strict=True):
        like = [other.runs[0] for other, n in zip(groups, short, strict=True) if n == name]
        told.append(", ".join(telling_apart(group.runs[0], like)))
    return told


def _short(group: Group) -> list[str]:
    """Return a group's method, split and setting, in parts."""
    run = group.runs[0]
    kept = f"ms {run.budget}"
    if group.config.get("fixed_memory"):
        kept = f"{group.config['memory_per_class']} a class"
    backbone = run.config["convnet_type"].removeprefix("memo_")
    parts = [run.config["model_name"], _split(run), run.config["prefix"], backbone, kept]
    return [*parts, f"after task {run.tasks} of {run.tasks_total}"] if group.stopped else parts


def _split(run: Run) -> str:
    """Return "cifar100 B0 Inc10", in the papers' words."""
    first, later = run.config["init_cls"], run.config["increment"]
    return f"{run.config['dataset']} B{0 if first == later else first} Inc{later}"


def _details(number: int, group: Group) -> str:
    """Return a row's settings that are not the defaults, and its runs."""
    shown = ("model_name", "dataset", "prefix", "convnet_type", "init_cls", "increment")
    shown += ("memory_size", "point")
    usual = Config(**{key: group.config[key] for key in shown if key in group.config}).to_dict()
    skipped = {*SEEDS, *NO_RESULT, *shown}
    other = [
        f"{key}={group.config[key]}"
        for key, value in usual.items()
        if key not in skipped and group.config[key] != value
    ]
    lines = [f"{number}: other settings: {', '.join(other) or 'the defaults'}"]
    for run in group.runs:
        order, torch_seed = run.seeds
        lines.append(f"   - class order {order}, torch seed {torch_seed}: {run.folder}")
    return "\n".join(lines) + "\n"


def _published_beside(groups: list[Group]) -> str:
    """Return what was published for the groups' settings, all methods, as a table."""
    settings = ("dataset", "init_cls", "increment", "prefix")
    asked = {
        (*(group.config[key] for key in settings), find_backbone(group.config["convnet_type"]).name)
        for group in groups
    }
    rows = [
        [
            f"{row.dataset} B{0 if row.init_cls == row.increment else row.init_cls} "
            f"Inc{row.increment}, {row.prefix}, {row.convnet_type}: {row.method}",
            "-" if row.memory_size is None else str(row.memory_size),
            f"{row.average:.2f}",
            f"{row.last:.2f}",
        ]
        for row in published.rows()
        if (*(getattr(row, key) for key in settings), row.convnet_type) in asked
    ]
    if not rows:
        return "No number is published for these settings.\n"
    table = markdown_text(["published", "exemplars", "average (%)", "last (%)"], rows)
    return f"Published for these settings (class order 1993, single runs):\n\n{table}"


def _results_csv(
    groups: list[Group],
    differences: list[str],
    rows_published: list[published.Published | None],
) -> str:
    """Return the table with full precision, and every setting."""
    settings = [key for key in SETTINGS if key not in {*SEEDS, *NO_RESULT}]
    header = ["setting", "method", "told_apart_by", "n", "class_orders", "torch_seeds"]
    for key in MEASURES:
        header += [f"{_csv_name(key)}_mean", f"{_csv_name(key)}_sd"]
    header += ["exemplars", "exemplar_budget", "tasks", "total_mb", "stored_mb", "seconds_mean"]
    header += ["headline", *(f"published_{name}" for name in COMPARED.values())]
    rows = []
    for group, difference, row in zip(groups, differences, rows_published, strict=True):
        method, *setting = _short(group)
        orders, torch_seeds = zip(*(run.seeds for run in group.runs), strict=True)
        rows.append(
            [
                ", ".join(setting),
                method,
                difference,
                len(group.runs),
                " ".join(map(str, orders)),
                " ".join(map(str, torch_seeds)),
                *(v for key in MEASURES for v in _mean_sd(group.over_runs(key))),
                group.exemplars(),
                group.runs[0].budget,
                group.runs[0].tasks,
                group.cost.total_bytes / MB,
                group.cost.true_total_bytes / MB,
                group.over_runs("seconds").mean,
                group.method.headline,
                *(getattr(row, name, None) for name in COMPARED.values()),
                *(group.config.get(key) for key in settings),
            ]
        )
    return csv_text([*header, *settings], rows)


def _csv_name(key: str) -> str:
    if "nme" in key:
        return "nme_" + key.replace("_nme", "")
    return f"cnn_{key}"


def _mean_sd(spread: Spread) -> tuple[float | None, float | None]:
    return spread.mean, spread.sd


def _listed(left_out: Iterable[tuple[Run, str]]) -> str:
    return "".join(f"- {run.folder}: {reason}\n" for run, reason in left_out)


# --- The curves over seeds ------------------------------------------------------------------------


def _curve_pictures(groups: list[Group], differences: list[str], titles: bool) -> dict[str, bytes]:
    """Return the content of report_curves.png and .pdf, with a number where there are several."""
    by_split: dict[str, list[_Row]] = {}
    for number, (group, difference) in enumerate(zip(groups, differences, strict=True), 1):
        run = group.runs[0]
        if all(each.curve for each in group.runs):
            key = f"{_split(run)} {run.summary['task_sizes']} {run.config.get('_data')}"
            name = [*_short(group), *([difference] if difference else [])]
            by_split.setdefault(key, []).append(_Row(number, group, name))
    together = [
        rows[first : first + CURVES_A_PICTURE]
        for rows in by_split.values()
        for first in range(0, len(rows), CURVES_A_PICTURE)
    ]
    files = {}
    for number, rows in enumerate(together, 1):
        suffix = f"_{number}" if len(together) > 1 else ""
        draw = partial(_seed_curves, rows, titles)
        files |= pictures.picture_files(f"report_curves{suffix}", draw)
    return files


class _Row(NamedTuple):
    """A row of the table: its number, and its name in parts, the method first."""

    number: int
    group: Group
    name: list[str]


def _seed_curves(rows: list[_Row], titles: bool = True) -> "Figure":
    """Return the picture of rows of one split; what their names have in common is its title."""
    rows = sorted(rows, key=lambda row: -row.group.runs[0].tasks)
    common = [part for part in rows[0].name[2:] if all(part in row.name for row in rows)]
    curves, published_before = [], []
    for number, group, (_, _, *parts) in rows:
        method, _, split = words_of(group.config).partition(", ")
        name = ", ".join([method, *(part for part in parts if part not in common)])
        if len(name) > LONGEST_LABEL:
            name = f"{method}, row {number} of the table"
        by = group.method.headline.upper()
        curve = SeedCurve(name, [run.curve for run in group.runs], by=by)
        theirs = published.find(group.config)
        tasks = group.runs[0].tasks
        if theirs and theirs.curve and theirs not in published_before and tasks > 1:
            published_before.append(theirs)
            same = reproduction.has_schedule_of(group.config, theirs)
            curve = curve._replace(published=theirs.curve[:tasks], same_schedule=same)
        curves.append(curve)
    classes_seen = list(accumulate(rows[0].group.runs[0].task_sizes))
    return draw_seed_curves(
        classes_seen, curves, title=", ".join([split, *common]) if titles else ""
    )


# --- The performance-memory curve -----------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One experiment at several budgets: points, the finished runs there, points without runs."""

    name: str
    points: tuple[Point, ...]
    groups: tuple[Group, ...]
    missing: tuple[Point, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether there is an area under it."""
        return not self.missing and len(self.points) > 1

    @property
    def method(self) -> Method:
        """The row of its method."""
        return self.groups[0].method

    def accuracies(self, key: str) -> list[Spread]:
        """Return mean and deviation of a number in summary.json at each point."""
        return [group.over_runs(key) for group in self.groups]

    def area(self, key: str, exact: bool = False) -> Spread:
        """Return the area under accuracy/100 over nominal or exact MB.

        Where every point has the same seeds there is an area for each of them, else one area under
        the means, without a deviation.
        """
        megabytes = [point.exact_mb if exact else point.nominal_mb for point in self.points]
        seeds = [tuple(run.seeds for run in group.runs) for group in self.groups]
        if len(set(seeds)) == 1:
            by_seed = zip(*(group.runs for group in self.groups), strict=True)
            return Spread.over(
                area_under_curve(megabytes, [run.summary[key] for run in runs]) for runs in by_seed
            )
        means = [spread.mean for spread in self.accuracies(key)]
        return Spread(area_under_curve(megabytes, means), None)

    def per_mb(self, index: int, by: str) -> float:
        """Return average accuracy, by "cnn" or "nme", per MB: APM-S of point 0, APM-E of point -1.

        Accuracy over nominal MB. The published table's exact formula cannot be recovered: it
        prints slightly less.
        """
        average, _ = HEADLINES[by]
        return self.accuracies(average)[index].mean / self.points[index].nominal_mb


def find_curves(runs: list[Run]) -> tuple[list[Curve], list[tuple[Run, str]]]:
    """Sort the finished runs of the protocol `auc` into curves; the others are returned as well.

    Whole curves come first.

    Raises:
        ReportError: there is no such run, or none is at a budget of its curve.
    """
    groups, left_out = group_runs(run for run in runs if run.config.get("prefix", "auc") == "auc")
    left_out += [
        (run, f"stopped after task {run.tasks} of {run.tasks_total}: no point of the curve")
        for group in groups
        if group.stopped
        for run in group.runs
    ]
    by_curve: dict[str, list[Group]] = {}
    for group in groups:
        if not group.stopped:
            by_curve.setdefault(group.runs[0].experiment_but(*AT_A_POINT), []).append(group)
    if not by_curve:
        listed = f":\n{_listed(left_out)}" if left_out else ""
        raise ReportError(f"no finished run of the protocol auc is here (-p auc){listed}")
    curves = []
    firsts = [groups_here[0].runs[0] for groups_here in by_curve.values()]
    for groups_here in by_curve.values():
        points = _points(groups_here)
        found = {point: group for point in points for group in groups_here if _is_at(group, point)}
        missing = tuple(point for point in points if point not in found)
        name = _curve_name(groups_here[0].runs[0], firsts)
        if found:
            curves.append(Curve(name, tuple(found), tuple(found.values()), missing))
        for group in groups_here:
            if group not in found.values():
                (due,) = (p.memory_size for p in points if p.backbone == _point_of(group))
                reason = f"{group.runs[0].budget} exemplars, but its point of the curve has {due}"
                left_out += [(run, reason) for run in group.runs]
    if not curves:
        raise ReportError(
            "no finished run of the protocol auc is at a point of its curve (-ms auto):\n"
            + _listed(left_out)
        )
    return sorted(curves, key=lambda curve: not curve.whole), left_out


def _points(groups: list[Group]) -> list[Point]:
    """Return the points of the curve that groups which differ in backbone and memory belong to."""
    run = groups[0].runs[0]
    return curve_points(
        *(run.config[key] for key in ("dataset", "init_cls", "increment")),
        classes=sum(run.task_sizes),
        method=run.config["model_name"],
        image_size=run.config["image_size"],
        backbones=[_point_of(group) for group in groups],
    )


def _point_of(group: Group) -> str:
    """Return the backbone whose budget a group has; its own where no other is named."""
    return find_backbone(group.config.get("point") or group.config["convnet_type"]).name


def _curve_name(run: Run, others: list[Run]) -> str:
    """Return the setting of a run's curve, with what tells it from the other curves."""
    told = (*AT_A_POINT, "model_name", "init_cls", "increment")
    return ", ".join([run.config["model_name"], _split(run), *telling_apart(run, others, told)])


def _is_at(group: Group, point: Point) -> bool:
    return (_point_of(group), group.runs[0].budget) == (point.backbone, point.memory_size)


def area_report(runs: list[Run], compare: bool, titles: bool = True) -> dict[str, str | bytes]:
    """Return the content of auc.md, auc.csv, auc_areas.csv, auc.tex, auc.png and auc.pdf.

    Several curves, which differ in more than backbone, memory size and seeds, have a picture each:
    auc_1.png, auc_2.png, ...

    Args:
        runs: those found.
        compare: put published areas beside ours.
        titles: write titles above the pictures.

    Raises:
        ReportError: see `find_curves`.
    """
    curves, left_out = find_curves(runs)
    files: dict[str, str | bytes] = {}
    text, latex, raw, raw_areas = [], [], [], []
    for number, curve in enumerate(curves, 1):
        spreads = [[group.over_runs(key) for key in AT_POINTS] for group in curve.groups]
        rows = [
            [
                point.backbone,
                f"{point.nominal_mb}",
                f"{point.exact_mb:.2f}",
                str(point.memory_size),
                str(len(group.runs)),
            ]
            for point, group in zip(curve.points, curve.groups, strict=True)
        ]
        areas = _area_rows(curve, compare) if curve.whole else []
        title = f"{number}: {curve.name}" if len(curves) > 1 else curve.name
        measured = [[*row, *map(str, each)] for row, each in zip(rows, spreads, strict=True)]
        tables = [(POINT_HEADER, measured)]
        tables += [(_area_header(curve.groups), areas)] if areas else []
        text += [f"{title}\n", *(markdown_text(*each) for each in tables)]
        text += [*_no_area(curve), _curve_details(curve)]
        latex += [latex_text(*each) for each in tables]
        raw_areas += [[title, curve.method.headline, *row] for row in areas]
        raw += [
            [title, *row, *(value for spread in each for value in _mean_sd(spread))]
            for row, each in zip(rows, spreads, strict=True)
        ]
        suffix = f"_{number}" if len(curves) > 1 else ""
        files |= pictures.picture_files(f"auc{suffix}", partial(_area_picture, curve, titles))
    every = [group for curve in curves for group in curve.groups]
    text += [AREA_WORDS, *filter(None, [_quoted(every)[1]])]
    if left_out:
        text.append(f"Not used:\n\n{_listed(left_out)}")
    columns = [f"{_csv_name(key)}_{what}" for key in AT_POINTS for what in ("mean", "sd")]
    columns = [column.replace("_accuracy", "") for column in columns]
    names = ["curve", "backbone", "nominal_mb", "exact_mb", "exemplars", "n"]
    files["auc.md"] = "\n".join(text)
    files["auc.csv"] = csv_text([*names, *columns], raw)
    areas_names = ["curve", "headline", "area", "AUC-A", "AUC-L", "APM-S", "APM-E"]
    files["auc_areas.csv"] = csv_text(areas_names, raw_areas)
    files["auc.tex"] = "\n".join(latex)
    return files


AT_POINTS = ("average_accuracy", "last_accuracy", "average_nme_accuracy", "last_nme_accuracy")
POINT_HEADER = [
    *("backbone", "MB nominal", "MB exact", "exemplars", "n"),
    *(MEASURES[key] for key in AT_POINTS),
]
AREA_WORDS = (
    "CNN: the trained classifier; NME: nearest mean of exemplars. AUC: area under accuracy/100 "
    "against MB, by trapezoids; A of average, L of last accuracies. APM: average accuracy per "
    "nominal MB at the first (S) and the last (E) budget. MB are 2^20 bytes of weights and "
    "exemplars. ± and error bars: standard deviation over n seeds (n - 1 in the denominator).\n"
)


def _no_area(curve: Curve) -> list[str]:
    """Say why a curve has no area, if it has none."""
    if curve.whole:
        return []
    named = "memo_" if curve.groups[0].config["model_name"] == "memo" else ""
    lacking = [
        f"- {point.nominal_mb} MB, {named}{point.backbone} with {point.memory_size} exemplars\n"
        for point in curve.missing
    ]
    if not lacking:
        return ["No area: a curve needs finished runs at two budgets or more.\n"]
    needed = len(curve.points) + len(lacking)
    return [
        f"No area: {len(lacking)} of {needed} budgets have no finished run:\n",
        "".join(lacking),
    ]


def _area_picture(curve: Curve, titles: bool = True) -> "Figure":
    keys = dict(zip(("average", "last"), HEADLINES[curve.method.headline], strict=True))
    accuracies = {name: curve.accuracies(key) for name, key in keys.items()}
    rows = [published.find(group.config) for group in curve.groups]
    _, _, *told = curve.name.split(", ")  # method and split stand in the words
    return draw_area(
        [point.nominal_mb for point in curve.points],
        {name: ([s.mean for s in each], [s.sd for s in each]) for name, each in accuracies.items()},
        areas={name: curve.area(key).mean for name, key in keys.items()} if curve.whole else {},
        reference={name: [getattr(row, name, None) for row in rows] for name in keys},
        by=curve.method.headline.upper(),
        title=", ".join([words_of(curve.groups[0].config), *told]) if titles else "",
    )


def _area_header(groups: Iterable[Group]) -> list[str]:
    by, _ = _quoted(groups)
    return ["area", f"AUC-A ({by} average)", f"AUC-L ({by} last)", "APM-S", "APM-E"]


def _area_rows(curve: Curve, compare: bool) -> list[list[str]]:
    """Return the rows under `_area_header`: ours over nominal, exact MB, and the published ones.

    Below those of NME stand the classifier's, which say so.
    """
    rows, ours = [], {}
    for by in curve.method.compared:
        said = "" if by == curve.method.headline else f", {by.upper()}"
        areas = [curve.area(key) for key in HEADLINES[by]]
        apm = [curve.per_mb(0, by), curve.per_mb(-1, by)]
        ours[said] = [*(area.mean for area in areas), *apm]
        exact = (str(curve.area(key, exact=True)) for key in HEADLINES[by])
        rows.append([f"over nominal MB{said}", *map(str, areas), *map(_two_digits, apm)])
        rows.append([f"over exact MB{said}", *exact, "-", "-"])
    run = curve.groups[0].runs[0]
    for area in published.areas() if compare else ():
        if _same_split(area, run):
            theirs = (area.auc_average, area.auc_last, area.apm_first, area.apm_last)
            rows.append([f"published: {area.method}", *(_two_digits(value) for value in theirs)])
            if area.method == curve.method.name:
                for said, values in ours.items():
                    differences = map(_less, values, theirs)
                    rows.append([f"difference from it (nominal){said}", *differences])
    return rows


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _same_split(row: published.PublishedArea | published.Published, run: Run) -> bool:
    return all(getattr(row, k) == run.config[k] for k in ("dataset", "init_cls", "increment"))


def _curve_details(curve: Curve) -> str:
    runs = [run for group in curve.groups for run in group.runs]
    return "".join(f"- {run.folder}\n" for run in runs)


# --- The published results ------------------------------------------------------------------------


def published_table(runs: list[Run]) -> str:
    """Return README's table of the published results, filled from these runs.

    How many of them fill no line is said on stderr.
    """
    groups, _ = group_runs(runs)
    experiments = reproduction.experiments()
    whole = [
        run
        for group in groups
        for run in group.runs
        if any(reproduction.matches(run, path, config) for path, config, _ in experiments)
    ]
    if len(whole) < len(runs):
        sys.stderr.write(
            f"utils.report: {len(runs) - len(whole)} of {len(runs)} runs fill no line: they are "
            "not finished, or not the whole experiment that a file in exps/ describes\n"
        )
    try:
        curves, _ = find_curves(whole)
    except ReportError:
        curves = []
    return reproduction.table(groups, (curve for curve in curves if curve.whole))


# --- The pictures of runs -------------------------------------------------------------------------


def _draw_outdated(runs: Iterable[Run], titles: bool) -> None:
    """Draw the pictures of runs whose results they do not show, in the runs' folders."""
    for run in runs:
        if not pictures.are_outdated(run.folder):
            continue
        said = f"drew the pictures of {run.folder}"
        try:
            pictures.draw_run(run.folder, titles)
        except pictures.PicturesError as error:
            said = str(error)
        sys.stderr.write(f"utils.report: {printable(said)}\n")


# --- The command ----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"utils.report: {printable(message)}; --help lists what can be asked\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m utils.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", type=Path, help="folders of runs, or above them")
    parser.add_argument("--compare", action="store_true", help="put published numbers beside ours")
    parser.add_argument("--auc", action="store_true", help="report the performance-memory curve")
    parser.add_argument(
        "--published", action="store_true", help="print README's table of the published results"
    )
    parser.add_argument(
        "--no-titles", "--no_titles", action="store_true", help="write no titles above pictures"
    )
    parser.add_argument("--out", type=Path, help="folder for the files written")
    return parser


def _folder_for(paths: Sequence[Path]) -> Path:
    """Return where a report of these folders is written: never among the files that git keeps."""
    folder = paths[0]
    if len(paths) > 1:
        folder = Path(os.path.commonpath([path.resolve() for path in paths]))
    repository = EXPS_DIR.parent
    if folder.resolve() == repository or is_published(folder):
        return repository / "logs"
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    asked = _parser().parse_args(argv)
    try:
        runs = [as_computed(run) for run in find_runs(asked.paths)]
        if asked.published:
            sys.stdout.write(published_table(runs))
            return 0
        if not runs:
            places = ", ".join(map(str, asked.paths))
            raise ReportError(
                f"no run is in {places}; a run's folder holds a config.json (those in "
                "logs/published/ are left out unless that folder is named)"
            )
        _draw_outdated(runs, not asked.no_titles)
        make = area_report if asked.auc else results_report
        files = make(runs, asked.compare, not asked.no_titles)
    except (FileNotFoundError, ReportError, ValueError) as error:
        sys.stderr.write(f"utils.report: {printable(str(error)).rstrip()}\n")
        return 2
    folder = asked.out or _folder_for(asked.paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            # Escaped, because a folder's name may hold bytes that no text file could.
            write_file(
                folder / name, escaped(content).encode() if isinstance(content, str) else content
            )
    except OSError as error:
        reason = printable(explain(error, "give another --out"))
        sys.stderr.write(f"utils.report: the report cannot be written: {reason}\n")
        return 1
    sys.stdout.write(escaped(files["auc.md" if asked.auc else "report.md"]))
    sys.stdout.write(escaped(f"\nwritten to {folder}: {', '.join(sorted(files))}\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
