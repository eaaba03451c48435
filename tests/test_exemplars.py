"""Herding, class means and the exemplar memory, held to arrays from the authors' program."""

from itertools import accumulate

import numpy as np
import pytest
import torch
from conftest import NotedDivisors, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.exemplars import (
    ExemplarMemory,
    class_means,
    herd,
    nme_predict,
    normalise_features,
)

HERDING = load_golden("C2_herding.npz")
MEMORY = load_golden("C7_memory.npz")
PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
TIE = 1e-7  # a smaller margin than this is rounding noise in float32


def golden_features(case: str, label: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(HERDING[f"{case}/feat{label}"]).to(dtype)


# ---------------------------------------------------------------- herding


def test_nothing_is_divided_by_a_python_number():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with NotedDivisors() as noted:
        order = herd(features, 3)
        means = class_means(features[order], torch.zeros(3, dtype=torch.int64), 1)
        nme_predict(features, means, 1)
    assert len(noted.divisors) >= 5
    assert all(torch.is_tensor(each) for each in noted.divisors)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m", [20, 33, 331])
@pytest.mark.parametrize("case", ["rand", "dup", "small", "sym"])
def test_herding_order_is_the_golden_order(case, m, precision):
    for label in range(3):
        expected = HERDING[f"{case}/m{m}/{precision}/order{label}"]
        compared = len(expected)
        if case == "sym":  # different images tie: rounding decides from the first tie on
            ties = np.flatnonzero(HERDING[f"{case}/m{m}/margin{label}"] < TIE)
            compared = ties[0] if len(ties) else compared
        order = herd(golden_features(case, label, PRECISIONS[precision]), m).numpy()
        assert order.dtype == np.int64
        assert len(order) == len(expected)
        assert len(set(order.tolist())) == len(order)
        np.testing.assert_array_equal(order[:compared], expected[:compared])


@pytest.mark.parametrize("label", [0, 1, 2])
def test_where_images_tie_herding_still_takes_a_best_one(label):
    """In 'sym' the order is free within ties, the score of what is taken is not."""
    features = golden_features("sym", label, torch.float64)
    directions = normalise_features(features)
    mean, total = directions.mean(0), torch.zeros(features.shape[1], dtype=torch.float64)
    remaining = torch.ones(len(features), dtype=torch.bool)
    for step, row in enumerate(herd(features, 331).tolist(), start=1):
        scores = (mean - (total + directions) / step).norm(dim=1)
        assert scores[row] <= scores[remaining].min() + TIE
        total = total + directions[row]
        remaining[row] = False
    assert not remaining.any()


def test_the_lowest_of_equal_images_wins():
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    order = herd(rows.repeat(4, 1), 20).tolist()
    for image in range(5):
        copies = [row for row in order if row % 5 == image]
        assert copies == sorted(copies)


def test_herding_does_not_change_its_input():
    features = torch.randn(30, 8)
    before = features.clone()
    herd(features, 10)
    assert torch.equal(features, before)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_a_shorter_herding_is_the_start_of_a_longer_one(n, m, seed):
    features = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    order = herd(features, n)
    assert sorted(order.tolist()) == list(range(n))
    assert torch.equal(herd(features, m), order[:m])


def test_herding_refuses_what_would_give_a_wrong_order():
    features = torch.randn(6, 4)
    with pytest.raises(TypeError, match=r"float32.*bfloat16"):
        herd(features.bfloat16(), 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        herd(torch.full((6, 4), torch.nan), 2)
    with pytest.raises(ValueError, match=r"at least 1.*0"):
        herd(features, 0)
    with pytest.raises(ValueError, match="no images"):
        herd(features[:0], 2)


# ---------------------------------------------------------------- class means and NME


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("m", [20, 33, 331])
@pytest.mark.parametrize("case", ["rand", "dup", "small", "sym"])
def test_class_means_are_the_golden_ones(case, m, precision):
    orders = [HERDING[f"{case}/m{m}/{precision}/order{label}"] for label in range(3)]
    rows = [
        golden_features(case, label, PRECISIONS[precision])[order]
        for label, order in enumerate(orders)
    ]
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([len(o) for o in orders]))
    expected = HERDING[f"{case}/m{m}/{precision}/class_means"]
    # In 'sym' opposite images cancel: a class without a direction has NaN in the golden means.
    checked = [label for label in range(3) if np.isfinite(expected[label]).all()]
    means = class_means(torch.cat(rows), labels, 3)
    assert means.dtype == PRECISIONS[precision]
    tolerance = 1e-6 if precision == "f32" else 1e-12
    np.testing.assert_allclose(means.numpy()[checked], expected[checked], rtol=0, atol=tolerance)


def test_normalised_mean_of_a_whole_class_is_the_golden_herding_target():
    for label in range(3):
        mean = normalise_features(golden_features("rand", label, torch.float64)).mean(0)
        np.testing.assert_allclose(
            mean.numpy(), HERDING["rand/class_mean_all_f64"][label], rtol=0, atol=1e-12
        )


def test_class_means_after_cutting_331_to_33_are_the_golden_ones():
    kept, targets = HERDING["rand/reduce331to33/kept"], HERDING["rand/reduce331to33/targets"]
    memory = ExemplarMemory(993)
    for label in range(3):
        memory.add(label, herd(golden_features("rand", label, torch.float32), 331))
    memory.reduce(33)
    np.testing.assert_array_equal(memory.indices(), kept)
    features = torch.cat(
        [
            golden_features("rand", label, torch.float32)[torch.from_numpy(rows)]
            for label, rows in enumerate(memory.per_class)
        ]
    )
    means = class_means(features, torch.from_numpy(targets).long(), 3)
    np.testing.assert_allclose(
        means.numpy(), HERDING["rand/reduce331to33/class_means_f32"], rtol=0, atol=1e-6
    )


def test_class_means_names_a_class_without_exemplars():
    with pytest.raises(ValueError, match="class 1"):
        class_means(torch.randn(4, 3), torch.tensor([0, 0, 2, 2]), 3)


@pytest.mark.parametrize("dtype", PRECISIONS.values(), ids=PRECISIONS)
def test_nme_predictions_are_the_golden_ones(dtype):
    golden = load_golden("C2_nme.npz")
    features = torch.from_numpy(golden["features"]).to(dtype)
    means = torch.from_numpy(golden["class_means"]).to(dtype)
    predictions = nme_predict(features, means, 5)
    assert predictions.dtype == torch.int64
    np.testing.assert_array_equal(predictions.numpy(), golden["pred_top5"])
    np.testing.assert_array_equal(
        nme_predict(features, means, 1).numpy(), golden["pred_top5"][:, :1]
    )


def test_nme_of_equally_near_classes_names_the_older_first():
    means = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert nme_predict(torch.tensor([[0.0, 5.0]]), means, 3).tolist() == [[0, 2, 1]]


def test_nme_of_many_images_is_that_of_each_alone(monkeypatch):
    cdist, sizes = torch.cdist, []
    monkeypatch.setattr(
        torch, "cdist", lambda x, *a, **k: sizes.append(len(x)) or cdist(x, *a, **k)
    )
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2001, 6, generator=generator, dtype=torch.float64)
    means = normalise_features(torch.rand(7, 6, generator=generator, dtype=torch.float64))
    vectors = features / features.norm(dim=1, keepdim=True)
    nearest = (vectors[:, None] - means).norm(dim=2).argsort(dim=1)
    assert torch.equal(nme_predict(features, means, 7), nearest)
    assert sizes == [1000, 1000, 1]  # in pieces, whose copies are small
    assert nme_predict(features[:0], means, 3).shape == (0, 3)


# ---------------------------------------------------------------- the memory

MEMORY_RUNS = [name for name in MEMORY.files if not name.endswith("final_ids")]


@pytest.mark.parametrize("run", MEMORY_RUNS)
def test_memory_follows_the_golden_schedule(run):
    """Counts after every task and, at the end, exactly the golden images in the golden order.

    All runs with 500 images a class herd the same features, so the longest final memory gives
    the first 60 images of each class; what is cut away later may be any other image.
    """
    per_class_images = int(run.rsplit("_n", 1)[1])
    source = "mem6000_init10_inc10_n500" if per_class_images == 500 else run
    ids = MEMORY[f"{source}/final_ids"].astype(np.int64)

    def herded(label: int) -> np.ndarray:
        first = ids[ids // 100_000 == label]
        rest = np.setdiff1d(np.arange(per_class_images) + label * 100_000, first)
        return np.concatenate([first, rest])

    memory = ExemplarMemory(int(run.split("_")[0].removeprefix("mem")))
    for task, known, total, fed, quota, fewest, most, held in MEMORY[run].tolist():
        assert len(memory) == fed, f"task {task}"
        assert memory.quota(total) == quota
        memory.reduce(quota)
        for label in range(known, total):
            memory.add(label, herded(label)[:quota])
        counts = [len(indices) for indices in memory.per_class]
        assert (min(counts), max(counts), len(memory)) == (fewest, most, held)
    np.testing.assert_array_equal(memory.indices(), MEMORY[f"{run}/final_ids"])


def check_memory(memory, herded, quota, images) -> None:
    kept = min(quota, images)
    assert memory.fixed_memory or len(memory) <= memory.memory_size
    assert [p.tolist() for p in memory.per_class] == [herded[c][:kept] for c in sorted(herded)]
    flat = memory.indices()
    assert flat.dtype == np.int64
    assert flat.tolist() == [i for c in sorted(herded) for i in herded[c][:kept]]
    assert len(memory) == len(flat) == kept * len(herded)


def fill(memory: ExemplarMemory, task_sizes: list[int], images: int) -> dict[int, list[int]]:
    """Plays the tasks with `images` images a class; returns each class's full herding order."""
    herded, seen = {}, 0
    for size in task_sizes:
        quota = memory.quota(seen + size)
        memory.reduce(quota)
        for label in range(seen, seen + size):
            order = np.random.RandomState(label).permutation(images) + label * images
            herded[label] = order.tolist()
            memory.add(label, torch.from_numpy(order[:quota]))
        seen += size
        check_memory(memory, herded, quota, images)
    return herded


@given(
    task_sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    spare=st.integers(0, 80),
    images=st.integers(1, 25),
)
@settings(max_examples=40, deadline=None)
def test_memory_is_never_over_budget_and_keeps_the_first_chosen_class_by_class(
    task_sizes, spare, images
):
    fill(ExemplarMemory(sum(task_sizes) + spare), task_sizes, images)


@given(
    task_sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    each=st.integers(1, 30),
    images=st.integers(1, 25),
)
@settings(max_examples=25, deadline=None)
def test_fixed_memory_keeps_the_same_number_of_every_class(task_sizes, each, images):
    memory = ExemplarMemory(1, fixed_memory=True, memory_per_class=each)
    assert {memory.quota(seen) for seen in accumulate(task_sizes)} == {each}
    fill(memory, task_sizes, images)


def test_memory_returns_from_its_state():
    memory = ExemplarMemory(20)
    fill(memory, [2, 3], 9)
    state = memory.state_dict()
    assert all(indices.dtype == torch.int64 for indices in state)
    restored = ExemplarMemory(20)
    restored.load_state_dict(state)
    np.testing.assert_array_equal(restored.indices(), memory.indices())
    assert [len(p) for p in restored.per_class] == [4] * 5
    restored.reduce(1)  # the state is a copy
    assert [len(indices) for indices in state] == [4] * 5


def test_memory_refuses_a_state_over_its_budget_and_keeps_what_it_had():
    memory = ExemplarMemory(4)
    memory.add(0, [3, 1])
    with pytest.raises(ValueError, match=r"6 exemplars.*memory_size 4"):
        memory.load_state_dict([torch.arange(3), torch.arange(3)])
    assert memory.indices().tolist() == [3, 1]


def test_an_empty_memory_is_empty():
    memory = ExemplarMemory(10)
    assert len(memory) == 0
    assert memory.indices().dtype == np.int64
    assert memory.indices().shape == (0,)
    memory.reduce(3)


def test_memory_refuses_misuse():
    memory = ExemplarMemory(5)
    memory.add(0, [4, 2, 9])
    with pytest.raises(ValueError, match=r"class 2.*class 1"):
        memory.add(2, [1])
    with pytest.raises(ValueError, match=r"6 exemplars.*memory_size 5"):
        memory.add(1, [1, 2, 3])
    with pytest.raises(ValueError, match=r"3 exemplars of class 0.*memory_per_class 2"):
        ExemplarMemory(100, fixed_memory=True, memory_per_class=2).add(0, [1, 2, 3])
    with pytest.raises(ValueError, match="twice"):
        memory.add(1, [7, 7])
    with pytest.raises(ValueError, match="none"):
        memory.add(1, [])
    with pytest.raises(ValueError, match=r"6 classes.*memory_size 5"):
        memory.quota(6)
    assert memory.indices().tolist() == [4, 2, 9]
