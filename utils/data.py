"""Data sets as arrays of uint8 images with their original labels.

`load_dataset(name, data_dir)` reads one of:

* `cifar10`, `cifar100`: the real data sets, read and verified by torchvision. Files that are in
  `data_dir` already need no network; a missing data set is downloaded there, with progress on
  stderr. The layout is torchvision's: `data_dir/cifar-100-python/` with the files `train`, `test`
  and `meta` (CIFAR-10: `data_dir/cifar-10-batches-py/`), or the archive as downloaded, which is
  then unpacked.
* `synthetic`: small pictures drawn by this file, for trying the program and for tests. It needs no
  files, takes seconds, and is no benchmark: its numbers mean nothing outside this project.

Everything a user can put right (no network, a damaged file, a folder that cannot be written) is a
`DataError` of one sentence.

The synthetic classes
---------------------
Up to 100 classes of 32 x 32 RGB images = 5 shapes (disc, square, triangle, ring, cross) x
4 textures (plain, stripes, checks, dots) x 5 colours (red, green, blue, yellow, magenta). What does
not tell the class varies from image to image: position, size, slant, phase of the texture, shade of
the colour, brightness and tint and slope of the background, and noise on every pixel. The classes
are numbered so that the first few already mix all shapes, textures and colours.

Image i of a class is the same on every machine and however many images or classes are asked for.
That is why random numbers come from NumPy's `RandomState`, whose stream is frozen for good, and why
the pictures are made with additions, products, quotients, square roots and comparisons only: IEEE
arithmetic fixes those to the bit, while sines and exponentials differ between processors.
"""

import logging
import socket
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5, check_integrity, download_and_extract_archive

from utils.catalog import DATASETS

log = logging.getLogger("memo")


class DataError(Exception):
    """A data set cannot be had; the message is one sentence for the user, with the remedy."""


@dataclass(frozen=True)
class ImageArrays:
    """A data set in memory: images, original labels, and how its pixels are normalised."""

    name: str
    train_images: np.ndarray  # (N, 3, H, W) uint8, C-contiguous
    train_labels: np.ndarray  # (N,) int64, original class ids from 0
    test_images: np.ndarray  # (M, 3, H, W) uint8
    test_labels: np.ndarray  # (M,) int64
    mean: tuple[float, ...]  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes; each has at least one train image."""
        return int(self.train_labels.max()) + 1


def load_dataset(
    name: str,
    data_dir: str | Path,
    *,
    synthetic_classes: int = 100,
    synthetic_train_per_class: int = 100,
    synthetic_test_per_class: int = 20,
) -> ImageArrays:
    """Read, download or draw a data set.

    Args:
        name: "cifar10", "cifar100" or "synthetic".
        data_dir: where the files of the real data sets are, or go.
        synthetic_classes: classes of `synthetic`, 1 to 100.
        synthetic_train_per_class: train images per class of `synthetic`, 1 or more.
        synthetic_test_per_class: test images per class of `synthetic`, 1 or more.

    Raises:
        DataError: the data set is unknown, missing and cannot be downloaded, or damaged.
    """
    if name == "synthetic":
        train = _draw_split(0, synthetic_classes, synthetic_train_per_class)
        test = _draw_split(1, synthetic_classes, synthetic_test_per_class)
    elif name in _CIFAR:
        train, test = _read_cifar(name, Path(data_dir).expanduser())
    else:
        known = ", ".join([*_CIFAR, "synthetic"])
        raise DataError(f"there is no data set {name!r}; there are {known}")
    facts = DATASETS[name]
    return ImageArrays(name, *train, *test, facts.mean, facts.std)


# --- CIFAR, through torchvision's readers ---------------------------------------------------------

_CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
_STALL_SECONDS = 30  # a download that is silent for so long has failed

Split = tuple[np.ndarray, np.ndarray]


def _read_cifar(name: str, data_dir: Path) -> tuple[Split, Split]:
    """Return the train and the test split, from files whose checksums have been verified."""
    reader = _CIFAR[name]
    folder = data_dir / reader.base_folder
    files = dict(reader.train_list + reader.test_list)
    files[reader.meta["filename"]] = reader.meta["md5"]
    try:
        if not all((folder / file).exists() for file in files):
            _fetch_cifar(name, data_dir)
        for file, md5 in files.items():
            if not check_integrity(folder / file, md5):
                raise DataError(
                    f"{folder / file} is damaged (its md5 is not {md5}): delete it and start "
                    f"again, and it is unpacked or downloaded anew"
                )
        return _split(reader(data_dir, train=True)), _split(reader(data_dir, train=False))
    except OSError as error:
        raise DataError(
            f"{name} cannot be read from {folder} ({error}): make the folder and its files "
            f"readable, or name another one with --data_dir"
        ) from error


def _split(dataset: CIFAR10) -> Split:
    # torchvision turns the planes of the files into (N, 32, 32, 3); this turns them back.
    images = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
    return images, np.asarray(dataset.targets, dtype=np.int64)


def _fetch_cifar(name: str, data_dir: Path) -> None:
    """Unpack the archive, downloading it first where it is not in `data_dir` yet."""
    reader = _CIFAR[name]
    archive = data_dir / reader.filename
    try:
        if check_integrity(archive, reader.tgz_md5):
            log.info("unpacking %s", archive)
        else:
            log.info("downloading %s to %s", reader.url, archive)
        with _network_timeout(_STALL_SECONDS):
            download_and_extract_archive(
                reader.url, data_dir, filename=reader.filename, md5=reader.tgz_md5
            )
    # RuntimeError is torchvision's word for a wrong checksum, EOFError and TarError mean a broken
    # archive, OSError covers the network (URLError) and the disk.
    except (OSError, RuntimeError, EOFError, tarfile.TarError, HTTPException) as error:
        found = ""
        if archive.is_file() and not check_integrity(archive, reader.tgz_md5):
            found = f" (the one there now has md5 {calculate_md5(archive)})"
        raise DataError(
            f"{name} is not in {data_dir} and fetching it failed ({str(error) or repr(error)}): "
            f"put the file {reader.filename} with md5 {reader.tgz_md5}, from {reader.url}, into "
            f"{data_dir}{found}, or name the folder that has it with --data_dir, or use "
            f"--dataset synthetic, which needs no download"
        ) from error


@contextmanager
def _network_timeout(seconds: float):
    # torchvision downloads without a time limit, so a silent firewall would hang the program.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- synthetic ------------------------------------------------------------------------------------

_SIZE = 32
_SEED = 603
_COLOURS = np.array(
    [[200, 60, 50], [60, 170, 70], [60, 90, 210], [200, 180, 50], [180, 70, 190]], np.float32
)
_SHAPES, _TEXTURES = 5, 4


def _draw_split(split: int, classes: int, per_class: int) -> Split:
    """Draw one split (0 train, 1 test), class after class."""
    limit = _SHAPES * _TEXTURES * len(_COLOURS)
    if not 1 <= classes <= limit:
        raise DataError(f"synthetic_classes is {classes}; it must be 1 to {limit}")
    if per_class < 1:
        key = ("synthetic_train_per_class", "synthetic_test_per_class")[split]
        raise DataError(f"{key} is {per_class}; it must be 1 or more")
    images = np.empty((classes, per_class, 3, _SIZE, _SIZE), np.uint8)
    for label in range(classes):
        images[label] = _draw_class(label, split, per_class)
    return images.reshape(-1, 3, _SIZE, _SIZE), np.repeat(np.arange(classes), per_class)


def _draw_class(label: int, split: int, n: int) -> np.ndarray:
    """Draw the first `n` images of a class: `(n, 3, 32, 32) uint8`."""
    shape, texture = label % _SHAPES, label // _SHAPES % _TEXTURES
    # Shape and texture shift the colour, so that 20 classes have all of the colours too.
    colour = (label // (_SHAPES * _TEXTURES) + shape + texture) % len(_COLOURS)

    # A stream for the few numbers of each image and one for the noise: drawn row by row, image i
    # is then the same whatever n is.
    stream = np.random.RandomState([_SEED, split, label, 0])
    noise_stream = np.random.RandomState([_SEED, split, label, 1])
    numbers = iter(stream.random_sample((n, 17)).astype(np.float32).T[:, :, None, None])

    def uniform(low: float, high: float) -> np.ndarray:  # (n, 1, 1)
        return np.float32(low) + np.float32(high - low) * next(numbers)

    def uniform_rgb(low: float, high: float) -> np.ndarray:  # (n, 3, 1, 1)
        return np.stack([uniform(low, high) for _ in range(3)], axis=1)

    # The shape's own coordinates: u to the right and v down in pixels from its centre, slanted.
    y, x = np.mgrid[:_SIZE, :_SIZE].astype(np.float32)
    x, y = x - uniform(11.5, 19.5), y - uniform(11.5, 19.5)
    radius = uniform(8.5, 13.0)
    slant = uniform(-0.35, 0.35)  # tangent of the angle, so that no sine is needed
    scale = np.sqrt(1 + slant * slant)
    u, v = (x + slant * y) / scale, (y - slant * x) / scale

    # Coverage of a pixel: signed depth inside the outline in pixels, softened over one pixel.
    inside = np.clip(_depth(shape, u / radius, v / radius) * radius + np.float32(0.5), 0, 1)
    period = uniform(5.5, 7.5)
    paint = _paint(texture, u / period + uniform(0, 1), v / period + uniform(0, 1))

    light = _COLOURS[colour][None, :, None, None] + uniform_rgb(-30, 30)
    dark = light * uniform(0.2, 0.45)[:, None]
    foreground = dark + (light - dark) * paint[:, None]
    slope = x * uniform(-2, 2) + y * uniform(-2, 2)
    background = uniform(60, 195)[:, None] + uniform_rgb(-25, 25) + slope[:, None]
    picture = background + (foreground - background) * inside[:, None]
    # The sum of two dice is a triangular distribution, -44 to 44, standard deviation 18.
    dice = noise_stream.randint(-22, 23, (n, 2, 3, _SIZE, _SIZE), dtype=np.int8)
    picture += dice.sum(axis=1, dtype=np.int8)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _depth(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed depth inside the outline of radius 1 (v points down)."""
    across, along = np.abs(u), np.abs(v)
    if shape == 0:  # disc
        return np.float32(0.9) - np.sqrt(u * u + v * v)
    if shape == 1:  # square
        return np.float32(0.8) - np.maximum(across, along)
    if shape == 2:  # triangle, point up; the flanks fall 2 for 1
        flank = (v + 1 - 2 * across) / np.sqrt(np.float32(5))
        return np.minimum(flank, np.float32(0.8) - v)
    if shape == 3:  # ring
        return np.float32(0.25) - np.abs(np.sqrt(u * u + v * v) - np.float32(0.72))
    bar, wide = np.float32(0.32), np.float32(0.95)  # cross
    upright = np.minimum(bar - across, wide - along)
    level = np.minimum(bar - along, wide - across)
    return np.maximum(upright, level)


def _paint(texture: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How light the texture of period 1 is: 0 the dark colour, 1 the light one."""
    # Distance to the nearest integer, 0 to 0.5.
    across, along = np.abs(u - np.floor(u + 0.5)), np.abs(v - np.floor(v + 0.5))
    if texture == 0:  # plain
        return np.ones_like(u)
    if texture == 1:  # stripes, level
        return (along < np.float32(0.25)).astype(np.float32)
    if texture == 2:  # checks
        return ((along < np.float32(0.25)) == (across < np.float32(0.25))).astype(np.float32)
    return (across * across + along * along > np.float32(0.1)).astype(np.float32)  # dark dots
