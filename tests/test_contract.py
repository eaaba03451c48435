"""What the engine promises to any method, kept to one that no paper has: two stages and a teacher.

`Fake` uses all that `models.base.Learner` offers at once, so that its promises hold without any
real method: resume in every stage, several processes, recorded steps, evaluation, reports.
"""

import csv
import functools
import json
import os
import signal
import sys
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import tiny_learner
from processes import SMALL, Program, _context, assert_same_run, folders, rows_without_seconds
from test_cuda_graph import NotingRecorder
from test_distributed import environment, free_port, run_two

from main_memo import main
from models import find_learner
from models.base import Learner
from models.methods import METHODS, Method
from utils import report
from utils.checkpoint import load_run, load_task_checkpoint
from utils.cuda_graph import GraphedStep
from utils.distributed import Group
from utils.engine import fit
from utils.engine.fit import Schedule
from utils.engine.run import Run
from utils.launch import Place

ROW = Method(
    "fake", "Fake", blocks="per task", loss_parts=("clf", "kd"), stages=("learn", "repeat")
)


class Fake(Learner):
    """Learns from the last task's network, then, with the classifier alone, from its own."""

    number = 1.0

    def train_task(self):
        self.network.freeze(generalized=self.task > 0)
        weights = {"clf": 1.0, "kd": self.number} if self.task else {"clf": 1.0}
        if self.fit("learn", self.losses, self.schedule(), weights=weights):
            self.keep_teacher()
            self.number += 0.25
        weights, classifier = {"clf": 0.5, "kd": self.number}, self.network.classifier
        given = {"trains": list(classifier.parameters()), "images": self.training_indices()[::2]}
        self.fit("repeat", self.losses, Schedule(2, 0.02, 0.0, [1]), weights=weights, **given)

    def losses(self, outputs, images, targets):
        parts = {"clf": F.cross_entropy(outputs["logits"], targets)}
        if "teacher" in self.nets:
            taught = self.teach(images)["logits"]
            parts["kd"] = F.mse_loss(outputs["logits"][:, : taught.shape[1]], taught)
        return parts

    def end_task(self):
        self.align_weights()
        super().end_task()
        self.keep_teacher()
        self.number += self.memory.indices().mean().item() / 100

    def extra_state(self):
        return {"number": self.number}

    def load_extra_state(self, state):
        self.number = state["number"]


def install():
    """Make `Fake` a method like those of models/methods.py, for this process."""
    METHODS["fake"] = ROW
    sys.modules["models.fake"] = sys.modules[__name__]


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    monkeypatch.setitem(METHODS, "fake", ROW)
    monkeypatch.setitem(sys.modules, "models.fake", sys.modules[__name__])


# Two tasks: 2 epochs of 3 steps and 2 of 2, then 2 of 5 (24 new images, 12 exemplars) and 2 of 3.
CONFIG = {**SMALL, "model_name": "fake", "init_cls": 3, "increment": 3}
CONFIG["record_blocks"] = True
TINY = {"model_name": "fake", "convnet_type": "conv2", "classes": 4, "init_cls": 2}
TINY |= {"increment": 2, "memory_size": 8, "init_lr": 0.01, "lrate": 0.01}
FakeProgram = functools.partial(Program, prepare=install)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "fake.json"
    path.write_text(json.dumps(CONFIG))
    return ["--config", path]


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """Return the folder of a run that nothing happens to."""
    logs = tmp_path_factory.mktemp("undisturbed")
    program = FakeProgram(*flags, "--log_dir", logs, output=logs / "said")
    assert program.wait() == 0, program.said()
    (folder,) = folders(logs)
    return folder


def assert_same_fake_run(one, other):
    """Compare two runs bit for bit, and what only `Fake` keeps."""
    assert_same_run(one, other, tasks=2)
    ours, theirs = (rows_without_seconds(folder, "blocks.csv") for folder in (one, other))
    assert ours == theirs
    for task in (1, 2):
        extra = [
            load_task_checkpoint(folder / f"task_{task}.pt")["extra"] for folder in (one, other)
        ]
        assert extra[0] == extra[1]
        assert extra[0]["number"] > 1
    ours, theirs = (load_run(folder)[0]["learner"]["nets"] for folder in (one, other))
    assert ours.keys() == theirs.keys() == {"network", "teacher"}
    for name, net in ours.items():
        assert net["shape"] == theirs[name]["shape"]
        for key, value in net["weights"].items():
            assert torch.equal(value, theirs[name]["weights"][key]), (name, key)


# --- Resume ---------------------------------------------------------------------------------------

STEP, TEACHER = "utils.engine.fit.Engine.training_step", "models.base.Learner.keep_teacher"


@pytest.mark.parametrize(
    "moment",
    [(STEP, 17), (TEACHER, 3), (STEP, 24), ("models.base.herd", 5)],
    ids=["learn", "between", "repeat", "herding"],
)
def test_killed_in_any_stage_and_resumed_it_is_the_same_run(moment, flags, undisturbed, tmp_path):
    resume = [*flags, "--log_dir", tmp_path, "--checkpoint_every", 1, "--resume"]
    said = tmp_path / "said"
    assert FakeProgram(*resume, output=said, die_at=moment).wait() == -signal.SIGKILL
    (folder,) = folders(tmp_path)
    stage = load_run(folder)[0]["learner"]["training"]["stage"]
    assert stage == ("learn" if moment in [(STEP, 17), (TEACHER, 3)] else "repeat")
    assert FakeProgram(*resume, output=said).wait() == 0, said.read_text()
    assert_same_fake_run(folder, undisturbed)


def test_stopped_again_and_again_in_the_middle_of_epochs(flags, undisturbed, tmp_path):
    codes, said = [], tmp_path / "said"
    while not codes or codes[-1] == 143:
        program = FakeProgram(
            *flags, "--resume", "--log_dir", tmp_path, output=said,
            die_at=(STEP, 7), signal_number=signal.SIGTERM,
        )  # fmt: skip
        codes.append(program.wait())
    assert codes == [143] * 3 + [0], said.read_text()
    (folder,) = folders(tmp_path)
    assert_same_fake_run(folder, undisturbed)


# --- Several processes ----------------------------------------------------------------------------


def learn_tasks(group):
    """Train two tasks of a small `Fake`; return its nets and state at the moments that matter."""
    torch.set_num_threads(1)
    own = tiny_learner(**TINY, batch_size=5, init_epoch=1, epochs=1).run
    torch.manual_seed(group.rank)  # which only the weights' own seed undoes
    run = Run(own.config, own.tasks, own.train_data, own.test_data, own.devices, group)
    torch.manual_seed(3)
    learner, seen = find_learner("fake")(run), []

    def note():
        nets = {name: net.state_dict() for name, net in learner.nets.items()}
        copy = {name: {k: v.clone() for k, v in net.items()} for name, net in nets.items()}
        seen.append({"nets": copy, "extra": learner.extra_state()})

    for _ in range(2):
        learner.begin_task()
        learner.learn_task()
        note()
        learner.follow(group.from_main(lambda: learner.end_task() or learner.hand_out()))
        note()
    return seen


def _work(rank, world, port, folder):
    install()
    os.environ.update(environment(rank, world, port))
    dist.init_process_group("gloo")
    torch.save(learn_tasks(Group(Place(rank, world, rank, world))), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_every_process_has_the_same_teacher_and_state(tmp_path):
    port = free_port()
    processes = [_context.Process(target=_work, args=(r, 2, port, tmp_path)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(first) == len(second) == 4
    for moment, (ours, theirs) in enumerate(zip(first, second, strict=True)):
        assert ours["extra"] == theirs["extra"], moment
        assert ours["nets"].keys() == theirs["nets"].keys() == {"network", "teacher"}
        for name, weights in ours["nets"].items():
            for key, value in weights.items():
                if name == "teacher" or moment % 2:  # until then the network's statistics differ
                    assert torch.equal(value, theirs["nets"][name][key]), (moment, name, key)


def test_two_processes_are_stopped_and_go_on_in_the_second_stage(flags, undisturbed, tmp_path):
    options = {"output": tmp_path / "said", "prepare": install}
    stop = {"die_at": (STEP, 22), "signal_number": signal.SIGTERM}
    folders_ = []
    for name, given in (("left alone", {}), ("stopped", stop)):
        one = [*flags, "--log_dir", tmp_path / name]
        codes = run_two(*one, **options, **given)
        assert codes == ([143, 143] if given else [0, 0]), (tmp_path / "said").read_text()
        folders_ += folders(tmp_path / name)
    assert load_run(folders_[1])[0]["learner"]["training"]["stage"] == "repeat"
    assert run_two("--resume", folders_[1], **options) == [0, 0], (tmp_path / "said").read_text()
    assert_same_fake_run(*folders_)


# --- Recorded steps -------------------------------------------------------------------------------


class OnCpu(NotingRecorder):
    """Stands in for a GPU's recorder: a replay makes the step that was to be recorded."""

    def record(self, step, inputs):
        self.notes.append(("recorded", len(inputs[0])))
        return lambda *given: self.notes.append(("replayed", len(given[0]))) or step(*given)


class RecordedOnCpu(GraphedStep):
    notes: ClassVar = []

    def __init__(self, *args):
        super().__init__(*args, OnCpu(self.notes))


def test_the_recorded_step_takes_the_teacher_along(monkeypatch):
    losses = []
    monkeypatch.setattr(fit, "GraphedStep", RecordedOnCpu)
    for uses_graphs in (False, True):
        monkeypatch.setattr(fit.Engine, "uses_graphs", lambda engine: uses_graphs)  # noqa: B023
        learner = tiny_learner(**TINY, batch_size=8, init_epoch=3, epochs=3, block_streams=0)
        for _ in range(2):
            learner.begin_task()
            learner.learn_task()
            learner.end_task()
        rows = learner.engine.epochs
        losses.append([{**row, "seconds": 0} for row in rows])
    assert losses[0] == losses[1]
    assert {kind for kind, _ in RecordedOnCpu.notes} == {"ordinary", "recorded", "replayed"}
    assert losses[0][0]["loss_kd"] is None
    assert losses[0][-1]["loss_kd"] > 0


# --- What is made of its runs ---------------------------------------------------------------------


def test_its_training_is_told_by_stage(undisturbed):
    rows = list(csv.DictReader((undisturbed / "training.csv").open()))
    told = [(row["task"], row["stage"], row["epoch"]) for row in rows]
    assert told == [
        (task, stage, epoch)
        for task in "12"
        for stage, epoch in zip(["learn"] * 2 + ["repeat"] * 2, "1234", strict=True)
    ]
    for row in rows:
        assert (row["loss_kd"] == "") == (row["task"] == "1" and row["stage"] == "learn")
    # Of a block, likewise: one row an epoch.
    blocks = list(csv.DictReader((undisturbed / "blocks.csv").open()))
    deepest = max(row["block"] for row in blocks)
    rows = [(row["task"], row["epoch"]) for row in blocks if row["block"] == deepest]
    assert rows == [(task, epoch) for task in "12" for epoch in "1234"]


@pytest.mark.parametrize("task", [1, 2])
def test_its_accuracies_come_again(task, undisturbed, capsys):
    assert main(["--evaluate", str(undisturbed), "--task", str(task)]) == 0
    assert f"the same as in {undisturbed / 'curves.csv'}" in capsys.readouterr().out


def test_it_is_reported(undisturbed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "_draw_outdated", lambda *_: None)  # pictures: seconds
    assert report.main([str(undisturbed), "--out", str(tmp_path)]) == 0
    (row,) = csv.DictReader((tmp_path / "report.csv").open())
    assert "fake" in row.values()
    assert "fake" in capsys.readouterr().out
