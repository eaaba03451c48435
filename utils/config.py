"""Everything a run depends on: declared once, read from three places, checked as a whole.

A setting is one entry of `Config` below: its default, what values it takes, what it means, its
short flag. The command line, the JSON files, `--help` and README's table all come from there. To
add a setting, add an entry; to forbid a combination, add a `@rule`; to warn of a legal but
suspicious one, add a `@caution`. How flags and files are read is in utils/settings.py.

Where values come from, the later winning:

1. the defaults below, which are the published CIFAR-100 experiment;
2. a JSON file: `--config FILE`, else exps/{model_name}.json. What `--print_config` prints and the
   config.json that a run leaves in its folder are such files;
3. the flags actually typed. A flag's default never overrides a file.

The files in exps/ hold every setting that a result depends on. They leave out where and how it is
computed and watched, or where it starts and stops: device, num_workers, precision, data_dir,
log_dir, debug, eval_every, tensorboard, record_blocks, titles, stop_after_task, checkpoint_every,
max_minutes, deterministic, cuda_graph, block_streams, sync_batchnorm, skip, init_checkpoint, for
real data the synthetic_... settings, and for named data sets those of a user's own images
(class_list, image_size, mean, std).

A setting also says what it decides (`decides=`): the results, which a resumed run must not change;
the machine, whose change is a warning; or nothing that is measured, which may change. The paths
data_dir and class_list are of the last kind: that they lead to the run's own files and classes is
checked by the names of the files.

A setting that only some methods have says which (`of=`). The configuration of another method does
not hold it, and whoever gives it to one is told so.

Nothing is used before all of it has been checked, and every mistake found is reported in one
message (`ConfigError`). The check needs no torch, so it answers at once.

    config, warnings, options = load_config(["-ms", "2000", "-p", "benchmark"])
"""

# The linter takes a list made by `setting` for one shared by all instances; each gets its own.
# ruff: noqa: RUF009

import contextlib
import errno
import json
import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

from models.methods import METHODS, find_method
from utils.budget import backbone_at, family_of, granted_memory
from utils.catalog import (
    BACKBONES,
    DATASETS,
    FOLDER_DATASETS,
    PRECISIONS,
    TRAIN_BASE_UP_TO,
    find_backbone,
)
from utils.data_manager import split_classes
from utils.files import named
from utils.folders import ClassListError, DataError, find_classes
from utils.launch import cores, place
from utils.published import was_kept
from utils.settings import (
    ACTION,
    MACHINE,
    MOST_PROBLEMS,
    NOTHING,
    RESULTS,
    SWITCH,
    WHOLE_FILE,
    Given,
    Kind,
    Problem,
    ask,
    check,
    choice,
    declared,
    entries,
    help_lines,
    name_keys,
    nearest,
    number,
    or_none,
    overview_lines,
    parse_flags,
    path,
    printable,
    read_json,
    read_number,
    require,
    setting,
    several,
    shown,
    table_lines,
    whole,
)

MOST_WORKERS = 4  # of its own accord; more are the user's choice
EXPS_DIR = Path(__file__).resolve().parent.parent / "exps"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one sentence for every mistake."""

    def __init__(self, problems: Sequence[str]):
        self.problems = [printable(problem).replace("\n", "\\n") for problem in problems]
        shown_ = self.problems[:MOST_PROBLEMS]
        if len(self.problems) > len(shown_):
            shown_.append(f"and {len(self.problems) - len(shown_)} more")
        listed = "".join(f"\n  - {problem}" for problem in shown_)
        several_ = f"{len(self.problems)} problems with the settings:{listed}"
        super().__init__(self.problems[0] if len(self.problems) == 1 else several_)


# --- The kinds of values that only this project has -----------------------------------------------


def _train_base(value: Any) -> bool | str:
    return value if value == "auto" else SWITCH.check(value)


def _or_auto(kind: Kind) -> Kind:
    """Let a number be left to the program: "auto"."""
    return Kind(
        f'{kind.what}, or "auto"',
        lambda value: value if value == "auto" else kind.check(value),
        read_number,
    )


def _backbone(value: Any) -> str:
    require(isinstance(value, str))
    return find_backbone(value).name


def _method(value: Any) -> str:
    require(isinstance(value, str))
    return find_method(value.lower()).name


def _gpu_id(value: Any) -> int:
    # The authors' files hold strings: "device": ["0", "1"].
    return whole(-1).check(read_number(value) if isinstance(value, str) else value)


def _all_different(values: list) -> bool:
    return len(set(values)) == len(values)


POSITIVE = number("a number above 0", lambda value: value > 0)
MINUTES = number("a number from 0 to 525600 (a year)", lambda value: 0 <= value <= 525_600)
NOT_NEGATIVE = number("a number of at least 0", lambda value: value >= 0)
DECAY = number("a number above 0 and at most 1", lambda value: 0 < value <= 1)
SEED = whole(0, 2**32 - 1)  # the range of NumPy's legacy generator
SEEDS = several(
    f"different whole numbers from 0 to {2**32 - 1}",
    SEED,
    lambda values: values != [] and _all_different(values),
    single=True,
)
MILESTONES = several(
    "epochs above 0 in rising order, such as 80 120 150",
    whole(1),
    lambda values: all(a < b for a, b in pairwise(values)),
)
CLASS_ORDER = several("the numbers of all classes, each once", whole(0), _all_different)
DEVICES = several(
    "different GPU ids, or -1 alone for the CPU",
    Kind("a GPU id", _gpu_id, read_number),
    lambda ids: _all_different(ids) and (-1 not in ids or ids == [-1]),
    single=True,
)
MEAN = several(
    "three numbers from 0 to 1, such as 0.5 0.5 0.5",
    number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    lambda values: len(values) == 3,
)
STD = several(
    "three numbers above 0, such as 0.25 0.25 0.25", POSITIVE, lambda values: len(values) == 3
)
METHOD = Kind(f"one of {', '.join(METHODS)}", _method)
BACKBONE = Kind("the name of a backbone, such as memo_resnet32", _backbone)
RUN_DIR = Kind(
    "nothing, or the folder of a run",
    lambda value: value if value is True else path("").check(value),
    bare=True,
)
AUTO_SWITCH = Kind('true, false or "auto"', _train_base, switch=True, off=True)


def _backbone_names(image_size: int) -> str:
    return ", ".join(f"memo_{n.name}" for n in BACKBONES.values() if n.image_size == image_size)


# Methods by what they have; a setting can be theirs only.
WITH_EXEMPLARS = tuple(row.name for row in METHODS.values() if row.exemplars)
WITH_AUX_HEAD = tuple(row.name for row in METHODS.values() if row.aux_head)
ONE_BACKBONE = tuple(row.name for row in METHODS.values() if row.exemplars and row.single)


# --- The settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """All settings of a run, resolved: nothing in it is "auto" any more.

    `load_config` and `from_dict` check what they are given. Made directly, a Config is not checked.
    """

    # fmt: off
    prefix: str = setting("fair", choice("benchmark", "fair", "auc"),
        "protocol, and the folder under logs/: `benchmark` gives every method the same number of "
        "exemplars, `fair` the same bytes, `auc` is one point of the performance-memory curve",
        "-p", section="Experiment")
    dataset: str = setting("cifar100", choice(*DATASETS),
        "data set; `synthetic` is drawn by the program, needs no download and is no benchmark; "
        "`folder` is any images in data_dir/train/<class>/ and data_dir/val/<class>/ (or test/)")
    model_name: str = setting("memo", METHOD,
        "method; without --config, exps/{model_name}.json is read", "-model")
    convnet_type: str = setting("memo_resnet32", BACKBONE,
        f"backbone, for 32x32 images {_backbone_names(32)}, for ImageNet {_backbone_names(224)}; "
        "`memo_` may be left off, and the other methods have the same without it", "-net")
    point: str | None = setting(None, or_none(BACKBONE),
        "under `auc`: the backbone whose budget this is, as the method keeps its own at every "
        "budget; left open, its own", of=ONE_BACKBONE)
    init_cls: int = setting(10, whole(1), "classes in the first task", "-init")
    increment: int = setting(10, whole(1),
        "classes in every later task; the last one takes what is left", "-incre")
    seed: list[int] = setting([1993], SEEDS,
        "seeds of the class order; one run for each")
    shuffle: bool = setting(True, SWITCH,
        "draw the class order from the seed; else the classes come in their own order")
    class_order: list[int] | None = setting(None, or_none(CLASS_ORDER),
        "classes in the order in which they come, instead of the seeded order")
    torch_seed: int = setting(1, SEED,
        "seed of everything else: weights, batches, augmentation")
    stop_after_task: int = setting(0, whole(0),
        "stop after this task, counted from 1; 0 runs them all", decides=NOTHING)

    memory_size: int = setting(3312, _or_auto(whole(0)),
        "exemplars kept in all, shared evenly by the classes seen; `auto` keeps what the protocol "
        "grants: under `fair` and `auc` its bytes less those of the network. A method without "
        "exemplars has 0", "-ms", section="Memory")
    fixed_memory: bool = setting(False, SWITCH,
        "keep memory_per_class exemplars of every class instead of sharing memory_size",
        of=WITH_EXEMPLARS)
    memory_per_class: int = setting(20, whole(1),
        "exemplars of each class under fixed_memory; without it, not used", of=WITH_EXEMPLARS)

    train_base: bool = setting("auto", AUTO_SWITCH,
        "go on training the generalized blocks after the first task; `auto` (in JSON) does so for "
        f"first tasks of up to {TRAIN_BASE_UP_TO} classes", section="Method", of=("memo",))
    train_adaptive: bool = setting(False, SWITCH,
        "go on training the specialized blocks of earlier tasks; the published runs freeze them",
        of=("memo",))
    alpha_aux: float = setting(1.0, NOT_NEGATIVE,
        "weight of the auxiliary loss", of=WITH_AUX_HEAD)
    skip: bool = setting(False, SWITCH,
        "do not train the first task but read it from init_checkpoint")
    init_checkpoint: str | None = setting(None, or_none(path("the path of a checkpoint")),
        "trained first task for skip: a run's task_1.pt, or a file in the survey's format")

    batch_size: int = setting(128, whole(1), "images in a training batch", section="Training")
    scheduler: str = setting("steplr", choice("steplr", "cosine"),
        "learning rate: steps at the milestones, or a cosine to 0")
    init_scheduler: str = setting(None, or_none(choice("steplr", "cosine")),
        "first task: learning rate, likewise; left open, it is `scheduler`")
    init_epoch: int = setting(200, whole(1), "first task: epochs")
    init_lr: float = setting(0.1, POSITIVE, "first task: learning rate")
    init_milestones: list[int] = setting([60, 120, 170], MILESTONES,
        "first task: epochs after which steplr lowers the learning rate")
    init_lr_decay: float = setting(0.1, DECAY, "first task: factor of each step")
    init_weight_decay: float = setting(5e-4, NOT_NEGATIVE, "first task: weight decay")
    epochs: int = setting(170, whole(1), "later tasks: epochs")
    lrate: float = setting(0.1, POSITIVE, "later tasks: learning rate")
    milestones: list[int] = setting([80, 120, 150], MILESTONES,
        "later tasks: epochs after which steplr lowers the learning rate")
    lrate_decay: float = setting(0.1, DECAY, "later tasks: factor of each step")
    weight_decay: float = setting(2e-4, NOT_NEGATIVE, "later tasks: weight decay")
    t_max: int = setting(None, or_none(whole(1)),
        "later tasks: period of the cosine in epochs; left open, it is `epochs` "
        "(the first task's is `init_epoch`)")
    precision: str = setting("auto", choice(*PRECISIONS),
        "numbers that training computes with: `fp32`; `tf32` in convolutions, on NVIDIA GPUs since "
        "Ampere; `bf16` where the processor or GPU has it; `auto` is PyTorch's default: tf32 on "
        "such a GPU, else fp32. Testing and herding always use fp32")

    sync_batchnorm: bool = setting(False, SWITCH,
        "several processes on GPUs (torchrun): BatchNorm sees the whole batch, not a process's "
        "share of it")

    synthetic_classes: int = setting(100, whole(2, DATASETS["synthetic"].classes),
        "classes of the synthetic data set", section="Synthetic data")
    synthetic_train_per_class: int = setting(100, whole(1, 10_000),
        "its training images of each class")
    synthetic_test_per_class: int = setting(20, whole(1, 10_000),
        "its test images of each class")

    class_list: str | None = setting(None, or_none(path("the path of a text file")),
        "for imagenet100, imagenet1000 and folder: the classes to take, one folder name a line; "
        "left open, all folders", section="Images in folders", decides=NOTHING)
    image_size: int | None = setting(None, or_none(whole(8, 1024)),
        "for folder: side in pixels that images are brought to; left open, the 32 or 224 that the "
        "backbone is made for")
    mean: list[float] | None = setting(None, or_none(MEAN),
        "for folder: mean of the pixels, scaled to [0, 1], of red, green and blue; left open, it "
        "is computed from the training images")
    std: list[float] | None = setting(None, or_none(STD),
        "for folder: their standard deviation, likewise")

    device: list[int] = setting([], DEVICES,
        "GPU ids; several share each batch (DataParallel); -1 is the CPU; [] (in JSON) is the "
        "first GPU, or the CPU where there is none", "-d", section="Machine and logs",
        decides=MACHINE)
    num_workers: int = setting("auto", _or_auto(whole(0, 1024)),
        "processes that read images from files, for each that trains; `auto` is one a core, at "
        f"most {MOST_WORKERS}. Data sets held in memory use none", decides=MACHINE)
    deterministic: bool = setting(False, SWITCH,
        "on a GPU, use only algorithms that repeat bit for bit (slower); on the CPU they all do")
    cuda_graph: bool = setting(True, SWITCH,
        "on one GPU, record a training step once as a CUDA graph and replay it (faster)",
        decides=MACHINE)
    block_streams: int = setting(4, whole(0, 31),
        "streams of a recorded step on which frozen blocks are computed at the same time; 0 "
        "computes one after the other, as a step that is not recorded always does",
        decides=MACHINE)
    data_dir: str = setting("./data", path("the path of a folder"),
        "folder of the data sets", decides=NOTHING)
    log_dir: str = setting("./logs", path("the path of a folder"),
        "folder under which every run makes its own", decides=NOTHING)
    debug: bool = setting(False, SWITCH, "put the run's folder under debug/ in log_dir",
        decides=NOTHING)
    eval_every: int = setting(0, whole(0),
        "also test every so many epochs inside a task; 0 tests after each task only",
        decides=NOTHING)
    tensorboard: bool = setting(False, SWITCH,
        "also write the curves for TensorBoard, which must be installed, into the run's folder",
        decides=NOTHING)
    record_blocks: bool = setting(False, SWITCH,
        "record the gradient and the shift of every block for `python -m utils.analysis`",
        decides=NOTHING)
    titles: bool = setting(True, SWITCH,
        "write the run's setting above each picture", decides=NOTHING)
    checkpoint_every: int = setting(0, whole(0),
        "save the run every so many epochs; 0 does so after about every 5 minutes of work; it is "
        "always saved after a task's training and after the task", decides=NOTHING)
    max_minutes: float = setting(0.0, MINUTES,
        "save the run and stop, with exit code 3, before so many minutes are over; 0 sets no limit",
        decides=NOTHING)
    # fmt: on

    def __post_init__(self) -> None:
        """Resolve what may be left open, so that all who read a Config find plain values."""
        single = self.convnet_type.removeprefix("memo_")
        named_ = f"memo_{single}" if self.model_name == "memo" else single
        object.__setattr__(self, "convnet_type", named_)
        if self.memory_size != "auto" and not find_method(self.model_name).exemplars:
            object.__setattr__(self, "memory_size", 0)
        asked = asdict(self)
        if self.train_base == "auto":
            object.__setattr__(self, "train_base", self.init_cls <= TRAIN_BASE_UP_TO)
        if self.t_max is None:
            object.__setattr__(self, "t_max", self.epochs)
        if self.init_scheduler is None:
            object.__setattr__(self, "init_scheduler", self.scheduler)
        if self.point is None and self.prefix == "auc" and self.model_name in ONE_BACKBONE:
            object.__setattr__(self, "point", self.convnet_type)
        if self.dataset == "folder" and self.image_size is None:
            object.__setattr__(self, "image_size", find_backbone(self.convnet_type).image_size)
        if self.memory_size == "auto":
            object.__setattr__(self, "memory_size", self.granted_memory())
        if self.num_workers == "auto":
            each = cores() // place().local_world
            object.__setattr__(self, "num_workers", max(1, min(each, MOST_WORKERS)))
        left_open = {key: value for key, value in asked.items() if value != getattr(self, key)}
        object.__setattr__(self, "_left_open", left_open)

    @cached_property
    def classes(self) -> int:
        """How many classes the run's data set has, or had when that was first asked for.

        A folder that is made while the run trains does not belong to it.

        Raises:
            DataError: that is to be seen in a folder, which is not there any more.
        """
        return num_classes(self.dataset, self.synthetic_classes, self.data_dir, self.class_list)

    @property
    def image_side(self) -> int:
        """Side in pixels of the images that the network is shown."""
        return self.image_size or DATASETS[self.dataset].image_size

    def granted_memory(self) -> int:
        """Return how many exemplars the run's protocol grants it."""
        backbone = self.point or self.convnet_type
        split = backbone, self.init_cls, self.increment, self.classes
        return granted_memory(
            self.prefix,
            self.dataset,
            *split,
            method=self.model_name,
            image_size=self.image_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the method's settings as one flat object of JSON values, in the order declared."""
        return {key: value for key, value in asdict(self).items() if _has(self.model_name, key)}

    def to_json(self) -> str:
        """Return the settings as a JSON file, one a line, to be used again with other flags.

        What was left open stays so ("auto", null), with what it is here beside it as a comment.
        """
        shown_ = {}
        for key, value in self.to_dict().items():
            shown_[key] = self._left_open.get(key, value)
            if key in self._left_open:
                shown_[f"_{key}"] = value
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in shown_.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Make a checked Config from JSON values; what is missing takes its default.

        Raises:
            ConfigError: naming every unknown key, wrong value and impossible combination.
        """
        given, problems = name_keys(values, "", SETTINGS)
        checked, wrong = check(given, SETTINGS)
        return _finish(checked, given, problems + wrong)


@dataclass(frozen=True)
class Options:
    """What is asked of this one call of the program; no part of a run's configuration."""

    # fmt: off
    config: str | None = setting(None, path("the path of a JSON file"),
        "JSON file with the settings of a run, such as those in exps/",
        section="This call (not keys of the JSON)")
    print_config: bool = setting(False, ACTION,
        "print the configuration as JSON, a file for --config, and leave; beside what was left "
        "open, such as `auto`, a comment says what it is here")
    resume: str | bool | None = setting(None, RUN_DIR,
        "go on with the run in this folder, whose config.json is then read; without a folder, with "
        "the newest unfinished run that has the same settings")
    evaluate: str | None = setting(None, path("the folder of a run"),
        "rebuild the network from this run's task_N.pt, test it again, print the result and leave")
    task: int | None = setting(None, whole(1),
        "with --evaluate: the task N, counted from 1; else the last one saved")
    export: str | None = setting(None, path("the path of a file to write"),
        "with --evaluate: also write the network's plain state dict to this file, and what is "
        "needed to use it to the one of the same name in .json")
    help: bool = setting(False, ACTION,
        "print the settings, a line each, or all about those whose names follow, and leave", "-h")
    # fmt: on


SETTINGS = declared(Config)
OPTIONS = declared(Options)


def _has(method: str, key: str) -> bool:
    """Return whether a method has a setting."""
    return not SETTINGS[key].of or method in SETTINGS[key].of


# --- What settings must be together ---------------------------------------------------------------
# A rule takes the settings it is about as parameters, and returns the sentence that says what is
# wrong, or None. It is not asked where one of them is wrong by itself. The sentence is shown behind
# the place (flag, or file and key) that `ask` finds.

_RULES: list[Callable[..., str | None]] = []
_CAUTIONS: list[Callable[..., str | None]] = []


def rule(function: Callable[..., str | None]) -> Callable[..., str | None]:
    """Refuse the configuration where the function returns a sentence."""
    _RULES.append(function)
    return function


def caution(function: Callable[..., str | None]) -> Callable[..., str | None]:
    """Warn where the function returns a sentence; it is asked about resolved, legal values only."""
    _CAUTIONS.append(function)
    return function


def num_classes(dataset: str, synthetic_classes: int, data_dir: str, class_list: str | None) -> int:
    """Return how many classes the run's data set has; for `folder` that is looked up.

    Raises:
        DataError: the folder of `folder` cannot be listed.
    """
    if dataset == "folder":
        return len(find_classes(data_dir, class_list))
    return synthetic_classes if dataset == "synthetic" else DATASETS[dataset].classes


def _classes(*where: Any) -> int | None:
    """Return `num_classes`, or None where another rule says why there is no such number."""
    try:
        return num_classes(*where)
    except DataError:
        return None


@rule
def _folder_has_classes(data_dir, dataset, class_list):
    if dataset == "folder":
        try:
            classes = find_classes(data_dir, class_list)
        except ClassListError:
            return None  # another rule's sentence
        except DataError as error:
            return str(error)
        if len(classes) < 2 and class_list is None:
            return f"{data_dir} has a single class, {classes[0]!r}; 2 or more are needed"


@rule
def _class_list_names_folders(class_list, dataset, data_dir):
    if class_list is None or dataset not in FOLDER_DATASETS:
        return None
    try:
        classes = find_classes(data_dir, class_list)
    except ClassListError as error:
        return str(error)
    except DataError:  # of the folder, which is said of data_dir, or of ImageNet when it is read
        return None
    if len(classes) < 2:
        return f"{class_list} names a single class, {classes[0]!r}; 2 or more are needed"


@rule
def _class_list_chooses_folders(class_list, dataset):
    if class_list is not None and dataset not in FOLDER_DATASETS:
        return f"{dataset} has no folders to choose from; {_FOR_FOLDERS}"


@rule
def _images_are_resized_in_folders(image_size, dataset):
    if image_size is not None and dataset != "folder":
        side = DATASETS[dataset].image_size
        return f"the images of {dataset} are {side}x{side}; leave it out, it is for folder"


@rule
def _mean_is_of_folders(mean, std, dataset):
    return _normalisation(mean, std, dataset, "mean")


@rule
def _std_is_of_folders(std, mean, dataset):
    return _normalisation(std, mean, dataset, "std")


_FOR_FOLDERS = f"it is for {', '.join(FOLDER_DATASETS[:-1])} and {FOLDER_DATASETS[-1]}"


def _normalisation(
    given: list[float] | None, other: list[float] | None, dataset: str, name: str
) -> str | None:
    if given is None:
        return None
    if dataset != "folder":
        return f"that of {dataset} is known; leave it out, it is for folder"
    if other is None:
        missing = "std" if name == "mean" else "mean"
        return f"mean and std belong together; give {missing} too, or neither"
    return None


@rule
def _backbone_suits_the_images(convnet_type, dataset, image_size):
    net, side = find_backbone(convnet_type), DATASETS[dataset].image_size
    if dataset == "folder":
        side = image_size or net.image_size
        if side < net.smallest:
            return (
                f"{net.name} needs images of {net.smallest}x{net.smallest} or more, but image_size "
                f"is {side}; make it {net.smallest} or more, or take another backbone"
            )
    elif net.image_size != side:
        return (
            f"{net.name} is made for {net.image_size}x{net.image_size} images, but those of "
            f"{dataset} are {side}x{side}; use one of {_backbone_names(side)}"
        )


@rule
def _first_task_fits(init_cls, dataset, synthetic_classes, data_dir, class_list):
    classes = _classes(dataset, synthetic_classes, data_dir, class_list)
    if classes and init_cls > classes:
        return (
            f"a first task of {init_cls} classes is impossible, {dataset} has {classes}; "
            f"init_cls must be {classes} or less"
        )


@rule
def _run_has_the_task_to_stop_after(
    stop_after_task, init_cls, increment, dataset, synthetic_classes, data_dir, class_list
):
    classes = _classes(dataset, synthetic_classes, data_dir, class_list)
    if not classes or init_cls > classes:
        return None  # another rule's sentence
    tasks = len(split_classes(classes, init_cls, increment))
    if stop_after_task > tasks:
        return (
            f"the run cannot stop after task {stop_after_task}, it has {tasks}; stop_after_task "
            f"must be {tasks} or less (0 runs them all)"
        )


@rule
def _one_backbone_is_the_same_at_every_point(convnet_type, model_name, prefix):
    if prefix == "auc":
        own = find_backbone(convnet_type).name
        kept = backbone_at(own, model_name)
        if own != kept:
            return (
                f"under `auc`, {model_name} keeps {kept} at every budget, got {own}; leave that to "
                f"--point {own}, which names the budget, and give {kept}"
            )


@rule
def _a_point_is_one_of_the_curve(point, prefix, convnet_type):
    if point is None:
        return None
    if prefix != "auc":
        return f"it names a budget of `auc`, but prefix is {prefix}; leave it out"
    own, net = find_backbone(convnet_type), find_backbone(point)
    if family_of(own) != family_of(net):
        return (
            f"{net.name} is no point of the curve of {own.name}; use one for images of "
            f"{own.image_size}x{own.image_size}"
        )


@rule
def _without_exemplars_there_is_no_memory(memory_size, model_name):
    if not find_method(model_name).exemplars and memory_size not in (0, "auto"):
        return f"{model_name} keeps no exemplars, got {memory_size}; leave it out, or give 0"


@rule
def _every_class_gets_an_exemplar(
    memory_size, fixed_memory, model_name, dataset, synthetic_classes, data_dir, class_list
):
    if not find_method(model_name).exemplars:
        return None
    classes = _classes(dataset, synthetic_classes, data_dir, class_list)
    if classes and not fixed_memory and memory_size != "auto" and memory_size < classes:
        if memory_size == 0:
            return (
                f"0 is for methods that keep no exemplars, but {model_name} keeps some; "
                f"memory_size must be {classes} or more"
            )
        return (
            f"{memory_size} exemplars cannot cover the {classes} classes of {dataset}; "
            f"memory_size must be {classes} or more"
        )


@rule
def _the_protocol_grants_enough(
    memory_size,
    fixed_memory,
    prefix,
    dataset,
    convnet_type,
    init_cls,
    increment,
    synthetic_classes,
    model_name,
    data_dir,
    class_list,
    image_size,
    point,
):
    classes = _classes(dataset, synthetic_classes, data_dir, class_list)
    if memory_size != "auto" or fixed_memory or not classes or init_cls > classes:
        return None  # nothing to compute, or another rule's sentence
    if not find_method(model_name).exemplars:
        return None
    side = image_size or find_backbone(convnet_type).image_size
    split = point or convnet_type, init_cls, increment, classes
    granted = granted_memory(prefix, dataset, *split, method=model_name, image_size=side)
    if granted < classes:
        return (
            f"`{prefix}` leaves {max(granted, 0)} exemplars beside a network of this size, too few "
            f"for the {classes} classes of {dataset}; give a number of {classes} or more"
        )


@rule
def _class_order_is_complete(class_order, dataset, synthetic_classes, data_dir, class_list):
    classes = _classes(dataset, synthetic_classes, data_dir, class_list)
    if classes and class_order is not None and sorted(class_order) != list(range(classes)):
        return (
            f"class_order must hold every class of {dataset} from 0 to {classes - 1} exactly once"
        )


@rule
def _skipping_has_something_to_start_from(skip, init_checkpoint):
    if skip and init_checkpoint is None:
        return "skip needs a trained first task to start from; give --init_checkpoint FILE"


@rule
def _skipping_is_for_one_class_order(seed, skip, shuffle, class_order):
    if skip and len(seed) > 1 and shuffle and class_order is None:
        return (
            f"a trained first task belongs to one class order, but {len(seed)} are asked for; with "
            "--skip give one --seed"
        )


@caution
def _trunk_is_trained_with_many_base_classes(train_base, init_cls):
    if train_base and init_cls > TRAIN_BASE_UP_TO:
        return (
            f"train_base is on with {init_cls} base classes; the published runs freeze the "
            f"generalized blocks with more than {TRAIN_BASE_UP_TO} (--no-train_base)"
        )


@caution
def _first_task_has_something_to_tell_apart(init_cls):
    if init_cls == 1:
        return (
            "the first task has a single class, so its loss is 0 by construction and its training "
            "teaches the network nothing; init_cls of 2 or more is usual"
        )


@caution
def _memory_is_that_of_the_protocol(
    memory_size,
    fixed_memory,
    memory_per_class,
    prefix,
    dataset,
    convnet_type,
    init_cls,
    increment,
    model_name,
    point,
):
    if dataset in ("synthetic", "folder"):
        return None  # no protocol is published for it
    budget_of = point or convnet_type
    granted = granted_memory(prefix, dataset, budget_of, init_cls, increment, method=model_name)
    held = memory_per_class * DATASETS[dataset].classes if fixed_memory else memory_size
    split = dataset, init_cls, increment, prefix, convnet_type
    # A few published scripts keep other numbers than the formula grants.
    if held != granted and not was_kept(held, granted, model_name, *split):
        return (
            f"{held} exemplars are not what `{prefix}` grants here ({granted}), so the result "
            f"does not compare with the published ones"
        )


@caution
def _milestones_are_reached(
    init_milestones, milestones, init_epoch, epochs, scheduler, init_scheduler
):
    late = [
        f"{', '.join(map(str, beyond))} of {name} (training ends after epoch {end})"
        for name, values, end, schedule in (
            ("init_milestones", init_milestones, init_epoch, init_scheduler),
            ("milestones", milestones, epochs, scheduler),
        )
        if schedule == "steplr" and (beyond := [each for each in values if each >= end])
    ]
    if late:
        return f"the learning rate is not lowered at {' nor at '.join(late)}"


@caution
def _cosine_ends_at_zero(t_max, scheduler, epochs):
    if scheduler == "cosine" and t_max != epochs:
        return f"the cosine reaches 0 after {t_max} epochs, but the later tasks train for {epochs}"


@caution
def _checkpoint_is_used(init_checkpoint, skip):
    if init_checkpoint is not None and not skip:
        return "init_checkpoint is not used without --skip"


@caution
def _seeds_make_a_difference(seed, shuffle, class_order):
    if len(seed) > 1 and (class_order is not None or not shuffle):
        fixed = "class_order is given" if class_order is not None else "shuffle is off"
        return f"{fixed}, so the runs of the {len(seed)} seeds will be the same"


# --- Bringing it together -------------------------------------------------------------------------


def load_config(
    argv: Sequence[str], exps_dir: str | Path = EXPS_DIR
) -> tuple[Config, list[str], Options]:
    """Read defaults, JSON file and flags, check them all, and resolve what was left open.

    Args:
        argv: the words of the command line, without the program's name.
        exps_dir: folder of the JSON files that are read without --config.

    Returns:
        the configuration, the warnings (one sentence each), and what was asked of this call. With
        --help among the flags nothing is read, and the configuration is the default one.

    Raises:
        ConfigError: naming every mistake in the flags and in the file.
    """
    if _HELP & set(argv):
        help_text(argv)  # what is asked about must be known
        return Config(), [], Options(help=True)
    typed, problems = parse_flags(argv, SETTINGS | OPTIONS)
    values, wrong = check(typed, SETTINGS | OPTIONS)
    problems += wrong
    options = Options(**{key: values.pop(key) for key in OPTIONS if key in values})

    problems += _unusable_together(options, typed)
    given = typed
    if _SAY_WHICH_FILE.isdisjoint(each.key for each in problems):
        from_file, file_problems = read_json(*_file_to_read(options, values, exps_dir), SETTINGS)
        # A flag that replaces a value of the file does not excuse a mistake in it.
        file_values, wrong = check(from_file, SETTINGS)
        if options.config is None and not _SAY_WHICH_FILE.isdisjoint(typed):
            hint = "; if this is the folder of a run, give its settings with --config"
            file_problems = [
                each._replace(sentence=each.sentence + (hint if each.key == WHOLE_FILE else ""))
                for each in file_problems
            ]
        problems += file_problems + wrong
        given, values = from_file | typed, file_values | values
    config = _finish(values, given, problems)
    cautions = ask(_CAUTIONS, asdict(config), given, typed_first=True)
    return config, [problem.sentence for problem in cautions], options


_SAY_WHICH_FILE = frozenset({"config", "model_name", "resume", "evaluate"})


def _file_to_read(
    options: Options, values: Mapping[str, Any], exps_dir: str | Path
) -> tuple[Path, str]:
    """Return the JSON file to read, and what to call it."""
    run_dir = options.evaluate or (options.resume if options.resume is not True else None)
    if options.config is None and run_dir is not None:
        path = Path(run_dir) / "config.json"
        return path, str(path)
    default = f"{values.get('model_name', Config.model_name)}.json"
    return Path(options.config or Path(exps_dir) / default), options.config or f"exps/{default}"


def _unusable_together(options: Options, typed: Mapping[str, Given]) -> list[Problem]:
    problems = []
    if options.evaluate is None and "evaluate" not in typed:
        for key in ("task", "export"):
            if getattr(options, key) is not None:
                sentence = f"{typed[key].where}: it needs the folder of a run; give --evaluate too"
                problems.append(Problem(key, sentence))
    elif options.resume is not None:
        sentence = "--resume goes on with a run, --evaluate tests it; give one of them"
        problems.append(Problem("resume", f"{typed['resume'].where}: {sentence}"))
    for key in ("resume", "evaluate"):
        folder = getattr(options, key)
        # Not Path.is_dir, which raises where a name is too long.
        if isinstance(folder, str) and not os.path.isdir(folder):
            sentence = f"{typed[key].where}: there is no folder {folder}; a run's folder is needed"
            problems.append(Problem(key, sentence))
    return problems


def _any_text(value: Any) -> str:
    require(isinstance(value, str))
    return value


_ANY_TEXT = Kind("text", _any_text)
_DATA = entries(
    {"files": _ANY_TEXT},
    {
        "classes": several("names", _ANY_TEXT),
        "mean": MEAN,
        "std": several("three numbers", NOT_NEGATIVE, lambda values: len(values) == 3),
    },
)
# What config.json holds beside the settings, of all that the program reads again.
_OF_A_RUN = entries(
    {"seed": SEEDS},
    {
        "_call": _ANY_TEXT,
        "_seeds": several(SEEDS.what, SEED, lambda values: values != []),
        "_data": or_none(_DATA),
        "_precision": choice(*PRECISIONS),
        "_devices": several("names", _ANY_TEXT),
        "_processes": whole(1),
        "_threads": whole(1),
        "_processor": _ANY_TEXT,
        "_torch": _ANY_TEXT,
    },
)


def resolve(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's config.json says, each value of its kind and all its method's settings.

    A setting that came into the program after the run has its default, resolved as for a new run.
    Notes and settings that are not known here stay as they are.

    Raises:
        ValueError: it is not a run's, or a value is wrong; the message says which.
    """
    _OF_A_RUN.check(content)
    given = {key: Given(value, key) for key, value in content.items() if key in SETTINGS}
    values, problems = check(given, SETTINGS)
    if problems:
        raise ValueError(problems[0].sentence)
    try:
        return {**content, **Config(**values).to_dict()}
    except DataError as error:  # "auto" of images that are not there
        raise ValueError(str(error)) from error


def require_log_folder(folder: Path) -> None:
    """Try, leaving nothing, whether a run can write to a folder that is there or is to be made.

    Raises:
        ConfigError: it cannot, for another reason than a full disk.
        OSError: the disk is full.
    """
    existing = wanted = folder.absolute()
    try:
        for existing in (wanted, *wanted.parents):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                existing.lstat()
                break
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise named(error, existing) from error
        sentence = f"no run can be written to {folder} ({existing}: {error.strerror})"
        raise ConfigError([f"{sentence}; make that possible, or give another --log_dir"]) from error


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the settings that decide the results and differ between two resolved configurations.

    Args:
        before: of a run, as `resolve` gives it.
        now: as `Config.to_dict` gives it.
    """
    return [key for key in now if SETTINGS[key].decides == RESULTS and before.get(key) != now[key]]


def _finish(values: dict[str, Any], given: Mapping[str, Given], problems: list[Problem]) -> Config:
    """Apply the rules and make the Config, or raise ConfigError with every problem."""
    in_doubt = {problem.key for problem in problems}
    # Without the file that was meant, nothing can be said about how its settings go together.
    if in_doubt.isdisjoint({WHOLE_FILE, *_SAY_WHICH_FILE}):
        method = values.get("model_name", Config.model_name)
        others = _of_other_methods(method, given)
        problems = problems + [each for each in others if each.key not in in_doubt]
        in_doubt |= {each.key for each in others}
        complete = {key: each.default for key, each in SETTINGS.items()} | values
        if not find_method(method).exemplars and "memory_size" not in given:
            complete["memory_size"] = 0
        problems += ask(_RULES, complete, given, in_doubt)
    if problems:
        raise ConfigError([problem.sentence for problem in problems])
    return Config(**values)


def _of_other_methods(method: str, given: Mapping[str, Given]) -> list[Problem]:
    """Return a problem for each setting given that the method does not have."""
    return [
        Problem(
            key,
            f"{each.where}: it is a setting of {', '.join(SETTINGS[key].of)}; {method} has no such "
            "setting; leave it out",
        )
        for key, each in given.items()
        if key in SETTINGS and not _has(method, key)
    ]


_HELP = {"-h", "--help"}


def _asked_of_help(words: Sequence[str]) -> tuple[str | None, set[str]]:
    """Return the method typed beside --help, if one is, and the settings named behind --help.

    Raises:
        ConfigError: settings or a method are asked about, and there is none of such a name.
    """
    every = OPTIONS | SETTINGS
    behind = dropwhile(lambda word: word not in _HELP, words)
    asked = {word.partition("=")[0] for word in behind} - _HELP
    typed = parse_flags(words, every)[0].get("model_name")
    method = None
    if typed and isinstance(typed.value, str):
        checked, problems = check({"model_name": typed}, SETTINGS)
        if problems:
            raise ConfigError([problem.sentence for problem in problems])
        method = checked["model_name"]
        asked -= {typed.value, *SETTINGS["model_name"].flags}
    known = [name for each in every.values() for name in (each.name, *each.flags)]
    if asked and asked.isdisjoint(known):
        word = min(asked)
        near = nearest(word, known)
        hint = f"did you mean {near}?" if near else "--help alone lists them"
        raise ConfigError([f"--help: there is no setting {shown(word)}; {hint}"])
    return method, asked


def help_text(words: Sequence[str] = ()) -> str:
    """Return what --help among these words prints: a line a setting, or all about those named.

    With -model among the words, the settings are those of that method, as its file in exps/ has
    them.

    Raises:
        ConfigError: settings or a method are asked about, and there is none of such a name.
    """
    every = OPTIONS | SETTINGS
    method, asked = _asked_of_help(words)
    if method:
        usual, _ = read_json(EXPS_DIR / f"{method}.json", f"exps/{method}.json", SETTINGS)
        every = {
            key: each._replace(default=usual[key].value) if key in usual else each
            for key, each in every.items()
            if key in OPTIONS or _has(method, key)
        }
    named = [each for each in every.values() if {each.name, *each.flags} & asked]
    if named:
        return "\n".join(help_lines(named)).lstrip("\n") + "\n"
    usage = (
        "usage: python main_memo.py [--config FILE] [flags]\n"
        "       python main_memo.py --resume [DIR]\n"
        "       python main_memo.py --evaluate DIR [--task N] [--export FILE]\n\n"
        "Class-incremental learning within a memory budget (MEMO, ICLR 2023). A flag replaces the\n"
        "setting of the same name in FILE, or else in exps/{model_name}.json.\n"
        "--help NAME ... says all about these settings, -model NAME --help lists a method's.\n\n"
        "The other commands, each with a --help of its own:\n"
        "  python -m utils.report LOGS     tables and curves of runs, over their seeds\n"
        "  python -m utils.sweep FILES     the runs of several files in exps/, one after another\n"
        "  python -m utils.analysis DIR    what each block of a run's network went through\n"
        "  python -m utils.budget          what networks and exemplars cost, in MB and in images\n"
        "  python -m utils.count           what utils/catalog.py must know of a new backbone\n"
    )
    known = {
        "methods": ", ".join(METHODS),
        "data sets": ", ".join(DATASETS),
        "backbones for 32x32 images": _backbone_names(32),
        "backbones for ImageNet": _backbone_names(224),
    }
    listed = [
        textwrap.fill(f"{what}: {names}", 100, subsequent_indent="  ")
        for what, names in known.items()
    ]
    return "\n".join([usage, *listed, *overview_lines(every.values())]) + "\n"


def markdown_table() -> str:
    """Return README's table of every flag and JSON key."""
    return "\n".join(table_lines(SETTINGS.values(), OPTIONS.values())) + "\n"
