"""What can go wrong outside the program: full and read-only disks, divergence, small memory."""

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_learner
from processes import SMALL, Program, assert_same_run, folders

import main_memo
from utils.checkpoint import load_run
from utils.devices import is_out_of_memory, out_of_memory
from utils.engine.fit import TrainingError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps(SMALL))
    return ["--config", path]


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    logs = tmp_path_factory.mktemp("undisturbed")
    program = Program(*config, "--log_dir", logs, output=logs / "said")
    assert program.wait() == 0, program.said()
    return folders(logs)[0]


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a real, small file system; it is gone after the test."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True)


def assert_ended_by_the_disk(program, words):
    assert program.wait() == 1, program.said()
    assert words in program.said()
    assert "make room or give another --log_dir" in program.said()
    assert "Traceback" not in program.said()


def test_a_real_disk_that_fills_up(config, undisturbed, small_disk, tmp_path):
    disk = small_disk("size=1400k")
    program = Program(*config, "--log_dir", disk, output=tmp_path / "said")
    assert_ended_by_the_disk(program, "No space left on device")
    (folder,) = folders(disk)
    assert load_run(folder)[0] is not None
    assert load_run(folder)[1] is None  # and it is the newest that is good
    # It is as full as before.
    program = Program("--resume", folder, output=tmp_path / "again")
    assert_ended_by_the_disk(program, "No space left on device")
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    program = Program("--resume", folder, output=tmp_path / "more")
    assert program.wait() == 0, program.said()
    assert_same_run(folder, undisturbed)


def test_a_disk_that_is_full_at_the_start(config, small_disk, tmp_path):
    disk = small_disk("size=64k")
    (disk / "ballast").write_bytes(b"x" * 64 * 1024)
    program = Program(*config, "--log_dir", disk, output=tmp_path / "said")
    assert_ended_by_the_disk(program, "No space left on device")


def test_a_read_only_log_folder(config, small_disk, tmp_path):
    disk = small_disk("ro")
    program = Program(*config, "--log_dir", disk / "logs", output=tmp_path / "said")
    assert program.wait() == 2
    assert f"no run can be written to {disk / 'logs'}" in program.said()
    assert f"({disk}: Read-only file system)" in program.said()
    assert "Traceback" not in program.said()


def full_from(n, config, undisturbed, tmp_path):
    """Run on a disk that is full from the n-th flush on; then with room again. False if never."""
    logs = tmp_path / str(n)
    logs.mkdir()
    flags = [*config, "--log_dir", logs, "--checkpoint_every", 1]
    program = Program(*flags, output=logs / "said", full_from=n)
    if program.wait() == 0:
        return False
    assert_ended_by_the_disk(program, "No space left on device")
    program = Program(*flags, "--resume", output=logs / "again")
    assert program.wait() == 0, program.said()
    assert_same_run(folders(logs)[-1], undisturbed)
    return True


@pytest.mark.parametrize("n", [1, 20])
def test_a_write_that_fails(n, config, undisturbed, tmp_path):
    assert full_from(n, config, undisturbed, tmp_path)


@pytest.mark.slow
def test_every_write_that_fails(config, undisturbed, tmp_path):
    failed = 0
    while full_from(failed + 1, config, undisturbed, tmp_path):
        failed += 1
    assert failed > 60


# --- Divergence and memory ------------------------------------------------------------------------


def test_divergence_keeps_the_checkpoint_from_before(config, tmp_path):
    program = Program(*config, "--lrate", 1e30, "--log_dir", tmp_path, output=tmp_path / "said")
    assert program.wait() == 1
    (folder,) = folders(tmp_path)
    for words in (
        "the loss became infinite or NaN in task 2, epoch 1 of 2, step 2 of 4, at learning rate",
        "try a lower --lrate",
        f"(the checkpoint from before is kept in {folder})",
    ):
        assert words in program.said()
    assert "Traceback" not in program.said()
    saved, _ = load_run(folder)
    assert len(saved["progress"]["seconds"]) == 1
    for net in saved["learner"]["nets"].values():
        assert all(value.isfinite().all() for value in net["weights"].values())


def test_a_network_that_is_not_finite_is_not_saved():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    learner.state_dict()
    with torch.no_grad():
        learner.network.classifier.weight[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"weights are not finite in task 1: try a lower"):
        learner.state_dict()


def test_too_little_memory_is_a_sentence(monkeypatch, tmp_path, capsys):
    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("utils.engine.fit.Engine.training_step", no_memory)
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**SMALL, "log_dir": str(tmp_path), "batch_size": 77}))
    assert main_memo.main(["--config", str(path)]) == 1
    said = capsys.readouterr().err
    assert "not enough for a batch of 77 images with memo_conv2" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_devices_say_in_several_ways_that_memory_is_used_up(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_memory_of_the_gpu_is_named(monkeypatch):
    properties = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    said = out_of_memory(128, "memo_resnet32", [torch.device("cuda", 1)])
    assert "a batch of 128 images" in said
    assert "cuda:1 has 8.0 GiB" in said
    assert "--batch_size" in said
