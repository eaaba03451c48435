"""Tests of utils/blocks.py: what is recorded of the blocks, and that training does not notice."""

import csv
import json
import signal

import numpy as np
import pytest
import torch
from conftest import tiny_learner
from processes import SMALL, Program, folders
from torch import nn

from utils import analysis
from utils.blocks import EVERY, BlockRecorder

SETTINGS = {
    "convnet_type": "memo_conv2",
    "batch_size": 5,
    "init_epoch": 2,
    "epochs": 3,
    "init_milestones": [1],
    "milestones": [1],
}


def trained(tasks=2, **settings):
    learner = tiny_learner(**{**SETTINGS, **settings})
    for _ in range(tasks):
        learner.begin_task()
        learner.train_task()
        learner.end_task()
    return learner


@pytest.mark.parametrize("train_base", [True, False])
def test_recording_does_not_change_training_by_a_bit(train_base):
    without, recorded = (
        trained(train_base=train_base, record_blocks=record) for record in (False, True)
    )
    assert without.engine.blocks is None
    assert len(recorded.engine.blocks.rows) == (2 + 3) * 2
    expected = without.network.state_dict()
    for name, value in recorded.network.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(without.run.generator.get_state(), recorded.run.generator.get_state())
    losses = [[row["loss"] for row in learner.engine.epochs] for learner in (without, recorded)]
    assert losses[0] == losses[1]


def test_rows_say_what_moved_and_what_is_frozen():
    rows = trained(train_base=False, record_blocks=True).engine.blocks.rows
    assert [(row["task"], row["epoch"], row["block"]) for row in rows] == [
        (task, epoch, block)
        for task, epochs in ((1, 2), (2, 3))
        for epoch in range(1, epochs + 1)
        for block in (1, 2)
    ]
    assert [row["name"] for row in rows[:2]] == [
        "generalized.encoder.0",
        "specialized.0.AdaptiveBlock",
    ]
    assert rows[-1]["name"] == "specialized.1.AdaptiveBlock"
    for row in rows:
        frozen = row["task"] == 2 and row["block"] == 1
        assert (row["gradient"] is None) == frozen
        assert (row["shift"] == 0) == frozen
        assert (row["shift_from_first"] == 0) == (frozen or row["epoch"] == 1)


def test_measures_are_those_of_the_formulas():
    linear = nn.Linear(1, 1, bias=False)
    recorder = BlockRecorder()

    def epoch(weight, gradients):
        for gradient in gradients:
            linear.weight.grad = torch.full_like(linear.weight, gradient)
            recorder.after_step()
        with torch.no_grad():
            linear.weight.fill_(weight)
        recorder.end_epoch()

    with torch.no_grad():
        linear.weight.fill_(1.0)
    recorder.begin_task(1, {"a": linear})
    # Steps 0 and EVERY are read, the others not.
    epoch(3.0, [-4.0] + [100.0] * (EVERY - 1) + [2.0])
    epoch(6.0, [1.0])
    first, second = recorder.rows
    assert (first["gradient"], first["shift"], first["shift_from_first"]) == (3.0, 4.0, 0.0)
    assert (second["gradient"], second["shift"], second["shift_from_first"]) == (1.0, 25.0, 9.0)


def test_a_block_s_gradient_is_the_norm_over_all_its_weights():
    block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    recorder = BlockRecorder()
    recorder.begin_task(1, {"a": block})
    for parameter in block.parameters():
        parameter.grad = torch.randn_like(parameter)
    recorder.after_step()
    recorder.end_epoch()
    expected = torch.cat([p.grad.flatten() for p in block.parameters()]).norm().item()
    assert recorder.rows[0]["gradient"] == pytest.approx(expected, rel=1e-6)


def test_a_run_taken_up_again_goes_on(tmp_path):
    block = nn.Linear(2, 2)
    whole = BlockRecorder()
    whole.begin_task(1, {"a": block})
    random = np.random.default_rng(0)

    def step(recorder, weights, gradients):
        with torch.no_grad():
            block.weight.copy_(torch.from_numpy(weights))
        block.weight.grad = torch.from_numpy(gradients).float()
        recorder.after_step()

    step(whole, *random.normal(size=(2, 2, 2)))
    whole.end_epoch()
    step(whole, *random.normal(size=(2, 2, 2)))
    torch.save(whole.state_dict(), tmp_path / "state.pt")  # in the middle of an epoch
    resumed = BlockRecorder()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), {"a": block})
    for values in random.normal(size=(EVERY, 2, 2, 2)):
        for recorder in (whole, resumed):
            step(recorder, *values)
    for recorder in (whole, resumed):
        recorder.end_epoch()
    assert resumed.rows == whole.rows
    assert [row["epoch"] for row in resumed.rows] == [1, 2]


def test_a_learner_s_records_go_through_a_checkpoint(tmp_path):
    learner = trained(record_blocks=True)
    torch.save(learner.state_dict(), tmp_path / "learner.pt")
    again = tiny_learner(**SETTINGS, record_blocks=True)
    again.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    assert again.engine.epochs == learner.engine.epochs
    assert again.weight_norms == learner.weight_norms
    assert again.engine.blocks.rows == learner.engine.blocks.rows
    again.begin_task()
    again.train_task()
    assert [row["task"] for row in again.engine.epochs] == [1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("killed", [False, True])
def test_a_first_task_that_is_read_has_no_rows_and_the_next_has(killed, tmp_path):
    small = {**SMALL, "record_blocks": True, "log_dir": str(tmp_path / "logs")}
    (tmp_path / "small.json").write_text(json.dumps(small))
    flags = ["--config", tmp_path / "small.json"]
    assert Program(*flags, "--stop_after_task", 1, output=tmp_path / "said").wait() == 0
    (first,) = folders(tmp_path / "logs")
    skip = [*flags, "--skip", "--init_checkpoint", first / "task_1.pt", "--prefix", "fair"]
    moment = ("utils.engine.fit.Engine.training_step", 2) if killed else None
    program = Program(*skip, output=tmp_path / "said", die_at=moment)
    assert program.wait() == (-signal.SIGKILL if killed else 0), program.said()
    (folder,) = (path for path in folders(tmp_path / "logs") if path != first)
    if killed:  # after the checkpoint that follows the first task
        program = Program("--resume", folder, output=tmp_path / "said")
        assert program.wait() == 0, program.said()
    rows = list(csv.DictReader((folder / "blocks.csv").open()))
    assert {row["task"] for row in rows} == {"2", "3"}
    assert len(rows) == 2 * 2 * 2  # tasks, epochs, blocks
    assert analysis.main([str(folder)]) == 0
