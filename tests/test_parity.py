"""The comparison with the authors' program on short runs: its arithmetic, and README's table."""

import json

import pytest
from benchmarks.parity import _welch, compare, first_tasks, main, markdown, read_runs
from conftest import REPOSITORY, load_golden

SHORT = REPOSITORY / "logs" / "published" / "short"


def authors_as_runs(shift=0.0):
    """Return the authors' values in the form of our runs, three of the five seeds."""
    columns = {"cnn_top1": "cnn1", "nme_top1": "nme1", "old_top1": "old", "new_top1": "new"}
    seeds = load_golden("real_short_schedule.json")["seeds"]
    return {
        int(seed): [{ours: str(task[key] + shift) for ours, key in columns.items()} for task in run]
        for seed, run in list(seeds.items())[:3]
    }


def test_margin_is_the_one_asked_for():
    row = compare(authors_as_runs())[0]
    assert (row["task"], row["measure"]) == (1, "CNN top-1")
    # (50.8 + 42.1 + 47.7) / 3 - 49.16, and 3 x 4.43 x sqrt(1/3 + 1/5).
    assert row["difference"] == pytest.approx(46.87 - 49.16, abs=0.01)
    assert row["margin"] == pytest.approx(3 * 4.43 * 0.7303, abs=0.02)


def test_welch_interval_of_a_hand_computed_case():
    # Variances 1 and 4, sizes 3 and 3: standard error sqrt(5/3); (5/3)^2 / (1/18 + 16/18) = 2.94
    # degrees of freedom, taken as 2, for which t is 4.30.
    assert _welch([1, 2, 3], [2, 4, 6]) == pytest.approx(4.30 * (5 / 3) ** 0.5)


def test_readme_has_the_table_of_the_runs_kept():
    runs = read_runs(SHORT)
    assert len(runs) >= 3
    readme = (REPOSITORY / "README.md").read_text()
    assert markdown(runs) in readme
    assert first_tasks(runs | read_runs(SHORT.with_name("short_first_task"))) in readme
    for folder in SHORT.iterdir():
        config = json.loads((folder / "config.json").read_text())
        assert config["_command"].endswith("--stop_after_task 3 --log_dir ./logs")


def test_the_command_says_what_lies_outside(monkeypatch, capsys):
    assert main([]) == 2
    monkeypatch.setattr("benchmarks.parity.read_runs", lambda _: authors_as_runs())
    assert main(["x"]) == 0
    monkeypatch.setattr("benchmarks.parity.read_runs", lambda _: authors_as_runs(shift=-20))
    assert main(["x"]) == 1
    assert "task 1, CNN top-1: outside the margin" in capsys.readouterr().err
