"""Checkpoints: round trips, the survey's format, and every way a file can be wrong."""

import copy
import errno
import hashlib
import os
import pickle
import random
import re
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import begin_training, tiny_learner

import convs
from models.methods import METHODS
from utils import checkpoint
from utils.checkpoint import (
    NEWEST,
    PREVIOUS,
    CheckpointError,
    load_first_task,
    load_run,
    load_task_checkpoint,
    save_run,
    save_task_checkpoint,
)
from utils.checkpoint_form import UNFIT, require_run
from utils.config import resolve
from utils.experiment import Progress
from utils.inc_net import AdaptiveNet
from utils.logbook import final_table
from utils.metrics import Metrics
from utils.seeds import random_state, set_random_state

ORDER = [4, 2, 0, 1, 3, 5]
SIX = [torch.arange(2)] * 6  # exemplars
ACCURACY = np.float64(76.5)  # the survey stores a NumPy scalar


def grown(*tasks: int, name: str = "memo_conv2") -> AdaptiveNet:
    net = AdaptiveNet(name)
    for new_classes in tasks:
        net.grow(new_classes)
    return net


def task_payload(net: AdaptiveNet, **changes) -> dict:
    return {
        "convnet_type": net.convnet_type,
        "task": 1,
        "task_sizes": [4, 2],
        "class_order": ORDER,
        "network": net.state_dict(),
        "exemplars": [torch.arange(n) for n in (3, 2, 1, 1)],
        "test_accuracy": 61.25,
        **changes,
    }


def survey_payload(net: AdaptiveNet, accuracy=ACCURACY, **changes) -> dict:
    """What the survey's program saves: the whole net under whole-net names."""
    whole, inside = convs.build(net.convnet_type).last_block
    convnet = dict(net.generalized.state_dict())
    for name, value in net.specialized[0].state_dict().items():
        convnet[whole + name.removeprefix(inside)] = value
    return {
        "convnet": convnet,
        "fc": dict(net.classifier.state_dict()),
        "test_acc": accuracy,
        **changes,
    }


def copy_of(state):
    return {name: value.clone() for name, value in state.items()}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# a run's checkpoints


@cache
def run_state():
    """Return what a run of three tasks holds after its first step of the second one."""
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    learner.network.eval()
    learner.build_memory()
    learner.begin_task()
    training = learner.engine.training = begin_training(learner)
    training.order = torch.randperm(len(learner.training_indices()))
    step = learner.engine.make_step(training)
    training.losses[0] = step(torch.from_numpy(learner.training_indices()[:8]))
    training.step = 1
    row = {
        "task": 1,
        "stage": "train",
        "epoch": 1,
        "lr": 0.1,
        "loss": 1.0,
        "loss_clf": 1.0,
        "loss_aux": None,
    }
    learner.engine.epochs.append({**row, "train_acc": 10.0, "test_acc": None, "seconds": 0.1})
    learner.weight_norms.append({"before": [1.0] * 4, "after": [1.0] * 4})
    metrics = Metrics(learner.tasks.task_sizes)
    metrics.append(np.zeros((8, 4), int), np.zeros((8, 4), int), np.arange(8) % 4)
    progress = Progress(metrics, [40], [0.5]).to_dict()
    return learner.config.to_dict(), learner.state_dict(), progress


def run_content(step=1):
    config, learner, progress = copy.deepcopy(run_state())
    learner |= {"step": step, "weights": torch.randn(1000)}
    return {
        "config": config,
        "machines": [{}],
        "call": ["abc", [1993]],
        "learner": learner,
        "progress": progress,
        "random": random_state(),
        "log_bytes": 0,
    }


def test_the_newest_checkpoint_and_the_one_before_are_kept(tmp_path):
    assert load_run(tmp_path) == (None, None)
    for step in (1, 2, 3):
        save_run(tmp_path, run_content(step))
        content, warning = load_run(tmp_path)
        assert (content["learner"]["step"], warning) == (step, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [NEWEST, PREVIOUS]
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["learner"]["step"] == 2
    # Killed between the two renames: only the previous one is left, and nothing is damaged.
    (tmp_path / NEWEST).unlink()
    content, warning = load_run(tmp_path)
    assert (content["learner"]["step"], warning) == (2, None)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_run_s_checkpoint_on_a_full_disk(tmp_path, monkeypatch, step):
    save_run(tmp_path, run_content(1))

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match=r"No space left on device: .*checkpoint.pt"):
            save_run(tmp_path, run_content(2))
    assert [p.name for p in tmp_path.iterdir()] == [NEWEST]
    assert load_run(tmp_path)[0]["learner"]["step"] == 1


def test_what_does_not_read_back_does_not_count(tmp_path, monkeypatch):
    save_run(tmp_path, run_content(1))
    write = checkpoint.write_file

    def corrupt(path, content):
        content = bytearray(content)
        content[len(content) // 2] ^= 1
        write(path, bytes(content))

    monkeypatch.setattr(checkpoint, "write_file", corrupt)
    with pytest.raises(OSError, match="does not read back"):
        save_run(tmp_path, run_content(2))
    assert load_run(tmp_path)[0]["learner"]["step"] == 1


def test_a_checkpoint_of_several_megabytes_is_read_back_to_its_end(tmp_path, monkeypatch):
    content = run_content()
    content["learner"]["weights"] = torch.randn(700_000)
    monkeypatch.delattr(Path, "read_bytes")  # not all of it at once
    save_run(tmp_path, content)
    loaded, _ = load_run(tmp_path)
    assert torch.equal(loaded["learner"]["weights"], content["learner"]["weights"])

    def write_one_bit_wrong(path, whole):
        whole[len(whole) - 100_000] ^= 1  # of the last of its megabytes
        path.write_bytes(whole)

    monkeypatch.setattr("utils.checkpoint.write_file", write_one_bit_wrong)
    with pytest.raises(OSError, match="does not read back"):
        save_run(tmp_path, content)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    save_run(tmp_path, run_content(1))
    (tmp_path / NEWEST).write_bytes((tmp_path / NEWEST).read_bytes()[:3000])
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is damaged.*no good checkpoint"):
        load_run(tmp_path)
    (tmp_path / NEWEST).unlink()
    save_run(tmp_path, run_content(1))
    save_run(tmp_path, run_content(2))
    torch.save({"format": "memo-run-1"}, tmp_path / NEWEST)
    content, warning = load_run(tmp_path)
    assert content["learner"]["step"] == 1
    assert "checkpoint.pt is damaged: its SHA-256 is not the one written with it" in warning
    assert "checkpoint_previous.pt" in warning
    torch.save({"format": "else"}, tmp_path / PREVIOUS)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt.*checkpoint_previous.pt is not a"):
        load_run(tmp_path)


def test_every_random_generator_returns(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.normal(), torch.rand(2).tolist()

    random.gauss(0, 1)  # these keep a second number for the next call
    np.random.normal()
    save_run(tmp_path, {**run_content(), "random": random_state()})
    expected = [draw() for _ in range(3)]
    content, _ = load_run(tmp_path)
    set_random_state(content["random"])
    assert [draw() for _ in range(3)] == expected


# our own format


def test_task_checkpoint_round_trip(tmp_path):
    net, path = grown(4), tmp_path / "task_1.pt"
    save_task_checkpoint(path, task_payload(net))
    loaded = load_task_checkpoint(path)
    assert loaded["format"] == "memo-task-1"
    assert equal(loaded.pop("network"), net.state_dict())
    assert [e.tolist() for e in loaded.pop("exemplars")] == [[0, 1, 2], [0, 1], [0], [0]]
    assert loaded["class_order"] == ORDER
    assert loaded["test_accuracy"] == 61.25
    assert torch.load(path, weights_only=True)["task"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["task_1.pt"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.float64(3.0), r"payload\['extra'\] is a float64"),
        ([1, np.int64(2)], r"payload\['extra'\]\[1\] is a int64"),
        ({"a": np.zeros(3)}, r"payload\['extra'\]\['a'\] is a ndarray"),
    ],
)
def test_what_would_not_load_is_not_saved(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        save_task_checkpoint(tmp_path / "x.pt", {"extra": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, step):
    path = tmp_path / "task_1.pt"
    save_task_checkpoint(path, {"task": 1})
    before = path.read_bytes()

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match=r"No space left on device: .*task_1.pt"):
            save_task_checkpoint(path, {"task": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["task_1.pt"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file.*gone"):
        save_task_checkpoint(tmp_path / "gone" / "task_1.pt", {"task": 1})


# files that cannot be read


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path, keep):
    path = tmp_path / "task_1.pt"
    save_task_checkpoint(path, task_payload(grown(4)))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"task_1.pt is damaged or .*cut short"):
        load_task_checkpoint(path)


def test_one_flipped_bit_in_a_weight_is_noticed(tmp_path):
    path = tmp_path / "task_1.pt"
    save_task_checkpoint(path, task_payload(grown(4)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch itself sees nothing wrong
    with pytest.raises(CheckpointError, match=r"a checksum inside it is wrong"):
        load_task_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    path = tmp_path / "evil.pt"
    torch.save({"format": "memo-task-1", "x": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"evil.pt .*more than tensors and plain values"):
        load_task_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(CheckpointError, match=r"evil.pt is damaged or is no checkpoint"):
        load_task_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_missing_files_folders_and_other_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pt: No such file"):
        load_task_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"Is a directory"):
        load_task_checkpoint(tmp_path)
    (tmp_path / "text.pt").write_text("no checkpoint at all\n")
    with pytest.raises(CheckpointError, match=r"text.pt is damaged or is no checkpoint"):
        load_task_checkpoint(tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list.pt is not a task checkpoint of this program"):
        load_task_checkpoint(tmp_path / "list.pt")
    save_task_checkpoint(tmp_path / "half.pt", {"task": 1, "task_sizes": [4]})
    with pytest.raises(
        CheckpointError, match=r"half.pt holds what .*: lacks convnet_type, class_order, network"
    ):
        load_task_checkpoint(tmp_path / "half.pt")
    torch.save({"convnet": {}, "fc": {}}, tmp_path / "half.pkl")
    with pytest.raises(CheckpointError, match=r"half.pkl is not in the survey's format"):
        load_first_task(tmp_path / "half.pkl", grown(4), ORDER)


# starting from a first task


def test_first_task_from_our_own_checkpoint(tmp_path):
    trained, net = grown(4), grown(4).double()
    fresh = net.aux_classifier.weight.clone()
    save_task_checkpoint(tmp_path / "task_1.pt", task_payload(trained))
    assert load_first_task(tmp_path / "task_1.pt", net, ORDER).accuracy == 61.25
    for name, value in trained.state_dict().items():
        if not name.startswith("aux_classifier"):
            assert torch.equal(net.state_dict()[name], value.to(net.state_dict()[name].dtype))
    assert torch.equal(net.aux_classifier.weight, fresh)  # which a first task does not train
    assert net.classifier.weight.dtype == torch.float64


@pytest.mark.parametrize("name", ["memo_resnet14_cifar", "memo_conv2"])
@pytest.mark.parametrize("accuracy", [np.float64(76.5), np.float32(76.5), 76.5, torch.tensor(76.5)])
def test_first_task_from_the_survey(tmp_path, name, accuracy):
    trained, net = grown(4, name=name), grown(4, name=name)
    aux = copy_of(net.aux_classifier.state_dict())
    content = survey_payload(trained, accuracy)
    content["convnet"]["fc.weight"] = torch.zeros(10, 64)  # the backbone's own head, unused
    torch.save(content, tmp_path / "survey.pkl")

    assert load_first_task(tmp_path / "survey.pkl", net, ORDER).accuracy == 76.5
    assert equal(net.generalized.state_dict(), trained.generalized.state_dict())
    assert equal(net.specialized.state_dict(), trained.specialized.state_dict())
    assert equal(net.classifier.state_dict(), trained.classifier.state_dict())
    assert equal(net.aux_classifier.state_dict(), aux)


def test_survey_names_of_resnet32(tmp_path):
    trained = grown(4, name="memo_resnet14_cifar")
    content = survey_payload(trained)
    assert {key.split(".")[0] for key in content["convnet"]} == {
        *("conv_1_3x3", "bn_1", "stage_1", "stage_2", "stage_3")
    }
    torch.save(content, tmp_path / "survey.pkl")
    net = grown(4, name="memo_resnet14_cifar")
    assert load_first_task(tmp_path / "survey.pkl", net, ORDER).accuracy == 76.5
    # stage_3 of the whole net is the specialized block's final_stage.
    stage_3 = {
        f"final_stage{key.removeprefix('stage_3')}": value
        for key, value in content["convnet"].items()
        if key.startswith("stage_3.")
    }
    assert equal(net.specialized[0].state_dict(), stage_3)


def test_survey_files_of_numpy_1_load_too(tmp_path):
    trained, net = grown(4), grown(4)
    torch.save(survey_payload(trained), tmp_path / "new.pkl")
    renamed = 0
    with (
        zipfile.ZipFile(tmp_path / "new.pkl") as new,
        zipfile.ZipFile(tmp_path / "old.pkl", "w") as old,
    ):
        for item in new.namelist():
            data = new.read(item)
            if item.endswith("data.pkl"):
                renamed = data.count(b"cnumpy._core.multiarray\n")
                data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(item, data)
    assert renamed == 1
    assert load_first_task(tmp_path / "old.pkl", net, ORDER).accuracy == 76.5


def test_survey_files_in_torch_s_old_format_load_too(tmp_path):
    trained, net = grown(4), grown(4)
    torch.save(survey_payload(trained), tmp_path / "old.pkl", _use_new_zipfile_serialization=False)
    assert load_first_task(tmp_path / "old.pkl", net, ORDER).accuracy == 76.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: task_payload(grown(4), task=2, exemplars=[torch.arange(2)] * 6),
            "made after task 2, but a run can only start",
        ),
        (
            lambda: task_payload(grown(3), task_sizes=[3, 3], exemplars=SIX[:3]),
            "3 classes, but init_cls is 4",
        ),
        (
            lambda: task_payload(grown(4, name="memo_resnet14_cifar")),
            "holds a resnet14_cifar, but convnet_type is conv2",
        ),
        (
            lambda: task_payload(grown(4), class_order=[0, 1, 2, 3, 4, 5]),
            r"another class order \(it starts 0, 1, 2, 3, ..., this run's 4, 2, 0, 1",
        ),
        (lambda: task_payload(grown(4), files="abc"), "trained on other image files"),
        (lambda: task_payload(grown(4, 2)), "does not fit a conv2: unexpected: specialized.1"),
        (lambda: survey_payload(grown(5)), "a first task of 5 classes, but init_cls is 4"),
        (
            lambda: survey_payload(grown(4, name="memo_resnet14_cifar")),
            "does not fit a conv2: missing: generalized.encoder",
        ),
        (lambda: survey_payload(grown(4), fc={}), "a first task of 0 classes"),
        (lambda: survey_payload(grown(4), fc=[1]), "fc in .* is not a state dict of tensors"),
        (lambda: survey_payload(grown(4), convnet={"a": 1}), "convnet in .* is not a state dict"),
        (lambda: survey_payload(grown(4), "good"), "test_acc in .* is not a number"),
        (lambda: {"convnet": {}, "fc": {}}, "not in the survey's format"),
        (lambda: {"state_dict": {}}, "is not a task checkpoint of this program"),
    ],
)
def test_first_tasks_that_do_not_fit_are_refused_untouched(tmp_path, content, message):
    path = tmp_path / "first.pt"
    content = content()
    if "task" in content:
        save_task_checkpoint(path, content)
    else:
        torch.save(content, path)
    net = grown(4)
    before = copy_of(net.state_dict())
    with pytest.raises(CheckpointError, match=message) as error:
        load_first_task(path, net, ORDER, files="xyz")
    assert "first.pt" in str(error.value)
    assert "\n" not in str(error.value)
    assert equal(net.state_dict(), before)


@pytest.mark.parametrize("kind", ["run", "task"])
def test_any_flipped_bit_is_noticed(kind, tmp_path):
    """Also those that no checksum of the zip archive covers, such as "this entry is a folder"."""
    if kind == "run":
        save_run(tmp_path, run_content(1))
        path = tmp_path / NEWEST
    else:
        path = tmp_path / "task_1.pt"
        save_task_checkpoint(path, task_payload(grown(4)))
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    random = np.random.default_rng(0)
    for position in [directory + 38, len(whole) - 1, *random.integers(0, len(whole), 30)]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|cannot read|not a"):
            load_run(tmp_path) if kind == "run" else load_task_checkpoint(path)


def test_a_foreign_file_whose_entry_says_it_is_a_folder_is_refused(tmp_path):
    path = tmp_path / "survey.pkl"
    torch.save(survey_payload(grown(4)), path)
    damaged = bytearray(path.read_bytes())
    # The directory's entry of a tensor: torch would read its memory without having filled it.
    name = damaged.rindex(b"/data/0")
    damaged[damaged.rindex(b"PK\x01\x02", 0, name) + 38] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        load_first_task(path, grown(4), ORDER)


# --- A right checksum and wrong contents ----------------------------------------------------------

GONE = object()  # stands for no entry at all
WRONG = (
    *(None, "x", -1, 10**12, 10**400, 0.5, float("nan"), [], [None], {}, {"a": 1}, True, GONE),
    *(torch.tensor(2.5), torch.tensor([1.5, 2.5]), torch.tensor([10**12] * 3), torch.zeros(0)),
    torch.zeros(2, 3),
)
# Where another value may be a true one, or is refused when the settings or the data are known.
UNTOLD = re.compile(
    "config|machines|random python 1|log_bytes|learner records|"
    "progress (metrics task_sizes 1|metrics tasks 0 (old|new|forgetting|per)|trained|peak)"
)


def wrong_contents(value, path=()):
    """Yield a place in a checkpoint, what is put there, and what the checkpoint becomes by that."""
    for other in WRONG:
        both = isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor)
        same = both and (value.dtype, value.shape) == (other.dtype, other.shape)
        if (path and not same and type(value) is not type(other)) or isinstance(value, int):
            yield path, other, other
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(min(len(value), 2)):
            for place, other, inside in wrong_contents(value[key], (*path, key)):
                copied = type(value)(value)
                copied[key] = inside
                if inside is GONE:
                    del copied[key]
                yield place, other, copied


def refused(content):
    """Return whether this content of a checkpoint is refused; what is accepted can be used."""
    try:
        require_run(content)
        resolve(content["config"])
        learner = tiny_learner(convnet_type="memo_conv2")
        learner.load_state_dict(content["learner"])
        learner.rehearse()
    except UNFIT:
        return True
    progress = Progress.from_dict(content["progress"])
    assert final_table(progress.metrics, progress.exemplars, progress.seconds, METHODS["memo"])
    assert learner.run.train_data.num_batches(len(learner.training_indices()), 8)
    return False


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("every", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_wrong_contents_are_refused_wherever_they_are(every):
    content = run_content()
    del content["learner"]["step"], content["learner"]["weights"]
    assert not refused(content)
    for number, (path, value, wrong) in enumerate(wrong_contents(content)):
        if number % every == 0 and not refused(wrong):
            place = " ".join(map(str, path))
            assert UNTOLD.match(place), (place, value)


def test_more_values_than_any_run_has_are_not_unpacked(tmp_path, monkeypatch):
    save_run(tmp_path, run_content(1))
    assert load_run(tmp_path)[0]
    monkeypatch.setattr("utils.checkpoint.MOST_PICKLED", 100)
    unpacked = []
    monkeypatch.setattr(torch, "load", lambda *_, **__: unpacked.append(True))
    with pytest.raises(CheckpointError):
        load_run(tmp_path)
    assert unpacked == []


def replace_by_a_compressed_one(path):
    """Write a small file with a right checksum that unpacks to a thousand times its size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"N0" * 5_000_000 + b"N.")
        archive.comment = b"0" * 64
    whole = path.read_bytes()[:-64]
    path.write_bytes(whole + hashlib.sha256(whole).hexdigest().encode())


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: os.truncate(path.touch() or path, 2**34),
        lambda path: os.truncate(path.touch() or path, 2**41),
        Path.mkdir,
        replace_by_a_compressed_one,
        lambda path: save_task_checkpoint(path, {"format": "memo-run-1", "config": {}}),
        lambda path: _write_wrong(path, "task", 10**12),
        lambda path: _write_wrong(path, "exemplars", [torch.tensor([0.5])] * 4),
    ],
)
def test_what_is_no_checkpoint_gives_way_to_the_one_before(make, tmp_path):
    save_run(tmp_path, run_content(1))
    (tmp_path / NEWEST).rename(tmp_path / PREVIOUS)
    make(tmp_path / NEWEST)
    content, warning = load_run(tmp_path)
    assert content["learner"]["step"] == 1
    assert warning.startswith((f"{tmp_path / NEWEST} ", f"cannot read the checkpoint {tmp_path}"))
    with pytest.raises(CheckpointError):
        load_task_checkpoint(tmp_path / NEWEST)
    with pytest.raises(CheckpointError):
        load_first_task(tmp_path / NEWEST, grown(4), ORDER)


def _write_wrong(path, key, value):
    content = run_content()
    content["learner"][key] = value
    save_run(path.parent, content)


@pytest.mark.parametrize(
    "change",
    [
        {"task": 0},
        {"task": 3},
        {"task": 1.0},
        {"task_sizes": [4, 10**12]},
        {"task_sizes": [[4], 2]},
        {"class_order": [0, 0, 1, 2, 3, 4]},
        {"class_order": "abcdef"},
        {"convnet_type": "memo_resnet"},
        {"convnet_type": 3},
        {"network": [1]},
        {"network": {"generalized": 3}},
        {"exemplars": [torch.rand(3)] * 4},
        {"exemplars": [torch.arange(3)]},
        {"test_accuracy": "x"},
        {"draws": {"device": "cpu", "state": torch.zeros(3, dtype=torch.uint8)}},
        {"files": 3},
    ],
)
def test_a_task_s_wrong_contents_are_refused(change, tmp_path):
    path = tmp_path / "task_1.pt"
    save_task_checkpoint(path, task_payload(grown(4)) | change)
    with pytest.raises(CheckpointError, match=r"task_1.pt holds what this program does not write"):
        load_task_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"task_1.pt holds what this program does not write"):
        load_first_task(path, grown(4), ORDER)
