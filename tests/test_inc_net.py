"""AdaptiveNet against the published program: forward, growth, freezing, alignment, names."""

import pytest
import torch
import torch.nn.functional as F
from conftest import load_golden

from utils.inc_net import AdaptiveNet

MODES = ["eval", "train", "updT", "updF"]


def grown(name: str, *tasks: int) -> AdaptiveNet:
    net = AdaptiveNet(name)
    for new_classes in tasks:
        net.grow(new_classes)
    return net


def golden_net(arrays, name: str, dtype: torch.dtype) -> AdaptiveNet:
    net = grown(name, 10, 10, 10).to(dtype)
    net.load_published_state_dict(
        {k.removeprefix("state/"): arrays[k] for k in arrays.files if k.startswith("state/")}
    )
    return net


def set_mode(net: AdaptiveNet, mode: str) -> None:
    if mode in ("eval", "train"):
        net.train(mode == "train")
    else:
        net.freeze(generalized=mode == "updF", old_specialized=True)


# C1: forward


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["resnet32", "conv2"])
@pytest.mark.parametrize(("precision", "tolerance"), [("f64", 1e-9), ("f32", 2e-5)])
def test_forward_equals_published(name, mode, precision, tolerance):
    arrays = load_golden(f"C1_forward_{name}.npz")
    dtype = torch.float64 if precision == "f64" else torch.float32
    net = golden_net(arrays, f"memo_{name}", dtype)
    x = torch.as_tensor(arrays["input"], dtype=dtype)
    set_mode(net, mode)
    maps = []
    net.generalized.register_forward_hook(lambda _module, _inputs, out: maps.append(out))
    with torch.no_grad():
        out = net(x)

    assert set(out) == {"logits", "features"} | (set() if mode == "eval" else {"aux_logits"})
    # Evaluation does not run the auxiliary head; the published program did.
    out.setdefault("aux_logits", net.aux_classifier(out["features"][:, -net.block_dim :]))
    out["base_mean"] = maps[0].mean()
    out["base_abs_mean"] = maps[0].abs().mean()
    out["base_chan_mean"] = maps[0].mean(dim=(0, 2, 3))
    for key, value in out.items():
        golden = torch.as_tensor(arrays[f"{precision}/{mode}/{key}"])
        assert value.dtype == dtype
        torch.testing.assert_close(
            value, golden, rtol=tolerance, atol=tolerance * max(1, golden.abs().max().item())
        )

    prefix = f"{precision}/{mode}/buffers_after/"
    state = net.published_state_dict()
    checked = [key for key in arrays.files if key.startswith(prefix)]
    assert bool(checked) == (precision == "f64" and mode != "eval")
    for key in checked:
        torch.testing.assert_close(
            state[key.removeprefix(prefix)],
            torch.as_tensor(arrays[key]),
            rtol=tolerance,
            atol=tolerance,
        )


def test_eval_leaves_every_buffer_alone():
    net = grown("memo_conv2", 5, 5).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.randn(4, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_forward_before_the_first_task_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"call grow\(new_classes\)"):
        AdaptiveNet("memo_conv2")(torch.zeros(1, 3, 32, 32))


# B: published names


def test_published_names_shapes_and_dtypes():
    expected = load_golden("B_state_dict_map.json")
    state = grown("memo_resnet32", 10, 10, 10).published_state_dict()
    ours = sorted((n, list(v.shape), str(v.dtype)) for n, v in state.items())
    assert ours == sorted(map(tuple, expected))


def test_published_state_dict_round_trip_keeps_dtype():
    source = grown("memo_conv2", 3, 2)
    target = grown("memo_conv2", 3, 2).double()
    target.load_published_state_dict(source.published_state_dict())
    for name, value in target.state_dict().items():
        wanted = source.state_dict()[name]
        assert value.dtype == (torch.float64 if wanted.is_floating_point() else wanted.dtype)
        assert torch.equal(value, wanted.to(value.dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.weight"), "missing: fc.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda s: s.update({"fc.bias": torch.zeros(7)}), r"fc.bias \(7,\) instead of \(5,\)"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_named_and_not_loaded(change, message):
    net = grown("memo_conv2", 3, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = {k: torch.ones_like(v) for k, v in net.published_state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        net.load_published_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# C9: growth


@pytest.mark.parametrize("name", ["memo_resnet32", "memo_conv2"])
def test_growth_facts(name):
    facts = [f for f in load_golden("C9_update_fc.json") if "net" in f]
    facts = [f for f in facts if f["net"] == name]
    torch.manual_seed(3)
    net = grown(name, 10)
    assert (len(net.specialized), net.num_classes, net.feature_dim, net.block_dim) == (
        1,
        10,
        64,
        64,
    )
    assert net.aux_classifier.weight.shape == (11, 64)
    assert len(facts) == 2
    for fact in facts:
        # A trained and frozen past: statistics moved, biases not 0, old parts without gradient.
        net.train()
        net(torch.randn(4, 3, 32, 32))
        torch.nn.init.normal_(net.classifier.bias)
        net.freeze(generalized=True, old_specialized=True)
        net.specialized[-1].requires_grad_(False)
        old = {n: v.clone() for n, v in net.state_dict().items()}
        old_classes, old_features = net.classifier.weight.shape
        old_aux = net.aux_classifier.weight

        net.grow(10)

        new = net.state_dict()
        for n, v in old.items():
            if n.startswith(("generalized", "specialized")):
                assert torch.equal(new[n], v)
        last = len(net.specialized) - 1
        for n, v in net.specialized[last].state_dict().items():
            assert torch.equal(v, old[f"specialized.{last - 1}.{n}"])
        newest, previous = net.specialized[-1].parameters(), net.specialized[-2].parameters()
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(newest, previous, strict=True))
        assert all(p.requires_grad for p in net.specialized[-1].parameters())
        assert net.num_classes == fact["total"]

        weight, bias = net.classifier.weight.detach(), net.classifier.bias.detach()
        assert list(weight.shape) == fact["fc_shape"]
        assert torch.equal(weight[:old_classes, :old_features], old["classifier.weight"])
        assert torch.equal(bias[:old_classes], old["classifier.bias"])
        assert bias[old_classes:].abs().max() == fact["fc_new_bias_absmax"] == 0
        bound = fact["kaiming_uniform_bound_sqrt3_over_fan_in"]
        for fresh in (weight[:old_classes, old_features:], weight[old_classes:]):
            assert 0.98 * bound < fresh.abs().max() <= bound
            assert fresh.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert list(net.aux_classifier.weight.shape) == fact["aux_shape"]
        assert not torch.equal(net.aux_classifier.weight, old_aux)
        assert net.aux_classifier.weight.abs().max() <= fact["aux_bound"] * (1 + 1e-6)
        assert net.aux_classifier.weight.abs().max() > 0.98 * fact["aux_bound"]
        assert net.aux_classifier.bias.abs().max() == 0


def test_growth_keeps_dtype_and_draws_the_same_numbers_in_each():
    nets = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(5)
        nets.append(AdaptiveNet("memo_conv2").to(dtype))
        nets[-1].grow(4)
        nets[-1].grow(3)
        assert {p.dtype for p in nets[-1].parameters()} == {dtype}
    assert torch.equal(nets[0].classifier.weight.double(), nets[1].classifier.weight)


def test_growth_by_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one new class, not 0"):
        AdaptiveNet("memo_conv2").grow(0)


# C5: who trains


@pytest.mark.parametrize("train_adaptive", [False, True])
@pytest.mark.parametrize("train_base", [False, True])
def test_freeze_equals_published_audit(train_base, train_adaptive):
    audit = load_golden("C5_mode_audit.json")
    net = AdaptiveNet("memo_resnet14_cifar")
    for task in range(3):
        net.grow(4)
        net.freeze(
            generalized=task > 0 and not train_base,
            old_specialized=not train_adaptive,
        )
        groups = {
            "TaskAgnosticExtractor": net.generalized,
            "fc": net.classifier,
            "aux_fc": net.aux_classifier,
        } | {f"AdaptiveExtractors.{i}": block for i, block in enumerate(net.specialized)}
        rows = [
            row
            for row in audit
            if (row["train_base"], row["train_adaptive"], row["task"])
            == (train_base, train_adaptive, task)
        ]
        assert {row["group"] for row in rows} == set(groups)
        assert net.training
        for row in rows:
            group = groups[row["group"]]
            norms = [m for m in group.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            parameters = list(group.parameters())
            assert group.training == (row["mode_later"] == ["train"])
            assert f"{sum(m.training for m in norms)}/{len(norms)}" == row["bn_ep0"]
            learning = sum(p.requires_grad for p in parameters)
            assert f"{learning}/{len(parameters)}" == row["rg_ep0"]


def test_train_and_eval_reach_every_block_and_freeze_comes_back():
    net = grown("memo_conv2", 2, 2)
    net.freeze(generalized=True, old_specialized=True)
    net.train()
    assert all(m.training for m in net.modules())
    net.eval()
    assert not any(m.training for m in net.modules())
    net.freeze(generalized=False, old_specialized=True)
    assert net.generalized.training
    assert net.specialized[1].training
    assert not net.specialized[0].training
    assert all(p.requires_grad for p in net.generalized.parameters())


def test_freezing_drops_old_gradients():
    net = grown("memo_conv2", 2, 2).train()
    net(torch.randn(2, 3, 32, 32))["logits"].sum().backward()
    net.freeze(generalized=True, old_specialized=True)
    assert all(p.grad is None for p in net.generalized.parameters())
    assert all(p.grad is None for p in net.specialized[0].parameters())
    assert all(p.grad is not None for p in net.specialized[1].parameters())


def trunk_gradients(net, x, y):
    net.zero_grad(set_to_none=True)
    F.cross_entropy(net(x)["logits"], y).backward()
    return [p.grad.clone() for p in net.generalized.parameters()]


def test_the_loss_reaches_the_trunk_through_frozen_blocks():
    torch.manual_seed(0)
    net = grown("memo_conv2", 2, 2, 2).double()
    x, y = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.arange(6)
    net.freeze(generalized=False, old_specialized=True)
    frozen = trunk_gradients(net, x, y)
    assert all(p.grad is None for block in net.specialized[:-1] for p in block.parameters())

    # The same net with nothing frozen but the BatchNorm statistics: no gradient may differ.
    for block in net.specialized[:-1]:
        block.requires_grad_(True)
    for ours, wanted in zip(frozen, trunk_gradients(net, x, y), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-14)

    # With the old blocks cut off the gradient is another one, so the check above can fail.
    for block in net.specialized[:-1]:
        block.register_forward_hook(lambda _module, _inputs, out: out.detach())
    cut = trunk_gradients(net, x, y)
    assert (cut[0] - frozen[0]).abs().max() > 1e-3 * frozen[0].abs().max()


def test_a_frozen_trunk_records_no_graph():
    net = grown("memo_conv2", 2, 2)
    net.freeze(generalized=True, old_specialized=True)
    recorded = []
    for part in (net.generalized, *net.specialized):
        part.register_forward_hook(lambda _m, _i, out: recorded.append(out.requires_grad))
    net(torch.randn(2, 3, 32, 32))
    assert recorded == [False, False, True]


# C4: weight alignment


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_weight_alignment(case, precision):
    arrays = load_golden("C4_weight_align.npz")
    golden = {
        key.rsplit("/", 1)[1]: torch.as_tensor(arrays[key])
        for key in arrays.files
        if key.startswith(f"case{case}/{precision}/")
    }
    new_classes = int(golden["increment"])
    classes, features = golden["w_before"].shape
    first, blocks = classes - new_classes * (features // 64 - 1), features // 64
    net = grown("memo_conv2", first, *[new_classes] * (blocks - 1))
    net.to(golden["w_before"].dtype)
    aux = net.aux_classifier.weight.clone()
    with torch.no_grad():
        net.classifier.weight.copy_(golden["w_before"])
        net.classifier.bias.copy_(golden["b_before"])

    gamma = net.align_weights(new_classes)

    tolerance = 1e-12 if precision == "f64" else 1e-6
    assert gamma == pytest.approx(golden["gamma_from_ratio"].item(), rel=tolerance)
    assert gamma == pytest.approx(golden["gamma"].item(), abs=6e-5)
    torch.testing.assert_close(
        net.classifier.weight.detach(), golden["w_after"], rtol=tolerance, atol=0
    )
    assert torch.equal(net.classifier.bias, golden["b_before"])
    assert torch.equal(net.aux_classifier.weight, aux)
    assert net.classifier.weight.requires_grad


@pytest.mark.parametrize("new_classes", [0, 4, 5])
def test_weight_alignment_needs_old_and_new_classes(new_classes):
    with pytest.raises(ValueError, match=f"{new_classes} of 4 classes are said to be new"):
        grown("memo_conv2", 2, 2).align_weights(new_classes)


@pytest.mark.parametrize("change", ["grow", "freeze", "load_state_dict", "double"])
def test_folded_copies_are_not_used_once_what_they_copy_may_have_changed(change):
    net = AdaptiveNet("memo_conv2")
    other = AdaptiveNet("memo_conv2")
    for each in (net, other, net, other):
        each.grow(2)
    net.freeze(generalized=True, old_specialized=True)
    net.fold_frozen()
    if change == "load_state_dict":
        net.load_state_dict(other.state_dict())
    else:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(1.5)
        {
            "grow": lambda: net.grow(1),
            "freeze": lambda: net.freeze(generalized=True, old_specialized=True),
            "double": net.double,
        }[change]()
    images = torch.randn(2, 3, 32, 32, dtype=next(net.parameters()).dtype)
    features = net.eval()(images)["features"]
    net._folded = {}
    assert torch.equal(net(images)["features"], features)
