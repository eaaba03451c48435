"""Tests of utils/files.py: old content or new, never half of it."""

import errno
import os

import pytest

from utils.files import write_file


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
