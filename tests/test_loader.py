"""The resident loader: every image once per epoch, in batches of the right size, reproducibly."""

import numpy as np
import pytest
import torch

from utils.augment import EvalTransform, TrainTransform
from utils.loader import ResidentLoader

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class NoAugmentation:
    def draw(self, n, generator):
        return torch.zeros(n)

    def __call__(self, images, draws):
        assert len(images) == len(draws)
        return images.float()


def train_epoch(loader, indices, batch_size, generator):
    order = loader.draw_order(len(indices), generator)
    for batch in loader.train_batches(indices, batch_size, order):
        yield loader.make_batch(batch, generator)


def make_loader(n=50, transform_train=None, device="cpu"):
    """Image i is flat and has the value i everywhere and the label i, so that both can be read."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(3, 1)
    images = np.ascontiguousarray(np.broadcast_to(images, (n, 3, 32, 32)))
    return ResidentLoader(
        images,
        np.arange(n),
        transform_train or NoAugmentation(),
        lambda batch: batch.float(),
        device,
    )


def test_an_epoch_shows_every_image_once_and_keeps_the_last_partial_batch():
    loader = make_loader()
    indices = np.arange(3, 48)
    batches = list(train_epoch(loader, indices, 16, torch.Generator().manual_seed(0)))
    assert [len(y) for _, y in batches] == [16, 16, 13]
    assert len(batches) == loader.num_batches(len(indices), 16)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    assert x.shape == (45, 3, 32, 32)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert torch.equal(x[:, 0, 0, 0].long(), y)  # images keep their labels
    assert sorted(y.tolist()) == indices.tolist()
    assert y.tolist() != indices.tolist()


def test_epochs_differ_and_a_seed_repeats_them():
    loader = make_loader(transform_train=TrainTransform(MEAN, STD))

    def two_epochs(seed):
        generator = torch.Generator().manual_seed(seed)
        return [list(train_epoch(loader, np.arange(50), 20, generator)) for _ in range(2)]

    (first, second), (again, _), (other, _) = two_epochs(1), two_epochs(1), two_epochs(2)
    for (x, y), (x_again, y_again) in zip(first, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    assert not torch.equal(first[0][1], second[0][1])
    assert not torch.equal(first[0][1], other[0][1])


def test_an_index_given_twice_is_shown_twice():
    batches = train_epoch(make_loader(), np.array([7, 7, 9]), 2, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == [7, 7, 9]


def test_evaluation_keeps_the_order_and_does_not_augment():
    loader = make_loader()
    indices = torch.tensor([40, 2, 2, 31, 0])
    batches = list(loader.eval_batches(indices, batch_size=2))
    assert [len(y) for _, y in batches] == [2, 2, 1]
    assert torch.cat([y for _, y in batches]).tolist() == indices.tolist()
    assert torch.cat([x for x, _ in batches])[:, 1, 5, 5].tolist() == indices.tolist()


def test_evaluation_normalises_with_the_eval_transform():
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
    transform = EvalTransform(MEAN, STD)
    loader = ResidentLoader(images, np.zeros(6, int), TrainTransform(MEAN, STD), transform, "cpu")
    ((x, _),) = loader.eval_batches(np.arange(6))
    expected = (torch.from_numpy(images).double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / (
        torch.tensor(STD).view(3, 1, 1)
    )
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "batches"), [(0, 0), (1, 1), (128, 1), (129, 2), (5000, 40)])
def test_num_batches(n, batches):
    assert ResidentLoader.num_batches(n, 128) == batches


def test_no_images_make_no_batches():
    loader = make_loader()
    nothing = np.array([], dtype=np.int64)
    assert list(train_epoch(loader, nothing, 4, torch.Generator())) == []
    assert list(loader.eval_batches(nothing)) == []


def test_as_many_labels_as_images():
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        ResidentLoader(np.zeros((3, 3, 4, 4), np.uint8), np.zeros(2, int), None, None, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_an_epoch_on_a_gpu_does_not_wait_for_it():
    loader = make_loader(transform_train=TrainTransform(MEAN, STD), device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    epoch = train_epoch(loader, np.arange(50), 16, generator)
    next(epoch)  # the first batch copies the indices and the constants
    torch.cuda.set_sync_debug_mode("error")
    try:
        rest = list(epoch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(y) for _, y in rest] == [16, 16, 2]


def test_parts_of_a_batch_are_the_batch():
    """Several processes that share a batch draw for all of it and make their own part."""
    loader = make_loader(transform_train=TrainTransform(MEAN, STD))
    batch = torch.arange(7, 19)

    def part(share):
        loader.share = share
        return loader.make_batch(batch, torch.Generator().manual_seed(4))

    whole = loader.make_batch(batch, torch.Generator().manual_seed(4))
    parts = [part(lambda n: slice(0, n // 2)), part(lambda n: slice(n // 2, n))]
    for all_of_it, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(all_of_it, torch.cat(pieces))


def test_an_epoch_entered_in_the_middle_goes_on_with_the_same_images():
    loader = make_loader()
    order = loader.draw_order(50, torch.Generator().manual_seed(0))
    all_of_it = list(loader.train_batches(np.arange(50), 16, order))
    rest = list(loader.train_batches(np.arange(50), 16, order, first_batch=2))
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in all_of_it[2:]]
