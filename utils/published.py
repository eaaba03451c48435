"""The published numbers, to stand beside our own: utils/published.json and how to look them up.

    row = find(config)          # a Config, or the dict of a run's config.json
    if row:
        row.average, row.last   # top-1 in percent; row.curve has one value a task, or is None

A row is found by its setting: method, data set, split, protocol, backbone and memory size. How
long and with which schedule a run trained is not looked at. The published runs are single ones with
class order 1993. No torch here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from utils.catalog import TRAIN_BASE_UP_TO, find_backbone

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Published:
    """One published result; all accuracies are the classifier's top-1 in percent."""

    method: str
    dataset: str
    init_cls: int
    increment: int
    prefix: str  # the protocol: benchmark, fair, auc
    convnet_type: str  # the backbone's name without "memo_"
    memory_size: int | None  # exemplars in all; None: not stated
    average: float  # mean over the tasks
    last: float  # after the last task
    curve: tuple[float, ...] | None = None  # after each task
    forgetting: float | None = None
    also_memory_size: int | None = None  # what the formula grants where the published run differs


@dataclass(frozen=True)
class PublishedArea:
    """Published areas under the performance-memory curve, and accuracy per MB at its two ends."""

    method: str
    dataset: str
    init_cls: int
    increment: int
    auc_average: float
    auc_last: float
    apm_first: float | None = None
    apm_last: float | None = None


@cache
def rows() -> tuple[Published, ...]:
    """Return all published results, in the order of the table."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return tuple(
        Published(**{**row, "curve": tuple(row["curve"]) if "curve" in row else None})
        for row in table
    )


@cache
def areas() -> tuple[PublishedArea, ...]:
    """Return all published areas, in the order of the table."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))["areas"]
    return tuple(PublishedArea(**row) for row in table)


def memory_sizes(
    method: str, dataset: str, init_cls: int, increment: int, prefix: str, convnet_type: str
) -> set[int]:
    """Return the exemplars that published runs of a setting kept; the names are as in a Config."""
    wanted = (method, dataset, init_cls, increment, prefix, find_backbone(convnet_type).name)
    keys = ("method", "dataset", "init_cls", "increment", "prefix", "convnet_type")
    found = {row.memory_size for row in rows() if tuple(getattr(row, k) for k in keys) == wanted}
    return found - {None}


def find(config: Any) -> Published | None:
    """Return the published result of a run's setting, or None where none is published.

    Args:
        config: the run's settings: a Config, or a mapping with the same keys such as config.json.
    """
    get = config.__getitem__ if isinstance(config, Mapping) else config.__getattribute__
    if get("fixed_memory") or get("class_order") is not None or not get("shuffle"):
        return None  # no such run is published
    train_base = get("init_cls") <= TRAIN_BASE_UP_TO
    if get("train_adaptive") or get("alpha_aux") != 1 or get("train_base") != train_base:
        return None  # an ablation of the method
    backbone = find_backbone(get("convnet_type")).name
    wanted = {key: get(key) for key in ("dataset", "init_cls", "increment", "prefix")}
    for row in rows():
        if (
            row.method == get("model_name")
            and row.convnet_type == backbone
            and get("memory_size") in (row.memory_size, row.also_memory_size)
            and all(getattr(row, key) == value for key, value in wanted.items())
        ):
            return row
    return None
