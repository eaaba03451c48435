"""Image files as uint8 pixels: reading, the transforms of torchvision v2, mean and deviation.

What is made of a file depends on the size of the images asked for:

    up to SMALL pixels      as CIFAR's: shorter side resized to the size, centre cropped. For
                            training then zero-padded by an eighth of the size, randomly cropped,
                            mirrored at random, brightness factor U[1 - 63/255, 1 + 63/255].
    larger                  as ImageNet's: for testing, shorter side resized to 256/224 of the size
                            and centre cropped; for training, RandomResizedCrop and mirroring, and
                            the brightness factor where it is asked for (ImageNet-1000).

An augmented image is a function of its file and of one seed, and of nothing else: whichever process
makes it, and whenever, it is the same.
"""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from utils.augment import BRIGHTNESS
from utils.folders import DataError
from utils.pixels import bits_a_sample, kind_of_tiff, to_rgb

# What an image may take: 1 GiB, as Pillow holds it, and its texts as much. Pillow's own limits are
# lower, and hold for the whole process; it raises an error at twice the first.
MOST_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 4 * MOST_PIXELS

SMALL = 64
_AT_ONCE = 256  # images handed to the threads at a time: bounds what waits in memory

Transform = Callable[[Image.Image], Tensor]


class SystemLimitError(Exception):
    """The system does not give what reading images takes; one sentence, with the remedy."""


# In the words of the system, Python and torch, and what to do.
_REMEDIES = {
    ("Too many open files", "ancdata"): "raise the limit of open files (ulimit -n)",
    ("Resource temporarily unavailable", "can't start new thread"): (
        "raise the limit of processes (ulimit -u, or the container's)"
    ),
    ("No space left", "Bus error", "Read-only"): (
        "make room in /dev/shm (docker run --shm-size), which must be there and writable"
    ),
    ("Cannot allocate memory",): "free memory, or give a smaller --batch_size",
    ("DataLoader worker (pid", "Pin memory thread"): (
        "free memory, make room in /dev/shm, or raise the limits that `ulimit -a` shows"
    ),
}


def remedy(error: Exception) -> str | None:
    """Return what to do about a limit of the system, None where the error is of another kind."""
    for words, what_to_do in _REMEDIES.items():
        if any(word in str(error) for word in words):
            return what_to_do
    return None


def ignore_warnings() -> None:
    """Silence Pillow's warnings (of a huge image, of odd metadata), which help nobody.

    For good in a worker process; elsewhere inside warnings.catch_warnings() and in the main thread,
    because threads share the filters.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(path: str, upright: bool = False) -> Image.Image:
    """Return the image in a file in RGB, whatever its own mode.

    Args:
        path: of the file.
        upright: turn it as its EXIF orientation says, as cameras mean it.

    Raises:
        DataError: the file is missing, damaged, no image, too large, or one that would be black in
            RGB (utils/pixels.py); the message names it.
        SystemLimitError: no file can be opened any more.
        MemoryError: the image does not fit in.
    """
    try:
        with Image.open(path) as image:
            bits = bits_a_sample(image, path)
            if upright:
                image.load()  # a damaged image is an error, damaged metadata is none
                with contextlib.suppress(Exception):
                    ImageOps.exif_transpose(image, in_place=True)
            return to_rgb(image, bits, path)
    except (DataError, MemoryError):
        raise
    # A damaged file makes Pillow's readers raise almost anything: OSError, SyntaxError, zlib.error,
    # struct.error, IndexError.
    except Exception as error:
        if isinstance(error, OSError) and error.errno and remedy(error):
            raise SystemLimitError(
                f"{path} cannot be opened ({error.strerror}): {remedy(error)}, then go on with "
                "--resume"
            ) from error
        raise DataError(f"{path} {_why_not(error, path)}") from error


def _why_not(error: Exception, path: str) -> str:
    """Say why a file was not read, and what to do."""
    if isinstance(error, Image.DecompressionBombError) or "MAX_TEXT" in str(error):
        return (
            f"takes more than 1 GiB of memory ({MOST_PIXELS:,} pixels, or as much text): make it "
            "smaller, for example with `vipsthumbnail --size 4096` of libvips"
        )
    what = f" ({error})"
    if isinstance(error, Image.UnidentifiedImageError):
        what, kind = "", kind_of_tiff(path)
        if kind:
            return kind
    return (
        f"cannot be read as an image{what}: put a good copy in its place, or take it away and "
        "start a new run"
    )


def eval_transform(size: int) -> Transform:
    """Return what makes `(3, size, size) uint8` of an image for testing and herding."""
    resized = size if size <= SMALL else round(size * 256 / 224)
    return v2.Compose([v2.Resize(resized), v2.CenterCrop(size), v2.PILToTensor()])


def train_transform(size: int, brightness: bool) -> Transform:
    """Return what makes `(3, size, size) uint8` of an image for training, at random.

    Args:
        size: side in pixels of the result.
        brightness: whether larger images are brightened too; those up to SMALL always are.
    """
    if size <= SMALL:
        crop = [v2.Resize(size), v2.CenterCrop(size), v2.RandomCrop(size, padding=size // 8)]
    else:
        crop = [v2.RandomResizedCrop(size)]
    jitter = [v2.ColorJitter(brightness=BRIGHTNESS)] if brightness or size <= SMALL else []
    return v2.Compose([*crop, v2.RandomHorizontalFlip(), *jitter, v2.PILToTensor()])


def augmented(path: str, transform: Transform, seed: int, upright: bool = False) -> Tensor:
    """Return the image in a file under a random transform whose only randomness is the seed."""
    image = open_image(path, upright)
    with torch.random.fork_rng(devices=[]):  # the caller's own random numbers are left alone
        torch.manual_seed(seed)
        return transform(image)


def read_images(paths: Sequence[str], size: int, what: str, upright: bool = False) -> np.ndarray:
    """Return images under the test transform, `(N, 3, size, size) uint8`.

    Args:
        paths: of the files.
        size: side in pixels.
        what: named beside the progress bar.
        upright: as in `open_image`.

    Raises:
        DataError: a file is no image.
    """
    images = np.empty((len(paths), 3, size, size), np.uint8)
    with warnings.catch_warnings():
        ignore_warnings()
        for index, image in enumerate(_read_all(paths, size, what, upright)):
            images[index] = image
    return images


def mean_and_std(
    images: Iterator[np.ndarray] | np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the pixels of each channel, scaled to [0, 1].

    Summed up in whole numbers, so that neither order nor rounding matters.

    Args:
        images: each `(3, H, W) uint8`.
    """
    count, total, squares = 0, [0] * 3, [0] * 3
    for image in images:
        flat = image.reshape(3, -1).astype(np.int64)
        count += flat.shape[1]
        for channel in range(3):
            total[channel] += int(flat[channel].sum())
            squares[channel] += int((flat[channel] ** 2).sum())
    means = tuple(t / count / 255 for t in total)
    # A channel that is the same everywhere has no deviation to divide by: one grey level is taken.
    stds = tuple(
        max(math.sqrt(count * s - t * t) / count, 1) / 255
        for t, s in zip(total, squares, strict=True)
    )
    return means, stds


def mean_and_std_of_files(paths: Sequence[str], size: int, upright: bool = False) -> tuple:
    """Return `mean_and_std` of images under the test transform; `upright` as in `open_image`.

    Raises:
        DataError: a file is no image.
    """
    with warnings.catch_warnings():
        ignore_warnings()
        return mean_and_std(_read_all(paths, size, "mean and deviation", upright))


def _read_all(paths: Sequence[str], size: int, what: str, upright: bool) -> Iterator[np.ndarray]:
    """Yield images under the test transform, `(3, size, size) uint8`, in the order of the paths."""
    transform = eval_transform(size)

    def read(path: str) -> np.ndarray:
        return transform(open_image(path, upright)).numpy()

    # Threads, because Pillow decodes and resizes without the interpreter's lock.
    with (
        ThreadPoolExecutor(os.cpu_count()) as threads,
        tqdm(total=len(paths), desc=what, unit="image", leave=False, disable=None) as bar,
    ):
        for start in range(0, len(paths), _AT_ONCE):
            try:
                images = threads.map(read, paths[start : start + _AT_ONCE])
            except RuntimeError as error:
                raise SystemLimitError(
                    f"images cannot be read ({error}): {remedy(error)}, and start again"
                ) from error
            for image in images:
                bar.update()
                yield image
