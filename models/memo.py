"""MEMO: memory-efficient class-incremental learning (Zhou, Wang, Ye, Zhan, ICLR 2023).

A shared trunk (the generalized blocks), and one specialized block per task. For every task:

    begin_task    the network grows: a specialized block (a copy of the newest), a wider classifier,
                  a fresh auxiliary classifier that tells the task's classes from "any old class"
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
                  plus alpha_aux x the auxiliary cross-entropy; no distillation
    end_task      weight alignment (new rows of the classifier scaled to the old rows' mean norm),
                  then the exemplar memory is cut and refilled by herding

Who learns in task 1: everything. Later: the newest block and both classifiers always; the trunk
(generalized blocks) only with `train_base`; older specialized blocks only with `train_adaptive`.
Whatever does not learn keeps its BatchNorm statistics too. When the trunk learns, the loss reaches
it through the frozen blocks as well as through the newest one.
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner
from models.parts import auxiliary_loss


class Memo(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train the newest block and the classifiers, and what the settings add to them."""
        if self.task == 0:
            self.network.freeze()
            self.fit("train", self.losses, self.schedule(), idle=self.network.aux_classifier)
            return
        self.network.freeze(
            generalized=not self.config.train_base,
            old_specialized=not self.config.train_adaptive,
        )
        weights = {"clf": 1.0, "aux": self.config.alpha_aux}
        self.fit("train", self.losses, self.schedule(), weights=weights)

    def losses(
        self, outputs: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over all seen classes and, after the first task, the auxiliary one."""
        parts = {"clf": F.cross_entropy(outputs["logits"], targets)}
        if self.task > 0:
            parts["aux"] = auxiliary_loss(outputs["aux_logits"], targets, self.known_classes)
        return parts

    def end_task(self) -> None:
        """Align the classifier (from the second task on), then choose the exemplars."""
        self.align_weights()
        super().end_task()
