"""Count what utils/catalog.py must know of a backbone: prints its row, to be pasted there.

    python -m utils.count -net conv3                    made for images of 32 x 32 pixels
    python -m utils.count -net conv5 --image_size 224

The network is built from its line in convs/__init__.py, without memory for its weights, and never
computed: its sizes are all that is looked at.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("utils.count")

import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

import convs
from utils.catalog import Backbone
from utils.settings import (
    ACTION,
    check,
    choice,
    declared,
    help_lines,
    or_none,
    parse_flags,
    printable,
    setting,
    whole,
)

TOO_SMALL = (RuntimeError, ValueError)  # how PyTorch says it: poolings, BatchNorm


def count(name: str, image_size: int) -> Backbone:
    """Return the row of a backbone of `convs.names()` that is made for this size of images.

    The smallest images are those from which on every BatchNorm can train on one image alone.

    Raises:
        ValueError: one sentence: there is no such backbone, or it cannot be trained on such images.
    """
    image = f"an image of {image_size} x {image_size} pixels"
    with torch.device("meta"):
        net = convs.build(name)
        try:
            shape = _trained_on_one(net, image_size)
        except TOO_SMALL as error:
            raise ValueError(f"{name}: it cannot be trained on {image}: {error}") from error
        if shape != (1, net.feature_dim):
            raise ValueError(
                f"{name}: of {image} it makes {shape}, not the {(1, net.feature_dim)} that its "
                "feature_dim says"
            )
        sides = range(1, image_size + 1)
        smallest = sides[bisect_left(sides, True, key=lambda side: _trains(net, side))]
    halves = net.generalized, net.specialized
    weights = [sum(each.numel() for each in half.parameters()) for half in halves]
    buffers = [sum(each.nbytes for each in half.buffers()) for half in halves]
    return Backbone(name, image_size, smallest, *weights, net.feature_dim, *buffers)


def _trained_on_one(net: nn.Module, side: int) -> tuple[int, ...]:
    """Return the shape of the features of one image in training; fails where it is too small."""
    return tuple(net.train()(torch.empty(1, 3, side, side)).shape)


def _trains(net: nn.Module, side: int) -> bool:
    try:
        return bool(_trained_on_one(net, side))
    except TOO_SMALL:
        return False


def row(net: Backbone) -> str:
    """Return a backbone's line in utils/catalog.py."""
    sizes = f"{net.generalized:_}, {net.specialized:_}, {net.feature_dim}"
    buffers = f"{net.generalized_buffer_bytes:_}, {net.specialized_buffer_bytes:_}"
    return f'    Backbone("{net.name}", {net.image_size}, {net.smallest}, {sizes}, {buffers}),'


@dataclass(frozen=True)
class Question:
    """What the command is asked."""

    # fmt: off
    convnet_type: str | None = setting(None, or_none(choice(*convs.names())),
        "backbone, by its name in convs/__init__.py", "-net", section="Flags")
    image_size: int = setting(32, whole(1, 1024),
        "side in pixels of the images it is made for")
    help: bool = setting(False, ACTION, "print this text and leave", "-h")
    # fmt: on


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 with one message on stderr."""
    asked = declared(Question)
    given, problems = parse_flags(sys.argv[1:] if argv is None else argv, asked)
    values, wrong = check(given, asked)
    sentences = [problem.sentence for problem in problems + wrong]
    if not sentences and not values.get("convnet_type"):
        sentences = ["-net: say which backbone of convs/__init__.py is to be counted"]
    if values.get("help"):
        sys.stdout.write(__doc__ + "\n".join(help_lines(asked.values())) + "\n")
        return 0
    if not sentences:
        question = Question(**values)
        try:
            sys.stdout.write(row(count(question.convnet_type, question.image_size)) + "\n")
            return 0
        except ValueError as error:
            sentences = [str(error)]
    sys.stderr.write("".join(f"utils.count: {printable(sentence)}\n" for sentence in sentences))
    return 2


if __name__ == "__main__":
    sys.exit(main())
