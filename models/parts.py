"""What several methods share: terms of a loss."""

import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0  # of every method that distils


def distillation(logits: Tensor, old_logits: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Ask the student for the teacher's opinion of the old classes (Hinton et al., 2015).

        KD(z, o) = -(1/B) sum_b sum_{c < known} softmax(o_b / T)_c log softmax(z_b / T)_c

    The student's logits are cut to the old classes before the softmax. All images of the batch
    count, those of new classes too. As in the published programs there is no factor T^2, so that
    for T = 2 the gradient is a quarter of the usual one.

    Args:
        logits: z (B, seen), of the student.
        old_logits: o (B, known), of the teacher, without gradient.
        temperature: T.

    Returns:
        the mean over the batch, a scalar.
    """
    known = old_logits.shape[1]
    return F.cross_entropy(logits[:, :known] / temperature, (old_logits / temperature).softmax(1))


def auxiliary_loss(aux_logits: Tensor, targets: Tensor, known: int) -> Tensor:
    """Return the cross-entropy of telling a task's own classes from "any old class".

    From DER (Yan, Xie, He, CVPR 2021); MEMO has it too. The target is 0 for any
    old class and 1, 2, ... for the task's own classes.

    Args:
        aux_logits: (B, new classes + 1).
        targets: (B,), of all seen classes.
        known: number of old classes.

    Returns:
        the mean over the batch, a scalar.
    """
    return F.cross_entropy(aux_logits, (targets - known + 1).clamp(min=0))
