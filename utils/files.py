"""Writing a file so that a crash, a full disk or a power cut leaves the old content or the new."""

import contextlib
import errno
import os
from pathlib import Path


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


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a process killed while writing has left in a folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink()
