"""Tests of utils/precision.py, and that features and logits are computed in full float32."""

import numpy as np
import torch
from conftest import tiny_learner

from utils.precision import full_float32


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def test_tf32_is_off_inside_and_put_back():
    before = tf32()
    torch.backends.cudnn.allow_tf32 = True
    try:
        with full_float32():
            assert tf32() == (False, False)
        assert tf32() == (True, before[1])
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]


def test_features_and_logits_are_computed_without_tf32():
    learner = tiny_learner(convnet_type="memo_conv2")
    learner.begin_task()
    seen = []
    learner.network.generalized.register_forward_hook(lambda *_: seen.append(tf32()))
    before = tf32()
    learner.forward_all(learner.test_data, np.arange(4))
    assert seen == [(False, False)]
    assert tf32() == before
