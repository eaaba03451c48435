"""What is known about the networks, data sets and methods before anything is built.

Plain facts, no torch: the command line checks a configuration against them and the memory budgets
are computed from them, both at once and on any machine. The networks themselves are in convs/, and
a test holds the counts below to what convs builds; the images are read by utils/data.py.

To add a backbone: define it in convs/ and add its row to BACKBONES.
To add a data set: teach utils/data.py to read it and add its row to DATASETS.
To add a method: write models/<name>.py, add its name to METHODS and give it an exps/<name>.json.
"""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Backbone:
    """One network: its published name and what its two halves weigh.

    Weights are counted as the published budgets count them: convolutions (with their biases) and
    the affine parameters of BatchNorm, not its running statistics, and no classifier. What the
    statistics add is given apart, in bytes.
    """

    name: str
    image_size: int  # side in pixels of the images the published network expects
    generalized: int  # weights of the shared shallow blocks (the trunk)
    specialized: int  # weights of one specialized block; MEMO adds one per task
    feature_dim: int  # features that one specialized block gives
    generalized_buffer_bytes: int  # the trunk's BatchNorm statistics: float32, int64 counters
    specialized_buffer_bytes: int  # those of one specialized block

    @property
    def weights(self) -> int:
        """Weights of the whole single network."""
        return self.generalized + self.specialized


_BACKBONE_ROWS = (
    #        name                 pixels  generalized  specialized  features  buffers of each
    Backbone("resnet32", 32, 112_016, 351_488, 64, 4_136, 5_200),
    Backbone("resnet14_cifar", 32, 42_320, 129_536, 64, 1_736, 2_080),
    Backbone("resnet20_cifar", 32, 65_552, 203_520, 64, 2_536, 3_120),
    Backbone("resnet26_cifar", 32, 88_784, 277_504, 64, 3_336, 4_160),
    Backbone("conv2", 32, 1_920, 37_056, 64, 520, 520),
    Backbone("resnet18", 224, 2_782_784, 8_393_728, 512, 18_040, 20_520),
    Backbone("resnet10_imagenet", 224, 1_232_704, 3_673_088, 512, 10_824, 12_312),
    Backbone("resnet26_imagenet", 224, 3_444_032, 10_502_144, 2048, 58_032, 65_592),
    Backbone("resnet34_imagenet", 224, 8_170_304, 13_114_368, 512, 39_656, 28_728),
    Backbone("resnet50_imagenet", 224, 8_543_296, 14_964_736, 2048, 122_712, 90_192),
    Backbone("conv4", 224, 314_880, 591_360, 512, 3_096, 4_104),
)

# Keyed by the name of the single network; MEMO's split of the same network is "memo_" + name.
BACKBONES: dict[str, Backbone] = {row.name: row for row in _BACKBONE_ROWS}

# Second published names of single networks.
ALIASES: dict[str, str] = {"resnet34": "resnet34_imagenet", "resnet50": "resnet50_imagenet"}


def find_backbone(name: str) -> Backbone:
    """Return the backbone called `name`, with or without "memo_" in front.

    Raises:
        ValueError: one sentence naming the nearest known backbone, or all of them.
    """
    single = name.lower().removeprefix("memo_")
    single = ALIASES.get(single, single)
    if single in BACKBONES:
        return BACKBONES[single]
    near = get_close_matches(single, BACKBONES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(BACKBONES)}."
    raise ValueError(f"there is no backbone {name!r}: {hint}")


@dataclass(frozen=True)
class DatasetFacts:
    """One data set: sizes, normalisation, and the exemplars the published `benchmark` grants."""

    name: str
    classes: int
    image_size: int  # side in pixels after the transforms
    train_images: int | None  # None: depends on which classes are chosen
    test_images: int
    mean: tuple[float, float, float]  # of the pixels scaled to [0, 1], red green blue
    std: tuple[float, float, float]
    benchmark_exemplars: int

    @property
    def image_bytes(self) -> int:
        """Bytes of one stored exemplar: three uint8 channels."""
        return 3 * self.image_size**2


_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DATASETS: dict[str, DatasetFacts] = {
    facts.name: facts
    for facts in (
        DatasetFacts(
            name="cifar10",
            classes=10,
            image_size=32,
            train_images=50_000,
            test_images=10_000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            benchmark_exemplars=2000,
        ),
        DatasetFacts(
            name="cifar100",
            classes=100,
            image_size=32,
            train_images=50_000,
            test_images=10_000,
            mean=(0.5071, 0.4867, 0.4408),
            std=(0.2675, 0.2565, 0.2761),
            benchmark_exemplars=2000,
        ),
        # Procedural images (utils/data.py); the sizes are its defaults and can be asked smaller.
        DatasetFacts(
            name="synthetic",
            classes=100,
            image_size=32,
            train_images=10_000,
            test_images=2_000,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            benchmark_exemplars=2000,
        ),
        DatasetFacts(
            name="imagenet100",
            classes=100,
            image_size=224,
            train_images=None,
            test_images=5_000,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            benchmark_exemplars=2000,
        ),
        DatasetFacts(
            name="imagenet1000",
            classes=1000,
            image_size=224,
            train_images=1_281_167,
            test_images=50_000,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            benchmark_exemplars=20_000,
        ),
    )
}

# The data sets that utils/data.py can read; the others are known by name and published budget.
READABLE_DATASETS: tuple[str, ...] = ("cifar10", "cifar100", "synthetic")

# The methods in models/.
METHODS: tuple[str, ...] = ("memo",)
