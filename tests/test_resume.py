"""A run that cannot be lost: killed at any moment and resumed, it is the run that was never killed.

The processes are real and so is SIGKILL; `assert_same_run` compares curves, weights, exemplars,
predictions and log lines with those of an undisturbed run, bit for bit.
"""

import json
import random
import re
import shutil
import signal
import sys
import time

import pytest
import torch
from conftest import GOLDEN
from fake_runs import DAMAGES, fake_run
from processes import (
    SMALL,
    Program,
    assert_same_run,
    folders,
    log_lines,
    rows_without_seconds,
)

from main_memo import main
from utils import experiment
from utils.checkpoint import NEWEST, PREVIOUS, CheckpointError, load_run, save_run
from utils.config import Config, load_config
from utils.evaluation import load_exported
from utils.logbook import runs_folder
from utils.resume import find_call
from utils.runs import find_runs


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps(SMALL))
    return ["--config", path]


def run_undisturbed(flags, logs):
    """Return the folder of a run that nothing happens to, and the seconds that its work took."""
    program = Program(*flags, "--log_dir", logs, output=logs / "said")
    program.wait_for("on cpu; logs in")
    began = time.monotonic()
    assert program.wait() == 0, program.said()
    return folders(logs)[0], time.monotonic() - began


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    return run_undisturbed(config, tmp_path_factory.mktemp("undisturbed"))


def kill_and_resume(kills, flags, undisturbed, tmp_path, longest_life):
    """Kill a run at random moments, resuming each time; return how far it was at each kill.

    A life lasts up to `longest_life` times the undisturbed run's seconds / kills. Should the run be
    over before its last kill, another one is made, with shorter lives.
    """
    expected, seconds = undisturbed
    seed = random.randrange(2**32)
    sys.stdout.write(f"moments of seed {seed}\n")
    moments, hits = random.Random(seed), []
    resume = [*flags, "--log_dir", tmp_path, "--checkpoint_every", 1, "--resume"]
    for kill in range(kills):
        program = Program(*resume, output=tmp_path / f"said {kill}")
        # It goes on, or begins again where it was killed before its first checkpoint.
        program.wait_for("resumed", "on cpu; logs in")
        time.sleep(moments.uniform(0, longest_life * seconds / kills))
        program.send(signal.SIGKILL)
        code = program.wait()
        if code == 0:
            shorter = tmp_path / "shorter"
            shorter.mkdir()
            return kill_and_resume(kills, flags, undisturbed, shorter, longest_life / 2)
        assert code == -signal.SIGKILL, program.said()
        (folder,) = folders(tmp_path)
        lines = [line for line in log_lines(folder) if line.startswith(("DEBUG", "INFO task"))]
        hits.append(lines[-1].split(":")[0].split(" ", 1)[1] if lines else "task 1, first epoch")
    program = Program(*resume, output=tmp_path / "said at last")
    assert program.wait() == 0, program.said()
    assert_same_run(folder, expected)
    assert not list(folder.glob(".*.tmp"))
    return hits


def test_three_kills_at_random_moments(config, undisturbed, tmp_path):
    assert kill_and_resume(3, config, undisturbed, tmp_path, 1.5)


@pytest.mark.slow
def test_twenty_kills_at_random_moments(config, tmp_path):
    flags = [*config, "--init_epoch", 20, "--epochs", 15]
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "killed").mkdir()
    undisturbed = run_undisturbed(flags, tmp_path / "undisturbed")
    hits = kill_and_resume(20, flags, undisturbed, tmp_path / "killed", 4)
    sys.stdout.write(f"{len(hits)} kills, after: {'; '.join(hits)}\n")
    assert len(hits) == 20


@pytest.mark.parametrize(
    "moment",
    [
        ("utils.engine.fit.Engine.training_step", 2),  # in the first epoch: nothing has been saved
        ("utils.engine.fit.Engine.training_step", 14),  # in the middle of a later epoch
        ("utils.checkpoint.write_file", 2),  # before a checkpoint is written
        ("utils.checkpoint._is_whole", 3),  # after it is written, before it counts
        ("utils.experiment.save_task_checkpoint", 2),  # a task is done, nothing of it written
        ("models.base.herd", 3),
        ("models.base.class_means", 2),  # in the evaluation
        ("utils.experiment.final_table", 1),  # everything is written but the last checkpoint
    ],
    ids=lambda moment: f"{moment[0].rpartition('.')[2]}-{moment[1]}",
)
def test_killed_at_this_very_moment(moment, config, undisturbed, tmp_path):
    flags = [*config, "--log_dir", tmp_path, "--checkpoint_every", 1, "--resume"]
    assert Program(*flags, output=tmp_path / "said", die_at=moment).wait() == -signal.SIGKILL
    (folder,) = folders(tmp_path)
    assert Program(*flags, output=tmp_path / "said").wait() == 0, (tmp_path / "said").read_text()
    assert folders(tmp_path) == [folder]
    assert_same_run(folder, undisturbed[0])


# --- Stopping by request --------------------------------------------------------------------------

LONG = ["--init_epoch", 4000, "--init_milestones", 3999]  # minutes: every stop below comes before


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "Ctrl-C (SIGINT)"), (signal.SIGTERM, 143, "SIGTERM")],
)
def test_a_signal_saves_the_run_and_says_how_to_resume(number, code, name, config, tmp_path):
    program = Program(*config, *LONG, "--log_dir", tmp_path, output=tmp_path / "said")
    program.wait_for("on cpu; logs in")
    program.send(number)
    assert program.wait() == code, program.said()
    (folder,) = folders(tmp_path)
    assert f"stopped by {name}; to go on: python main_memo.py --resume {folder}" in program.said()
    assert "Traceback" not in program.said()
    saved, warning = load_run(folder)
    assert warning is None
    training = saved["learner"]["training"]
    assert training["step"] > 0
    assert training["step"] + training["epoch"] < 4000


def test_what_was_stopped_again_and_again_is_the_same_run(config, undisturbed, tmp_path):
    """Stopped in the middle of epochs, which the tests above resume from epochs' ends only."""
    codes = []
    while not codes or codes[-1] == 143:
        program = Program(
            *config, "--resume", "--log_dir", tmp_path, output=tmp_path / "said",
            die_at=("utils.engine.fit.Engine.training_step", 5), signal_number=signal.SIGTERM,
        )  # fmt: skip
        codes.append(program.wait())
    assert codes == [143] * 4 + [0], program.said()
    (folder,) = folders(tmp_path)
    assert_same_run(folder, undisturbed[0])


def test_stopped_while_herding_and_testing(config, undisturbed, tmp_path):
    """There the end is at once: nothing is done that the checkpoint just made cannot repeat."""
    flags = [*config, "--resume", "--log_dir", tmp_path]
    for what in ("models.base.herd", "models.base.nme_predict"):
        program = Program(
            *flags, output=tmp_path / "said", die_at=(what, 1), signal_number=signal.SIGTERM
        )
        assert program.wait() == 143
        assert not list(folders(tmp_path)[0].glob("task_*.pt"))
    assert Program(*flags, output=tmp_path / "said").wait() == 0
    assert_same_run(folders(tmp_path)[0], undisturbed[0])


def test_a_second_interrupt_leaves_at_once(config, tmp_path):
    slow = ["--batch_size", 2000, "--synthetic_train_per_class", 600]  # a step takes seconds
    program = Program(*config, *LONG, *slow, "--log_dir", tmp_path, output=tmp_path / "said")
    program.wait_for("on cpu; logs in")
    program.send(signal.SIGINT)
    program.wait_for("Ctrl-C once more leaves at once")
    program.send(signal.SIGINT)
    assert program.wait() == 130
    assert "left at once; to go on" in program.said()
    assert "Traceback" not in program.said()
    assert not (folders(tmp_path)[0] / NEWEST).exists()


def test_leaving_before_the_first_step_says_how_to_go_on_too(config, tmp_path, monkeypatch):
    def leave(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "_budget", leave)
    assert main([str(word) for word in (*config, "--log_dir", tmp_path)]) == 130
    (folder,) = folders(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(experiment.pictures, "draw_run", lambda *_: None)  # seconds
    again = f"left at once; to go on: python main_memo.py --resume {folder}"
    assert again in (folder / "main.log").read_text()
    assert main(["--resume", str(folder)]) == 0


def test_max_minutes_stops_before_they_are_over(config, tmp_path):
    began = time.monotonic()
    program = Program(
        *config, *LONG, "--max_minutes", 0.2, "--log_dir", tmp_path, output=tmp_path / "said"
    )
    assert program.wait() == 3, program.said()
    assert time.monotonic() - began < 12
    assert "stopped by --max_minutes; to go on" in program.said()
    assert load_run(folders(tmp_path)[0])[0] is not None


# --- Which run goes on ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory):
    """Return a log folder with a run of two class orders that ended in the second one's task 2."""
    logs = tmp_path_factory.mktemp("stopped")
    flags = [*config, "--seed", 1, 2, "--log_dir", logs]
    moment = ("models.base.Learner.begin_task", 3 + 3)  # the first seed's 3, and the second's third
    assert Program(*flags, output=logs / "said", die_at=moment).wait() == -signal.SIGKILL
    return logs


@pytest.fixture
def copy(stopped, tmp_path):
    """Return a copy of the log folder `stopped`, to do with as one likes."""
    shutil.copytree(stopped, tmp_path / "logs")
    return tmp_path / "logs"


def test_finished_seeds_are_skipped_and_the_others_go_on(config, copy):
    first, second = folders(copy)
    before = {path: path.read_bytes() for path in first.iterdir()}
    program = Program(*config, "--seed", 1, 2, "--log_dir", copy, "--resume", output=copy / "again")
    assert program.wait() == 0, program.said()
    assert f"{first} is finished: nothing to do" in program.said()
    assert f"resumed before task 3: going on with {second}" in program.said()
    assert "over 2 class orders" in program.said()
    assert before == {path: path.read_bytes() for path in first.iterdir()}
    assert json.loads((second / "summary.json").read_text())["finished"] is True

    program = Program(
        *config, "--seed", 1, 2, "--log_dir", copy, "--resume", output=copy / "and again"
    )
    assert program.wait() == 0
    assert program.said().count("is finished: nothing to do") == 2
    assert "over 2 class orders" in program.said()
    assert folders(copy) == [first, second]


def test_a_folder_says_all_that_is_needed(copy):
    first, second = folders(copy)
    program = Program("--resume", first, output=copy / "again")
    assert program.wait() == 0
    assert f"{first} is finished: nothing to do" in program.said()
    program = Program("--resume", second, "--max_minutes", 10, output=copy / "again")
    assert program.wait() == 0
    assert f"resumed before task 3: going on with {second}" in program.said()


def test_a_call_of_several_seeds_stays_one_when_one_of_them_is_resumed(config, tmp_path):
    flags = [*config, "--seed", 1, 2, "--log_dir", tmp_path]
    moment = ("models.base.Learner.begin_task", 2)  # the first seed's second task
    program = Program(*flags, output=tmp_path / "said", die_at=moment)
    assert program.wait() == -signal.SIGKILL
    (first,) = folders(tmp_path)
    program = Program("--resume", first, output=tmp_path / "again")
    assert program.wait() == 0
    assert "class orders 2 belong to the same call" in program.said()
    program = Program(*flags, "--resume", output=tmp_path / "and again")
    assert program.wait() == 0
    assert f"{first} is finished: nothing to do" in program.said()
    assert len(folders(tmp_path)) == 2
    assert "over 2 class orders" in program.said()


def test_blocks_are_recorded_for_whole_runs_only(copy):
    _, second = folders(copy)
    program = Program("--resume", second, "--record_blocks", output=copy / "again")
    assert program.wait() == 2
    assert "begun without --record_blocks" in program.said()


@pytest.mark.parametrize(
    "moment", ["utils.experiment.final_table", "utils.pictures.draw_run"], ids=["before", "inside"]
)
def test_a_request_to_stop_does_not_wait_for_pictures(moment, config, tmp_path):
    program = Program(
        *config, "--log_dir", tmp_path, output=tmp_path / "said", die_at=(moment, 1),
        signal_number=signal.SIGHUP,
    )  # fmt: skip
    assert program.wait() == 129, program.said()
    (folder,) = folders(tmp_path)
    assert (
        "stopped by SIGHUP; all is saved but its pictures; to go on: python main_memo.py --resume "
        f"{folder}\n" in program.said()
    )
    assert json.loads((folder / "summary.json").read_text())["finished"] is True


def test_a_run_that_stopped_after_its_task_can_be_made_longer(config, undisturbed, tmp_path):
    flags = [*config, "--log_dir", tmp_path]
    said = tmp_path / "said"
    assert Program(*flags, "--stop_after_task", 2, output=said).wait() == 0
    assert Program(*flags, "--stop_after_task", 2, "--resume", output=said).wait() == 0
    assert "is finished: nothing to do" in said.read_text()
    assert Program(*flags, "--resume", output=said).wait() == 0
    (folder,) = folders(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["tasks_finished"] == 3
    assert rows_without_seconds(folder) == rows_without_seconds(undisturbed[0])


def test_other_settings_are_refused_and_named(config, copy):
    _, folder = folders(copy)
    program = Program("--resume", folder, "--lrate", 0.2, "-ms", 18, output=copy / "again")
    assert program.wait() == 2
    for words in ("memory_size is 18 but was 12", "lrate is 0.2 but was 0.05", str(folder)):
        assert words in program.said()
    assert "Traceback" not in program.said()
    for harmless in (["--log_dir", "elsewhere"], ["--eval_every", 1], ["--checkpoint_every", 1]):
        program = Program("--resume", folder, *harmless, output=copy / "more")
        assert program.wait() == 0, program.said()


def test_resume_without_a_run_says_so_and_begins(config, tmp_path):
    flags = [*config, "--log_dir", tmp_path, "--stop_after_task", 1, "--resume"]
    program = Program(*flags, output=tmp_path / "said")
    assert program.wait() == 0
    assert "no run with these settings has begun in" in program.said()
    # One that died before its first checkpoint begins again in its folder.
    (folder,) = folders(tmp_path)
    for path in folder.glob("*.pt"):
        path.unlink()
    program = Program(*flags, output=tmp_path / "again")
    assert program.wait() == 0
    assert f"{folder} has no checkpoint yet; starting from the beginning there" in program.said()
    assert folders(tmp_path) == [folder]
    assert (folder / "main.log").read_text().count("average accuracy") == 1


def test_another_machine_is_one_warning(copy):
    _, folder = folders(copy)
    content, _ = load_run(folder)
    del content["format"]
    here = content["machines"][0]
    content["machines"] = [here | {"threads": 64, "devices": "NVIDIA H100"}]
    save_run(folder, content)
    program = Program("--resume", folder, output=copy / "again")
    assert program.wait() == 0
    assert program.said().count("WARNING") == 1
    assert (
        "this run has not stayed on the machine that it began on (devices NVIDIA H100 -> CPU; "
        "threads 64 -> 1): the result will no longer be bit for bit" in program.said()
    )
    # Said again by whoever goes on later, also back on the first machine.
    saved, _ = load_run(folder)
    assert saved["machines"] == [here | {"threads": 64, "devices": "NVIDIA H100"}, here]


def test_the_same_run_twice_at_once_is_refused(config, tmp_path):
    flags = [*config, *LONG, "--log_dir", tmp_path]
    first = Program(*flags, output=tmp_path / "said")
    first.wait_for("on cpu; logs in")
    (folder,) = folders(tmp_path)
    for resume in (["--resume"], ["--resume", folder]):
        second = Program(*flags, *resume, output=tmp_path / "second")
        assert second.wait() == 2
        assert f"another process is running {folder} at this moment" in second.said()
        assert "Traceback" not in second.said()
    # A killed run leaves no lock behind.
    first.send(signal.SIGKILL)
    first.wait()
    third = Program(*flags, "--resume", "--max_minutes", 0.05, output=tmp_path / "third")
    assert third.wait() == 3, third.said()
    assert folders(tmp_path) == [folder]


def test_two_new_runs_of_one_second_have_their_own_folders(config, tmp_path):
    flags = [*config, "--stop_after_task", 1, "--log_dir", tmp_path]
    pair = [Program(*flags, output=tmp_path / f"said{i}") for i in range(2)]
    assert [program.wait() for program in pair] == [0, 0]
    assert len(folders(tmp_path)) == 2


# --- Damage ---------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip_a_bit])
def test_a_bad_checkpoint_gives_way_to_the_one_before(damage, copy, config):
    _, folder = folders(copy)
    damage(folder / NEWEST)
    program = Program("--resume", folder, output=copy / "again")
    assert program.wait() == 0, program.said()
    assert f"{folder / NEWEST} is damaged" in program.said()
    assert f"going on from the one before it, {folder / PREVIOUS}" in program.said()
    straight = Program(
        *config, "--seed", 2, "--log_dir", copy / "straight", output=copy / "straight said"
    )
    assert straight.wait() == 0
    assert_same_run(folder, folders(copy / "straight")[0])


def write_wrong_contents(folder, change):
    """Write a newest checkpoint with a right checksum whose contents are wrong."""
    content, _ = load_run(folder)
    (folder / NEWEST).rename(folder / PREVIOUS)
    change(content["learner"])
    save_run(folder, {key: content[key] for key in content if key != "format"})


def other_exemplar(learner):
    learner["exemplars"][0][0] = 10**6


def other_network(learner):
    net = learner["nets"]["network"]
    net["weights"] = {f"{name}.": value for name, value in net["weights"].items()}


def other_numbers(learner):
    weights = learner["nets"]["network"]["weights"]
    name = next(iter(weights))
    weights[name] = weights[name] * float("nan")


def other_shape(learner):
    learner["nets"]["network"]["shape"]["num_blocks"] += 1


@pytest.mark.parametrize("change", [other_exemplar, other_network, other_numbers, other_shape])
def test_wrong_contents_give_way_to_the_checkpoint_before(change, copy, monkeypatch, caplog):
    _, folder = folders(copy)
    write_wrong_contents(folder, change)
    monkeypatch.setattr(experiment, "_run_in_folder", lambda *_: 1 / 0)  # what it would go on with
    with pytest.raises(ZeroDivisionError):
        main(["--resume", str(folder)])
    assert f"going on from the one before it, {folder / PREVIOUS}" in caplog.text
    assert (folder / "checkpoint_damaged.pt").exists()
    (folder / "checkpoint_damaged.pt").rename(folder / PREVIOUS)
    assert main(["--resume", str(folder)]) == 2


def test_no_good_checkpoint_is_an_error_and_no_restart(copy):
    _, folder = folders(copy)
    for name in (NEWEST, PREVIOUS):
        cut(folder / name)
    before = {path.name for path in folder.iterdir()}
    program = Program("--resume", folder, output=copy / "again")
    assert program.wait() == 2
    for words in (str(folder / NEWEST), str(folder / PREVIOUS), "no good checkpoint is left"):
        assert words in program.said()
    assert "Traceback" not in program.said()
    assert {path.name for path in folder.iterdir()} == before


def test_a_damaged_config_is_named(config, copy):
    _, folder = folders(copy)
    cut_text = (folder / "config.json").read_text()[:100]
    (folder / "config.json").write_text(cut_text)
    program = Program("--resume", folder, output=copy / "again")
    assert program.wait() == 2
    assert f"{folder / 'config.json'}: not valid JSON" in program.said()
    # Its settings given by hand, the checkpoint is enough.
    program = Program("--resume", folder, *config, "--seed", 2, output=copy / "more")
    assert program.wait() == 0, program.said()


def test_a_missing_config_is_named(config, copy):
    _, folder = folders(copy)
    (folder / "config.json").unlink()
    program = Program("--resume", folder, output=copy / "again")
    assert program.wait() == 2
    for words in (f"{folder / 'config.json'}: there is no such file", "settings with --config"):
        assert words in program.said()
    flags = [*config, "--seed", 1, 2, "--log_dir", copy, "--resume", "--max_minutes", 0.001]
    program = Program(*flags, output=copy / "more")
    program.wait()
    why = "config.json cannot be read (No such file or directory)"
    assert f"{folder}: {why}, so its run is passed over" in program.said()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_kill_on_a_gpu_changes_nothing_with_deterministic_settings(config, tmp_path):
    runs = []
    # Enough epochs that the second task's step is a recorded graph long before the kill in it; its
    # steps are then replays, which no Python function but the control's sees.
    for name, die_at in (
        ("left alone", None),
        ("killed", ("utils.control.Control.after_step", 60)),
    ):
        flags = [*config, "-d", 0, "--deterministic", "--checkpoint_every", 1]
        flags += ["--init_epoch", 10, "--epochs", 12]
        flags += ["--log_dir", tmp_path / name]
        output = tmp_path / f"{name}.said"
        code = Program(*flags, output=output, die_at=die_at).wait()
        assert code == (-signal.SIGKILL if die_at else 0)
        if die_at:
            assert Program(*flags, "--resume", output=output).wait() == 0
        runs += folders(tmp_path / name)
    assert_same_run(*runs)


def test_a_folder_that_is_no_run_s_is_named(config, tmp_path):
    program = Program("--resume", tmp_path, output=tmp_path / "said")
    assert program.wait() == 2
    assert f"{tmp_path}/config.json: there is no such file" in program.said()
    program = Program("--resume", tmp_path, *config, output=tmp_path / "more")
    assert program.wait() == 2
    assert f"{tmp_path} is not the folder of a run that could go on" in program.said()


def test_damaged_runs_are_passed_over_by_a_resume_and_named(tmp_path, caplog):
    config = Config(log_dir=str(tmp_path))
    parent = runs_folder(config)
    for name, damage in DAMAGES.items():
        folder = fake_run(parent / name, [90.0], finished=False, log_dir=str(tmp_path))
        notes = json.loads((folder / "config.json").read_text())
        calls = {"_call": name, "_seeds": [1993]}
        (folder / "config.json").write_text(json.dumps({**notes, **calls}))
        damage(folder)
    call = find_call(config, True)
    assert next(iter(call.folders.values())).name in DAMAGES  # its settings can be read
    for name in DAMAGES:
        if name.startswith("config"):
            assert re.search(f"{name}: config.json .*so its run is passed over", caplog.text)
            with pytest.raises(CheckpointError, match=f"{name} is not the folder of a run that"):
                find_call(config, parent / name)
        else:
            assert find_call(config, parent / name).folders == {1993: parent / name}


def test_what_a_run_did_not_write_down_yet_counts_as_it_was(config, copy):
    """A setting that is newer than a run has the value that it would have had then."""
    _, folder = folders(copy)
    notes = json.loads((folder / "config.json").read_text())
    for key in ("train_base", "t_max", "image_size"):
        del notes[key]
    (folder / "config.json").write_text(json.dumps(notes))
    content, _ = load_run(folder)
    content["config"] = {key: notes[key] for key in content["config"] if key in notes}
    save_run(folder, {key: content[key] for key in content if key != "format"})
    assert main(["--evaluate", str(folder)]) == 0
    assert find_call(load_config(["--resume", str(folder)])[0], folder).folders == {2: folder}
    assert [run.unfinished for run in find_runs([copy])] == ["", "2 of 3 tasks finished"]


def test_a_run_whose_settings_could_not_be_written_can_begin_again(config, tmp_path):
    """As where the disk was full before config.json, or the machine went down."""
    said, folder = tmp_path / "said", tmp_path / "run"
    (folder / ".config.json.99.tmp").mkdir(parents=True)  # named like what a killed run leaves
    (folder / "main.log").touch()
    assert Program("--resume", folder, output=said).wait() == 2
    assert "if this is the folder of a run, give its settings with --config" in said.read_text()
    flags = [*config, "--log_dir", tmp_path / "logs", "--stop_after_task", 1]
    assert Program(*flags, "--resume", folder, output=said).wait() == 0, said.read_text()
    assert json.loads((folder / "summary.json").read_text())["finished"] is True


# --- Files from before there were several methods -------------------------------------------------

BEFORE = GOLDEN / "before_methods"


@pytest.fixture
def before(tmp_path):
    """Return a copy of a run that the version before several methods left in its second task."""
    return shutil.copytree(BEFORE, tmp_path / "before")


def test_a_run_from_before_goes_on_as_that_version_did(before, tmp_path):
    program = Program("--resume", before, output=tmp_path / "said")
    assert program.wait() == 0, program.said()
    assert f"resumed in task 2: going on with {before}" in program.said()
    expected = rows_without_seconds(before, "training_after.csv")
    rows = rows_without_seconds(before, "training.csv")
    assert rows[:2] == expected[:2]
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            if row[key] != other[key]:  # computed on another processor
                images = 100 / 72  # of the accuracy, if one is on a boundary
                within = {"abs": images} if key == "train_acc" else {"rel": 1e-3}
                assert float(row[key]) == pytest.approx(float(other[key]), **within), key
    assert [row["task"] for row in rows_without_seconds(before)] == ["1", "2"]


def test_a_task_from_before_is_tested_and_exported(before, tmp_path, capsys):
    file = tmp_path / "memo.pt"
    assert main(["--evaluate", str(before), "--task", "1", "--export", str(file)]) == 0
    assert f"the same as in {before / 'curves.csv'}" in capsys.readouterr().out
    # An export from before tells no shape.
    facts = json.loads(file.with_suffix(".json").read_text())
    del facts["shape"]
    file.with_suffix(".json").write_text(json.dumps(facts))
    network = load_exported(file).network
    saved = torch.load(before / "task_1.pt", weights_only=True)
    assert "shape" not in saved
    assert network.state_dict().keys() == saved["network"].keys()
    assert all(torch.equal(network.state_dict()[k], v) for k, v in saved["network"].items())


@pytest.mark.parametrize("method", ["memo", "replay", "der"])
def test_a_first_task_from_before_serves_any_method(method, before, tmp_path):
    settings = json.loads((before / "config.json").read_text())
    shared = ("dataset", "init_cls", "increment", "memory_size", "batch_size")
    shared += ("synthetic_classes", "synthetic_train_per_class", "synthetic_test_per_class")
    flags = {key: settings[key] for key in shared} | {"model_name": method, "device": [-1]}
    flags |= {"convnet_type": "conv2", "skip": True, "init_checkpoint": str(before / "task_1.pt")}
    (tmp_path / "skip.json").write_text(json.dumps({**flags, "stop_after_task": 1}))
    given = ["--config", tmp_path / "skip.json", "--log_dir", tmp_path]
    assert Program(*given, output=tmp_path / "said").wait() == 0, (tmp_path / "said").read_text()
    (folder,) = folders(tmp_path)
    (ours,), (noted,) = rows_without_seconds(folder), rows_without_seconds(before)
    assert ours["cnn_top1"] == noted["cnn_top1"]
