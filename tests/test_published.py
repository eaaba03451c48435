"""The table of published numbers: complete, consistent with itself, and found by setting."""

import json

import pytest

from utils import published
from utils.budget import granted_memory
from utils.config import EXPS_DIR, Config, load_config


def test_the_readmes_experiment_is_found():
    row = published.find(Config())
    assert (row.average, row.last, row.memory_size) == (72.37, 61.98, 3312)
    assert len(row.curve) == 10
    assert published.find(json.loads(json.dumps(Config().to_dict()))) == row


@pytest.mark.parametrize("row", [r for r in published.rows() if r.curve], ids=str)
def test_average_and_last_are_those_of_the_curve(row):
    assert sum(row.curve) / len(row.curve) == pytest.approx(row.average, abs=0.006)
    assert row.curve[-1] == row.last


@pytest.mark.parametrize(
    "row", [r for r in published.rows() if (r.method, r.prefix) == ("memo", "fair")], ids=str
)
def test_fair_budgets_are_the_aligned_ones(row):
    aligned = granted_memory("fair", row.dataset, row.convnet_type, row.init_cls, row.increment)
    assert aligned in (row.memory_size, row.also_memory_size)


def test_published_experiments_of_this_repository_have_a_row():
    found = {
        path.stem: published.find(load_config(["--config", str(path)])[0])
        for path in EXPS_DIR.glob("cifar100_*_steps.json")
    }
    # Fair Base0 Inc20 and Base50 Inc25 and benchmark Base50 Inc5 were not published.
    without = {stem for stem, row in found.items() if row is None}
    assert without == {
        "cifar100_b0_inc20_fair_steps",
        "cifar100_b50_inc25_fair_steps",
        "cifar100_b50_inc5_benchmark_steps",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_size": 3311},
        {"prefix": "benchmark"},
        {"increment": 20},
        {"convnet_type": "memo_resnet20_cifar"},
        {"dataset": "synthetic"},
        {"fixed_memory": True},
        {"shuffle": False},
        {"class_order": list(range(100))},
    ],
)
def test_another_setting_has_no_published_number(changes):
    assert published.find(Config(**changes)) is None


def test_areas():
    (memo,) = [area for area in published.areas() if area.method == "memo"]
    assert (memo.auc_average, memo.auc_last) == (10.85, 9.03)
