"""The exemplar budgets of utils/budget.py against the authors' exemplar calculator."""

import re
import subprocess
import sys
from functools import partial

import pytest
from conftest import REPOSITORY, load_golden

from utils import budget, catalog
from utils.budget import (
    MB,
    POINTS,
    Cost,
    curve_points,
    granted_memory,
    main,
    run_table,
)

granted_to_memo = partial(granted_memory, method="memo")
BACKBONE = {"cifar100": "memo_resnet32", "imagenet100": "memo_resnet18"}


def published_budgets():
    """Yield (data set, init_cls, increment, exemplars) for each line about MEMO under `fair`."""
    for arguments, printed in load_golden("A_compute_exemplar.json").items():
        split = re.fullmatch(r"-p fair -init (\d+) -incre (\d+)", arguments)
        for line in printed["stdout"].splitlines() if split else ():
            method, *columns = line.split(", ")
            if method == "memo":
                yield columns[0], int(split[1]), int(split[2]), int(columns[1])


PUBLISHED = list(published_budgets())


def test_the_published_calculator_was_read():
    assert len(PUBLISHED) == 14
    assert ("cifar100", 10, 10, 3312) in PUBLISHED


@pytest.mark.parametrize(("dataset", "init_cls", "increment", "exemplars"), PUBLISHED)
def test_fair_budget_is_the_published_one(dataset, init_cls, increment, exemplars):
    assert granted_to_memo("fair", dataset, BACKBONE[dataset], init_cls, increment) == exemplars


def test_one_resnet32_costs_603_exemplars():
    # Two tasks of 50: DER has one trunk more than MEMO.
    extra = granted_to_memo("fair", "cifar100", "resnet32", 50, 50) - 2000
    assert extra == 112_016 * 4 // 3072
    assert 463_504 * 4 // 3072 == 603


def test_a_last_task_that_takes_what_is_left_counts():
    # 30 + 30 + 30 + 10 classes are four tasks.
    assert granted_to_memo("fair", "cifar100", "resnet32", 30, 30) == 2000 + 3 * 112_016 * 4 // 3072


def test_fewer_classes_make_fewer_tasks():
    full = granted_to_memo("fair", "synthetic", "resnet32", 10, 10)
    assert full == granted_to_memo("fair", "cifar100", "resnet32", 10, 10)
    assert granted_to_memo("fair", "synthetic", "resnet32", 10, 10, classes=10) == 2000


@pytest.mark.parametrize(("init_cls", "increment"), [(0, 10), (10, 0), (101, 1)])
def test_impossible_splits_are_refused(init_cls, increment):
    with pytest.raises(ValueError, match=r"init_cls|increment"):
        granted_to_memo("fair", "cifar100", "resnet32", init_cls, increment)


def test_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="no backbone"):
        granted_to_memo("fair", "cifar100", "memo_resnet31", 10, 10)


# --- Every line that the authors' calculator prints -----------------------------------------------

SPLIT = {"cifar100": (10, 10), "imagenet100": (50, 5)}  # of `-p auc`
METHOD = {"memo": "memo", "der": "der", "icarl": "icarl"}


def published_lines():
    """Yield (protocol, data set, split, point's backbone, method, the printed columns)."""
    for arguments, printed in load_golden("A_compute_exemplar.json").items():
        protocol = re.match(r"-p (\w+)", arguments)[1]
        split = tuple(map(int, re.findall(r" -in\w+ (\d+)", arguments)))
        point = 0
        for line in printed["stdout"].splitlines():
            if found := re.fullmatch(r"\w+ point_idx:(\d+)", line):
                point = int(found[1]) - 1
            elif ", " in line:
                method, dataset, *columns = line.split(", ")
                side = catalog.DATASETS[dataset].image_size
                reference = {32: "resnet32", 224: "resnet18"}[side]
                backbone = POINTS[side][point] if protocol == "auc" else reference
                yield protocol, dataset, split or SPLIT[dataset], backbone, METHOD[method], columns


LINES = list(published_lines())


def test_all_lines_were_read():
    assert len(LINES) == 7 * 4 + 22


@pytest.mark.parametrize(
    ("protocol", "dataset", "split", "backbone", "method", "printed"), LINES, ids=str
)
def test_every_published_number(protocol, dataset, split, backbone, method, printed):
    cost = Cost.of(protocol, dataset, backbone, *split, method=method)
    assert printed == [
        str(cost.exemplars),
        f"{cost.exemplar_bytes / MB}MB",
        f"{cost.weights / 1e6}M",
        f"{cost.model_bytes / MB}MB",
        f"{cost.total_bytes / MB}MB",
    ]


@pytest.mark.parametrize("arguments", list(load_golden("A_compute_exemplar.json")))
def test_the_command_prints_them(arguments, capsys):
    assert main(arguments.split()) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in row] for row in rows]
    names = {"memo": "MEMO", "der": "DER", "icarl": "single backbone"}
    for line in load_golden("A_compute_exemplar.json")[arguments]["stdout"].splitlines():
        if ", " in line:
            method, _, exemplars, *numbers = line.split(", ")
            numbers = [float(number.rstrip("MB")) for number in numbers]
            shown = [f"{n:.6f}" if i == 1 else f"{n:.4f}" for i, n in enumerate(numbers)]
            assert [names[method], exemplars, *shown] in [[r[0], r[2], *r[3:7]] for r in rows]


def test_the_command_as_a_process_and_without_torch():
    code = (
        "import sys; from utils.budget import main; "
        "code = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "auc"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "3312" in done.stdout


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("-p far", "-p: must be one of benchmark, fair, auc"),
        ("-init 0", "-init: must be a whole number of at least 1"),
        ("-init 101", "init_cls is 101 but the data set has only 100 classes"),
        ("--dataset cifar100 -net conv4", "-net: conv4 is made for 224x224 images"),
        ("-net resnet31", "-net: there is no backbone 'resnet31'"),
        ("--data cifar100", "--data: there is no such flag; did you mean --dataset?"),
    ],
)
def test_mistakes_are_one_sentence(typed, says, capsys):
    assert main(typed.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"utils.budget: {says}")


def test_a_network_that_leaves_no_exemplar_is_said_so(capsys):
    assert granted_to_memo("auc", "cifar100", "conv2", 1, 1) < 0
    assert main(["-p", "auc", "--dataset", "cifar100", "-init", "1", "-incre", "1"]) == 0
    assert "too large" in capsys.readouterr().out


# --- Both accountings -----------------------------------------------------------------------------


@pytest.mark.parametrize("task_sizes", [[10], [4, 3, 3, 1]])
@pytest.mark.parametrize("name", ["conv2", "resnet20_cifar"])
def test_what_is_stored_is_the_size_of_the_network(name, task_sizes):
    from utils.inc_net import AdaptiveNet

    network = AdaptiveNet(f"memo_{name}")
    for new_classes in task_sizes:
        network.grow(new_classes)
    stored = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    assert Cost.after("memo", "cifar100", name, task_sizes, 0).true_model_bytes == stored


@pytest.mark.parametrize("method", ["finetune", "replay", "icarl", "wa"])
def test_a_single_backbone_stores_itself_and_a_classifier(method):
    cost = Cost.after(method, "cifar100", "resnet32", [10] * 10, 1)
    assert cost.uncounted_bytes == 4_136 + 5_200 + (64 + 1) * 100 * 4
    assert cost.true_total_bytes == 3072 + 463_504 * 4 + cost.uncounted_bytes


def test_der_stores_a_backbone_a_task_and_an_auxiliary_head():
    cost = Cost.after("der", "cifar100", "resnet32", [10, 10, 5], 1)
    assert cost.weights == 3 * 463_504
    heads = (3 * 64 + 1) * 25 + (64 + 1) * (5 + 1)
    assert cost.uncounted_bytes == 3 * (4_136 + 5_200) + heads * 4


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"^there is no method 'replai': did you mean replay"):
        budget.count_weights("replai", "resnet32", 3)
    with pytest.raises(ValueError, match=r"^there is no method 'x': known are memo"):
        granted_memory("fair", "cifar100", "resnet32", 10, 10, method="x")


def test_the_command_has_a_row_for_each_network(capsys):
    assert main(["--dataset", "cifar100"]) == 0
    said = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line[:1] == "|"]
    assert rows[2:] == ["MEMO", "DER", "single backbone"]


def test_a_method_without_exemplars_is_granted_none():
    for prefix in ("benchmark", "fair", "auc"):
        assert granted_memory(prefix, "cifar100", "resnet32", 10, 10, method="finetune") == 0


# --- The performance-memory curve -----------------------------------------------------------------


def test_the_points_of_the_published_curve():
    points = curve_points("cifar100", 10, 10, method="memo")
    assert [p.memory_size for p in points] == [2118, 2495, 2768, 3040, 3312]
    assert [p.nominal_mb for p in points] == [7.6, 12.4, 16.0, 19.8, 23.5]
    assert all(abs(p.nominal_mb - p.exact_mb) < 0.13 for p in points)
    points = curve_points("imagenet100", 50, 5, method="memo")
    assert [p.nominal_mb for p in points] == [329, 493, 755, 872, 1180, 1273]
    assert all(abs(p.nominal_mb - p.exact_mb) < 1.1 for p in points)


@pytest.mark.parametrize(
    ("method", "split", "kept"),
    [
        ("replay", ("cifar100", 10, 10), [2000, 3634, 4900, 6165, 7431]),
        ("icarl", ("imagenet100", 50, 5), [2000, 3136, 4969, 5779, 7924, 8574]),
        ("der", ("cifar100", 10, 10), [2096, 2000, 2000, 2000, 2000]),
        ("der", ("imagenet100", 50, 5), [2032, 2000, 2000, 2000, 2000, 2000]),
    ],
)
def test_the_points_of_the_other_methods_stand_at_the_same_budgets(method, split, kept):
    points, memo = curve_points(*split, method=method), curve_points(*split, method="memo")
    assert [p.memory_size for p in points] == kept
    assert [(p.backbone, p.nominal_mb) for p in points] == [
        (p.backbone, p.nominal_mb) for p in memo
    ]
    assert all(abs(p.exact_mb - m.exact_mb) < 0.25 for p, m in zip(points, memo, strict=True))


def test_the_points_of_another_split_are_computed():
    points = curve_points("synthetic", 5, 5, classes=20, method="memo")
    assert [p.nominal_mb for p in points] == [round(p.exact_mb, 1) for p in points]
    # Four tasks: one ResNet-32 + 2000 exemplars; four ResNet-32 + 2000 exemplars; less a remainder.
    for point, networks in ((points[0], 1), (points[-1], 4)):
        granted = networks * 463_504 * 4 + 2000 * 3072
        assert 0 <= granted - point.exact_mb * MB < 3072


# --- What a run says ------------------------------------------------------------------------------


def test_a_run_s_table():
    table = run_table(Cost.after("memo", "cifar100", "memo_resnet32", [10] * 10, 3312), 10)
    rows = [re.split(r"\s{2,}", line) for line in table.splitlines()]
    assert rows[:4] == [
        ["memory after 10 tasks", "MB", "in images"],
        ["network, 3,626,896 weights", "13.84", "4,722"],
        ["exemplars", "9.70", "3,312"],
        ["together", "23.54", "8,034"],
    ]
    assert table.endswith("one ResNet-32 = 603 exemplars")


@pytest.mark.parametrize(
    ("net", "fits"), [("memo_conv2", "cifar100"), ("memo_resnet18", "imagenet100")]
)
def test_a_backbone_without_a_data_set_is_shown_for_the_one_it_fits(net, fits, capsys):
    assert main(["-p", "fair", "-net", net]) == 0
    said = capsys.readouterr().out
    assert f"fair, {fits}: " in said
    assert said.count("fair, ") == 1
