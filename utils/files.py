"""Files: written so that a crash leaves the old content or the new, read without trusting them.

What lies where a file is expected may be a pipe that nobody fills, a device without an end, or
gigabytes: only regular files of a sane size are read. And one process at a time: `file_lock`.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger("memo")

MOST_TEXT = 2**24  # bytes of settings, results or a list of classes; the largest are far smaller
DEEPEST = 20  # objects and lists inside each other in a JSON file; ours have 3

# What file systems say that cannot flush a folder, or lock a file, at all: CIFS, NFS, Lustre, ...
_NOT_OFFERED = {
    *(errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOLCK),
    *(errno.ENOTSUP, errno.EOPNOTSUPP),
}


@contextlib.contextmanager
def open_file(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most so many bytes for reading.

    Raises:
        OSError: there is none; `strerror` says what is there instead.
    """
    # O_NONBLOCK, so that to open a pipe does not wait for somebody who writes to it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            what = "it is a pipe or a device, not a regular file"
            raise OSError(errno.EINVAL, what, str(path))
        if about.st_size > most:
            what = f"its {about.st_size} bytes are more than the {most} that such a file may have"
            raise OSError(errno.EFBIG, what, str(path))
        yield file


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a text file.

    Raises:
        OSError: see `open_file`.
    """
    with open_file(path, MOST_TEXT) as file:
        return file.read(MOST_TEXT)  # not more, should the size be a lie, as in /proc


def read_json(path: Path, pairs: Callable[[list], dict] | None = None) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        pairs: makes each object of its keys and values, as for `json.loads`.

    Raises:
        OSError: see `open_file`.
        ValueError: it holds something else; the message says what, without the file's name.
    """
    too_much = "not valid JSON: a number is too long or the nesting too deep"
    try:
        content = json.loads(read_file(path).decode("utf-8-sig"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the file is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not valid JSON at {where}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(too_much) from error
    if _is_deeper(content, DEEPEST):
        raise ValueError(too_much)
    if not isinstance(content, dict):
        raise ValueError('it must hold one object, such as {"batch_size": 128}')
    return content


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether lists and objects are nested deeper than so many levels."""
    if not isinstance(value, list | dict):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inside)


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Give the file `path` this content: all of it or, when that fails, what it had before.

    The temporary file lies in the same folder, since a rename is atomic on one file system only.

    Raises:
        OSError: the content cannot be written; `filename` is `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise named(error, path) from error


def named(error: OSError, path: str | Path) -> OSError:
    """Return the same error (a full disk, no permission, ...) with the file it happened to."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def explain(error: OSError, elsewhere: str) -> str:
    """Return in one clause what the system says went wrong, where, and what would help.

    Args:
        error: what happened.
        elsewhere: how to ask for another place, "give another --log_dir" for instance.
    """
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}; make room or {elsewhere}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}; ask for the permission to write there or {elsewhere}"
    return what


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a process killed while writing has left in a folder."""
    for path in folder.glob(".*.tmp"):
        if not path.is_dir():  # which this program has not left
            path.unlink()


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of what a file stands for, or be kept from it.

    The lock is the kernel's (flock), so that it ends with the process, however that ends. Where the
    file system has no locks, a warning says so.

    Args:
        path: the file; made where it is missing, and left as it is.
        wait: until whoever has the lock gives it back.

    Raises:
        BlockingIOError: another process has the lock.
        OSError: the file cannot be opened; the error names it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _LOCKS.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NOT_OFFERED:
                raise named(error, path) from error
            log.warning(
                "the file system of %s has no locks (%s): nothing keeps a second process from "
                "writing there at the same time",
                path.parent,
                error.strerror,
            )
        yield
    finally:
        _LOCKS.remove(descriptor)
        os.close(descriptor)


_LOCKS: set[int] = set()


def _unlock_in_child() -> None:
    # A worker process that outlives a killed run for a moment shall not hold the run's lock.
    for descriptor in _LOCKS:
        os.close(descriptor)
    _LOCKS.clear()


os.register_at_fork(after_in_child=_unlock_in_child)
