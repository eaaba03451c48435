"""utils/control.py: when a run is saved, when it stops, and the lock on its folder."""

import os
import signal
import time

import pytest

from utils import files
from utils.control import Control, FolderInUseError, Stopped, locked


@pytest.fixture
def saves(monkeypatch):
    """Return a function that makes a Control and the list that its checkpoints go to."""

    def make(**settings):
        control, saved = Control(**settings), []
        control.save = lambda: saved.append(1)
        return control, saved

    return make


def test_saves_every_so_many_epochs(saves):
    control, saved = saves(checkpoint_every=3)
    for epoch in range(1, 8):
        control.after_step()
        control.after_epoch(epoch)
    assert len(saved) == 2


def test_saves_by_the_clock_also_inside_an_epoch(saves, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    control, saved = saves()
    for _ in range(100):  # steps of 20 s
        clock[0] += 20
        control.after_step()
    assert len(saved) == 2000 // 320  # the first step past 300 s is at 320 s
    control, saved = saves(checkpoint_every=5)
    clock[0] += 10_000
    control.after_step()
    assert saved == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGALRM, 3)],
)
def test_a_request_saves_and_stops_after_the_step(number, code, saves):
    control, saved = saves()
    with control:
        control.after_step()
        os.kill(os.getpid(), number)
        assert saved == []
        with pytest.raises(Stopped) as stopped:
            control.after_step()
    assert saved == [1]
    assert stopped.value.exit_code == code


def test_a_second_interrupt_is_not_waited_for(saves):
    control, saved = saves()
    with control:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert saved == []


def test_where_nothing_is_lost_a_request_is_not_waited_for(saves):
    control, saved = saves()

    def asked_inside():
        with control.interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")

    with control, pytest.raises(Stopped):
        asked_inside()
    with control, pytest.raises(Stopped), control.interruptible():
        pytest.fail("went on, although the request came before")
    assert saved == []


def test_handlers_are_put_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with Control(max_minutes=1):
        assert signal.getsignal(signal.SIGTERM) != before[1]
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] < 60
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_signals_that_were_ignored_at_the_start_stay_ignored(saves):
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        control, saved = saves()
        with control:
            for number in numbers:
                os.kill(os.getpid(), number)
            control.after_step()
            assert signal.getsignal(signal.SIGALRM) == control._handle  # --max_minutes is its own
    finally:
        for number, former in before.items():
            signal.signal(number, former)
    assert saved == []


def test_time_counts_from_the_start_of_the_process():
    with Control(max_minutes=60, started=time.monotonic() - 3000):
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 570
    control = Control(max_minutes=1, started=time.monotonic() - 3000)  # over before it began
    with control:
        time.sleep(0.01)
        with pytest.raises(Stopped):
            control.after_step()


def test_stopped_is_not_swallowed():
    assert not issubclass(Stopped, Exception)


def test_a_folder_is_locked_once_at_a_time(tmp_path):
    with locked(tmp_path):
        with pytest.raises(FolderInUseError, match=str(tmp_path)), locked(tmp_path):
            pytest.fail("locked twice")
        begun, begin = os.pipe()
        child = os.fork()
        if child == 0:  # a child that lives on holds no lock
            os.write(begin, b"!")
            time.sleep(30)
            os._exit(0)
        os.read(begun, 1)
    with locked(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not files._LOCKS
    assert [path.name for path in tmp_path.iterdir()] == ["main.log"]


def test_a_lock_that_cannot_be_had_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone/main\.log"), locked(tmp_path / "gone"):
        pytest.fail("locked")
