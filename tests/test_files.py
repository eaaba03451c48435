"""Tests of utils/files.py: old content or new, never half of it."""

import errno
import os
from pathlib import Path

import pytest

from utils.files import read_file, remove_leftovers, write_file


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
