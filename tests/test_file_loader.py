"""Batches from files: the same images whoever reads them and wherever an epoch is entered."""

import ctypes
import multiprocessing.popen_fork
import multiprocessing.queues
import multiprocessing.resource_sharer
import multiprocessing.synchronize
import os
import resource
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from picture_folders import make_folder

import main_memo
from utils.augment import EvalTransform
from utils.file_loader import FileLoader, FileReader
from utils.folders import DataError, list_images
from utils.images import SystemLimitError, eval_transform, open_image, train_transform

SIZE = 72


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    return list_images(make_folder(tmp_path_factory.mktemp("data"), classes=3, train=5))


@pytest.fixture
def make_loader(listing):
    loaders = []

    def make(num_workers=0, paths=listing.train, labels=listing.train_labels):
        reader = FileReader(train_transform(SIZE, False), eval_transform(SIZE), num_workers, False)
        normalise = EvalTransform((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        loaders.append(FileLoader(paths, np.array(labels), SIZE, reader, normalise, "cpu"))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def epoch(loader, seed=3, **where):
    generator = torch.Generator().manual_seed(seed)
    indices = np.arange(14)[::-1].copy()
    order = loader.draw_order(len(indices), generator)
    state = generator.get_state()
    batches = [
        loader.make_batch(batch, generator)
        for batch in loader.train_batches(indices, 4, order, **where)
    ]
    assert torch.equal(generator.get_state(), state)  # an epoch draws nothing more on its way
    return batches


def same(ours, theirs):
    pairs = zip(ours, theirs, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_more_workers_than_cores_need_no_warning_of_torch(make_loader, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        epoch(make_loader(2))
    assert [str(warning.message) for warning in said] == []


def test_workers_make_the_same_batches(make_loader):
    alone, helped = make_loader(0), make_loader(2)
    before = torch.get_rng_state()
    first = epoch(alone)
    assert [tuple(images.shape) for images, _ in first] == [(4, 3, SIZE, SIZE)] * 3 + [
        (2, 3, SIZE, SIZE)
    ]
    assert first[0][0].dtype == torch.float32
    assert (
        sorted(torch.cat([labels for _, labels in first]).tolist()) == [0] * 5 + [1] * 5 + [2] * 4
    )
    for _ in range(2):  # the processes live on
        assert same(epoch(helped), first)
    assert not same(epoch(helped, seed=4), first)
    indices = np.array([7, 0, 12])
    assert same(alone.eval_batches(indices, 2), helped.eval_batches(indices, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_is_entered_where_it_was_left(num_workers, make_loader):
    loader = make_loader(num_workers)
    whole = epoch(loader)
    generator = torch.Generator().manual_seed(3)
    order = loader.draw_order(14, generator)
    begun = loader.train_batches(np.arange(14)[::-1].copy(), 4, order)
    assert same(
        [loader.make_batch(next(begun), generator)], whole[:1]
    )  # and left there, with batches read ahead
    assert same(epoch(loader, first_batch=1), whole[1:])
    with pytest.raises(RuntimeError, match="another pass"):
        next(begun)


def test_test_images_are_neither_shuffled_nor_augmented(make_loader, listing):
    loader = make_loader()
    indices = np.array([9, 1, 1])
    ((images, labels),) = loader.eval_batches(indices)
    assert labels.tolist() == [1, 0, 0]
    pixels = eval_transform(SIZE)(open_image(listing.train[9])).double() / 255
    expected = (pixels - torch.tensor([0.5, 0.4, 0.3]).double()[:, None, None]) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).double()[:, None, None]
    assert torch.allclose(images[0].double(), expected, atol=1e-5)
    assert torch.equal(images[1], images[2])
    assert list(loader.eval_batches(np.array([], int))) == []


def test_large_images_come_in_smaller_batches(listing):
    loader = FileLoader(listing.train, np.zeros(15), 1024, None, torch.Tensor.float, "cpu")
    read = []

    class Reader:
        def read(self, batches):
            for batch in batches:
                read.append(len(batch))
                yield torch.zeros(len(batch), 3, 1, 1, dtype=torch.uint8)

    loader._reader = Reader()
    list(loader.eval_batches(np.arange(15), 500))
    assert read == [128 * 224 * 224 // 1024**2] * 2 + [3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_is_named_and_the_loader_goes_on(num_workers, make_loader, tmp_path):
    own = list_images(make_folder(tmp_path, classes=3, train=5))
    with open(own.train[6], "r+b") as file:
        file.truncate(200)
    loader = make_loader(num_workers, own.train, own.train_labels)
    with pytest.raises(DataError) as caught:
        epoch(loader)
    assert str(caught.value).startswith(f"{own.train[6]} cannot be read as an image")
    assert "\n" not in str(caught.value)
    assert len(list(loader.eval_batches(np.arange(6), 3))) == 2


def test_close_ends_the_processes_and_a_new_pass_begins_new_ones(make_loader):
    loader = make_loader(2)
    passes = loader.eval_batches(np.arange(14), 2)
    next(passes)  # kept, as a traceback keeps what was going on
    pids = [worker.pid for worker in loader._reader._iterator._workers]
    loader.close()
    until = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until
    assert len(list(loader.eval_batches(np.arange(14), 7))) == 2
    loader.close()
    loader.close()


def test_workers_leave_signals_to_the_program(make_loader):
    """Ctrl-C at a terminal and queues that end a job reach them too; the run is saved first."""
    loader = make_loader(2)
    passes = loader.eval_batches(np.arange(14), 1)
    next(passes)
    workers = loader._reader._iterator._workers
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for worker in workers:
            os.kill(worker.pid, number)
    assert len(list(passes)) == 13
    assert all(worker.is_alive() for worker in workers)


def test_each_process_reads_its_share_of_the_same_batches(make_loader):
    whole, shares = epoch(make_loader()), []
    for share in (lambda n: slice(0, n // 2), lambda n: slice(n // 2, n)):
        loader = make_loader()
        loader.share = share
        shares.append(epoch(loader))
    together = [
        tuple(torch.cat(parts) for parts in zip(*batch, strict=True))
        for batch in zip(*shares, strict=True)
    ]
    assert same(together, whole)
    # A batch's length is that of the whole one, which the weight of a share is computed with.
    order = loader.draw_order(14, torch.Generator())
    assert [len(batch) for batch in loader.train_batches(np.arange(14), 4, order)] == [4, 4, 4, 2]


def test_there_must_be_a_label_for_every_image(listing):
    with pytest.raises(ValueError, match="15 images but 14 labels"):
        FileLoader(listing.train, np.zeros(14), SIZE, None, None, "cpu")


# --- What the system may refuse: real limits, in a process of their own ---------------------------


def few_files(more):
    top = max(map(int, os.listdir("/proc/self/fd")))
    while (last := os.open(os.devnull, os.O_RDONLY)) < top:
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + more,) * 2)


def few_processes(number):
    resource.setrlimit(resource.RLIMIT_NPROC, (number, number))
    os.setuid(65_534)  # root has no such limit


def small_shared_memory(options):
    if ctypes.CDLL(None).unshare(0x20000):  # CLONE_NEWNS: the mounts are this process's own
        sys.exit(77)
    for command in ("mount --make-rprivate /", f"mount -t tmpfs -o {options} tmpfs /dev/shm"):
        if subprocess.run(command.split()).returncode:
            sys.exit(77)


def read_within(limit, amount, paths, num_workers, said):
    """Read a few batches within a limit; what a process of the program would do and say."""
    os.setpgid(0, 0)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    reader = FileReader(train_transform(SIZE, False), eval_transform(SIZE), num_workers, False)
    limit(amount)
    try:
        for _ in reader.read([[(path, None) for path in paths]] * 12):
            pass
    except SystemLimitError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


FILES, PROCESSES, MEMORY = "(ulimit -n)", "(ulimit -u", "make room in /dev/shm"


@pytest.mark.parametrize(
    ("limit", "amount", "num_workers", "says"),
    [
        (few_files, 0, 0, FILES),
        (few_files, 2, 4, FILES),  # not even a queue
        (few_files, 8, 4, FILES),  # some of the workers
        (few_files, 18, 4, FILES),  # all workers, but no batch
        (few_processes, 3, 4, PROCESSES),
        (few_processes, 5, 4, PROCESSES),
        (small_shared_memory, "size=64k", 4, MEMORY),
        (small_shared_memory, "size=300k", 4, MEMORY),
        (small_shared_memory, "size=64k,ro", 4, MEMORY),
    ],
)
def test_what_the_system_refuses_is_a_sentence_and_no_process_is_left(
    limit, amount, num_workers, says, listing, tmp_path
):
    if limit is not few_files and os.geteuid():
        pytest.skip("needs root")
    open_image(listing.train[0])  # Pillow imports its readers
    arguments = limit, amount, listing.train, num_workers, tmp_path / "said"
    process = multiprocessing.get_context("fork").Process(target=read_within, args=arguments)
    process.start()
    process.join(60)
    try:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("processes are left")
    except ProcessLookupError:
        pass
    if process.exitcode == 77:
        pytest.skip("mounting needs root")
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 1, said
    assert (says in said, said.count("\n")) == (True, 1), said
    assert said.endswith("go on with --resume\n")


def test_a_worker_that_is_killed_is_a_sentence(make_loader):
    loader = make_loader(2)
    passes = loader.eval_batches(np.arange(14), 1)
    next(passes)
    workers = loader._reader._iterator._workers
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(SystemLimitError, match=r"DataLoader worker \(pid.* free memory"):
        list(passes)
    assert not any(worker.is_alive() for worker in workers)
    assert len(list(loader.eval_batches(np.arange(14), 7))) == 2


def test_the_program_ends_with_1_where_the_system_refuses(monkeypatch, capsys):
    def refused(*_args):
        raise SystemLimitError("images cannot be read")

    monkeypatch.setattr("utils.experiment.run", refused)
    assert main_memo.main(["--dataset", "synthetic", "-ms", "200"]) == 1
    assert capsys.readouterr().err == "main_memo.py: images cannot be read\n"
