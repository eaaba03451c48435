"""What a checkpoint must hold, in the kinds that settings have: types, ranges, counts.

That a file's SHA-256 is right says that it is what somebody wrote, and not that this program did.
What is to be known of the data and the network is checked where they are: `Learner.load_state_dict`
and `utils.experiment`.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.methods import METHODS, Method, find_method
from utils.config import BACKBONE
from utils.runs import FORGETTING, PERCENT, TASK_SIZES
from utils.seeds import set_generators
from utils.settings import SWITCH, Kind, choice, entries, number, or_none, require, several, whole

# What wrong contents raise where they are used: not only ValueError.
UNFIT = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError)

_NUMBER = number("a number", lambda value: True)
_TIME = number("a time", lambda value: 0 <= value < 1e10)


def tensor(dtype: torch.dtype, *shape: int | None) -> Kind:
    """Tensors of a type and shape, None for any length, whose numbers are finite."""

    def check(value: Any) -> Tensor:
        require(isinstance(value, Tensor) and value.dtype == dtype and value.dim() == len(shape))
        require(all(n in (None, m) for n, m in zip(shape, value.shape, strict=True)))
        require(not dtype.is_floating_point or bool(value.isfinite().all()))
        return value

    lengths = " x ".join("n" if n is None else str(n) for n in shape)
    return Kind(f"a tensor of {dtype}, {lengths}", check)


def _of_type(type_: type, what: str) -> Kind:
    def check(value: Any) -> Any:
        require(isinstance(value, type_))
        return value

    return Kind(what, check)


def _order(value: Any) -> Tensor:
    """Refuse what no `draw_order` gives: images and, of files, how each is shown."""
    require(isinstance(value, Tensor) and value.dtype == torch.int64)
    require(value.dim() == 1 or (value.dim() == 2 and value.shape[1] == 2))
    return value


def _state(value: Any) -> dict[str, Tensor]:
    require(isinstance(value, dict) and all(isinstance(key, str) for key in value))
    require(all(isinstance(each, Tensor) for each in value.values()))
    return value


def _generator(value: Any) -> Any:
    """Refuse what no generator of random numbers could go on from."""
    entries({"device": choice("cpu", "cuda"), "state": tensor(torch.uint8, None)}).check(value)
    if value["device"] == "cuda":
        require(len(value["state"]) == 16)  # seed and offset
    else:
        torch.Generator().set_state(value["state"])
    return value


def _random_state(value: Any) -> Any:
    set_generators(value, random.Random(), np.random.RandomState(), torch.Generator())
    several("", tensor(torch.uint8, 16)).check(value["cuda"])
    return value


def _nets(value: Any) -> dict[str, Any]:
    require(isinstance(value, dict) and "network" in value)
    entries(dict.fromkeys(value, _NET)).check(value)
    return value


def _finite(value: Any) -> Tensor:
    require(
        isinstance(value, Tensor) and value.is_floating_point() and bool(value.isfinite().all())
    )
    return value


STATE = Kind("a network's tensors by name", _state)
GENERATOR = Kind("the state of a generator", _generator)
RANDOM = Kind("the states of the generators", _random_state)
TEXT = _of_type(str, "text")
OBJECT = _of_type(dict, "an object")
EXEMPLARS = several("a list of indices for each class", tensor(torch.int64, None))
_BLOCKS = entries(
    {
        "rows": several(
            "rows",
            entries(
                {
                    **dict.fromkeys(("task", "epoch", "block"), whole(1)),
                    "name": TEXT,
                    "gradient": or_none(_NUMBER),
                    **dict.fromkeys(("shift", "shift_from_first"), _NUMBER),
                }
            ),
        ),
        **dict.fromkeys(("task", "epoch", "steps", "read"), whole()),
        **dict.fromkeys(("start", "first"), several("vectors", tensor(torch.float32, None))),
        "sum": or_none(tensor(torch.float32, None)),
    }
)
_NORMS = entries(dict.fromkeys(("before", "after"), several("numbers", _NUMBER)))
_COLUMNS = {
    **dict.fromkeys(("task", "epoch"), whole(1)),
    **dict.fromkeys(("lr", "loss"), _NUMBER),
    "train_acc": PERCENT,
    "test_acc": or_none(PERCENT),
    "seconds": _TIME,
}
_PARTS = {f"loss_{part}" for row in METHODS.values() for part in row.loss_parts}
_RECORDS = entries(
    {
        "epochs": several("rows", entries(_COLUMNS, dict.fromkeys(_PARTS, or_none(_NUMBER)))),
        "weight_norms": several("lengths of rows", _NORMS),
        "blocks": or_none(_BLOCKS),
    }
)
_TRAINING = entries(
    {
        "stage": TEXT,
        "momenta": several("a tensor or null for each weight", or_none(Kind("", _finite))),
        "losses": tensor(torch.float32, None, None),
        **dict.fromkeys(("epoch", "step"), whole()),
        "order": or_none(Kind("the order of an epoch", _order)),
        "seconds": _TIME,
    }
)
SHAPE = entries(  # of `AdaptiveNet.shape`
    {
        "convnet_type": BACKBONE,
        **dict.fromkeys(("trunks", "blocks"), choice("one", "per task")),
        "num_blocks": whole(1, 10**6),
        **dict.fromkeys(("classes", "aux_classes"), whole()),
        "aux_head": SWITCH,
    }
)
_NET = entries({"shape": SHAPE, "weights": STATE})
_LEARNER = entries(
    {
        "task": whole(0, 10**6),
        "nets": Kind("networks by name", _nets),
        "extra": OBJECT,
        "exemplars": EXEMPLARS,
        "generator": tensor(torch.uint8, None),
        "generator_device": choice("cpu", "cuda"),
        "records": _RECORDS,
        "training": or_none(_TRAINING),
    }
)
_MEASURED = entries(
    {
        **dict.fromkeys(("task", "classes_seen"), whole(1)),
        **dict.fromkeys(("cnn_top1", "cnn_top5"), PERCENT),
        **dict.fromkeys(("nme_top1", "nme_top5"), or_none(PERCENT)),
        **dict.fromkeys(("old_top1", "new_top1"), or_none(PERCENT)),
        "forgetting": FORGETTING,
        **dict.fromkeys(
            ("per_task_top1", "per_class_top1"), several("percentages", or_none(PERCENT))
        ),
    }
)
_PROGRESS = entries(
    {
        "metrics": entries({"task_sizes": TASK_SIZES, "tasks": several("tasks", _MEASURED)}),
        "exemplars": several("numbers", whole()),
        "seconds": several("times", _TIME),
        "trained": SWITCH,
        "spent": _TIME,
    },
    {"peak_memory": whole(0, 2**60)},  # not in older checkpoints
)
_RUN = entries(
    {
        "config": OBJECT,
        "machines": several("machines", OBJECT),
        "call": _of_type(list, "a list"),
        "learner": _LEARNER,
        "progress": _PROGRESS,
        "random": RANDOM,
        "log_bytes": whole(0, 2**50),
    }
)
_TASK = entries(
    {
        "convnet_type": BACKBONE,
        "task": whole(1),
        "task_sizes": TASK_SIZES,
        "class_order": several("classes", whole()),
        "network": STATE,
    },
    {
        "model_name": TEXT,
        "shape": SHAPE,
        "extra": OBJECT,
        "exemplars": EXEMPLARS,
        "test_accuracy": or_none(PERCENT),
        "draws": or_none(GENERATOR),
        "dataset": TEXT,
        "files": or_none(TEXT),
    },
)


def require_run(content: dict[str, Any]) -> None:
    """Raise one of UNFIT if this is not what a run's checkpoint holds."""
    _RUN.check(content)
    name, seeds = content["call"]
    TEXT.check(name)
    several("seeds", whole(0, 2**32 - 1), lambda values: values != []).check(seeds)
    progress, learner = content["progress"], content["learner"]
    sizes, tasks = progress["metrics"]["task_sizes"], progress["metrics"]["tasks"]
    method, done = find_method(content["config"].get("model_name", "memo")), len(tasks)
    if not done == len(progress["seconds"]) == len(progress["exemplars"]) <= len(sizes):
        raise ValueError("progress is of several numbers of tasks")
    if learner["task"] not in (done - 1, done) or learner["task"] >= len(sizes):
        raise ValueError(f"task {learner['task']} cannot follow {done} of {len(sizes)} tasks")
    for number_, each in enumerate(tasks, 1):
        seen = sum(sizes[:number_])
        if (each["task"], each["classes_seen"]) != (number_, seen):
            raise ValueError(f"the results of task {number_} are those of another")
        if (len(each["per_task_top1"]), len(each["per_class_top1"])) != (number_, seen):
            raise ValueError(f"the results of task {number_} are of other classes")
        if (each["nme_top1"] is None, each["nme_top5"] is None) != (not method.exemplars,) * 2:
            raise ValueError(f"the results of task {number_} are those of another method")
    for norms in learner["records"]["weight_norms"]:
        if len(norms["before"]) != len(norms["after"]):
            raise ValueError("weight_norms has other rows before than after")
    if learner["task"] == done and not progress["trained"] and learner["training"] is None:
        raise ValueError(f"nothing is there of the training of task {done + 1}")
    _require_exemplars(learner["exemplars"], method, sum(sizes[:done]))


def _require_exemplars(exemplars: list[Tensor], method: Method, classes: int) -> None:
    if len(exemplars) != (classes if method.exemplars else 0):
        raise ValueError(f"there are exemplars of {len(exemplars)} classes")


def require_task(content: dict[str, Any]) -> None:
    """Raise one of UNFIT if this is not what the checkpoint of a task holds."""
    _TASK.check(content)
    sizes, task = content["task_sizes"], content["task"]
    if task > len(sizes):
        raise ValueError(f"task is {task}, but task_sizes has {len(sizes)}")
    if sorted(content["class_order"]) != list(range(sum(sizes))):
        raise ValueError(f"class_order is not every class from 0 to {sum(sizes) - 1} once")
    if "exemplars" in content:
        method = find_method(content.get("model_name", "memo"))  # not in older files, of MEMO
        _require_exemplars(content["exemplars"], method, sum(sizes[:task]))
