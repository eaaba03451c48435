"""utils/config.py and the front door: precedence, every message, help, and no torch."""

import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace

import pytest
from conftest import REPOSITORY, load_golden, run_program
from hypothesis import given, settings
from hypothesis import strategies as st

from models.methods import METHODS
from utils.budget import POINTS
from utils.catalog import BACKBONES, DATASETS
from utils.config import (
    OPTIONS,
    SETTINGS,
    Config,
    ConfigError,
    changed_keys,
    help_text,
    load_config,
    markdown_table,
    resolve,
)

CLASSES_OF_CIFAR10 = list(range(10))


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a configuration from flags and, if given, a JSON file."""

    def load(flags="", **values):
        argv = flags.split() if isinstance(flags, str) else list(flags)
        if values:
            path = tmp_path / "x.json"
            path.write_text(json.dumps(values))
            argv = ["--config", str(path), *argv]
        return load_config(argv)

    return load


@pytest.fixture
def problems_of(load):
    """Return a function that loads what cannot be used, and gives its problems."""

    def problems_of(flags="", **values):
        with pytest.raises(ConfigError) as caught:
            load(flags, **values)
        return caught.value.problems

    return problems_of


# --- Where values come from -----------------------------------------------------------------------


def test_a_flag_beats_the_file_and_the_file_beats_the_default(load):
    config, _, _ = load("--lrate 0.3", batch_size=64, lrate=0.2)
    assert (config.batch_size, config.lrate, config.init_lr) == (64, 0.3, 0.1)


def test_without_config_the_file_of_the_method_is_read(tmp_path):
    (tmp_path / "memo.json").write_text('{"batch_size": 32}')
    assert load_config([], exps_dir=tmp_path)[0].batch_size == 32
    assert load_config(["-model", "memo"], exps_dir=tmp_path)[0].batch_size == 32
    assert load_config(["--batch_size", "8"], exps_dir=tmp_path)[0].batch_size == 8


OTHER_VALUES = {  # for every setting, a flag and the JSON value it stands for
    "prefix": ("-p benchmark", "benchmark"),
    "dataset": ("--dataset synthetic", "synthetic"),
    "model_name": ("-model memo", "memo"),
    "convnet_type": ("-net conv2", "memo_conv2"),
    "point": ("-model replay -p auc --point conv2", "conv2"),
    "init_cls": ("-init 20", 20),
    "increment": ("-incre 20", 20),
    "seed": ("--seed 1993 1 2", [1993, 1, 2]),
    "shuffle": ("--no-shuffle", False),
    "class_order": (f"--class_order {' '.join(map(str, range(100)))}", list(range(100))),
    "torch_seed": ("--torch_seed 5", 5),
    "stop_after_task": ("--stop_after_task 3", 3),
    "memory_size": ("-ms 2000", 2000),
    "fixed_memory": ("--fixed_memory", True),
    "memory_per_class": ("--memory_per_class 7", 7),
    "train_base": ("--no-train_base", False),
    "train_adaptive": ("--train_adaptive", True),
    "alpha_aux": ("--alpha_aux 0.5", 0.5),
    "skip": ("--skip --init_checkpoint first.pt", True),
    "init_checkpoint": ("--init_checkpoint first.pt", "first.pt"),
    "batch_size": ("--batch_size 16", 16),
    "scheduler": ("--scheduler cosine", "cosine"),
    "init_scheduler": ("--init_scheduler cosine", "cosine"),
    "init_epoch": ("--init_epoch 8", 8),
    "init_lr": ("--init_lr 1e-2", 0.01),
    "init_milestones": ("--init_milestones 4 6", [4, 6]),
    "init_lr_decay": ("--init_lr_decay 1", 1.0),
    "init_weight_decay": ("--init_weight_decay 0", 0.0),
    "epochs": ("--epochs 6", 6),
    "lrate": ("--lrate 0.05", 0.05),
    "milestones": ("--milestones 80,120,150", [80, 120, 150]),
    "lrate_decay": ("--lrate_decay .2", 0.2),
    "weight_decay": ("--weight_decay 5e-4", 5e-4),
    "t_max": ("--t_max 100", 100),
    "synthetic_classes": ("--dataset synthetic --synthetic_classes 20", 20),
    "synthetic_train_per_class": ("--synthetic_train_per_class 9", 9),
    "synthetic_test_per_class": ("--synthetic_test_per_class 9", 9),
    "class_list": ("--dataset imagenet100 -net resnet18 --class_list list.txt", "list.txt"),
    "image_size": ("--dataset folder --data_dir {folder} --image_size 48", 48),
    "mean": ("--dataset folder --data_dir {folder} --mean .5 .4 0 --std 1 2 3", [0.5, 0.4, 0.0]),
    "std": ("--dataset folder --data_dir {folder} --std 1,2,.5 --mean 0 0 0", [1.0, 2.0, 0.5]),
    "device": ("-d 0 1", [0, 1]),
    "num_workers": ("--num_workers 0", 0),
    "data_dir": ("--data_dir 2024", "2024"),
    "log_dir": ("--log_dir /x", "/x"),
    "debug": ("--debug", True),
    "eval_every": ("--eval_every 10", 10),
    "tensorboard": ("--tensorboard", True),
    "record_blocks": ("--record_blocks", True),
    "titles": ("--no_titles", False),
    "precision": ("--precision bf16", "bf16"),
    "cuda_graph": ("--no-cuda_graph", False),
    "block_streams": ("--block_streams 0", 0),
    "sync_batchnorm": ("--sync_batchnorm", True),
    "deterministic": ("--deterministic", True),
    "checkpoint_every": ("--checkpoint_every 5", 5),
    "max_minutes": ("--max_minutes 7.5", 7.5),
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder with 12 classes; whether there are images is looked at later."""
    for label in range(12):
        (tmp_path / "own" / "train" / f"class {label}").mkdir(parents=True)
    return tmp_path / "own"


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_is_a_flag_and_a_json_key(key, load, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "list.txt").write_text("class 1\nclass 2\n")
    flag, value = OTHER_VALUES[key]
    config, _, _ = load(flag.format(folder=folder))
    assert getattr(config, key) == value
    # The configuration shown is itself a file that gives the same configuration.
    assert load("", **json.loads(config.to_json()))[0] == config


@pytest.mark.parametrize("key", [key for key, each in SETTINGS.items() if each.kind.switch])
def test_every_switch_goes_both_ways(key, load):
    values = {"init_checkpoint": "first.pt"}  # which skip needs
    assert getattr(load(f"--no-{key}", **values, **{key: True})[0], key) is False
    assert getattr(load(f"--{key}", **values, **{key: False})[0], key) is True
    assert getattr(load(f"--{key} --no-{key}", **values)[0], key) is False


def test_the_published_line(load):
    line = (
        "-model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair -d 3 --train_base "
        "-d 0 1 2 3"
    )
    config, warnings, _ = load(line)
    assert config.device == [0, 1, 2, 3]
    assert (config.train_base, config.memory_size, config.prefix) == (True, 3312, "fair")
    assert warnings == []


@pytest.mark.parametrize("typed", ["80 120 150", "80,120,150", "80, 120 150"])
def test_milestones_with_spaces_or_commas(typed, load):
    assert load(f"--milestones {typed}")[0].milestones == [80, 120, 150]


@pytest.mark.parametrize(
    ("typed", "value"), [("-d -1", [-1]), ("-d=-1", [-1]), ("-d 0,1", [0, 1]), ("--device 2", [2])]
)
def test_devices_typed(typed, value, load):
    assert load(typed)[0].device == value


@pytest.mark.parametrize(
    ("value", "ids"), [([], []), (0, [0]), ("0", [0]), (["0", "1"], [0, 1]), ([-1], [-1])]
)
def test_devices_in_json(value, ids, load):
    assert load(device=value)[0].device == ids


def test_a_single_seed_in_json(load):
    assert load(seed=7)[0].seed == [7]


def test_keys_with_an_underscore_are_notes(load):
    assert load(_torch="2.14", _anything={"a": 1}, batch_size=32)[0].batch_size == 32


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b'\xef\xbb\xbf{"batch_size": 32}')
    assert load_config(["--config", str(path)])[0].batch_size == 32


# --- What is left open is resolved ----------------------------------------------------------------


@pytest.mark.parametrize(("init_cls", "train"), [(5, True), (20, True), (21, False), (50, False)])
def test_train_base_auto_depends_on_the_first_task(init_cls, train, load):
    assert load(f"-init {init_cls}")[0].train_base is train
    assert load(train_base="auto", init_cls=init_cls)[0].train_base is train
    assert Config(init_cls=init_cls).train_base is train


def test_a_forced_train_base_is_kept(load):
    assert load("--train_base", init_cls=50)[0].train_base is True
    assert load(init_cls=10, train_base=False)[0].train_base is False


@pytest.mark.parametrize(
    ("typed", "exemplars"),
    [
        ("-ms auto", 3312),
        ("-ms auto -init 50", 2729),
        ("-ms auto -p auc -net resnet14_cifar", 2495),
        ("-ms auto -p auc -net conv2", 2118),
        ("-ms auto -p benchmark", 2000),
        (
            "-ms auto --dataset synthetic --synthetic_classes 20 -init 10",
            2000 + 112_016 * 4 // 3072,
        ),
        ("-ms auto --fixed_memory", 3312),
    ],
)
def test_memory_size_auto_is_what_the_protocol_grants(typed, exemplars, load):
    config, warnings, _ = load(typed)
    assert config.memory_size == exemplars
    assert warnings == [] or "--fixed_memory" in typed


@pytest.mark.parametrize(
    ("cores", "processes", "typed", "workers"),
    [
        *((1, 1, "", 1), (3, 1, "", 3), (64, 1, "", 4), (8, 4, "", 2), (2, 4, "", 1)),
        *((1, 1, "--num_workers 7", 7), (64, 1, "--num_workers auto", 4)),
    ],
)
def test_as_many_workers_as_cores(cores, processes, typed, workers, load, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    torchrun = {"MASTER_ADDR": "", "MASTER_PORT": "", "RANK": "0", "WORLD_SIZE": processes,
                "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": processes}  # fmt: skip
    for name, value in torchrun.items():
        monkeypatch.setenv(name, str(value))
    config, warnings, _ = load(typed)
    assert (config.num_workers, warnings) == (workers, [])
    shown = json.loads(config.to_json())
    assert shown["num_workers"] == (7 if "7" in typed else "auto")


def test_memory_size_auto_in_a_file(load):
    values = {"memory_size": "auto", "init_cls": 5, "increment": 5}
    assert load(**values)[0].memory_size == Config(**values).memory_size == 4771
    assert load("-ms 200", **values)[0].memory_size == 200


def test_t_max_is_the_later_epochs_unless_given(load):
    assert load("--epochs 12")[0].t_max == 12
    assert load("--epochs 12", t_max=None)[0].t_max == 12
    assert load("--epochs 12 --t_max 9")[0].t_max == 9
    assert Config(epochs=12).t_max == 12


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("resnet32", "memo_resnet32"),
        ("memo_resnet32", "memo_resnet32"),
        ("resnet14_cifar", "memo_resnet14_cifar"),
        ("MEMO_CONV2", "memo_conv2"),
    ],
)
def test_memo_may_be_left_off_the_backbone(typed, name, load):
    assert load(f"-net {typed}")[0].convnet_type == name


def test_two_configurations_share_no_list():
    first, second = Config(), Config()
    first.milestones.append(1)
    assert second.milestones == [80, 120, 150] == Config().milestones


def test_from_dict_checks_and_to_dict_gives_it_back():
    config = Config.from_dict({"dataset": "cifar10", "init_cls": 2, "increment": 2, "_note": 1})
    assert Config.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"there is no setting \"milestone\"; did you mean mile"):
        Config.from_dict({"milestone": [1]})
    with pytest.raises(ConfigError, match="a first task of 11 classes is impossible"):
        Config.from_dict({"dataset": "cifar10", "init_cls": 11})


# --- What is refused ------------------------------------------------------------------------------

BAD_JSON_VALUES = [  # key, wrong value, what the message says would be right
    ("prefix", "fiar", 'one of benchmark, fair, auc, got "fiar"; did you mean fair?'),
    ("prefix", 1, "one of benchmark, fair, auc, got 1"),
    ("dataset", "cifar1000", "did you mean cifar100?"),
    ("dataset", None, "got null"),
    ("model_name", "finetun", "there is no method 'finetun': did you mean finetune?"),
    ("model_name", ["memo"], f'must be one of {", ".join(METHODS)}, got ["memo"]'),
    ("convnet_type", "memo_resnet33", "there is no backbone 'memo_resnet33': did you mean"),
    ("convnet_type", 32, "the name of a backbone"),
    ("point", "resnet33", "there is no backbone 'resnet33': did you mean resnet32?"),
    ("init_cls", 0, "a whole number of at least 1, got 0"),
    ("init_cls", -10, "a whole number of at least 1, got -10"),
    ("init_cls", 10.0, "a whole number of at least 1, got 10.0"),
    ("init_cls", "10", 'a whole number of at least 1, got "10"'),
    ("init_cls", True, "a whole number of at least 1, got true"),
    ("increment", 0, "a whole number of at least 1, got 0"),
    ("increment", -1, "a whole number of at least 1, got -1"),
    ("increment", [10], "a whole number of at least 1, got [10]"),
    ("seed", "a", "whole numbers from 0"),
    ("seed", [], "whole numbers from 0"),
    ("seed", [1, 1], "different whole numbers"),
    ("seed", [-1], "whole numbers from 0"),
    ("seed", 2**32, "at most 4294967295"),
    ("shuffle", 1, "true or false, got 1"),
    ("class_order", [0, 1, 1], "each once"),
    ("class_order", "0 1 2", "each once"),
    ("torch_seed", -1, "a whole number from 0 to 4294967295"),
    ("stop_after_task", -1, "a whole number of at least 0"),
    ("memory_size", "many", "a whole number of at least 0"),
    ("memory_size", -5, "a whole number of at least 0"),
    ("memory_size", 10**30, "at most 1000000000"),
    ("fixed_memory", "yes", "true or false"),
    ("memory_per_class", 0, "a whole number of at least 1"),
    ("train_base", "always", 'true, false or "auto"'),
    ("train_base", None, 'true, false or "auto"'),
    ("train_adaptive", "auto", "true or false"),
    ("alpha_aux", -0.1, "a number of at least 0"),
    ("alpha_aux", float("nan"), "a number of at least 0, got NaN"),
    ("skip", "no", "true or false"),
    ("init_checkpoint", "", "the path of a checkpoint"),
    ("batch_size", 0, "a whole number of at least 1"),
    ("batch_size", 1.5, "a whole number of at least 1"),
    ("scheduler", "step", "did you mean steplr?"),
    ("init_scheduler", "step", "did you mean steplr?"),
    ("init_epoch", 0, "a whole number of at least 1"),
    ("init_lr", 0, "a number above 0"),
    ("init_lr", float("inf"), "a number above 0, got Infinity"),
    ("init_lr", 10**400, "a number above 0"),
    ("init_milestones", [120, 60], "epochs above 0 in rising order, such as 80 120 150"),
    ("init_milestones", 60, "in rising order"),
    ("init_lr_decay", 0, "a number above 0 and at most 1"),
    ("init_lr_decay", 1.1, "a number above 0 and at most 1"),
    ("init_weight_decay", -1e-4, "a number of at least 0"),
    ("epochs", -170, "a whole number of at least 1"),
    ("lrate", "0.1", "a number above 0"),
    ("lrate", False, "a number above 0"),
    ("milestones", [0, 80], "epochs above 0 in rising order"),
    ("milestones", [-80], "epochs above 0 in rising order"),
    ("milestones", [80, 80], "in rising order"),
    ("milestones", ["80"], "in rising order"),
    ("milestones", {"a": 1}, "in rising order"),
    ("lrate_decay", -0.1, "a number above 0 and at most 1"),
    ("lrate_decay", None, "a number above 0 and at most 1"),
    ("weight_decay", "small", "a number of at least 0"),
    ("t_max", 0, "a whole number of at least 1, or null"),
    ("synthetic_classes", 101, "at most 100"),
    ("synthetic_classes", 1, "a whole number from 2 to 100"),
    ("synthetic_train_per_class", 0, "a whole number from 1 to 10000"),
    ("synthetic_test_per_class", 0, "a whole number from 1 to 10000"),
    ("class_list", 3, "the path of a text file, or null"),
    ("image_size", 7, "a whole number from 8 to 1024, or null"),
    ("mean", [0.5, 0.5], "three numbers from 0 to 1, such as 0.5 0.5 0.5, or null"),
    ("std", [0, 1, 1], "three numbers above 0, such as 0.25 0.25 0.25, or null"),
    ("device", "cpu", "GPU ids, or -1 alone for the CPU"),
    ("device", [0, -1], "or -1 alone"),
    ("device", [0, 0], "different GPU ids"),
    ("device", [-2], "GPU ids"),
    ("device", None, "GPU ids"),
    ("num_workers", -1, "a whole number from 0"),
    ("data_dir", " ", "the path of a folder"),
    ("log_dir", 3, "the path of a folder"),
    ("debug", 0, "true or false"),
    ("eval_every", -1, "a whole number of at least 0"),
    ("tensorboard", "yes", "true or false"),
    ("record_blocks", 1, "true or false"),
    ("titles", "no", "true or false"),
    ("precision", "fp16", "one of auto, fp32, tf32, bf16"),
    ("cuda_graph", 2, "true or false"),
    ("sync_batchnorm", 1, "true or false"),
    ("deterministic", "yes", "true or false"),
    ("checkpoint_every", 0.5, "a whole number of at least 0"),
    ("block_streams", 32, "at most 31"),
    ("max_minutes", -1, "a number from 0 to 525600 (a year)"),
]


@pytest.mark.parametrize(("key", "value", "says"), BAD_JSON_VALUES)
def test_wrong_values_in_json(key, value, says, problems_of):
    (problem,) = problems_of(**{key: value})
    assert f"x.json: {key}: " in problem
    assert says in problem


def test_every_key_has_a_wrong_value_in_the_table():
    assert {key for key, _, _ in BAD_JSON_VALUES} == set(SETTINGS)


BAD_FLAGS = [  # the words typed, what the one message says
    ("-ms x", '-ms: must be a whole number of at least 0, or "auto", got "x"'),
    ("--batch_size 1.5", "--batch_size: must be a whole number of at least 1, got 1.5"),
    ("--lrate", "--lrate: must be a number above 0, got nothing"),
    ("--lrate .1 .2", "--lrate: must be a number above 0, got [0.1, 0.2]"),
    ("--lrate -1e-3", "--lrate: must be a number above 0, got -0.001"),
    ("--lrate nan", "--lrate: must be a number above 0, got NaN"),
    ("--milestones 120 80", "--milestones: must be epochs above 0 in rising order"),
    ("--milestones 80;120", "--milestones: must be epochs above 0 in rising order"),
    ("--milestones", "got nothing"),
    ("-d", "-d: must be different GPU ids, or -1 alone for the CPU, got nothing"),
    ("-d 0 -1", "-d: must be different GPU ids, or -1 alone"),
    ("-d cuda", '-d: must be different GPU ids, or -1 alone for the CPU, got ["cuda"]'),
    ("--class_order", "got nothing"),
    ("--data_dir", "--data_dir: must be the path of a folder, got nothing"),
    ("--train_base yes", '"yes" cannot be understood'),
    ("--train_base=yes", '--train_base: takes no value, got "yes"'),
    ("fast", '"fast" cannot be understood'),
    ("-model x", "-model: there is no method 'x': known are memo, der, finetune, replay, icarl"),
    ("-model x -ms auto", "-model: there is no method 'x': known are memo, der, finetune, replay"),
    ("-model x --help", "-model: there is no method 'x'"),
    ("--config", "--config: must be the path of a JSON file, got nothing"),
    ("--epoch 5", "--epoch: there is no such flag; did you mean --epochs?"),
    ("--memory-size 5", "--memory-size: there is no such flag; did you mean --memory_size?"),
    ("-memory_size 5", "-memory_size: there is no such flag; did you mean --memory_size?"),
    ("-debug", "-debug: there is no such flag; did you mean --debug?"),
    ("--bogus_thing 3 4", "--bogus_thing: there is no such flag; --help lists the flags"),
    ("--", "--: there is no such flag"),
    ("-init 101", "-init: a first task of 101 classes is impossible, cifar100 has 100"),
    ("-ms 99", "-ms: 99 exemplars cannot cover the 100 classes of cifar100"),
    (
        "-ms 0",
        "-ms: 0 is for methods that keep no exemplars, but memo keeps some; memory_size must",
    ),
    (
        "--config exps/finetune.json -model replay",
        "exps/finetune.json: memory_size: 0 is for methods that keep no exemplars, but replay",
    ),
    ("-p auc -net conv2 -init 1 -incre 1 -ms auto", "-ms: `auc` leaves 0 exemplars beside"),
    ("--dataset cifar10 -ms 9", "9 exemplars cannot cover the 10 classes of cifar10"),
    ("--skip", "--skip: skip needs a trained first task to start from; give --init_checkpoint"),
    (
        "--skip --init_checkpoint f.pt --seed 1993 1",
        "--seed: a trained first task belongs to one class order, but 2 are asked for",
    ),
    ("--stop_after_task 11", "--stop_after_task: the run cannot stop after task 11, it has 10"),
    ("-net resnet18", "-net: resnet18 is made for 224x224 images, but those of cifar100 are 32x32"),
    ("--class_order 0 1 2", "--class_order: class_order must hold every class of cifar100"),
]


@pytest.mark.parametrize(("typed", "says"), BAD_FLAGS)
def test_wrong_flags(typed, says, problems_of):
    (problem,) = problems_of(typed)
    assert says in problem


def test_a_cifar_backbone_with_imagenet_data(problems_of):
    problems = problems_of("--dataset imagenet100")
    assert any(
        "resnet32 is made for 32x32 images, but those of imagenet100 are 224x224; use one of "
        "memo_resnet18, " in problem
        for problem in problems
    )


FOLDER_PROBLEMS = [
    ("-init 13", "-init: a first task of 13 classes is impossible, folder has 12"),
    ("-ms 11", "-ms: 11 exemplars cannot cover the 12 classes of folder"),
    ("--class_order 0 1 2", "every class of folder from 0 to 11 exactly once"),
    ("-init 4 -incre 4 --stop_after_task 4", "stop after task 4, it has 3"),
    ("-p auc -net conv2 -ms auto -init 1 -incre 1 --image_size 16", None),
    ("-net resnet18 --image_size 32", "resnet18 needs images of 33x33 or more"),
    ("-net conv4 --image_size 30", "conv4 needs images of 31x31 or more, but image_size is 30"),
    ("--mean .5 .5 .5", "--mean: mean and std belong together; give std too"),
    ("--std .5 .5 .5", "--std: mean and std belong together; give mean too"),
    ("--mean .5 .5 --std 1 1 1", "--mean: must be three numbers from 0 to 1"),
    ("--mean 128 128 128 --std 1 1 1", "--mean: must be three numbers from 0 to 1"),
    ("--std 0 1 1 --mean 0 0 0", "--std: must be three numbers above 0"),
    ("--class_list nowhere.txt", "--class_list: the class list nowhere.txt cannot be read (No"),
    ("--data_dir nowhere", "there is no folder nowhere/train; images are looked for in"),
]


@pytest.mark.parametrize(("typed", "says"), FOLDER_PROBLEMS)
def test_what_depends_on_the_classes_is_checked_for_folders(typed, says, folder, load, problems_of):
    typed = f"--dataset folder --data_dir {folder} {typed}"
    if says is None:
        load(typed)
    else:
        (problem,) = problems_of(typed)
        assert says in problem


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--class_list c.txt", "--class_list: cifar100 has no folders to choose from"),
        ("--image_size 64", "--image_size: the images of cifar100 are 32x32; leave it out"),
        ("--mean .5 .5 .5 --std 1 1 1", "--mean: that of cifar100 is known"),
    ],
)
def test_settings_for_folders_are_refused_for_others(typed, says, problems_of):
    assert says in problems_of(typed)[0]


def test_folder_is_resolved_and_granted_exemplars(folder, load):
    config, warnings, _ = load(
        f"--dataset folder --data_dir {folder} -ms auto -net resnet18 -init 4 -incre 4"
    )
    assert warnings == []
    assert (config.image_size, config.image_side, config.classes) == (224, 224, 12)
    # 20 a class, and what DER's two further trunks would cost in images of 3 x 224 x 224 bytes.
    assert config.memory_size == 20 * 12 + 2 * 2_782_784 * 4 // (3 * 224**2)
    (folder / "classes.txt").write_text("class 3\n\nclass 1\r\n class 7 \n")
    chosen = f"--dataset folder --data_dir {folder} --class_list {folder / 'classes.txt'}"
    config, _, _ = load(f"{chosen} -p benchmark -ms auto -init 1 -incre 1 --image_size 64")
    assert (config.classes, config.memory_size, config.image_side) == (3, 60, 64)


@pytest.mark.parametrize("dataset", ["folder", "imagenet100", "imagenet1000"])
def test_mistakes_in_a_class_list_are_its_own(dataset, folder, problems_of, load):
    chosen, data_dir = folder / "list.txt", f"--data_dir {folder}"
    typed = f"--dataset {dataset} -net resnet18 -ms 5000 -init 1 --class_list {chosen}"
    for names, says in (
        ("class 1\nclass 77\n", "names 'class 77', but"),
        ("class 1\nclass 1\n", "names 'class 1' twice"),
        ("class 1\n", "names a single class, 'class 1'"),
    ):
        chosen.write_text(names)
        (problem,) = problems_of(f"{typed} {data_dir}")
        assert problem.startswith("--class_list: ")
        assert says in problem
    chosen.write_text("")
    assert "is empty" in problems_of(f"{typed} --data_dir nowhere")[-1]  # no images yet
    chosen.write_text("class 1\nclass 2\n")
    if dataset == "folder":
        (problem,) = problems_of(f"{typed} --data_dir nowhere")
        assert problem.startswith("--data_dir: there is no folder nowhere/train")
    else:
        load(f"{typed} --data_dir nowhere")


def test_named_data_sets_have_their_own_size(load):
    assert (load("")[0].image_size, load("")[0].image_side) == (None, 32)
    config, warnings, _ = load("--dataset imagenet100 -net resnet18 -init 50 -incre 5 -ms 2739")
    assert (config.image_size, config.image_side, warnings) == (None, 224, [])


def test_a_class_order_must_be_complete(problems_of, load):
    values = {"dataset": "cifar10", "init_cls": 2, "increment": 2, "memory_size": 100}
    assert load(class_order=CLASSES_OF_CIFAR10[::-1], **values)[0].class_order[0] == 9
    (problem,) = problems_of(class_order=[*CLASSES_OF_CIFAR10[:-1], 10], **values)
    assert "every class of cifar10 from 0 to 9 exactly once" in problem


def test_fixed_memory_needs_no_memory_size(load):
    assert load("--fixed_memory -ms 0")[0].memory_per_class == 20


def test_all_problems_come_in_one_message(problems_of, load):
    flags, values = "-ms x --mileston 3 -d", {"lrate": 0, "epoch": 1, "init_cls": 101}
    problems = problems_of(flags, **values)
    assert len(problems) == 6
    for place in ("-ms:", "--mileston:", "-d:", "lrate:", '"epoch"', "init_cls: a first task"):
        assert any(place in problem for problem in problems), place
    with pytest.raises(ConfigError) as caught:
        load(flags, **values)
    message = str(caught.value)
    assert message.startswith("6 problems with the settings:\n")
    assert all(problem in message for problem in problems)
    assert all("\n" not in problem for problem in problems)


def test_a_wrong_value_starts_no_further_complaints(problems_of):
    # Nothing is said about how 101 classes or a budget go with a data set that is not known.
    (problem,) = problems_of("--dataset cifar -init 101 -ms 5")
    assert "--dataset" in problem


def test_a_flag_does_not_excuse_a_mistake_in_the_file(problems_of):
    (problem,) = problems_of("--batch_size 8", batch_size="big")
    assert "x.json: batch_size" in problem


BAD_FILES = [  # the bytes of the file, what the one message says
    (b"", "x.json: not valid JSON at line 1, column 1"),
    (b'{"epochs": 3,}', "x.json: not valid JSON at line 1"),
    (b"{\n'epochs': 3}", "x.json: not valid JSON at line 2"),
    (b'{"epochs": 3', "x.json: not valid JSON"),
    (b'{"epochs": 3} {}', "x.json: not valid JSON"),
    (b"\xff\xfe{}", "x.json: the file is not UTF-8 text (byte 0)"),
    (b'{"data_dir": "caf\xe9"}', "x.json: the file is not UTF-8 text (byte 17)"),
    (b"[1, 2]", "x.json: it must hold one object, such as"),
    (b"null", "x.json: it must hold one object, such as"),
    (b'{"epochs": 3, "epochs": 3}', 'x.json: "epochs" is there twice; keep one'),
    (b'{"epoch": 3}', 'x.json: there is no setting "epoch"; did you mean epochs?'),
    (b'{"zzz": 3}', 'x.json: there is no setting "zzz"; --help lists them'),
    (b'{"epochs": ' + b"9" * 5000 + b"}", "x.json: not valid JSON: a number is too long"),
    (b"[" * 200_000, "x.json: not valid JSON"),
]


@pytest.mark.parametrize(("content", "says"), BAD_FILES, ids=[says for _, says in BAD_FILES])
def test_bad_files(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", "x.json"])
    (problem,) = caught.value.problems
    assert problem.startswith(says)


def test_a_missing_file_a_folder_and_an_unreadable_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^no\.json: there is no such file"):
        load_config(["--config", "no.json"])
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigError, match=r"^folder\.json: this is a folder"):
        load_config(["--config", "folder.json"])
    with pytest.raises(ConfigError, match=r"^exps/memo\.json: there is no such file"):
        load_config([], exps_dir=tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"^x.json/y.json: the file cannot be read \("):
        load_config(["--config", "x.json/y.json"])


def test_mistakes_in_flags_are_told_beside_an_unusable_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(["--config", str(tmp_path), "-ms", "x"])
    assert len(caught.value.problems) == 2


# --- Going on with a run, testing one -------------------------------------------------------------


@pytest.fixture
def run_dir(tmp_path):
    """Return the folder of a run: its settings are all that is read here."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"batch_size": 32, "lrate": 0.3, "_torch": "2"}')
    return tmp_path / "run"


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_the_settings_of_a_run_come_from_its_folder(flag, run_dir, tmp_path):
    config, _, options = load_config([flag, str(run_dir), "--lrate", "0.4"])
    assert (config.batch_size, config.lrate) == (32, 0.4)
    assert getattr(options, flag.removeprefix("--")) == str(run_dir)
    (tmp_path / "y.json").write_text('{"batch_size": 8}')
    config, _, _ = load_config([flag, str(run_dir), "--config", str(tmp_path / "y.json")])
    assert (config.batch_size, config.lrate) == (8, 0.1)


def test_resume_without_a_folder(load):
    config, _, options = load("--resume --lrate 0.3", batch_size=64)
    assert options.resume is True
    assert (config.batch_size, config.lrate) == (64, 0.3)
    assert load("")[2].resume is None


def test_every_setting_says_what_it_decides():
    decides = {each.decides for each in SETTINGS.values()}
    assert decides == {"results", "machine", "nothing"}
    harmless = {key for key, each in SETTINGS.items() if each.decides == "nothing"}
    assert harmless == {
        "stop_after_task", "data_dir", "log_dir", "debug", "eval_every", "tensorboard",
        "record_blocks", "titles", "checkpoint_every", "max_minutes", "class_list",
    }  # fmt: skip


def test_changed_keys_are_those_that_decide_results():
    now = Config(lrate=0.2, log_dir="elsewhere", device=[0], max_minutes=5, seed=[7]).to_dict()
    assert changed_keys(Config().to_dict(), now) == ["seed", "lrate"]
    assert changed_keys(now, now) == []


def test_what_an_older_program_did_not_know_counts_as_its_default_resolved():
    settings = Config(init_cls=50, epochs=30, dataset="folder", convnet_type="memo_conv2")
    old = settings.to_dict() | {"_call": "abc", "of_the_future": 3}
    for key in ("deterministic", "train_base", "t_max", "image_size"):
        del old[key]
    resolved = resolve(old)
    assert resolved == settings.to_dict() | {"_call": "abc", "of_the_future": 3}
    assert changed_keys(resolved, settings.to_dict()) == []
    other = replace(settings, deterministic=True, t_max=20).to_dict()
    assert changed_keys(resolved, other) == ["t_max", "deterministic"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": []}, "seed must be different whole numbers"),
        ({"model_name": "x"}, "model_name: there is no method 'x': known are memo, der"),
        ({"device": {}}, "device: must be different GPU ids"),
        ({"_seeds": 7.5}, "_seeds must be different whole numbers"),
        ({"_call": []}, "_call must be text"),
        ({"_data": {"files": 3}}, "_data files must be text, got 3"),
        ({"_devices": [1]}, "_devices must be names"),
    ],
)
def test_what_a_run_says_of_itself_is_checked(change, says):
    with pytest.raises(ValueError, match="^" + re.escape(says)):
        resolve(Config().to_dict() | change)


# --- Of which method a setting is ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_is_printed_of_a_method_is_its_own_and_gives_the_same_again(method, load):
    config, warnings, _ = load(f"-model {method}")
    assert warnings == []
    assert config.model_name == method
    printed = json.loads(config.to_json())
    own = {key for key, each in SETTINGS.items() if not each.of or method in each.of}
    assert {key for key in printed if key[0] != "_"} == own == set(config.to_dict())
    assert load("", **printed)[0] == config == Config.from_dict(config.to_dict())
    assert resolve(config.to_dict()) == config.to_dict()


def test_whose_the_settings_are():
    published = ("memo", "der", "finetune", "replay", "icarl", "wa")
    whose = {
        key: tuple(name for name in each.of if name in published)
        for key, each in SETTINGS.items()
        if set(each.of) & {*published}
    }
    with_exemplars = ("memo", "der", "replay", "icarl", "wa")
    assert whose == {
        "point": ("replay", "icarl", "wa"),
        "fixed_memory": with_exemplars,
        "memory_per_class": with_exemplars,
        "train_base": ("memo",),
        "train_adaptive": ("memo",),
        "alpha_aux": ("memo", "der"),
    }


@pytest.mark.parametrize(
    ("typed", "in_file", "says"),
    [
        (
            "-model replay --train_base",
            {},
            "--train_base: it is a setting of memo; replay has no such setting; leave it out",
        ),
        ("-model wa --no-train_base", {}, "--no-train_base: it is a setting of memo; wa has no"),
        ("-model finetune --fixed_memory", {}, "setting of memo, der, replay, icarl, wa"),
        ("-model der --point conv2", {}, "--point: it is a setting of replay, icarl, wa"),
        ("", {"model_name": "icarl", "alpha_aux": 1.0}, "x.json: alpha_aux: it is a setting of m"),
        ("-model der", {"train_adaptive": False}, "x.json: train_adaptive: it is a setting of mem"),
    ],
)
def test_a_setting_of_another_method_is_refused(typed, in_file, says, problems_of):
    (problem,) = problems_of(typed, **in_file)
    assert says in problem


def test_a_setting_of_another_method_is_one_problem_of_several(problems_of):
    with pytest.raises(ConfigError, match=r"^train_base: it is a setting of memo; wa has no such"):
        Config.from_dict({"model_name": "wa", "memory_size": 7431, "train_base": True})
    problems = problems_of("-model wa --alpha_aux 2 --lrate 0 -init 101")
    assert [problem.split(":")[0] for problem in problems] == ["--lrate", "--alpha_aux", "-init"]


@pytest.mark.parametrize(
    ("method", "typed", "is_"),
    [
        ("memo", "resnet20_cifar", "memo_resnet20_cifar"),
        ("memo", "memo_resnet20_cifar", "memo_resnet20_cifar"),
        ("der", "memo_resnet20_cifar", "resnet20_cifar"),
        ("replay", "resnet20_cifar", "resnet20_cifar"),
    ],
)
def test_backbones_are_called_memo_something_for_memo_only(method, typed, is_, load):
    assert load(f"-model {method} -net {typed}")[0].convnet_type == is_
    assert Config(model_name=method, convnet_type=typed).convnet_type == is_


def test_methods_are_called_by_their_names_in_capitals_or_not(load):
    assert load("-model iCaRL")[0].model_name == "icarl"


def test_help_of_a_method_lists_its_settings_and_says_whose_they_are_otherwise():
    every, replay = help_text(), help_text(["-model", "replay", "--help"])
    assert replay == help_text(["--help", "-model", "replay"]) == help_text(["-model=Replay", "-h"])
    for flag, whose in (("train_base", "[memo]"), ("alpha_aux", "[memo, der")):
        (line,) = (line for line in every.splitlines() if flag in line)
        assert whose in line
        assert flag not in replay
    assert "--[no-]fixed_memory" in replay
    assert "fixed_memory" not in help_text(["-model", "finetune", "--help"])
    assert "only memo)" in help_text(["--help", "train_base"])
    assert "-model" in help_text(["--help", "-model"])
    (row,) = (row for row in markdown_table().splitlines() if "`alpha_aux`" in row)
    assert "(only memo, der" in row


# --- Memory and schedules of the methods ----------------------------------------------------------


@pytest.mark.parametrize("prefix", ["benchmark", "fair", "auc"])
def test_finetune_keeps_nothing(prefix, load, problems_of):
    for typed in ("", "-ms 0", "-ms auto"):
        config, warnings, _ = load(f"-model finetune -p {prefix} {typed}")
        assert (config.memory_size, warnings) == (0, [])
        assert load("", **json.loads(config.to_json()))[0] == config
    assert load("", model_name="finetune", init_cls=50)[0].memory_size == 0
    for typed in ("-ms 2000", "-ms 3312"):
        (problem,) = problems_of(f"-model finetune -p {prefix} {typed}")
        assert problem.startswith("-ms: finetune keeps no exemplars, got ")


def granted_lines():
    """Yield (flags, exemplars) for every line of the budgets computed by hand of the papers."""
    budgets = load_golden("methods/budgets.json")
    family = {"cifar100": ("resnet32", 10, 10), "imagenet100": ("resnet18", 50, 5)}
    for table in budgets["fair"]:
        data, first, later = table["dataset"], table["init"], table["increment"]
        for row in table["rows"]:
            own = row["method"] if row["method"] == "DER" else "replay"
            split = f"-init {first} -incre {later}"
            yield f"-model {own} -p fair --dataset {data} -net {row['backbone']} {split}", row
    for table in budgets["auc"]:
        data = table["dataset"]
        reference, first, later = family[data]
        der, single = table["rows"]
        split = f"-p auc --dataset {data} -init {first} -incre {later}"
        point = POINTS[DATASETS[data].image_size][table["point"] - 1]
        yield f"-model DER {split} -net {point}", der
        for method in ("replay", "icarl", "wa"):
            yield f"-model {method} {split} -net {reference} --point {point}", single


@pytest.mark.parametrize(("typed", "row"), list(granted_lines()), ids=str)
def test_auto_keeps_what_the_protocol_grants_each_method(typed, row, load):
    config, warnings, _ = load(f"{typed} -ms auto")
    assert (config.memory_size, warnings) == (row["exemplars"], [])


@pytest.mark.parametrize("method", ["memo", "der", "replay", "icarl", "wa"])
def test_the_benchmark_grants_each_method_the_same(method, load):
    assert load(f"-model {method} -p benchmark -ms auto")[0].memory_size == 2000


@pytest.mark.parametrize("held", [7400, 7431])
def test_what_script_or_formula_say_is_not_warned_of(held, load):
    assert load(f"-model wa -ms {held}")[1] == []
    assert len(load(f"-model wa -ms {held + 1}")[1]) == 1


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (
            "-model wa -p auc -net conv2",
            "-net: under `auc`, wa keeps resnet32 at every budget",
        ),
        ("-model wa --point conv2", "--point: it names a budget of `auc`, but prefix is fair"),
        ("-model wa -p auc --point conv4", "--point: conv4 is no point of the curve of resnet32"),
        ("-model wa -p auc --point conv9", "--point: there is no backbone 'conv9'"),
        ("-model wa -p auc -ms auto --point conv2 -init 1 -incre 1", ""),
    ],
)
def test_a_point_names_a_budget_of_the_curve(typed, says, load, problems_of):
    if says:
        (problem,) = problems_of(typed)
        assert problem.startswith(says)
    else:
        assert load(typed)[0].memory_size == 2000


def test_a_point_left_open_is_that_of_the_reference_network(load):
    config, warnings, _ = load("-model wa -p auc -ms auto")
    assert (config.point, config.memory_size, warnings) == ("resnet32", 7431, [])
    assert load("-model wa")[0].point is None


def test_the_first_task_has_its_own_schedule_or_that_of_the_others(load):
    config, _, _ = load("-model finetune")
    assert (config.init_scheduler, config.scheduler) == ("cosine", "steplr")
    assert load("--scheduler cosine")[0].init_scheduler == "cosine"
    assert load("--scheduler cosine --init_scheduler steplr")[0].init_scheduler == "steplr"
    # A milestone that is not reached matters where there are steps.
    late = "--init_epoch 100 --epochs 120"
    (warning,) = load(f"{late} --init_scheduler cosine")[1]
    assert "at 120, 150 of milestones" in warning
    (warning,) = load(f"{late} --scheduler cosine --init_scheduler steplr")[1]
    assert "at 120, 170 of init_milestones" in warning


def test_a_run_from_before_the_schedule_of_the_first_task_goes_on():
    settings = Config(scheduler="cosine")
    old = {key: value for key, value in settings.to_dict().items() if key != "init_scheduler"}
    assert changed_keys(resolve(old), settings.to_dict()) == []
    other = replace(settings, init_scheduler="steplr").to_dict()
    assert changed_keys(resolve(old), other) == ["init_scheduler"]


# --- What is warned of ----------------------------------------------------------------------------

WARNINGS = [  # the words typed, what the one warning says
    ("-init 50 -ms 2729 --train_base", "--train_base: train_base is on with 50 base classes"),
    ("-ms 2000", "-ms: 2000 exemplars are not what `fair` grants here (3312)"),
    ("-p benchmark", "-p: 3312 exemplars are not what `benchmark` grants here (2000)"),
    ("-p auc -net resnet20_cifar -ms 2000", "2000 exemplars are not what `auc` grants here (2768)"),
    ("--fixed_memory", "2000 exemplars are not what `fair` grants here (3312)"),
    ("--milestones 80 200", "--milestones: the learning rate is not lowered at 200 of milestones"),
    ("--milestones 80 170", "not lowered at 170 of milestones (training ends after epoch 170)"),
    ("--init_epoch 100", "--init_epoch: the learning rate is not lowered at 120, 170 of init_mil"),
    ("--init_epoch 2 --epochs 2", "--init_epoch: the learning rate is not lowered at 60, 120, 17"),
    ("--epochs 160 --scheduler cosine --t_max 170", "--t_max: the cosine reaches 0 after 170"),
    ("--dataset synthetic -ms 200 -init 1", "-init: the first task has a single class, so its los"),
    ("--init_checkpoint f.pt", "--init_checkpoint: init_checkpoint is not used without --skip"),
    ("--seed 1 2 --no-shuffle", "--seed: shuffle is off, so the runs of the 2 seeds"),
]


@pytest.mark.parametrize(("typed", "says"), WARNINGS)
def test_warnings(typed, says, load):
    _, warnings, _ = load(typed)
    assert len(warnings) == 1
    assert says in warnings[0]


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "-init 50 -ms 2729",
        "-init 50 -ms 2729 --no-train_base",
        "-p benchmark -ms 2000",
        "-p auc -ms 2118 -net conv2",
        "--dataset synthetic -ms 200",
        "--scheduler cosine --epochs 20",
        "--skip --init_checkpoint f.pt",
        "--epochs 200 --milestones 199",
    ],
)
def test_no_warning_without_reason(typed, load):
    assert load(typed)[1] == []


# --- Help, table, program -------------------------------------------------------------------------


def test_help_and_table_name_every_flag_and_key():
    text, table = help_text(), markdown_table()
    for each in (*SETTINGS.values(), *OPTIONS.values()):
        about = help_text(["--bogus", "--help", each.name])
        assert len(about.splitlines()) < 10
        for flag in each.flags:
            assert flag in text.replace("[no-]", "") + text.replace("[no-]", "no-")
            assert flag in about
            assert f"`{flag}`" in table
    assert help_text(["-h", "-ms"]) == help_text(["--help", "memory_size"])
    rows = table.splitlines()
    assert len(rows) == 2 + len(fields(Config)) + len(OPTIONS)
    assert all(row.count("|") == 6 for row in rows)
    assert max(map(len, text.splitlines())) <= 100


def test_help_about_what_there_is_not_says_so():
    with pytest.raises(ConfigError, match='no setting "num_worker"; did you mean num_workers'):
        load_config(["--help", "num_worker"])
    assert load_config(["--help", "-d", "-1"])[2].help


def test_help_is_short_and_names_what_there_is():
    text = help_text(["-d", "-1", "--help"])  # what stands before it is not asked about
    assert len(text.splitlines()) <= 110
    for known in (*METHODS, *DATASETS, *(f"memo_{name}" for name in BACKBONES)):
        assert known in text
    for path in (REPOSITORY / "utils").rglob("*.py"):
        if '\nif __name__ == "__main__":' in path.read_text():
            assert f"python -m utils.{path.stem} " in text


def test_help_wins_over_mistakes():
    assert load_config(["--bogus", "-h"])[2].help
    assert not load_config([])[2].help


def test_print_config_needs_no_torch_and_prints_nothing_else():
    code = (
        "import sys, main_memo; code = main_memo.main(sys.argv[1:]); "
        "sys.exit(code or ('torch' in sys.modules) * 50)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--print_config", "-ms", "2000"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert Config.from_dict(json.loads(done.stdout)).memory_size == 2000
    assert done.stderr.startswith("WARNING: -ms: 2000 exemplars")


@pytest.mark.parametrize(
    ("words", "then", "expected"),
    [
        # What was left open follows the other flags that the file is used with.
        ("-ms auto", "-init 50", {"memory_size": 2729, "train_base": False}),
        ("--scheduler cosine", "--epochs 9", {"t_max": 9}),
        ("--dataset folder --data_dir {folder} -ms 24", "-net resnet18", {"image_size": 224}),
        # What was asked for stays.
        ("-ms 2000 --train_base --t_max 7", "-init 50", {"memory_size": 2000, "train_base": True}),
    ],
)
def test_the_configuration_printed_leaves_open_what_was(words, then, expected, folder, load):
    first = load(words.format(folder=folder))[0]
    printed = json.loads(first.to_json())
    again = load(then, **printed)[0]
    assert {key: getattr(again, key) for key in expected} == expected
    for key, value in first.to_dict().items():
        if f"_{key}" in printed:  # what it is here stands beside it
            assert printed[key] in ("auto", None)
            assert printed[f"_{key}"] == value
        else:
            assert printed[key] == value


def test_mistakes_need_no_torch_and_exit_with_2():
    code = (
        "import sys, main_memo; code = main_memo.main(sys.argv[1:]); "
        "sys.exit(50 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-ms", "many", "--epoch", "3"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("main_memo.py: 2 problems with the settings:\n")


def test_the_program_prints_its_help():
    done = run_program("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == help_text()


# --- Properties -----------------------------------------------------------------------------------

_numbers = {
    "batch_size": st.integers(1, 10**9),
    "epochs": st.integers(1, 10**9),
    "lrate": st.floats(1e-12, 1e6),
    "alpha_aux": st.floats(0, 1e6),
    "torch_seed": st.integers(0, 2**32 - 1),
}


@settings(deadline=None)
@given(
    in_file=st.fixed_dictionaries({}, optional=_numbers),
    typed=st.fixed_dictionaries({}, optional=_numbers),
)
def test_precedence_holds_for_all_values(in_file, typed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "precedence.json"
    path.write_text(json.dumps(in_file))
    flags = [word for key, value in typed.items() for word in (f"--{key}", repr(value))]
    config, _, _ = load_config(["--config", str(path), *flags])
    for key, each in SETTINGS.items():
        if key in _numbers:
            assert getattr(config, key) == typed.get(key, in_file.get(key, each.default))


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=6))
def test_no_words_make_a_traceback(words):
    with suppress(ConfigError):
        load_config(words)


def test_a_tilde_is_the_home_folder_where_no_shell_replaced_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config, _, _ = load_config(["--log_dir=~/logs", "--data_dir", "./data"])
    assert config.log_dir == "/home/someone/logs"
    assert config.data_dir == "./data"


def test_a_method_s_help_shows_what_its_file_says():
    said = " ".join(help_text(["-model", "replay", "--help", "epochs", "memory_size"]).split())
    assert "default 70)" in said
    assert "default 7431)" in said
    assert "later tasks: epochs (170)" in help_text(["--help"])
    assert "later tasks: epochs (80)" in help_text(["-model", "finetune", "--help"])
