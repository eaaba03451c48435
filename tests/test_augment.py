"""The batched transforms against torchvision's on PIL images, bit for bit."""

import numpy as np
import pytest
import torch
from conftest import NotedDivisors
from torchvision import transforms
from torchvision.transforms import functional as tv

from utils.augment import (
    BRIGHTNESS,
    CropFlipBrightness,
    EvalTransform,
    TrainTransform,
    crop_flip_brightness,
    draw_crop_flip_brightness,
    normalise,
)

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    ),
]


def random_images(n, size=32, seed=0):
    """Noise plus flat images of every grey level, so that each pixel value and clip occurs."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    flat = min(n // 2, 256)
    images[:flat] = np.arange(flat, dtype=np.uint8)[:, None, None, None]
    return torch.from_numpy(images)


def through_pil(image, dy, dx, flip, brightness, padding):
    """One image through PIL: zero padding, crop, mirror, brightness."""
    size = image.shape[1:]
    pil = tv.to_pil_image(image)
    pil = tv.crop(tv.pad(pil, padding), dy, dx, *size)
    pil = tv.hflip(pil) if flip else pil
    return tv.adjust_brightness(pil, brightness)


def assert_equals_pil(images, draws, padding):
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    augmented = crop_flip_brightness(images, draws, padding)
    normalised = normalise(augmented, mean.to(images.device), std.to(images.device))
    assert augmented.dtype == torch.uint8
    assert normalised.dtype == torch.float32
    to_float = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    rows = zip(*(x.tolist() for x in vars(draws).values()), strict=True)
    for i, row in enumerate(rows):
        pil = through_pil(images[i].cpu(), *row, padding)
        np.testing.assert_array_equal(augmented[i].cpu().permute(1, 2, 0).numpy(), np.asarray(pil))
        assert torch.equal(normalised[i].cpu(), to_float(pil))


@pytest.mark.parametrize("device", DEVICES)
def test_equals_torchvision_on_pil_images_bit_for_bit(device):
    images = random_images(4000).to(device)
    draws = draw_crop_flip_brightness(4000, torch.Generator(device).manual_seed(1), device)
    assert_equals_pil(images, draws, padding=4)


def test_nothing_is_divided_by_a_python_number():
    # A GPU would multiply by its rounded reciprocal: 126 of the 256 pixel values would differ.
    with NotedDivisors() as noted:
        normalise(random_images(2), torch.tensor(MEAN), torch.tensor(STD))
    assert len(noted.divisors) == 2
    assert all(torch.is_tensor(each) for each in noted.divisors)


def test_equals_pil_at_the_extremes():
    """Corner offsets, both flips, factors 0, 1 and the ends, on a size and padding of its own."""
    cases = [
        (dy, dx, flip, factor)
        for dy in (0, 6)
        for dx in (0, 6)
        for flip in (False, True)
        for factor in (0.0, 1 - BRIGHTNESS, 1.0, 1 + BRIGHTNESS, 300.0)
    ]
    dy, dx, flip, factor = map(torch.tensor, zip(*cases, strict=True))
    draws = CropFlipBrightness(dy, dx, flip, factor.to(torch.float32))
    images = random_images(len(cases), size=20, seed=2)
    assert_equals_pil(images, draws, padding=3)


def test_draws_are_distributed_as_torchvisions():
    draws = draw_crop_flip_brightness(90_000, torch.Generator().manual_seed(3), "cpu")
    for offset in (draws.dy, draws.dx):
        counts = torch.bincount(offset, minlength=9)
        assert len(counts) == 9
        assert (counts - 10_000).abs().max() < 500  # 5 standard deviations
    assert abs(draws.flip.float().mean() - 0.5) < 0.01
    factor = draws.brightness
    assert factor.dtype == torch.float32
    assert factor.min() >= 1 - BRIGHTNESS
    assert factor.max() <= 1 + BRIGHTNESS
    assert abs(factor.mean() - 1) < 0.005
    assert factor.min() < 1 - 0.99 * BRIGHTNESS
    assert factor.max() > 1 + 0.99 * BRIGHTNESS
    columns = torch.stack([x.float() for x in vars(draws).values()])
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max() < 0.02  # drawn independently


def test_train_transform_is_the_draws_then_the_normalisation():
    images = random_images(64)
    transform = TrainTransform(MEAN, STD)
    batch = transform(images, transform.draw(64, torch.Generator().manual_seed(5)))
    draws = draw_crop_flip_brightness(64, torch.Generator().manual_seed(5), "cpu")
    augmented = crop_flip_brightness(images, draws)
    expected = normalise(augmented, torch.tensor(MEAN), torch.tensor(STD))
    assert torch.equal(batch, expected)


def test_transforms_leave_their_input_alone():
    images = random_images(16)
    before = images.clone()
    transform = TrainTransform(MEAN, STD)
    transform(images, transform.draw(16, torch.Generator().manual_seed(0)))
    EvalTransform(MEAN, STD)(images)
    assert torch.equal(images, before)


def test_eval_transform_equals_torchvision_for_every_pixel_value():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    pil = tv.to_pil_image(images[0])
    expected = tv.normalize(tv.to_tensor(pil), MEAN, STD)
    assert torch.equal(EvalTransform(MEAN, STD)(images)[0], expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_no_transform_waits_for_the_gpu():
    images = random_images(128).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    train, evaluate = TrainTransform(MEAN, STD), EvalTransform(MEAN, STD)
    train(images, train.draw(128, generator))
    evaluate(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(images, train.draw(128, generator))
        evaluate(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
