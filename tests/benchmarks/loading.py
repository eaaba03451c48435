"""How fast are images read from files? JPEGs are generated, read and thrown away.

    python -m tests.benchmarks.loading --workers 0 1 2 --images 600 --width 500 --height 400

For each number of workers: images a second by the clock and, without workers, by the processor's
time, which a busy machine does not disturb. Training batches of 128 at 224 x 224.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils.augment import EvalTransform
from utils.file_loader import FileLoader, FileReader
from utils.images import eval_transform, train_transform

SIZE, BATCH = 224, 128


def write_images(folder: Path, number: int, width: int, height: int) -> list[str]:
    """Write JPEGs with detail like a photograph's (about 48 kB at 500 x 400); return the paths."""
    random, paths = np.random.default_rng(0), []
    for index in range(number):
        coarse = random.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
        noise = random.integers(-8, 9, (height, width, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{index}.jpg"))
        Image.fromarray(pixels).save(paths[-1], quality=85)
    return paths


def main() -> None:
    """Measure and write a Markdown table to stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=400)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), asked.images, asked.width, asked.height)
        size = np.mean([Path(path).stat().st_size for path in paths]) / 1000
        sys.stdout.write(
            f"{len(paths)} JPEGs of {asked.width} x {asked.height}, {size:.0f} kB on average\n\n"
            "| workers | images/s | images/s of processor time |\n|---|---|---|\n"
        )
        for workers in asked.workers:
            transforms = train_transform(SIZE, False), eval_transform(SIZE)
            reader = FileReader(*transforms, workers, pin_memory=False)
            labels, normalise = np.zeros(len(paths)), EvalTransform((0.5,) * 3, (0.2,) * 3)
            loader = FileLoader(paths, labels, SIZE, reader, normalise, "cpu")
            for _ in loader.eval_batches(np.arange(min(8, len(paths)))):
                pass  # the workers have begun
            clock, processor = time.perf_counter(), time.process_time()
            order = loader.draw_order(len(paths), torch.Generator())
            for _ in loader.train_batches(np.arange(len(paths)), BATCH, order):
                pass
            clock, processor = time.perf_counter() - clock, time.process_time() - processor
            own = f"{len(paths) / processor:.0f}" if workers == 0 else ""
            sys.stdout.write(f"| {workers} | {len(paths) / clock:.0f} | {own} |\n")
            loader.close()


if __name__ == "__main__":
    main()
