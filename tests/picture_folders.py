"""A folder of generated pictures, as a user might have it: odd sizes, formats and modes."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_folder(
    root: Path, classes: int = 4, train: int = 6, test: int = 3, size=(37, 29), test_name="val"
) -> Path:
    """Write PNGs and JPEGs of a colour for each class, no two of one size; return `root`.

    Among them are greyscale, palette and transparent ones, and a file that is no image.
    """
    random = np.random.default_rng(0)
    for split, number in (("train", train), (test_name, test)):
        for label in range(classes):
            folder = root / split / f"class {label}"
            folder.mkdir(parents=True)
            for index in range(number):
                width, height = size[0] + 3 * index, size[1] + 2 * label + index
                pixels = random.integers(0, 120, (height, width, 3), dtype=np.uint8)
                pixels[..., label % 3] += 100
                image = Image.fromarray(pixels)
                mode = ("RGB", "L", "RGBA", "P")[index % 4]
                if mode == "RGBA":
                    image.putalpha(128)
                image = image.convert(mode)
                if mode in ("RGB", "L"):
                    image.save(folder / f"{index}.JPG", quality=90)
                else:
                    image.save(folder / f"{index}.png")
            (folder / "notes.txt").write_text("no image")
            (folder / ".hidden.png").write_text("no image")
    return root
