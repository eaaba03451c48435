"""The program as a user meets it: main_memo.py as a process, on tiny synthetic runs."""

import csv
import json
import os
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_program
from processes import run_forked

from models.methods import METHODS
from utils.config import ConfigError, require_log_folder
from utils.logbook import epoch_columns

PUBLISHED = (
    "-model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair -d 3 --train_base "
    "-d 0 1 2 3"
)
TINY = """
--dataset synthetic -net conv2 -p benchmark -d -1 -init 4 -incre 4 -ms 24 --batch_size 32
--init_epoch 2 --init_milestones 1 --epochs 1 --milestones 1
""".split()  # noqa: SIM905
FILES = {
    "main.log",
    "config.json",
    "curves.csv",
    "accuracy_matrix.csv",
    "summary.json",
    "predictions.npz",
    "per_class.csv",
    "training.csv",
    "weight_norms.csv",
    "checkpoint.pt",
    "checkpoint_previous.pt",
} | {
    f"{name}.{file_format}"
    for name in ("curves", "accuracy_matrix", "confusion", "training", "weight_norms")
    for file_format in ("png", "pdf")
}


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """A JSON that asks for little synthetic data: the program has no flag-only way to need more."""
    path = tmp_path_factory.mktemp("config") / "small.json"
    sizes = {"classes": 12, "train_per_class": 16, "test_per_class": 4}
    path.write_text(json.dumps({f"synthetic_{key}": value for key, value in sizes.items()}))
    return ["--config", path]


@pytest.fixture(scope="module")
def finished(small_data, tmp_path_factory):
    """Return what a finished run of two class orders said, and its two folders."""
    logs = tmp_path_factory.mktemp("logs")
    result = run_program(*small_data, *TINY, "--log_dir", logs, "--seed", 1993, 1)
    assert result.returncode == 0, result.stderr
    return result, sorted(
        logs.glob("benchmark/synthetic/memo/*"), key=lambda path: int(path.name.split("seed")[1])
    )


def test_published_line_is_understood():
    result = run_program(*PUBLISHED.split(), "--print_config")
    config = json.loads(result.stdout)
    assert result.returncode == 0
    assert config["device"] == [0, 1, 2, 3]
    assert config["train_base"] is True
    assert (config["init_cls"], config["increment"], config["memory_size"]) == (10, 10, 3312)
    assert (config["convnet_type"], config["prefix"]) == ("memo_resnet32", "fair")


def test_every_run_has_its_own_complete_folder(finished):
    _, folders = finished
    assert len(folders) == 2
    for folder, seed in zip(folders, (1, 1993), strict=True):
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_memo_conv2_B0_Inc4_ms24_seed{seed}", folder.name
        )
        names = {path.name for path in folder.iterdir()}
        assert names == FILES | {f"task_{task}.pt" for task in (1, 2, 3)}


def test_curves_and_summary_agree(finished):
    _, folders = finished
    for folder in folders:
        rows = list(csv.DictReader((folder / "curves.csv").open()))
        assert list(rows[0]) == [
            "task",
            "classes_seen",
            "cnn_top1",
            "cnn_top5",
            "nme_top1",
            "nme_top5",
            "old_top1",
            "new_top1",
            "forgetting",
            "exemplars",
            "seconds",
        ]
        assert [int(row["task"]) for row in rows] == [1, 2, 3]
        assert [int(row["classes_seen"]) for row in rows] == [4, 8, 12]
        assert [int(row["exemplars"]) for row in rows] == [24, 24, 24]
        assert rows[0]["old_top1"] == rows[0]["forgetting"] == ""
        top1 = [float(row["cnn_top1"]) for row in rows]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["average_accuracy"] == pytest.approx(np.mean(top1), abs=1e-5)
        assert summary["last_accuracy"] == pytest.approx(top1[-1], abs=1e-5)
        assert summary["finished"] is True
        arrays = np.load(folder / "predictions.npz")
        correct = arrays["predictions"][:, 0] == arrays["targets"]
        assert 100 * correct.mean() == pytest.approx(top1[-1], abs=1e-5)
        assert len(correct) == 12 * 4
        first_classes = correct[arrays["targets"] < 4]
        matrix = list(csv.DictReader((folder / "accuracy_matrix.csv").open()))
        assert float(matrix[2]["task_1"]) == pytest.approx(100 * first_classes.mean(), abs=1e-5)
        assert matrix[0]["task_2"] == ""


def test_the_terminal_says_what_a_user_needs(finished):
    result, folders = finished
    assert result.stdout == ""
    assert "synthetic in 3 tasks of 4 classes, 24 exemplars, memo_conv2" in result.stderr
    for word in ("average accuracy", "last accuracy", "CNN", "NME", "over 2 class orders"):
        assert word in result.stderr
    assert "one conv2 = 50 exemplars" in result.stderr  # 38,976 weights x 4 / 3,072
    for folder in folders:
        assert str(folder) in result.stderr
        log = (folder / "main.log").read_text()
        assert "task 1 epoch 2/2: lr 0.01" in log
        assert "average accuracy" in log


def test_how_fast_it_was_and_what_it_held_is_told(finished):
    _, folders = finished
    for folder in folders:
        log = (folder / "main.log").read_text()
        said = re.findall(r"INFO task (\d): [\d.]+ ms a step, \d+ s, peak memory (.*) GB\n", log)
        assert [task for task, _ in said] == ["1", "2", "3"]
        peaks = [float(peak) for _, peak in said]
        assert all(b > a - 0.02 for a, b in pairwise(peaks))  # the kernel counts roughly
        peak = json.loads((folder / "summary.json").read_text())["peak_memory_bytes"]
        assert peaks[-1] - 0.02 < peak / 1e9 < peaks[-1] + 0.5
        assert peaks[0] > 0.1  # PyTorch alone takes more


def test_training_csv_has_a_line_for_every_epoch(finished):
    _, folders = finished
    rows = list(csv.DictReader((folders[1] / "training.csv").open()))
    assert list(rows[0]) == list(epoch_columns(METHODS["memo"]))
    assert [(row["task"], row["epoch"]) for row in rows] == [
        *(("1", "1"), ("1", "2"), ("2", "1"), ("3", "1"))
    ]
    assert [float(row["lr"]) for row in rows] == [0.1, 0.01, 0.1, 0.1]
    assert rows[0]["loss_aux"] == rows[0]["test_acc"] == ""
    for row in rows:
        parts = float(row["loss_clf"]) + float(row["loss_aux"] or 0)
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-4)
        assert 0 <= float(row["train_acc"]) <= 100
        assert float(row["seconds"]) > 0


def test_weight_norms_are_those_of_the_checkpoints(finished):
    _, folders = finished
    rows = list(csv.DictReader((folders[1] / "weight_norms.csv").open()))
    assert [int(row["class"]) for row in rows] == [*range(4), *range(8), *range(12)]
    after = [float(row["after"]) for row in rows if row["task"] == "3"]
    network = torch.load(folders[1] / "task_3.pt", weights_only=True)["network"]
    assert after == pytest.approx(network["classifier.weight"].norm(dim=1).tolist(), abs=1e-5)
    before = [float(row["before"]) for row in rows if row["task"] == "3"]
    assert before[:8] == after[:8]  # only new rows are scaled
    assert np.mean(after[8:]) == pytest.approx(np.mean(after[:8]), rel=1e-4)


def test_tensorboard_that_is_not_there_is_a_sentence(small_data, tmp_path):
    # A module of that name which cannot be imported, as if the package were missing.
    (tmp_path / "tensorboard.py").write_text("raise ImportError('not here')")
    result = run_program(
        *small_data, *TINY, "--tensorboard", "--log_dir", tmp_path / "logs",
        env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert result.returncode == 2
    assert "pip install tensorboard" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "logs").exists()


def test_config_json_repeats_the_run(finished, tmp_path):
    _, folders = finished
    path = folders[1] / "config.json"
    config = json.loads(path.read_text())
    assert config["seed"] == [1993]
    assert config["t_max"] == 1
    assert config["device"] == [-1]
    for key in ("_torch", "_torchvision", "_numpy", "_python", "_git_commit", "_devices"):
        assert key in config
    result = run_forked("--config", path, "--log_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    (again,) = tmp_path.glob("benchmark/synthetic/memo/*")

    def without_seconds(folder):
        return [line.rsplit(",", 1)[0] for line in (folder / "curves.csv").read_text().split()]

    assert without_seconds(again) == without_seconds(folders[1])
    first, second = (torch.load(f / "task_3.pt", weights_only=True) for f in (folders[1], again))
    for name, value in first["network"].items():
        assert torch.equal(value, second["network"][name]), name
    for ours, theirs in zip(first["exemplars"], second["exemplars"], strict=True):
        assert torch.equal(ours, theirs)


def test_skip_starts_from_a_trained_first_task(finished, tmp_path):
    _, folders = finished
    checkpoint = folders[1] / "task_1.pt"
    result = run_forked(
        "--config", folders[1] / "config.json", "--skip", "--init_checkpoint", checkpoint,
        "--log_dir", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert f"not trained but read from {checkpoint}" in result.stderr
    (folder,) = tmp_path.glob("benchmark/synthetic/memo/*")
    first = next(csv.DictReader((folders[1] / "curves.csv").open()))
    ours = next(csv.DictReader((folder / "curves.csv").open()))
    assert (ours["cnn_top1"], ours["nme_top1"]) == (first["cnn_top1"], first["nme_top1"])
    # The later tasks draw what they would have drawn.
    last, expected = (
        torch.load(path / "task_3.pt", weights_only=True)["network"]
        for path in (folder, folders[1])
    )
    for name, value in expected.items():
        assert torch.equal(value, last[name]), name


def test_skip_with_a_checkpoint_of_another_class_order_is_refused(finished, tmp_path):
    _, folders = finished
    result = run_forked(
        "--config", folders[1] / "config.json", "--log_dir", tmp_path,
        "--skip", "--init_checkpoint", folders[0] / "task_1.pt",
    )  # fmt: skip
    assert result.returncode == 2
    assert "class order" in result.stderr
    assert "Traceback" not in result.stderr


def test_devices_that_do_not_exist_warn_and_the_run_goes_on(small_data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    result = run_forked(
        *small_data, *TINY, "-d", 0, 1, 2, 3, "--log_dir", tmp_path, "--stop_after_task", 1,
        "--debug",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    warning = "asked for GPU 0, 1, 2, 3, but this machine has no GPU: using the CPU"
    assert f"WARNING: {warning}\n" in result.stderr
    (folder,) = tmp_path.glob("debug/benchmark/synthetic/memo/*")
    config = json.loads((folder / "config.json").read_text())
    assert config["device"] == [0, 1, 2, 3]
    assert config["_devices"] == ["cpu"]


def test_evaluation_inside_a_task_and_fixed_memory(small_data, tmp_path):
    result = run_forked(
        *small_data, *TINY, "--eval_every", 1, "--stop_after_task", 1, "--log_dir", tmp_path,
        "--fixed_memory", "--memory_per_class", 3, "-init", 5, "-incre", 3, "--train_adaptive",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("benchmark/synthetic/memo/*")
    assert "_B5_Inc3_" in folder.name
    assert re.search(r"epoch 1/2: .*, test \d", (folder / "main.log").read_text())
    first, second = csv.DictReader((folder / "training.csv").open())
    assert first["test_acc"] != ""
    # Nothing is aligned after the first task, so its last epoch's test is the task's result.
    (task,) = csv.DictReader((folder / "curves.csv").open())
    assert float(second["test_acc"]) == pytest.approx(float(task["cnn_top1"]), abs=1e-5)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["exemplars"] == 15
    assert summary["tasks_finished"] == 1
    assert summary["tasks_total"] == 4
    assert summary["finished"] is True


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--increments", 5], ["--increments", "--increment"]),
        (["-ms", 50], ["-ms", "50", "100 or more"]),
        (["-net", "resnet18"], ["224x224", "memo_resnet32"]),
        (["--skip"], ["--init_checkpoint"]),
        (["--config", REPOSITORY], ["folder"]),
    ],
)
def test_mistakes_end_in_one_message(flags, words):
    result = run_program(*flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_missing_data_that_cannot_be_downloaded_is_a_sentence(tmp_path, monkeypatch):
    # A proxy nobody listens at: the download fails at once wherever the test runs.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    result = run_forked("-d", -1, "--data_dir", tmp_path / "data", "--log_dir", tmp_path / "logs")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in (
        str(tmp_path / "data"),
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ):
        assert word in result.stderr
    assert "--dataset synthetic" in result.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("place", "reason"),
    [("a_file", "Not a directory"), ("nowhere", "No such file"), ("n" * 300, "File name too long")],
)
def test_a_log_folder_that_cannot_be_used_is_said_before_anything_is_read(place, reason, tmp_path):
    (tmp_path / "a_file").write_text("a file where the folder should be")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=reason) as caught:
        require_log_folder(tmp_path / place / "benchmark")
    assert place in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["a_file", "nowhere"]


def test_a_start_that_fails_leaves_nothing(small_data, tmp_path):
    """No folder of a run, which every report would list as unfinished from then on."""
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    flags = ["--skip", "--init_checkpoint", tmp_path / "bad.pt", "--log_dir", tmp_path / "logs"]
    result = run_forked(*small_data, *TINY, *flags)
    assert result.returncode == 2
    assert "bad.pt is damaged" in result.stderr
    assert not list((tmp_path / "logs").glob("benchmark/synthetic/memo/*"))


def test_a_diverging_run_stops_with_a_sentence(small_data, tmp_path):
    result = run_forked(*small_data, *TINY, "--init_lr", 1e30, "--log_dir", tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "task 1" in result.stderr
    assert "--init_lr" in result.stderr


def test_what_the_program_warns_of_is_in_the_log(small_data, tmp_path):
    result = run_forked(
        *small_data, *TINY, "--milestones", 5, "--log_dir", tmp_path, "--stop_after_task", 1
    )
    assert result.returncode == 0, result.stderr
    assert "is not lowered at 5" in result.stderr
    (folder,) = tmp_path.glob("benchmark/synthetic/memo/*")
    log = (folder / "main.log").read_text()
    assert log.count("is not lowered at 5") == 1
    assert "WARNING" in log


def test_a_first_task_that_is_not_there_is_named_before_anything_is_read(tmp_path):
    flags = ["--skip", "--init_checkpoint", tmp_path / "x.pt", "--log_dir", tmp_path / "logs"]
    result = run_forked("--data_dir", tmp_path / "data", *flags)
    assert result.returncode == 2
    assert f"{tmp_path / 'x.pt'} is not there" in result.stderr
    assert list(tmp_path.iterdir()) == []
