"""Tests of utils/logbook.py: the files of a run and what it says on the terminal."""

import csv
import errno
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tqdm import tqdm

import utils.logbook as logbook_module
from models.methods import METHODS, Method
from utils.config import Config
from utils.logbook import (
    EPOCHS_EVERY,
    LOGGER,
    Logbook,
    epoch_columns,
    final_table,
    provenance,
    run_folder,
    setup_console,
    task_line,
)
from utils.metrics import Metrics

MEMO = METHODS["memo"]
CLASS_ORDER = [7, 3, 9, 0]
TASK_SIZES = [2, 1, 1]
TASK_FILES = [
    "curves.csv",
    "accuracy_matrix.csv",
    "per_class.csv",
    "summary.json",
    "predictions.npz",
    "training.csv",
    "weight_norms.csv",
]


@pytest.fixture(autouse=True)
def quiet_logger():
    """Give the logger back as it was."""
    handlers, level = LOGGER.handlers[:], LOGGER.level
    yield
    LOGGER.handlers[:] = handlers
    LOGGER.setLevel(level)


def ranked(firsts, num_classes):
    """Return predictions (n, num_classes) whose first column is ``firsts``."""
    return np.array([[f, *(c for c in range(num_classes) if c != f)] for f in firsts])


def predictions_of(task):
    """Return the predictions after a task (from 0); four test images a class, in class order."""
    cnn, nme, classes = [
        # class 0: 4 of 4, class 1: 3 of 4; NME: 4, 2
        ([0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 0, 0], 2),
        # class 0: 2 of 4, class 1: 4 of 4, class 2: 3 of 4
        ([0, 0, 2, 2, 1, 1, 1, 1, 2, 2, 2, 0], [0, 0, 0, 2, 1, 1, 2, 2, 2, 2, 2, 2], 3),
        # class 0: 1 of 4, class 1: 2, class 2: 3, class 3: 4
        (
            [0, 3, 3, 3, 1, 1, 3, 3, 2, 2, 2, 3, 3, 3, 3, 3],
            [0, 0, 3, 3, 1, 1, 3, 3, 2, 2, 3, 3, 3, 3, 3, 0],
            4,
        ),
    ][task]
    return SimpleNamespace(
        cnn=ranked(cnn, classes),
        nme=ranked(nme, classes),
        targets=np.repeat(np.arange(classes), 4),
    )


def metrics_after(tasks, nme=True):
    metrics = Metrics(TASK_SIZES)
    for task in range(tasks):
        predictions = predictions_of(task)
        metrics.append(predictions.cnn, predictions.nme if nme else None, predictions.targets)
    return metrics


NORMS = [
    {"before": [1.0] * seen, "after": [1.0] * (seen - 1) + [0.5]}
    for seen in np.cumsum(TASK_SIZES).tolist()
]


def epochs_of(tasks):
    """Return two rows of training.csv for each task."""
    return [
        {
            "task": task,
            "epoch": epoch,
            "lr": 0.1 / 3**epoch,
            "loss": 3e-9,
            "loss_clf": 2e-9,
            "loss_aux": 1e-9 if task > 1 else None,
            "train_acc": 99.5,
            "test_acc": None,
            "seconds": 1.25,
        }
        for task in range(1, tasks + 1)
        for epoch in (1, 2)
    ]


def write(logbook, tasks, finished=False):
    logbook.write_task(
        metrics_after(tasks),
        [8, 9, 8][:tasks],
        [1.5, 2.25, 3.0][:tasks],
        predictions_of(tasks - 1),
        CLASS_ORDER,
        finished,
        epochs=epochs_of(tasks),
        weight_norms=NORMS[:tasks],
        peak_memory=1_200_000_000,
    )


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def folder_in(tmp_path, **changes):
    start_time = time.mktime((2026, 3, 9, 14, 5, 7, 0, 0, -1))
    return run_folder(Config(log_dir=str(tmp_path), **changes), 1993, start_time)


class TestRunFolder:
    def test_name_says_what_the_run_is(self, tmp_path):
        folder = folder_in(tmp_path)
        name = "2026-03-09_14-05-07_memo_resnet32_B0_Inc10_ms3312_seed1993"
        assert folder == tmp_path / "fair" / "cifar100" / "memo" / name
        assert folder.is_dir()

    def test_larger_first_task_is_the_base(self, tmp_path):
        assert "_B50_Inc10_" in folder_in(tmp_path, init_cls=50).name

    def test_debug_runs_have_a_place_of_their_own(self, tmp_path):
        folder = folder_in(tmp_path, debug=True)
        assert folder.relative_to(tmp_path).parts[:2] == ("debug", "fair")

    def test_runs_of_the_same_second_do_not_share_a_folder(self, tmp_path):
        folders = [folder_in(tmp_path) for _ in range(3)]
        assert [folder.name.removeprefix(folders[0].name) for folder in folders] == ["", "-2", "-3"]

    def test_a_file_in_the_way_is_named(self, tmp_path):
        (tmp_path / "logs").write_text("")
        with pytest.raises(OSError, match="logs"):
            folder_in(tmp_path / "logs")


class TestFiles:
    def test_curves(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 3)
        header, *rows = read_csv(tmp_path / "curves.csv")
        assert header == [
            *("task", "classes_seen", "cnn_top1", "cnn_top5", "nme_top1", "nme_top5"),
            *("old_top1", "new_top1", "forgetting", "exemplars", "seconds"),
        ]
        top1 = header.index("cnn_top1")
        assert [row[:2] for row in rows] == [["1", "2"], ["2", "3"], ["3", "4"]]
        assert [row[top1] for row in rows] == ["87.5", "75.0", "62.5"]
        assert [row[top1 + 2] for row in rows] == ["75.0", "75.0", "56.25"]
        assert [row[header.index("cnn_top5")] for row in rows] == ["100.0"] * 3
        assert [row[header.index("old_top1")] for row in rows] == ["", "75.0", "50.0"]
        assert [row[header.index("new_top1")] for row in rows] == ["87.5", "75.0", "100.0"]
        # After task 2: 87.5 -> 75. After task 3: task 1 87.5 -> 37.5 and task 2 75 -> 75.
        assert [row[header.index("forgetting")] for row in rows] == ["", "12.5", "25.0"]
        assert [row[-2:] for row in rows] == [["8", "1.5"], ["9", "2.25"], ["8", "3.0"]]

    def test_accuracy_matrix_groups_real_tasks_and_is_empty_above_the_diagonal(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 3)
        assert read_csv(tmp_path / "accuracy_matrix.csv") == [
            ["task", "task_1", "task_2", "task_3"],
            ["1", "87.5", "", ""],
            ["2", "75.0", "75.0", ""],
            ["3", "37.5", "75.0", "100.0"],
        ]

    def test_per_class_names_the_original_class(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 2)
            assert len(read_csv(tmp_path / "per_class.csv")) == 4
            write(logbook, 3)
        assert read_csv(tmp_path / "per_class.csv") == [
            ["class", "original_class", "task", "top1", "test_images"],
            ["0", "7", "1", "25.0", "4"],
            ["1", "3", "1", "50.0", "4"],
            ["2", "9", "2", "75.0", "4"],
            ["3", "0", "3", "100.0", "4"],
        ]

    def test_summary(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 1)
            first = json.loads((tmp_path / "summary.json").read_text())
            write(logbook, 3, finished=True)
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert first["forgetting"] is None
        assert first["curves"]["old_top1"] == [None]
        assert (first["finished"], first["tasks_finished"], first["tasks_total"]) == (False, 1, 3)
        assert (summary["finished"], summary["tasks_finished"]) == (True, 3)
        assert summary["average_accuracy"] == pytest.approx(75.0)
        assert summary["last_accuracy"] == pytest.approx(62.5)
        assert summary["average_nme_accuracy"] == pytest.approx((75 + 75 + 56.25) / 3)
        assert summary["last_nme_accuracy"] == pytest.approx(56.25)
        assert summary["forgetting"] == pytest.approx(25.0)
        assert summary["seconds"] == 6.75
        assert summary["peak_memory_bytes"] == 1_200_000_000
        assert summary["task_sizes"] == TASK_SIZES
        assert summary["curves"]["classes_seen"] == [2, 3, 4]
        assert summary["curves"]["cnn_top1"] == pytest.approx([87.5, 75.0, 62.5])

    def test_predictions_are_those_of_the_last_task(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 1)
            write(logbook, 2)
        with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
            assert np.array_equal(arrays["predictions"], predictions_of(1).cnn)
            assert np.array_equal(arrays["nme_predictions"], predictions_of(1).nme)
            assert np.array_equal(arrays["targets"], predictions_of(1).targets)
            assert np.array_equal(arrays["class_order"], CLASS_ORDER)

    def test_every_file_is_there_after_every_task_and_nothing_else(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_config({"seed": [1993]})
            for task in (1, 2):
                write(logbook, task)
                expected = sorted(["main.log", "config.json", *TASK_FILES])
                assert sorted(os.listdir(tmp_path)) == expected
                assert len(read_csv(tmp_path / "curves.csv")) == 1 + task

    def test_without_exemplars_nme_is_left_out(self, tmp_path):
        predictions = predictions_of(1)
        predictions.nme = None
        metrics = metrics_after(2, nme=False)
        with Logbook(tmp_path, METHODS["finetune"]) as logbook:
            logbook.write_task(metrics, [0, 0], [1.0, 1.0], predictions, CLASS_ORDER, True)
        header, *rows = read_csv(tmp_path / "curves.csv")
        for name in ("nme_top1", "nme_top5"):
            assert [row[header.index(name)] for row in rows] == ["", ""]
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["average_nme_accuracy"] is summary["last_nme_accuracy"] is None
        assert summary["curves"]["nme_top1"] == [None, None]
        assert summary["average_accuracy"] > 0
        with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
            assert set(arrays) == {"predictions", "targets", "class_order"}

    def test_training_csv_has_the_columns_of_the_method(self, tmp_path):
        assert epoch_columns(MEMO) == (
            *("task", "epoch", "lr", "loss", "loss_clf", "loss_aux"),
            *("train_acc", "test_acc", "seconds"),
        )
        method = Method("two", "Two", loss_parts=("clf", "kd"), stages=("train", "bias"))
        common = {"task": 1, "lr": 0.5, "loss": 2.5, "train_acc": 50.0, "test_acc": None}
        rows = [
            {**common, "epoch": 1, "stage": "train", "loss_clf": 2.0, "loss_kd": 0.5, "seconds": 1},
            {**common, "epoch": 2, "stage": "bias", "loss_clf": 2.5, "loss_kd": None, "seconds": 1},
        ]
        with Logbook(tmp_path, method) as logbook:
            logbook.write_epochs(rows)
        assert (tmp_path / "training.csv").read_text() == (
            "task,stage,epoch,lr,loss,loss_clf,loss_kd,train_acc,test_acc,seconds\n"
            "1,train,1,0.5,2.5,2,0.5,50,,1\n"
            "1,bias,2,0.5,2.5,2.5,,50,,1\n"
        )

    def test_training_csv_is_rewritten_from_rows_and_keeps_tiny_numbers(self, tmp_path):
        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_epochs(epochs_of(1))
            header, *rows = read_csv(tmp_path / "training.csv")
            assert header == list(epoch_columns(MEMO))
            assert rows[0] == ["1", "1", "0.0333333", "3e-09", "2e-09", "", "99.5", "", "1.25"]
        with Logbook(tmp_path, MEMO) as logbook:  # a run that is taken up again
            logbook.write_epochs(epochs_of(2))
        assert len(read_csv(tmp_path / "training.csv")) == 1 + 4

    def test_training_csv_is_not_written_after_each_short_epoch(self, tmp_path, monkeypatch):
        now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        path, epochs = tmp_path / "training.csv", epochs_of(3)

        def rows():
            return len(read_csv(path)) - 1

        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_epochs(epochs[:1])
            assert rows() == 1  # the first one at once
            now += EPOCHS_EVERY - 0.1
            logbook.write_epochs(epochs[:2])
            assert rows() == 1
            now += 0.1
            logbook.write_epochs(epochs[:3])
            assert rows() == 3
            logbook.write_epochs(epochs[:4])
            assert rows() == 3
            logbook.sync()  # as every save does
            assert rows() == 4
            logbook.write_epochs(epochs[:5])
            write(logbook, 2)  # whose rows count
            assert rows() == 4
            logbook.write_epochs(epochs)
        assert rows() == 6  # however the run ended

    def test_a_disk_that_is_full_at_the_end_does_not_hide_why_the_run_ends(self, tmp_path):
        def run():
            with Logbook(tmp_path, MEMO) as logbook:
                logbook.write_epochs(epochs_of(1)[:1])
                logbook.write_epochs(epochs_of(1))
                (tmp_path / "training.csv").unlink()
                (tmp_path / "training.csv").mkdir()
                raise KeyError("why")

        with pytest.raises(KeyError, match="why"):
            run()

    def test_weight_norms_and_blocks(self, tmp_path):
        blocks = [{"task": 1, "epoch": 1, "block": 1, "gradient": None, "shift": 1e-12}]
        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_task(
                metrics_after(1), [8], [1.5], predictions_of(0), CLASS_ORDER, False,
                epochs=epochs_of(1), weight_norms=NORMS[:1], blocks=blocks,
            )  # fmt: skip
        assert read_csv(tmp_path / "weight_norms.csv") == [
            ["task", "class", "before", "after"],
            ["1", "0", "1.0", "1.0"],
            ["1", "1", "1.0", "0.5"],
        ]
        assert read_csv(tmp_path / "blocks.csv")[1] == ["1", "1", "1", "", "1e-12"]

    @pytest.mark.parametrize("name", TASK_FILES)
    def test_a_failure_at_any_file_names_it_and_keeps_the_former(self, tmp_path, monkeypatch, name):
        with Logbook(tmp_path, MEMO) as logbook:
            write(logbook, 1)
            before = (tmp_path / name).read_bytes()
            really_replace = os.replace

            def replace(source, target):
                if Path(target).name == name:
                    raise OSError(errno.ENOSPC, "No space left on device")
                really_replace(source, target)

            monkeypatch.setattr(os, "replace", replace)
            with pytest.raises(OSError, match=re.escape(name)):
                write(logbook, 2)
        assert (tmp_path / name).read_bytes() == before
        assert not [left for left in os.listdir(tmp_path) if left.endswith(".tmp")]

    def test_config_is_one_flat_object_in_the_order_given(self, tmp_path):
        config = {"seed": [1993], "dataset": "cifar100", "t_max": None, "_platform": "Grüße"}
        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_config(config)
        read = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        assert list(read.items()) == list(config.items())

    def test_a_class_without_test_images_is_an_empty_cell(self, tmp_path):
        predictions = SimpleNamespace(
            cnn=np.array([[0, 1], [0, 1]]), nme=np.array([[0, 1], [1, 0]]), targets=np.array([0, 0])
        )
        metrics = Metrics([2])
        metrics.append(predictions.cnn, predictions.nme, predictions.targets)
        with Logbook(tmp_path, MEMO) as logbook:
            logbook.write_task(metrics, [2], [1.0], predictions, [1, 0], True)
        assert read_csv(tmp_path / "per_class.csv")[2] == ["1", "0", "1", "", "0"]


class FakeWriter:
    """Stands in for TensorBoard's SummaryWriter."""

    def __init__(self, log_dir):
        self.scalars = []
        FakeWriter.last = self
        Path(log_dir).mkdir(exist_ok=True)
        self.file = Path(log_dir, f"events.out.tfevents.{time.time_ns()}")
        self.file.touch()

    def add_scalar(self, name, value, step):
        self.scalars.append((name, step, value))

    def flush(self):
        pass

    def close(self):
        self.closed = True


class TestTensorBoard:
    @pytest.fixture(autouse=True)
    def _fake(self, monkeypatch):
        module = SimpleNamespace(SummaryWriter=FakeWriter)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)

    def test_scalars_are_those_of_the_tables_once_each(self, tmp_path):
        with Logbook(tmp_path, MEMO, tensorboard=True) as logbook:
            logbook.write_epochs(epochs_of(1)[:1])
            write(logbook, 1)
            write(logbook, 2, finished=True)
        writer = FakeWriter.last
        steps = [(name, step) for name, step, _ in writer.scalars]
        assert len(steps) == len(set(steps))
        found = {(name, step): value for name, step, value in writer.scalars}
        assert found["training/loss", 4] == 3e-9
        assert ("training/loss_aux", 1) not in found
        assert found["after_task/cnn_top1", 2] == pytest.approx(75.0)
        assert writer.closed

    def test_a_run_taken_up_again_starts_the_copy_anew(self, tmp_path):
        for _ in range(2):
            with Logbook(tmp_path, MEMO, tensorboard=True) as logbook:
                write(logbook, 2)
        assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [
            FakeWriter.last.file.name
        ]
        assert ("training/epoch", 1) not in [scalar[:2] for scalar in FakeWriter.last.scalars]
        assert ("training/lr", 1, epochs_of(1)[0]["lr"]) in FakeWriter.last.scalars


def test_the_real_tensorboard_takes_them(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Logbook(tmp_path, MEMO, tensorboard=True) as logbook:
        write(logbook, 2)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("after_task/cnn_top1")] == [87.5, 75.0]


class TestLog:
    def test_lines_have_a_time_and_a_level(self, tmp_path):
        with Logbook(tmp_path, MEMO):
            LOGGER.info("task 1")
            LOGGER.warning("look here")
        first, second = (tmp_path / "main.log").read_text().splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO task 1", first)
        assert second.endswith(" WARNING look here")

    def test_the_log_is_continued_and_closed(self, tmp_path):
        for words in ("before", "after"):
            with Logbook(tmp_path, MEMO):
                LOGGER.info(words)
            LOGGER.info("in nobody's log")
        assert [line.split()[-1] for line in (tmp_path / "main.log").open()] == ["before", "after"]

    def test_two_runs_one_after_the_other_do_not_share_lines(self, tmp_path):
        for seed in ("1993", "1"):
            (tmp_path / seed).mkdir()
            with Logbook(tmp_path / seed, MEMO):
                LOGGER.info("seed %s", seed)
        assert (tmp_path / "1993" / "main.log").read_text().endswith("INFO seed 1993\n")
        assert (tmp_path / "1" / "main.log").read_text().count("\n") == 1

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's always full device")
    def test_a_full_disk_raises_once_and_names_the_log(self, tmp_path, capsys):
        (tmp_path / "main.log").symlink_to("/dev/full")
        setup_console()
        logbook = Logbook(tmp_path, MEMO)
        with pytest.raises(OSError, match=r"No space left on device.*main\.log"):
            LOGGER.info("does not fit")
        LOGGER.error("the disk is full")  # the message to the user still gets out
        logbook.close()
        assert "ERROR: the disk is full" in capsys.readouterr().err

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone.main\.log"):
            Logbook(tmp_path / "gone", MEMO)


class TestConsole:
    def test_plain_text_on_stderr_and_warnings_say_so(self, capsys):
        setup_console()
        setup_console()  # does not double the lines
        LOGGER.info("task 1/10")
        LOGGER.warning("no GPU")
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err == "task 1/10\nWARNING: no GPU\n"

    def test_a_line_does_not_tear_a_progress_bar(self, capsys):
        setup_console()
        with tqdm(total=10, desc="bar", ascii=True, file=sys.stderr) as bar:
            bar.update(5)
            LOGGER.info("a line of its own")
        assert "\ra line of its own\n" in capsys.readouterr().err.replace(" \r", "\r")

    def test_console_says_what_the_log_keeps(self, tmp_path, capsys):
        setup_console()
        with Logbook(tmp_path, MEMO):
            LOGGER.info("one")
            LOGGER.debug("too much")
        assert capsys.readouterr().err == "one\n"
        assert len(LOGGER.handlers) >= 1
        assert not any(isinstance(handler, logging.FileHandler) for handler in LOGGER.handlers)


class TestWords:
    def test_task_line(self):
        first, _, third = metrics_after(3).tasks
        assert task_line(first, 3, 8, 42.4) == (
            "task 1/3: 2 classes seen, CNN 87.50 %, NME 75.00 %, 8 exemplars, 42 s"
        )
        assert task_line(third, 3, 8, 3725) == (
            "task 3/3: 4 classes seen, CNN 62.50 %, NME 56.25 %, old classes 50.00 %, "
            "new classes 100.00 %, 8 exemplars, 1 h 02 min"
        )

    def test_final_table_names_average_and_last(self):
        table = final_table(metrics_after(3), [8, 9, 8], [60.0, 60.0, 65.0], MEMO)
        lines = table.splitlines()
        assert lines[0] == "top-1 accuracy in percent, 4 classes seen"
        assert lines[1].split() == ["average", "accuracy", "last", "accuracy"]
        assert lines[2].split() == ["over", "all", "tasks", "after", "task", "3"]
        assert lines[3].split() == ["CNN", "(the", "classifier)", "75.00", "62.50"]
        assert lines[4].split()[-2:] == ["68.75", "56.25"]
        assert "nearest mean of exemplars" in lines[4]
        assert "CNN after each task: 87.50 75.00 62.50" in table
        assert "forgetting (CNN): 25.00 points" in table
        assert "exemplars held: 8; time: 3 min 05 s" in table

    def test_without_exemplars_nothing_is_said_of_nme(self):
        metrics = metrics_after(3, nme=False)
        assert "CNN 62.50 %, old classes" in task_line(metrics.tasks[-1], 3, 0)
        table = final_table(metrics, [0, 0, 0], [1.0] * 3, METHODS["finetune"])
        assert "CNN (the classifier)" in table
        assert "NME" not in table

    def test_a_method_that_is_quoted_by_nme_has_it_first_and_of_each_task(self):
        table = final_table(metrics_after(3), [8, 9, 8], [1.0] * 3, METHODS["icarl"])
        lines = table.splitlines()
        assert [line.split()[0] for line in lines[3:5]] == ["NME", "CNN"]
        assert lines[3].split()[-2:] == ["68.75", "56.25"]
        assert lines[5] == "NME after each task: 75.00 75.00 56.25"
        assert lines[6] == "CNN after each task: 87.50 75.00 62.50"

    def test_final_table_of_a_run_that_stopped_early(self):
        table = final_table(metrics_after(1), [8], [1.0], MEMO)
        assert "2 classes seen" in table
        assert "over 1 of 3 tasks" in table
        assert "forgetting" not in table

    def test_no_task_no_table(self):
        with pytest.raises(ValueError, match="needs an evaluated task"):
            final_table(Metrics(TASK_SIZES), [], [], MEMO)


class TestProvenance:
    def test_keys_are_comments_and_values_go_into_json(self):
        facts = provenance([torch.device("cpu")])
        assert all(key.startswith("_") for key in facts)
        assert json.loads(json.dumps(facts)) == facts
        assert facts["_torch"] == torch.__version__
        assert facts["_numpy"] == np.__version__
        assert facts["_devices"] == ["cpu"]
        assert facts["_processor"]
        assert facts["_command"].startswith("python ")

    def test_commit_and_whether_files_differ(self, tmp_path, monkeypatch):
        def git(*words):
            identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
            command = ["git", "-C", str(tmp_path), *identity, *words]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            return result.stdout.strip()

        def commit_facts():
            facts = provenance([])
            return facts["_git_commit"], facts["_git_dirty"]

        monkeypatch.setattr(logbook_module, "REPOSITORY", tmp_path.resolve())
        assert commit_facts() == (None, None)  # not a checkout
        git("init", "-q")
        assert commit_facts() == (None, None)  # no commit yet
        (tmp_path / "code.py").write_text("a = 1\n")
        git("add", "code.py")
        git("commit", "-q", "-m", "one")
        commit = git("rev-parse", "HEAD")
        (tmp_path / "untracked").write_text("")
        assert commit_facts() == (commit, False)
        (tmp_path / "code.py").write_text("a = 2\n")
        assert commit_facts() == (commit, True)
        # A copy inside somebody else's checkout does not claim that one's commit.
        (tmp_path / "copy").mkdir()
        monkeypatch.setattr(logbook_module, "REPOSITORY", (tmp_path / "copy").resolve())
        assert commit_facts() == (None, None)
