"""The paper's analysis of a trained run: are shallow blocks general and deep ones specific?

    python -m utils.analysis RUN_DIR [--data_dir DIR] [--images 500] [--device cpu]

RUN_DIR is a folder that a run left under logs/. Written to RUN_DIR/analysis/, pictures as PNG and
PDF:

    block_gradients   how large each block's gradient is while tasks are learned
    block_shift       how far each block moves while a task is learned
    by_block.csv      both, for every task and block
    cka               how alike the tasks' feature maps are, by depth
    cka_tasks         the same for every two tasks, at a shallow and at the deepest block
    cka.csv           the same for every two tasks and every block

These are the measures of "A Model or 603 Exemplars" (Zhou, Wang, Ye, Zhan, ICLR 2023), section 4.3
and figures 2 and 3, there for one backbone, here for the network of the run: its blocks are the
trunk's and then those of the task's specialized block; of DER, those of the task's own backbone.

Block-wise gradient: the L2 norm of the loss's gradient by a block's weights, averaged over the
steps read (`utils.blocks`) and over the epochs of a task. Block-wise shift: the mean squared
difference of a block's weights between the first and the last epoch of a task. Both need a run
with --record_blocks; without it only the similarity is computed, and the program says so.

Similarity: linear CKA (`linear_cka`) between the feature maps that the networks after two tasks
(RUN_DIR/task_N.pt) give for the same test images, which are of all classes of the run, evenly. The
network after task N is the trunk of that time and the newest specialized block.

Exit codes: 0 done, 1 a result cannot be written, 2 RUN_DIR cannot be used.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("utils.analysis")

import argparse
import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.augment import EvalTransform
from utils.checkpoint import CheckpointError, load_task_checkpoint, state_mismatch
from utils.data import DataError, data_settings, load_dataset
from utils.devices import without_search
from utils.files import explain, write_file
from utils.inc_net import AdaptiveNet
from utils.pictures import picture_files
from utils.plots import draw_block_gradients, draw_block_shift, draw_cka, draw_cka_tasks
from utils.precision import full_float32
from utils.runs import read_config, words_of
from utils.settings import printable

BATCH = 100  # images in one forward pass; no result depends on it


class AnalysisError(Exception):
    """The run cannot be analysed; the message is one sentence for the user."""


def centred_gram(features: Tensor) -> Tensor:
    """Return H X X^T H for the features X of n images, H = I - 1/n.

    Args:
        features: (n, ...), flattened to (n, p).

    Returns:
        (n, n) float64. Centring X's columns first gives the same matrix.
    """
    flat = features.flatten(1).double()
    flat = flat - flat.mean(dim=0)
    return flat @ flat.T


def linear_cka(gram: Tensor, other: Tensor) -> float:
    """Return the linear CKA of two sets of features of the same images (Kornblith et al., 2019).

        CKA(X, Y) = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F)

    for features X (n, p) and Y (n, q) with centred columns ("Similarity of Neural Network
    Representations Revisited", ICML 2019, section 3). In terms of K = X X^T and L = Y Y^T this is
    <K, L> / (||K||_F ||L||_F), which costs the same for any number of features. It is 1 for
    features that differ by a rotation and a scale. This is the usual, biased estimate: for few
    images it is too high, so only values from the same number of images compare.

    Args:
        gram: (n, n) K, from `centred_gram`.
        other: (n, n) L.

    Returns:
        0 to 1, or NaN where the features are the same for all images.
    """
    scale = (gram.norm() * other.norm()).item()
    return (gram * other).sum().item() / scale if scale > 0 else float("nan")


@torch.no_grad()
def block_grams(network: AdaptiveNet, images: Tensor) -> list[Tensor]:
    """Return the centred Gram matrix of every block's feature maps on the path of the newest task.

    Args:
        network: in evaluation mode.
        images: (n, 3, H, W) float32, normalised, on the network's device.

    Returns:
        a matrix (n, n) for each block, shallow to deep.
    """
    blocks = list(network.path().values())
    maps: list[list[Tensor]] = [[] for _ in blocks]

    def keep(index: int):
        # A copy: the next block may overwrite the map in place.
        return lambda _module, _inputs, output: maps[index].append(output.clone())

    hooks = [block.register_forward_hook(keep(i)) for i, block in enumerate(blocks)]
    try:
        with full_float32(), without_search():
            for batch in images.split(BATCH):
                network.specialized[-1](network.generalized(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return [centred_gram(torch.cat(of_block)) for of_block in maps]


def similarity(
    checkpoints: Sequence[dict[str, Any]], images: Tensor
) -> tuple[list[str], int, np.ndarray]:
    """Return how alike the feature maps after different tasks are.

    Args:
        checkpoints: the contents of task_N.pt, at least two, of one run.
        images: (n, 3, H, W) float32, normalised; the networks are put on its device.

    Returns:
        the names of the blocks, shallow to deep; how many of them all tasks share; linear CKA
        (blocks, checkpoints, checkpoints).

    Raises:
        AnalysisError: one holds the weights of another network.
    """
    grams = []
    for content in checkpoints:
        network = AdaptiveNet.rebuild(content["shape"])
        problem = state_mismatch(dict(network.state_dict()), content["network"])
        if problem:
            raise AnalysisError(f"task_{content['task']}.pt does not hold its network: {problem}")
        network.load_state_dict(content["network"])
        network.to(images.device).eval()
        grams.append(block_grams(network, images))
    # After the loop the network is that of the last checkpoint; the blocks are the same in all.
    path = list(network.path())
    shared = sum(name.startswith("generalized.") for name in path)
    if network.blocks == "one":
        shared = len(path)
    names = [_short(name) for name in path]
    tasks, blocks = len(grams), len(names)
    cka = np.ones((blocks, tasks, tasks))
    for block in range(blocks):
        for a in range(tasks):
            for b in range(a):
                cka[block, a, b] = cka[block, b, a] = linear_cka(grams[a][block], grams[b][block])
    return names, shared, cka


def _short(name: str) -> str:
    """Return a block's name without its task, and as of one backbone where a task has a whole."""
    of_backbone = re.sub(r"^specialized\.\d+\.(?=(generalized|specialized)\.)", "", name)
    return re.sub(r"^specialized\.\d+", "specialized", of_backbone)


def read_blocks(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Read blocks.csv.

    Returns:
        tasks (epochs,) int; gradients (epochs, blocks), NaN where frozen; shift from each task's
        first epoch (epochs, blocks); the blocks' names.

    Raises:
        AnalysisError: the file is not what a run writes.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        blocks = max(int(row["block"]) for row in rows)
        names = [_short(row["name"]) for row in rows[:blocks]]
        tasks = np.array([int(row["task"]) for row in rows]).reshape(-1, blocks)[:, 0]
        gradients = np.array([float(row["gradient"] or "nan") for row in rows])
        shift = np.array([float(row["shift_from_first"]) for row in rows])
        return tasks, gradients.reshape(-1, blocks), shift.reshape(-1, blocks), names
    except (KeyError, ValueError, TypeError) as error:
        raise AnalysisError(
            f"{path} is not a table that --record_blocks writes ({error}); restore it, or move it "
            "away to compute the similarity alone"
        ) from error


def analyse(
    folder: Path, *, data_dir: str | None = None, images: int = 500, device: str = "cpu"
) -> list[str]:
    """Write RUN_DIR/analysis/ and return what to tell the user, line by line.

    Args:
        folder: the run.
        data_dir: folder of the data sets; None: the one that the run used.
        images: test images for the similarity.
        device: where the networks compute.

    Raises:
        AnalysisError, CheckpointError, DataError: the run or its data cannot be used.
        OSError: a result cannot be written.
    """
    config = _read_config(folder)
    title = words_of(config) if config.get("titles", True) else ""
    recorded = read_blocks(folder / "blocks.csv") if (folder / "blocks.csv").is_file() else None
    checkpoints = _checkpoints(folder, config["convnet_type"])
    batch = _images(config, checkpoints[-1], data_dir, images).to(device)
    names, trunk, cka = similarity(checkpoints, batch)

    out = folder / "analysis"
    out.mkdir(exist_ok=True)
    lines = []
    if recorded is None:
        lines.append(
            f"{folder} was made without --record_blocks: no gradients and no shifts, only the "
            "similarity of features"
        )
    else:
        lines += _write_blocks(out, recorded, trunk, title)

    tasks = [content["task"] for content in checkpoints]
    pairs = [(a, b) for a in range(len(tasks)) for b in range(a + 1, len(tasks))]
    _write_csv(
        out / "cka.csv",
        ["block", "name", "task_a", "task_b", "linear_cka"],
        (
            [block + 1, name, tasks[a], tasks[b], f"{cka[block, a, b]:.6g}"]
            for block, name in enumerate(names)
            for a, b in pairs
        ),
    )
    # The paper looks at the 5th and the 15th of 15 blocks: a third of the way, and the deepest.
    shallow, deep = max(len(names) // 3, 1), len(names)
    shown = f"{title}, {len(batch)} test images" if title else ""
    _write_picture(out, "cka", partial(draw_cka, cka, trunk, title=shown))
    two = cka[[shallow - 1, deep - 1]]
    draw = partial(draw_cka_tasks, two, [shallow, deep], tasks, title=title)
    _write_picture(out, "cka_tasks", draw)
    for block in (shallow, deep):
        mean = np.mean([cka[block - 1, a, b] for a, b in pairs])
        lines.append(
            f"linear CKA between tasks, block {block} ({names[block - 1]}): mean {mean:.3f}"
        )
    lines.append(f"pictures and tables in {out}")
    return lines


def _write_blocks(out: Path, recorded: Any, trunk: int, title: str) -> list[str]:
    """Write gradients and shifts, by task and block."""
    tasks, gradients, shifts, names = recorded
    numbers = np.unique(tasks)
    last = [np.flatnonzero(tasks == task)[-1] for task in numbers]
    rows, lines = [], []
    for task, end in zip(numbers, last, strict=True):
        of_task = gradients[tasks == task]
        for block, name in enumerate(names):
            column = of_task[:, block][~np.isnan(of_task[:, block])]
            gradient = f"{column.mean():.6g}" if len(column) else ""
            rows.append([task, block + 1, name, gradient, f"{shifts[end, block]:.6g}"])
    _write_csv(out / "by_block.csv", ["task", "block", "name", "gradient", "shift"], rows)
    draw = partial(draw_block_gradients, gradients, tasks, trunk, title=title)
    _write_picture(out, "block_gradients", draw)
    if (shifts[last] > 0).any():
        draw = partial(draw_block_shift, shifts[last], numbers, trunk, title=title)
        _write_picture(out, "block_shift", draw)
    else:
        lines.append("every task had a single epoch: there is no shift after the first one to draw")
    return lines


def _read_config(folder: Path) -> dict[str, Any]:
    config, wrong = read_config(folder)
    if wrong:
        raise AnalysisError(f"{folder} is not a run's folder: {wrong}")
    return config


def _checkpoints(folder: Path, convnet_type: str) -> list[dict[str, Any]]:
    """Return the contents of a run's task_N.pt, in order; files of other names are left alone."""
    paths = {}
    for path in folder.glob("task_*.pt"):
        if number := re.fullmatch(r"task_([1-9][0-9]*)\.pt", path.name):
            paths[int(number[1])] = path
    if len(paths) < 2:
        raise AnalysisError(
            f"{folder} has {len(paths)} task checkpoint{'' if len(paths) == 1 else 's'} "
            "(task_N.pt), but to compare tasks two are needed"
        )
    checkpoints = []
    for number, path in sorted(paths.items()):
        content = load_task_checkpoint(path)
        checkpoints.append(content)
        of_run = (convnet_type, *(checkpoints[0][key] for key in ("task_sizes", "class_order")))
        found = tuple(content[key] for key in ("convnet_type", "task_sizes", "class_order"))
        if (number, *of_run) != (content["task"], *found):
            raise AnalysisError(
                f"{path} is of another run or task: it holds task {content['task']} of a "
                f"{content['convnet_type']}; restore it, or move it away"
            )
    return checkpoints


def _images(
    config: dict[str, Any], checkpoint: dict[str, Any], data_dir: str | None, number: int
) -> Tensor:
    """Return test images of the classes seen, the first few of each, (n, 3, H, W) float32."""
    data_dir = data_dir or config["data_dir"]
    data = load_dataset(config["dataset"], data_dir, **data_settings(config, config.get("_data")))
    seen = sum(checkpoint["task_sizes"][: checkpoint["task"]])
    classes = checkpoint["class_order"][:seen]
    each = max(number // len(classes), 1)
    chosen = np.concatenate([np.flatnonzero(data.test_labels == label)[:each] for label in classes])
    transform = EvalTransform(data.mean, data.std)
    return transform(torch.from_numpy(data.read_test(np.sort(chosen))))


def _write_csv(path: Path, header: list[str], rows: Iterable[Iterable]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def _write_picture(out: Path, name: str, draw: Callable[[], Any]) -> None:
    for file, content in picture_files(name, draw).items():
        write_file(out / file, content)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.analysis",
        description="Gradient and shift of each block, similarity of features across tasks.",
        allow_abbrev=False,
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="a run's folder under logs/")
    parser.add_argument("--data_dir", help="folder of the data sets (default: the run's)")
    parser.add_argument("--images", type=int, default=500, help="test images (default 500)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    options = parser.parse_args(argv)
    try:
        device = _device(options.device)
        if options.images < 2:
            raise AnalysisError(f"--images is {options.images}, but similarity needs 2 or more")
        lines = analyse(
            options.run_dir, data_dir=options.data_dir, images=options.images, device=device
        )
    except (AnalysisError, CheckpointError, DataError) as error:
        sys.stderr.write(f"utils.analysis: {printable(str(error))}\n")
        return 2
    except OSError as error:
        reason = printable(explain(error, "copy the run's folder to another place"))
        sys.stderr.write(f"utils.analysis: {reason}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _device(name: str) -> str:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise AnalysisError(
            f"--device {name} cannot be used on this machine; use cpu, or cuda where there is a GPU"
        ) from error
    return name


if __name__ == "__main__":
    sys.exit(main())
