"""Memory budgets: how many exemplars a method may keep when its network is counted too.

    python -m utils.budget -p fair -init 10 -incre 10          both published data sets
    python -m utils.budget -p fair -init 50 -incre 10 --dataset cifar100 -net resnet20_cifar
    python -m utils.budget -p auc                              every point of the published curves

The published comparison is in bytes: float32 weights (4 bytes) and uint8 images (32 x 32 x 3 =
3,072 bytes for CIFAR). One ResNet-32 (463,504 weights) costs as much as 603 CIFAR images. Only
convolution and BatchNorm weights are counted; the classifier and BatchNorm's running statistics
are left out, as in the published numbers. The tables say beside it what is truly stored: those and
the auxiliary head too. MB are 2^20 bytes.

A protocol grants every method a number of bytes (MEMO, ICLR 2023, sections 4.1 and 4.2), and what
a method does not spend on its network it spends on exemplars:

    benchmark   no common bytes: every method keeps 2000 exemplars (ImageNet-1000: 20000; a user's
                own images, for which nothing is published: 20 a class, as those of the 100 and
                1000 classes above)
    fair        DER's bytes: one whole backbone per task, and the benchmark's exemplars
    auc         one point of the performance-memory curve, named by its backbone: at the smallest
                backbone, one reference network (ResNet-32, ImageNet: ResNet-18) and the benchmark's
                exemplars; at any other, DER's bytes with the point's backbone

No torch here: the command line compares `--memory_size` with these numbers before a run starts.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("utils.budget")

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.methods import METHODS, find_method
from utils.catalog import BACKBONES, DATASETS, Backbone, dataset_facts, find_backbone
from utils.data_manager import split_classes
from utils.settings import (
    ACTION,
    Kind,
    check,
    choice,
    declared,
    help_lines,
    or_none,
    parse_flags,
    printable,
    setting,
    whole,
)
from utils.tables import markdown_text

BYTES_PER_WEIGHT = 4  # float32
MB = 2**20

# The network that the published results use, by image size. Methods with a single backbone keep it
# at every point of the performance-memory curve.
REFERENCE = {32: "resnet32", 224: "resnet18"}
# The published points of that curve from the smallest to the largest budget.
POINTS = {
    32: ("conv2", "resnet14_cifar", "resnet20_cifar", "resnet26_cifar", "resnet32"),
    224: (
        *("conv4", "resnet10_imagenet", "resnet18"),
        *("resnet26_imagenet", "resnet34_imagenet", "resnet50_imagenet"),
    ),
}
# Whose curve was published: the split, and the MB of each point as printed there.
PUBLISHED_CURVES = {
    "cifar100": ((10, 10), (7.6, 12.4, 16.0, 19.8, 23.5)),
    "imagenet100": ((50, 5), (329.0, 493.0, 755.0, 872.0, 1180.0, 1273.0)),
}


def count_weights(method: str, backbone: str, tasks: int) -> int:
    """Return the convolution and BatchNorm weights of a method's network after `tasks` tasks.

    Raises:
        ValueError: there is no such method or backbone.
    """
    net = find_backbone(backbone)
    trunks, blocks = _halves(method, tasks)
    return trunks * net.generalized + blocks * net.specialized


def count_uncounted_bytes(method: str, backbone: str, task_sizes: Sequence[int]) -> int:
    """Return the bytes of a network that the published accounting leaves out.

    They are BatchNorm's running statistics (and its int64 batch counters), the classifier over all
    classes, and, for the methods with one, the auxiliary head of the last task over its classes
    and "any old class".

    Args:
        method: a name in models.methods.METHODS.
        backbone: a backbone's name, with or without "memo_".
        task_sizes: number of classes of each task learned.

    Raises:
        ValueError: as for `count_weights`.
    """
    net = find_backbone(backbone)
    trunks, blocks = _halves(method, len(task_sizes))
    statistics = trunks * net.generalized_buffer_bytes + blocks * net.specialized_buffer_bytes
    heads = (blocks * net.feature_dim + 1) * sum(task_sizes)
    if find_method(method).aux_head:
        heads += (net.feature_dim + 1) * (task_sizes[-1] + 1)
    return statistics + heads * BYTES_PER_WEIGHT


def granted_memory(
    prefix: str,
    dataset: str,
    backbone: str,
    init_cls: int,
    increment: int,
    classes: int | None = None,
    *,
    method: str,
    image_size: int | None = None,
) -> int:
    """Return how many exemplars a protocol lets a method keep, in all.

        K = benchmark + floor((W - P) x 4 / image bytes)

    with P the method's weights and W those the protocol grants beside the benchmark's exemplars.
    It may be negative, where a network alone is more than the protocol grants. For a method that
    keeps no exemplars it is 0.

    Args:
        prefix: the protocol: benchmark, fair or auc.
        dataset: a name in catalog.DATASETS.
        backbone: a backbone's name, with or without "memo_"; under auc it names the point.
        init_cls: classes of the first task.
        increment: classes of every later task (the last one may have fewer).
        classes: number of classes, when it is not the data set's usual one.
        method: a name in models.methods.METHODS.
        image_size: side of the images in pixels; needed for the data set `folder`, as is `classes`.

    Raises:
        ValueError: an unknown method or backbone, or an impossible split of the classes.
    """
    facts, net = dataset_facts(dataset, classes, image_size), find_backbone(backbone)
    tasks = len(split_classes(classes or facts.classes, init_cls, increment))
    if not find_method(method).exemplars:
        return 0
    if prefix == "benchmark":
        return facts.benchmark_exemplars
    granted = tasks * net.weights
    own = net.name
    if prefix == "auc":
        own = backbone_at(net.name, method)
        if net.name == POINTS[family_of(net)][0]:
            granted = BACKBONES[REFERENCE[family_of(net)]].weights
    spare = (granted - count_weights(method, own, tasks)) * BYTES_PER_WEIGHT
    return facts.benchmark_exemplars + spare // facts.image_bytes


def family_of(net: Backbone) -> int:
    """Return which published curve a backbone belongs to by the size of its images: 32 or 224."""
    return 32 if net.image_size < 96 else 224


def backbone_at(point: str, method: str) -> str:
    """Return the backbone that a method has at a point of the performance-memory curve.

    Methods with a single backbone keep the reference network at every point.
    """
    row, net = find_method(method), find_backbone(point)
    return REFERENCE[family_of(net)] if row.single else net.name


class Point(NamedTuple):
    """One point of a method's performance-memory curve."""

    backbone: str  # whose budget it is; the method's own may be another
    memory_size: int  # exemplars the method keeps there
    nominal_mb: float  # where it stands on the x axis
    exact_mb: float  # what its weights and exemplars cost


def curve_points(
    dataset: str,
    init_cls: int,
    increment: int,
    classes: int | None = None,
    *,
    method: str,
    image_size: int | None = None,
    backbones: Sequence[str] = (),
) -> list[Point]:
    """Return the points of a method's performance-memory curve, the smallest budget first.

    They are the published backbones and any others that are named. Where only others are named, a
    curve of one's own backbones, the published ones are no points of it.

    The nominal MB are the published ones where that curve was published, else the exact MB to one
    decimal.

    Args:
        dataset: a name in catalog.DATASETS.
        init_cls: classes of the first task.
        increment: classes of every later task.
        classes: number of classes, when it is not the data set's usual one.
        method: a name in models.methods.METHODS.
        image_size: side of the images in pixels; needed for the data set `folder`.
        backbones: names of those that have runs; needed for `folder`.
    """
    nets = [find_backbone(name) for name in dict.fromkeys(backbones)]
    family = family_of(nets[0]) if nets else dataset_facts(dataset, classes, image_size).image_size
    own = [net.name for net in nets if net.name not in POINTS[family]]
    names = own if own and len(own) == len(nets) else [*POINTS[family], *own]
    split, published = PUBLISHED_CURVES.get(dataset, (None, ()))
    printed = {}
    if split == (init_cls, increment):
        printed = dict(zip(POINTS[family], published, strict=True))
    points = []
    for name in names:
        split_of_all = init_cls, increment, classes
        cost = Cost.of("auc", dataset, name, *split_of_all, method=method, image_size=image_size)
        exact = cost.total_bytes / MB
        points.append(Point(name, cost.exemplars, printed.get(name, round(exact, 1)), exact))
    # With one or two tasks a larger backbone need not mean a larger budget.
    return sorted(points, key=lambda point: point.exact_mb)


@dataclass(frozen=True)
class Cost:
    """What a method keeps after its last task, and what that costs."""

    method: str
    backbone: Backbone
    exemplars: int
    image_bytes: int  # of one exemplar
    weights: int  # convolutions and BatchNorm: the published accounting
    uncounted_bytes: int  # what that leaves out

    @classmethod
    def of(
        cls,
        prefix: str,
        dataset: str,
        backbone: str,
        init_cls: int,
        increment: int,
        classes: int | None = None,
        *,
        method: str,
        image_size: int | None = None,
    ) -> "Cost":
        """Return the cost under a protocol; for arguments and errors see `granted_memory`."""
        setting = prefix, dataset, backbone, init_cls, increment, classes
        exemplars = granted_memory(*setting, method=method, image_size=image_size)
        if prefix == "auc":
            backbone = backbone_at(backbone, method)
        task_sizes = split_classes(classes or DATASETS[dataset].classes, init_cls, increment)
        return cls.after(method, dataset, backbone, task_sizes, exemplars, image_size)

    @classmethod
    def after(
        cls,
        method: str,
        dataset: str,
        backbone: str,
        task_sizes: Sequence[int],
        exemplars: int,
        image_size: int | None = None,
    ) -> "Cost":
        """Return the cost of a network after tasks of these sizes, and of a number of exemplars."""
        return cls(
            method=method,
            backbone=find_backbone(backbone),
            exemplars=exemplars,
            image_bytes=dataset_facts(dataset, sum(task_sizes), image_size).image_bytes,
            weights=count_weights(method, backbone, len(task_sizes)),
            uncounted_bytes=count_uncounted_bytes(method, backbone, task_sizes),
        )

    @property
    def exemplar_bytes(self) -> int:
        """Bytes of the exemplars, as uint8 pixels."""
        return self.exemplars * self.image_bytes

    @property
    def model_bytes(self) -> int:
        """Bytes of the network in the published accounting."""
        return self.weights * BYTES_PER_WEIGHT

    @property
    def total_bytes(self) -> int:
        """Bytes of exemplars and network in the published accounting."""
        return self.exemplar_bytes + self.model_bytes

    @property
    def true_model_bytes(self) -> int:
        """Bytes of the whole network."""
        return self.model_bytes + self.uncounted_bytes

    @property
    def true_total_bytes(self) -> int:
        """Bytes of exemplars and the whole network."""
        return self.exemplar_bytes + self.true_model_bytes


def run_table(cost: Cost, tasks: int) -> str:
    """Return what a run says of its memory: what network and exemplars cost, in MB and images.

    Args:
        cost: of the run after its last task.
        tasks: number of tasks that the run learns.
    """
    rows = [
        (f"network, {cost.weights:,} weights", cost.model_bytes),
        ("exemplars", cost.exemplar_bytes),
        ("together", cost.total_bytes),
        ("network, all that is stored", cost.true_model_bytes),
        ("together, all that is stored", cost.true_total_bytes),
    ]
    header = f"memory after {tasks} task{'s' if tasks > 1 else ''}"
    lines = [f"{header:<34}{'MB':>10}{'in images':>12}"]
    lines += [f"{name:<34}{b / MB:>10.2f}{b // cost.image_bytes:>12,}" for name, b in rows]
    stored = "weights: convolutions and BatchNorm, as published budgets count; stored beside them: "
    lines.append(f"({stored}BatchNorm statistics and classifiers)")
    lines.append(exchange_rate(cost.backbone, cost.image_bytes))
    return "\n".join(lines)


def exchange_rate(net: Backbone, image_bytes: int) -> str:
    """Return the paper's title for a backbone: "one ResNet-32 = 603 exemplars"."""
    name = re.sub(r"^resnet(\d+).*", r"ResNet-\1", net.name)
    return f"one {name} = {net.weights * BYTES_PER_WEIGHT // image_bytes:,} exemplars"


def _halves(method: str, tasks: int) -> tuple[int, int]:
    """Return how many trunks and how many specialized blocks a method keeps after its tasks."""
    row = find_method(method)
    return (1 if row.trunks == "one" else tasks), (1 if row.blocks == "one" else tasks)


# --- The command ----------------------------------------------------------------------------------


def _backbone(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return find_backbone(value).name


@dataclass(frozen=True)
class Question:
    """What the command is asked."""

    # fmt: off
    prefix: str = setting("fair", choice("benchmark", "fair", "auc"),
        "protocol: see above", "-p", section="Flags")
    init_cls: int | None = setting(None, or_none(whole(1)),
        "classes in the first task; left open, a tenth of all, or under auc as published", "-init")
    increment: int | None = setting(None, or_none(whole(1)),
        "classes in every later task; the last one takes what is left; left open, as many as "
        "in the first", "-incre")
    dataset: str | None = setting(None, or_none(choice(*DATASETS)),
        "data set; left open, cifar100 and imagenet100")
    convnet_type: str | None = setting(None, or_none(Kind("the name of a backbone", _backbone)),
        "backbone; left open, ResNet-32 or ResNet-18; under auc, every point has its own", "-net")
    help: bool = setting(False, ACTION, "print this text and leave", "-h")
    # fmt: on


def tables(question: Question) -> str:
    """Return the budget tables that answer a question, as Markdown.

    Raises:
        ValueError: one sentence: an impossible split, or a backbone that does not suit the images.
    """
    parts = []
    suited = [
        dataset
        for dataset in PUBLISHED_CURVES
        if question.convnet_type is None
        or find_backbone(question.convnet_type).image_size == DATASETS[dataset].image_size
    ]
    for dataset in [question.dataset] if question.dataset else suited:
        facts = dataset_facts(dataset)
        init_cls, increment = question.init_cls, question.increment
        if init_cls is increment is None and question.prefix == "auc":
            init_cls, increment = PUBLISHED_CURVES.get(dataset, ((None, None),))[0]
        init_cls = init_cls or increment or facts.classes // 10
        increment = increment or init_cls
        net = find_backbone(question.convnet_type or REFERENCE[facts.image_size])
        if net.image_size != facts.image_size:
            raise ValueError(
                f"-net: {net.name} is made for {net.image_size}x{net.image_size} images, but those "
                f"of {dataset} are {facts.image_size}x{facts.image_size}; use one of "
                f"{', '.join(POINTS[facts.image_size])}"
            )
        sizes = split_classes(facts.classes, init_cls, increment)
        names = [net.name]
        if question.prefix == "auc" and question.convnet_type is None:
            names = list(POINTS[facts.image_size])
        rows = []
        for name in names:
            for described, method in _networks():
                cost = Cost.of(question.prefix, dataset, name, init_cls, increment, method=method)
                if cost.exemplars < 0:
                    rows.append([described, cost.backbone.name, "too large", *["-"] * 6])
                    continue
                rows.append(
                    [
                        described,
                        cost.backbone.name,
                        str(cost.exemplars),
                        *_mb(cost.exemplar_bytes),
                        f"{cost.weights / 1e6:.6f}",
                        *_mb(cost.model_bytes, cost.total_bytes),
                        *_mb(cost.true_model_bytes, cost.true_total_bytes),
                    ]
                )
        later = f", then {increment}" if len(sizes) > 1 else ""
        parts.append(
            f"{question.prefix}, {dataset}: {len(sizes)} tasks, {init_cls} classes{later}"
            f"; {exchange_rate(net, facts.image_bytes)}\n\n{markdown_text(_HEADER, rows)}"
        )
    return "\n".join(parts) + f"\n{_FOOTNOTE}\n"


_HEADER = (
    *("method", "backbone", "exemplars", "exemplars (MB)", "weights (M)", "model (MB)"),
    *("total (MB)", "model stored (MB)", "total stored (MB)"),
)
_FOOTNOTE = (
    "MB are 2^20 bytes. weights, model, total: convolutions and BatchNorm weights (float32) only,\n"
    "as the published budgets count. stored: BatchNorm's statistics, the classifier and the\n"
    "auxiliary head as well. single backbone: "
    + ", ".join(row.title for row in METHODS.values() if row.single and row.exemplars)
    + " and their like."
)


def _networks() -> list[tuple[str, str]]:
    """Return in words each network that methods with exemplars have, and one such method."""
    found: dict[tuple, list[str]] = {}
    for row in METHODS.values():
        if row.exemplars:
            found.setdefault((row.trunks, row.blocks, row.aux_head), []).append(row.name)
    return [
        (", ".join(METHODS[name].title for name in names), names[0])
        if key != ("one", "one", False)
        else ("single backbone", names[0])
        for key, names in found.items()
    ]


def _mb(*amounts: int) -> list[str]:
    return [f"{amount / MB:.4f}" for amount in amounts]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 with one message on stderr."""
    asked = declared(Question)
    given, problems = parse_flags(sys.argv[1:] if argv is None else argv, asked)
    values, wrong = check(given, asked)
    sentences = [problem.sentence for problem in problems + wrong]
    if values.get("help"):
        sys.stdout.write(__doc__ + "\n".join(help_lines(asked.values())) + "\n")
        return 0
    if not sentences:
        try:
            sys.stdout.write(tables(Question(**values)))
            return 0
        except ValueError as error:
            sentences = [str(error)]
    sys.stderr.write("".join(f"utils.budget: {printable(sentence)}\n" for sentence in sentences))
    return 2


if __name__ == "__main__":
    sys.exit(main())
