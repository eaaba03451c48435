"""Tests of utils/files.py: old content or new, never half of it."""

import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from utils.files import explain, file_lock, read_file, remove_leftovers, write_file


def test_writes_and_replaces(tmp_path):
    write_file(tmp_path / "a.txt", b"one")
    write_file(tmp_path / "a.txt", b"two")
    assert (tmp_path / "a.txt").read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    write_file(tmp_path / "a.txt", b"the old content")
    with open(tmp_path / "a.txt", "rb") as reader:
        write_file(tmp_path / "a.txt", b"new")
        assert reader.read() == b"the old content"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_keeps_the_old_content_and_names_the_file(tmp_path, monkeypatch, step):
    write_file(tmp_path / "a.txt", b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=r"No space left.*a\.txt'") as caught:
        write_file(tmp_path / "a.txt", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"old"


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_file(tmp_path / "gone" / "a.txt", b"new")
    assert caught.value.filename == str(tmp_path / "gone" / "a.txt")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device"),
        (lambda path: path.symlink_to("/dev/full"), "a pipe or a device"),
        (Path.mkdir, "Is a directory"),
        (lambda path: os.truncate(path.touch() or path, 2**40), "its 1099511627776 bytes are more"),
        (lambda path: path.symlink_to(path), "Too many levels"),
    ],
)
def test_only_regular_files_of_a_sane_size_are_read(make, says, tmp_path):
    make(tmp_path / "file")
    with pytest.raises(OSError, match=says):
        read_file(tmp_path / "file")


def test_left_over_files_are_removed_and_nothing_else(tmp_path):
    for name in (".a.json.7.tmp", "a.json", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".a.json.8.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".a.json.8.tmp", ".hidden", "a.json"]


def failing(monkeypatch, module, name, number, when=lambda *_: True):
    """Let a function of the system fail with this error."""
    real = getattr(module, name)

    def fail(*arguments):
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_flush_folders_will_do(number, tmp_path, monkeypatch):
    failing(monkeypatch, os, "fsync", number, lambda d: os.path.isdir(f"/proc/self/fd/{d}"))
    write_file(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_could_not_be_flushed_is_an_error(number, tmp_path, monkeypatch):
    failing(monkeypatch, os, "fsync", number, lambda d: os.path.isdir(f"/proc/self/fd/{d}"))
    with pytest.raises(OSError, match=r"a\.txt") as caught:
        write_file(tmp_path / "a.txt", b"new")
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_a_warning(number, tmp_path, monkeypatch, caplog):
    failing(monkeypatch, fcntl, "flock", number)
    with caplog.at_level(logging.WARNING, "memo"), file_lock(tmp_path / "main.log"):
        (warning,) = caplog.messages
    assert f"the file system of {tmp_path} has no locks ({os.strerror(number)})" in warning


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    failing(monkeypatch, fcntl, "flock", errno.EIO)
    with pytest.raises(OSError, match=r"main\.log"), file_lock(tmp_path / "main.log"):
        pytest.fail("locked")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        *((number, "make room or elsewhere") for number in (errno.ENOSPC, errno.EDQUOT)),
        *((n, "permission to write") for n in (errno.EACCES, errno.EPERM, errno.EROFS)),
        *((n, "") for n in (errno.EIO, errno.EMFILE, errno.ENAMETOOLONG, errno.ESTALE)),
    ],
)
def test_each_kind_of_error_says_what_happened(number, remedy):
    said = explain(OSError(number, os.strerror(number), "/x/a.txt"), "elsewhere")
    assert said.startswith(f"/x/a.txt: {os.strerror(number)}")
    assert remedy in said
    assert ("make room" in said) == (number in (errno.ENOSPC, errno.EDQUOT))
