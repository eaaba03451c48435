"""Image files to uint8: every mode, damaged files by name, transforms, mean and deviation."""

import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from utils.file_loader import FileReader
from utils.images import (
    DataError,
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


def test_every_mode_becomes_rgb(tmp_path, recwarn):
    path = str(tmp_path / "image.png")
    grey = PIXELS[..., 0]
    palette = Image.fromarray(np.full((4, 4), 1, np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.info["transparency"] = b"\x00\x80"
    transparent = Image.fromarray(PIXELS)
    transparent.putalpha(7)
    for image, expected in (
        (Image.fromarray(grey), np.repeat(grey[..., None], 3, axis=2)),
        (Image.fromarray(grey.astype(np.uint16) * 256), np.repeat(grey[..., None], 3, axis=2)),
        (Image.fromarray(grey > 127), np.repeat((grey > 127)[..., None], 3, axis=2) * 255),
        (transparent, PIXELS),
        (palette, np.broadcast_to(np.array([10, 20, 30]), (4, 4, 3))),
    ):
        image.save(path)
        np.testing.assert_array_equal(np.asarray(open_image(path)), expected)
    assert not recwarn.list


def test_grey_pixels_of_more_than_16_bits_are_refused(tmp_path):
    path, grey = str(tmp_path / "image.tif"), PIXELS[..., 0].astype(np.int32)
    Image.fromarray(grey * 256 + 255).save(path)  # 16 bits, in a file of 32
    np.testing.assert_array_equal(np.asarray(open_image(path))[..., 1], PIXELS[..., 0])
    for pixels in (grey * 256 + 300, grey - 1, grey.astype(np.float32)):
        Image.fromarray(pixels).save(path)
        with pytest.raises(DataError, match=r"image\.tif has 32-bit pixels.* 8 or 16 bits$"):
            open_image(path)


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
