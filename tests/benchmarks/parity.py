"""Ours against the authors' program on the real CIFAR-100, on a schedule short enough for a CPU.

    python -m tests.benchmarks.parity logs/published/short logs/published/short_first_task

The runs in a second folder did the first task only, and are looked at with the others for that one.

Reads the runs in a folder (one torch seed each; curves.csv of three tasks) and prints, for every
task and measure, their mean and standard deviation beside those of the authors' program, five torch
seeds of the same schedule (tests/golden/real_short_schedule.json). A run of ours is

    python main_memo.py -model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair \\
        --train_base -d -1 --torch_seed S --init_epoch 8 --init_milestones 4 6 \\
        --epochs 6 --milestones 3 5 --stop_after_task 3

The margin is what two means of equal programs stay within: 3 x sd x sqrt(1/n + 1/5), with the
standard deviation of the authors' five. The interval is Welch's, 95 %, for the difference.
"""

import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

AUTHORS = Path(__file__).resolve().parent.parent / "golden" / "real_short_schedule.json"
# Column of curves.csv, its name in the authors' file, and what to call it.
MEASURES = [
    ("cnn_top1", "cnn1", "CNN top-1"),
    ("nme_top1", "nme1", "NME top-1"),
    ("old_top1", "old", "old classes"),
    ("new_top1", "new", "new classes"),
]
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def read_runs(folder: Path) -> dict[int, list[dict[str, str]]]:
    """Return the lines of every run's curves.csv, by torch seed."""
    runs = {}
    for path in sorted(folder.rglob("curves.csv")):
        seed = json.loads((path.parent / "config.json").read_text())["torch_seed"]
        with path.open() as file:
            runs[seed] = list(csv.DictReader(file))
    return dict(sorted(runs.items()))


def compare(runs: dict[int, list[dict[str, str]]]) -> list[dict]:
    """Return a row per task and measure: both samples, their difference, margin and interval."""
    authors = json.loads(AUTHORS.read_text())["seeds"].values()
    rows = []
    for task in range(3):
        for column, key, name in MEASURES:
            if task == 0 and column in ("old_top1", "new_top1"):
                continue  # no old classes, and all are new: the classifier's accuracy again
            ours = [float(run[task][column]) for run in runs.values()]
            theirs = [run[task][key] for run in authors]
            sd = statistics.stdev(theirs)
            rows.append(
                {
                    "task": task + 1,
                    "measure": name,
                    "ours": ours,
                    "theirs": theirs,
                    "difference": statistics.mean(ours) - statistics.mean(theirs),
                    "margin": 3 * sd * math.sqrt(1 / len(ours) + 1 / len(theirs)),
                    "interval": _welch(ours, theirs),
                }
            )
    return rows


def _welch(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the half width of the 95 % interval of a difference of means."""
    parts = [statistics.variance(sample) / len(sample) for sample in (ours, theirs)]
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (ours, theirs), strict=True)
    )
    return T95[min(int(freedom), len(T95)) - 1] * math.sqrt(sum(parts))


def markdown(runs: dict[int, list[dict[str, str]]]) -> str:
    """Return the comparison as a Markdown table."""
    lines = [
        f"| task | measure | ours, mean ± sd (n = {len(runs)}) | authors' program (n = 5) "
        "| difference | margin | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in compare(runs):
        ours, theirs = (
            f"{statistics.mean(row[who]):.2f} ± {statistics.stdev(row[who]):.2f}"
            for who in ("ours", "theirs")
        )
        low, high = (row["difference"] + sign * row["interval"] for sign in (-1, 1))
        lines.append(
            f"| {row['task']} | {row['measure']} | {ours} | {theirs} | {row['difference']:+.2f} "
            f"| ± {row['margin']:.2f} | {low:+.2f} to {high:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def first_tasks(runs: dict[int, list[dict[str, str]]]) -> str:
    """Return the classifier's top-1 after the first task, seed by seed, beside the authors'."""
    authors = json.loads(AUTHORS.read_text())["seeds"]
    samples = {
        "ours": {seed: float(run[0]["cnn_top1"]) for seed, run in runs.items()},
        "authors' program": {seed: run[0]["cnn1"] for seed, run in authors.items()},
    }
    lines = ["| CNN top-1 after task 1 | by torch seed | mean ± sd |", "|---|---|---|"]
    for who, sample in samples.items():
        each = ", ".join(f"{seed}: {value:.1f}" for seed, value in sample.items())
        mean, sd = statistics.mean(sample.values()), statistics.stdev(sample.values())
        lines.append(f"| {who} | {each} | {mean:.2f} ± {sd:.2f} |")
    ours, theirs = (list(sample.values()) for sample in samples.values())
    difference = statistics.mean(ours) - statistics.mean(theirs)
    margin = 3 * statistics.stdev(theirs) * math.sqrt(1 / len(ours) + 1 / len(theirs))
    low, high = (difference + sign * _welch(ours, theirs) for sign in (-1, 1))
    lines.append(
        f"| difference | margin ± {margin:.2f}, 95 % interval {low:+.2f} to {high:+.2f} "
        f"| {difference:+.2f} |"
    )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Print the tables; 1 if a mean lies outside its margin, 2 if there are not two runs."""
    runs = read_runs(Path(argv[0])) if argv else {}
    if len(runs) < 2:
        sys.stderr.write(
            "usage: python -m tests.benchmarks.parity FOLDER [FOLDER of first tasks], with two "
            "runs or more\n"
        )
        return 2
    sys.stdout.write(markdown(runs))
    for folder in argv[1:]:
        sys.stdout.write("\n" + first_tasks(runs | read_runs(Path(folder))))
    outside = [row for row in compare(runs) if abs(row["difference"]) > row["margin"]]
    for row in outside:
        sys.stderr.write(f"task {row['task']}, {row['measure']}: outside the margin\n")
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
