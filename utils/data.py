"""Data sets: uint8 images in memory, or the names of image files, with their original labels.

`load_dataset(name, data_dir)` reads one of:

* `cifar10`, `cifar100`: the real data sets, read and verified by torchvision. Files that are in
  `data_dir` already need no network; a missing data set is downloaded there, with progress on
  stderr. The layout is torchvision's: `data_dir/cifar-100-python/` with the files `train`, `test`
  and `meta` (CIFAR-10: `data_dir/cifar-10-batches-py/`), or the archive as downloaded, which is
  then unpacked.
* `synthetic`: small pictures drawn by this file, for trying the program and for tests. It needs no
  files, takes seconds, and is no benchmark: its numbers mean nothing outside this project.
* `imagenet100`, `imagenet1000`: read from `data_dir/train/<class>/` and `data_dir/val/<class>/`
  (utils/folders.py), 224 x 224, batch by batch by worker processes (utils/file_loader.py).
* `folder`: the user's own images, laid out likewise, any number of classes and brought to any size
  (utils/images.py says how). Data sets of small images (up to 64 x 64, together up to 1 GiB) are
  decoded once, when the run begins, and stay in memory, which is many times faster than to decode
  every image in every epoch; others are read like ImageNet. Mean and standard deviation are given,
  or computed from the training images; where that means reading all files an additional time, the
  result is kept in `data_dir/memo_mean_std.json` for runs with the same files and size.

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

import json
import logging
import os
import socket
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5, check_integrity, download_and_extract_archive

from utils.catalog import DATASETS, FOLDER_DATASETS
from utils.files import read_json, write_file
from utils.folders import DataError, Listing, hash_lines, list_images
from utils.images import (
    SMALL,
    Transform,
    eval_transform,
    mean_and_std,
    mean_and_std_of_files,
    read_images,
    train_transform,
)

__all__ = ["DataError", "ImageArrays", "ImageFiles", "data_settings", "load_dataset"]

log = logging.getLogger("memo")


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
    listing: Listing | None = None  # the files that they were decoded from

    @property
    def num_classes(self) -> int:
        """Number of classes; each has at least one train image."""
        return int(self.train_labels.max()) + 1

    @property
    def padding(self) -> int:
        """Zero pixels on every side before the random crop: 4 for 32 x 32 images."""
        return self.train_images.shape[-1] // 8

    def read_test(self, indices: np.ndarray) -> np.ndarray:
        """Return test images, `(n, 3, H, W) uint8`."""
        return self.test_images[indices]


@dataclass(frozen=True)
class ImageFiles:
    """A data set in files: their names, original labels, and what is made of an image."""

    name: str
    listing: Listing
    size: int  # side in pixels of the images made of the files
    brightness: bool  # whether training images larger than SMALL are brightened at random
    mean: tuple[float, ...]  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes; each has at least one train image."""
        return len(self.listing.classes)

    @property
    def train_labels(self) -> np.ndarray:
        """`(N,) int64`, original class ids from 0."""
        return np.asarray(self.listing.train_labels, dtype=np.int64)

    @property
    def test_labels(self) -> np.ndarray:
        """`(M,) int64`."""
        return np.asarray(self.listing.test_labels, dtype=np.int64)

    @property
    def upright(self) -> bool:
        """Whether images are turned as their EXIF orientation says; ImageNet's never were."""
        return self.name == "folder"

    @property
    def transforms(self) -> tuple[Transform, Transform]:
        """What makes uint8 images of files: for training, and for testing and herding."""
        return train_transform(self.size, self.brightness), eval_transform(self.size)

    def read_test(self, indices: np.ndarray) -> np.ndarray:
        """Return test images, `(n, 3, size, size) uint8`.

        Raises:
            DataError: a file is no image.
        """
        paths = [self.listing.test[index] for index in indices]
        return read_images(paths, self.size, "test images", self.upright)


def data_settings(settings: dict[str, Any], noted: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings that `load_dataset` takes by name, out of all those of a run.

    Args:
        settings: of the run.
        noted: what the config.json of the run has of `describe`, where it has begun: a mean and a
            deviation left open stay those that it began with, whatever the files hold by now.
    """
    found = {key: settings[key] for key in _SETTINGS if key in settings}
    if found.get("mean") is None and isinstance(noted, dict) and {"mean", "std"} <= noted.keys():
        found |= {"mean": noted["mean"], "std": noted["std"]}
    return found


_SETTINGS = (
    *("synthetic_classes", "synthetic_train_per_class", "synthetic_test_per_class"),
    *("class_list", "image_size", "mean", "std"),
)


def describe(data: ImageArrays | ImageFiles) -> dict[str, Any] | None:
    """Return what config.json notes of a data set that came from files, None for others.

    "files" is a hash of their names, "classes" are in the order of their numbers.
    """
    if data.listing is None:
        return None
    normalisation = {"mean": list(data.mean), "std": list(data.std)}
    return {"files": data.listing.identity, "classes": data.listing.classes, **normalisation}


def load_dataset(
    name: str,
    data_dir: str | Path,
    *,
    synthetic_classes: int = 100,
    synthetic_train_per_class: int = 100,
    synthetic_test_per_class: int = 20,
    class_list: str | Path | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageArrays | ImageFiles:
    """Read, download or draw a data set.

    Args:
        name: a name in catalog.DATASETS.
        data_dir: where the files of the real data sets are, or go.
        synthetic_classes: classes of `synthetic`, 1 to 100.
        synthetic_train_per_class: train images per class of `synthetic`, 1 or more.
        synthetic_test_per_class: test images per class of `synthetic`, 1 or more.
        class_list: file that names the classes to take of data in folders; None takes all.
        image_size: side in pixels of the images of `folder`, which needs it.
        mean: per channel, of `folder`'s pixels scaled to [0, 1]; None computes it.
        std: standard deviation, likewise.

    Raises:
        DataError: the data set is unknown, missing and cannot be downloaded, or damaged.
    """
    if name in FOLDER_DATASETS:
        data_dir = Path(data_dir).expanduser()
        return _read_folder(name, data_dir, class_list, image_size, mean, std)
    if name == "synthetic":
        train = _draw_split(0, synthetic_classes, synthetic_train_per_class)
        test = _draw_split(1, synthetic_classes, synthetic_test_per_class)
    elif name in _CIFAR:
        train, test = _read_cifar(name, Path(data_dir).expanduser())
    else:
        known = ", ".join([*_CIFAR, "synthetic", *FOLDER_DATASETS])
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
    files = dict(reader.train_list + reader.test_list)
    files[reader.meta["filename"]] = reader.meta["md5"]
    data_dir = _folder_above(data_dir, reader.base_folder, files)
    folder = data_dir / reader.base_folder
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


def _folder_above(data_dir: Path, base: str, files: Iterable[str]) -> Path:
    """Return the folder that has, or shall have, the folder `base` in it: also where that is given.

    Raises:
        DataError: the files lie in a folder of another name, or they are another data set's.
    """
    if (data_dir / base).exists():
        return data_dir
    for folder in (data_dir, data_dir.resolve()):  # the second, where . or a link leads there
        if folder.name == base:
            return folder.parent
        if folder.name in {reader.base_folder for reader in _CIFAR.values()}:
            raise DataError(
                f"{data_dir} is where another data set's files lie, not {base}; name the folder "
                "above it, or another one, with --data_dir"
            )
    if all((data_dir / file).is_file() for file in files):
        raise DataError(
            f"{data_dir} has the files of a CIFAR in it, but their folder must be called {base}: "
            "rename it (--data_dir is the folder that it lies in)"
        )
    return data_dir


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


# --- Folders of images ----------------------------------------------------------------------------

IN_MEMORY_BYTES = 2**30  # decoded small images up to here stay in memory


def _read_folder(
    name: str,
    data_dir: Path,
    class_list: str | Path | None,
    image_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> ImageArrays | ImageFiles:
    listing = list_images(data_dir, class_list)
    if name != "folder":
        facts = DATASETS[name]
        if len(listing.classes) != facts.classes:
            source = class_list or data_dir / "train"
            more = len(listing.classes) > facts.classes
            remedy = "choose with --class_list FILE, or give " if more else ""
            raise DataError(
                f"{source} has {len(listing.classes)} classes, but {name} has {facts.classes}; "
                f"{remedy}--dataset folder, which takes any number"
            )
        brightness = name == "imagenet1000"
        return ImageFiles(name, listing, facts.image_size, brightness, facts.mean, facts.std)

    if image_size is None:
        raise DataError("folder needs the size that its images are brought to (--image_size)")
    number = len(listing.train) + len(listing.test)
    if image_size <= SMALL and 3 * image_size**2 * number <= IN_MEMORY_BYTES:
        train = read_images(listing.train, image_size, "training images", upright=True)
        test = read_images(listing.test, image_size, "test images", upright=True)
        if mean is None or std is None:
            mean, std = mean_and_std(train)
        labels = (np.asarray(each) for each in (listing.train_labels, listing.test_labels))
        train_labels, test_labels = labels
        pixels = train, train_labels, test, test_labels
        return ImageArrays(name, *pixels, tuple(mean), tuple(std), listing)
    # A mistake that concerns all files is better found at once.
    read_images(listing.train[:1], image_size, "first image")
    if mean is None or std is None:
        mean, std = _cached_mean_and_std(data_dir, listing, image_size)
    return ImageFiles(name, listing, image_size, False, tuple(mean), tuple(std))


def _cached_mean_and_std(data_dir: Path, listing: Listing, size: int) -> tuple:
    """Return mean and deviation of the training images: those kept from an earlier run, or new.

    They are kept under a hash of name, length and date of every file, and of the size.
    """
    path = data_dir / "memo_mean_std.json"
    stats = (os.stat(file) for file in listing.train)
    lines = (
        f"{os.path.relpath(file, data_dir)} {stat.st_size} {stat.st_mtime_ns}"
        for file, stat in zip(listing.train, stats, strict=True)
    )
    key = hash_lines([f"{size} upright", *lines])
    kept: dict[str, Any] = {}
    try:
        kept = read_json(path)
        found = kept[key]["mean"], kept[key]["std"]
        if all(isinstance(value, float) for each in found for value in each):
            return found
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.debug("%s does not know these files (%s)", path, type(error).__name__)
    log.info(
        "computing mean and standard deviation of %d images, once; they will be in %s",
        len(listing.train),
        path,
    )
    mean, std = mean_and_std_of_files(listing.train, size, upright=True)
    try:
        write_file(path, json.dumps({**kept, key: {"mean": mean, "std": std}}, indent=1).encode())
    except OSError as error:
        log.warning(
            "%s cannot be written (%s), so every run will compute this again, unless the settings "
            "have it: mean %s, std %s",
            path,
            error.strerror,
            json.dumps(mean),
            json.dumps(std),
        )
    return mean, std


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
