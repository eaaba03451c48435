"""Which images are kept from earlier classes: herding, class means, and the exemplar memory.

The memory holds indices into the training set, never images. For every class seen, in class
order, it keeps the indices of its exemplars in the order herding chose them, so that cutting a
class to its first m leaves exactly what herding m images would have chosen. After each task:

    m = memory.quota(seen_classes)            # budget // classes seen, or memory_per_class
    memory.reduce(m)                          # old classes keep their first m, never re-ranked
    for each new class c, images `rows` (indices), features `f` (one row an image):
        memory.add(c, rows[herd(f, m).cpu()])

Herding (Welling, 2009; iCaRL, 2017) picks images one at a time so that the mean of the picked
ones stays as near as possible to the mean of the whole class. Features are divided by their
norm first; the class mean is not normalised again.

The same features give the nearest-mean-of-exemplars classifier (NME): `class_means` over the
exemplars, then `nme_predict` for any images.

Everything here takes raw features (the concatenated outputs of all specialized blocks) in
float32 on any device and normalises them itself. There is no matrix product in this file, so TF32
cannot touch the ranking; that the features themselves are full float32 is the learner's business.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NORM_EPSILON = 1e-8  # of iCaRL's published code; it keeps an all-zero feature from becoming NaN


def normalise_features(features: Tensor) -> Tensor:
    """Divide each row by (its Euclidean norm + 1e-8).

    Args:
        features: (n, d) float32, or float64.

    Returns:
        (n, d), same type and device.

    Raises:
        TypeError: for a type too coarse to rank images with, such as bfloat16.
    """
    if features.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"features must be float32 (or float64) to be ranked, not {features.dtype}")
    return features / (features.norm(dim=1, keepdim=True) + NORM_EPSILON)


def herd(features: Tensor, m: int) -> Tensor:
    """Choose the m images whose mean best follows the mean of their class.

    At step k = 1, 2, ... the image v not yet taken with the smallest || mean - (S + v) / k || is
    taken, S being the sum of those before it; of equals, the first.

    Args:
        features: (n, d) raw features of all training images of one class.
        m: how many to choose; a class with fewer images gives all.

    Returns:
        (min(m, n),) int64, rows of `features` in the order chosen, on the features' device.

    Raises:
        ValueError: m < 1, no images, or features that are not finite.
        TypeError: features that are not float32 or float64.
    """
    if m < 1:
        raise ValueError(f"herding needs at least 1 exemplar per class to choose, not {m}")
    if len(features) == 0:
        raise ValueError("herding was given a class with no images")
    vectors = normalise_features(features)
    if not vectors.isfinite().all():
        raise ValueError("herding was given NaN or infinite features: the network has diverged")

    mean = vectors.mean(dim=0)
    chosen_sum = torch.zeros_like(vectors[:1])
    taken = vectors.new_zeros(len(vectors))  # infinity for what is taken, so that it never wins
    gap = torch.empty_like(vectors)
    order = []
    # Each step is a few whole-class operations and never waits for the device. The square is
    # not expanded into products: that would round equal images to unequal scores.
    for k in range(1, min(m, len(vectors)) + 1):
        # By a tensor: a GPU divides by a Python number with its rounded reciprocal. (Its means and
        # norms still add in another order than a CPU's, so scores may differ in their last bit.)
        torch.add(vectors, chosen_sum, out=gap).div_(vectors.new_full((), k)).sub_(mean)
        scores = torch.linalg.vector_norm(gap, dim=1).add_(taken)
        best = scores.argmin(dim=0, keepdim=True)  # the first of equals
        order.append(best)
        chosen_sum += vectors.index_select(0, best)
        taken.index_fill_(0, best, torch.inf)
    return torch.cat(order)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean of each class's normalised features, normalised again (without epsilon).

    Args:
        features: (n, d) raw features of the exemplars.
        labels: (n,) int64, 0 .. num_classes - 1, on the features' device.
        num_classes: C.

    Returns:
        (C, d), same type and device as the features. A class whose features cancel to a zero mean
        has no direction: its row is NaN and `nme_predict` ranks it last.

    Raises:
        ValueError: if a class has no row.
    """
    vectors = normalise_features(features)
    means = torch.empty(num_classes, vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
    # One class at a time, not index_add_: on a GPU that sums in another order each time.
    for label in range(num_classes):
        rows = vectors[labels == label]
        if len(rows) == 0:
            raise ValueError(f"class {label} has no exemplar, so it has no class mean")
        means[label] = rows.mean(dim=0)
    return means / means.norm(dim=1, keepdim=True)


def nme_predict(features: Tensor, means: Tensor, k: int) -> Tensor:
    """Return the k classes whose means are nearest (Euclidean) to each image's normalised features.

    Args:
        features: (n, d) raw features.
        means: (C, d) from `class_means`, same type and device.
        k: number of classes to name, at most C.

    Returns:
        (n, k) int64, nearest first; of equally near classes, the one learned earlier.
    """
    nearest = []
    for some in features.split(1000):  # a normalised copy of all would be as large as they are
        distances = torch.cdist(
            normalise_features(some), means, compute_mode="donot_use_mm_for_euclid_dist"
        )
        # A copy: a view would keep the whole ranking.
        nearest.append(distances.sort(dim=1, stable=True).indices[:, :k].clone())
    return torch.cat(nearest)


class ExemplarMemory:
    """The exemplars of all classes seen, as indices into the training set.

    Attributes:
        memory_size: most exemplars held in all, unless `fixed_memory`.
        fixed_memory: True keeps `memory_per_class` of every class, however many classes come.
        memory_per_class: see `fixed_memory`.
        per_class: one int64 array per class, in class order, each in herding order.
    """

    def __init__(
        self, memory_size: int, fixed_memory: bool = False, memory_per_class: int = 20
    ) -> None:
        self.memory_size = memory_size
        self.fixed_memory = fixed_memory
        self.memory_per_class = memory_per_class
        self.per_class: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(indices) for indices in self.per_class)

    def quota(self, seen_classes: int) -> int:
        """Return how many exemplars each class may keep once `seen_classes` classes are known.

        Raises:
            ValueError: if the budget has less than one for each class.
        """
        if self.fixed_memory:
            return self.memory_per_class
        if self.memory_size < seen_classes:
            raise ValueError(
                f"{seen_classes} classes do not fit into memory_size {self.memory_size}"
            )
        return self.memory_size // seen_classes

    def reduce(self, m: int) -> None:
        """Cut every class to the first m exemplars that herding chose."""
        self.per_class = [indices[:m] for indices in self.per_class]

    def add(self, class_id: int, indices: Sequence[int] | np.ndarray | Tensor) -> None:
        """Add the next class.

        Args:
            class_id: position in the class order; classes come in that order, each once.
            indices: its exemplars' indices in the training set, in herding order.

        Raises:
            ValueError: for a class out of turn, no or repeated images, or more than the budget.
        """
        if class_id != len(self.per_class):
            raise ValueError(f"class {class_id} was added where class {len(self.per_class)} is due")
        if isinstance(indices, Tensor):
            indices = indices.cpu().numpy()
        added = np.array(indices, dtype=np.int64)
        if len(added) == 0:
            raise ValueError(f"class {class_id} was added with none: a class keeps at least one")
        if len(np.unique(added)) != len(added):
            raise ValueError(f"class {class_id} was added with an image that is there twice")
        if self.fixed_memory and len(added) > self.memory_per_class:
            raise ValueError(
                f"{len(added)} exemplars of class {class_id} are more than "
                f"memory_per_class {self.memory_per_class}"
            )
        if not self.fixed_memory and len(self) + len(added) > self.memory_size:
            raise ValueError(
                f"{len(self) + len(added)} exemplars are more than memory_size {self.memory_size}"
            )
        self.per_class.append(added)

    def indices(self) -> np.ndarray:
        """Return all exemplars, (len(self),) int64: class after class, each in herding order."""
        return np.concatenate([np.empty(0, dtype=np.int64), *self.per_class])

    def state_dict(self) -> list[Tensor]:
        """Return one int64 tensor per class, for a checkpoint."""
        return [torch.from_numpy(indices.copy()) for indices in self.per_class]

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: if it does not fit this memory's budget; the memory is then unchanged.
        """
        restored = ExemplarMemory(self.memory_size, self.fixed_memory, self.memory_per_class)
        for class_id, indices in enumerate(state):
            restored.add(class_id, indices)
        self.per_class = restored.per_class
