"""Input that surprises: each case ends in one clear message with exit 2, or in a correct run.

The whole front door is asked, `main_memo.main`, but in this process: the check of the settings
needs no torch, so each case takes milliseconds. What every single setting refuses, and every
malformed file, is in tests/test_config.py; here those cases, its tables, go through the program.
"""

import csv
import errno
import json
import os
import re

import numpy as np
import pytest
from conftest import run_program
from processes import SMALL
from test_config import BAD_FILES, BAD_FLAGS, BAD_JSON_VALUES

import main_memo
from utils import budget, report, sweep
from utils.config import load_config
from utils.experiment import run

CASES = [  # words typed, settings in the JSON file, what the message says
    *((typed, {}, says) for typed, says in BAD_FLAGS),
    *(("", {key: value}, says) for key, value, says in BAD_JSON_VALUES),
    # Flags that do not exist, with the nearest one.
    ("--increments 5", {}, "did you mean --increment?"),
    ("--learning_rate 1", {}, "--learning_rate: there is no such flag"),
    ("--Batch_Size 1", {}, "did you mean --batch_size?"),
    ("--resum", {}, "did you mean --resume?"),
    ("--evaluat x", {}, "did you mean --evaluate?"),
    ("--max-minutes 3", {}, "did you mean --max_minutes?"),
    ("-incr 3", {}, "did you mean -incre?"),
    ("---lrate 3", {}, "---lrate: there is no such flag"),
    # Splits and budgets.
    ("--dataset cifar10 -init 11 -ms 100", {}, "a first task of 11 classes is impossible"),
    ("--dataset cifar10 -init 0 -ms 100", {}, "-init: must be a whole number of at least 1, got 0"),
    ("--dataset synthetic --synthetic_classes 5 -init 6 -ms 50", {}, "init_cls must be 5 or less"),
    ("-ms 1", {}, "1 exemplars cannot cover the 100 classes"),
    ("-ms 99", {}, "memory_size must be 100 or more"),
    ("-ms 6", {"dataset": "synthetic", "synthetic_classes": 7, "init_cls": 2}, "must be 7 or more"),
    ("--stop_after_task 7", {"init_cls": 50}, "the run cannot stop after task 7, it has 6"),
    ("--dataset cifar10 -ms 100", {"class_order": list(range(9))}, "every class of cifar10"),
    # Options and folders.
    ("--task 2", {}, "--task: it needs the folder of a run; give --evaluate too"),
    ("--export x.pt", {}, "--export: it needs the folder of a run; give --evaluate too"),
    ("--resume /nowhere/run", {}, "there is no folder /nowhere/run; a run's folder is needed"),
    ("--resume a b", {}, '--resume: must be nothing, or the folder of a run, got ["a", "b"]'),
    ("--evaluate", {}, "--evaluate: must be the folder of a run, got nothing"),
    ("--task 0", {}, "--task: must be a whole number of at least 1, got 0"),
    ("--task last", {}, "--task: must be a whole number of at least 1"),
    ("--evaluate . --resume .", {}, "give one of them"),
    ("--max_minutes soon", {}, "--max_minutes: must be a number from 0 to 525600"),
    ("--max_minutes 1e12", {}, "--max_minutes: must be a number from 0 to 525600"),
    ("", {"data_dir": "\ud800"}, "data_dir: must be the path of a folder, in UTF-8, got"),
    ("--resume=", {}, "--resume: must be nothing, or the folder of a run"),
]  # fmt: skip


def refuse(capsys, argv):
    """Return what the program says when it refuses this command line."""
    assert main_memo.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("main_memo.py: ")
    assert err.count("\n") == 1, "one problem, one line"
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(("typed", "values", "says"), CASES)
def test_settings_that_cannot_be(typed, values, says, tmp_path, capsys):
    argv = typed.split()
    if values:
        (tmp_path / "x.json").write_text(json.dumps(values))
        argv = ["--config", str(tmp_path / "x.json"), *argv]
    assert says in refuse(capsys, argv)


@pytest.mark.parametrize(("content", "says"), BAD_FILES, ids=[says for _, says in BAD_FILES])
@pytest.mark.parametrize("how", ["--config", "--resume", "--evaluate"])
def test_files_that_cannot_be_read(how, content, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "x.json" if how == "--config" else "config.json"
    (tmp_path / name).write_bytes(content)
    said = refuse(capsys, [how, name if how == "--config" else str(tmp_path)])
    assert says.removeprefix("x.json") in said
    assert name in said


LONG = "x" * 1_000_000
STRANGE = "a\x1b[31m\x07\r\x7f\x9b1m\u202eb\n\udcff"


@pytest.mark.parametrize("text", [LONG, STRANGE], ids=["long", "strange"])
@pytest.mark.parametrize(
    "words",
    [
        ["--{}", "1"],
        ["--{}=1"],
        ["--prefix", "{}"],
        ["-net", "{}"],
        ["--debug={}"],
        ["{}"],
        ["--seed", "1,{},3"],
        ["--config", "{}"],
        ["--resume", "{}"],
        ["--dataset", "folder", "--data_dir", "{}"],
        ["--dataset", "imagenet100", "-net", "resnet18", "--class_list", "{}"],
        '{{"{}": 1}}',
        '{{"{}": 1, "{}": 1}}',
        '{{"prefix": "{}"}}',
        '{{"convnet_type": "{}"}}',
        '{{"seed": ["{}"]}}',
        '{{"lrate": {{"{}": 1}}}}',
    ],
    ids=str,
)
def test_long_and_strange_input_is_shown_short_and_escaped(words, text, tmp_path, capsys):
    if isinstance(words, str):
        inside = json.dumps(text)[1:-1]
        (tmp_path / "x.json").write_text(words.format(inside, inside))
        words = ["--config", str(tmp_path / "x.json")]
    assert main_memo.main([word.format(text) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("main_memo.py: ")
    assert len(said) < 4000
    assert all(letter.isprintable() for letter in said.replace("\n", ""))


def test_of_many_problems_the_first_are_shown(tmp_path, capsys):
    (tmp_path / "x.json").write_text(json.dumps({f"key{n}": n for n in range(5000)}))
    assert main_memo.main(["--config", str(tmp_path / "x.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("main_memo.py: 5000 problems with the settings:\n  - ")
    assert said.endswith("\n  - and 4980 more\n")
    assert said.count("\n") == 22


def test_a_strange_folder_name_is_shown_escaped_by_every_command(tmp_path, capsys):
    folder = str(tmp_path / "a\x1b]0;b\x07")
    for command in (report, sweep):
        assert command.main([folder]) == 2
        said = capsys.readouterr().err
        assert "a\\x1b]0;b\\x07" in said
        assert "\x1b" not in said
    assert budget.main(["--dataset", "a\x1b"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_the_matrix_is_as_large_as_promised():
    assert len(CASES) + 3 * len(BAD_FILES) >= 150


def test_a_folder_where_a_file_is_expected(tmp_path, capsys):
    (tmp_path / "config.json").mkdir()
    for how in ("--resume", "--evaluate"):
        assert "this is a folder; a JSON file" in refuse(capsys, [how, str(tmp_path)])
    assert "this is a folder" in refuse(capsys, ["--config", str(tmp_path)])


def test_a_file_where_a_folder_is_expected(tmp_path, capsys):
    (tmp_path / "run").write_text("{}")
    for how in ("--resume", "--evaluate"):
        assert "a run's folder is needed" in refuse(capsys, [how, str(tmp_path / "run")])


# --- What only the run itself can find out --------------------------------------------------------


@pytest.fixture
def flags(tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    return ["--config", str(tmp_path / "small.json"), "--log_dir", str(tmp_path / "logs")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is not there"),
        (b"", "is damaged or is no checkpoint (it is cut short or of another kind)"),
        (b"PK\3\4 not really", "is damaged or is no checkpoint"),
        ("folder", "is no regular file"),
        ("long", "is not there"),
    ],
)
def test_a_first_task_that_cannot_be_read(content, says, flags, tmp_path, capsys):
    path = tmp_path / "first.pt"
    if content == "folder":
        path.mkdir()
    elif content == "long":
        path = tmp_path / ("x" * 300)
    elif content is not None:
        path.write_bytes(content)
    assert main_memo.main([*flags, "--skip", "--init_checkpoint", str(path)]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert says in said


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_cifar_file_that_is_cut_short(name, tmp_path, capsys):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for each in ("train", "test", "meta"):
        (folder / each).write_bytes(b"")
    flags = ["-d", "-1", "--data_dir", str(tmp_path), "--log_dir", str(tmp_path / "logs")]
    assert main_memo.main(flags) == 2
    said = capsys.readouterr().err
    assert re.search(r"cifar-100-python/\w+ is damaged \(its md5 is not \w+\): delete it", said)
    assert not (tmp_path / "logs").exists()


def test_a_config_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    def forbidden(path, flags):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    # Not by chmod: root may read everything.
    monkeypatch.setattr(os, "open", forbidden)
    said = refuse(capsys, ["--config", str(tmp_path / "x.json")])
    assert "x.json: the file cannot be read (Permission denied)" in said


# --- Legal, if unusual: these run, and correctly --------------------------------------------------

UNUSUAL = {  # settings, and the sizes of the tasks
    "batches of one image": ({"batch_size": 1}, [2, 2, 2]),
    "a batch larger than the data": ({"batch_size": 10_000}, [2, 2, 2]),
    "a batch larger than memory": ({"batch_size": 10**9, "device": []}, [2, 2, 2]),
    "one class in the last task": ({"synthetic_classes": 5}, [2, 2, 1]),
    "one class in every task": (
        {"synthetic_classes": 3, "init_cls": 1, "increment": 1},
        [1, 1, 1],
    ),
    "one class at first": ({"synthetic_classes": 4, "init_cls": 1, "increment": 3}, [1, 3]),
    "fewer than five classes": ({"synthetic_classes": 2, "init_cls": 2}, [2]),
    "an increment larger than what is left": ({"increment": 100}, [2, 4]),
    "as many exemplars as classes": ({"memory_size": 6}, [2, 2, 2]),
    "more exemplars than images": ({"memory_size": 10**9}, [2, 2, 2]),
    "one image of each class": (
        {"synthetic_train_per_class": 1, "synthetic_test_per_class": 1},
        [2, 2, 2],
    ),
    "one exemplar of each class": ({"fixed_memory": True, "memory_per_class": 1}, [2, 2, 2]),
}

# Those whose exemplar memory has room for all images of the classes before the last task.
UNLIMITED = (
    "one class in every task",
    "one class at first",
    "an increment larger than what is left",
    "more exemplars than images",
    "one image of each class",
)


@pytest.mark.parametrize(("values", "sizes"), UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_settings_run(values, sizes, tmp_path, monkeypatch, request):
    monkeypatch.setattr("utils.pictures.draw_run", lambda folder: None)
    shortest = {"init_epoch": 1, "epochs": 1, "init_milestones": [], "milestones": []}
    values = {"synthetic_train_per_class": 4, **shortest, **values}
    (tmp_path / "x.json").write_text(json.dumps({**SMALL, **values, "log_dir": str(tmp_path)}))
    config, _, _ = load_config(["--config", str(tmp_path / "x.json")])
    (metrics,) = run(config)
    assert metrics.task_sizes == sizes
    assert len(metrics.tasks) == len(sizes)
    (folder,) = (path.parent for path in tmp_path.glob("*/*/*/*/curves.csv"))
    said = "limited memory" in (folder / "main.log").read_text()
    assert said == (request.node.callspec.id in UNLIMITED)
    classes = np.cumsum(sizes)
    rows = list(csv.DictReader((folder / "curves.csv").open()))
    assert [int(row["classes_seen"]) for row in rows] == classes.tolist()
    for row in rows:
        for name in ("cnn_top1", "cnn_top5", "nme_top1", "nme_top5"):
            assert 0 <= float(row[name]) <= 100
        # Up to five classes are named: then one of them is always the right one.
        assert float(row["cnn_top5"]) == 100 or int(row["classes_seen"]) > 5
    images = values["synthetic_train_per_class"]
    for row, seen in zip(rows, classes, strict=True):
        quota = 1 if values.get("fixed_memory") else config.memory_size // int(seen)
        assert int(row["exemplars"]) == seen * min(quota, images)


# --- A handful through a real process -------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resum"], "did you mean --resume?"),
        (["--export", "x"], "give --evaluate too"),
        (["--evaluate", "/nowhere"], "there is no folder /nowhere"),
        (["-ms", "1"], "memory_size must be 100 or more"),
    ],
)
def test_mistakes_through_a_process(flags, says):
    done = run_program(*flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
