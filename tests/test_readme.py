"""README.md against the program: the table of settings, the commands, the files named."""

import re
import shlex

import pytest
from conftest import REPOSITORY
from readme import with_table

from utils import analysis, budget, report, sweep
from utils.config import load_config

README = (REPOSITORY / "README.md").read_text()
# What is added on the last pages is not there: tests/test_adding.py.
HERE = README.partition("### Add a method\n")[0]
COMMANDS = re.findall(r"python main_memo\.py[^\n`&]*", HERE)
MODULES = re.findall(r"^(?:\$ )?python -m (utils\.[^\n`]*)", HERE, re.MULTILINE)
FILES = sorted(set(re.findall(r"`((?:exps|utils|models|convs)/[^`<{]*)`", README)))


def test_table_of_settings_is_the_program_s():
    assert with_table(README) == README, "python -m tests.readme brings it up to date"


def test_the_budget_table_is_the_commands(capsys):
    (typed, table), *_ = re.findall(r"\$ python -m utils\.budget ([^\n]*)\n(.*?)```", README, re.S)
    assert budget.main(typed.split()) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize("words", MODULES)
def test_the_other_commands_are_understood(words, tmp_path, monkeypatch, capsys):
    # Nothing is there to report or run, which is said in a sentence; the words are understood.
    module, *typed = shlex.split(words.split("#")[0])
    monkeypatch.chdir(tmp_path)
    if module == "utils.sweep":
        typed = sorted(str(path) for path in REPOSITORY.glob(typed[0]))
        assert len(typed) == 5
        monkeypatch.setattr(sweep, "_run", lambda words: 0)
        assert sweep.main(typed) == 0
    elif module == "utils.report":
        assert report.main(typed) == 2
        assert "there is no such folder" in capsys.readouterr().err
    elif module == "utils.analysis":
        assert analysis.main(typed) == 2
        assert "RUN_DIR" in capsys.readouterr().err
    else:
        assert budget.main(typed) == 0


def test_there_are_commands_to_test():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # what the program reads of a run
    (trees,) = re.findall(r"```json\n(.*?)```", README, re.S)
    (tmp_path / "trees.json").write_text(trees)
    for tree in ("beech", "birch", "larch", "oak", "pine", "spruce"):
        for split in ("train", "val"):
            (tmp_path / "photos" / split / tree).mkdir(parents=True)
    for stands_for, one in (("RUN_DIR", str(tmp_path)), ("exps/FILE", "exps/memo.json")):
        command = command.replace(stands_for, one)
    words = shlex.split(command, comments=True)[2:]
    load_config([str(REPOSITORY / w) if w.startswith("exps/") else w for w in words])


@pytest.mark.parametrize("path", FILES)
def test_files_named_exist(path):
    assert (REPOSITORY / path).exists()
