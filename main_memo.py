"""Class-incremental learning with MEMO and other methods, the model counted as memory.

    python main_memo.py                                   the published CIFAR-100 experiment
    python main_memo.py --config exps/quickstart.json     about a minute on a CPU, no download
    python main_memo.py -model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair \\
                        --train_base -d 0                 the same as the first, spelt out

Classes arrive task by task. After each task the program tests on all classes seen so far and writes
accuracy curves, tables and a checkpoint to logs/{prefix}/{dataset}/{model}/{run}/.

Settings come from defaults, then a JSON file (`--config FILE`, else exps/{model_name}.json), then
the flags typed. `--help` lists them, `--help NAME` says all about one; `--print_config` shows what
a command line amounts to, without running it, and its output is itself a file for `--config`.

`torchrun --nproc_per_node=N main_memo.py ...` trains with N processes, a GPU each or on CPUs.

A run can be ended at any moment and resumed: `--resume` goes on with the newest unfinished run that
has the same settings, `--resume DIR` with the one in that folder. `--evaluate DIR` tests a
run's network again, and `--export FILE` with it writes the network for use elsewhere.

Exit codes: 0 done; 1 the run could not go on (a full disk, a loss that became infinite); 2 the
settings, the data, a checkpoint or a run's folder cannot be used; 3 `--max_minutes` were over; 129
SIGHUP (a closed terminal); 130 Ctrl-C; 143 SIGTERM. After these four a run that trained has been
saved. One message on stderr says what and where. Suspicious but legal settings give warnings on
stderr, and the run goes on.
"""

from utils.command import begin_command

if __name__ == "__main__":
    begin_command("main_memo.py")

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.config import Config, ConfigError, Options, help_text, load_config
from utils.launch import after_rank_0, place
from utils.settings import printable

if TYPE_CHECKING:
    from utils.distributed import Group


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with the words of a command line; return its exit code."""
    started = time.monotonic()
    words = sys.argv[1:] if argv is None else argv
    try:
        config, warnings, options = load_config(words)
    except ConfigError as error:
        return _leave(error, 2)
    first = place().rank == 0  # of several processes, one speaks
    if options.help:
        sys.stdout.write(help_text(words) if first else "")
        return 0
    for warning in warnings if first else ():
        sys.stderr.write(f"WARNING: {printable(warning)}\n")
    if options.print_config:
        sys.stdout.write(config.to_json() if first else "")
        return 0
    from utils.distributed import LostProcessError, together  # not above: torch takes seconds

    try:
        return together(lambda group: _start(config, options, started, warnings, group))
    except LostProcessError as error:
        return _leave(error, 1, wait=False)
    except KeyboardInterrupt:
        training = options.evaluate is None
        go_on = "; --resume goes on from the last checkpoint" if training else ""
        return _leave(f"interrupted{go_on}", 130)


def _start(
    config: Config, options: Options, started: float, warnings: Sequence[str], group: "Group"
) -> int:
    """Train or test; return the exit code."""
    # Imported here, because torch takes seconds: mistakes and --print_config are answered at once.
    from utils.checkpoint import CheckpointError
    from utils.control import FolderInUseError, Stopped
    from utils.data import DataError
    from utils.devices import is_out_of_memory, out_of_memory, resolve_devices
    from utils.engine.fit import TrainingError
    from utils.evaluation import evaluate_run
    from utils.experiment import run
    from utils.files import explain
    from utils.images import SystemLimitError
    from utils.logbook import TensorBoardError

    try:
        if options.evaluate is None:
            run(config, options.resume, started, warnings, group)
        else:
            asked = options.evaluate, options.task, options.export
            sys.stdout.write(group.on_main(evaluate_run, config, *asked) or "")
    except (ConfigError, DataError, CheckpointError, FolderInUseError, TensorBoardError) as error:
        return _leave(error, 2)
    except (TrainingError, SystemLimitError) as error:
        return _leave(error, 1)
    except OSError as error:
        kept = "checkpoints written before are kept, and --resume goes on from the last one"
        return _leave(f"{explain(error, 'give another --log_dir')} ({kept})", 1)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        devices, _ = resolve_devices(config.device)
        return _leave(out_of_memory(config.batch_size, config.convnet_type, devices), 1)
    except Stopped as stop:
        return stop.exit_code
    return 0


def _leave(reason: object, code: int, wait: bool = True) -> int:
    if wait:
        after_rank_0()
    sys.stderr.write(f"main_memo.py: {printable(str(reason))}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
