"""Tests of utils/analysis.py: linear CKA by the formula, and the command on a tiny run."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from processes import run_forked

import convs
from models.methods import METHODS
from utils import checkpoint
from utils.analysis import block_grams, centred_gram, linear_cka, main, read_blocks, similarity
from utils.inc_net import AdaptiveNet

TINY = """
--dataset synthetic -net conv2 -p benchmark -d -1 -init 2 -incre 2 -ms 12 --batch_size 8
--init_epoch 2 --init_milestones 1 --epochs 2 --milestones 1
""".split()  # noqa: SIM905
SMALL = {"synthetic_classes": 6, "synthetic_train_per_class": 8, "synthetic_test_per_class": 4}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return the folder of a recorded run of three tasks."""
    folder = tmp_path_factory.mktemp("analysis")
    (folder / "small.json").write_text(json.dumps(SMALL))
    result = run_forked(
        *TINY,
        *("--record_blocks", "--config", folder / "small.json", "--log_dir", folder),
    )
    assert result.returncode == 0, result.stderr
    (run,) = folder.glob("benchmark/synthetic/memo/*")
    return run


def test_linear_cka_is_the_formula_of_kornblith():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 7)), random.normal(size=(20, 3))
    y[:, 0] += x[:, 1]
    cx, cy = x - x.mean(axis=0), y - y.mean(axis=0)
    expected = np.linalg.norm(cy.T @ cx) ** 2 / (
        np.linalg.norm(cx.T @ cx) * np.linalg.norm(cy.T @ cy)
    )
    grams = [centred_gram(torch.from_numpy(a)) for a in (x, y)]
    assert linear_cka(*grams) == pytest.approx(expected, rel=1e-12)
    assert 0.05 < expected < 0.95


def test_linear_cka_does_not_see_rotation_scale_and_offset():
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 5))
    rotation, _ = np.linalg.qr(random.normal(size=(5, 5)))
    gram, other = (centred_gram(torch.from_numpy(a)) for a in (x, 3 * x @ rotation + 7))
    assert linear_cka(gram, other) == pytest.approx(1, abs=1e-12)
    constant = centred_gram(torch.ones(20, 5))
    assert np.isnan(linear_cka(gram, constant))


def test_maps_are_those_of_the_task_s_path():
    torch.manual_seed(0)
    network = AdaptiveNet("conv2")
    for _ in range(2):
        network.grow(2)
    for parameter in network.specialized[1].parameters():
        torch.nn.init.normal_(parameter)
    network.eval()
    images = torch.randn(6, 3, 32, 32)
    shallow = centred_gram(network.generalized(images).detach())
    grams = block_grams(network, images)
    deep = network.specialized[1].AdaptiveBlock(network.generalized(images)).detach()
    torch.testing.assert_close(grams[0], shallow)
    torch.testing.assert_close(grams[1], centred_gram(deep))


@pytest.mark.parametrize(
    ("method", "shared"), [("memo", 1), ("der", 0), ("replay", 2)], ids=["memo", "der", "single"]
)
def test_every_kind_of_network_is_compared_by_the_same_blocks(method, shared):
    row = METHODS[method]
    network = AdaptiveNet("conv2", row.trunks, row.blocks, row.aux_head)
    contents = []
    for task in (1, 2, 3):
        network.grow(2)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        contents.append({"task": task, "shape": network.shape(), "network": weights})
    names, found, cka = similarity(contents, torch.randn(6, 3, 32, 32))
    assert names == ["generalized.encoder.0", "specialized.AdaptiveBlock"]
    assert found == shared
    assert cka.shape == (2, 3, 3)
    assert (cka < 1).sum() == 2 * 6  # of two tasks


@pytest.mark.parametrize(
    ("name", "generalized", "specialized"),
    [
        ("resnet32", 10, 5),
        ("resnet14_cifar", 4, 2),
        ("conv2", 1, 1),
        ("conv4", 3, 1),
        ("resnet18", 6, 2),
        ("resnet50", 13, 3),
    ],
)
def test_blocks_of_every_family(name, generalized, specialized):
    net = convs.build(name)
    found = [convs.split.building_blocks(half) for half in (net.generalized, net.specialized)]
    assert [len(blocks) for blocks in found] == [generalized, specialized]


def test_the_command_writes_pictures_and_tables(run_dir, capsys):
    assert main([str(run_dir), "--images", "24"]) == 0
    out = run_dir / "analysis"
    assert str(out) in capsys.readouterr().out
    pictures = {"block_gradients", "block_shift", "cka", "cka_tasks"}
    assert {path.name for path in out.iterdir()} == {"by_block.csv", "cka.csv"} | {
        f"{name}.{file_format}" for name in pictures for file_format in ("png", "pdf")
    }
    blocks = list(csv.DictReader((out / "by_block.csv").open()))
    recorded = list(csv.DictReader((run_dir / "blocks.csv").open()))
    assert [(row["task"], row["block"]) for row in blocks] == [
        (task, block) for task in "123" for block in "12"
    ]
    of_first = [float(row["gradient"]) for row in recorded[:4] if row["block"] == "1"]
    assert float(blocks[0]["gradient"]) == pytest.approx(np.mean(of_first), rel=1e-4)
    assert blocks[0]["shift"] == recorded[2]["shift_from_first"]  # of the task's last epoch
    cka = list(csv.DictReader((out / "cka.csv").open()))
    assert [(row["block"], row["task_a"], row["task_b"]) for row in cka] == [
        (block, *pair) for block in "12" for pair in ("12", "13", "23")
    ]
    assert all(0 < float(row["linear_cka"]) < 1 for row in cka)


def test_without_recorded_blocks_it_says_so_and_compares_the_features(run_dir, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("analysis", "blocks.csv"))
    assert main([str(folder), "--images", "12"]) == 0
    assert "without --record_blocks" in capsys.readouterr().out
    assert not (folder / "analysis" / "by_block.csv").exists()
    assert (folder / "analysis" / "cka.png").exists()


def test_a_matplotlib_that_does_not_work_costs_the_pictures_alone(
    run_dir, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("analysis"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(folder), "--images", "12"]) == 0
    assert {path.name for path in (folder / "analysis").iterdir()} == {"by_block.csv", "cka.csv"}
    assert capsys.readouterr().err.count("cannot be drawn: ModuleNotFoundError") == 4


def test_files_of_other_names_are_left_alone(run_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.pictures.figure_bytes", lambda figure, file_format: b"")
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("analysis", "blocks.csv"))
    for name in ("task_best.pt", "task_.pt", "task_03.pt", "task_2_copy.pt", "task_²5.pt"):
        shutil.copy(folder / "task_3.pt", folder / name)
    (folder / "task_3.pt").unlink()
    assert main([str(folder), "--images", "12"]) == 0, capsys.readouterr().err
    rows = list(csv.DictReader((folder / "analysis" / "cka.csv").open()))
    assert [(row["task_a"], row["task_b"]) for row in rows] == [("1", "2")] * 2


def test_recorded_blocks_are_read_as_arrays(run_dir):
    tasks, gradients, shift, names = read_blocks(run_dir / "blocks.csv")
    assert tasks.tolist() == [1, 1, 2, 2, 3, 3]
    assert gradients.shape == shift.shape == (6, 2)
    assert names == ["generalized.encoder.0", "specialized.AdaptiveBlock"]


@pytest.mark.parametrize(
    "case",
    [
        *("no run", "a file", "other method", "one task", "other task", "other network"),
        *("other weights", "torn", "images", "device", "damaged"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(run_dir, tmp_path, capsys, case):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("analysis"))
    flags, words = [], ["config.json"]
    if case == "no run":
        folder = tmp_path
    elif case == "one task":
        for task in (2, 3):
            (folder / f"task_{task}.pt").unlink()
        words = ["1 task checkpoint", "two are needed"]
    elif case == "a file":
        folder = folder / "curves.csv"
    elif case == "other method":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_name": "x"}))
        words = ["config.json", "model_name"]
    elif case == "other task":
        shutil.copy(folder / "task_1.pt", folder / "task_4.pt")
        words = ["task_4.pt", "it holds task 1 of a memo_conv2"]
    elif case == "other network":
        content = checkpoint.load_task_checkpoint(folder / "task_2.pt")
        content["convnet_type"] = "memo_resnet32"
        checkpoint._write(folder / "task_2.pt", content)
        words = ["task_2.pt"]
    elif case == "other weights":
        content = checkpoint.load_task_checkpoint(folder / "task_2.pt")
        del content["network"][next(iter(content["network"]))]
        checkpoint._write(folder / "task_2.pt", content)
        words = ["task_2.pt"]
    elif case == "torn":
        (folder / "blocks.csv").write_text("task,epoch\n1,1\n")
        words = ["blocks.csv", "--record_blocks"]
    elif case == "images":
        flags, words = ["--images", "1"], ["--images"]
    elif case == "device":
        flags, words = ["--device", "nothing"], ["--device nothing"]
    elif case == "damaged":
        (folder / "task_2.pt").write_bytes(b"no checkpoint")
        words = ["task_2.pt", "damaged"]
    assert main([str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def test_the_command_can_be_called():
    command = [sys.executable, "-m", "utils.analysis", "--help"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "RUN_DIR" in result.stdout
