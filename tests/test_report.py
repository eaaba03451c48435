"""utils/report.py: what is averaged, with whom, against values computed by hand; the files."""

import csv
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY
from fake_runs import DAMAGES, fake_run

import utils.pictures
import utils.report
from utils import catalog, published
from utils.catalog import Backbone
from utils.config import Config
from utils.plots import figure_bytes
from utils.report import (
    Curve,
    ReportError,
    Spread,
    area_report,
    find_curves,
    group_runs,
    main,
    results_report,
)
from utils.runs import PUBLISHED, as_computed, find_runs

POINTS = [
    ("conv2", 2118),
    ("resnet14_cifar", 2495),
    ("resnet20_cifar", 2768),
    ("resnet26_cifar", 3040),
    ("resnet32", 3312),
]
TEN = [90.0, 80.0, 78.0, 74.0, 71.0, 69.0, 68.0, 65.0, 63.0, 62.0]  # mean 72


def shifted(by):
    return [value + by for value in TEN]


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Leave out what takes the longest, where it is not what the test is about."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(utils.pictures, "figure_bytes", lambda figure, file_format: b"")


@pytest.fixture
def pictures():
    """Ask for real pictures."""


@pytest.fixture
def three_seeds(tmp_path):
    """Three finished runs: averages 72, 73, 71, last 62, 63, 61, NME one point below each."""
    for seed, by in ((1993, 0), (1, 1), (2, -1)):
        fake_run(tmp_path / f"seed{seed}", shifted(by), seed=[seed], forgetting=20.0 + 2 * by)
    return tmp_path


def table(text):
    """Return the first Markdown table in a text as a list of rows of cells."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line[1:-1].split("|")])
    return [rows[0], *rows[2:]]


# --- What is averaged -----------------------------------------------------------------------------


def test_mean_and_deviation_by_hand():
    # 72, 73, 71: mean 72; squared differences 0 + 1 + 1 = 2, over n - 1 = 2: 1.
    assert Spread.over([72, 73, 71]) == Spread(72, 1)
    # 60, 63: mean 61.5; 2 x 1.5^2 / 1 = 4.5; sqrt 2.1213.
    assert str(Spread.over([60, 63])) == "61.50 ± 2.12"
    assert Spread.over([5]) == Spread(5, None)
    assert str(Spread.over([5.0])) == "5.00"
    assert str(Spread.over([None, 5])) == "-"


def test_one_row_for_three_seeds(three_seeds):
    header, row = table(results_report(find_runs([three_seeds]), False)["report.md"])
    cells = dict(zip(header, row, strict=True))
    assert cells == {
        "setting": "1: cifar100 B0 Inc10, fair, resnet32, ms 3312",
        "method": "memo",
        "n": "3",
        "CNN average (%)": "72.00 ± 1.00",
        "CNN last (%)": "62.00 ± 1.00",
        "CNN forgetting": "20.00 ± 2.00",
        "NME average (%)": "71.00 ± 1.00",
        "NME last (%)": "61.00 ± 1.00",
        "exemplars": "3300",
        "MB": "23.54",
        "time": "1 min 00 s",
    }


def test_torch_seeds_and_what_changes_no_result_are_one_experiment(tmp_path):
    fake_run(tmp_path / "a", TEN)
    fake_run(tmp_path / "b", TEN, torch_seed=2, num_workers=0, data_dir="/elsewhere")
    fake_run(tmp_path / "c", TEN, torch_seed=3, device=[1], devices=["cuda:1 (NVIDIA H200)"])
    (group,), left_out = group_runs(find_runs([tmp_path]))
    assert len(group.runs) == 3
    assert left_out == []


@pytest.mark.parametrize(
    "changes",
    [
        {"lrate": 0.05},
        {"scheduler": "cosine"},
        {"train_base": False},
        {"memory_size": 2000},
        {"prefix": "benchmark"},
        {"debug": True},
        {"devices": ["cuda:0", "cuda:1"]},  # BatchNorm sees half a batch
        {"processes": 2},  # likewise; config.json names rank 0's device only
        {"notes": {"_version": 1}},
        {"notes": {"_git_commit": "f" * 40}},
    ],
)
def test_any_other_difference_is_another_row_that_says_so(changes, tmp_path):
    fake_run(tmp_path / "a", TEN)
    fake_run(tmp_path / "b", TEN, seed=[1], **changes)
    runs = find_runs([tmp_path])
    groups, _ = group_runs(runs)
    assert [len(group.runs) for group in groups] == [1, 1]
    rows = table(results_report(runs, False)["report.md"])[1:]
    assert rows[0][0][3:] + rows[0][2] != rows[1][0][3:] + rows[1][2]


def test_runs_of_two_versions_of_the_program_are_not_averaged(tmp_path):
    versions = [
        *({"_version": 1, "_git_commit": commit} for commit in ("a" * 40, "b" * 40, None)),
        {"_version": 2, "_git_commit": "a" * 40},
        # Runs from before there was a version: only those of one commit are surely of one kind.
        *({"_git_commit": commit} for commit in ("a" * 40, "a" * 40, "b" * 40, None, None)),
    ]
    for seed, notes in enumerate(versions):
        fake_run(tmp_path / str(seed), TEN, seed=[seed], notes=notes)
    rows = table(results_report(find_runs([tmp_path]), False)["report.md"])[1:]
    assert [(row[2], row[3]) for row in rows] == [
        ("version 1", "3"),
        ("version 2", "1"),
        ("commit aaaaaaa", "2"),
        ("commit bbbbbbb", "1"),
        ("version not recorded", "2"),
    ]


def test_runs_from_bare_and_from_mixed_seeds_are_never_in_one_row():
    groups, _ = group_runs(find_runs([PUBLISHED / "short"]))
    kinds = [{run.folder.parent.name == "bare_seeds" for run in group.runs} for group in groups]
    assert {True} in kinds
    assert {True, False} not in kinds


def test_no_cell_is_as_long_as_a_path(tmp_path):
    for name in "ab":
        path = f"/scratch/{'long/' * 30}{name}/task_1.pt"
        fake_run(tmp_path / name, TEN, skip=True, init_checkpoint=path)
    report = results_report(find_runs([tmp_path]), False)
    rows = table(report["report.md"])[1:]
    assert max(len(cell) for row in rows for cell in row) <= 60
    assert "init_checkpoint=/scratch/l...a/task_1.pt" in rows[0][2]
    assert f"init_checkpoint=/scratch/{'long/' * 30}a/task_1.pt" in report["report.md"]


def test_published_runs_are_left_out_unless_named():
    assert not [run for run in find_runs([REPOSITORY / "logs"]) if "published" in run.folder.parts]
    named = find_runs([REPOSITORY / "logs", PUBLISHED / "short" / "bf16"])
    assert [run.folder.parent.name for run in named if "published" in run.folder.parts] == [
        *["bf16"] * 3
    ]


@pytest.mark.parametrize("path", ["logs/published/short/bf16", "logs/published", "."])
def test_nothing_is_written_among_the_files_of_the_repository(path, tmp_path, monkeypatch):
    for file in [*(REPOSITORY / "logs/published/short/bf16").rglob("*.json")]:
        copy = tmp_path / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("utils.runs.PUBLISHED", tmp_path / "logs" / "published")
    monkeypatch.setattr("utils.report.EXPS_DIR", tmp_path / "exps")
    fake_run(tmp_path / "logs" / "own", TEN)
    assert main([path]) == 0
    assert {file.parent.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("report*")} == {
        "logs"
    }
    assert main([path, "--out", "logs/published"]) == 0
    assert (tmp_path / "logs" / "published" / "report.md").exists()


def test_auto_is_told_apart_by_what_it_was(tmp_path):
    for number, (precision, noted) in enumerate(
        [("auto", "tf32"), ("tf32", "tf32"), ("auto", "fp32"), ("auto", None)]
    ):
        folder = fake_run(tmp_path / str(number), TEN, precision=precision, seed=[number])
        config = json.loads((folder / "config.json").read_text())
        if noted:
            (folder / "config.json").write_text(json.dumps({**config, "_precision": noted}))
    runs = [as_computed(run) for run in find_runs([tmp_path])]
    groups, _ = group_runs(runs)
    assert [[run.folder.name for run in group.runs] for group in groups] == [["0", "1"], ["2", "3"]]
    assert main([str(tmp_path)]) == 0
    with open(tmp_path / "report.csv", newline="") as file:
        rows = [(row["n"], row["told_apart_by"]) for row in csv.DictReader(file)]
    assert rows == [("2", "precision=tf32"), ("2", "precision=auto")]


def test_rows_of_the_same_setting_are_told_apart(tmp_path):
    fake_run(tmp_path / "a", TEN)
    fake_run(tmp_path / "b", TEN, scheduler="cosine")
    report = results_report(find_runs([tmp_path]), False)["report.md"]
    assert [row[2] for row in table(report)[1:]] == [
        f"scheduler={each}, init_scheduler={each}" for each in ("steplr", "cosine")
    ]
    assert "2: other settings: scheduler=cosine" in report


def test_unfinished_runs_are_listed_and_not_averaged(three_seeds):
    fake_run(three_seeds / "dying", shifted(5)[:4], seed=[5], finished=False)
    fake_run(three_seeds / "young", TEN, seed=[6])
    (three_seeds / "young" / "summary.json").unlink()
    fake_run(three_seeds / "cut", TEN, seed=[7])
    (three_seeds / "cut" / "summary.json").write_text('{"average')
    fake_run(three_seeds / "old", TEN, seed=[8])
    (three_seeds / "old" / "summary.json").write_text('{"finished": true, "seconds": 1}')
    report = results_report(find_runs([three_seeds]), False)["report.md"]
    assert table(report)[1][1:4] == ["memo", "3", "72.00 ± 1.00"]
    listed = report.split("Not averaged:")[1]
    assert f"- {three_seeds / 'dying'}: 4 of 10 tasks finished" in listed
    assert f"- {three_seeds / 'young'}: no task finished" in listed
    assert f"- {three_seeds / 'cut'}: summary.json cannot be read" in listed
    assert f"- {three_seeds / 'old'}: summary.json lacks average_accuracy, last_acc" in listed


def test_a_run_that_was_to_stop_is_finished_and_stands_with_its_like(three_seeds):
    fake_run(three_seeds / "s1", [90.0, 80.0], seed=[1], stop_after_task=2)
    fake_run(three_seeds / "s2", [80.0, 70.0], seed=[2], stop_after_task=2)
    # To stop after the last task is to run them all.
    fake_run(three_seeds / "all", shifted(2), seed=[3], stop_after_task=10)
    rows = table(results_report(find_runs([three_seeds]), True)["report.md"])
    by_name = {row[0].split(": ", 1)[1]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}
    short = by_name["cifar100 B0 Inc10, fair, resnet32, ms 3312, after task 2 of 10"]
    assert (short["n"], short["CNN average (%)"]) == ("2", "80.00 ± 7.07")
    assert short["published CNN average"] == "-"
    assert short["MB"] == f"{((112_016 + 2 * 351_488) * 4 + 3312 * 3072) / 2**20:.2f}"
    assert by_name["cifar100 B0 Inc10, fair, resnet32, ms 3312"]["n"] == "4"


def test_the_same_seed_twice_is_no_second_sample(three_seeds):
    fake_run(three_seeds / "t_again", shifted(9), seed=[1993])
    (group,), left_out = group_runs(find_runs([three_seeds]))
    assert len(group.runs) == 3
    # The later folder counts.
    assert group.over_runs("last_accuracy").mean == pytest.approx((71 + 63 + 61) / 3)
    ((run, reason),) = left_out
    assert run.folder.name == "seed1993"
    assert "t_again" in reason


# --- Beside the published numbers -----------------------------------------------------------------


def test_compare(three_seeds):
    report = results_report(find_runs([three_seeds]), True)["report.md"]
    header, row = table(report)
    # 72.00 - 72.37, 62.00 - 61.98
    assert row[header.index("published CNN average") :][:4] == ["72.37", "-0.37", "61.98", "+0.02"]
    assert "cifar100 B0 Inc10, fair, resnet32: foster" in report


@pytest.fixture
def several_methods(tmp_path):
    """A finished run of MEMO and of three others; iCaRL's NME ends at 58.5, published are 58.52."""
    shape = {"init_cls": 10, "increment": 10, "curves": True}
    fake_run(tmp_path / "memo", TEN, **shape)
    shape["convnet_type"] = "resnet32"
    icarl = {"model_name": "icarl", "memory_size": 7431, "nme": shifted(-3.5), "forgetting": 25.0}
    fake_run(tmp_path / "icarl", TEN, **icarl, **shape)
    fake_run(tmp_path / "replay", shifted(-9), model_name="replay", memory_size=7431, **shape)
    # Nothing is published for it under `fair`, because it keeps nothing.
    fake_run(tmp_path / "finetune", [10.0] * 10, model_name="finetune", memory_size=0, **shape)
    return tmp_path


def test_each_method_is_compared_by_its_headline_and_may_lack_nme(several_methods, monkeypatch):
    drawn, draw = [], utils.report.draw_seed_curves
    monkeypatch.setattr(
        utils.report, "draw_seed_curves", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    )
    files = results_report(find_runs([several_methods]), True)
    header, *rows = table(files["report.md"])
    rows = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
    cells = ("NME last (%)", "CNN last (%)", "published headline last")
    assert [rows["icarl"][cell] for cell in cells] == ["58.50", "62.00", "58.52"]
    assert [rows["memo"][cell] for cell in cells] == ["61.00", "62.00", "61.98"]
    assert [rows["finetune"][cell] for cell in cells] == ["-", "10.00", "-"]
    # 68.50 - 70.94, 58.50 - 58.52
    (icarl,) = (row for row in table(files["report.md"]) if row[1] == "icarl")
    # and CNN's, which the published number may be: 72.00 - 70.94, 62.00 - 58.52
    assert icarl[-4:] == ["70.94", "-2.44 (CNN: +1.06)", "58.52", "-0.02 (CNN: +3.48)"]
    assert rows["replay"]["exemplars"] == "3300"
    assert "of iCaRL that of NME" in files["report.md"]
    csv_rows = {row["method"]: row for row in csv.DictReader(files["report.csv"].split("\n"))}
    columns = ("headline", "published_average", "published_last")
    assert [csv_rows["icarl"][column] for column in columns] == ["nme", "70.94", "58.52"]
    assert [csv_rows["memo"][column] for column in columns] == ["cnn", "72.37", "61.98"]
    assert csv_rows["finetune"]["nme_average_accuracy_mean"] == ""
    (axes,) = drawn[0].axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert any(label.startswith("iCaRL") and label.endswith("(NME, n = 1)") for label in labels)
    assert any(label.startswith("Finetune") and label.endswith("(CNN, n = 1)") for label in labels)
    (nme,) = (line for line in axes.get_lines() if line.get_label().startswith("iCaRL"))
    assert nme.get_ydata().tolist() == shifted(-3.5)
    assert axes.get_ylabel() == "Top-1 accuracy (%)"


def test_a_table_says_that_icarl_is_quoted_by_nme_also_when_nothing_is_compared(several_methods):
    said = "of iCaRL that of NME"
    assert said in results_report(find_runs([several_methods]), False)["report.md"]
    assert said not in results_report(find_runs([several_methods / "memo"]), False)["report.md"]


def test_a_summary_without_nme_is_one_of_a_method_without_exemplars(several_methods):
    unfinished = {run.folder.name: run.unfinished for run in find_runs([several_methods])}
    assert set(unfinished.values()) == {""}
    path = several_methods / "icarl" / "summary.json"
    summary = json.loads(path.read_text())
    curves = {**summary["curves"], "nme_top1": [None] * 10}
    for damage in ({"last_nme_accuracy": None}, {"curves": curves}):
        path.write_text(json.dumps({**summary, **damage}))
        (run,) = find_runs([several_methods / "icarl"])
        assert "no NME for every task, but iCaRL keeps exemplars" in run.unfinished


def test_compare_where_nothing_is_published(tmp_path):
    fake_run(tmp_path / "a", TEN, memory_size=3000)
    report = results_report(find_runs([tmp_path]), True)["report.md"]
    assert table(report)[1][-4:] == ["-"] * 4


# --- The files ------------------------------------------------------------------------------------


def test_csv_has_full_precision_and_every_setting(three_seeds):
    (row,) = csv.DictReader(
        results_report(find_runs([three_seeds]), True)["report.csv"].split("\n")
    )
    assert (row["n"], row["class_orders"], row["torch_seeds"]) == ("3", "1 2 1993", "1 1 1")
    assert (row["cnn_average_accuracy_mean"], row["cnn_average_accuracy_sd"]) == ("72.0", "1.0")
    assert (row["nme_last_accuracy_mean"], row["published_last"]) == ("61.0", "61.98")
    assert row["headline"] == "cnn"
    assert row["method"] == row["model_name"] == "memo"
    assert row["exemplar_budget"] == row["memory_size"] == "3312"


def test_latex(three_seeds):
    text = results_report(find_runs([three_seeds]), False)["report.tex"]
    assert r"\begin{tabular}{lrrrrrrrrrr}" in text
    assert "resnet32, ms 3312 & memo & 3 &" in text
    assert r"72.00 $\pm$ 1.00" in text
    assert r"CNN average (\%)" in text


def test_the_command_as_a_process(three_seeds, tmp_path):
    words = [sys.executable, "-m", "utils.report", three_seeds, "--compare"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith((three_seeds / "report.md").read_text())
    assert (three_seeds / "report.csv").exists()
    assert (three_seeds / "report.tex").exists()
    # Several folders: the report lies above them.
    assert main([str(three_seeds / "seed1"), str(three_seeds / "seed2")]) == 0
    assert "| 2 |" in (three_seeds / "report.md").read_text()
    # A report of the same folder again: its own files are no runs.
    assert main([str(three_seeds), "--out", str(tmp_path / "o")]) == 0


def test_a_matplotlib_that_does_not_work_costs_the_pictures_alone(
    tmp_path, monkeypatch, pictures, capsys
):
    fake_run(tmp_path / "run", TEN, curves=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(tmp_path), "--out", str(tmp_path / "o")]) == 0
    assert {path.name for path in (tmp_path / "o").iterdir()} == {
        *("report.md", "report.csv", "report.tex")
    }
    assert "report_curves.png cannot be drawn: ModuleNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere: there is no such folder"),
        (["empty"], "no run is in"),
        (["unfinished"], "no run is finished"),
        (["unfinished", "--auc"], "no finished run of the protocol auc"),
        (["empty", "--aux"], "--aux"),
        ([], "paths"),
    ],
)
def test_mistakes_are_one_message(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    fake_run(tmp_path / "unfinished" / "run", TEN[:2], finished=False)
    try:
        code = main(words)
    except SystemExit as stopped:
        code = stopped.code
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert shown.err.startswith("utils.report: ")
    assert says in shown.err


# --- The curves over seeds ------------------------------------------------------------------------


def test_curves_show_mean_and_deviation_over_seeds(tmp_path, monkeypatch):
    drawn, draw = [], utils.report.draw_seed_curves
    monkeypatch.setattr(
        utils.report, "draw_seed_curves", lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]
    )
    for seed, by in ((1993, 0), (1, 1), (2, -1)):
        fake_run(tmp_path / f"seed{seed}", shifted(by), seed=[seed], curves=True)
    fake_run(tmp_path / "x", shifted(9)[:3], lrate=0.2, stop_after_task=3, curves=True)
    fake_run(tmp_path / "y", TEN[:5], increment=20, init_cls=20, memory_size=2000, curves=True)
    fake_run(tmp_path / "z", TEN, memory_size=2000)  # its curve is not noted
    assert main([str(tmp_path)]) == 0
    names = {f"report_curves_{n}.{file_format}" for n in (1, 2) for file_format in ("png", "pdf")}
    assert {path.name for path in tmp_path.glob("report_*")} == names
    (axes,), (other,) = (figure.axes for figure in drawn)
    ours, dotted, short, *_ = axes.get_lines()
    assert ours.get_label() == "MEMO (n = 3)"
    assert ours.get_xdata().tolist() == list(range(10, 101, 10))
    np.testing.assert_allclose(ours.get_ydata(), TEN)
    # 72, 73 and 71 in all tasks: a deviation of 1.
    band = axes.collections[0].get_paths()[0].vertices
    low, high = (band[band[:, 0] == 100, 1].min(), band[band[:, 0] == 100, 1].max())
    assert (low, high) == pytest.approx((61, 63))
    assert (dotted.get_linestyle(), len(dotted.get_xdata())) == (":", 10)
    assert short.get_label() == "MEMO, after task 3 of 10 (n = 1)"
    assert len(short.get_xdata()) == 3
    assert other.get_lines()[0].get_xdata().tolist() == [20, 40, 60, 80, 100]
    assert not other.collections  # no deviation of one run
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figure_bytes(drawn[0]).startswith(b"\x89PNG")


def test_more_curves_than_colours_are_drawn_on_several_pictures(tmp_path):
    for number in range(8):
        fake_run(tmp_path / str(number), TEN, lrate=0.1 + number, curves=True)
    files = results_report(find_runs([tmp_path]), False)
    assert [name for name in files if name.endswith("png")] == [
        "report_curves_1.png",
        "report_curves_2.png",
    ]


# --- The performance-memory curve -----------------------------------------------------------------

AUC_ROWS = [row for row in published.rows() if (row.method, row.prefix) == ("memo", "auc")]


@pytest.fixture
def published_curve(tmp_path):
    """The five published points, as runs."""
    for row in AUC_ROWS:
        fake_run(
            tmp_path / row.convnet_type,
            TEN,
            prefix="auc",
            convnet_type=f"memo_{row.convnet_type}",
            memory_size=row.memory_size,
            average=row.average,
            last=row.last,
        )
    return tmp_path


def test_the_published_points_give_the_published_areas(published_curve):
    (curve,), _ = find_curves(find_runs([published_curve]))
    assert round(curve.area("average_accuracy").mean, 2) == 10.86  # published: 10.85
    assert round(curve.area("last_accuracy").mean, 2) == 9.04  # published: 9.03
    # Accuracy per MB: 54.9 / 7.6 and 72.4 / 23.5 (published: 7.18 and 3.06).
    assert round(curve.per_mb(0, "cnn"), 2) == 7.22
    assert round(curve.per_mb(-1, "cnn"), 2) == 3.08
    # Over exact bytes 7.63, 12.41, 16.12, 19.83, 23.54 MB, by hand.
    exact = (4.786 * 1.24 + 3.711 * 1.395 + 3.708 * 1.422 + 3.708 * 1.442) / 2
    assert curve.area("average_accuracy", exact=True).mean == pytest.approx(exact, abs=0.003)


def test_the_command_prints_and_draws_it(published_curve, capsys, pictures):
    assert main(["--auc", str(published_curve), "--compare"]) == 0
    said = capsys.readouterr().out
    areas = said[said.index("| area") :]
    rows = {row[0]: row[1:] for row in table(areas)}
    assert rows["over nominal MB"] == ["10.86", "9.04", "7.22", "3.08"]
    assert rows["published: memo"] == ["10.85", "9.03", "7.18", "3.06"]
    # 10.8565 - 10.85, 9.03625 - 9.03, 7.2237 - 7.18, 3.0809 - 3.06
    assert rows["difference from it (nominal)"] == ["+0.01", "+0.01", "+0.04", "+0.02"]
    assert rows["published: foster"] == ["11.12", "9.03", "-", "-"]
    (area, *_) = csv.DictReader((published_curve / "auc_areas.csv").open())
    assert (area["headline"], area["AUC-A"]) == ("cnn", "10.86")
    assert (published_curve / "auc.png").read_bytes().startswith(b"\x89PNG")
    assert (published_curve / "auc.pdf").read_bytes().startswith(b"%PDF")
    points = list(csv.DictReader((published_curve / "auc.csv").open()))
    assert [float(point["nominal_mb"]) for point in points] == [7.6, 12.4, 16.0, 19.8, 23.5]


def test_the_area_is_that_of_the_headline(published_curve):
    rows = [row for row in published.rows() if (row.method, row.prefix) == ("icarl", "auc")]
    for (point, _), row in zip(POINTS, rows[: len(POINTS)], strict=True):
        fake_run(
            *(published_curve / f"icarl_{point}", [50.0] * 10),
            nme=[row.average] * 10,
            prefix="auc",
            model_name="icarl",
            convnet_type="resnet32",
            point=point,
            memory_size=row.memory_size,
        )
    files = area_report(find_runs([published_curve]), True)
    rows = list(csv.DictReader(files["auc_areas.csv"].split("\n")))
    areas = {(row["headline"], row["area"]): (row["AUC-A"], row["APM-S"]) for row in rows}
    assert areas["nme", "over nominal MB"] == ("10.81", "8.35")
    assert areas["cnn", "over nominal MB"] == ("10.86", "7.22")
    # The classifier's: 0.5 over 23.5 - 7.6 MB, 50 / 7.6; published 10.81 and 8.32.
    assert areas["nme", "over nominal MB, CNN"] == ("7.95", "6.58")
    assert areas["nme", "difference from it (nominal), CNN"] == ("-2.86", "-1.74")
    assert ("cnn", "over nominal MB, CNN") not in areas
    assert "AUC-A (CNN average)" in files["auc.md"]  # of MEMO alone
    assert "of iCaRL that of NME" in files["auc.md"]


@pytest.mark.parametrize("how", ["absent", "unfinished", "other memory"])
def test_without_a_budget_the_others_are_shown_without_an_area(how, published_curve, capsys):
    folder = published_curve / "resnet20_cifar"
    if how == "absent":
        (folder / "config.json").unlink()
    elif how == "unfinished":
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "finished": False}))
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "memory_size": 2000}))
    assert main(["--auc", str(published_curve), "--compare"]) == 0
    said = capsys.readouterr().out
    assert len(table(said)) == 1 + 4
    assert "No area: 1 of 5 budgets have no finished run" in said
    assert "- 16.0 MB, memo_resnet20_cifar with 2768 exemplars\n" in said
    assert (f"{folder}: 2000 exemplars, but its point" in said) is (how == "other memory")
    assert (f"{folder}: 10 of 10 tasks finished" in said) is (how == "unfinished")
    assert "AUC-A" not in said
    assert len((published_curve / "auc_areas.csv").read_text().splitlines()) == 1
    assert (published_curve / "auc.png").exists()
    (curve,), _ = find_curves(find_runs([published_curve]))
    axes = utils.report._area_picture(curve).axes[0]
    ours, _, theirs, _ = (line.get_xdata().tolist() for line in axes.get_lines())
    assert ours == theirs == [7.6, 12.4, 19.8, 23.5]
    assert "AUC" not in axes.get_lines()[0].get_label()


def test_titles_of_pictures_are_in_words_or_left_out(published_curve, monkeypatch):
    titles = []
    for name in ("draw_area", "draw_seed_curves"):
        monkeypatch.setattr(utils.report, name, lambda *_, title, **__: titles.append(title))
    monkeypatch.setattr(utils.pictures, "figure_bytes", lambda *_: b"")
    fake_run(published_curve / "drawn", TEN, curves=True)
    for words in (["--auc"], []):
        titles.clear()
        assert main([*words, str(published_curve)]) == 0
        assert titles
        assert all("CIFAR-100, Base0 Inc10" in title for title in titles)
        titles.clear()
        assert main([*words, str(published_curve), "--no_titles"]) == 0
        assert {*titles} == {""}


@pytest.fixture
def own_backbone(monkeypatch):
    """Register a backbone of 100,000 + 300,000 weights, as README says."""
    own = Backbone("tiny", 64, 4, 100_000, 300_000, 64, 0, 0)
    monkeypatch.setitem(catalog.BACKBONES, "tiny", own)
    return own


def test_a_backbone_of_one_s_own_is_a_point_of_the_curve(
    published_curve, own_backbone, capsys, monkeypatch
):
    # Ten tasks: 9 trunks fewer than DER's ten networks, in images of 3072 bytes.
    memory_size = 2000 + 9 * 100_000 * 4 // 3072
    assert Config(prefix="auc", convnet_type="tiny", memory_size="auto").memory_size == memory_size
    settings = {"prefix": "auc", "convnet_type": "memo_tiny", "memory_size": memory_size}
    fake_run(published_curve / "tiny", TEN, average=66, last=55, **settings)
    assert main(["--auc", str(published_curve), "--compare"]) == 0
    said = capsys.readouterr().out
    rows = {row[0]: row for row in table(said)}
    # 3.1 million weights of 4 bytes and the exemplars, in MB.
    megabytes = (3_100_000 * 4 + memory_size * 3072) / 2**20
    assert rows["tiny"][1:4] == [f"{megabytes:.1f}", f"{megabytes:.2f}", str(memory_size)]
    assert len(rows) == 1 + 6
    assert "over nominal MB" in said
    # Two such backbones make a curve of their own, to which the published points do not belong.
    fake_run(published_curve / "own", TEN, scheduler="cosine", **settings)
    logs = [published_curve / "own"]
    (curve,), _ = find_curves(find_runs(logs))
    assert (len(curve.points), curve.missing, curve.whole) == (1, (), False)
    monkeypatch.setitem(catalog.BACKBONES, "larger", replace(own_backbone, name="larger",
                                                             specialized=400_000))  # fmt: skip
    settings |= {"convnet_type": "memo_larger", "scheduler": "cosine"}
    fake_run(published_curve / "larger", TEN, **settings)
    (curve,), _ = find_curves(find_runs([*logs, published_curve / "larger"]))
    # 0.72 over a million more weights in ten blocks.
    area = curve.area("average_accuracy", exact=True).mean
    assert area == pytest.approx(0.72 * 10 * 100_000 * 4 / 2**20)


def test_a_method_with_one_backbone_stands_at_the_budgets_of_the_others(tmp_path):
    for point, memory_size in zip(POINTS, [2000, 3634, 4900, 6165, 7431], strict=True):
        settings = {"prefix": "auc", "convnet_type": "resnet32", "memory_size": memory_size}
        fake_run(tmp_path / point[0], TEN, model_name="wa", point=point[0], **settings)
    (curve,), left_out = find_curves(find_runs([tmp_path]))
    assert (curve.whole, left_out) == (True, [])
    assert [point.nominal_mb for point in curve.points] == [7.6, 12.4, 16.0, 19.8, 23.5]
    exact = [round(point.exact_mb, 2) for point in curve.points]
    assert exact == [7.63, 12.41, 16.12, 19.83, 23.54]
    # 0.72 over 23.5 - 7.6 MB; published: 10.80
    said = area_report(find_runs([tmp_path]), True)["auc.md"]
    rows = {row[0]: row[1:] for row in table(said[said.index("| area") :])}
    assert rows["over nominal MB"][0] == "11.45"
    assert rows["difference from it (nominal)"][0] == "+0.65"
    # The exemplars of one budget at another one are no point.
    fake_run(tmp_path / "stray", TEN, model_name="wa", point="conv2", **settings)
    _, ((_, reason),) = find_curves(find_runs([tmp_path]))
    assert reason == "7431 exemplars, but its point of the curve has 2000"


def test_runs_that_stopped_early_are_no_points(published_curve):
    fake_run(published_curve / "s", TEN[:3], prefix="auc", stop_after_task=3)
    (curve,), left_out = find_curves(find_runs([published_curve]))
    assert len(curve.groups) == 5
    assert "stopped after task 3 of 10" in left_out[0][1]


def test_areas_over_seeds(published_curve):
    for row in AUC_ROWS:
        fake_run(
            published_curve / f"second_{row.convnet_type}",
            TEN,
            seed=[1],
            prefix="auc",
            convnet_type=f"memo_{row.convnet_type}",
            memory_size=row.memory_size,
            average=row.average + 1,
            last=row.last,
        )
    (curve,), _ = find_curves(find_runs([published_curve]))
    area = curve.area("average_accuracy")
    # One more point everywhere: (23.5 - 7.6) / 100 more area.
    assert area.sd == pytest.approx(0.159 / 2**0.5)
    assert round(area.mean - 0.159 / 2, 2) == 10.86
    # Without the same seeds at every point there is no area of a seed.
    fewer = Curve(curve.name, curve.points, (*curve.groups[:4], type(curve.groups[4])(
        curve.groups[4].runs[:1]
    )))  # fmt: skip
    assert fewer.area("average_accuracy").sd is None


def test_curves_of_two_experiments_have_a_picture_each(published_curve):
    for row in AUC_ROWS:
        fake_run(
            published_curve / f"cosine_{row.convnet_type}",
            TEN,
            prefix="auc",
            scheduler="cosine",
            convnet_type=f"memo_{row.convnet_type}",
            memory_size=row.memory_size,
        )
    files = area_report(find_runs([published_curve]), False)
    assert {"auc_1.png", "auc_2.png", "auc.md"} <= set(files)


def test_no_auc_run_at_all(three_seeds):
    with pytest.raises(ReportError, match="no finished run of the protocol auc"):
        find_curves(find_runs([three_seeds]))


class TestSeveralCurves:
    """Finished sweeps beside each other, and what belongs to none of them."""

    def fake_curve(self, logs, **settings):
        for point, (name, ms) in enumerate(POINTS):
            fake_run(
                logs / f"{len(list(logs.iterdir())):02d}_{name}",
                [60.0 + point] * 10,
                prefix="auc",
                convnet_type=f"memo_{name}",
                memory_size=ms,
                init_cls=10,
                increment=10,
                **settings,
            )

    @pytest.fixture
    def logs(self, tmp_path):
        (tmp_path / "logs").mkdir()
        self.fake_curve(tmp_path / "logs")
        return tmp_path / "logs"

    def test_a_stray_run_does_not_keep_a_whole_curve_from_being_reported(self, logs, capsys):
        fake_run(logs / "stray", [50.0] * 10, prefix="auc", convnet_type="memo_conv2",
                 memory_size=2118, init_cls=10, increment=10, epochs=1)  # fmt: skip
        assert main(["--auc", str(logs)]) == 0
        said = capsys.readouterr().out
        assert "AUC-A" in said
        assert re.search(r"\n2: memo, cifar100 B0 Inc10, epochs=1, ", said)
        assert "No area: 4 of 5 budgets" in said.split("\n2: ")[1]

    def test_curves_are_told_apart_by_the_settings_that_differ(self, logs, capsys):
        self.fake_curve(logs, scheduler="cosine")
        assert main(["--auc", str(logs)]) == 0
        said = capsys.readouterr().out
        assert "scheduler=steplr" in said
        assert "scheduler=cosine" in said

    def test_other_numbers_of_gpus_are_another_curve(self, logs, capsys):
        fake_run(logs / "two", [50.0] * 10, prefix="auc", convnet_type="memo_conv2",
                 memory_size=2118, devices=("cuda:0", "cuda:1"))  # fmt: skip
        assert main(["--auc", str(logs)]) == 0
        assert "\n2: memo, cifar100 B0 Inc10, on 2 devices\n" in capsys.readouterr().out


def test_a_damaged_run_is_listed_with_the_reason_and_everything_else_goes_on(three_seeds, capsys):
    for name, damage in DAMAGES.items():
        damage(fake_run(three_seeds / name, TEN, seed=[5]))
    assert main([str(three_seeds)]) == 0
    said = capsys.readouterr().out
    assert table(said)[1][2:4] == ["3", "72.00 ± 1.00"]
    listed = said.split("Not averaged:")[1]
    for name in DAMAGES:
        assert re.search(f"^- .*/{name}: {name[:6]}.*json .", listed, flags=re.MULTILINE), name
    assert "model_name: there is no method 'coil': known are memo" in listed
    assert "config.json cannot be read (it is a pipe or a device, not a regular file)" in listed
    assert max(map(len, listed.splitlines())) < 500
    assert main(["--auc", str(three_seeds)]) == 2  # no run of that protocol, and no traceback
    assert main(["--published", str(three_seeds)]) == 0
