"""A run's pictures, drawn from the files in its folder.

    curves            accuracy against classes seen, with the published curve where there is one
    accuracy_matrix   accuracy on each task's classes after each task
    confusion         what the test images of each class are taken for
    training          losses, accuracy and learning rate over the epochs
    weight_norms      the classifier's rows before and after the last alignment

Drawing takes seconds and training waits for it, so a run draws once, when it is finished: PNG, and
PDF for papers. `--resume` of a finished run draws what is missing or older than its results, and so
does `python -m utils.report`, for a run that is not finished too (PNG only).
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from utils import published
from utils.files import write_file
from utils.plots import (
    draw_accuracy_matrix,
    draw_confusion,
    draw_curves,
    draw_training,
    draw_weight_norms,
    figure_bytes,
)
from utils.runs import Run, read_run, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PicturesError(Exception):
    """A run's pictures cannot be drawn; the message is one sentence for the user."""


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


def draw_run(folder: Path) -> None:
    """Draw all pictures of a run that has finished a task.

    One after the other, each emptied before the next: together they would hold much memory until
    the garbage collector comes by.

    Raises:
        PicturesError: a file cannot be read or written, or they do not belong together, as while a
            run is writing them.
    """
    run = read_run(folder)
    try:
        for name, draw in _pictures(folder, run).items():
            figure = draw()
            (folder / f"{name}.pdf").unlink(missing_ok=True)  # of fewer tasks, perhaps
            for file_format in _formats(run):
                write_file(folder / f"{name}.{file_format}", figure_bytes(figure, file_format))
            figure.clear()
    except _UNUSABLE as error:
        raise PicturesError(f"the pictures of {folder} cannot be drawn: {error}") from error


# A damaged file, or none; that it is cut off is an error of its own kind for each reader.
_UNUSABLE = (OSError, ValueError, LookupError, EOFError, BadZipFile, csv.Error)


def _formats(run: Run) -> tuple[str, ...]:
    return ("png",) if run.unfinished else ("png", "pdf")


def _pictures(folder: Path, run: Run) -> dict[str, Callable[[], "Figure"]]:
    """Return what draws each picture of a run, by name; curves come last."""
    if not run.summary:
        raise ValueError(run.unfinished)
    sizes = run.task_sizes
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        predicted, targets = arrays["predictions"][:, 0], arrays["targets"]
    matrix = [[_number(cell) for cell in row[1:]] for row in _read(folder / "accuracy_matrix.csv")]
    if targets.max() >= sum(sizes) or len(matrix) != len(sizes):
        raise ValueError("predictions.npz and accuracy_matrix.csv are not of one task")
    title = title_of(run.config, run.summary["task_sizes"])
    if run.unfinished:
        title += f", after task {run.tasks}"
    theirs = published.find(run.config)
    pictures: dict[str, Callable[[], Figure]] = {
        "accuracy_matrix": lambda: draw_accuracy_matrix(np.array(matrix, float), title=title),
        "confusion": lambda: draw_confusion(predicted, targets, sizes, title=title),
    }
    epochs = _rows(folder / "training.csv")
    if epochs:  # none where the only task was not trained but read
        pictures["training"] = lambda: draw_training(epochs, title=title)
    last = [row for row in _rows(folder / "weight_norms.csv") if row["task"] == len(sizes)]
    if last:
        pictures["weight_norms"] = lambda: draw_weight_norms(
            [row["before"] for row in last], [row["after"] for row in last], sizes, title=title
        )
    pictures["curves"] = lambda: draw_curves(
        run.summary, title=title, published=theirs.curve if theirs else None
    )
    return pictures


def _read(path: Path) -> list[list[str]]:
    """Return the lines of a CSV below its header."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a CSV of numbers by column; an empty cell is None."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _number(cell: str) -> float | None:
    if not cell:
        return None
    return int(cell) if cell.isdecimal() else float(cell)
