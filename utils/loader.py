"""Batches from images that lie on the device as uint8.

CIFAR-100's training set is 154 MB of uint8, so it fits on every device: it is put there once, and
a batch is a gather, an augmentation and a normalisation, all batched. There are no worker
processes, no copies from the host and no waiting for the device inside an epoch.

A task, a test set and an exemplar memory are arrays of indices into the data set, so one loader
serves them all.

    loader = ResidentLoader(images, labels, train_transform, eval_transform, device)
    for x, y in loader.train_epoch(indices, batch_size=128, generator=generator):
        ...
    for x, y in loader.eval_batches(indices):
        ...
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor


class ResidentLoader:
    """Images of one data set, uint8, on one device, and batches made of them.

    Attributes:
        images: `(N, 3, H, W) uint8` on the device.
        labels: `(N,) int64` on the device, mapped labels.
        device: where images, labels and batches are, and where the generator must be.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        transform_train: Callable[[Tensor, torch.Generator], Tensor],
        transform_eval: Callable[[Tensor], Tensor],
        device: torch.device | str,
    ):
        """Put images and labels on the device (on the CPU an array is shared, not copied).

        Args:
            images: `(N, 3, H, W) uint8`.
            labels: `(N,)` integer, mapped labels (position in the class order).
            transform_train: makes float32 images of uint8 ones, with a generator's randomness.
            transform_eval: makes float32 images of uint8 ones.
            device: a torch device.

        Raises:
            ValueError: not as many labels as images.
        """
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels; each needs one")
        self.device = torch.device(device)
        self.images = torch.as_tensor(images, device=self.device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=self.device)
        self.transform_train = transform_train
        self.transform_eval = transform_eval

    def __len__(self) -> int:
        """Return the number of images of the whole data set."""
        return len(self.images)

    @staticmethod
    def num_batches(n: int, batch_size: int) -> int:
        """Return how many batches `n` images make; the last one may be partial."""
        return -(-n // batch_size)

    def draw_order(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the order in which an epoch shows `n` images: `(n,) int64`, a permutation."""
        return torch.randperm(n, generator=generator, device=self.device)

    def train_epoch(
        self,
        indices: np.ndarray | Tensor,
        batch_size: int,
        generator: torch.Generator,
        order: Tensor | None = None,
        first_batch: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images once each, shuffled and augmented; a partial last batch is kept.

        Args:
            indices: `(n,)` integer, which images of the data set; an image named twice is shown
                twice.
            batch_size: images per batch.
            generator: on the loader's device. One permutation is drawn for the epoch, unless
                `order` is given, then each batch's augmentation as the batch is made.
            order: of `draw_order`; with it an epoch can be entered again in the middle.
            first_batch: the first one to make, from 0, where the epoch was left.

        Yields:
            `(B, 3, H, W) float32` images and `(B,) int64` labels.
        """
        indices = self._on_device(indices)
        if order is None:
            order = self.draw_order(len(indices), generator)
        for batch in _pieces(indices[order[first_batch * batch_size :]], batch_size):
            yield self.transform_train(self.images[batch], generator), self.labels[batch]

    def eval_batches(
        self, indices: np.ndarray | Tensor, batch_size: int = 500
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images in the given order under the test transform.

        Args:
            indices: `(n,)` integer, which images of the data set.
            batch_size: images per batch.

        Yields:
            `(B, 3, H, W) float32` images and `(B,) int64` labels.
        """
        for batch in _pieces(self._on_device(indices), batch_size):
            yield self.transform_eval(self.images[batch]), self.labels[batch]

    def _on_device(self, indices: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(indices, dtype=torch.int64, device=self.device)


def _pieces(indices: Tensor, size: int) -> Iterator[Tensor]:
    # Not Tensor.split, which makes one empty piece of nothing.
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
