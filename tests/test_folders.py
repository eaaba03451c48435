"""Listing image folders: classes, order, class lists, and a sentence for every mistake."""

import os
import shutil
from pathlib import Path

import pytest
from picture_folders import make_folder

from utils.folders import DataError, find_classes, list_images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), classes=3, train=2, test=1)


@pytest.fixture
def own(pictures, tmp_path):
    """Return a copy to damage."""
    return Path(shutil.copytree(pictures, tmp_path / "own"))


def names(paths, root):
    return [os.path.relpath(path, root) for path in paths]


def test_classes_and_images_come_sorted(pictures):
    listing = list_images(pictures)
    assert listing.classes == ["class 0", "class 1", "class 2"]
    assert names(listing.train, pictures)[:3] == [
        "train/class 0/0.JPG",
        "train/class 0/1.JPG",
        "train/class 1/0.JPG",
    ]
    assert listing.train_labels == [0, 0, 1, 1, 2, 2]
    assert names(listing.test, pictures) == [f"val/class {label}/0.JPG" for label in range(3)]
    assert listing.test_labels == [0, 1, 2]


def test_the_test_images_may_be_in_test(own):
    before = list_images(own)
    (own / "val").rename(own / "test")
    after = list_images(own)
    assert names(after.test, own) == [f"test/class {label}/0.JPG" for label in range(3)]
    assert after.identity != before.identity


def test_a_class_list_chooses_and_its_order_makes_no_difference(own):
    (own / "two.txt").write_bytes(b"\xef\xbb\xbfclass 2\r\n\n  class 0\n")  # as Notepad may
    listing = list_images(own, own / "two.txt")
    assert listing.classes == ["class 0", "class 2"]
    assert names(listing.train, own)[-1] == "train/class 2/1.JPG"
    assert listing.train_labels == [0, 0, 1, 1]
    shutil.rmtree(own / "val" / "class 1")  # which is not asked for
    assert list_images(own, own / "two.txt") == listing


def test_what_was_found_is_said(own):
    listing = list_images(own)
    counted = "6 training and 3 test images of 3 classes"
    # A notes.txt in each folder; names with a dot in front are not counted.
    assert listing.found == (
        f"{counted}; left out in their folders: 6 (endings that are not those of "
        "images, links to nowhere, sub-folders)",
    )
    for notes in own.glob("*/*/notes.txt"):
        notes.unlink()
    assert list_images(own).found == (counted,)
    (own / "train" / "class 1" / "below").mkdir()
    (own / "train" / "class 1" / "below" / "a.jpg").write_bytes(b"")
    (own / "val" / "class 0" / "b.jpg").symlink_to("nowhere")
    shutil.copytree(own / "val", own / "test", symlinks=True)
    first, second = list_images(own).found
    assert first.startswith(f"{counted}; left out in their folders: 2 (")
    assert second == "the test images are those in val; test is ignored"
    assert list_images(own).identity == listing.identity


def test_the_identity_is_that_of_the_names(own, pictures):
    assert list_images(own).identity == list_images(pictures).identity
    (own / "train" / "class 1" / "0.JPG").write_bytes(b"another image")
    assert list_images(own).identity == list_images(pictures).identity
    (own / "train" / "class 1" / "0.JPG").rename(own / "train" / "class 1" / "00.JPG")
    assert list_images(own).identity != list_images(pictures).identity


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda own: shutil.rmtree(own), "there is no folder {own}/train; images are looked for"),
        (lambda own: shutil.rmtree(own / "train"), "--data_dir must name the folder that has trai"),
        (lambda own: shutil.rmtree(own / "val"), "{own} has no folder val or test; the test imag"),
        (lambda own: empty(own / "train"), "{own}/train has no folders; it needs one folder of"),
        (lambda own: empty(own / "train" / "class 1"), "{own}/train/class 1 has no images; every"),
        (lambda own: empty(own / "val" / "class 2"), "{own}/val/class 2 has no images; every"),
        (lambda own: shutil.rmtree(own / "val" / "class 2"), "{own}/val has no folder for 'class"),
        (lambda own: shutil.rmtree(own / "train" / "class 0"), "{own}/val has a folder for 'class"),
    ],
)
def test_every_mistake_is_a_sentence(damage, says, own):
    damage(own)
    with pytest.raises(DataError) as caught:
        list_images(own)
    assert says.format(own=own) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("class 1\n".encode("utf-16"), "is not UTF-8 text; save it as UTF-8"),
        ("class 1\n".encode("utf-16-le"), "is not UTF-8 text; save it as UTF-8"),
        (b"\n \n", "is empty; it needs one folder name a line"),
        (b"class 1\nclass 0\nclass 1\n", "names 'class 1' twice"),
        (b"class 1\nclass 7\n", "names 'class 7', but {own}/train has no folder of that name"),
    ],
)
def test_every_mistake_in_a_class_list_is_a_sentence(content, says, own):
    if content is not None:
        (own / "list.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_classes(own, own / "list.txt")
    assert says.format(own=own) in str(caught.value)
    assert str(own / "list.txt") in str(caught.value)
