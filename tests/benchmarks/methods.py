"""The methods beside each other on short runs on the real CIFAR-100: README's table.

    python -m tests.benchmarks.methods FOLDER ...

prints a row for each finished run in these folders. They have ten classes in the first task and in
every later one, and stop after the third. Accuracies are percent: old and new are those of the
classifier after the last task, on the classes of earlier tasks and of that one. A run that did not
read its first task has trained one of its own.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.reproduction import hardware
from utils.runs import Run, find_runs
from utils.tables import markdown_text

HEADER = (
    *("method", "first task", "exemplars", "CNN after tasks 1, 2, 3", "CNN average", "old", "new"),
    *("NME after task 3", "forgetting"),
)


def curves(run: Run) -> list[dict[str, str]]:
    """Return the lines of a run's curves.csv, one a task."""
    with (run.folder / "curves.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs_of(folders: Sequence[Path]) -> dict[str, Run]:
    """Return the finished run of each method below some folders.

    Raises:
        ValueError: a run is not finished, or two are of one method.
    """
    found: dict[str, Run] = {}
    for run in find_runs(folders):
        name = run.config["model_name"]
        if run.unfinished or name in found:
            raise ValueError(f"{run.folder}: {run.unfinished or f'a second run of {name}'}")
        found[name] = run
    return found


def markdown(folders: Sequence[Path]) -> str:
    """Return the table, as it stands in README."""
    found = runs_of(folders)
    rows = []
    for run in sorted(found.values(), key=lambda each: each.summary["average_accuracy"]):
        tasks = curves(run)
        last, nme = tasks[-1], tasks[-1]["nme_top1"]
        rows.append(
            [
                run.method.title,
                "read" if run.config["skip"] else "trained",
                str(run.config["memory_size"]),
                " ".join(f"{float(task['cnn_top1']):.1f}" for task in tasks),
                f"{run.summary['average_accuracy']:.2f}",
                *(f"{float(last[key]):.1f}" for key in ("old_top1", "new_top1")),
                f"{float(nme):.1f}" if nme else "-",
                f"{run.summary['forgetting']:.1f}",
            ]
        )
    where = "; ".join(dict.fromkeys(hardware(run) for run in found.values()))
    return f"{markdown_text(HEADER, rows)}\nOn {where}.\n"


def main(argv: Sequence[str]) -> int:
    """Print the table; return the exit code."""
    sys.stdout.write(markdown([Path(folder) for folder in argv]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
