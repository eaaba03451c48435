"""Whole runs of every method beside MEMO: killed, stopped, resumed, shared, tested from disk."""

import csv
import functools
import json
import signal

import pytest
import torch
from processes import SMALL, Program, assert_same_run, folders
from test_distributed import run_two

METHODS = ["finetune", "replay", "icarl", "wa", "der"]
STEP = "utils.engine.fit.Engine.training_step"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return (method) -> flags of a small run and the folder of one that nothing happened to."""

    @functools.cache
    def run(method):
        logs = tmp_path_factory.mktemp(method)
        small = {**SMALL, "model_name": method}
        if method == "finetune":
            small["memory_size"] = 0
        (logs / "small.json").write_text(json.dumps(small))
        flags = ["--config", logs / "small.json"]
        program = Program(*flags, "--log_dir", logs, output=logs / "said")
        assert program.wait() == 0, program.said()
        return flags, folders(logs)[0]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_stopped_in_the_second_task_it_is_the_same_run(method, undisturbed, tmp_path):
    """By kill -9 in the middle of its second epoch; then by SIGTERM, one step further."""
    flags, expected = undisturbed(method)
    said = tmp_path / "said"
    resume = [*flags, "--log_dir", tmp_path, "--checkpoint_every", 1, "--resume"]
    per_epoch = 2 if method == "finetune" else 4  # steps; the first task has two epochs of 2
    killed = Program(*resume, output=said, die_at=(STEP, 4 + per_epoch + 2))
    assert killed.wait() == -signal.SIGKILL, killed.said()
    stopped = Program(*resume, output=said, die_at=(STEP, per_epoch), signal_number=signal.SIGTERM)
    assert stopped.wait() == 143, stopped.said()
    (folder,) = folders(tmp_path)
    training = torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]["training"]
    assert (training["epoch"], training["step"]) == (1, per_epoch)
    assert Program(*resume, output=said).wait() == 0, said.read_text()
    assert_same_run(folder, expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_first_task_of_finetune_serves_them_all(method, undisturbed, tmp_path):
    _, shared = undisturbed("finetune")
    flags, _ = undisturbed(method)
    program = Program(
        *flags, "--skip", "--init_checkpoint", shared / "task_1.pt", "--log_dir", tmp_path,
        "--stop_after_task", 2, output=tmp_path / "said",
    )  # fmt: skip
    assert program.wait() == 0, program.said()
    (folder,) = folders(tmp_path)
    curves, first = (
        list(csv.DictReader((each / "curves.csv").open())) for each in (folder, shared)
    )
    assert curves[0]["cnn_top1"] == first[0]["cnn_top1"]
    assert (curves[0]["nme_top1"] == "") == (method == "finetune")
    rows = list(csv.DictReader((folder / "training.csv").open()))
    assert {row["task"] for row in rows} == {"2"}
    network = torch.load(folder / "task_1.pt", weights_only=True)["network"]
    for name, value in torch.load(shared / "task_1.pt", weights_only=True)["network"].items():
        ours = name
        if method == "der" and not name.startswith("classifier"):
            ours = f"specialized.0.{name.replace('specialized.0', 'specialized')}"
        assert torch.equal(network[ours], value), name


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_it(method, undisturbed, tmp_path):
    flags, _ = undisturbed(method)
    codes = run_two(*flags, "--log_dir", tmp_path, output=tmp_path / "said")
    assert codes == [0, 0], (tmp_path / "said").read_text()
    (folder,) = folders(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["finished"], summary["tasks_finished"]) == (True, 3)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_tested_again_from_disk(method, undisturbed, tmp_path):
    _, folder = undisturbed(method)
    program = Program("--evaluate", folder, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    assert f"the same as in {folder / 'curves.csv'}" in program.said()
