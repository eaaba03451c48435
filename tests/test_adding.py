"""README's pages "Add a method" and "Add a backbone", followed word by word in a copy."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from utils.runs import find_runs

README = (REPOSITORY / "README.md").read_text()
PAGES = dict(re.findall(r"^### Add a (method|backbone)\n(.*?)(?=^##)", README, re.M | re.S))
# A block of code, and the end of the sentence before it.
BLOCK = re.compile(r"((?:[^\n]+\n)+)\n```(\w*)\n(.*?)```", re.S)
NEW = re.compile(r"Make \*\*(\S+)\*\*:\s*$")
BELOW = re.compile(r"[Ii]n \*\*(\S+)\*\*,\s+below\s+`([^`]+)`:\s*$")
NOT_COPIED = (".git", ".venv", "data", "__pycache__", ".*_cache", "test_adding.py")


@pytest.fixture
def copy(tmp_path):
    """Return a copy of the repository, with no logs but those that are published."""
    folder = tmp_path / "copy"
    shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*NOT_COPIED, "logs"))
    shutil.copytree(REPOSITORY / "logs/published", folder / "logs/published")
    return folder


def follow(page, copy, do):
    """Do what a page says; return what was printed by its commands, each as `do` makes of it."""
    said = ""
    for before, language, code in BLOCK.findall(page):
        if language == "bash":
            said += shell("\n".join(map(do, code.splitlines())), copy)
        elif new := NEW.search(before):
            assert not (copy / new[1]).exists()
            (copy / new[1]).write_text(code)
        else:
            name, line = BELOW.search(before).groups()
            rows = (copy / name).read_text().splitlines(keepends=True)
            (place,) = (i for i, row in enumerate(rows) if row.strip() == line)
            (copy / name).write_text("".join([*rows[: place + 1], code, *rows[place + 1 :]]))
    return said


def shell(commands, folder):
    """Run commands up to the first that fails, which is an error here; return what they print."""
    python = f'set -e\npython() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", python + commands],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_pages_add_a_method_and_a_backbone(copy):
    files = " ".join(f"tests/test_{name}.py" for name in ("readme", "layers", "catalog", "exps"))
    kept = "readme or layers or lwf or conv3"

    def quickly(command):
        if command.startswith("python main_memo.py"):
            return f"{command} --print_config"
        return (
            "" if command in ("python -m pytest", "python -m utils.report logs/tried") else command
        )

    method = follow(PAGES["method"], copy, quickly)
    assert method.count('"model_name": "lwf"') == 2
    backbone = follow(PAGES["backbone"], copy, quickly)
    assert '"convnet_type": "memo_conv3"' in backbone
    assert "| conv3 " in backbone.replace("|    ", "| ")
    row = backbone.splitlines()[0]
    assert "```bash\npython -m utils.count -net conv3\n```" in PAGES["backbone"]
    assert f"```\n{row}\n```" in PAGES["backbone"]
    shell(f"python -m pytest -x -q {files} -k '{kept}'", copy)


@pytest.mark.slow  # the whole suite of the copy
def test_the_suite_of_a_repository_with_both_is_green(copy):
    # The suite is the last thing that the pages ask for; once is enough.
    method = follow(PAGES["method"], copy, lambda typed: typed.replace("python -m pytest", ""))
    assert re.search(r"^\| 1: synthetic [^\n]* lwf \|", method, re.M)
    said = follow(PAGES["backbone"], copy, str)
    assert re.search(r"^=+ \d+ passed", said, re.M)
    runs = {run.config["model_name"]: run for run in find_runs([copy / "logs/tried"])}
    assert {name: run.unfinished for name, run in runs.items()} == {"lwf": "", "memo": ""}
    assert runs["memo"].config["convnet_type"] == "memo_conv3"
    assert "loss_kd" in (runs["lwf"].folder / "training.csv").read_text()
