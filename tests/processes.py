"""Real processes of the program that tests can kill: forked from one that has imported it all.

A process that starts from nothing spends seconds on imports. A fork server pays for them once, and
each process forked from it is as real as any: it has its own memory, signals and exit code.
"""

import contextlib
import csv
import errno
import functools
import importlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from conftest import REPOSITORY
from tqdm import tqdm

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["utils.experiment", "utils.evaluation", "matplotlib.pyplot"])

SMALL = {
    "dataset": "synthetic",
    "synthetic_classes": 6,
    "synthetic_train_per_class": 8,
    "synthetic_test_per_class": 4,
    "convnet_type": "memo_conv2",
    "prefix": "benchmark",
    "device": [-1],
    "init_cls": 2,
    "increment": 2,
    "memory_size": 12,
    "batch_size": 8,
    "init_epoch": 2,
    "init_milestones": [1],
    "init_lr": 0.05,
    "epochs": 2,
    "milestones": [1],
    "lrate": 0.05,
}


class Program:
    """main_memo.py in a process of its own.

    Args:
        flags: of the command line.
        output: file that what it says is appended to.
        die_at: (what, n): the n-th call of this function, such as "os.replace", sends a signal to
            the process; for moments that no clock can hit.
        signal_number: that signal, kill -9 by default.
        full_from: from the n-th flush of a file on, the disk is full.
        environment: variables set in the process.
        prepare: called in the process before the program begins; a function of a module.
    """

    def __init__(
        self,
        *flags: object,
        output: Path,
        die_at: tuple[str, int] | None = None,
        signal_number: signal.Signals = signal.SIGKILL,
        full_from: int | None = None,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
    ):
        self.output = output
        words = [str(flag) for flag in flags]
        arguments = (
            words,
            str(output),
            die_at,
            signal_number,
            full_from,
            os.getcwd(),
            environment or {},
            prepare,
        )
        self.process = _context.Process(target=_run, args=arguments)
        self.process.start()

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code; minus the signal's number where one ended it."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s"
        return self.process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def said(self) -> str:
        """Return all that was written to the output file."""
        return self.output.read_text()

    def wait_for(self, *any_of: str, timeout: float = 60) -> None:
        """Wait until the process has said one of these."""
        until = time.monotonic() + timeout
        while not (self.output.exists() and any(words in self.said() for words in any_of)):
            assert time.monotonic() < until, f"{any_of} was not said in {timeout} s"
            assert self.process.is_alive(), self.said()
            time.sleep(0.005)


def run_forked(*flags: object) -> SimpleNamespace:
    """Do what `conftest.run_program` does in a forked process: seconds sooner, without pictures.

    Its `stderr` has what was written to stdout, too.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Program(*flags, output=Path(folder, "said"))
        return SimpleNamespace(returncode=program.wait(), stderr=program.said())


def _run(
    flags: list[str],
    output: str,
    die_at: tuple[str, int] | None,
    number: signal.Signals,
    full_from: int | None,
    folder: str,
    environment: dict[str, str],
    prepare: Callable[[], object] | None,
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which kill -9 would leave behind
    sys.path.insert(0, str(REPOSITORY))
    sys.argv = ["main_memo.py", *flags]
    import main_memo
    import utils.pictures

    utils.pictures.draw_run = lambda folder: None  # most of the time of so small a run
    if prepare is not None:
        prepare()
    if die_at is not None:
        _die_at(*die_at, number)
    if full_from is not None:
        _fill_the_disk(full_from)
    sys.exit(main_memo.main(flags))


def _die_at(what: str, n: int, number: signal.Signals) -> None:
    name, _, attribute = what.rpartition(".")
    try:
        owner = importlib.import_module(name)
    except ModuleNotFoundError:
        owner_module, _, owner_class = name.rpartition(".")
        owner = getattr(importlib.import_module(owner_module), owner_class)
    function, calls = getattr(owner, attribute), []

    @functools.wraps(function)
    def fatal(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    setattr(owner, attribute, fatal)


def _fill_the_disk(n: int) -> None:
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) >= n:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    os.fsync = full


def folders(logs: Path) -> list[Path]:
    """Return the folders of all runs under a log folder, oldest first."""
    return sorted(path.parent for path in logs.glob("*/*/*/*/config.json"))


def rows_without_seconds(folder: Path, name: str = "curves.csv") -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / name).open()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def log_lines(folder: Path) -> list[str]:
    """Return main.log without what differs from run to run: times, folders, stops and resumes."""
    text = (folder / "main.log").read_text()
    text = re.sub(r"^\d{4}-\d\d-\d\d [\d:,]+ ", "", text, flags=re.MULTILINE)
    text = re.sub(r"(exemplars, |time: )\d.*", "", text)
    passing = ("resumed", "logs in", "stopped by", "--resume", "left of this run", "peak memory")
    return [line for line in text.splitlines() if not any(word in line for word in passing)]


def assert_same_run(one: Path, other: Path, tasks: int = 3) -> None:
    """Compare curves, weights, exemplars, predictions and logs of two runs, bit for bit."""
    assert len(rows_without_seconds(one)) == tasks
    for name in ("curves.csv", "training.csv"):
        assert rows_without_seconds(one, name) == rows_without_seconds(other, name)
    for name in ("accuracy_matrix.csv", "per_class.csv", "weight_norms.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for task in range(1, tasks + 1):
        ours, theirs = (
            torch.load(folder / f"task_{task}.pt", weights_only=True) for folder in (one, other)
        )
        assert ours["network"].keys() == theirs["network"].keys()
        for name, value in ours["network"].items():
            assert torch.equal(value, theirs["network"][name]), (task, name)
        for a, b in zip(ours["exemplars"], theirs["exemplars"], strict=True):
            assert torch.equal(a, b), task
    with np.load(one / "predictions.npz") as a, np.load(other / "predictions.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    assert log_lines(one) == log_lines(other)
