"""One run per folder: refused while another runs, taken over when it is gone, noticed when lost."""

import errno
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from uad import run_lock
from uad.distributed import World
from uad.errors import InputError
from uad.run_lock import NAME, exclusive

ALONE = World(0, 1, torch.device("cpu"))
HOLDER = """
import sys, time, torch
from uad.distributed import World
from uad.run_lock import exclusive
with exclusive(sys.argv[1], World(0, 1, torch.device("cpu"))):
    print("holds", flush=True)
    time.sleep(60)
"""
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def left_behind(folder: Path, silent_for: float = 0.0, **changes) -> str:
    """Write the lock of an owner that is this process but for the changes, last touched so many seconds ago."""
    with exclusive(folder, ALONE):
        owner = json.loads((folder / NAME).read_text())
    text = json.dumps(owner | changes)
    (folder / NAME).write_text(text)
    set_age(folder / NAME, silent_for)
    return text


def set_age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_created_and_left_without_a_lock(tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        with exclusive(folder, ALONE) as lock:
            lock.check()
            assert names(folder) == {NAME}
        assert not names(folder)
    with pytest.raises(ZeroDivisionError), exclusive(folder, ALONE):
        raise ZeroDivisionError
    assert not names(folder)


def test_what_a_process_left_that_died_while_locking_is_removed(tmp_path):
    text = left_behind(tmp_path, ticks="0")
    for name in ("token", "after-0123"):
        (tmp_path / f"{NAME}.{name}").write_text(text)
    with exclusive(tmp_path, ALONE):
        assert names(tmp_path) == {NAME}


def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, holder):
    begin = time.monotonic()
    with pytest.raises(InputError, match=rf"process {holder.pid}, started \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:"):
        exclusive(tmp_path, ALONE).__enter__()
    assert time.monotonic() - begin < 1
    assert names(tmp_path) == {NAME}


def test_a_second_lock_in_the_same_process_is_refused(tmp_path):
    with exclusive(tmp_path, ALONE) as lock:
        with pytest.raises(InputError, match=f"process {os.getpid()},"):
            exclusive(tmp_path, ALONE).__enter__()
        lock.check()
    assert not names(tmp_path)


@pytest.mark.parametrize("waited_for", [False, True])
def test_a_killed_run_is_followed_at_once(tmp_path, holder, waited_for):
    holder.send_signal(signal.SIGKILL)
    if waited_for:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    begin = time.monotonic()
    with exclusive(tmp_path, ALONE) as lock:
        lock.check()
        assert names(tmp_path) == {NAME}
    assert time.monotonic() - begin < 1 and not names(tmp_path)


def test_a_paused_process_of_this_host_still_holds_its_folder(tmp_path, holder):
    holder.send_signal(signal.SIGSTOP)
    set_age(tmp_path / NAME, 3600)
    with pytest.raises(InputError, match=f"process {holder.pid},"):
        exclusive(tmp_path, ALONE).__enter__()


def test_a_later_process_of_the_same_number_is_not_the_owner(tmp_path):
    left_behind(tmp_path, ticks="1")
    with exclusive(tmp_path, ALONE) as lock:
        lock.check()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"boot": "earlier"}, {"namespace": "pid:[1]"}])
def test_an_owner_out_of_sight_holds_its_folder_while_it_beats(tmp_path, changes):
    text = left_behind(tmp_path, silent_for=30, pid=1, **changes)
    with pytest.raises(InputError, match=r"process 1,.*\n.*\n.*recognised as such after 60 s"):
        exclusive(tmp_path, ALONE).__enter__()
    assert names(tmp_path) == {NAME} and (tmp_path / NAME).read_text() == text
    set_age(tmp_path / NAME, 90)
    with exclusive(tmp_path, ALONE) as lock:
        lock.check()
    assert not names(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff{"])
def test_a_damaged_lock_is_judged_by_its_age(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match="does not name"):
        exclusive(tmp_path, ALONE).__enter__()
    set_age(tmp_path / NAME, 90)
    with exclusive(tmp_path, ALONE) as lock:
        lock.check()


def test_age_is_by_the_clock_of_the_file_system(tmp_path, monkeypatch):
    left_behind(tmp_path, silent_for=30, host="elsewhere")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(InputError, match="another run"):
        exclusive(tmp_path, ALONE).__enter__()


def test_a_restarted_job_waits_for_the_silence_of_a_dead_host(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(run_lock, "BEAT", 0.1)
    monkeypatch.setattr(run_lock, "SILENCE", 1.0)
    left_behind(tmp_path, host="elsewhere")
    begin = time.monotonic()
    with exclusive(tmp_path, ALONE):
        assert time.monotonic() - begin > 0.9


def _hold(folder: Path, begin, results, end) -> None:
    begin.wait()
    try:
        with exclusive(folder, ALONE) as lock:
            results.put((True, os.getpid()))
            end.wait()
            lock.check()
    except InputError as error:
        results.put((False, int(re.search(r"process (\d+),", str(error)).group(1))))


@pytest.mark.parametrize("claimant_died", [False, True])
def test_of_many_that_find_a_dead_run_one_wins(tmp_path, claimant_died):
    count = 8
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        text = left_behind(folder, ticks="1")
        if claimant_died:
            claim = folder / f"{NAME}.after-{blake2b((NAME + text).encode(), digest_size=8).hexdigest()}"
            claim.write_text(text.replace('"token": "', '"token": "0'))
        begin, results, end = FORK.Barrier(count), FORK.Queue(), FORK.Event()
        runs = [FORK.Process(target=_hold, args=(folder, begin, results, end)) for _ in range(count)]
        for run in runs:
            run.start()
        found = [results.get(timeout=30) for _ in runs]
        end.set()
        for run in runs:
            run.join()
        winner = dict(found)[True]
        assert sorted(found) == [(False, winner)] * (count - 1) + [(True, winner)]
        assert results.empty() and not names(folder)


@pytest.mark.parametrize("damage", ["taken", "deleted"])
def test_a_lost_lock_is_noticed_by_the_heartbeat(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    message = "elsewhere" if damage == "taken" else "gone"
    with pytest.raises(InputError, match=message), exclusive(tmp_path, ALONE) as lock:
        lose(tmp_path, damage)
        for _ in range(100):
            time.sleep(0.05)
            lock.check()
    assert names(tmp_path) == ({NAME} if damage == "taken" else set())


def lose(folder: Path, damage: str) -> None:
    text = (folder / NAME).read_text()
    (folder / NAME).unlink()
    if damage == "taken":
        (folder / NAME).write_text(json.dumps(json.loads(text) | {"host": "elsewhere"}))


def test_after_a_pause_a_lost_lock_is_noticed_at_the_next_step(tmp_path, monkeypatch):
    with exclusive(tmp_path, ALONE) as lock:
        lose(tmp_path, "taken")
        lock.check()
        paused_for = time.clock_gettime(run_lock._CLOCK) + 45
        monkeypatch.setattr(time, "clock_gettime", lambda clock: paused_for)
        with pytest.raises(InputError, match="no longer this run's lock"):
            lock.check()
    assert names(tmp_path) == {NAME}


def test_the_heartbeat_touches_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 0.05)
    with exclusive(tmp_path, ALONE) as lock:
        set_age(tmp_path / NAME, 90)
        begin = time.monotonic()
        while time.time() - (tmp_path / NAME).stat().st_mtime > 60:
            assert time.monotonic() - begin < 5
            time.sleep(0.02)
        lock.check()


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        exclusive(tmp_path / "file" / "run", ALONE).__enter__()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(InputError, match="No space left on device"):
        exclusive(tmp_path, ALONE).__enter__()
    assert names(tmp_path) == {"file"}


def test_a_file_system_without_hard_links_will_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    left_behind(tmp_path, ticks="1")
    with exclusive(tmp_path, ALONE) as lock:
        lock.check()
        with pytest.raises(InputError, match=f"process {os.getpid()},"):
            exclusive(tmp_path, ALONE).__enter__()
    assert not names(tmp_path)


def _rank(rank: int, folder: Path, store: Path, results) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=30)
    )
    world = World(rank, 2, torch.device("cpu"))
    with exclusive(folder, world) as lock:
        lock.check()
        results.put((rank, names(folder)))
        world.barrier()
    left_behind_by_main = world.on_main(lambda: left_behind(folder, host="elsewhere"))
    assert (left_behind_by_main is None) == (rank == 1)
    try:
        exclusive(folder, world).__enter__()
    except InputError:
        results.put((rank, "refused"))
    dist.destroy_process_group()


def test_every_process_of_a_job_is_let_in_or_refused_with_the_main_one(tmp_path):
    folder, results = tmp_path / "run", FORK.Queue()
    runs = [FORK.Process(target=_rank, args=(rank, folder, tmp_path / "store", results)) for rank in range(2)]
    for run in runs:
        run.start()
    found = [results.get(timeout=30) for _ in range(4)]
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert sorted(found[:2]) == [(0, {NAME}), (1, {NAME})] and sorted(found[2:]) == [(0, "refused"), (1, "refused")]
