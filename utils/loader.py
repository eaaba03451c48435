"""Batches from images that lie on the device as uint8.

CIFAR-100's training set is 154 MB of uint8, so it fits on every device: it is put there once, and
a batch is a gather, an augmentation and a normalisation, all batched. There are no worker
processes, no copies from the host and no waiting for the device inside an epoch.

A task, a test set and an exemplar memory are arrays of indices into the data set, so one loader
serves them all.

    loader = ResidentLoader(images, labels, train_transform, eval_transform, device)
    order = loader.draw_order(len(indices), generator)
    for batch in loader.train_batches(indices, batch_size=128, order=order):
        x, y = loader.make_batch(batch, generator)
    for x, y in loader.eval_batches(indices):
        ...
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from utils.augment import TrainTransform


class ResidentLoader:
    """Images of one data set, uint8, on one device, and batches made of them.

    Attributes:
        images: `(N, 3, H, W) uint8` on the device.
        labels: `(N,) int64` on the device, mapped labels.
        device: where images, labels and batches are, and where the generator must be.
        share: size of a batch -> which part of it to make, in a process that shares each batch with
            others; all of it at first.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        transform_train: TrainTransform,
        transform_eval: Callable[[Tensor], Tensor],
        device: torch.device | str,
    ):
        """Put images and labels on the device (on the CPU an array is shared, not copied).

        Args:
            images: `(N, 3, H, W) uint8`.
            labels: `(N,)` integer, mapped labels (position in the class order).
            transform_train: draws what is to be done to images, and does it.
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
        self.share: Callable[[int], slice] = slice
        self.transform_train = transform_train
        self.transform_eval = transform_eval

    def __len__(self) -> int:
        """Return the number of images of the whole data set."""
        return len(self.images)

    def close(self) -> None:
        """Do nothing: there are no worker processes to end, as utils/file_loader.py has them."""

    @staticmethod
    def num_batches(n: int, batch_size: int) -> int:
        """Return how many batches `n` images make; the last one may be partial."""
        return -(-n // batch_size)

    def draw_order(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the order in which an epoch shows `n` images: `(n,) int64`, a permutation."""
        return torch.randperm(n, generator=generator, device=self.device)

    def train_batches(
        self, indices: np.ndarray | Tensor, batch_size: int, order: Tensor, first_batch: int = 0
    ) -> Iterator[Tensor]:
        """Yield which images make each batch of an epoch; a partial last batch is kept.

        Args:
            indices: `(n,)` integer, which images of the data set; an image named twice is shown
                twice.
            batch_size: images per batch.
            order: of `draw_order`.
            first_batch: the first one to make, from 0, where the epoch was left.

        Yields:
            `(B,) int64` on the device.
        """
        yield from _pieces(self._on_device(indices)[order[first_batch * batch_size :]], batch_size)

    def make_batch(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Gather and augment the images of a batch, or of this process's share of it.

        The draws are those of the whole batch. Nothing here waits for the device.

        Args:
            batch: of `train_batches`.
            generator: on the loader's device.

        Returns:
            `(B, 3, H, W) float32` images and `(B,) int64` labels.
        """
        draws = self.transform_train.draw(len(batch), generator)
        share = self.share(len(batch))
        part = batch[share]
        return self.transform_train(self.images[part], draws[share]), self.labels[part]

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
