"""Whole runs of every method beside MEMO: killed, stopped, resumed, shared, tested, exported."""

import csv
import functools
import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from processes import SMALL, Program, assert_same_run, folders

from main_memo import main
from models.methods import find_method
from utils.data import load_dataset
from utils.evaluation import load_exported
from utils.inc_net import AdaptiveNet

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
def test_it_is_tested_again_from_disk_and_its_export_computes_the_same(
    method, undisturbed, tmp_path, capsys
):
    _, folder = undisturbed(method)
    file = tmp_path / "net.pt"
    assert main(["--evaluate", str(folder), "--export", str(file)]) == 0
    assert f"the same as in {folder / 'curves.csv'}" in capsys.readouterr().out

    exported = load_exported(file)
    sizes = {key: value for key, value in SMALL.items() if key.startswith("synthetic")}
    data = load_dataset("synthetic", "", **sizes)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in data.test_images]
    images = torch.stack([exported.preprocess(picture) for picture in pictures])
    row, saved = find_method(method), torch.load(folder / "task_3.pt", weights_only=True)
    # As the run made it: grown, and not rebuilt from its shape.
    network = AdaptiveNet("memo_conv2", row.trunks, row.blocks, row.aux_head)
    for classes in saved["task_sizes"]:
        network.grow(classes)
    network.load_state_dict(saved["network"])
    with torch.no_grad():
        logits, expected = exported.network(images)["logits"], network.eval()(images)["logits"]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    with np.load(folder / "predictions.npz") as arrays:
        assert logits.argmax(1).tolist() == arrays["predictions"][:, 0].tolist()
