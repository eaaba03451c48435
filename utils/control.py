"""When a run is saved and when it stops before its end; and that nobody else writes to its folder.

A run can be asked to stop by Ctrl-C (SIGINT), by a queue (SIGTERM), by a terminal that closes
(SIGHUP) or by its own --max_minutes. While it trains, the request is a flag that the loop looks at
after every step: it then saves the run and raises `Stopped`. Herding, testing and drawing are not
saved half-way. They begin from a checkpoint, though, and can be repeated from it, so there the
request ends the run at once (`interruptible`). A second Ctrl-C always leaves at once, as does
`kill -9`; then the last checkpoint is what is kept. A signal that was ignored when the program was
started stays ignored.

Of several processes (utils/distributed.py) rank 0 decides. The others ignore the signals, which all
of them get, and hear from rank 0 every few steps, so that all save and stop after the same one.

    with Control(max_minutes=60) as control:
        control.save = ...                  a function that writes a checkpoint
        for every step: ...; control.after_step()
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from utils.command import ENDING, not_ignored, say_at_once
from utils.distributed import Group
from utils.files import file_lock

AUTOMATIC_SECONDS = 300.0  # between checkpoints when no number of epochs is asked for
# Steps between two questions of several processes to rank 0, which make them wait for it. After a
# SIGTERM, torchrun gives them 30 s.
STEPS_ALONE = 8

# What a process says when it ends so: 128 + the signal, as shells do, and 3 for a used-up time.
_REQUESTS = {number: (name, 128 + number) for number, name in ENDING.items()}
_REQUESTS[signal.SIGALRM] = "--max_minutes", 3


class Stopped(BaseException):
    """The run was asked to stop and has been saved; no Exception, so that nothing swallows it.

    Attributes:
        exit_code: of the process.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class FolderInUseError(Exception):
    """Another process is writing to the run's folder; the message is one sentence for the user."""


class Control:
    """Requests to stop, and when to save. Without `with`, nothing is caught and nothing stops.

    Args:
        checkpoint_every: epochs between checkpoints, 0 for about every five minutes.
        max_minutes: stop before the process is so old; 0 for no limit.
        started: when the process began, of time.monotonic().
        group: the processes that save and stop together.

    Attributes:
        save: writes a checkpoint; whoever runs the tasks sets it. All processes call it.
    """

    def __init__(
        self,
        checkpoint_every: int = 0,
        max_minutes: float = 0.0,
        started: float | None = None,
        group: Group | None = None,
    ) -> None:
        self.save: Callable[[], None] = lambda: None
        self._checkpoint_every = checkpoint_every
        self._seconds = 60 * max_minutes
        self._started = time.monotonic() if started is None else started
        self._saved = time.monotonic()
        self._group = group or Group()
        self._steps = 0
        self._request: signal.Signals | None = None
        self._at_once = False
        self._former: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        # Its own clock's signal counts, even if whoever started it did not want one.
        for number in (*not_ignored(ENDING), signal.SIGALRM):
            self._former[number] = signal.signal(number, self._handle)
        if self._seconds and self._group.main:
            # What is left for the step in progress and for writing the checkpoint.
            margin = min(30.0, 0.1 * self._seconds)
            left = self._started + self._seconds - margin - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3))
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, former in self._former.items():
            signal.signal(number, former)

    def after_step(self) -> None:
        """Stop if that was asked for; save if the last checkpoint is five minutes old.

        Raises:
            Stopped: after saving the run.
        """
        self._steps += 1
        if self._group.world == 1 or self._steps % STEPS_ALONE == 0:
            self._save_if_due()

    def after_epoch(self, epoch: int) -> None:
        """Do what `after_step` does, and save after every `checkpoint_every` epochs.

        Args:
            epoch: epochs of the task that are done.

        Raises:
            Stopped: after saving the run.
        """
        if self._checkpoint_every and epoch % self._checkpoint_every == 0:
            self.checkpoint()
        else:
            self._save_if_due()

    def _save_if_due(self) -> None:
        if self._group.from_main(self._due):
            self.checkpoint()

    def _due(self) -> bool:
        overdue = not self._checkpoint_every and time.monotonic() - self._saved > AUTOMATIC_SECONDS
        return overdue or self._request is not None

    def checkpoint(self) -> None:
        """Save the run now; stop if that was asked for.

        Raises:
            Stopped: after saving the run.
        """
        self.save()
        self._saved = time.monotonic()
        # Rank 0 may be asked while it answers: what it said is what all act on.
        request = self._group.from_main(lambda: self._request)
        if request:
            self._group.ending = True
            raise Stopped(*_REQUESTS[request])

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """While inside, a request to stop raises Stopped at once: the run was saved just before.

        Of several processes, only rank 0 may be inside, and inside `Group.on_main`.
        """
        self._at_once = True
        try:
            self._stop_if_asked()
            yield
        finally:
            self._at_once = False

    def _stop_if_asked(self) -> None:
        if self._request:
            raise Stopped(*_REQUESTS[self._request])

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if not self._group.main:
            return
        if number == signal.SIGINT and self._request == signal.SIGINT:
            raise KeyboardInterrupt
        self._request = signal.Signals(number)
        if self._at_once:
            self._stop_if_asked()
        if number == signal.SIGINT:
            say_at_once("stopping after this step; Ctrl-C once more leaves at once")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a run's folder, or be kept from it.

    The lock is on main.log, which is only ever appended to or cut.

    Raises:
        FolderInUseError: another process has the lock.
        OSError: main.log cannot be opened; the error names it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / "main.log"))
        except BlockingIOError as error:
            raise FolderInUseError(
                f"another process is running {folder} at this moment; wait for it or stop it, or "
                "start a run of its own without --resume"
            ) from error
        yield
