"""The methods, a row of facts each: all that settings, budgets, reports and tables know of them.

No torch here. What a method does is in `models/<name>.py`, the class of that file that is a
`models.base.Learner`; its settings as published are in `exps/<name>.json`.
"""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True)
class Method:
    """What is known of a method before anything is built.

    Attributes:
        name: on the command line, and of its file in models/ and in exps/.
        title: as papers write it.
        trunks: generalized blocks that its network holds: "one", or one "per task".
        blocks: specialized blocks, likewise.
        aux_head: an auxiliary classifier trains beside the newest block.
        exemplars: it keeps some; without, there is no NME and its memory_size is 0.
        headline: the curve that reports quote, "cnn" (classifier) or "nme".
        teacher: the network of the task before teaches, from the second task on.
        loss_parts: the terms of its loss; each is a column of training.csv, `loss_<part>`.
        stages: the trainings of a task, one after the other.
    """

    name: str
    title: str
    trunks: str = "one"
    blocks: str = "one"
    aux_head: bool = False
    exemplars: bool = True
    headline: str = "cnn"
    teacher: bool = False
    loss_parts: tuple[str, ...] = ("clf",)
    stages: tuple[str, ...] = ("train",)

    @property
    def single(self) -> bool:
        """Its network is one backbone, whatever the number of tasks."""
        return self.trunks == self.blocks == "one"

    @property
    def compared(self) -> tuple[str, ...]:
        """The curves to compare with published numbers: the headline; behind NME the classifier."""
        return ("cnn",) if self.headline == "cnn" else (self.headline, "cnn")


_ROWS = (
    Method("memo", "MEMO", blocks="per task", aux_head=True, loss_parts=("clf", "aux")),
    Method(
        "der",
        "DER",
        trunks="per task",
        blocks="per task",
        aux_head=True,
        loss_parts=("clf", "aux"),
    ),
    Method("finetune", "Finetune", exemplars=False),
    Method("replay", "Replay"),
    # Which of the two was published is not determined; its own paper classifies by NME.
    Method("icarl", "iCaRL", headline="nme", teacher=True, loss_parts=("clf", "kd")),
    Method("wa", "WA", teacher=True, loss_parts=("clf", "kd")),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def find_method(name: str) -> Method:
    """Return the row of the method called `name`.

    Raises:
        ValueError: one sentence naming the nearest known method, or all of them.
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(str(name)[:100].lower(), METHODS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(METHODS)}."
    raise ValueError(f"there is no method {name!r}: {hint}")
