"""README's table of the published results: which run fills which line, and that README has it."""

import json

import pytest
from conftest import REPOSITORY
from fake_runs import fake_run
from test_report import POINTS, TEN, shifted, table

from models.methods import METHODS
from utils import published
from utils.config import EXPS_DIR, load_config
from utils.report import main, published_table
from utils.reproduction import HEADER, hardware
from utils.runs import find_runs, read_run

H200 = "cuda:0 (NVIDIA H200)"


def lines(folder):
    """Return the table's lines as dicts, but for those that are not measured."""
    header, *rows = table(published_table(find_runs([folder])))
    assert header == list(HEADER)
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    return [row for row in rows if row["ours"] != "not measured"]


def run_of(folder, name, top1=TEN, **changes):
    """Leave a run of a file in exps/, with changes."""
    config = load_config(["--config", str(EXPS_DIR / f"{name}.json")])[0].to_dict()
    return fake_run(folder, top1, **{**config, **changes})


def test_without_runs_every_published_setting_and_result_has_a_line(tmp_path):
    assert lines(tmp_path) == []
    _, *rows = table(published_table([]))
    memo = [row for row in published.rows() if row.method == "memo"]
    said = {(row[2], row[3]) for row in rows}
    assert said >= {(str(row.memory_size), f"{row.average:.2f} / {row.last:.2f}") for row in memo}
    by_file = {row[1].strip("`"): row for row in rows}
    assert by_file["icarl.json"][0] == "iCaRL, CIFAR100 Base0 Inc10, fair, steps"
    assert by_file["icarl.json"][2:4] == ["7431", "70.94 / 58.52"]
    assert by_file["finetune.json"][2:4] == ["0", "26.25 / 9.09"]
    of_nothing_published = set(METHODS) - {row.method for row in published.rows()}
    left_out = {"memo", "quickstart", *of_nothing_published}
    files = {path.name for path in EXPS_DIR.glob("*.json") if path.stem not in left_out}
    areas = {"auc_cifar100_*.json", "auc_imagenet100_*.json"}
    named = [row[1].strip("`") for row in rows]
    assert set(named) == files | areas
    assert len(named) == len(files | areas)
    assert rows[0][:2] == [
        "CIFAR100 Base0 Inc10, fair, steps",
        "`cifar100_b0_inc10_fair_steps.json`",
    ]
    unpublished = {row[0]: row[3:5] for row in rows if row[3] == "-"}
    assert set(map(tuple, unpublished.values())) == {("-", "not measured")}
    assert unpublished.keys() >= {"CIFAR100 Base0 Inc20, fair, steps"}
    assert rows[-2][0] == "CIFAR100 Base0 Inc10, AUC-A / AUC-L"
    assert rows[-2][3:5] == ["10.85 / 9.03", "not measured"]
    assert rows[-1][0] == "ImageNet100 Base50 Inc5, AUC-A / AUC-L"
    assert rows[-1][3:5] == ["-", "not measured"]


def test_runs_with_other_seeds_are_one_line(tmp_path):
    run_of(tmp_path / "a", "cifar100_b0_inc10_fair_cosine", devices=[H200])
    run_of(tmp_path / "b", "cifar100_b0_inc10_fair_cosine", shifted(1), seed=[2], devices=[H200])
    (line,) = lines(tmp_path)
    assert line == {
        "setting": "CIFAR100 Base0 Inc10, fair, cosine",
        "file in exps/": "`cifar100_b0_inc10_fair_cosine.json`",
        "exemplars": "3312",
        "published average / last": "72.37 / 61.98",
        "ours": "72.50 ± 0.71 / 62.50 ± 0.71",
        "difference": "+0.13 / +0.52",
        "n: class order/torch seed": "2: 2/1, 1993/1",
        "hardware": "NVIDIA H200",
        "time of a run": "1 min 00 s",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"init_epoch": 8},
        {"epochs": 6},
        {"milestones": [80, 120]},
        {"init_milestones": [4, 6]},
        {"scheduler": "cosine", "t_max": 100},
        {"memory_size": 3311},
        {"lrate": 0.05},
        {"batch_size": 64},
        {"train_base": False},
        {"train_adaptive": True},
        {"convnet_type": "memo_resnet20_cifar"},
        {"prefix": "benchmark"},
        {"shuffle": False},
        {"stop_after_task": 10, "finished": False},
        {"stop_after_task": 3, "top1": TEN[:3]},
    ],
)
def test_a_run_that_is_not_the_whole_experiment_fills_no_line(changes, tmp_path):
    run_of(tmp_path / "run", "cifar100_b0_inc10_fair_steps", **changes)
    assert lines(tmp_path) == []


def test_the_short_runs_kept_fill_no_line():
    folder = REPOSITORY / "logs" / "published" / "short"
    assert find_runs([folder])
    assert lines(folder) == []


def test_what_the_file_leaves_open_is_told_and_has_a_line_of_its_own(tmp_path):
    name = "cifar100_b0_inc10_fair_steps"
    run_of(tmp_path / "a", name, devices=[H200])
    run_of(tmp_path / "b", name, devices=[f"cuda:{i} (NVIDIA H200)" for i in range(4)])
    run_of(tmp_path / "c", name, devices=[H200], deterministic=True, num_workers=0)
    run_of(tmp_path / "d", name, stop_after_task=10, torch_seed=2, devices=[H200])
    run_of(tmp_path / "e", name, devices=[H200], processes=2)
    told = {line["hardware"]: line["n: class order/torch seed"] for line in lines(tmp_path)}
    assert told == {
        "NVIDIA H200": "2: 1993/1, 1993/2",
        "4 x NVIDIA H200": "1: 1993/1",
        "2 x NVIDIA H200 (2 processes)": "1: 1993/1",
        "NVIDIA H200, deterministic=True": "1: 1993/1",
    }


def test_a_file_without_a_published_result_is_compared_with_none(tmp_path):
    run_of(tmp_path / "run", "cifar100_b0_inc20_fair_steps", TEN[:5])
    (line,) = lines(tmp_path)
    assert (line["published average / last"], line["difference"]) == ("-", "-")


@pytest.mark.parametrize(
    ("name", "ours", "difference"),
    [
        ("wa", "72.00 / 62.00", "+2.45 / +2.74"),
        ("der", "72.00 / 62.00", "+0.53 / +1.74"),
        # NME is its headline; the published number may be CNN's.
        ("icarl", "71.00 / 61.00 (CNN: 72.00 / 62.00)", "+0.06 / +2.48 (CNN: +1.06 / +3.48)"),
    ],
)
def test_a_run_of_another_method_fills_its_line(name, ours, difference, tmp_path):
    run_of(tmp_path / "run", name)
    run_of(tmp_path / "short", name, epochs=6)
    (line,) = lines(tmp_path)
    assert line["file in exps/"] == f"`{name}.json`"
    assert (line["ours"], line["difference"]) == (ours, difference)


def test_the_areas_need_every_budget(tmp_path):
    for backbone, memory_size in POINTS[1:]:
        point = {"convnet_type": f"memo_{backbone}", "memory_size": memory_size}
        fake_run(tmp_path / backbone, TEN, prefix="auc", **point)
    short = {"convnet_type": "memo_conv2", "memory_size": 2118, "prefix": "auc"}
    fake_run(tmp_path / "short", TEN, epochs=6, **short)
    assert not [line for line in lines(tmp_path) if "AUC" in line["setting"]]
    assert len(lines(tmp_path)) == 4
    fake_run(tmp_path / "conv2", TEN, **short)
    for backbone, memory_size in POINTS:  # a whole curve, but of short runs
        point = {"convnet_type": f"memo_{backbone}", "memory_size": memory_size, "epochs": 6}
        fake_run(tmp_path / "short_curve" / backbone, TEN, prefix="auc", **point)
    (area,) = [line for line in lines(tmp_path) if "AUC" in line["setting"]]
    # 0.72 and 0.62 over 23.5 - 7.6 MB.
    assert (area["ours"], area["difference"]) == ("11.45 / 9.86", "+0.60 / +0.83")


def test_a_curve_without_a_published_area_is_compared_with_none(tmp_path):
    for name in sorted(path.stem for path in EXPS_DIR.glob("auc_imagenet100_*.json")):
        run_of(tmp_path / name, name, [80.0] * 11)
    (area,) = [line for line in lines(tmp_path) if "AUC" in line["setting"]]
    assert area["setting"] == "ImageNet100 Base50 Inc5, AUC-A / AUC-L, steps"
    assert (area["published average / last"], area["difference"]) == ("-", "-")


def test_hardware_in_words(tmp_path):
    path = fake_run(tmp_path / "run", TEN) / "config.json"
    values = json.loads(path.read_text())

    def said(**facts):
        path.write_text(json.dumps({**values, **facts}))
        return hardware(read_run(path.parent))

    cpu = {"_devices": ["cpu"], "_processor": "AMD EPYC", "_torch": "2.14.1+cu130"}
    assert said(**cpu, _threads=1) == "AMD EPYC, 1 thread, PyTorch 2.14.1"
    assert said(**cpu, _threads=2) == "AMD EPYC, 2 threads, PyTorch 2.14.1"
    two = ["cuda:0 (NVIDIA H200)", "cuda:1 (NVIDIA H200)"]
    assert said(_devices=two, _processor="AMD EPYC", _threads=8) == "2 x NVIDIA H200"
    # torchrun: rank 0 names its own GPU.
    four = {"_devices": [H200], "_processes": 4, "_torch": "2.14.1"}
    assert said(**four) == "4 x NVIDIA H200 (4 processes), PyTorch 2.14.1"
    assert said(**four | cpu, _threads=1).startswith("AMD EPYC (4 processes), 1 thread each, ")
    del values["_devices"]
    assert said() == "hardware not recorded"


def test_readme_has_the_table_of_the_runs_kept(capsys):
    readme = (REPOSITORY / "README.md").read_text()
    kept = readme.split("<!-- published results -->\n")[1].split("<!-- end -->")[0]
    assert main(["--published", str(REPOSITORY / "logs" / "published")]) == 0
    assert capsys.readouterr().out.strip() == kept.strip()


def test_the_command_writes_nothing_and_names_a_missing_folder(tmp_path, capsys):
    assert main(["--published", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir()) == []
    assert main(["--published", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
