"""What is known about the networks and data sets before anything is built.

Plain facts, no torch: the command line checks a configuration against them and the memory budgets
are computed from them, both at once and on any machine. The networks themselves are in convs/, and
a test holds the counts below to what utils/count.py makes of them; the images are read by
utils/data.py.

To add a backbone: see README.md; `python -m utils.count -net NAME` prints its row.
To add a data set: teach utils/data.py to read it and add its row to DATASETS.
The methods are in models/methods.py.
"""

from dataclasses import dataclass, replace
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
    smallest: int  # side of the smallest images it can be trained on, also one at a time
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
    #        name         pixels, smallest  generalized  specialized  features  buffers of each
    Backbone("resnet32", 32, 5, 112_016, 351_488, 64, 4_136, 5_200),
    Backbone("resnet14_cifar", 32, 5, 42_320, 129_536, 64, 1_736, 2_080),
    Backbone("resnet20_cifar", 32, 5, 65_552, 203_520, 64, 2_536, 3_120),
    Backbone("resnet26_cifar", 32, 5, 88_784, 277_504, 64, 3_336, 4_160),
    Backbone("conv2", 32, 4, 1_920, 37_056, 64, 520, 520),
    Backbone("resnet18", 224, 33, 2_782_784, 8_393_728, 512, 18_040, 20_520),
    Backbone("resnet10_imagenet", 224, 33, 1_232_704, 3_673_088, 512, 10_824, 12_312),
    Backbone("resnet26_imagenet", 224, 33, 3_444_032, 10_502_144, 2048, 58_032, 65_592),
    Backbone("resnet34_imagenet", 224, 33, 8_170_304, 13_114_368, 512, 39_656, 28_728),
    Backbone("resnet50_imagenet", 224, 33, 8_543_296, 14_964_736, 2048, 122_712, 90_192),
    Backbone("conv4", 224, 31, 314_880, 591_360, 512, 3_096, 4_104),
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
    near = get_close_matches(single[:100], BACKBONES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(BACKBONES)}."
    raise ValueError(f"there is no backbone {name!r}: {hint}")


@dataclass(frozen=True)
class DatasetFacts:
    """One data set: sizes, normalisation, and the exemplars the published `benchmark` grants.

    Those of `folder` depend on the images and are open here; `dataset_facts` fills them in.
    """

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
        # The user's own images; 0 and () stand for what only their folder can tell.
        DatasetFacts(
            name="folder",
            classes=0,
            image_size=0,
            train_images=None,
            test_images=0,
            mean=(),
            std=(),
            benchmark_exemplars=0,
        ),
    )
}

# The data sets that lie in folders of images (utils/folders.py).
FOLDER_DATASETS: tuple[str, ...] = ("imagenet100", "imagenet1000", "folder")

# What the published benchmark keeps of CIFAR-100, ImageNet-100 and ImageNet-1000, a class.
BENCHMARK_PER_CLASS = 20


def dataset_facts(
    name: str, classes: int | None = None, image_size: int | None = None
) -> DatasetFacts:
    """Return what is known of a data set; of `folder`, what follows from these two numbers.

    Args:
        name: a name in DATASETS.
        classes: number of classes of `folder`; not used for the others.
        image_size: side in pixels of its images; not used for the others.

    Raises:
        ValueError: one sentence: `folder` without its numbers.
    """
    facts = DATASETS[name]
    if name != "folder":
        return facts
    if not classes or not image_size:
        raise ValueError(
            "folder: its number of classes and its image size are not known here; python "
            "main_memo.py --dataset folder -ms auto --print_config shows what a protocol grants"
        )
    exemplars = BENCHMARK_PER_CLASS * classes
    return replace(facts, classes=classes, image_size=image_size, benchmark_exemplars=exemplars)


# Published runs train the trunk after the first task for first tasks of 5, 10 and 20 classes and
# freeze it for 50 and more; the paper's curves cross near 20 (MEMO, ICLR 2023, figure 5).
TRAIN_BASE_UP_TO = 20

# What training may compute with (utils/precision.py).
PRECISIONS: tuple[str, ...] = ("auto", "fp32", "tf32", "bf16")
