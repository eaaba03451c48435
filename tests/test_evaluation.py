"""--evaluate gives the accuracies of the log again, from disk; --export gives the weights away."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY
from processes import SMALL, Program, folders

from main_memo import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished run."""
    logs = tmp_path_factory.mktemp("logs")
    (logs / "small.json").write_text(json.dumps(SMALL))
    program = Program("--config", logs / "small.json", "--log_dir", logs, output=logs / "said")
    assert program.wait() == 0, program.said()
    return folders(logs)[0]


def evaluate(tmp_path, *flags):
    program = Program("--evaluate", *flags, output=tmp_path / "said")
    code, said = program.wait(), program.said()
    program.output.unlink()
    assert "Traceback" not in said
    return code, said


@pytest.mark.parametrize("task", [1, 2, 3, None])
def test_the_accuracies_of_the_log_come_again(task, run, tmp_path):
    before = {path: path.read_bytes() for path in run.iterdir()}
    code, said = evaluate(tmp_path, run, *([] if task is None else ["--task", task]))
    assert code == 0, said
    (logged,) = re.findall(rf"task {task or 3}/3: .* exemplars", (run / "main.log").read_text())
    assert said.splitlines()[0] == logged
    assert f"the same as in {run / 'curves.csv'}" in said
    assert before == {path: path.read_bytes() for path in run.iterdir()}


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_is_set_up_as_for_training(deterministic, tmp_path, monkeypatch):
    asked = []
    for module in ("experiment", "evaluation"):
        monkeypatch.setattr(f"utils.{module}.set_up_cudnn", asked.append)
    monkeypatch.setattr("utils.pictures.draw_run", lambda folder: None)
    small = {**SMALL, "deterministic": deterministic, "stop_after_task": 1}
    (tmp_path / "small.json").write_text(json.dumps(small))
    flags = ["--config", str(tmp_path / "small.json"), "--log_dir", str(tmp_path)]
    assert main(flags) == 0
    assert main(["--evaluate", str(folders(tmp_path)[0])]) == 0
    assert asked == [deterministic] * 2


def test_ctrl_c_does_not_speak_of_a_checkpoint(run, tmp_path):
    program = Program(
        *("--evaluate", run), output=tmp_path / "said",
        die_at=("models.base.nme_predict", 1), signal_number=signal.SIGINT,
    )  # fmt: skip
    assert program.wait() == 130
    assert program.said().splitlines()[-1] == "main_memo.py: interrupted"
    assert "Traceback" not in program.said()


def test_a_difference_is_told(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    curves = tmp_path / "run" / "curves.csv"
    rows = curves.read_text().splitlines()
    cells = rows[2].split(",")
    cells[2] = "12.5"
    curves.write_text("\n".join([*rows[:2], ",".join(cells)]))
    code, said = evaluate(tmp_path, tmp_path / "run", "--task", 2)
    assert code == 0
    assert "not the same as in" in said
    assert "here and 12.5 there" in said
    code, said = evaluate(tmp_path, tmp_path / "run", "--task", 3)
    assert "there is nothing to compare with" in said


def test_the_exported_weights_load_as_readme_says(run, tmp_path):
    code, said = evaluate(tmp_path, run, "--task", 2, "--export", tmp_path / "memo.pt")
    assert code == 0
    assert f"{tmp_path / 'memo.pt'}: state dict of memo_conv2 after tasks of [2, 2] classes" in said
    state = torch.load(tmp_path / "memo.pt", weights_only=True)
    assert type(state) is dict
    task = torch.load(run / "task_2.pt", weights_only=True)["network"]
    assert state.keys() == task.keys()
    assert all(torch.equal(state[name], task[name]) for name in task)

    readme = (REPOSITORY / "README.md").read_text()
    (lines,) = [
        block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "memo.pt" in block
    ]
    code = lines.replace("memo_resnet32", "memo_conv2").replace("[10] * 10", "[2, 2]")
    assert code != lines
    code = f"import torch\nimages = torch.zeros(5, 3, 32, 32)\n{code}\nprint(tuple(labels.shape))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(5,)\n", done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--task", 4], "has no task_4.pt; --task can be 1, 2, 3"),
        (["--lrate", 0.2], "lrate is 0.2 but was 0.05"),
        (["-net", "resnet14_cifar"], "convnet_type is"),
        (["--export", "/"], "cannot write --export /"),
        (["--export", "/nowhere/memo.pt"], "cannot write --export /nowhere/memo.pt: No such file"),
        (["--resume"], "--resume goes on with a run, --evaluate tests it; give one of them"),
    ],
)
def test_what_cannot_be_evaluated(flags, says, run, tmp_path):
    code, said = evaluate(tmp_path, run, *flags)
    assert code == 2
    assert says in said


def test_folders_and_files_that_are_none(run, tmp_path):
    code, said = evaluate(tmp_path, tmp_path / "nowhere")
    assert (code, "there is no folder" in said) == (2, True)
    shutil.copytree(run, tmp_path / "run")
    content = (run / "task_3.pt").read_bytes()
    (tmp_path / "run" / "task_3.pt").write_bytes(content[:5000])
    code, said = evaluate(tmp_path, tmp_path / "run")
    assert (code, "task_3.pt is damaged" in said) == (2, True)
    for path in (tmp_path / "run").glob("task_*.pt"):
        path.unlink()
    code, said = evaluate(tmp_path, tmp_path / "run")
    assert (code, "no task of a run has been finished there" in said) == (2, True)
