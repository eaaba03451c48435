"""iCaRL (Rebuffi, Kolesnikov, Sperl, Lampert, CVPR 2017): replay, and the old network as teacher.

For every task:

    begin_task    the classifier gets rows for the new classes; the backbone stays the same one
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
                  plus KD, the distance to what the teacher says of the old classes
    end_task      the exemplar memory is cut and refilled by herding; then a frozen copy of the
                  network becomes the next task's teacher

Everything trains in every task; the teacher, in evaluation mode, sees the same augmented images.

The published program (the survey of Zhou, Wang, Qi, Ye, Zhan and Liu, TPAMI 2024), which this
follows, is not the paper in one point: softmax cross-entropy and softmax distillation stand where
the paper has a sigmoid for every class. KD has temperature 2, no factor T^2 and weight 1, however
many classes are old.

Headline: NME, the classifier of the paper. Whether the published tables show it or the CNN curve
is not known, so both are kept and compared.
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner
from models.parts import distillation


class ICaRL(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train everything on the new classes and the exemplars."""
        self.network.freeze()
        weights = {"clf": 1.0} if self.task == 0 else {"clf": 1.0, "kd": 1.0}
        self.fit("train", self.losses, self.schedule(), weights=weights)

    def losses(
        self, outputs: dict[str, Tensor], images: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over all seen classes and, with a teacher, KD over the old ones."""
        parts = {"clf": F.cross_entropy(outputs["logits"], targets)}
        if self.task > 0:
            parts["kd"] = distillation(outputs["logits"], self.teach(images)["logits"])
        return parts

    def end_task(self) -> None:
        """Choose the exemplars; keep the network as the next task's teacher."""
        super().end_task()
        self.keep_teacher()
