"""utils/command.py: signals while a command starts, and output that nobody reads."""

import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import REPOSITORY

MODULES = [
    path.stem
    for path in sorted((REPOSITORY / "utils").glob("*.py"))
    if re.search('^if __name__ == "__main__":', path.read_text(), re.MULTILINE)
]
COMMANDS = [[str(REPOSITORY / "main_memo.py")], *(["-m", f"utils.{name}"] for name in MODULES)]


@pytest.fixture
def signal_while_importing(tmp_path):
    """Return the environment in which importing NumPy brings a signal; after it, code 7."""

    def make(number):
        (tmp_path / "numpy.py").write_text(
            "import os\n"
            f"try: os.kill(os.getpid(), {int(number)}); [None for _ in range(10)]\n"
            "except BaseException as error: raise ImportError('half imported') from error\n"
            "os._exit(7)\n"
        )
        return {**os.environ, "PYTHONPATH": str(tmp_path)}

    return make


@pytest.mark.parametrize(
    ("words", "number", "says"),
    [
        *((words, signal.SIGINT, "Ctrl-C (SIGINT)") for words in COMMANDS),
        (COMMANDS[0], signal.SIGTERM, "SIGTERM"),
        (COMMANDS[0], signal.SIGHUP, "SIGHUP"),
    ],
)
def test_a_signal_while_libraries_are_imported_is_one_line(
    words, number, says, signal_while_importing
):
    done = subprocess.run(
        [sys.executable, *words], env=signal_while_importing(number), cwd=REPOSITORY,
        capture_output=True, text=True,
    )  # fmt: skip
    name = words[-1].rpartition("/")[2]
    assert done.stderr == f"{name}: stopped by {says}\n"
    assert done.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ignored_at_the_start_stays_ignored(number, signal_while_importing):
    words = [sys.executable, *COMMANDS[0]]
    trapped = f"trap '' {number.name[3:]}; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", trapped, "sh", *words], env=signal_while_importing(number),
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (7, "")


SPEAKS = """
import os, sys
from utils.command import begin_command
begin_command("it")
from utils.logbook import LOGGER, setup_console
from tqdm import tqdm
setup_console()
with open("/dev/null") as file:
    assert file.fileno() > 2
for _ in tqdm(range(3)):
    LOGGER.warning("goes on")
    print("asked for")
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (">&-", 5, "goes on"),
        ("<&- >&- 2>&-", 5, ""),
        ("2>&1 | true", 5, ""),
        ("2>/dev/full", 5, ""),
        (">/dev/full", 1, "it: the output cannot be written: No space left on device"),
    ],
)
def test_without_a_reader_a_command_goes_on_to_its_exit_code(how, code, said):
    shell = f'set -o pipefail; "$@" {how}'
    words = ["bash", "-c", shell, "bash", sys.executable, "-c", SPEAKS]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    for wrong in ("Traceback", "Exception", "Error"):
        assert wrong not in done.stderr


@pytest.mark.parametrize(("how", "code"), [("--print_config | true", 0), ("--no 2>&-", 2)])
def test_main_without_a_reader(how, code):
    words = ["bash", "-c", f"set -o pipefail; {sys.executable} main_memo.py {how}"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
