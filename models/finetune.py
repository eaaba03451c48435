"""Finetune: one network goes on learning, task after task, and nothing holds what it knew.

The lower bound of every comparison; as in the survey of class-incremental learning by Zhou, Wang,
Qi, Ye, Zhan and Liu (TPAMI 2024). For every task:

    begin_task    the classifier gets rows for the new classes; the backbone stays the same one
    train_task    SGD on the new classes' images alone: cross-entropy over the new classes' logits
    end_task      nothing: there are no exemplars, hence no NME, and no teacher

Everything trains in every task. The published program leaves the old classes' logits out of the
softmax, and so does this: their rows get no gradient and move by weight decay alone. A
cross-entropy over all seen classes would push them down and forget faster. Evaluation takes all
seen classes. After the last task it is right about that task's classes and hardly any others.

Headline: the classifier (CNN).
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner


class Finetune(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train everything on the new classes."""
        self.network.freeze()
        self.fit("train", self.losses, self.schedule())

    def losses(
        self, outputs: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over the new classes; all images of a task are of those."""
        new = outputs["logits"][:, self.known_classes :]
        return {"clf": F.cross_entropy(new, targets - self.known_classes)}
