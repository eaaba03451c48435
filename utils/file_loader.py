"""Batches from image files, read by worker processes: for data sets too large to lie in memory.

`FileLoader` has the interface of `utils.loader.ResidentLoader`. Its images are made by torch's
DataLoader: workers that live as long as the loader decode, crop and augment on the CPU and hand
over uint8; the batch is copied to the device from pinned memory and normalised there.

Runs repeat, and resume in the middle of an epoch, to the bit, whatever the number of workers: the
seed of each image's augmentation is drawn together with the order of the epoch, by the parent and
from the learner's generator, and is saved with it. Nothing depends on who makes an image or on how
far the workers have read ahead.
"""

import atexit
import io
import multiprocessing.queues
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils.signal_handling import _remove_worker_pids
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from utils.augment import EvalTransform
from utils.command import ENDING
from utils.folders import DataError
from utils.images import (
    SystemLimitError,
    Transform,
    augmented,
    ignore_warnings,
    open_image,
    remedy,
)

# A batch without gradients holds at most so many pixels (128 of ImageNet's images): what is a
# convenient batch for CIFAR would fill the memory of a small machine with ImageNet's.
_PIXELS = 128 * 224 * 224

Key = tuple[str, int | None]  # a file and the seed of its augmentation; None: the test transform


class _Files(Dataset):
    """What the workers run: a key to an image or to the error that says why there is none.

    Errors are values here, because an exception that crosses processes brings its traceback along.
    """

    def __init__(self, train: Transform, test: Transform, upright: bool):
        self.train, self.test, self.upright = train, test, upright

    def __getitem__(self, key: Key) -> Tensor | DataError | SystemLimitError:
        path, seed = key
        try:
            if seed is None:
                return self.test(open_image(path, self.upright))
            return augmented(path, self.train, seed, self.upright)
        except (DataError, SystemLimitError) as error:
            return error


def _collate(images: list[Tensor | Exception]) -> Tensor | Exception:
    wrong = [image for image in images if isinstance(image, Exception)]
    if wrong:
        return wrong[0]
    batch = torch.stack(images)
    # Here, and not when it is sent by another thread: an error there would reach nobody.
    return batch.share_memory_() if get_worker_info() else batch


@contextmanager
def _signals_wait() -> Iterator[None]:
    # Workers inherit this, so that no signal ends one before it has begun to ignore them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(_number: int) -> None:
    # Ctrl-C, a queue's SIGTERM and a closed terminal's SIGHUP reach every process of the group;
    # what follows is the parent's to decide, which saves the run, and its workers end with it.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)
    ignore_warnings()
    # The parent gets errors as values and says them. What even that cannot be done for ends the
    # worker, which the parent notices; a batch that was not sent it would await for ever.
    sys.stderr = io.StringIO()
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(lambda *_: os._exit(1))


class _Workers(_MultiProcessingDataLoaderIter):
    """DataLoader's processes, of which none is left where not all of them can be had."""

    _workers, _worker_pids_set = (), False

    def __init__(self, loader: DataLoader):
        try:
            super().__init__(loader)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End them at once, however little the system gives: nothing is asked of them."""
        self._shutdown = True  # there is nothing left that the base class could do
        if self._worker_pids_set:  # else it would tell of them
            self._worker_pids_set = False
            _remove_worker_pids(id(self))
        for worker in self._workers:
            worker.kill()
            worker.join()


class _Loader(DataLoader):
    def _get_iterator(self) -> Any:
        return _Workers(self) if self.num_workers else super()._get_iterator()


class FileReader:
    """The worker processes: file names in, batches of uint8 images out. Loaders may share one.

    One pass at a time: a new one ends the one before.
    """

    def __init__(
        self,
        train: Transform,
        test: Transform,
        num_workers: int,
        pin_memory: bool,
        upright: bool = False,
    ):
        """Keep what is to be done; the processes begin with the first pass.

        Args:
            train: makes `(3, S, S) uint8` of an image, at random.
            test: the same without randomness.
            num_workers: processes; 0 reads in this one.
            pin_memory: put batches where a GPU can fetch them by itself.
            upright: as in `utils.images.open_image`.
        """
        self._files = _Files(train, test, upright)
        self._num_workers = num_workers
        self._pin_memory = pin_memory
        self._batches: list[list[Key]] = []  # of the pass in progress
        self._passes = 0
        self._loader: DataLoader | None = None
        self._iterator: Any = None  # DataLoader's, which owns the processes

    def read(self, batches: Sequence[list[Key]]) -> Iterator[Tensor]:
        """Yield the images of each batch, `(B, 3, S, S) uint8`.

        Raises:
            DataError: a file is no image.
            SystemLimitError: processes, open files or memory cannot be had.
        """
        self._passes += 1
        this_pass = self._passes
        self._batches[:] = batches
        with self._limits_told(), warnings.catch_warnings(), _signals_wait():
            # That there are more workers than cores is the user's choice; torch says so twice.
            warnings.filterwarnings("ignore", "This DataLoader will create")
            if self._loader is None:
                self._loader = self._start()
            iterator = self._iterator = iter(self._loader)
        while True:
            with self._limits_told(), warnings.catch_warnings():
                ignore_warnings()  # without workers this process reads
                images = next(iterator, None)
            if images is None:
                return
            if isinstance(images, Exception):
                raise images
            yield images
            if self._passes != this_pass:
                raise RuntimeError("another pass over the files began before this one was over")

    def close(self) -> None:
        """End the worker processes; a later pass begins new ones."""
        atexit.unregister(self.close)
        iterator, self._iterator, self._loader = self._iterator, None, None
        self._passes += 1
        if iterator is not None and self._num_workers > 0:
            # DataLoader does this when the iterator is collected. But the traceback of an error, or
            # a learner in a reference cycle, may hold it until the program's end, which then would
            # wait forever for processes that take no SIGTERM.
            iterator._shutdown_workers()
            for worker in iterator._workers:
                if worker.is_alive():  # stuck in a read
                    worker.kill()

    @contextmanager
    def _limits_told(self) -> Iterator[None]:
        """Turn what the system refuses into a sentence, and end the processes that there are."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            what_to_do = remedy(error) or "make the folder /dev/shm writable"
            if not isinstance(error, OSError) and not remedy(error):
                raise
            if isinstance(self._iterator, _Workers):
                self._iterator.kill()
            self.close()
            said = str(error).strip().splitlines()[-1].partition(". ")[0]
            raise SystemLimitError(
                f"images cannot be read by other processes ({said}): {what_to_do}, or give a "
                f"--num_workers of less than {self._num_workers} (0 reads without), then go on "
                "with --resume"
            ) from error

    def _start(self) -> DataLoader:
        several = self._num_workers > 0
        atexit.register(self.close)
        return _Loader(
            self._files,
            batch_sampler=self._batches,  # read anew by each pass
            collate_fn=_collate,
            num_workers=self._num_workers,
            persistent_workers=several,
            # Forked workers start at once; those of Python 3.14's default import torch anew, which
            # takes seconds. Elsewhere than on Linux to fork is not safe.
            multiprocessing_context="fork" if several and sys.platform == "linux" else None,
            pin_memory=self._pin_memory,
            worker_init_fn=_begin_worker if several else None,
            # DataLoader draws a seed for each worker, which is not used here: not from the global
            # generator, which the network's initial weights come from.
            generator=torch.Generator(),
        )


@dataclass
class FileBatch:
    """This process's share of a training batch, read but not on the device yet."""

    images: Tensor  # (B, 3, S, S) uint8 on the CPU
    labels: Tensor  # (B,) int64 on the device
    whole: int  # images of the whole batch, all processes' shares together

    def __len__(self) -> int:
        return self.whole


class FileLoader:
    """Image files of one split, and batches made of them.

    Attributes:
        share: as in `utils.loader.ResidentLoader`.
        labels: `(N,) int64` on the device, mapped labels.
        device: where batches are, and where the generator must be.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        size: int,
        reader: FileReader,
        normalise: EvalTransform,
        device: torch.device | str,
    ):
        """Keep the names; no file is opened.

        Args:
            paths: of N image files.
            labels: `(N,)` integer, mapped labels (position in the class order).
            size: side in pixels of the images that the reader makes.
            reader: makes uint8 images of files.
            normalise: makes float32 images of uint8 ones.
            device: a torch device.

        Raises:
            ValueError: not as many labels as images.
        """
        if len(paths) != len(labels):
            raise ValueError(f"{len(paths)} images but {len(labels)} labels; each needs one")
        self.device = torch.device(device)
        self.labels = torch.as_tensor(labels, dtype=torch.int64, device=self.device)
        self._paths = paths
        self._largest_batch = max(_PIXELS // size**2, 1)
        self.share: Callable[[int], slice] = slice
        self._reader = reader
        self._normalise = normalise

    def __len__(self) -> int:
        """Return the number of images of the whole split."""
        return len(self._paths)

    def close(self) -> None:
        """End the worker processes; they begin anew when they are needed."""
        self._reader.close()

    @staticmethod
    def num_batches(n: int, batch_size: int) -> int:
        """Return how many batches `n` images make; the last one may be partial."""
        return -(-n // batch_size)

    def draw_order(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw the order in which an epoch shows `n` images, and how: `(n, 2) int64`.

        A row for each position: which image, and the seed of its augmentation.
        """
        order = torch.randperm(n, generator=generator, device=self.device)
        seeds = torch.randint(2**62, (n,), generator=generator, device=self.device)
        return torch.stack([order, seeds], dim=1)

    def train_batches(
        self, indices: np.ndarray | Tensor, batch_size: int, order: Tensor, first_batch: int = 0
    ) -> Iterator[FileBatch]:
        """Yield this process's share of each batch of an epoch; a partial last batch is kept.

        Args:
            indices: `(n,)` integer, which images of the split; an image named twice is shown twice.
            batch_size: images per batch.
            order: of `draw_order`.
            first_batch: the first one to make, from 0, where the epoch was left.

        Raises:
            DataError: a file is no image.
        """
        order = order[first_batch * batch_size :].cpu()
        if len(order) == 0:  # left behind its last batch; split() would make an empty one of it
            return
        chosen = torch.as_tensor(indices, dtype=torch.int64).cpu()[order[:, 0]]
        batches = list(zip(chosen.split(batch_size), order[:, 1].split(batch_size), strict=True))
        # All labels at once: a copy for every batch would wait for the device in every step.
        labels = self.labels[chosen.to(self.device)].split(batch_size)
        shares = [self.share(len(images)) for images, _ in batches]
        parts = [
            (images[share], seeds[share])
            for (images, seeds), share in zip(batches, shares, strict=True)
        ]
        keys = [
            [
                (self._paths[i], seed)
                for i, seed in zip(images.tolist(), seeds.tolist(), strict=True)
            ]
            for images, seeds in parts
        ]
        for made, targets, share in zip(self._reader.read(keys), labels, shares, strict=True):
            yield FileBatch(made, targets[share], len(targets))

    def make_batch(self, batch: FileBatch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Put a batch on the device and normalise it; the generator is not needed any more.

        Returns:
            `(B, 3, S, S) float32` images and `(B,) int64` labels.
        """
        return self._on_device(batch.images), batch.labels

    def eval_batches(
        self, indices: np.ndarray | Tensor, batch_size: int = 500
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images in the given order under the test transform.

        Args:
            indices: `(n,)` integer, which images of the split.
            batch_size: the most images per batch; fewer where they are large.

        Yields:
            `(B, 3, S, S) float32` images and `(B,) int64` labels.

        Raises:
            DataError: a file is no image.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64).cpu()
        size = min(batch_size, self._largest_batch)
        pieces = chosen.split(size) if len(chosen) else ()
        labels = self.labels[chosen.to(self.device)].split(size) if len(chosen) else ()
        keys = [[(self._paths[i], None) for i in piece.tolist()] for piece in pieces]
        for images, targets in zip(self._reader.read(keys), labels, strict=True):
            yield self._on_device(images), targets

    def _on_device(self, images: Tensor) -> Tensor:
        return self._normalise(images.to(self.device, non_blocking=True))
