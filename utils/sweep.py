"""Run a list of configurations one after the other, leaving out what is finished already.

    python -m utils.sweep exps/auc_cifar100_*.json
    python -m utils.sweep exps/auc_cifar100_*.json --seed 1993 1 2 --data_dir /data

The first words are files as `--config` takes them; the flags after them go to every run, as to
main_memo.py. A seed whose finished run, with the same settings, lies under the run's log_dir is
left out, so that the same command, given again, goes on where it was stopped. All files are checked
before the first run starts. A run that fails does not keep the others from running.

What another process is running, a second sweep for instance, is passed over and come back to, until
it is finished. Sweeps know of each other by locks on empty files in {log_dir}/.sweep/.

Exit codes: 0 all runs are finished; 1 a run failed; 2 a file or a flag cannot be used (nothing was
run). A run that was told to stop (exit code 3, 129, 130 or 143) stops the sweep with its code.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("utils.sweep")

import contextlib
import logging
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

from utils.catalog import FOLDER_DATASETS
from utils.command import ENDING, not_ignored
from utils.config import Config, ConfigError, load_config, require_log_folder
from utils.files import explain, file_lock
from utils.folders import DataError, list_images
from utils.logbook import setup_console
from utils.runs import Run, find_runs, setting_key
from utils.settings import printable

MAIN = Path(__file__).resolve().parent.parent / "main_memo.py"
TOLD_TO_STOP = (3, *(128 + number for number in ENDING))

log = logging.getLogger("memo")


def _wanted(config: Config) -> dict[str, Any]:
    """Return the settings that a finished run must have, and which image files they mean now."""
    wanted = config.to_dict()
    if config.dataset in FOLDER_DATASETS:
        with contextlib.suppress(DataError):  # which the run will say
            wanted["_data"] = {"files": list_images(config.data_dir, config.class_list).identity}
    return wanted


def missing_seeds(config: Config, runs: list[Run]) -> list[int]:
    """Return the seeds of a configuration that have no finished run among `runs`, in order."""
    wanted = _wanted(config)
    done = {
        run.seeds
        for run in runs
        if not run.unfinished
        and _has(run, wanted)
        # As asked for, not as found: on a machine with fewer GPUs it would never be finished.
        and len(run.config["device"] or [0]) == len(config.device or [0])
    }
    return [seed for seed in config.seed if (seed, config.torch_seed) not in done]


def _begun(config: Config, runs: list[Run]) -> bool:
    """Return whether a call with all the seeds has begun: --resume goes on with it as a whole."""
    wanted = _wanted(config)
    return any(run.config.get("_seeds") == config.seed and _has(run, wanted) for run in runs)


def _has(run: Run, wanted: dict[str, Any]) -> bool:
    """Return whether a run has these settings, but for the seeds."""
    total = run.summary.get("tasks_total", 0)
    return run.config != {} and setting_key(run.config, total) == setting_key(wanted, total)


def command(path: str, flags: Sequence[str], seeds: Sequence[int] | None = None) -> list[str]:
    """Return the command line that runs a configuration, or only some of its seeds."""
    words = [sys.executable, str(MAIN), "--config", path, *flags, "--resume"]
    return words if seeds is None else [*words, "--seed", *map(str, seeds)]


def sweep(paths: Sequence[str], flags: Sequence[str]) -> int:
    """Run all configurations; return the exit code.

    Raises:
        ConfigError: a file or a flag cannot be used; nothing has been run.
    """
    configs, problems = [], []
    for path in paths:
        try:
            configs.append(load_config(["--config", path, *flags])[0])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))  # a flag's mistake is one, not one a file
    for config in configs:
        require_log_folder(Path(config.log_dir))
    failed: list[str] = []
    left = [(f"{i}/{len(paths)} {path}", path, configs[i - 1]) for i, path in enumerate(paths, 1)]
    while left:
        in_use, busy = [], []
        for each in left:
            name, path, config = each
            try:
                code = _run_missing(name, path, config, flags)
            except BlockingIOError as error:
                in_use.append(Path(error.filename))
                busy.append(each)
                continue
            if code in TOLD_TO_STOP:
                log.warning(
                    "%s: stopped (exit code %d); the same command goes on from here", name, code
                )
                return code
            if code:
                log.warning("%s: failed with exit code %d", name, code)
                failed.append(path)
        if busy == left:
            log.info("%s: another process is running it; waiting for that one", busy[0][0])
            with file_lock(in_use[0], wait=True):
                pass
        left = busy
    log.info("%d of %d configurations are finished", len(paths) - len(failed), len(paths))
    if failed:
        log.warning("failed: %s", ", ".join(failed))
    return 1 if failed else 0


def _run_missing(name: str, path: str, config: Config, flags: Sequence[str]) -> int:
    """Run what is missing of a configuration; return the exit code, 0 where nothing is.

    Raises:
        BlockingIOError: another process is running some of it; the error names the file it locks.
    """
    logs = Path(config.log_dir)
    with contextlib.ExitStack() as stack:
        for lock in _locks(config):  # against sweeps: runs have no folders yet when they start
            stack.enter_context(file_lock(lock))
        runs = find_runs([logs])
        seeds = missing_seeds(config, runs)
        if not seeds:
            log.info("%s: finished already", name)
            return 0
        for run in runs:
            if run.unfinished and _has(run, _wanted(config)) and run.seeds[0] in seeds:
                with file_lock(run.folder / "main.log"):
                    pass
        if seeds == config.seed or _begun(config, runs):
            seeds = None
        words = command(path, flags, seeds)
        log.info("%s: %s", name, shlex.join(words))
        return _run(words)


def _locks(config: Config) -> list[Path]:
    """Return the file that stands for each seed of a configuration."""
    folder = Path(config.log_dir, ".sweep")
    folder.mkdir(parents=True, exist_ok=True)
    settings = setting_key(_wanted(config), 0), config.torch_seed
    names = [sha256(repr((*settings, seed)).encode()).hexdigest() for seed in config.seed]
    return [folder / name[:16] for name in sorted(set(names))]


def _run(words: list[str]) -> int:
    """Run a command and wait for it; return its exit code, 128 + n when signal n ended it.

    Who ends the sweep means the run as well, which then saves itself.
    """
    asked: list[int] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if number != signal.SIGINT and child:  # Ctrl-C reaches both; a second one is another wish
            child.send_signal(number)

    child = None
    before = {number: signal.signal(number, hand_on) for number in not_ignored(ENDING)}
    try:
        child = subprocess.Popen(words)
        for number in asked:  # before there was a child to hand it on to
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, former in before.items():
            signal.signal(number, former)
    if asked and code == 0:  # it was over by then, but no other is to follow
        return 128 + asked[0]
    return 128 - code if code < 0 else code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        sys.stdout.write(__doc__)
        return 0
    paths = list(takewhile(lambda word: not word.startswith("-"), words))
    flags = words[len(paths) :]
    problem = None
    if not paths:
        problem = "name the configurations first: python -m utils.sweep FILE... [flags]"
    elif any(word.split("=")[0] in ("--config", "--print_config") for word in flags):
        problem = "--config and --print_config are no flags for a sweep; name the files first"
    if problem is None:
        setup_console()
        try:
            return sweep(paths, flags)
        except ConfigError as error:
            problem = str(error)
        except OSError as error:
            reason = printable(explain(error, "give another --log_dir"))
            sys.stderr.write(f"utils.sweep: {reason}\n")
            return 1
    sys.stderr.write(f"utils.sweep: {printable(problem)}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
