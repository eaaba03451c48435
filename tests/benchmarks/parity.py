"""Short runs on the real CIFAR-100: beside the authors' program, and beside each other.

    python -m tests.benchmarks.parity logs/published/short

prints README's tables from the runs in these places below that folder, each made by

    python main_memo.py FLAGS -d -1 --torch_seed S --log_dir logs/published/short/PLACE

    PLACE                    FLAGS, all with SCHEDULE
    float32                  FAIR --train_base --stop_after_task 3
    first_task               FAIR --train_base --stop_after_task 1
    bf16                     FAIR --train_base --stop_after_task 3 --precision bf16
    trained                  BENCHMARK --train_base --stop_after_task 2
    frozen                   BENCHMARK --no-train_base --stop_after_task 2
    ablation/trunk           FAIR --train_base --stop_after_task 2
    ablation/trunk_old       FAIR --train_base --train_adaptive --stop_after_task 2
    ablation/old             FAIR --no-train_base --train_adaptive --stop_after_task 2
    ablation/none            FAIR --no-train_base --stop_after_task 2

    FAIR         -model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair
    BENCHMARK    -model memo -init 20 -incre 20 -ms 2000 -net memo_resnet32 -p benchmark
    SCHEDULE     --init_epoch 8 --init_milestones 4 6 --epochs 6 --milestones 3 5

(the names in ablation/ tell what trains after task 1). A run whose settings are others does not
belong there, and is refused. bare_seeds/ keeps five runs like float32/ from before utils/seeds.py
mixed the seeds; no flags make them any more. The runs of a pair have the same first task. Those in
trained/ and ablation/ may therefore begin with one that is trained, `--skip --init_checkpoint
RUN_DIR/task_1.pt`, from the run of the same torch seed beside them, which changes nothing in what
follows. Their accuracy after task 1 must then be that run's.

float32/ is compared with the authors' program, five torch seeds of the same schedule
(tests/golden/real_short_schedule.json). The margin is what two means of equal programs stay within:
3 x sd x sqrt(1/n + 1/5), with the standard deviation of the authors' five. The interval is Welch's.

Of two samples of ours only seeds that both have are compared, pair by pair, with the interval of
Student's t for the mean difference. A loss is beyond seed noise where the whole interval is below
zero, or where the mean lost is more than the standard deviation over the seeds of the first sample.
All intervals are of 95 %. What has not been run is said to be not measured.

Exit codes: 0 done; 1 a mean lies outside its margin; 2 the runs cannot be compared.
"""

import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from utils.config import SETTINGS, Config, load_config
from utils.report import Spread
from utils.reproduction import hardware
from utils.runs import NO_RESULT, Run, find_runs
from utils.tables import markdown_text

AUTHORS = Path(__file__).resolve().parent.parent / "golden" / "real_short_schedule.json"
# Column of curves.csv, its name in the authors' file, and what to call it.
MEASURES = [
    ("cnn_top1", "cnn1", "CNN top-1"),
    ("nme_top1", "nme1", "NME top-1"),
    ("old_top1", "old", "old classes"),
    ("new_top1", "new", "new classes"),
]
SCHEDULE = "--init_epoch 8 --init_milestones 4 6 --epochs 6 --milestones 3 5"
FAIR = f"-model memo -init 10 -incre 10 -ms 3312 -net memo_resnet32 -p fair {SCHEDULE}"
BENCHMARK = f"-model memo -init 20 -incre 20 -ms 2000 -net memo_resnet32 -p benchmark {SCHEDULE}"
# What the runs of a folder must have done, so that its name tells the truth.
FLAGS = {
    "float32": f"{FAIR} --train_base --stop_after_task 3",  # as the authors' runs
    "first_task": f"{FAIR} --train_base --stop_after_task 1",
    "bf16": f"{FAIR} --train_base --stop_after_task 3 --precision bf16",
    "trained": f"{BENCHMARK} --train_base --stop_after_task 2",
    "frozen": f"{BENCHMARK} --no-train_base --stop_after_task 2",
    "ablation/trunk": f"{FAIR} --train_base --stop_after_task 2",
    "ablation/trunk_old": f"{FAIR} --train_base --train_adaptive --stop_after_task 2",
    "ablation/old": f"{FAIR} --no-train_base --train_adaptive --stop_after_task 2",
    "ablation/none": f"{FAIR} --no-train_base --stop_after_task 2",
}
ABLATION = tuple(place for place in FLAGS if place.startswith("ablation/"))
# Where task 1 may be read from another run instead of being trained, and in what they then differ.
MAY_SKIP = ("trained", *ABLATION)
SKIPPED = ("skip", "init_checkpoint")
EARLY = "bare_seeds"  # five runs of before seeds were mixed (utils/seeds.py)
NAMES = {column: name for column, _, name in MEASURES}
NOT_MEASURED = "Not measured.\n"

# What a run measured: by task and column of curves.csv, or ("average", column).
Results = dict[tuple[int | str, str], float]


class ParityError(Exception):
    """The runs cannot be compared; the message is one sentence."""


def read_runs(folder: Path) -> dict[int, Results]:
    """Return what the runs below a folder measured, by torch seed; nothing if it is not there.

    Raises:
        ParityError: a run is not finished, or two have the same seed.
    """
    found = _find(folder)
    runs = {run.config["torch_seed"]: _results(run) for run in found}
    if len(runs) < len(found):
        raise ParityError(f"{folder}: two runs have the same torch seed; keep one of them")
    return dict(sorted(runs.items()))


def _find(*folders: Path) -> list[Run]:
    """Return the runs below those of the folders that are there; unfinished ones are refused."""
    runs = find_runs(folder for folder in folders if folder.is_dir())
    for run in runs:
        if run.unfinished:
            raise ParityError(f"{run.folder}: {run.unfinished}; only finished runs are compared")
    return runs


def _by_seed(runs: dict[int, Results]) -> str:
    return ", ".join(f"{seed}: {results[1, 'cnn_top1']:.1f}" for seed, results in runs.items())


def _results(run: Run) -> Results:
    with (run.folder / "curves.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    results: Results = {
        (int(line["task"]), column): float(line[column])
        for line in lines
        for column, _, _ in MEASURES
        if line[column]
    }
    for column in ("cnn_top1", "nme_top1"):
        results["average", column] = statistics.mean(float(line[column]) for line in lines)
    return results


# --- Ours and the authors' ------------------------------------------------------------------------


def compare(runs: dict[int, Results]) -> list[dict]:
    """Return a row per task and measure: both samples, their difference, margin and interval."""
    authors = json.loads(AUTHORS.read_text(encoding="utf-8"))["seeds"].values()
    rows = []
    for task in range(3):
        for column, key, name in MEASURES:
            if task == 0 and column in ("old_top1", "new_top1"):
                continue  # no old classes, and all are new: the classifier's accuracy again
            ours = [results[task + 1, column] for results in runs.values()]
            theirs = [run[task][key] for run in authors]
            rows.append({"task": task + 1, "measure": name, **_beside(ours, theirs)})
    return rows


def _beside(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return two samples, their difference, its margin and its interval."""
    spread = statistics.stdev(theirs) * math.sqrt(1 / len(ours) + 1 / len(theirs))
    return {
        "ours": ours,
        "theirs": theirs,
        "difference": statistics.mean(ours) - statistics.mean(theirs),
        "margin": 3 * spread,
        "interval": _welch(ours, theirs),
    }


def first_task_table(samples: dict[str, dict[int, Results]]) -> str:
    """Return the first task of each sample, and of all of them, beside the authors' program."""
    samples = {name: runs for name, runs in samples.items() if runs}
    if not samples:
        return NOT_MEASURED
    authors = json.loads(AUTHORS.read_text(encoding="utf-8"))["seeds"].values()
    header = ["measure", "runs", "ours, mean ± sd", "sd, times theirs", "difference", "margin"]
    rows = []
    for column, key, name in MEASURES[:2]:
        values = {what: [run[1, column] for run in runs.values()] for what, runs in samples.items()}
        if len(values) > 1:
            values["all"] = [value for each in values.values() for value in each]
        for what, ours in values.items():
            row = _beside(ours, [run[0][key] for run in authors])
            rows.append([name, f"{what} ({len(ours)})", str(Spread.over(ours))])
            rows[-1].append(_times_theirs(row["ours"], row["theirs"]))
            rows[-1] += [f"{row['difference']:+.2f}", f"± {row['margin']:.2f}"]
            rows[-1].append(_ends(row["interval"]))
    said = [f"CNN top-1 by torch seed, {what}: {_by_seed(runs)}." for what, runs in samples.items()]
    return "\n".join([markdown_text([*header, "95 % interval"], rows), *said, ""])


def _welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a difference of means; without a second run there is none."""
    if len(ours) < 2:
        return math.nan, math.nan
    return tuple(stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95))


def _ends(interval: tuple[float, float]) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}"


def authors_table(runs: dict[int, Results]) -> str:
    """Return the comparison with the authors' program as a Markdown table."""
    if not runs:
        return NOT_MEASURED
    header = ["task", "measure", f"ours, mean ± sd (n = {len(runs)})", "authors' program (n = 5)"]
    header += ["sd, times theirs", "difference", "margin", "95 % interval"]
    rows = [
        [
            str(row["task"]),
            row["measure"],
            str(Spread.over(row["ours"])),
            str(Spread.over(row["theirs"])),
            _times_theirs(row["ours"], row["theirs"]),
            f"{row['difference']:+.2f}",
            f"± {row['margin']:.2f}",
            _ends(row["interval"]),
        ]
        for row in compare(runs)
    ]
    said = [
        f"Ours by torch seed, CNN top-1 after task 1: {_by_seed(runs)}.",
        f"Means outside their margin: {'; '.join(outside(runs)) or 'none'}.",
    ]
    return "\n".join([markdown_text(header, rows), *said, ""])


def _times_theirs(ours: list[float], theirs: list[float]) -> str:
    if len(ours) < 2:
        return "-"
    return f"{statistics.stdev(ours) / statistics.stdev(theirs):.1f}"


def outside(runs: dict[int, Results]) -> list[str]:
    """Return which means differ from the authors' by more than the margin."""
    return [
        f"task {row['task']}, {row['measure']}"
        for row in compare(runs)
        if abs(row["difference"]) > row["margin"]
    ]


# --- Ours and ours --------------------------------------------------------------------------------


def paired(first: dict[int, Results], second: dict[int, Results]) -> list[dict]:
    """Return a row per task and measure: second minus first, over the seeds that both have."""
    seeds = _common(first, second)
    rows = []
    for key in first[seeds[0]]:
        if key[1] not in ("cnn_top1", "nme_top1"):
            continue
        before, after = ([runs[seed][key] for seed in seeds] for runs in (first, second))
        differences = [b - a for a, b in zip(before, after, strict=True)]
        mean, (low, high) = statistics.mean(differences), _student(differences)
        rows.append(
            {
                "task": key[0],
                "measure": NAMES[key[1]],
                "first": before,
                "second": after,
                "difference": mean,
                "interval": (low, high),
                "lost": None if len(seeds) < 2 else high < 0 or -mean > statistics.stdev(before),
            }
        )
    return rows


def _common(first: dict[int, Results], second: dict[int, Results]) -> list[int]:
    return [seed for seed in first if seed in second]


def _student(differences: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a mean; of a single value there is none."""
    if len(differences) < 2:
        return math.nan, math.nan
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    mean = statistics.mean(differences)
    return mean - half, mean + half


def paired_table(
    names: tuple[str, str], first: dict[int, Results], second: dict[int, Results]
) -> str:
    """Return two samples of ours side by side as a Markdown table, or the second one alone."""
    if second and not first:
        return f"{_single_table(names[1], second)} {names[0].capitalize()}: not measured.\n"
    seeds = _common(first, second)
    if not seeds:
        return NOT_MEASURED
    header = ["task", "measure", *(f"{name}, mean ± sd" for name in names), "difference"]
    header += ["95 % interval", "loss beyond seed noise"]
    rows = [
        [
            str(row["task"]),
            row["measure"],
            str(Spread.over(row["first"])),
            str(Spread.over(row["second"])),
            f"{row['difference']:+.2f}",
            _ends(row["interval"]),
            {True: "yes", False: "no", None: "-"}[row["lost"]],
        ]
        for row in paired(first, second)
    ]
    return f"{markdown_text(header, rows)}\nTorch seeds {', '.join(map(str, seeds))}.\n"


def _single_table(name: str, runs: dict[int, Results]) -> str:
    keys = [key for key in next(iter(runs.values())) if key[1] in ("cnn_top1", "nme_top1")]
    rows = [
        [str(task), NAMES[column], str(Spread.over(run[task, column] for run in runs.values()))]
        for task, column in keys
    ]
    table = markdown_text(["task", "measure", f"{name}, mean ± sd"], rows)
    return f"{table}\nTorch seeds {', '.join(map(str, runs))}."


def ablation_table(samples: dict[tuple[bool, bool], dict[int, Results]]) -> str:
    """Return what was measured with trunk and old blocks trained or not, as a Markdown table.

    Args:
        samples: runs by (train_base, train_adaptive).
    """
    if not samples:
        return NOT_MEASURED
    columns = {
        (1, "cnn_top1"): "CNN, task 1",
        (2, "cnn_top1"): "CNN, task 2",
        (2, "old_top1"): "old classes, task 2",
        (2, "new_top1"): "new classes, task 2",
        (2, "nme_top1"): "NME, task 2",
        ("average", "cnn_top1"): "CNN average",
    }
    words = {True: "trained", False: "frozen"}
    rows = [
        [
            words[trunk],
            words[old],
            ", ".join(map(str, runs)),
            *(str(Spread.over(results[key] for results in runs.values())) for key in columns),
        ]
        for (trunk, old), runs in sorted(samples.items(), reverse=True)
    ]
    return markdown_text(["trunk", "old blocks", "torch seeds", *columns.values()], rows)


def read_ablation(folder: Path) -> dict[tuple[bool, bool], dict[int, Results]]:
    """Return the runs of each combination below a folder, by (train_base, train_adaptive).

    Raises:
        ParityError: see `read_runs` and `require_first_task`.
    """
    samples = {}
    for place in ABLATION:
        if runs := read_runs(folder / place):
            config = expected(place)
            samples[config.train_base, config.train_adaptive] = runs
    require_first_task(*(folder / place for place in ABLATION))
    return samples


# --- The command ----------------------------------------------------------------------------------


def expected(place: str) -> Config:
    """Return the settings, all but the torch seed, of the runs in a place below the folder."""
    return load_config(FLAGS[place].split())[0]


def require_place(folder: Path, place: str) -> None:
    """Refuse runs that did not do what the name of their place says.

    Raises:
        ParityError: naming the run and every setting that is wrong.
    """
    free = {"torch_seed", *(SKIPPED if place in MAY_SKIP else ())}
    # The class order is part of the comparison, and so is where to stop.
    compared = ({*SETTINGS} - NO_RESULT - free) | {"stop_after_task"}
    right = expected(place).to_dict()
    for run in _find(folder / place):
        wrong = [
            f"{key}={run.config[key]}"
            for key in right
            if key in compared and _precise(key, run.config[key]) != _precise(key, right[key])
        ]
        if wrong:
            raise ParityError(f"{run.folder} has {', '.join(wrong)}; it does not belong there")


def _precise(key: str, value: Any) -> Any:
    return "fp32" if (key, value) == ("precision", "auto") else value


def require_first_task(*folders: Path) -> None:
    """Refuse runs whose first task was read and is not that of a run of the same torch seed.

    Args:
        folders: where those runs are, and the ones whose first task was trained.

    Raises:
        ParityError: naming the run.
    """
    runs = _find(*folders)
    for run in runs:
        if not run.config["skip"]:
            continue
        same = [o for o in runs if o.seeds == run.seeds and not o.config["skip"]]
        after, *others = (_results(each)[1, "cnn_top1"] for each in (run, *same))
        # Another machine may take an image or two for something else.
        if not any(abs(after - other) <= 0.1 for other in others):
            raise ParityError(
                f"{run.folder}: its first task was read from a file, and is that of no run of the "
                "same seeds beside it"
            )


def markdown(folder: Path) -> str:
    """Return all tables, as they stand in README.

    Raises:
        ParityError: a folder's name does not tell the truth; or see `read_runs`.
    """
    for place in FLAGS:
        require_place(folder, place)
    strange = {run.folder for run in _find(folder / "ablation")}
    strange -= {run.folder for run in _find(*(folder / place for place in ABLATION))}
    if strange:
        raise ParityError(f"{min(strange)} is in none of {', '.join(ABLATION)}")
    samples = ("float32", "bf16", "trained", "frozen")
    float32, bf16, trained, frozen = (read_runs(folder / name) for name in samples)
    require_first_task(folder / "trained", folder / "frozen")
    parts = {
        "Ours in float32 and the authors' program": authors_table(float32),
        "The first task of more runs": first_task_table(
            {
                "the runs above": float32,
                "more seeds": read_runs(folder / "first_task"),
                "bare seeds": read_runs(folder / EARLY),
            }
        ),
        "bfloat16 and float32": paired_table(("float32", "bfloat16"), float32, bf16),
        "Trunk trained and frozen, 20 + 20 classes, 2000 exemplars": paired_table(
            ("trained", "frozen"), trained, frozen
        ),
        "What to train in task 2, 10 + 10 classes, 3312 exemplars": ablation_table(
            read_ablation(folder)
        ),
    }
    everything = _find(*(folder / place for place in FLAGS))
    where = "; ".join(dict.fromkeys(hardware(run) for run in everything))
    text = "\n".join(f"**{title}**\n\n{table}" for title, table in parts.items())
    return f"{text}\nOurs on {where}.\n" if everything else text


def main(argv: Sequence[str]) -> int:
    """Print the tables; return the exit code."""
    try:
        if len(argv) != 1 or not Path(argv[0]).is_dir():
            raise ParityError("give the folder of the short runs, logs/published/short")
        sys.stdout.write(markdown(Path(argv[0])))
        runs = read_runs(Path(argv[0]) / "float32")
        return 1 if runs and outside(runs) else 0
    except ParityError as error:
        sys.stderr.write(f"tests.benchmarks.parity: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
