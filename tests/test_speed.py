"""The benchmark of speed: the plain loop is the same method, and the command prints its tables."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import begin_training

from models.methods import METHODS
from tests.benchmarks import speed

CPU = torch.device("cpu")


def both(task, per_class=10, **settings):
    """Return ours and the plain loop at the same point, tiny."""
    data = speed.Data(per_class)
    ours = speed.Ours(data, task, "memo_conv2", CPU, **settings)
    return ours, speed.Plain(data, ours, num_workers=0)


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (0, {}),
        (2, {}),
        (2, {"train_base": False}),
        *((2, {"model_name": method}) for method in METHODS if method != "memo"),
    ],
)
def test_the_plain_step_is_ours(task, settings):
    ours, plain = both(task, **settings)
    learner, plain = ours.learner, plain.learner
    for net in (*learner.nets.values(), plain.network, *filter(None, [plain.teacher])):
        net.double()
    training, plain_optimizer = begin_training(learner), plain.make_optimizer()
    for seed in range(3):  # the second and third step see what the ones before changed
        random = torch.Generator().manual_seed(seed)
        images = torch.randn(16, 3, 32, 32, generator=random, dtype=torch.float64)
        first = 0 if learner.method.exemplars else learner.known_classes
        targets = torch.randint(first, learner.seen_classes, (16,), generator=random)
        sums = learner.engine.training_step(training, learner.network, images, targets).tolist()
        loss, clf, second, correct = plain.training_step(plain_optimizer, images, targets)
        parts = [clf, second][: len(learner.method.loss_parts)]
        assert [*(16 * part for part in parts), correct] == pytest.approx(sums)
        named = dict(zip(learner.method.loss_parts, parts, strict=True))
        weighted = {name: named[name] for name in training.stage.weights}
        assert loss == pytest.approx(training.stage.total(weighted))
        assert (second > 0) == (task > 0 and len(parts) > 1)
    for ours, theirs in zip(
        learner.network.state_dict().values(), plain.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("task", [0, 2])
def test_the_plain_exemplars_and_predictions_are_ours(task):
    ours, plain = both(task, memory_size=120)
    for each in (ours, plain):
        each.build_memory()
    for kept, expected in zip(ours.learner.memory.per_class, plain.learner.memory, strict=True):
        assert kept.tolist() == expected.tolist()
    predicted = ours.learner.evaluate()
    cnn, nme = plain.learner.evaluate()
    assert np.array_equal(predicted.cnn, cnn)
    assert np.array_equal(predicted.nme, nme)
    for each, held in ((ours, ours.learner.memory.per_class), (plain, plain.learner.memory)):
        assert len(held) == 10 * (task + 1)
        each.forget()
    assert len(ours.learner.memory.per_class) == len(plain.learner.memory) == 10 * task


def test_every_step_is_timed_in_its_parts():
    for each in both(task=1, precision="bf16"):
        rows = np.flatnonzero(np.arange(1000) % 100 < 20)  # 200 images of the classes seen
        steps = each.steps(rows)
        assert len(steps) == 2
        for step in steps:
            assert set(step) == {*speed.PARTS, "step"}
            assert min(step.values()) > 0
            assert step["step"] == pytest.approx(sum(step[part] for part in speed.PARTS))


def test_a_graph_is_timed_as_a_whole_once_it_is_recorded():
    ours, _ = both(task=0)
    ours.graph, ours.warm_up = True, 2  # as on a GPU
    rows = np.flatnonzero(np.arange(1000) % 100 < 10)
    (step,) = ours.steps(rows)
    seconds = [epoch["seconds"] for epoch in ours.learner.engine.epochs]
    assert len(seconds) == 3
    assert step == {"step": pytest.approx(seconds[-1] * 128 / 100)}


def test_an_epoch_has_one_start():
    steps = [{"data": 5.0, "step": 6.0}, {"data": 1.0, "step": 2.0}, {"data": 1.0, "step": 2.0}]
    assert speed._summary(steps, 10.5) == {"data": 1.0, "step": 2.0, "epoch": 4.0 + 10.5 * 2.0}
    assert speed._summary([{"step": 2.0}], 10)["epoch"] == 20.0


def test_ratios_are_taken_pair_by_pair():
    # The medians' ratio would be 20 / 10; the machine was twice as slow in the second repetition.
    assert speed._ratio([30.0, 60.0, 20.0], [10.0, 20.0, 10.0]) == "3.00 (2.50 to 3.00)"


# Multiply-adds an image as counted in the authors' program, hooks on its modules.
@pytest.mark.parametrize(("task", "macs"), [(0, 206_146_112), (5, 430_347_840), (9, 609_777_216)])
def test_arithmetic_is_that_of_the_method(task, macs):
    assert speed.macs_per_image("memo_resnet32", task) == pytest.approx(macs, rel=0.001)


# The trunk's one and one in each block; forward and backward, which reaches frozen blocks' too.
@pytest.mark.parametrize(("task", "calls"), [(0, 4), (1, 6), (2, 8)])
def test_every_convolution_of_a_step_is_timed_alone(task, calls, monkeypatch):
    timer = Mock()
    timer.return_value.blocked_autorange.return_value.median = 2.0
    monkeypatch.setattr(speed, "Timer", timer)
    ours, _ = both(task, precision="bf16")
    alone = speed.convolutions_alone(ours, np.arange(10))  # of the first classes
    assert alone == {"calls": calls, "seconds": 2.0 * calls}
    # Blocks are alike, so that each kind of convolution is timed once for all of them.
    assert timer.call_count <= 6
    for call in timer.call_args_list:
        call.kwargs["globals"]["call"]()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--tasks", "10"], "--tasks go from 0 to 9"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--num_workers", "-1"], "--num_workers must be at least 0"),
        (["--net", "memo_conv4"], "--net must be one of"),
        (["--device", "cpu", "--precision", "tf32"], "--precision tf32 is for GPUs"),
        (["--full", "--repeats", "1", "--slow_repeats", "2"], "--slow_repeats must be at most"),
    ],
)
def test_a_mistake_in_the_flags_is_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(words)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_every_table(tmp_path, capsys):
    words = "--device cpu --precision fp32 --net memo_conv2 --images 5 --tasks 0 1 --steps 1 --full"
    words += f" --repeats 2 --slow_repeats 1 --num_workers 0 --threads {torch.get_num_threads()}"
    assert speed.main([*words.split(), "--json", str(tmp_path / "speed.json")]) == 0
    printed = capsys.readouterr().out
    for column in (
        *("data, ms", "forward, ms", "backward, ms", "update, ms", "step, ms", "images/s"),
        *("epoch, s (measured)", "memory build, s", "evaluation, s", "test images/s"),
        *("arithmetic", "_local_scalar_dense", "convolutions", "GB"),
    ):
        assert column in printed
    found = json.loads((tmp_path / "speed.json").read_text())
    assert list(found["tasks"]) == ["0", "1"]
    ways = [speed.PLAIN, "fp32"]
    assert list(found["peak"]) == ways
    assert min(found["peak"].values()) > 50e6
    for task in found["tasks"].values():
        assert list(task["training"]) == ways
        assert [len(measured) for measured in task["training"].values()] == [2] * len(ways)
        # Ours reads its losses once an epoch, the plain loop four numbers a step.
        waits = {name: each["waits"] for name, each in task["profile"].items()}
        assert waits["fp32"]["aten::_local_scalar_dense"] <= 2
        assert waits[speed.PLAIN]["aten::_local_scalar_dense"] >= 4


def test_the_command_prints_a_row_for_each_method(capsys):
    words = "--methods der icarl --tasks 1 --device cpu --precision fp32 --net memo_conv2"
    words += " --images 5 --steps 1 --repeats 1 --num_workers 0 --processor_time"
    words += f" --threads {torch.get_num_threads()}"
    assert speed.main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "repetitions for steps of processor time" in printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if "fp32" in line]
    assert [[cell.strip() for cell in row[:3]] for row in rows] == [
        ["1", "DER", "fp32"],
        ["1", "iCaRL", "fp32"],
    ]
    for *_, plain, ours, ratio in rows:
        assert float(ratio) == pytest.approx(float(plain) / float(ours), rel=0.1)


def test_on_a_gpu_every_precision_is_measured_with_and_without_graph():
    ways = speed.variants(on_gpu=True, precisions=None)
    assert list(ways) == [
        f"{precision}{end}"
        for precision in ("fp32", "tf32", "bf16")
        for end in ("", ", CUDA graph", ", CUDA graph, side streams")
    ]
    assert ways["tf32, CUDA graph, side streams"]["block_streams"] > 0
    assert both(task=1, precision="fp32")[0].learner.config.block_streams == 0  # unless asked for
    assert list(speed.variants(on_gpu=False, precisions=None)) == ["fp32", "bf16"]
