"""The published numbers, to stand beside our own: utils/published.json and how to look them up.

    row = find(config)          # a Config, or the dict of a run's config.json
    if row:
        row.average, row.last   # top-1 in percent; row.curve has one value a task, or is None

A row is found by its setting: method, data set, split, protocol, backbone and memory size. How
long and with which schedule a run trained is not looked at. What the rows have in common, such as
that no method was changed by a setting of its own, is told in the table under "settings". The
published runs are single ones with class order 1993. No torch here.
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
    """One published result; all accuracies are top-1 in percent."""

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
    also_memory_size: int | None = None  # of table, script and formula, where they differ


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
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@cache
def rows() -> tuple[Published, ...]:
    """Return all published results, in the order of the table."""
    return tuple(
        Published(**{**row, "curve": tuple(row["curve"]) if "curve" in row else None})
        for row in _table()["rows"]
    )


@cache
def areas() -> tuple[PublishedArea, ...]:
    """Return all published areas, in the order of the table."""
    return tuple(PublishedArea(**row) for row in _table()["areas"])


def was_kept(
    held: int,
    granted: int,
    method: str,
    dataset: str,
    init_cls: int,
    increment: int,
    prefix: str,
    convnet_type: str,
) -> bool:
    """Return whether a published run held this many exemplars where the formula grants others.

    Args:
        held: exemplars in all.
        granted: what `utils.budget.granted_memory` says.
        method: and what follows: the setting, named as in a Config.
    """
    setting = (method, dataset, init_cls, increment, prefix, find_backbone(convnet_type).name)
    return any(
        {row.memory_size, row.also_memory_size} == {held, granted} and _setting(row) == setting
        for row in rows()
    )


def _setting(row: Published) -> tuple:
    split = row.dataset, row.init_cls, row.increment
    return (row.method, *split, row.prefix, row.convnet_type)


def find(config: Any) -> Published | None:
    """Return the published result of a run's setting, or None where none is published.

    Args:
        config: the run's settings: a Config, or a mapping with the same keys such as config.json.
    """
    values = config if isinstance(config, Mapping) else config.to_dict()
    usual = {**_table()["settings"], "train_base": values["init_cls"] <= TRAIN_BASE_UP_TO}
    if any(values.get(key, value) != value for key, value in usual.items()):
        return None  # an ablation of the method, or no such run is published
    keys = ("model_name", "dataset", "init_cls", "increment", "prefix")
    setting = (*(values[key] for key in keys), find_backbone(values["convnet_type"]).name)
    for row in rows():
        kept = row.memory_size, row.also_memory_size
        if values["memory_size"] in kept and _setting(row) == setting:
            return row
    return None
