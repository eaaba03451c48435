"""Listing image folders: classes, order, class lists, and a sentence for every mistake."""

import os
import shutil
import time
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


def put(folder, name):
    """Put what is in a folder into a new folder there."""
    shutil.move(folder, folder.with_name("moved"))
    folder.mkdir()
    shutil.move(folder.with_name("moved"), folder / name)


def flat(split):
    """Put the images of all classes together."""
    for file in split.glob("*/*"):
        file.rename(split / f"{file.parent.name} {file.name}")
    for folder in split.iterdir():
        if folder.is_dir():
            folder.rmdir()


def unsplit(own):
    """Leave the folders of the classes only."""
    for folder in (own / "train").iterdir():
        folder.rename(own / folder.name)
    shutil.rmtree(own / "train")
    shutil.rmtree(own / "val")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda own: shutil.rmtree(own), "there is no folder {own}/train; images are looked for"),
        (lambda own: shutil.rmtree(own / "train"), "--data_dir must name the folder that has trai"),
        (
            lambda own: shutil.rmtree(own / "val"),
            "{own} has no folder val or test but 'train'; the",
        ),
        (lambda own: (own / "val").rename(own / "valid"), "or test but 'train', 'valid'; the test"),
        # What it looks like: one folder down or up, not split, flat, or with folders in classes.
        (lambda own: put(own, "photos"), "has train in it (it looks as if that were {own}/photos)"),
        (lambda own: unsplit(own), "(the folders of the classes seem to lie in {own} itself: divi"),
        (lambda own: flat(own / "train"), "(all images seem to lie in {own}/train: sort them into"),
        (lambda own: flat(own / "val"), "(all images seem to lie in {own}/val: sort them into the"),
        (
            lambda own: (flat(own / "val"), put(own / "val", "images")),
            "'class 2', which train has; every class needs test images (all images seem to lie in "
            "{own}/val/images: sort",
        ),
        (
            lambda own: put(own / "train" / "class 1", "images"),
            "{own}/train/class 1 has no images; every class needs at least one, a file that ends "
            "in .bmp, .gif, .jpeg, .jpg, .png, .ppm, .tif, .tiff, .webp (there are in "
            "{own}/train/class 1/images: move them up)",
        ),
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


def test_the_folder_above_is_named_where_a_split_was_given(own, monkeypatch):
    with pytest.raises(DataError, match=rf"it looks as if that were {own}\)$"):
        list_images(own / "train")
    monkeypatch.chdir(own / "val")
    with pytest.raises(DataError, match=rf"it looks as if that were {own}\)$"):
        list_images(".")


NFC, NFD = "\u00e9t\u00e9", "e\u0301te\u0301"


@pytest.mark.parametrize(("train", "val", "in_list"), [(NFC, NFD, NFC), (NFD, NFC, NFC)])
def test_names_of_another_unicode_form_match(own, train, val, in_list):
    for split, name in (("train", train), ("val", val)):
        (own / split / "class 1").rename(own / split / name)
    listing = list_images(own)
    assert listing.classes == sorted(["class 0", "class 2", train])
    label = listing.classes.index(train)
    assert [os.path.relpath(file, own) for file in listing.test][label] == f"val/{val}/0.JPG"
    (own / "list.txt").write_text(f"class 0\n{in_list}\n", encoding="utf-8")
    assert find_classes(own, own / "list.txt") == sorted(["class 0", train])
    assert list_images(own, own / "list.txt").test_labels == [0, 1]


def test_one_name_in_two_unicode_forms_is_refused(own):
    (own / "train" / "class 1").rename(own / "train" / NFC)
    (own / "train" / "class 2").rename(own / "train" / NFD)
    with pytest.raises(DataError, match=r"two folders.* differ only in their Unicode form"):
        find_classes(own, None)
    (own / "list.txt").write_text(f"{NFC}\n{NFD}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"list\.txt names .* twice, perhaps in two Unicode forms"):
        find_classes(own, own / "list.txt")


def test_a_name_that_is_no_utf8_is_refused_at_once_or_left_out(own):
    strange = os.fsencode(own / "train") + b"/caf\xe9"
    os.rename(own / "train" / "class 1", strange)
    with pytest.raises(DataError) as caught:
        find_classes(own, None)
    assert str(caught.value).startswith(r"the name of the folder caf\udce9 in ")
    str(caught.value).encode()
    (own / "list.txt").write_text("class 0\nclass 2\n")
    assert list_images(own, own / "list.txt").classes == ["class 0", "class 2"]
    os.rename(strange, own / "train" / "class 1")
    os.rename(
        own / "train" / "class 1" / "0.JPG", os.fsencode(own / "train") + b"/class 1/\xe9.jpg"
    )
    assert len(list_images(own).train) == 6  # the name of an image is written nowhere


def test_messages_stay_in_one_line_whatever_a_folder_is_called(own):
    (own / "val" / "class 1").rename(own / "val" / "a\n\x1b[31mb")
    empty(own / "val" / "a\n\x1b[31mb")
    shutil.copytree(own / "val" / "a\n\x1b[31mb", own / "train" / "a\n\x1b[31mb")
    shutil.rmtree(own / "train" / "class 1")
    with pytest.raises(DataError) as caught:
        list_images(own)
    assert "a\\n\\x1b[31mb has no images" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_long_class_list_takes_no_time(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("\n".join(map(str, range(20_000))) + "\n7\n")
    began = time.process_time()
    with pytest.raises(DataError, match="names '7' twice"):
        find_classes(tmp_path, tmp_path / "list.txt")
    assert time.process_time() - began < 1
