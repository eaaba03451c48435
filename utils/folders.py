"""Which classes and images a data set has that lies in folders. No torch, and no image is opened.

    data_dir/train/<class>/*.jpg      the training images
    data_dir/val/<class>/*.jpg        the test images; the folder may be called test too

A class is a folder and its name. Classes are numbered in the alphabetical order of their names, as
torchvision's ImageFolder does it, so that the class order of a seed is the published one. A list
of classes (`class_list`: a file, one folder name a line) chooses among the folders; its order makes
no difference. Images are the files of a class's folder whose names end in one of `SUFFIXES`, in
capitals or not; other files, names that begin with a dot, and folders further down are not looked
at. Names that look the same are the same: Unicode writes an accent in two ways (NFC and NFD), and
copying between systems changes the one into the other.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from utils.files import read_file
from utils.settings import escaped

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
TRAIN = "train"
TEST = ("val", "test")  # ImageNet's test images have no labels: where both are, the first is taken


class DataError(Exception):
    """A data set cannot be had; the message is one sentence for the user, with the remedy."""

    def __init__(self, sentence: str) -> None:
        """Keep it in one line, also where the name of a file has several, or is no UTF-8."""
        super().__init__(escaped(sentence).replace("\n", "\\n"))


class ClassListError(DataError):
    """It is the list of classes that is wrong."""


@dataclass(frozen=True)
class Listing:
    """The images of a data set by name.

    A label is a class's number, 0, 1, ...; an image is its index in its list.
    """

    classes: list[str]  # names, in the order of their numbers
    train: list[str]  # paths of the training images, class after class
    train_labels: list[int]
    test: list[str]
    test_labels: list[int]
    identity: str  # a hash of every image's name: equal if and only if indices mean the same images
    found: tuple[str, ...] = ()  # what was found, in sentences for the log


def find_classes(data_dir: str | Path, class_list: str | Path | None) -> list[str]:
    """Return the names of the classes, sorted: those of a list, or else every folder in train/.

    Raises:
        ClassListError: the list is wrong.
        DataError: there is no train/, it has no folders, or one whose name is no text.
    """
    train = Path(data_dir, TRAIN)
    # The list first: what is wrong with it by itself is found where there are no images yet.
    names = None if class_list is None else _read_class_list(class_list)
    found = _by_form(train)
    if not found:
        raise DataError(
            f"{train} has no folders; it needs one folder of images for each class{_flat([train])}"
        )
    if names is None:
        _require_text(found.values(), train)
        return list(found.values())
    missing = sorted(name for name in names if _form(name) not in found)
    if missing:
        raise ClassListError(
            f"the class list {class_list} names {_some(missing)}, but {train} has no folder of "
            "that name; every line must be the name of a folder there"
        )
    return sorted(found[_form(name)] for name in names)


def _require_text(names: Iterable[str], split: Path) -> None:
    # The run's files name its classes: bytes that are no UTF-8 could not be written there.
    for name in names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(
                f"the name of the folder {name} in {split} is not UTF-8; rename it (convmv renames "
                "many), or choose others with --class_list"
            )


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _by_form(split: Path) -> dict[str, str]:
    """Return the folders of a split by the one form of their names, sorted by their own."""
    found: dict[str, str] = {}
    for name in _folders(split):
        if found.setdefault(_form(name), name) != name:
            raise DataError(
                f"{split} has two folders {name}, whose names differ only in their Unicode form "
                "(NFC and NFD); put their images into one"
            )
    return found


def _read_class_list(path: str | Path) -> list[str]:
    """Return the names in a class list, each there once."""
    try:
        text = read_file(path).decode("utf-8-sig")  # Windows begins files with a mark
    except OSError as error:
        raise ClassListError(
            f"the class list {path} cannot be read ({error.strerror}); a text file with one folder "
            "name a line is needed"
        ) from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # which UTF-16 without a mark is full of
        raise ClassListError(f"the class list {path} is not UTF-8 text; save it as UTF-8")
    names = [line.strip() for line in text.splitlines() if line.strip()]
    twice = sorted(name for name, count in Counter(map(_form, names)).items() if count > 1)
    if not names:
        raise ClassListError(f"the class list {path} is empty; it needs one folder name a line")
    if twice:
        raise ClassListError(
            f"the class list {path} names {_some(twice)} twice, perhaps in two "
            "Unicode forms (NFC and NFD); leave one out"
        )
    return names


def list_images(data_dir: str | Path, class_list: str | Path | None = None) -> Listing:
    """Return the images of all classes.

    Raises:
        DataError: a split or a class is missing or empty, or train and test differ in classes.
    """
    classes = find_classes(data_dir, class_list)
    test_dir = _test_folder(Path(data_dir))
    in_test = _by_form(test_dir)
    missing = [name for name in classes if _form(name) not in in_test]
    if missing:
        inside = [test_dir, *(test_dir / name for name in in_test.values())]
        raise DataError(
            f"{test_dir} has no folder for {_some(missing)}, which {TRAIN} has; every class needs "
            f"test images{_flat(inside) if len(missing) == len(classes) else ''}"
        )
    unknown = sorted(in_test.keys() - set(map(_form, classes)))
    if unknown and class_list is None:
        raise DataError(
            f"{test_dir} has a folder for {_some(unknown)}, but {Path(data_dir, TRAIN)} has none; "
            "the classes must be the same (or choose some with --class_list)"
        )
    train, train_labels, others = _images(Path(data_dir, TRAIN), classes)
    test_folders = [in_test[_form(name)] for name in classes]
    test, test_labels, others_in_test = _images(test_dir, test_folders)
    others += others_in_test
    names = (os.path.relpath(file, data_dir) for file in (*train, *test))
    left_out = (
        f"; left out in their folders: {others} (endings that are not those of "
        "images, links to nowhere, sub-folders)"
    )
    found = [
        f"{len(train)} training and {len(test)} test images of {len(classes)} classes"
        f"{left_out if others else ''}"
    ]
    ignored = Path(data_dir, TEST[1])
    if test_dir != ignored and ignored.is_dir():
        found.append(f"the test images are those in {test_dir.name}; {ignored.name} is ignored")
    identity = hash_lines(names)
    return Listing(classes, train, train_labels, test, test_labels, identity, tuple(found))


def hash_lines(lines: Iterable[str]) -> str:
    """Return a SHA-256 over lines of text."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def _test_folder(data_dir: Path) -> Path:
    for name in TEST:
        if (data_dir / name).is_dir():
            return data_dir / name
    raise DataError(
        f"{data_dir} has no folder {' or '.join(TEST)} but {_some(_folders(data_dir))}; the test "
        "images belong there, in one folder for each class"
    )


def _where_it_may_be(data_dir: Path) -> str:
    """Return what a folder without train/ looks like, as the end of a sentence, if it is known."""
    below = sorted(data_dir.glob(f"*/{TRAIN}"))
    above = data_dir.absolute().parent
    if below or (above / TRAIN).is_dir():
        return f" (it looks as if that were {below[0].parent if below else above})"
    if data_dir.is_dir() and any(_has_images(data_dir / name) for name in _folders(data_dir)):
        return (
            f" (the folders of the classes seem to lie in {data_dir} itself: divide their images "
            f"into {TRAIN}/<class>/ and {TEST[0]}/<class>/)"
        )
    return ""


def _flat(folders: Iterable[Path]) -> str:
    """Return, as the end of a sentence, which of these folders has all images in it, if one has."""
    for folder in folders:
        if _has_images(folder):
            return f" (all images seem to lie in {folder}: sort them into the folders of classes)"
    return ""


def _has_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) for entry in entries)


def _folders(split: Path) -> list[str]:
    """Return the names of the folders in a split's folder, sorted."""
    try:
        with os.scandir(split) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except FileNotFoundError as error:
        raise DataError(
            f"there is no folder {split}; images are looked for in {split}/<class>/, and "
            f"--data_dir must name the folder that has {split.name} in it"
            f"{_where_it_may_be(split.parent)}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{split} cannot be read ({error.strerror}); it must be a folder"
        ) from error


def _images(split: Path, classes: list[str]) -> tuple[list[str], list[int], int]:
    """Return a split's images, sorted within each class, their labels, and how many files are none.

    Files and folders whose names begin with a dot are meant to be overlooked and not counted.
    """
    paths: list[str] = []
    labels: list[int] = []
    others = 0
    for label, name in enumerate(classes):
        folder = split / name
        try:
            with os.scandir(folder) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
            files = sorted(
                entry.name
                for entry in visible
                if entry.name.lower().endswith(SUFFIXES) and entry.is_file()
            )
            below = [entry.path for entry in visible if entry.is_dir()]
            others += len(visible) - len(files) - len(below)
            others += sum(len(within) for top in below for _, _, within in os.walk(top))
        except OSError as error:
            raise DataError(
                f"{folder} cannot be read ({error.strerror}); make it readable"
            ) from error
        if not files:
            deeper = [f" (there are in {top}: move them up)" for top in below if _has_images(top)]
            raise DataError(
                f"{folder} has no images; every class needs at least one, a file that ends in "
                f"{', '.join(SUFFIXES)}{''.join(deeper[:1])}"
            )
        paths += [os.path.join(folder, file) for file in files]
        labels += [label] * len(files)
    return paths, labels, others


def _some(names: list[str]) -> str:
    """Return up to three names, and how many there are more."""
    shown = ", ".join(map(repr, names[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
