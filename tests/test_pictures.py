"""Tests of utils/pictures.py: which files are drawn, when, and from what; how they look by eye."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from processes import SMALL, Program, folders

from main_memo import main
from utils import experiment, pictures, report
from utils.config import Config

NAMES = {"accuracy_matrix", "confusion", "curves", "training", "weight_norms"}


@pytest.fixture
def flags(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps({**SMALL, "epochs": 1, "milestones": []}))
    return ["--config", str(tmp_path / "small.json"), "--log_dir", str(tmp_path / "logs")]


def folder_of(flags):
    return Path(flags[flags.index("--log_dir") + 1])


@pytest.fixture
def drawn(monkeypatch):
    """Save the time of drawing; return what would have been drawn: figures by function."""
    made = []

    def stand_in(name):
        return lambda *args, **kwargs: made.append((name, args, kwargs)) or Figure(made)

    for name in NAMES:
        monkeypatch.setattr(pictures, f"draw_{name}", stand_in(name))
    monkeypatch.setattr(pictures, "figure_bytes", lambda figure, form: figure.content(form))
    return made


class Figure:
    alive = 0

    def __init__(self, made):
        assert not Figure.alive, "the one before has not been emptied"
        Figure.alive = 1

    def content(self, file_format):
        return file_format.encode()

    def clear(self):
        Figure.alive = 0


def files(folder, *endings):
    return sorted(path.name for path in folder.iterdir() if path.suffix[1:] in endings)


def test_a_run_draws_once_when_it_is_finished(flags, drawn, monkeypatch):
    write_task = experiment.Logbook.write_task

    def watched(self, *args, **kwargs):
        assert not drawn
        write_task(self, *args, **kwargs)

    monkeypatch.setattr(experiment.Logbook, "write_task", watched)
    assert main(flags) == 0
    assert {name for name, *_ in drawn} == NAMES
    assert len(drawn) == 5
    (folder,) = folders(folder_of(flags))
    both = sorted(f"{name}.{form}" for name in NAMES for form in ("png", "pdf"))
    assert files(folder, "png", "pdf") == both
    assert (folder / "curves.pdf").stat().st_mtime == max(
        (folder / name).stat().st_mtime for name in both
    )


def test_what_is_drawn_is_what_the_files_say(flags, drawn):
    assert main([*flags, "--eval_every", "1"]) == 0
    (folder,) = folders(folder_of(flags))
    summary = json.loads((folder / "summary.json").read_text())
    args = {name: (positional, keywords) for name, positional, keywords in drawn}
    title = "MEMO, synthetic images, Base0 Inc2"
    assert {keywords["title"] for _, keywords in args.values()} == {title}
    assert args["curves"][0][0]["curves"] == summary["curves"]
    assert args["curves"][1]["published"] is None
    matrix = args["accuracy_matrix"][0][0]
    assert matrix.shape == (3, 3)
    assert np.isnan(matrix[0, 2])
    assert matrix[2].mean() == pytest.approx(summary["last_accuracy"])
    predicted, targets, sizes = args["confusion"][0]
    assert 100 * (predicted == targets).mean() == pytest.approx(summary["last_accuracy"])
    assert sizes == [2, 2, 2]
    epochs = args["training"][0][0]
    assert [(row["task"], row["epoch"]) for row in epochs] == [(1, 1), (1, 2), (2, 1), (3, 1)]
    assert epochs[0]["loss_aux"] is None
    assert isinstance(epochs[0]["task"], int)  # it is written above the curves
    assert epochs[-1]["test_acc"] > 0
    before, after, sizes = args["weight_norms"][0]
    assert len(before) == len(after) == 6
    assert before[:4] == after[:4]


def test_a_published_curve_stands_beside_a_run_of_its_setting(tmp_path, drawn):
    config = Config().to_dict()
    sizes, tops = [10] * 10, [90.0, 80.0]
    curves = {"classes_seen": [10, 20], "cnn_top1": tops, "nme_top1": tops}
    averages = ("average_accuracy", "last_accuracy", "average_nme_accuracy", "last_nme_accuracy")
    summary = {"curves": curves, "task_sizes": sizes, "tasks_total": 10, "tasks_finished": 2}
    summary |= dict.fromkeys((*averages, "forgetting", "exemplars", "seconds"), 1.0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    (tmp_path / "accuracy_matrix.csv").write_text("task,task_1,task_2\n1,90.0,\n2,70.0,90.0\n")
    (tmp_path / "training.csv").write_text("task,epoch\n")  # both tasks were read from elsewhere
    (tmp_path / "per_class.csv").write_text("class,name\n0,a 1\n1,2\n")
    # Before and after are the same: nothing was aligned, and the lengths are drawn all the same.
    (tmp_path / "weight_norms.csv").write_text("task,class,before,after\n2,0,1.5,1.5\n")
    targets = np.arange(20)
    np.savez(tmp_path / "predictions.npz", predictions=targets[:, None], targets=targets)
    pictures.draw_run(tmp_path)
    names = ["accuracy_matrix", "confusion", "weight_norms", "curves"]
    assert [name for name, *_ in drawn] == names
    assert drawn[1][2]["names"] == ["a 1", "2"]
    assert drawn[-1][2]["published"][-1] == 61.98
    assert drawn[-1][2]["title"] == "MEMO, CIFAR-100, Base0 Inc10, after task 2 of 10"
    assert drawn[-1][2]["same_schedule"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "epochs": 6, "titles": False}))
    pictures.draw_run(tmp_path)
    assert drawn[-1][2]["title"] == ""
    assert not drawn[-1][2]["same_schedule"]
    assert files(tmp_path, "png", "pdf") == sorted(f"{name}.png" for name in names)
    # Files of two moments, as while a run is writing them.
    np.savez(tmp_path / "predictions.npz", predictions=targets[:, None] + 5, targets=targets + 5)
    with pytest.raises(pictures.PicturesError, match="are not of one task"):
        pictures.draw_run(tmp_path)


def test_the_stages_of_a_training_csv_are_words(tmp_path):
    (tmp_path / "training.csv").write_text("task,stage,epoch,loss_kd\n1,bias,3,\n")
    row = {"task": 1, "stage": "bias", "epoch": 3, "loss_kd": None}
    assert pictures._rows(tmp_path / "training.csv") == [row]


def test_a_finished_run_whose_drawing_was_cut_off_is_drawn_when_resumed(flags, drawn, capsys):
    assert main(flags) == 0
    (folder,) = folders(folder_of(flags))
    resume = ["--resume", str(folder)]
    drawn.clear()
    assert main(resume) == 0
    assert not drawn
    (folder / "curves.pdf").unlink()  # the last one
    assert main(resume) == 0
    assert len(drawn) == 5
    assert "but for its pictures" in capsys.readouterr().err
    drawn.clear()
    newer = (folder / "curves.pdf").stat().st_mtime + 1
    os.utime(folder / "summary.json", (newer, newer))
    assert main([*flags, "--resume"]) == 0
    assert len(drawn) == 5


def test_the_report_draws_runs_that_are_not_finished(flags, drawn, capsys):
    assert main([*flags, "--stop_after_task", "1"]) == 0
    logs = folder_of(flags)
    (folder,) = folders(logs)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    for path in folder.glob("*.png"):  # PDFs are there: of a run that was to end here at first
        path.unlink()
    drawn.clear()
    copy = logs / "published" / folder.name  # of all but networks and checkpoints
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix not in (".pt", ".pdf"):
            (copy / path.name).write_bytes(path.read_bytes())
    assert report.main([str(logs)]) == 2  # nothing is finished
    # The only task has no old classes.
    assert files(folder, "png", "pdf") == sorted(f"{name}.png" for name in NAMES - {"weight_norms"})
    assert not files(copy, "png", "pdf")
    assert re.findall(r"drew the pictures of (.*)", capsys.readouterr().err) == [str(folder)]


def test_the_pictures_of_a_real_run(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    flags = ["--config", tmp_path / "small.json", "--log_dir", tmp_path]
    assert Program(*flags, output=tmp_path / "said").wait() == 0  # which draws nothing
    (folder,) = folders(tmp_path)
    pictures.draw_run(folder)
    for name in NAMES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def lengthen(path):
    path.write_text(path.read_text().rstrip() + ",1,1\n")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("predictions.npz", cut),
        ("predictions.npz", lambda path: path.write_bytes(b"")),
        ("training.csv", lambda path: path.unlink()),
        ("training.csv", lengthen),
        ("training.csv", lambda path: path.write_text("task,lr\n1,0.1\n2\n")),
        ("weight_norms.csv", lambda path: path.write_text("task,class\n3,0\n")),
        ("accuracy_matrix.csv", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_what_cannot_be_drawn_is_said_and_the_rest_goes_on(name, damage, flags, drawn, capsys):
    assert main(flags) == 0
    (folder,) = folders(folder_of(flags))
    (folder / "curves.pdf").unlink()
    damage(folder / name)
    said = f"the pictures of {folder} cannot be drawn"
    assert main(["--resume", str(folder)]) == 0
    err = capsys.readouterr().err
    assert f"WARNING: {said}" in err
    assert "average accuracy" in err  # its table, all the same
    assert report.main([str(folder)]) == 0
    assert said in capsys.readouterr().err


def test_a_full_disk_while_drawing_does_not_undo_a_run(flags, drawn, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pictures, "write_file", full)
    assert main(flags) == 0
    assert "cannot be drawn: [Errno 28] No space left on device" in capsys.readouterr().err
    (folder,) = folders(folder_of(flags))
    assert json.loads((folder / "summary.json").read_text())["finished"]
