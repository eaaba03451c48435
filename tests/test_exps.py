"""Every file in exps/ loads, is complete, and says what its name says."""

import json
import re
from dataclasses import replace

import pytest

from utils.budget import aligned_memory_size, curve_points
from utils.config import EXPS_DIR, SETTINGS, Config, load_config

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
    "stop_after_task",
    "checkpoint_every",
    "max_minutes",
    "deterministic",
    "skip",
    "init_checkpoint",
}


def test_every_setting_of_the_issue_is_there():
    nets = ("conv2", "resnet14", "resnet20", "resnet26", "resnet32")
    expected = {"memo", "quickstart"} | {f"auc_cifar100_{net}" for net in nets}
    expected |= {
        f"cifar100_b{base}_inc{increment}_{protocol}_{schedule}"
        for base, increments in ((0, (5, 10, 20)), (50, (5, 10, 25)))
        for increment in increments
        for protocol in ("benchmark", "fair")
        for schedule in ("steps", "cosine")
    }
    assert expected <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_loads_without_a_warning_and_is_complete(path):
    config, warnings, _ = load_config(["--config", str(path)])
    assert warnings == []
    values = json.loads(path.read_text())
    synthetic = {key for key in SETTINGS if key.startswith("synthetic_")}
    needed = set(SETTINGS) - NOT_IN_FILES - (synthetic if config.dataset != "synthetic" else set())
    assert {key for key in values if not key.startswith("_")} == needed


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.stem.startswith("cifar100_")], ids=lambda path: path.stem
)
def test_file_is_what_its_name_says(path):
    config, _, _ = load_config(["--config", str(path)])
    name = re.fullmatch(r"cifar100_b(\d+)_inc(\d+)_(benchmark|fair)_(steps|cosine)", path.stem)
    base, increment, protocol, schedule = int(name[1]), int(name[2]), name[3], name[4]
    first = base or increment
    assert config.dataset == "cifar100"
    assert config.convnet_type == "memo_resnet32"
    assert (config.init_cls, config.increment, config.prefix) == (first, increment, protocol)
    assert config.scheduler == {"steps": "steplr", "cosine": "cosine"}[schedule]
    aligned = aligned_memory_size("cifar100", "resnet32", first, increment)
    assert config.memory_size == (2000 if protocol == "benchmark" else aligned)
    # The published runs train the trunk for small first tasks and freeze it for 50 classes.
    assert config.train_base is (base == 0)
    # The published training recipe, the same everywhere.
    assert (config.init_epoch, config.init_milestones) == (200, [60, 120, 170])
    assert (config.epochs, config.milestones, config.t_max) == (170, [80, 120, 150], 170)
    assert (config.init_lr, config.lrate, config.init_lr_decay, config.lrate_decay) == (0.1,) * 4
    assert (config.init_weight_decay, config.weight_decay) == (5e-4, 2e-4)
    assert (config.batch_size, config.alpha_aux, config.seed) == (128, 1.0, [1993])
    assert (config.train_adaptive, config.shuffle, config.fixed_memory) == (False, True, False)


@pytest.mark.parametrize(
    "point", curve_points("cifar100", 10, 10), ids=lambda point: point.backbone
)
def test_there_is_a_file_for_each_point_of_the_performance_memory_curve(point):
    path = EXPS_DIR / f"auc_cifar100_{point.backbone.removesuffix('_cifar')}.json"
    config, _, _ = load_config(["--config", str(path)])
    assert config.memory_size == point.memory_size
    # All else is the published experiment.
    point_of_it = {"prefix": "auc", "convnet_type": f"memo_{point.backbone}"}
    assert config == replace(Config(), **point_of_it, memory_size=point.memory_size)
    assert load_config(["--config", str(path), "-ms", "auto"])[0] == config


def test_memo_json_is_the_default_and_the_published_experiment():
    plain, warnings, _ = load_config([])
    assert warnings == []
    assert plain == Config()
    published = "-model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair --train_base"
    assert load_config(published.split())[0] == plain


def test_quickstart_needs_no_download():
    config, _, _ = load_config(["--config", str(EXPS_DIR / "quickstart.json")])
    assert config.dataset == "synthetic"
