"""DER (Yan, Xie, He, CVPR 2021): a backbone per task, all old ones frozen.

For every task:

    begin_task    a whole backbone is added, a copy of the newest; the classifier grows to all seen
                  classes x all backbones' features; a fresh auxiliary classifier tells the task's
                  classes from "any old class" by the newest backbone's features
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
                  plus alpha_aux x the auxiliary cross-entropy (from the second task on; alpha_aux
                  is 1 as published); no distillation
    end_task      weight alignment (new rows of the classifier scaled to the old rows' mean norm),
                  then the exemplar memory is cut and refilled by herding, with all features

Who trains: the newest backbone and both classifiers, all rows and columns. Old backbones are in
evaluation mode: no gradient, no weight decay, and their BatchNorm statistics stay. In the first
task the auxiliary classifier is in no loss and does not move.

As in the published program (the survey of Zhou, Wang, Qi, Ye, Zhan and Liu, TPAMI 2024) there is no
warm-up and no temperature, of which its text speaks, and none of the masks and the pruning of the
paper: every backbone keeps its full size, which is what memory budgets count.

Headline: the classifier (CNN).
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner
from models.parts import auxiliary_loss


class DER(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train the newest backbone and both classifiers."""
        if self.task == 0:
            self.network.freeze()
            self.fit("train", self.losses, self.schedule(), idle=self.network.aux_classifier)
            return
        self.network.freeze(old_specialized=True)
        weights = {"clf": 1.0, "aux": self.config.alpha_aux}
        self.fit("train", self.losses, self.schedule(), weights=weights)

    def losses(
        self, outputs: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over all seen classes and, from the second task on, the auxiliary one."""
        parts = {"clf": F.cross_entropy(outputs["logits"], targets)}
        if self.task > 0:
            parts["aux"] = auxiliary_loss(outputs["aux_logits"], targets, self.known_classes)
        return parts

    def end_task(self) -> None:
        """Align the classifier, choose the exemplars."""
        self.align_weights()
        super().end_task()
