"""Tests of utils/seeds.py: streams that repeat, differ, and fit what they are for."""

import torch

from utils.seeds import DATA, MOVED_DATA, WEIGHTS, stream_seed

# NumPy promises the stream of SeedSequence for good.
GOLDEN = (3717377837946358015, 38901565946305238, 6498626229777268288)


def test_a_seed_means_the_same_streams_everywhere_and_for_good():
    assert stream_seed(1, WEIGHTS) == GOLDEN[0]
    assert stream_seed(1, DATA) == GOLDEN[1]
    assert stream_seed(1, MOVED_DATA, 3) == GOLDEN[2]


def test_streams_differ_between_seeds_and_names():
    streams = [stream_seed(seed, stream) for seed in range(200) for stream in (WEIGHTS, DATA)]
    assert len(set(streams)) == 400


def test_a_stream_has_about_as_many_ones_as_zeros_and_starts_a_generator():
    for seed in (0, 1, 2, 2**32 - 1):
        number = stream_seed(seed, WEIGHTS)
        assert 0 <= number < 2**63
        assert 15 < number.bit_count() < 48
        torch.Generator().manual_seed(number)
