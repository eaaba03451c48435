"""A run's pictures, drawn from the files in its folder.

    curves            accuracy against classes seen, with the published curve where there is one
    accuracy_matrix   accuracy on each task's classes after each task
    confusion         what the test images of each class are taken for
    training          losses, accuracy and learning rate over the epochs
    weight_norms      the classifier's rows before and after the last alignment, if there was one,
                      else after the last task; not after the first

Drawing takes seconds and training waits for it, so a run draws once, when it is finished: PNG, and
PDF for papers. `--resume` of a finished run draws what is missing or older than its results, and so
does `python -m utils.report`, for a run that is not finished too (PNG only).
"""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import published, reproduction
from utils.files import write_file
from utils.plots import (
    draw_accuracy_matrix,
    draw_confusion,
    draw_curves,
    draw_training,
    draw_weight_norms,
    figure_bytes,
)
from utils.runs import Run, read_run, words_of
from utils.settings import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PicturesError(Exception):
    """A picture cannot be drawn; the message is one sentence for the user."""


def picture_files(
    name: str, draw: Callable[[], "Figure"], formats: Sequence[str] = ("png", "pdf")
) -> dict[str, bytes]:
    """Return the content of a picture's files by their names.

    Where it cannot be drawn, for whatever reason, that is a warning on stderr, and nothing comes.
    """
    try:
        return _files(name, draw(), formats)
    except Exception as error:
        said = printable(f"{name}.{formats[0]} cannot be drawn: {_reason(error)}")
        sys.stderr.write(f"WARNING: {said}\n")
        return {}


def _files(name: str, figure: "Figure", formats: Sequence[str]) -> dict[str, bytes]:
    return {f"{name}.{each}": figure_bytes(figure, each) for each in formats}


def _reason(error: Exception) -> str:
    # Where the message is no sentence, as that of a KeyError, its kind says more.
    kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
    return f"{kind}{error}"


def are_outdated(folder: Path) -> bool:
    """Return whether a run has results that its pictures do not show.

    A folder without checkpoint.pt is a copy of some of a run's files and left as it is.
    """
    run = read_run(folder)
    if not run.summary or not (folder / "checkpoint.pt").exists():
        return False
    # Of all pictures, this one is written last.
    last = folder / f"curves.{_formats(run)[-1]}"
    return not last.exists() or last.stat().st_mtime < (folder / "summary.json").stat().st_mtime


def draw_run(folder: Path, titles: bool = True) -> None:
    """Draw all pictures of a run that has finished a task.

    One after the other, each emptied before the next: together they would hold much memory until
    the garbage collector comes by.

    Args:
        folder: the run.
        titles: write the setting above each picture, unless the run's own settings say not to.

    Raises:
        PicturesError: for whatever reason: a file cannot be read or written, or they do not belong
            together, as while a run is writing them; or matplotlib fails. No run ends by it.
    """
    run = read_run(folder)
    try:
        for name, draw in _pictures(folder, run, titles).items():
            figure = draw()
            (folder / f"{name}.pdf").unlink(missing_ok=True)  # of fewer tasks, perhaps
            for file, content in _files(name, figure, _formats(run)).items():
                write_file(folder / file, content)
            figure.clear()
    except Exception as error:
        raise PicturesError(
            f"the pictures of {folder} cannot be drawn: {_reason(error)}"
        ) from error


def _formats(run: Run) -> tuple[str, ...]:
    return ("png",) if run.unfinished else ("png", "pdf")


def _pictures(folder: Path, run: Run, titles: bool) -> dict[str, Callable[[], "Figure"]]:
    """Return what draws each picture of a run, by name; curves come last."""
    if not run.summary:
        raise ValueError(run.unfinished)
    sizes = run.task_sizes
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        predicted, targets = arrays["predictions"][:, 0], arrays["targets"]
    matrix = [[_number(cell) for cell in row[1:]] for row in _read(folder / "accuracy_matrix.csv")]
    if targets.max() >= sum(sizes) or len(matrix) != len(sizes):
        raise ValueError("predictions.npz and accuracy_matrix.csv are not of one task")
    title = words_of(run.config)
    if run.tasks < run.tasks_total:
        title += f", after task {run.tasks} of {run.tasks_total}"
    if not (titles and run.config["titles"]):
        title = ""
    theirs = published.find(run.config)
    same = theirs is not None and reproduction.has_schedule_of(run.config, theirs)
    names = [row.get("name") for row in _rows(folder / "per_class.csv")]
    pictures: dict[str, Callable[[], Figure]] = {
        "accuracy_matrix": lambda: draw_accuracy_matrix(np.array(matrix, float), title=title),
        "confusion": lambda: draw_confusion(
            predicted, targets, sizes, names=[] if None in names else names, title=title
        ),
    }
    epochs = _rows(folder / "training.csv")
    if epochs:  # none where the only task was not trained but read
        pictures["training"] = lambda: draw_training(epochs, title=title)
    last = [row for row in _rows(folder / "weight_norms.csv") if row["task"] == len(sizes)]
    if last and len(sizes) > 1:  # else there are no old classes to compare with
        pictures["weight_norms"] = lambda: draw_weight_norms(
            [row["before"] for row in last], [row["after"] for row in last], sizes, title=title
        )
    pictures["curves"] = lambda: draw_curves(
        run.summary,
        title=title,
        published=theirs.curve if theirs else None,
        same_schedule=same,
    )
    return pictures


def _read(path: Path) -> list[list[str]]:
    """Return the lines of a CSV below its header."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a CSV by column: numbers, but for words; an empty cell is None.

    Raises:
        ValueError: a line has more or fewer cells than the header, or a cell is no number.
    """
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise ValueError(
                f"{path.name} has {len(line)} cells in line {number}, not {len(header)}"
            )
    return [
        {
            name: cell if name in ("name", "stage") else _number(cell)
            for name, cell in zip(header, line, strict=True)
        }
        for line in lines
    ]


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdecimal() else float(cell)
