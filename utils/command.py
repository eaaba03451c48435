"""How every command of this program begins, so that it ends well whatever happens around it.

    if __name__ == "__main__":
        begin_command("utils.report")        before the imports that take seconds

Ctrl-C, SIGTERM and SIGHUP then end it at once, with one line and the exit code that shells expect.
(Python itself starts before that: in its first tenth of a second it is as any Python program.)
While a run has something to save, utils/control.py takes the signals instead. A signal that was
ignored when the program was started, as nohup and a shell's background jobs have it, stays ignored.

Output whose reader has gone (`| head`, a closed terminal, `2>&-`) is lost; nothing else changes.
"""

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType

ENDING = {
    signal.SIGINT: "Ctrl-C (SIGINT)",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP",  # the terminal was closed
}


def begin_command(name: str) -> None:
    """Prepare this process to be a command; called first of all.

    Args:
        name: what its messages begin with.
    """
    speaker = os.getpid()

    def leave(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == speaker:  # no child of it
            say_at_once(f"{name}: stopped by {ENDING[signal.Signals(number)]}")
        # Not by an exception: where libraries are half imported it shows as a traceback, or aborts.
        os._exit(128 + number)

    for number in not_ignored(ENDING):
        signal.signal(number, leave)
    _hold_standard_streams(name)
    from utils.launch import place  # not above: the handlers are there some milliseconds sooner

    if place().rank > 0:  # of several processes, one speaks
        speaker = 0


def not_ignored(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return those of the signals that this process was not told to ignore by who started it."""
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


def say_at_once(sentence: str) -> None:
    """Say something on stderr in a signal's handler, though a line may be half written."""
    before = "\n" if os.isatty(2) else ""  # after the terminal's ^C
    with contextlib.suppress(OSError):
        os.write(2, f"{before}{sentence}\n".encode())


def _hold_standard_streams(name: str) -> None:
    """Make stdout and stderr streams that can be written to, wherever they lead."""
    # A closed descriptor would be given to the next file opened, a checkpoint perhaps.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    for number, stream_name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, stream_name)
        if stream is None:  # it was closed
            stream = os.fdopen(number, "w", closefd=False)
            setattr(sys, f"__{stream_name}__", stream)  # as Python keeps the one it began with
        held = _Stream(
            stream.buffer,
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        held.command = name
        setattr(sys, stream_name, held)


class _Stream(io.TextIOWrapper):
    """Text for a reader who may have gone: from then on it goes nowhere."""

    command = ""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EPIPE, errno.EIO):  # EIO: a terminal that was closed
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            super().flush()  # what was left in the buffer
        elif self.fileno() == 1:  # a full disk: what was asked for is lost, and not only messages
            say_at_once(f"{self.command}: the output cannot be written: {error.strerror}")
            os._exit(1)
