"""Folders of runs as the program leaves them, with results made up, for report and sweep."""

import json
import statistics
from pathlib import Path

from utils.config import Config
from utils.data_manager import split_classes


def fake_run(
    folder: Path, top1, *, finished=True, nme=None, devices=("cpu",), processes=1, **settings
) -> Path:
    """Write config.json and summary.json of a run; returns its folder.

    Args:
        folder: the run's folder; created.
        top1: percent after each task done.
        finished: what summary.json says.
        nme: NME's percentages; 1 below `top1` when left open.
        devices: what the run used, or each of its processes.
        processes: how many there were.
        settings: changes to the defaults; `average` and `last` replace what `top1` gives.
    """
    average, last = settings.pop("average", None), settings.pop("last", None)
    lost = settings.pop("forgetting", 20.0)
    config = Config(**settings)
    sizes = split_classes(config.classes, config.init_cls, config.increment)
    nme = [value - 1 for value in top1] if nme is None else nme
    folder.mkdir(parents=True)
    values = {**config.to_dict(), "_devices": list(devices), "_processes": processes}
    (folder / "config.json").write_text(json.dumps(values))
    summary = {
        "average_accuracy": statistics.mean(top1) if average is None else average,
        "last_accuracy": top1[-1] if last is None else last,
        "average_nme_accuracy": statistics.mean(nme),
        "last_nme_accuracy": nme[-1],
        "forgetting": lost,
        "finished": finished,
        "tasks_finished": len(top1),
        "tasks_total": len(sizes),
        "task_sizes": sizes,
        "exemplars": 3300,
        "seconds": 60.0,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
