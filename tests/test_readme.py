"""README.md against the program: the table of settings, the commands, the files named."""

import re
import shlex

import pytest
from conftest import REPOSITORY

from utils.config import load_config, markdown_table

README = (REPOSITORY / "README.md").read_text()
COMMANDS = re.findall(r"python main_memo\.py[^\n`&]*", README)
FILES = sorted(set(re.findall(r"`((?:exps|utils|models|convs)/[^`<{]*)`", README)))


def test_table_of_settings_is_the_program_s():
    assert markdown_table().strip() in README


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path):
    (tmp_path / "config.json").write_text("{}")  # what the program reads of a run
    words = shlex.split(command.replace("RUN_DIR", str(tmp_path)), comments=True)[2:]
    load_config([str(REPOSITORY / w) if w.startswith("exps/") else w for w in words])


@pytest.mark.parametrize("path", FILES)
def test_files_named_exist(path):
    assert (REPOSITORY / path).exists()
