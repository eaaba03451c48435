"""Memory budgets: how many exemplars a method may keep when its network is counted too.

The published comparison is in bytes: float32 weights (4 bytes) and uint8 images (32 x 32 x 3 =
3,072 bytes for CIFAR). One ResNet-32 (463,504 weights) costs as much as 603 CIFAR images. Only
convolution and BatchNorm weights are counted; the classifier and BatchNorm's running statistics
are left out, as in the published numbers.

No torch here: the command line compares `--memory_size` with these numbers before a run starts.
"""

from utils.catalog import DATASETS, find_backbone
from utils.data_manager import split_classes

BYTES_PER_WEIGHT = 4  # float32


def aligned_memory_size(
    dataset: str, backbone: str, init_cls: int, increment: int, classes: int | None = None
) -> int:
    """Exemplars MEMO may keep under the `fair` protocol: as many bytes in all as DER uses.

    DER keeps the benchmark's exemplars (2000, or 20000 for ImageNet-1000) and one whole backbone
    per task: T (g + s) weights. MEMO keeps one trunk and one specialized block per task, g + T s
    weights, and turns the difference into images (MEMO, ICLR 2023, section 4.1):

        K = benchmark + floor((T (g + s) - (g + T s)) x 4 / image bytes)

    Args:
        dataset: a name in catalog.DATASETS.
        backbone: a backbone's name, with or without "memo_".
        init_cls: classes of the first task.
        increment: classes of every later task (the last one may have fewer).
        classes: number of classes, when it is not the data set's usual one.

    Raises:
        ValueError: an unknown backbone or an impossible split of the classes.
    """
    facts, net = DATASETS[dataset], find_backbone(backbone)
    tasks = len(split_classes(classes or facts.classes, init_cls, increment))
    der = tasks * (net.generalized + net.specialized)
    memo = net.generalized + tasks * net.specialized
    return facts.benchmark_exemplars + (der - memo) * BYTES_PER_WEIGHT // facts.image_bytes
