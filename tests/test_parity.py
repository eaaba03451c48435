"""The comparison with the authors' program on short runs: its arithmetic, and README's tables."""

import csv
import json
import math
import re
import shutil
import statistics
from dataclasses import replace

import pytest
from benchmarks import parity
from benchmarks.parity import (
    ABLATION,
    FLAGS,
    ParityError,
    _student,
    _welch,
    compare,
    expected,
    main,
    markdown,
    paired,
    read_runs,
)
from conftest import REPOSITORY, load_golden
from fake_runs import fake_run

from utils.config import load_config

COLUMNS = {"cnn_top1": "cnn1", "nme_top1": "nme1", "old_top1": "old", "new_top1": "new"}
AUTHORS = load_golden("real_short_schedule.json")["seeds"]


def short_run(folder, torch_seed, shift=0.0, place="float32", **settings):
    """Leave a run with the authors' values for a seed, shifted, as if we had measured them.

    Its settings are those of a place, with changes.
    """
    settings = {**expected(place).to_dict(), **settings, "torch_seed": torch_seed}
    authors = AUTHORS[str(torch_seed)][: settings["stop_after_task"]]
    lines = [{column: task[key] + shift for column, key in COLUMNS.items()} for task in authors]
    fake_run(folder, [line["cnn_top1"] for line in lines], **settings)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["task", *COLUMNS])
        writer.writeheader()
        for number, line in enumerate(lines, 1):
            writer.writerow({"task": number, **line, **({"old_top1": ""} if number == 1 else {})})


def everything(folder, losses=(0.4, 0.5, 0.6)):
    """Leave all the runs that the command looks at: bf16 loses so much, a frozen trunk 9."""
    for seed in range(1, 6):
        short_run(folder / "float32" / f"torch{seed}", seed)
    for seed, loss in enumerate(losses, 1):
        for place, shift in (("bf16", -loss), ("trained", 0), ("frozen", -9)):
            short_run(folder / place / f"torch{seed}", seed, shift, place)
    for place in ABLATION:
        short_run(folder / place / "torch1", 1, -3.0 * ("old" in place), place)


def test_margin_is_the_one_asked_for(tmp_path):
    for seed in (1, 2, 3):
        short_run(tmp_path / str(seed), seed)
    row = compare(read_runs(tmp_path))[0]
    assert (row["task"], row["measure"]) == (1, "CNN top-1")
    # (50.8 + 42.1 + 47.7) / 3 - 49.16, and 3 x 4.43 x sqrt(1/3 + 1/5).
    assert row["difference"] == pytest.approx(46.87 - 49.16, abs=0.01)
    assert row["margin"] == pytest.approx(3 * 4.43 * 0.7303, abs=0.02)


def test_intervals_of_hand_computed_cases():
    # Variances 1 and 4, sizes 3 and 3: standard error sqrt(5/3) and (5/3)^2 / (1/18 + 16/18) = 2.94
    # degrees of freedom, for which Student's t is 3.219 (2 have 4.303, 3 have 3.182).
    half = 3.219 * (5 / 3) ** 0.5
    assert _welch([1, 2, 3], [2, 4, 6]) == pytest.approx((-2 - half, -2 + half), abs=1e-2)
    # Mean 2, standard deviation 1, n = 3: t is 4.303 with 2 degrees of freedom.
    assert _student([1, 2, 3]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert all(map(math.isnan, (*_student([1]), *_welch([1], [2, 3]))))


def test_a_loss_is_beyond_seed_noise_if_it_is_certain_or_large(tmp_path):
    everything(tmp_path)
    float32 = read_runs(tmp_path / "float32")

    def lost(losses):
        second = {
            seed: {key: value - loss for key, value in float32[seed].items()}
            for seed, loss in zip((1, 2, 3), losses, strict=True)
        }
        (row,) = [r for r in paired(float32, second) if r["task"] == "average"][:1]
        assert row["difference"] == pytest.approx(-statistics.mean(losses))
        return row["lost"]

    assert lost((0.4, 0.5, 0.6))  # small, but each seed loses: the interval is below zero
    assert not lost((-2.0, 0.0, 2.9))  # the interval has zero in it, and seeds differ by more
    assert lost((-40.0, 0.0, 60.0))  # uncertain, but more than seeds differ by
    assert not lost((-0.4, -0.5, -0.6))  # a gain


def test_only_seeds_that_both_have_are_paired(tmp_path):
    everything(tmp_path)
    row = paired(read_runs(tmp_path / "float32"), read_runs(tmp_path / "bf16"))[0]
    assert len(row["first"]) == len(row["second"]) == 3
    assert row["difference"] == pytest.approx(-0.5)


def test_the_command_prints_every_table(tmp_path, capsys):
    everything(tmp_path)
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "ours, mean ± sd (n = 5)" in text
    assert "Means outside their margin: none." in text
    assert "-0.75 to -0.25 |                    yes" in text.replace("+", "")
    assert text.count("Torch seeds 1, 2, 3.") == 2
    frozen_trunk = [line for line in text.splitlines() if line.startswith("| frozen ")]
    assert [line.split("|")[2].strip() for line in frozen_trunk] == ["trained", "frozen"]
    assert "Not measured" not in text


def test_what_is_absent_is_not_measured(tmp_path, capsys):
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("Not measured.") == 5
    short_run(tmp_path / "float32" / "a", 1)  # a single run has no deviation and no interval
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (text.count("Not measured."), "n = 1" in text, "nan" in text) == (3, True, False)


def test_first_tasks_are_shown_by_sample_and_together(tmp_path, capsys):
    everything(tmp_path)
    for seed in (1, 2):
        short_run(tmp_path / "first_task" / str(seed), seed, shift=10, place="first_task")
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    float32, more = (read_runs(tmp_path / name) for name in ("float32", "first_task"))
    together = [run[1, "cnn_top1"] for runs in (float32, more) for run in runs.values()]
    lines = [line for line in text.splitlines() if line.startswith("| CNN top-1 ")]
    assert [line.split("|")[2].strip() for line in lines] == [
        "the runs above (5)",
        "more seeds (2)",
        "all (7)",
    ]
    said = f"{statistics.mean(together):.2f} ± {statistics.stdev(together):.2f}"
    assert said in lines[-1]
    assert "more seeds: 1: " in text


def test_a_sample_that_has_no_other_is_shown_alone(tmp_path, capsys):
    everything(tmp_path)
    shutil.rmtree(tmp_path / "trained")
    assert main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    alone = text[text.index("**Trunk trained and frozen") : text.index("**What to train")]
    assert "| frozen, mean ± sd |" in alone
    assert alone.endswith("Torch seeds 1, 2, 3. Trained: not measured.\n\n")
    values = [run[1, "cnn_top1"] for run in read_runs(tmp_path / "frozen").values()]
    assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in alone


def test_the_command_says_what_lies_outside(tmp_path, capsys):
    for seed in (1, 2, 3):
        short_run(tmp_path / "float32" / str(seed), seed, shift=-20)
    assert main([str(tmp_path)]) == 1
    assert "Means outside their margin: task 1, CNN top-1;" in capsys.readouterr().out


WRONG = {
    **{"dataset": "synthetic", "memory_size": 2001, "lrate": 0.05, "init_lr": 0.2, "epochs": 7},
    **{"milestones": [4], "init_milestones": [4], "init_epoch": 9, "scheduler": "cosine"},
    **{"batch_size": 64, "weight_decay": 0.1, "alpha_aux": 0.5, "shuffle": False, "t_max": 9},
    **{"convnet_type": "memo_conv2", "train_base": None, "train_adaptive": None, "seed": [1]},
    **{"init_cls": 5, "increment": 5, "precision": "tf32", "stop_after_task": 1},
    **{"fixed_memory": True, "prefix": "auc"},
}


@pytest.mark.parametrize("place", FLAGS)
def test_a_run_of_another_setting_is_refused(place, tmp_path):
    for number, (key, value) in enumerate(WRONG.items()):
        right = getattr(expected(place), key)
        value = not right if value is None else 2 if value == right == 1 else value
        folder = tmp_path / str(number)
        short_run(folder / place / "a", 1, place=place, **{key: value})
        with pytest.raises(ParityError, match="it does not belong there") as error:
            markdown(folder)
        assert f"has {key}={value}; " in str(error.value)


def test_what_is_no_part_of_the_setting_is_free(tmp_path):
    free = {"device": [0], "num_workers": 0, "log_dir": "x", "eval_every": 1}
    short_run(tmp_path / "float32" / "a", 1, precision="auto", **free)
    short_run(tmp_path / "float32" / "b", 2, precision="fp32")
    assert "(n = 2)" in markdown(tmp_path)


@pytest.mark.parametrize(
    ("place", "settings", "said"),
    [
        ("float32/b", {"finished": False}, "only finished runs are compared"),
        ("float32/b", {}, "two runs have the same torch seed"),
        ("bf16/a", {}, "has precision=auto; it does not belong there"),
        ("frozen/a", {"place": "trained"}, "has train_base=True; it does not belong there"),
        ("float32/b", {"skip": True, "init_checkpoint": "x"}, "has skip=True, init_checkpoint=x;"),
        ("ablation/a", {"place": "ablation/old"}, "is in none of ablation/trunk, "),
    ],
)
def test_runs_that_do_not_compare_are_refused(place, settings, said, tmp_path, capsys):
    short_run(tmp_path / "float32" / "a", 1)
    short_run(tmp_path / place, 1, **settings)
    assert main([str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "place"), [("frozen", "trained"), ("ablation/none", ABLATION[0])]
)
def test_a_first_task_that_was_read_is_that_of_the_same_seed(first, place, tmp_path):
    read = {"place": place, "skip": True}
    for seed in (1, 2):
        short_run(tmp_path / first / str(seed), seed, place=first)
        short_run(tmp_path / place / str(seed), seed, init_checkpoint=f"{seed}/task_1.pt", **read)
    assert "skip" not in markdown(tmp_path)
    short_run(tmp_path / place / "3", 3, init_checkpoint="of another run", **read)
    with pytest.raises(ParityError, match=r"3: its first task was read .* is that of no run"):
        markdown(tmp_path)
    short_run(tmp_path / first / "3", 3, 5.0, place=first)  # there, but not the same
    with pytest.raises(ParityError, match=r"3: its first task was read .* is that of no run"):
        markdown(tmp_path)


def test_the_docstring_says_how_each_run_is_made():
    text = parity.__doc__
    words = dict(re.findall(r"^    ([A-Z]+) {2,}(-.*)$", text, re.MULTILINE))
    assert words.keys() == {"FAIR", "BENCHMARK", "SCHEDULE"}
    for place in FLAGS:
        (flags,) = re.findall(rf"^    {place} +((?:FAIR|BENCHMARK) .*)$", text, re.MULTILINE)
        flags = f"{flags} SCHEDULE"
        for word, meaning in words.items():
            flags = flags.replace(word, meaning)
        assert load_config(flags.split())[0] == expected(place)


def test_without_a_folder_the_command_asks_for_it(tmp_path, capsys):
    assert main([]) == main([str(tmp_path / "none")]) == 2
    assert "give the folder of the short runs" in capsys.readouterr().err


def test_readme_has_the_tables_of_the_runs_kept():
    readme = (REPOSITORY / "README.md").read_text()
    (kept,) = readme.split("<!-- short runs -->\n")[1].split("<!-- end -->")[:1]
    assert kept.strip() == markdown(REPOSITORY / "logs" / "published" / "short").strip()
    for path in (REPOSITORY / "logs" / "published").rglob("config.json"):
        config = json.loads(path.read_text())
        assert config["data_dir"] == "./data"  # the folders of one machine mean nothing elsewhere
        assert " /" not in config["_command"]


def test_readme_says_how_each_run_is_made():
    readme = (REPOSITORY / "README.md").read_text()
    for place in FLAGS:
        (flags,) = re.findall(
            rf"^python main_memo\.py (.*) --log_dir logs/published/short/{place}$",
            readme,
            re.MULTILINE,
        )
        config = load_config(flags.split())[0]
        assert (config.device, config.torch_seed) == ([-1], 1)
        assert replace(config, device=[]) == expected(place)
