"""Several processes that train as one: shares, agreement, and whole runs under torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import REPOSITORY, tiny_learner
from processes import SMALL, Program, _context, assert_same_run, folders
from test_main import FILES
from torch import nn

from models import find_learner
from models.methods import METHODS
from utils.augment import EvalTransform, TrainTransform
from utils.checkpoint import load_run
from utils.config import ConfigError
from utils.control import STEPS_ALONE, Control, Stopped
from utils.data_manager import DataManager
from utils.devices import device_of_rank
from utils.distributed import Group, RankZeroFailedError
from utils.engine.run import Run
from utils.launch import Place, place
from utils.loader import ResidentLoader


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """Return what torchrun tells a process."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


# --- One process's view ---------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 128])
def test_shares_make_the_batch(n, world):
    shares = [Group(Place(rank, world)).share(n) for rank in range(world)]
    assert [image for share in shares for image in range(n)[share]] == list(range(n))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sizes[0] >= 1  # rank 0's BatchNorm statistics are the ones that count


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_mean_over_processes_of_weighted_losses_is_that_of_the_batch(n, world):
    losses, total = torch.rand(n, dtype=torch.float64), 0.0
    for rank in range(world):
        share, weight = Group(Place(rank, world)).share_and_weight(n)
        assert len(losses[share]) > 0  # there is always something to compute with
        total += weight * losses[share].mean() / world
    assert total == pytest.approx(losses.mean())


def test_torchrun_says_which_process_this_is(monkeypatch):
    for name in environment(0, 1, 0):
        monkeypatch.delenv(name, raising=False)
    assert place() == Place(0, 1, 0, 1)
    monkeypatch.setenv("RANK", "3")  # as some queues do
    assert place() == Place(0, 1, 0, 1)
    for name, value in environment(3, 4, 1).items():
        monkeypatch.setenv(name, value)
    assert place() == Place(3, 4, 3, 4)


@pytest.mark.parametrize(
    ("present", "asked", "world", "expected"),
    [
        (4, [], 4, [0, 1, 2, 3]),
        (4, [3, 1], 2, [3, 1]),
        (4, [0, 1, 2, 3], 2, [0, 1]),
        (2, [-1], 2, ["cpu", "cpu"]),
        (0, [], 2, ["cpu", "cpu"]),
        (4, [0], 2, "-d 0 gives them GPU 0"),
        (1, [], 2, "the default gives them GPU 0, and this machine has GPU 0"),
        (2, [0, 2], 2, "-d 0 2 gives them GPU 0, 2, and this machine has GPU 0, 1"),
    ],
)
def test_every_process_has_a_gpu_of_its_own_or_an_error(
    present, asked, world, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            device_of_rank(asked, 0, world)
        return
    devices = [device_of_rank(asked, rank, world)[0] for rank in range(world)]
    assert [d.type if d.type == "cpu" else d.index for d in devices] == expected


# --- Two processes and one ------------------------------------------------------------------------


class Float64:
    """A transform of images to float64 ones."""

    def __init__(self, transform):
        self.transform = transform
        self.draw = getattr(transform, "draw", None)

    def __call__(self, *args):
        return self.transform(*args).double()


def still(method: str) -> type:
    """Return a learner in float64, with all BatchNorm in evaluation mode.

    Images do not see each other then.
    """

    class Still(find_learner(method)):
        def fit(self, *args, **named):
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            begin = self.engine.begin

            def begin_in_float64(stage):
                training = begin(stage)
                training.losses = training.losses.double()
                return training

            self.engine.begin = begin_in_float64
            fitted = super().fit(*args, **named)
            self.engine.begin = begin
            return fitted

    return Still


def two_tasks(group: Group, **settings) -> dict:
    """Train on 13 images, then on 12 and 6 exemplars, if any; return what came of it."""
    torch.set_num_threads(1)
    template = tiny_learner(
        convnet_type="memo_conv2",
        classes=4,
        init_cls=2,
        increment=2,
        memory_size=7,
        init_epoch=2,
        epochs=2,
        **settings,
    )
    config = template.config
    random = np.random.default_rng(5)
    labels = np.arange(25) % 4
    images = random.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    tasks = DataManager(labels, labels, list(range(4)), 2, 2)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    transforms = Float64(TrainTransform(mean, std)), Float64(EvalTransform(mean, std))
    data = ResidentLoader(images, tasks.train_labels, *transforms, "cpu")
    torch.manual_seed(3)
    learner = still(config.model_name)(Run(config, tasks, data, data, [torch.device("cpu")], group))
    learner.network.double()
    got = {"steps": []}
    step = learner.engine.training_step

    def spied(*args):
        sums = step(*args)
        got["steps"].append(
            torch.cat([p.detach().flatten() for p in learner.network.parameters()]).norm()
        )
        return sums

    learner.engine.training_step = spied
    for _ in range(2):
        learner.begin_task()
        learner.train_task()
        learner.follow(group.from_main(lambda: learner.end_task() or learner.hand_out()))
    got["losses"] = [
        [value or 0.0 for key, value in row.items() if key.startswith(("loss", "train_acc"))]
        for row in learner.engine.epochs
    ]
    got["nets"] = {name: net.state_dict() for name, net in learner.nets.items()}
    got["exemplars"] = learner.memory.state_dict()
    return got


CASES = [  # 13 images make batches of 5 5 3, or 4 4 4 1
    {"batch_size": 5},
    {"batch_size": 4, "train_base": False},
    {"batch_size": 4, "sync_batchnorm": True},
    *({"batch_size": 4, "model_name": name} for name in METHODS if name != "memo"),
]


def _work(rank, world, port, folder):
    os.environ.update(environment(rank, world, port))
    dist.init_process_group("gloo")
    # It exists on GPUs only. What is done because of it, to empty shares, can be seen without.
    nn.SyncBatchNorm.convert_sync_batchnorm = lambda network: network
    group = Group(Place(rank, world, rank, world))
    results = [two_tasks(group, **case) for case in CASES]
    for failing in (ValueError, Stopped):
        try:
            group.on_main(_raise, failing)
        except (RankZeroFailedError, ValueError, Stopped) as error:
            results.append(type(error).__name__)
    sums = torch.tensor([1.0 + rank])
    group.collect(sums)
    results.append(sums.clone())
    group.collect(sums)  # again: nothing is counted twice
    results.append(sums)
    results.append(_stopping(group))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _raise(error):
    raise error("no", 3) if error is Stopped else error("no")


def _stopping(group):
    """Signals as torchrun sends them: to all, each in the middle of another step."""
    control, saved = Control(group=group), []
    control.save = lambda: saved.append(1)
    with control:
        for step in range(1, 100):
            if step == 11 + group.rank:
                os.kill(os.getpid(), signal.SIGTERM)
            try:
                control.after_step()
            except Stopped as stop:
                return step, stop.exit_code, len(saved), group.ending
    return None


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return what each of two processes came to."""
    folder = tmp_path_factory.mktemp("two")
    port = free_port()
    processes = [_context.Process(target=_work, args=(r, 2, port, folder)) for r in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_two_processes_equal_one(case, two):
    """Losses, weights after every step, networks, exemplars; odd batches, one of one image."""
    one = two_tasks(Group(), **CASES[case])
    assert len(one["steps"]) >= 14
    taught = METHODS[CASES[case].get("model_name", "memo")].teacher
    assert one["nets"].keys() == ({"network", "teacher"} if taught else {"network"})
    for rank, results in enumerate(two):
        other = results[case]
        torch.testing.assert_close(other["steps"], one["steps"], rtol=1e-12, atol=0)
        assert other["nets"].keys() == one["nets"].keys()
        for net, weights in one["nets"].items():
            for name, value in weights.items():
                torch.testing.assert_close(
                    other["nets"][net][name], value, rtol=1e-9, atol=1e-9, msg=f"{net} {name}"
                )
        for a, b in zip(one["exemplars"], other["exemplars"], strict=True):
            assert torch.equal(a, b)
        if rank == 0:  # which alone keeps the records
            np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-9)


def test_all_processes_have_the_same_networks_to_the_last_bit(two):
    for case in range(len(CASES)):
        first, second = (results[case]["nets"] for results in two)
        for net, weights in first.items():
            assert all(torch.equal(weights[name], second[net][name]) for name in weights)


def test_an_error_of_rank_0_ends_the_others_too(two):
    assert [results[len(CASES) : len(CASES) + 2] for results in two] == [
        ["ValueError", "Stopped"],
        ["RankZeroFailedError", "RankZeroFailedError"],
    ]


def test_sums_are_collected_once(two):
    assert [[s.item() for s in results[-3:-1]] for results in two] == [[3.0, 3.0], [0.0, 0.0]]


def test_all_stop_after_the_same_step(two):
    expected = (2 * STEPS_ALONE, 143, 1, True)
    assert [results[-1] for results in two] == [expected, expected]


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps({**SMALL, "batch_size": 5}))
    return ["--config", path]


def run_two(*flags, output, **options):
    """Run main_memo.py as two processes told what torchrun tells them; return exit codes."""
    port = free_port()
    programs = [
        Program(*flags, output=output, environment=environment(rank, 2, port), **options)
        for rank in range(2)
    ]
    return [program.wait() for program in programs]


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    logs = tmp_path_factory.mktemp("undisturbed")
    codes = run_two(*config, "--log_dir", logs, output=logs / "said")
    assert codes == [0, 0], (logs / "said").read_text()
    (folder,) = folders(logs)
    return folder, (logs / "said").read_text()


def test_one_folder_is_written_and_one_process_speaks(undisturbed):
    folder, said = undisturbed
    notes = json.loads((folder / "config.json").read_text())
    assert notes["_processes"] == 2
    assert load_run(folder)[0]["machines"][0]["processes"] == 2
    for words in ("memo, synthetic in 3 tasks", "on 2 processes", "task 3/3:", "last accuracy"):
        assert said.count(words) == 1, words
    assert "Warning" not in said


def test_stopped_again_and_again_and_resumed_it_is_the_same_run(config, undisturbed, tmp_path):
    """Both get SIGTERM at their fifth step; the agreement is some steps later."""
    codes = []
    while not codes or codes[-1] == [143, 143]:
        codes.append(
            run_two(
                *config, "--resume", "--log_dir", tmp_path, output=tmp_path / "said",
                die_at=("utils.engine.fit.Engine.training_step", 5), signal_number=signal.SIGTERM,
            )
        )  # fmt: skip
        assert len(codes) < 10
    said = (tmp_path / "said").read_text()
    assert codes[-1] == [0, 0], said
    assert len(codes) >= 3
    assert said.count("torchrun --nproc_per_node=2 main_memo.py --resume") == len(codes) - 1
    (folder,) = folders(tmp_path)
    assert_same_run(folder, undisturbed[0])


def test_a_run_goes_on_with_another_number_of_processes(config, tmp_path):
    flags = [*config, "--log_dir", tmp_path]
    said = tmp_path / "said"
    assert Program(*flags, "--stop_after_task", 1, output=said).wait() == 0
    assert run_two(*flags, "--resume", output=said) == [0, 0], said.read_text()
    (folder,) = folders(tmp_path)
    assert said.read_text().count("processes 1 -> 2") == 1
    assert json.loads((folder / "summary.json").read_text())["tasks_finished"] == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "cifar10", "--data_dir", "/dev/null"], "/dev/null"),
        (["--sync_batchnorm"], "sync_batchnorm is for several processes with a GPU each"),
    ],
)
def test_a_mistake_is_said_once(flags, words, config, tmp_path):
    said = tmp_path / "said"
    codes = run_two(*config, *flags, "--log_dir", tmp_path / "logs", output=said)
    assert codes == [2, 2], said.read_text()
    assert words in said.read_text()
    assert said.read_text().count("main_memo.py: ") == 1
    assert "Traceback" not in said.read_text()


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        (0, ("utils.engine.fit.Engine.training_step", 5)),
        (1, ("utils.engine.fit.Engine.training_step", 5)),
        (0, ("models.base.herd", 1)),  # while the other waits for it
    ],
)
def test_a_killed_process_is_missed_in_one_sentence(victim, moment, config, tmp_path):
    port, said = free_port(), tmp_path / "said"
    programs = [
        Program(
            *config, "--log_dir", tmp_path, output=said, environment=environment(rank, 2, port),
            die_at=moment if rank == victim else None,
        )
        for rank in range(2)
    ]  # fmt: skip
    codes = [program.wait() for program in programs]
    assert codes == ([-9, 1] if victim == 0 else [1, -9]), said.read_text()
    assert said.read_text().count("main_memo.py: another process of this run is gone") == 1
    assert "Traceback" not in said.read_text()


def torchrun(*flags, output):
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         str(REPOSITORY / "main_memo.py"), *map(str, flags)],
        stdout=output.open("w"), stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_takes_up_a_run_and_ends_it(config, undisturbed, tmp_path):
    """The real thing: stopped in the middle, resumed by torchrun; one folder with all the files."""
    logs, said = tmp_path / "logs", tmp_path / "said"
    logs.mkdir()
    moment = ("utils.engine.fit.Engine.training_step", 5)
    codes = run_two(
        *config, "--log_dir", logs, output=said, die_at=moment, signal_number=signal.SIGTERM
    )
    assert codes == [143, 143], said.read_text()
    (folder,) = folders(logs)
    program = torchrun("--resume", folder, output=said)
    assert program.wait(240) == 0, said.read_text()
    assert said.read_text().count("going on with") == 1
    assert "Traceback" not in said.read_text()
    assert folders(logs) == [folder]
    names = {path.name for path in folder.iterdir()}
    assert names == FILES | {f"task_{task}.pt" for task in (1, 2, 3)}
    assert_same_run(folder, undisturbed[0])


@pytest.mark.slow
def test_torchrun_hands_on_sigterm(config, undisturbed, tmp_path):
    logs, said = tmp_path / "logs", tmp_path / "said"
    program = torchrun(*config, "--log_dir", logs, output=said)
    until = time.monotonic() + 240
    while "logs in" not in said.read_text():
        assert time.monotonic() < until
        assert program.poll() is None, said.read_text()
        time.sleep(0.05)
    program.send_signal(signal.SIGTERM)
    assert program.wait(120) != 0
    assert "stopped by SIGTERM" in said.read_text()
    assert "forcefully" not in said.read_text()
    assert run_two(*config, "--log_dir", logs, "--resume", output=said) == [0, 0]
    assert_same_run(folders(logs)[0], undisturbed[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_sync_batchnorm_makes_two_processes_one(config, tmp_path):
    """With BatchNorm in train mode, over the whole batch, in float32."""
    flags = [*config, "-d", 0, 1, "--sync_batchnorm", "--deterministic"]
    assert run_two(*flags, "--log_dir", tmp_path / "two", output=tmp_path / "said") == [0, 0]
    one = [*config, "-d", 0, "--sync_batchnorm", "--deterministic"]
    assert Program(*one, "--log_dir", tmp_path / "one", output=tmp_path / "said").wait() == 0
    (first,), (second,) = folders(tmp_path / "one"), folders(tmp_path / "two")
    nets = [torch.load(f / "task_1.pt", weights_only=True)["network"] for f in (first, second)]
    for name, value in nets[0].items():
        torch.testing.assert_close(nets[1][name], value, rtol=1e-3, atol=1e-3)
