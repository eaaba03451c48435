"""A user's own images through main_memo.py: every backbone, stops and resumes, damaged files."""

import csv
import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_folders import make_folder
from PIL import Image
from processes import Program, assert_same_run, folders

import main_memo
from utils import analysis, evaluation
from utils import data as data_module
from utils.catalog import BACKBONES, FOLDER_DATASETS
from utils.config import load_config
from utils.data import DataError, ImageArrays, ImageFiles, data_settings, load_dataset
from utils.data_manager import DataManager
from utils.experiment import make_loaders, run
from utils.resume import find_call
from utils.runs import find_runs, setting_key

TINY = """
--dataset folder -p fair -ms auto -d -1 -init 2 -incre 2 --batch_size 5 --init_lr .05 --lrate .05
--scheduler cosine --init_epoch 1 --epochs 1 --num_workers 0
""".split()  # noqa: SIM905
IN_FILES = ["--image_size", 72]  # larger than what is held in memory


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture
def own(pictures, tmp_path):
    """Return a copy to damage."""
    ignore = shutil.ignore_patterns("memo_mean_std.json")
    return Path(shutil.copytree(pictures, tmp_path / "copy", ignore=ignore))


def start(data_dir, logs, *flags, **how):
    arguments = [*TINY, "--data_dir", data_dir, "--log_dir", logs, *flags]
    return Program(*arguments, output=logs / "said", **how)


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "few", train=2, test=1)


# Ten seconds each; tests/test_exps.py makes a step of each in two tasks of a published file.
DEEPER = ("resnet26_imagenet", "resnet34_imagenet", "resnet50_imagenet")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEPER)) for name in BACKBONES],
)
def test_every_backbone_trains_end_to_end(name, few_pictures, tmp_path):
    size = max(BACKBONES[name].smallest, 12)
    program = start(few_pictures, tmp_path, "-net", f"memo_{name}", "--image_size", size)
    assert program.wait() == 0, program.said()
    (folder,) = folders(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["tasks_finished"] == 2
    assert all(np.isfinite(summary[key]) for key in ("average_accuracy", "last_accuracy"))
    notes = json.loads((folder / "config.json").read_text())
    assert notes["_data"]["classes"] == [f"class {label}" for label in range(4)]
    assert summary["exemplars"] == 4 * 2  # all: the protocol grants more


@pytest.fixture(scope="module")
def undisturbed(pictures, tmp_path_factory):
    """Return the folder of a run on files, read by the program itself."""
    logs = tmp_path_factory.mktemp("undisturbed")
    program = start(pictures, logs, *IN_FILES, "-net", "conv2", "--epochs", 2, "-ms", 9)
    assert program.wait() == 0, program.said()
    return folders(logs)[0]


def test_stopped_again_and_again_with_workers_it_is_the_same_run(undisturbed, pictures, tmp_path):
    codes = []
    while not codes or codes[-1] == 143:
        program = start(
            pictures, tmp_path, *IN_FILES, "-net", "conv2", "--epochs", 2, "-ms", 9, "--resume",
            "--num_workers", 2, die_at=("utils.engine.fit.Engine.training_step", 3),
            signal_number=signal.SIGTERM,
        )  # fmt: skip
        codes.append(program.wait())
    assert codes == [143] * 3 + [0], program.said()
    assert "Traceback" not in program.said()
    (folder,) = folders(tmp_path)
    assert_same_run(folder, undisturbed, tasks=2)


def test_killed_in_the_middle_of_an_epoch_it_is_the_same_run(undisturbed, pictures, tmp_path):
    flags = [*IN_FILES, "-net", "conv2", "--epochs", 2, "-ms", 9, "--resume"]
    flags += ["--checkpoint_every", 1]
    at = ("utils.engine.fit.Engine.training_step", 9)  # the last step but one of task 2, epoch 2
    program = start(pictures, tmp_path, *flags, die_at=at)
    assert program.wait() == -signal.SIGKILL, program.said()
    assert start(pictures, tmp_path, *flags).wait() == 0
    assert_same_run(folders(tmp_path)[0], undisturbed, tasks=2)


@pytest.mark.parametrize("size", [12, 72])  # in memory, in files
def test_a_damaged_image_is_named(size, own, tmp_path):
    bad = own / "train" / "class 3" / "4.JPG"
    bad.write_bytes(bad.read_bytes()[:300])
    program = start(
        own, tmp_path, "-net", "conv2", "--image_size", size, "--num_workers", 2,
        "--mean", 0.5, 0.5, 0.5, "--std", 0.2, 0.2, 0.2,
    )  # fmt: skip
    assert program.wait() == 2
    last = program.said().splitlines()[-1]
    assert last.startswith(f"main_memo.py: {bad} cannot be read as an image")
    assert "Traceback" not in program.said()
    assert (len(folders(tmp_path)) == 1) is (size == 72)


def test_a_run_goes_on_with_its_own_files_only(own, tmp_path):
    flags = [*IN_FILES, "-net", "conv2"]
    assert start(own, tmp_path, *flags, "--stop_after_task", 1).wait() == 0
    (folder,) = folders(tmp_path)
    shutil.copy(own / "train" / "class 1" / "0.JPG", own / "train" / "class 1" / "00.JPG")
    for flags in (["--resume", folder, "--stop_after_task", 0], ["--evaluate", folder]):
        program = Program(*flags, output=tmp_path / f"said {flags[0]}")
        assert program.wait() == 2
        assert "the image files are not those that the run in" in program.said()
    (own / "train" / "class 1" / "00.JPG").unlink()
    moved = own.rename(tmp_path / "elsewhere")  # which is the same data
    flags = ["--resume", folder, "--stop_after_task", 0, "--data_dir", moved]
    program = Program(*flags, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    program = Program("--evaluate", folder, "--num_workers", 2, output=tmp_path / "said again")
    assert program.wait() == 0, program.said()
    assert "the same as in" in program.said()
    assert analysis.main([str(folder), "--images", "8"]) == 0


def test_a_class_made_while_a_run_trains_does_not_belong_to_it(few_pictures, tmp_path):
    own = Path(shutil.copytree(few_pictures, tmp_path / "copy"))
    program = start(own, tmp_path, "-net", "conv2", "--image_size", 12)
    program.wait_for("logs in")
    for split in ("train", "val"):
        shutil.copytree(own / split / "class 0", own / split / "class 9")
    assert program.wait() == 0, program.said()
    (folder,) = folders(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["finished"]
    assert json.loads((folder / "config.json").read_text())["_data"]["classes"] == [
        f"class {label}" for label in range(4)
    ]


def test_a_class_made_while_the_program_starts_is_noticed(own):
    config, _, _ = load_config([*TINY, "--data_dir", str(own), "--image_size", "12"])
    for split in ("train", "val"):
        shutil.copytree(own / split / "class 0", own / split / "class 9")
    with pytest.raises(DataError, match=r"classes were added to .*; start it again"):
        run(config)


def test_a_class_whose_name_is_no_utf8_is_refused_before_images_are_read(own, tmp_path, capsys):
    for split in ("train", "val"):
        os.rename(own / split / "class 1", os.fsencode(own / split) + b"/caf\xe9")
        for file in own.glob(f"{split}/*/*.*"):
            file.write_bytes(b"not looked at")
    words = [*TINY, "--data_dir", str(own), "--log_dir", str(tmp_path / "logs")]
    assert main_memo.main(words) == 2
    assert r"the name of the folder caf\udce9 in" in capsys.readouterr().err
    (own / "list.txt").write_text("class 0\nclass 2\n")
    load_config([*words, "--class_list", str(own / "list.txt")])


def test_resume_without_a_folder_looks_at_the_same_data(own, pictures, tmp_path):
    flags = ["-net", "conv2", "--image_size", 12, "--resume"]
    assert start(own, tmp_path, *flags, "--stop_after_task", 1).wait() == 0
    assert start(pictures, tmp_path, *flags).wait() == 0
    assert len(folders(tmp_path)) == 2


def test_the_normalisation_stays_that_of_the_run(own, tmp_path, monkeypatch):
    flags = ["-net", "conv2", "--image_size", 12]
    assert start(own, tmp_path, *flags, "--stop_after_task", 1).wait() == 0
    (folder,) = folders(tmp_path)
    found = "folder: 24 training and 12 test images of 4 classes; left out in their folders: 8 "
    assert (tmp_path / "said").read_text().count(found) == 1
    assert (folder / "main.log").read_text().count(f"INFO {found}") == 1
    begun = json.loads((folder / "config.json").read_text())
    for line in csv.DictReader((folder / "per_class.csv").open()):
        assert line["name"] == f"class {line['original_class']}"
    for index in (0, 1):  # other pixels under the names of before
        shutil.copy(own / "train" / "class 2" / "4.JPG", own / "train" / "class 0" / f"{index}.JPG")
    settings, noted = load_config(["--resume", str(folder)])[0], begun["_data"]
    config = settings.to_dict()
    now = load_dataset("folder", own, **data_settings(config))
    assert list(now.mean) != noted["mean"]
    used = []
    for module in (analysis, evaluation):
        monkeypatch.setattr(
            module, "load_dataset", lambda *a, **k: used.append(k) or load_dataset(*a, **k)
        )
    # The test images are those of before.
    assert "the same as in" in evaluation.evaluate_run(settings, folder, None, None)
    program = Program("--resume", folder, "--stop_after_task", 0, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    assert json.loads((folder / "config.json").read_text())["_data"] == noted
    assert analysis.main([str(folder), "--images", "8"]) == 0
    assert [each["mean"] for each in used] == [noted["mean"]] * 2
    given = data_settings({**config, "mean": [0.5] * 3, "std": [0.2] * 3}, noted)
    assert (given["mean"], given["std"]) == ([0.5] * 3, [0.2] * 3)


def test_a_run_with_a_class_list_moves_with_it(own, tmp_path):
    chosen = own / "list.txt"
    chosen.write_text("class 0\nclass 2\nclass 3\n")
    flags = ["-net", "conv2", "--image_size", 12, "--init_cls", 1, "--increment", 1]
    flags += ["--stop_after_task", 1]
    assert start(own, tmp_path, *flags, "--class_list", chosen).wait() == 0
    (folder,) = folders(tmp_path)
    moved = own.rename(tmp_path / "elsewhere")
    where = ["--data_dir", moved, "--class_list", moved / "list.txt"]
    program = Program("--evaluate", folder, "--data_dir", moved, output=tmp_path / "said")
    assert program.wait() == 2
    assert f"class_list: the class list {chosen} cannot be read" in program.said()
    program = Program("--evaluate", folder, *where, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    assert "the same as in" in program.said()
    config, _, _ = load_config(["--resume", str(folder), *map(str, where)])
    before = find_runs([folder])[0].config
    assert setting_key(config.to_dict() | {"_data": before["_data"]}, 3) == setting_key(before, 3)
    program = Program("--resume", folder, *where, "--stop_after_task", 2, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    # Without its folder a run is known by its classes, not by where their list lies.
    config = replace(config, stop_after_task=3)
    assert list(find_call(config, True).folders.values()) == [folder]
    (moved / "list.txt").write_text("class 0\nclass 1\nclass 3\n")
    assert find_call(config, True).folders == {}
    where += ["--stop_after_task", 0]
    program = Program("--resume", folder, *where, output=tmp_path / "said")
    assert program.wait() == 2
    assert "the image files are not those that the run in" in program.said()


# --- What load_dataset makes of folders -----------------------------------------------------------


def test_only_a_users_own_images_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    half = np.zeros((30, 30, 3), np.uint8)
    half[15:] = 255
    for split, name in itertools.product(("train", "val"), (f"{n:03}" for n in range(100))):
        (tmp_path / split / name).mkdir(parents=True)
        Image.fromarray(half).save(tmp_path / split / name / "1.jpg", exif=exif)
    for data in (
        load_dataset("folder", tmp_path, image_size=16),
        load_dataset("folder", tmp_path, image_size=72),
        load_dataset("imagenet100", tmp_path),
    ):
        tasks = DataManager(data.train_labels, data.test_labels, list(range(100)), 50, 50)
        train, test = make_loaders(data, tasks, torch.device("cpu"))
        left_is_bright = data.name == "folder"
        for images, _ in (*train.eval_batches(np.array([5])), *test.eval_batches(np.array([5]))):
            assert bool(images[0, 0, -1, 0] > images[0, 0, 0, -1] + 0.1)
            assert bool(images[0, 0, 0, 0] > images[0, 0, -1, -1] + 0.1) is left_is_bright
        assert (data.read_test(np.array([7]))[0, 0, 0, 0] > 127) == left_is_bright


def test_small_images_are_in_memory_and_large_ones_are_not(pictures, monkeypatch):
    small = load_dataset("folder", pictures, image_size=16)
    assert isinstance(small, ImageArrays)
    assert (small.train_images.shape, small.padding) == ((24, 3, 16, 16), 2)
    assert np.array_equal(small.train_labels, np.repeat(range(4), 6))
    assert (small.num_classes, len(small.test_images)) == (4, 12)
    scaled = small.train_images / 255
    assert small.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)))
    assert small.std == pytest.approx(scaled.std(axis=(0, 2, 3)))
    assert isinstance(load_dataset("folder", pictures, image_size=65), ImageFiles)
    monkeypatch.setattr(data_module, "IN_MEMORY_BYTES", 3 * 16 * 16 * 36 - 1)
    large = load_dataset("folder", pictures, image_size=16)
    assert isinstance(large, ImageFiles)
    assert (large.mean, large.std) == (small.mean, small.std)
    assert np.array_equal(large.read_test(np.arange(12)), small.test_images)
    assert large.listing == small.listing


def test_mean_and_deviation_are_computed_once(own, monkeypatch):
    computed = []
    compute = data_module.mean_and_std_of_files
    monkeypatch.setattr(
        data_module, "mean_and_std_of_files", lambda *a, **k: computed.append(1) or compute(*a, **k)
    )

    def load(size=72, **given):
        found = load_dataset("folder", own, image_size=size, **given)
        return found.mean, found.std, len(computed)

    first = load()
    assert load() == first
    assert load(size=80)[2] == 2
    assert load() == (*first[:2], 2)  # that of the other size is kept beside it
    assert load(mean=[0.1, 0.2, 0.3], std=[1, 1, 1]) == ((0.1, 0.2, 0.3), (1, 1, 1), 2)
    image = own / "train" / "class 0" / "0.JPG"
    shutil.copy(own / "train" / "class 2" / "4.JPG", image)
    changed = load()
    assert changed[2] == 3
    assert changed[:2] != first[:2]
    (own / "memo_mean_std.json").write_text("[damaged")
    assert load() == (*changed[:2], 4)
    assert load() == (*changed[:2], 4)


def test_mean_and_deviation_are_computed_where_nothing_can_be_written(own, monkeypatch, caplog):
    def read_only(path, _content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data_module, "write_file", read_only)
    monkeypatch.setattr(data_module.log, "propagate", True)
    assert len(load_dataset("folder", own, image_size=72).mean) == 3
    assert "cannot be written (Permission denied)" in caplog.text


def test_imagenet_is_read_from_folders_and_has_its_number_of_classes(tmp_path):
    make_folder(tmp_path, classes=102, train=1, test=1)
    with pytest.raises(DataError, match=r"has 102 classes, but imagenet100 has 100; choose with"):
        load_dataset("imagenet100", tmp_path)
    chosen = tmp_path / "classes.txt"
    chosen.write_text("\n".join(f"class {label}" for label in range(101, 1, -1)))
    found = load_dataset("imagenet100", tmp_path, class_list=chosen)
    assert (found.num_classes, found.size, len(found.train_labels)) == (100, 224, 100)
    assert found.mean == (0.485, 0.456, 0.406)
    assert found.listing.classes == sorted(f"class {label}" for label in range(2, 102))
    assert not found.brightness
    with pytest.raises(DataError, match=r"has 102 classes, but imagenet1000 has 1000"):
        load_dataset("imagenet1000", tmp_path)
    with pytest.raises(DataError, match=r"classes\.txt has 100 classes, but imagenet1000"):
        load_dataset("imagenet1000", tmp_path, class_list=chosen)
    assert set(FOLDER_DATASETS) == {"imagenet100", "imagenet1000", "folder"}
