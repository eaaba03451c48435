"""MEMO: class-incremental learning that counts the model in the memory budget.

    python main_memo.py                                   the published CIFAR-100 experiment
    python main_memo.py --config exps/quickstart.json     a few minutes on a CPU, no download
    python main_memo.py -model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair \\
                        --train_base -d 0                 the same as the first, spelt out

Classes arrive task by task. After each task the program tests on all classes seen so far and writes
accuracy curves, tables and a checkpoint to logs/{prefix}/{dataset}/{model}/{run}/.

Settings come from defaults, then a JSON file (`--config FILE`, else exps/{model_name}.json), then
the flags typed. `--help` lists them; `--print_config` shows what a command line amounts to, without
running it, and its output is itself a file for `--config`.

Exit codes: 0 done; 1 the run could not go on (a full disk, a loss that became infinite); 2 the
settings, the data or a checkpoint cannot be used; 130 interrupted. One message on stderr says what
and where. Suspicious but legal settings give warnings on stderr, and the run goes on.
"""

import sys
from collections.abc import Sequence

from utils.config import ConfigError, help_text, load_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with the words of a command line; return its exit code."""
    try:
        config, warnings, options = load_config(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return _leave(error, 2)
    if options.help:
        sys.stdout.write(help_text())
        return 0
    for warning in warnings:
        sys.stderr.write(f"WARNING: {warning}\n")
    if options.print_config:
        sys.stdout.write(config.to_json())
        return 0

    # Imported here, because torch takes seconds: mistakes and --print_config are answered at once.
    from models.base import TrainingError
    from utils.checkpoint import CheckpointError
    from utils.data import DataError
    from utils.experiment import run
    from utils.logbook import TensorBoardError

    try:
        run(config)
    except (DataError, CheckpointError, TensorBoardError) as error:
        return _leave(error, 2)
    except (TrainingError, OSError) as error:
        return _leave(error, 1)
    except KeyboardInterrupt:
        return _leave("interrupted; what finished tasks left is in the run's folder", 130)
    return 0


def _leave(reason: object, code: int) -> int:
    sys.stderr.write(f"main_memo.py: {reason}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
