"""WA (Zhao, Xiao, Gan, Zhang, Xia, CVPR 2020): distillation, then weight alignment.

For every task:

    begin_task    the classifier gets rows for the new classes; the backbone stays the same one
    train_task    SGD on the task's images plus the exemplars: cross-entropy over all seen classes
                  plus 2 KD, the distance to what the teacher says of the old classes
    end_task      weight alignment from the second task on: the new rows of the classifier are
                  scaled by mean norm of all old rows / mean norm of the new rows, biases stay.
                  The exemplar memory is cut and refilled by herding with the aligned network;
                  a frozen copy of it becomes the next task's teacher

Everything trains in every task; the teacher, in evaluation mode, sees the same augmented images.

The loss is CE + 2 KD with weights that never change, which made the published numbers; PyCIL has
weighed the two by known / seen classes only since February 2023. KD has temperature 2 and
no factor T^2. The paper keeps the classifier's weights non-negative: the published programs do not.
They align a second time after the evaluation, by a factor of 1 but for rounding: left out here.

Headline: the classifier (CNN).
"""

import torch.nn.functional as F
from torch import Tensor

from models.base import Learner
from models.parts import distillation


class WA(Learner):
    """The learner; see the module's docstring."""

    def train_task(self) -> None:
        """Train everything on the new classes and the exemplars."""
        self.network.freeze()
        weights = {"clf": 1.0} if self.task == 0 else {"clf": 1.0, "kd": 2.0}
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
        """Align the classifier, choose the exemplars, keep the network as the next teacher."""
        self.align_weights()
        super().end_task()
        self.keep_teacher()
