"""Every file in exps/ loads, is complete, and says what its name says."""

import json
import math
import re
import statistics

import numpy as np
import pytest
from conftest import load_golden
from PIL import Image
from processes import Program

from models.base import Learner
from models.methods import METHODS
from utils import experiment, published
from utils.budget import curve_points, granted_memory
from utils.catalog import DATASETS
from utils.config import EXPS_DIR, SETTINGS, Config, load_config
from utils.data import ImageArrays, load_dataset

FILES = sorted(EXPS_DIR.glob("*.json"))

# Where and how a run is computed, watched, started and stopped; its results depend on the rest.
NOT_IN_FILES = {
    "device",
    "num_workers",
    "data_dir",
    "log_dir",
    "debug",
    "eval_every",
    "tensorboard",
    "record_blocks",
    "titles",
    "stop_after_task",
    "checkpoint_every",
    "max_minutes",
    "deterministic",
    "precision",
    "cuda_graph",
    "block_streams",
    "sync_batchnorm",
    "skip",
    "init_checkpoint",
    # a user's own images
    "class_list",
    "image_size",
    "mean",
    "std",
}


CURVES = {"cifar100": (10, 10), "imagenet100": (50, 5)}  # with files for every point


def both(setting):
    return {f"{setting}_{schedule}" for schedule in ("steps", "cosine")}


def test_every_published_setting_is_there():
    expected = {*METHODS, "quickstart", "imagenet1000_b0_inc100_fair_cosine"}
    nets = {
        "cifar100": ("conv2", "resnet14", "resnet20", "resnet26", "resnet32"),
        "imagenet100": ("conv4", "resnet10", "resnet18", "resnet26", "resnet34", "resnet50"),
    }
    expected |= {f"auc_{dataset}_{net}" for dataset in nets for net in nets[dataset]}
    for base, increments in ((0, (5, 10, 20)), (50, (5, 10, 25))):
        for increment in increments:
            for protocol in ("benchmark", "fair"):
                expected |= both(f"cifar100_b{base}_inc{increment}_{protocol}")
    for split in ("b50_inc5_fair", "b0_inc10_fair", "b50_inc10_benchmark"):
        expected |= both(f"imagenet100_{split}")
    for increment in (5, 10, 20):
        expected |= both(f"imagenet100_b0_inc{increment}_benchmark")
    assert {path.stem for path in FILES} == expected


def test_every_published_result_has_a_file():
    found = {published.find(load_config(["--config", str(path)])[0]) for path in FILES}
    assert {row for row in found if row and row.method == "memo"} == {
        row for row in published.rows() if row.method == "memo"
    }
    assert {row.method for row in found if row} == {row.method for row in published.rows()} & {
        *METHODS
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_loads_without_a_warning_and_is_complete(path):
    config, warnings, _ = load_config(["--config", str(path)])
    assert warnings == []
    values = json.loads(path.read_text())
    synthetic = {key for key in SETTINGS if key.startswith("synthetic_")}
    own = {key for key, each in SETTINGS.items() if not each.of or config.model_name in each.of}
    needed = own - NOT_IN_FILES - (synthetic if config.dataset != "synthetic" else set())
    assert {key for key in values if not key.startswith("_")} == needed
    if path.stem not in (*METHODS, "quickstart"):  # those are begun from, with other splits too
        assert values["train_base"] is config.train_base  # said, not left to a rule of the program


@pytest.mark.parametrize(
    "path", [p for p in FILES if re.match("(cifar|imagenet)1", p.stem)], ids=lambda path: path.stem
)
def test_file_is_what_its_name_says(path):
    config, _, _ = load_config(["--config", str(path)])
    name = re.fullmatch(r"(\w+)_b(\d+)_inc(\d+)_(benchmark|fair)_(steps|cosine)", path.stem)
    dataset, base, increment, protocol, schedule = name.groups()
    base, increment = int(base), int(increment)
    first = base or increment
    net = "resnet32" if dataset == "cifar100" else "resnet18"
    assert (config.dataset, config.convnet_type) == (dataset, f"memo_{net}")
    assert (config.init_cls, config.increment, config.prefix) == (first, increment, protocol)
    assert config.scheduler == {"steps": "steplr", "cosine": "cosine"}[schedule]
    # Two published scripts differ a little from the formula.
    scripts = {"imagenet100_b0_inc10": 2652, "imagenet1000_b0_inc100": 20666}
    aligned = granted_memory("fair", dataset, net, first, increment, method="memo")
    fair = scripts.get(f"{dataset}_b{base}_inc{increment}", aligned)
    assert config.memory_size == (2000 if protocol == "benchmark" else fair)
    # The published runs train the trunk for first tasks of up to 20 classes and freeze it for more.
    assert config.train_base is (first <= 20)
    # The published training recipe, the same everywhere but for ImageNet-1000's epochs.
    epochs = 200 if dataset == "imagenet1000" else 170
    assert (config.init_epoch, config.init_milestones) == (200, [60, 120, 170])
    assert (config.epochs, config.milestones, config.t_max) == (epochs, [80, 120, 150], epochs)
    assert (config.init_lr, config.lrate, config.init_lr_decay, config.lrate_decay) == (0.1,) * 4
    assert (config.init_weight_decay, config.weight_decay) == (5e-4, 2e-4)
    assert (config.batch_size, config.alpha_aux, config.seed) == (128, 1.0, [1993])
    assert (config.train_adaptive, config.shuffle, config.fixed_memory) == (False, True, False)


@pytest.mark.parametrize(
    ("dataset", "point"),
    [
        (dataset, point)
        for dataset in CURVES
        for point in curve_points(dataset, *CURVES[dataset], method="memo")
    ],
    ids=lambda value: getattr(value, "backbone", value),
)
def test_there_is_a_file_for_each_point_of_the_performance_memory_curves(dataset, point):
    net = point.backbone.removesuffix("_cifar").removesuffix("_imagenet")
    path = EXPS_DIR / f"auc_{dataset}_{net}.json"
    config, _, _ = load_config(["--config", str(path)])
    assert config.memory_size == point.memory_size
    # All else is the published experiment.
    init_cls, increment = CURVES[dataset]
    published_one = {
        **{"dataset": dataset, "init_cls": init_cls, "increment": increment},
        **{"convnet_type": f"memo_{point.backbone}", "memory_size": point.memory_size},
    }
    assert config == Config(prefix="auc", **published_one)
    assert load_config(["--config", str(path), "-ms", "auto"])[0] == config


def test_memo_json_is_the_default_and_the_published_experiment():
    plain, warnings, _ = load_config([])
    assert warnings == []
    assert plain == Config()
    published = "-model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair --train_base"
    assert load_config(published.split())[0] == plain


def rates(kind, epochs, lr, milestones, decay):
    """Return the learning rate of every epoch."""
    if kind == "cosine":
        return [lr / 2 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    passed = [sum(each <= epoch for each in milestones) for epoch in range(epochs)]
    return [lr * decay**steps for steps in passed]


@pytest.mark.parametrize(
    ("method", "first", "later", "memory_size"),
    [
        ("finetune", "Finetune_task0_and_shared_first_task", "Finetune_later", 0),
        ("replay", "Replay_iCaRL_WA_task0", "Replay_later", 7431),
        ("icarl", "Replay_iCaRL_WA_task0", "iCaRL_later", 7431),
        ("wa", "Replay_iCaRL_WA_task0", "WA_later", 7431),
        ("der", "DER_task0", "DER_later", 2000),
    ],
)
def test_the_file_of_each_method_is_its_published_recipe(method, first, later, memory_size):
    c, _, _ = load_config(["-model", method])
    assert load_config(["-model", method, "-ms", "auto"])[0] == c
    assert (c.model_name, c.memory_size) == (method, memory_size)
    assert c.prefix == ("benchmark" if method == "finetune" else "fair")
    assert (c.dataset, c.init_cls, c.increment) == ("cifar100", 10, 10)
    assert (c.convnet_type, c.batch_size, c.seed) == ("resnet32", 128, [1993])
    assert (c.init_weight_decay, c.weight_decay) == (5e-4, 2e-4)
    golden = load_golden("methods/schedules.json")
    ours = (
        (c.init_scheduler, c.init_epoch, c.init_lr, c.init_milestones, c.init_lr_decay),
        (c.scheduler, c.epochs, c.lrate, c.milestones, c.lrate_decay),
    )
    for recipe, stated in zip(ours, (golden[first], golden[later]), strict=True):
        assert rates(*recipe) == pytest.approx(stated["lr_per_epoch"], rel=1e-9)


QUICKSTART = EXPS_DIR / "quickstart.json"


def test_quickstart_needs_no_download_and_is_the_one_that_was_measured():
    # Its accuracy and spread stand in README: another value here wants the slow test below, and
    # README's figures, again.
    config, _, _ = load_config(["--config", str(QUICKSTART)])
    assert config == Config(
        dataset="synthetic", synthetic_classes=12, synthetic_train_per_class=48,
        synthetic_test_per_class=40, convnet_type="memo_resnet14_cifar", prefix="benchmark",
        init_cls=3, increment=3, memory_size=216, batch_size=16, scheduler="cosine",
        init_epoch=12, init_lr=0.03, init_milestones=[], epochs=10, lrate=0.03, milestones=[],
    )  # fmt: skip


@pytest.mark.slow  # ten runs of one or two minutes, two at a time
def test_quickstart_is_no_lottery(tmp_path):
    for seeds in zip(range(0, 10, 2), range(1, 10, 2), strict=True):
        programs = [
            Program(
                *("--config", QUICKSTART, "--log_dir", tmp_path, "--torch_seed", seed, "-d", -1),
                output=tmp_path / f"said{seed}",
            )
            for seed in seeds
        ]
        assert [program.wait(timeout=1200) for program in programs] == [0, 0]
    runs = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    averages = [run["average_accuracy"] for run in runs]
    assert len(averages) == 10
    assert 95 < statistics.mean(averages) < 100
    assert statistics.stdev(averages) < 3


# --- Every file starts ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stand_in_folders(tmp_path_factory):
    """Return, for each ImageNet, a folder of as many classes, a small image each in both splits."""
    image = tmp_path_factory.mktemp("class")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image / "one.jpeg")
    folders = {name: tmp_path_factory.mktemp(name) for name in ("imagenet100", "imagenet1000")}
    for name, folder in folders.items():
        (folder / "train").mkdir()
        (folder / "val").symlink_to("train")
        for number in range(DATASETS[name].classes):  # links, which are gone sooner than folders
            (folder / "train" / f"n{number:08}").symlink_to(image)
    return folders


@pytest.mark.parametrize(("name", "jitter"), [("imagenet100", False), ("imagenet1000", True)])
def test_imagenet1000_alone_varies_brightness(name, jitter, stand_in_folders):
    train, _ = load_dataset(name, stand_in_folders[name]).transforms
    assert ("ColorJitter" in repr(train)) is jitter


def stand_in_arrays(*_, **__):
    """Return data of CIFAR-100's shape, with one image of each class in each split."""
    images = np.random.default_rng(0).integers(0, 256, (100, 3, 32, 32), dtype=np.uint8)
    labels, facts = np.arange(100), DATASETS["cifar100"]
    return ImageArrays("cifar100", images, labels, images, labels, facts.mean, facts.std)


def has_learner(path):
    name = json.loads(path.read_text())["model_name"]
    return (EXPS_DIR.parent / "models" / f"{name}.py").exists()


@pytest.mark.parametrize("path", list(filter(has_learner, FILES)), ids=lambda path: path.stem)
def test_file_starts(path, stand_in_folders, tmp_path, monkeypatch):
    # Through the whole program, a step of training in each of two tasks. What a step needs time for
    # is images: it is shown a new one and an exemplar, and features are made of one image only.
    indices, forward = Learner.training_indices, Learner.forward_all

    def one_for_all(self, data, chosen):
        features, logits = forward(self, data, chosen[:1])
        return features.expand(len(chosen), -1), logits.expand(len(chosen), -1)

    monkeypatch.setattr(Learner, "training_indices", lambda self: indices(self)[[0, -1]])
    monkeypatch.setattr(Learner, "forward_all", one_for_all)
    for slow in ("save_run", "save_task_checkpoint", "pictures.draw_run"):  # others test them
        monkeypatch.setattr(f"utils.experiment.{slow}", lambda *_: None)
    words = ["--config", str(path), "-d", "-1", "--log_dir", str(tmp_path), "--num_workers", "0"]
    words += ["--init_epoch", "1", "--epochs", "1", "--t_max", "1", "--stop_after_task", "2"]
    dataset = json.loads(path.read_text())["dataset"]
    if dataset == "cifar100":
        monkeypatch.setattr(experiment, "load_dataset", stand_in_arrays)
    elif dataset in stand_in_folders:
        words += ["--data_dir", str(stand_in_folders[dataset])]
    config, _, _ = load_config(words)
    (metrics,) = experiment.run(config)
    assert [task.task for task in metrics.tasks] == [1, 2]
    (training,) = tmp_path.rglob("training.csv")
    assert len(training.read_text().splitlines()) == 3  # a header, and an epoch of each task
