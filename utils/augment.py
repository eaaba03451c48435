"""Batched train and test transforms, on the device where the images lie.

The published program augments one PIL image at a time. Here a whole batch of uint8 images is
augmented at once, each image with its own crop, flip and brightness, and the result is PIL's, bit
for bit: for the same parameters `crop_flip_brightness` gives what torchvision's `RandomCrop(32,
padding=4)`, `RandomHorizontalFlip` and `ColorJitter(brightness=63 / 255)` give on a PIL image, and
`normalise` gives what `ToTensor` and `Normalize` make of it.

Random numbers come from the `torch.Generator` that is passed in, which must live on the images'
device, always in the same order: first all vertical offsets, then all horizontal ones, then all
flips, then all brightness factors. Drawing and applying are two functions, so that a test, or
several processes that share one batch, can apply parameters that were drawn elsewhere.

No function here waits for the device: there is no `.item()`, no boolean indexing, no copy from the
host inside a step.

    transform = TrainTransform(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
    draws = transform.draw(len(images), generator)
    batch = transform(images, draws)  # (N, 3, 32, 32) uint8 -> float32
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # zero pixels on every side before the crop, for 32 x 32 images
BRIGHTNESS = 63 / 255  # half the width of the range of brightness factors, around 1


@dataclass(frozen=True)
class CropFlipBrightness:
    """The parameters of one augmented batch of N images, one row per image."""

    dy: Tensor  # (N,) int64 in 0 .. 2 * padding: top row of the crop in the padded image
    dx: Tensor  # (N,) int64 in 0 .. 2 * padding: its left column
    flip: Tensor  # (N,) bool: mirror left to right, after the crop
    brightness: Tensor  # (N,) float32: factor on every pixel value

    def __getitem__(self, rows: slice) -> "CropFlipBrightness":
        """Return the parameters of some of the images."""
        return CropFlipBrightness(
            self.dy[rows], self.dx[rows], self.flip[rows], self.brightness[rows]
        )


def draw_crop_flip_brightness(
    n: int,
    generator: torch.Generator,
    device: torch.device | str,
    padding: int = PADDING,
    brightness: float = BRIGHTNESS,
) -> CropFlipBrightness:
    """Draw the parameters of `n` images, as torchvision draws them for one.

    Offsets are uniform over 0 .. 2 * padding, half the images are flipped, and the factor is a
    float32 from U[1 - brightness, 1 + brightness].
    """
    return CropFlipBrightness(
        dy=torch.randint(2 * padding + 1, (n,), generator=generator, device=device),
        dx=torch.randint(2 * padding + 1, (n,), generator=generator, device=device),
        flip=torch.rand(n, generator=generator, device=device) < 0.5,
        brightness=torch.empty(n, device=device).uniform_(
            1 - brightness, 1 + brightness, generator=generator
        ),
    )


def crop_flip_brightness(
    images: Tensor, draws: CropFlipBrightness, padding: int = PADDING
) -> Tensor:
    """Crop, flip and brighten each image with its own parameters.

    The same, bit for bit, as PIL's results: zero padding, crop to the old size, mirroring, then
    `ImageEnhance.Brightness`, which multiplies in float32, clips to 0 .. 255 and truncates.

    Args:
        images: `(N, 3, H, W) uint8`.
        draws: one set of parameters per image, on the images' device.
        padding: zero pixels on every side; the draws must be made with the same.

    Returns:
        `(N, 3, H, W) uint8`.
    """
    n, channels, height, width = images.shape
    padded_width = width + 2 * padding
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    # A mirrored crop is the same crop read from right to left, so it costs nothing extra.
    column = torch.where(draws.flip[:, None], width - 1 - column, column)
    rows = draws.dy[:, None] + row
    columns = draws.dx[:, None] + column
    source = (rows[:, :, None] * padded_width + columns[:, None, :]).view(n, 1, height * width)
    padded = F.pad(images, (padding,) * 4).flatten(2)
    cropped = padded.gather(2, source.expand(-1, channels, -1)).view(images.shape)
    # Pixels and factors are never negative, so only the upper end needs a clip.
    brightened = cropped * draws.brightness[:, None, None, None]
    return brightened.clamp_(max=255).to(torch.uint8)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale uint8 pixels to [0, 1], subtract the mean and divide by the standard deviation.

    Args:
        images: `(N, 3, H, W) uint8`.
        mean: `(3,) float32` on the images' device, per channel, of pixels in [0, 1].
        std: the standard deviation, likewise.

    Returns:
        `(N, 3, H, W) float32`.
    """
    # These three operations, not one multiply-add: the rounding is then torchvision's. 255 is a
    # tensor, because a GPU divides by a Python number with its rounded reciprocal.
    scale = mean.new_full((), 255.0)
    return images.div(scale).sub_(mean[:, None, None]).div_(std[:, None, None])


class EvalTransform:
    """The test transform: normalisation alone."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        """Keep the mean and standard deviation per channel, of pixels in [0, 1]."""
        self.mean = torch.tensor(mean, dtype=torch.float32)
        self.std = torch.tensor(std, dtype=torch.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise `(N, 3, H, W) uint8` images to float32."""
        if self.mean.device != images.device:  # copied once, not in every step
            self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        return normalise(images, self.mean, self.std)


class TrainTransform:
    """The train transform: random crop, flip and brightness per image, then normalisation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], padding: int = PADDING):
        """Keep the mean and standard deviation per channel, of pixels in [0, 1], and the padding.

        `padding` is zero pixels on every side: an eighth of the images' side.
        """
        self.normalise = EvalTransform(mean, std)
        self.padding = padding

    def draw(self, n: int, generator: torch.Generator) -> CropFlipBrightness:
        """Draw what is to be done to `n` images, on the generator's device."""
        return draw_crop_flip_brightness(n, generator, generator.device, padding=self.padding)

    def __call__(self, images: Tensor, draws: CropFlipBrightness) -> Tensor:
        """Augment and normalise `(N, 3, H, W) uint8` images to float32, each as drawn for it."""
        return self.normalise(crop_flip_brightness(images, draws, self.padding))
