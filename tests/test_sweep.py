"""utils/sweep.py: what is left out, what is run, and what its end says."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import REPOSITORY
from fake_runs import fake_run

import utils.sweep
from utils.config import Config
from utils.files import file_lock
from utils.folders import list_images
from utils.runs import find_runs
from utils.sweep import main, missing_seeds

TEN = [90.0, 80.0, 78.0, 74.0, 71.0, 69.0, 68.0, 65.0, 63.0, 62.0]


@pytest.mark.parametrize(
    ("run", "missing"),
    [
        ({}, [1]),
        ({"seed": [1]}, [1993]),
        ({"num_workers": 0, "device": [3]}, [1]),
        ({"torch_seed": 2}, [1993, 1]),
        ({"lrate": 0.2}, [1993, 1]),
        ({"finished": False}, [1993, 1]),
        ({"stop_after_task": 9, "top1": TEN[:9]}, [1993, 1]),
        ({"stop_after_task": 10}, [1]),
    ],
)
def test_only_finished_runs_of_the_same_settings_are_left_out(run, missing, tmp_path):
    fake_run(tmp_path / "run", **{"top1": TEN, **run})
    assert missing_seeds(Config(seed=[1993, 1]), find_runs([tmp_path])) == missing


def test_a_run_is_finished_whatever_its_device_made_of_auto(tmp_path):
    folder = fake_run(tmp_path / "run", TEN)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_precision": "tf32"}))
    assert missing_seeds(Config(), find_runs([tmp_path])) == []


def test_a_run_of_image_files_is_finished_as_long_as_they_are_the_same(tmp_path):
    images = tmp_path / "images"
    for name in ("train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png"):
        (images / name).parent.mkdir(parents=True)
        (images / name).touch()
    asked = {"dataset": "folder", "data_dir": str(images), "init_cls": 1, "increment": 1}
    folder = fake_run(tmp_path / "logs" / "run", TEN[:2], **asked)
    config = json.loads((folder / "config.json").read_text())
    files = {"files": list_images(images).identity, "classes": ["a", "b"]}
    (folder / "config.json").write_text(json.dumps({**config, "_data": files}))
    config, runs = Config(seed=[1993, 1], **asked), find_runs([tmp_path / "logs"])
    assert missing_seeds(config, runs) == [1]
    (images / "train/a/0.png").touch()
    assert missing_seeds(config, runs) == [1993, 1]
    (images / "train/a").rename(tmp_path / "elsewhere")
    assert missing_seeds(config, runs) == [1993, 1]


@pytest.fixture
def files(tmp_path):
    """Two configuration files whose runs end at once, were they run."""
    paths = []
    for name, increment in (("a", 10), ("b", 20)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"increment": increment, "log_dir": str(tmp_path / "logs")}))
        paths.append(str(path))
    return paths


@pytest.fixture
def ran(monkeypatch):
    """Record the command lines instead of running them; the list of exit codes can be filled."""
    commands, codes = [], []

    def run(words):
        commands.append(words)
        return codes.pop(0) if codes else 0

    monkeypatch.setattr(utils.sweep, "_run", run)
    return commands, codes


def test_every_file_is_run_with_the_flags(files, ran):
    assert main([*files, "-d", "-1", "--seed", "1993", "1"]) == 0
    commands, _ = ran
    assert [words[3] for words in commands] == files
    given = ["-d", "-1", "--seed", "1993", "1"]
    assert all(words[4:] == [*given, "--resume"] for words in commands)


def test_finished_seeds_are_left_out(files, ran, tmp_path):
    fake_run(tmp_path / "logs" / "x", TEN, increment=10, log_dir=str(tmp_path / "logs"))
    assert main([*files, "--seed", "1993", "1"]) == 0
    commands, _ = ran
    assert [words[-3:] for words in commands] == [
        ["--resume", "--seed", "1"],
        ["1993", "1", "--resume"],
    ]
    assert main([files[0]]) == 0
    assert len(commands) == 2


def test_a_call_that_has_begun_is_resumed_with_all_its_seeds(files, ran, tmp_path):
    logs = {"log_dir": str(tmp_path / "logs")}
    folder = fake_run(tmp_path / "logs" / "x", TEN, increment=10, **logs)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_seeds": [1993, 1]}))
    assert main([files[0], "--seed", "1993", "1"]) == 0
    commands, _ = ran
    assert commands[0][-3:] == ["1993", "1", "--resume"]


def test_what_another_process_runs_is_come_back_to(files, tmp_path, monkeypatch):
    """The run of a, in progress elsewhere, is finished while b is run here."""
    folder, commands = tmp_path / "logs" / "x", []
    logs = {"log_dir": str(tmp_path / "logs")}
    fake_run(folder, TEN[:3], finished=False, increment=10, **logs)
    with contextlib.ExitStack() as elsewhere:
        elsewhere.enter_context(file_lock(folder / "main.log"))

        def run(words):
            commands.append(words[3])
            shutil.rmtree(folder)
            fake_run(folder, TEN, increment=10, **logs)
            elsewhere.close()
            return 0

        monkeypatch.setattr(utils.sweep, "_run", run)
        assert main(files) == 0
    assert commands == [files[1]]


def test_two_sweeps_at_once_run_everything_once(files, tmp_path, monkeypatch):
    commands, increments = [], {files[0]: 10, files[1]: 20}

    def run(words):
        commands.append(words[3])
        time.sleep(0.1)  # as long as a run takes to make its folder
        increment = increments[words[3]]
        settings = {
            "increment": increment,
            "init_cls": increment,
            "log_dir": str(tmp_path / "logs"),
        }
        fake_run(tmp_path / "logs" / f"{increment}", TEN[: 100 // increment], **settings)
        return 0

    monkeypatch.setattr(utils.sweep, "_run", run)
    for path, increment in increments.items():
        content = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps({**content, "init_cls": increment}))
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(main, [files, files, files[:1]])) == [0, 0, 0]
    assert sorted(commands) == files


def test_a_run_without_a_finished_task_is_no_obstacle(files, ran, tmp_path):
    folder = fake_run(tmp_path / "logs" / "x", TEN, increment=10, log_dir=str(tmp_path / "logs"))
    (folder / "summary.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_seeds": [1993, 1]}))
    fake_run(tmp_path / "logs" / "y", TEN, increment=10, log_dir=str(tmp_path / "logs"))
    assert main([files[0], "--seed", "1993", "1"]) == 0
    assert ran[0][0][-3:] == ["1993", "1", "--resume"]  # the call of both goes on


def test_a_log_folder_that_cannot_be_used_is_found_before_anything_runs(
    files, ran, tmp_path, capsys
):
    (tmp_path / "logs").write_text("a file in the way")
    assert main(files) == 2
    assert "Not a directory" in capsys.readouterr().err
    assert ran[0] == []


def test_a_failure_does_not_keep_the_others_from_running(files, ran):
    commands, codes = ran
    codes += [1, 0]
    assert main(files) == 1
    assert len(commands) == 2


@pytest.mark.parametrize("code", [3, 130, 143])
def test_a_run_told_to_stop_stops_the_sweep(code, files, ran):
    commands, codes = ran
    codes.append(code)
    assert main(files) == code
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("code", "does"),
    [
        (0, "pass"),
        (3, "sys.exit(3)"),
        (143, "os.kill(os.getpid(), signal.SIGTERM)"),
        (143, "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"),  # the sweep is ended
    ],
)
def test_what_ended_a_run_is_known(code, does):
    words = [sys.executable, "-c", f"import os, signal, sys, time; {does}"]
    assert utils.sweep._run(words) == code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name the configurations first"),
        (["--seed", "1"], "name the configurations first"),
        (["FILE", "--config", "b.json"], "--config and --print_config are no flags for a sweep"),
        (["FILE", "nowhere.json"], "nowhere.json: there is no such file"),
        (["FILE", "FILE", "-init", "0"], "-init: must be a whole number of at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(words, says, files, ran, capsys):
    assert main([files[0] if word == "FILE" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("utils.sweep: ")
    assert error.count(says) == 1
    assert ran[0] == []


def test_a_real_sweep_runs_once(tmp_path, capsys):
    config = {
        "dataset": "synthetic", "synthetic_classes": 4, "synthetic_train_per_class": 4,
        "synthetic_test_per_class": 2, "convnet_type": "conv2", "prefix": "benchmark",
        "init_cls": 2, "increment": 2, "memory_size": 4, "init_epoch": 1, "epochs": 1,
        "init_milestones": [], "milestones": [], "device": [-1],
    }  # fmt: skip
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config))
    words = [str(path), "--log_dir", str(tmp_path / "logs")]
    command = [sys.executable, "-m", "utils.sweep", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 configurations are finished" in done.stderr
    assert main(words) == 0
    assert "finished already" in capsys.readouterr().err
    assert len(find_runs([tmp_path / "logs"])) == 1
