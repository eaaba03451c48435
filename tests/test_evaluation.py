"""--evaluate gives the accuracies of the log again, from disk; --export gives the weights away."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from processes import SMALL, Program, folders

from main_memo import main
from utils import evaluation
from utils.checkpoint import CheckpointError
from utils.config import Config
from utils.data import load_dataset


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


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Return a folder with the exports of tasks 2 and 3, and nothing else of the run."""
    folder = tmp_path_factory.mktemp("exported")
    for task in (2, 3):
        code, said = evaluate(folder, run, "--task", task, "--export", folder / f"after{task}.pt")
        assert code == 0, said
        assert f"{folder / f'after{task}.json'}: its classes, image size, mean" in said
    return folder


def test_an_export_is_the_weights_and_what_is_needed_to_use_them(run, exported):
    state = torch.load(exported / "after2.pt", weights_only=True)
    assert type(state) is dict
    saved = torch.load(run / "task_2.pt", weights_only=True)
    assert state.keys() == saved["network"].keys()
    assert all(torch.equal(state[name], saved["network"][name]) for name in state)
    facts = json.loads((exported / "after2.json").read_text())
    notes = json.loads((run / "config.json").read_text())
    digest = hashlib.sha256((exported / "after2.pt").read_bytes()).hexdigest()
    classes = saved["class_order"][:4]
    assert facts == {
        "format": "memo-export-1", "weights_sha256": digest, "convnet_type": "memo_conv2",
        "shape": saved["shape"], "task": 2, "task_sizes": [2, 2], "class_order": classes,
        "class_names": [str(label) for label in classes], "image_size": 32, "upright": False,
        "mean": [0.5] * 3, "std": [0.25] * 3, "test_accuracy": saved["test_accuracy"],
        "dataset": "synthetic", "model_name": "memo", "program": notes["_git_commit"],
        "torch": notes["_torch"],
    }  # fmt: skip


def test_what_was_exported_predicts_what_the_run_did(run, exported, tmp_path):
    # As README says, by a program that knows nothing else: the images are files, too.
    sizes = {key: value for key, value in SMALL.items() if key.startswith("synthetic")}
    data = load_dataset("synthetic", "", **sizes)
    with np.load(run / "predictions.npz") as arrays:
        order, targets = arrays["class_order"], arrays["targets"]
        predicted = arrays["predictions"][:, 0]
    shown = np.flatnonzero(np.isin(data.test_labels, order))
    assert list(order[targets]) == list(data.test_labels[shown])
    paths = [f"{number}.png" for number in range(len(shown))]
    for path, image in zip(paths, data.test_images[shown], strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / path)
    for name in ("after3.pt", "after3.json"):
        shutil.copy(exported / name, tmp_path / name.replace("after3", "memo"))

    readme = (REPOSITORY / "README.md").read_text()
    (lines,) = [each for each in re.findall(r"```python\n(.*?)```", readme, re.S) if "memo" in each]
    done = subprocess.run(
        [sys.executable, "-c", f"paths = {paths}\n{lines}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{[str(order[label]) for label in predicted]}\n"


def test_names_and_normalisation_of_the_users_own_images_are_exported(run, tmp_path):
    saved = torch.load(run / "task_2.pt", weights_only=True)
    config = Config(dataset="folder", image_size=48)
    noted = {"classes": list("abcdef"), "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    facts = evaluation._facts(saved, config, {"_data": noted})
    assert facts["class_names"] == ["abcdef"[label] for label in saved["class_order"][:4]]
    assert (facts["mean"], facts["std"]) == (noted["mean"], noted["std"])
    assert (facts["image_size"], facts["upright"]) == (48, True)
    evaluation._export(tmp_path / "memo.pt", saved, facts)
    pixels = np.full((60, 48, 3), 255, np.uint8)
    image = evaluation.load_exported(tmp_path / "memo.pt").preprocess(Image.fromarray(pixels))
    assert image.shape == (3, 48, 48)
    grey = Image.fromarray(np.full((60, 48), 65535, np.uint16))  # not cut off, as convert() would
    assert torch.equal(evaluation.load_exported(tmp_path / "memo.pt").preprocess(grey), image)
    assert image[:, 0, 0].tolist() == pytest.approx([2.25, 1.6, 0.7 / 0.6])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "memo.pt").unlink(), "cannot read the checkpoint"),
        (lambda folder: (folder / "memo.pt").write_bytes(b"PK"), "memo.pt is damaged or is no"),
        (lambda folder: (folder / "memo.json").unlink(), "memo.json is missing or is not what"),
        (lambda folder: (folder / "memo.json").write_text("[1]"), "memo.json is missing or is not"),
        (
            lambda folder: shutil.copy(folder / "after2.json", folder / "memo.json"),
            "memo.pt is not the file that",
        ),
        ({"task_sizes": [2, 2]}, "memo.json does not describe"),
        ({"task_sizes": "all"}, "memo.json does not describe"),
        ({"shape": None, "convnet_type": "vgg"}, "unknown backbone 'vgg'"),
        ({"class_names": ["beech"]}, "1 class_names for 6 classes"),
    ],
)
def test_files_that_are_no_export_are_refused_in_one_sentence(spoil, says, exported, tmp_path):
    for path in (*exported.glob("after2.*"), *exported.glob("after3.*")):
        shutil.copy(path, tmp_path / path.name.replace("after3", "memo"))
    if isinstance(spoil, dict):
        facts = json.loads((tmp_path / "memo.json").read_text())
        (tmp_path / "memo.json").write_text(json.dumps({**facts, **spoil}))
    else:
        spoil(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        evaluation.load_exported(tmp_path / "memo.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("there", "asked", "says"),
    [
        ("memo.pt", "memo.pt", "memo.pt: File exists"),
        ("memo.json", "memo.pt", "memo.json: File exists"),
        ("memo.json/", "memo.pt", "memo.json: Is a directory"),
        ("", "memo.json", "give the weights another ending, such as .*memo.pt"),
    ],
)
def test_an_export_takes_no_other_file_s_place(there, asked, says, run, tmp_path):
    if there.endswith("/"):
        (tmp_path / there).mkdir()
    elif there:
        (tmp_path / there).write_text("mine")
    before = sorted(tmp_path.iterdir())
    saved = torch.load(run / "task_2.pt", weights_only=True)
    with pytest.raises(CheckpointError, match=says):
        evaluation._export(tmp_path / asked, saved, {})
    assert sorted(tmp_path.iterdir()) == before


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
