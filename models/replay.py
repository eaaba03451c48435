"""Replay: Finetune that sees a few images of the old classes again.

As in the survey of class-incremental learning by Zhou, Wang, Qi, Ye, Zhan and Liu (TPAMI 2024): the
measure of what exemplars alone are worth. For every task:

    begin_task    the classifier gets rows for the new classes; the backbone stays the same one
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
    end_task      the exemplar memory is cut and refilled, by herding as in every other method here

Everything trains in every task. An exemplar is shown once an epoch like any other image: nothing
balances the classes, so the classifier leans to the new ones, and nothing aligns it afterwards.

Headline: the classifier (CNN).
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner


class Replay(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train everything on the new classes and the exemplars."""
        self.network.freeze()
        self.fit("train", self.losses, self.schedule())

    def losses(
        self, outputs: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over all seen classes."""
        return {"clf": F.cross_entropy(outputs["logits"], targets)}
