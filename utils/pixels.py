"""What the samples of an image file become in RGB of 8 bits; what would become black is refused.

Of more than 8 bits the upper 8 are kept, transparency is left out. That loses everything where the
range of the samples is not known (32 bits, signed, floating-point), where 16 bits hold what a
camera of 12 counted, and where the picture is drawn in the transparency alone: such files are a
`DataError`, with what to do.
"""

import contextlib
from collections.abc import Mapping

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.folders import DataError

_BITS, _INVERTED, _SAMPLES, _PLANES, _KIND = 258, 262, 277, 284, 339  # tags of TIFF
_KINDS = {2: "signed ", 3: "floating-point "}
_BLACK = 16  # levels of 256: what 12 bits in 16 leave


def bits_a_sample(image: Image.Image, path: str) -> int:
    """Return how many bits a sample has in a file that was opened, but not read yet.

    Raises:
        DataError: the range of its samples is not known.
    """
    bits, problem = (16 if image.mode.startswith("I") else 8), None
    if image.format == "PNG" and ";16" in str(image.tile):
        bits = 16
    elif image.format == "TIFF":
        bits, problem = max(image.tag_v2.get(_BITS, (1,))), _problem_of_tiff(image.tag_v2)
    elif image.mode == "F":
        problem = _of_no_range(32, "floating-point ")
    if problem:
        raise DataError(f"{path} {problem}")
    return bits


def to_rgb(image: Image.Image, bits: int, path: str) -> Image.Image:
    """Return an image in RGB; `bits` is of `bits_a_sample`.

    Raises:
        DataError: almost nothing of it would be left.
    """
    if image.mode.startswith("I"):
        pixels = np.asarray(image) >> bits - 8  # which convert() would cut off instead
        inverted = image.format == "TIFF" and image.tag_v2.get(_INVERTED) == 0
        image = Image.fromarray((255 - pixels if inverted else pixels).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # converted at once, Pillow warns of transparency
    elif image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA"):
        *colours, alpha = image.getextrema()
        if alpha[0] < alpha[1] and all(low == high for low, high in colours):
            raise DataError(
                f"{path} is of a single colour but for its transparency, which is left out; save "
                "it on a background, without transparency"
            )
    image = image.convert("RGB")
    if bits > 8 and max(high for _, high in image.getextrema()) < _BLACK:
        raise DataError(
            f"{path} has {bits}-bit pixels that use the lowest {bits - 4} bits only, so that it "
            "would be almost black; save it with 8 bits, or scaled to the whole range"
        )
    return image


def kind_of_tiff(path: str) -> str | None:
    """Return in words what a TIFF holds that Pillow has no mode for; None for other files."""
    with contextlib.suppress(Exception), open(path, "rb") as file:
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, samples = max(tags.get(_BITS, (1,))), tags.get(_SAMPLES, 1)
        return _problem_of_tiff(tags) or (
            f"is a TIFF of a kind that is not known ({samples} samples of {bits} bits a pixel); "
            "save it as PNG"
        )
    return None


def _problem_of_tiff(tags: Mapping) -> str | None:
    bits, kinds = max(tags.get(_BITS, (1,))), tags.get(_KIND, (1,))
    kind = next((name for code, name in _KINDS.items() if code in kinds), "")
    if bits > 16 or kind:
        return _of_no_range(bits, kind)
    if bits > 8 and tags.get(_PLANES) == 2:
        return f"is a TIFF of {bits} bits in separate planes, which cannot be read; save it as PNG"
    return None


def _of_no_range(bits: int, kind: str) -> str:
    return f"has {bits}-bit {kind}pixels, which have no known range; save it with 8 or 16 bits"
