"""Image files to uint8: every mode, damaged files by name, transforms, mean and deviation."""

import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image, PngImagePlugin
from torchvision.transforms import v2

from utils.file_loader import FileReader
from utils.images import (
    MOST_PIXELS,
    DataError,
    SystemLimitError,
    augmented,
    eval_transform,
    mean_and_std,
    mean_and_std_of_files,
    open_image,
    read_images,
    train_transform,
)

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (90, 120, 3), dtype=np.uint8)


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_images_are_turned_upright_where_that_is_asked_for(tmp_path):
    path, exif = str(tmp_path / "image.png"), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(PIXELS).save(path, exif=exif)
    np.testing.assert_array_equal(np.asarray(open_image(path)), PIXELS)
    turned = np.rot90(PIXELS, -1)
    np.testing.assert_array_equal(np.asarray(open_image(path, upright=True)), turned)
    shown = eval_transform(32)(Image.fromarray(turned))
    assert np.array_equal(read_images([path], 32, "image", upright=True)[0], shown.numpy())
    assert mean_and_std_of_files([path], 32, upright=True) == mean_and_std([shown.numpy()])
    augmented_ = augmented(path, lambda image: torch.tensor(image.size), 0, upright=True)
    assert augmented_.tolist() == [90, 120]
    Image.fromarray(PIXELS).save(path, exif=b"Exif\x00\x00damaged")
    np.testing.assert_array_equal(np.asarray(open_image(path, upright=True)), PIXELS)


def test_pillows_warnings_are_silenced_in_the_main_thread_alone(png, monkeypatch, recwarn):
    class Checked(warnings.catch_warnings):
        def __enter__(self):  # the filters belong to all threads: two at once mix them up
            assert threading.current_thread() is threading.main_thread()
            return super().__enter__()

    monkeypatch.setattr(warnings, "catch_warnings", Checked)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 120 - 1)  # Pillow warns of more
    before = list(warnings.filters)
    read_images([png] * 8, 32, "images")
    mean_and_std_of_files([png] * 8, 32)
    reader = FileReader(train_transform(32, False), eval_transform(32), 0, False)
    assert len(list(reader.read([[(png, None), (png, 1)]]))) == 1
    assert warnings.filters == before
    assert not recwarn.list


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_damaged_files_are_named(content, png):
    whole = Path(png).read_bytes()
    with open(png, "wb") as file:
        file.write(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DataError, match=r"image\.png cannot be read as an image.*good copy"):
        open_image(png)
    with pytest.raises(DataError, match=r"image\.png cannot be read"):
        read_images([png], 32, "images")


def png_header(path, width, height):
    """Write a PNG of so many grey pixels without a single one of them."""
    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")


def test_only_images_above_the_stated_size_are_too_large(tmp_path):
    png_header(tmp_path / "large.png", 2**14, MOST_PIXELS // 2**14)
    with pytest.raises(DataError, match=r"large\.png cannot be read as an image \(.*good copy"):
        read_images([str(tmp_path / "large.png")], 32, "image")  # for want of its pixels
    png_header(tmp_path / "huge.png", 2**14, MOST_PIXELS // 2**14 + 1)
    says = r"huge\.png takes more than 1 GiB .*268,435,456 pixels.*make it smaller.*vipsthumbnail"
    with pytest.raises(DataError, match=says) as caught:
        read_images([str(tmp_path / "huge.png")], 32, "image")
    assert "good copy" not in str(caught.value)
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"{MOST_PIXELS // 10**6} million pixels" in readme


@pytest.mark.slow  # takes a gigabyte
def test_an_image_above_pillows_limit_is_read(tmp_path):
    width, height = 2**14, 11_000  # 180 million pixels
    Image.new("1", (width, height), 1).save(tmp_path / "large.png")
    assert (read_images([str(tmp_path / "large.png")], 32, "image", upright=True) == 255).all()


def test_texts_in_a_png_may_be_as_large(png, monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("where", "x" * 2**21, zip=True)  # Pillow allows 1 MiB, and 64 MiB in all
    assert PngImagePlugin.MAX_TEXT_MEMORY == 4 * MOST_PIXELS
    Image.fromarray(PIXELS).save(png, pnginfo=info)
    np.testing.assert_array_equal(np.asarray(open_image(png)), PIXELS)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1000)
    with pytest.raises(DataError, match=r"takes more than 1 GiB .* as much text\)"):
        open_image(png)


def test_threads_that_cannot_be_had_are_a_sentence(png, monkeypatch):
    def refused(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(SystemLimitError, match=r"can't start new thread.*ulimit -u.*start again$"):
        read_images([png] * 4, 32, "images")


def test_small_images_are_transformed_as_cifar_and_large_ones_as_imagenet(png):
    image = Image.fromarray(PIXELS)
    small = v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor()])(image)
    assert torch.equal(eval_transform(32)(image), small)
    large = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])(image)
    assert torch.equal(eval_transform(224)(image), large)
    assert np.array_equal(read_images([png, png], 32, "images")[1], small.numpy())

    torch.manual_seed(5)
    by_hand = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    assert torch.equal(by_hand(image), augmented(png, train_transform(224, False), 5))
    kinds = {
        (32, False): ["Resize", "CenterCrop", "RandomCrop", "RandomHorizontalFlip", "ColorJitter"],
        (72, False): ["RandomResizedCrop", "RandomHorizontalFlip"],
        (224, True): ["RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter"],
    }
    for (size, brightness), expected in kinds.items():
        steps = train_transform(size, brightness).transforms
        assert [type(step).__name__ for step in steps] == [*expected, "PILToTensor"]


def test_an_augmented_image_depends_on_its_seed_alone(png):
    transform = train_transform(72, True)
    before = torch.get_rng_state()
    first = augmented(png, transform, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(augmented(png, transform, 1), first)
    assert not torch.equal(augmented(png, transform, 2), first)


def test_mean_and_deviation(png):
    images = RANDOM.integers(0, 256, (7, 3, 5, 4), dtype=np.uint8)
    mean, std = mean_and_std(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=1e-14)
    assert std == pytest.approx(scaled.std(axis=(0, 2, 3)), abs=1e-14)
    read = read_images([png, png, png], 40, "images")
    assert mean_and_std_of_files([png, png, png], 40) == mean_and_std(read)
    black = np.zeros((2, 3, 4, 4), np.uint8)
    assert mean_and_std(black) == ((0.0, 0.0, 0.0), (1 / 255,) * 3)
