"""One run at a time into one output, and no lock that outlives its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.memory_files import CodedError, MemoryFileSystem
from transforms.errors import StorageError, UsageError
from transforms.storage import lock
from transforms.storage.lock import STALE_SECONDS, locked

ROOT = Path(__file__).parents[3]
HOLD = """
import sys
from transforms.storage.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""

REMOTE = "memtest://bucket/out"
REMOTE_LOCK = f"{REMOTE}/runs/.lock"


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path`` until a line is written to it."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


# Local disks


def test_a_second_run_is_refused_and_told_who_writes(tmp_path, holder):
    with pytest.raises(UsageError, match="another run") as caught, locked(str(tmp_path)):
        pass
    assert f"process {holder.pid} on " in str(caught.value)
    assert str(caught.value).startswith(f"--output={tmp_path}: ")


def test_a_killed_run_keeps_no_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(str(tmp_path)):
        assert f"process {os.getpid()} on " in (tmp_path / "runs/.lock").read_text()


def test_a_run_that_ends_gives_the_lock_back(tmp_path, holder):
    holder.communicate("\n")
    assert holder.returncode == 0
    with locked(str(tmp_path)):
        pass
    with locked(str(tmp_path)):  # twice in one process, too
        pass


def test_within_one_process_it_holds_as_well(tmp_path):
    with locked(str(tmp_path)), pytest.raises(UsageError), locked(str(tmp_path)):
        pass
    with locked(str(tmp_path / "another")), locked(str(tmp_path)):
        pass


def test_a_run_that_fails_gives_the_lock_back(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(str(tmp_path)):
        raise ZeroDivisionError
    with locked(str(tmp_path)):
        pass


def test_a_lock_that_cannot_be_written_is_an_error_of_storage(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="cannot be locked"), locked(str(tmp_path / "out")):
        pass


# Object stores


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.01)


def claim(owner="process 1 on elsewhere", *, token="other", age_seconds=0.0) -> bytes:
    content = {"token": token, "owner": owner, "renewed": time.time() - age_seconds}
    return json.dumps(content).encode()


def test_a_remote_lock_is_there_while_it_is_held(memory_files, quick):
    with locked(REMOTE):
        held = json.loads(memory_files[REMOTE_LOCK])
        assert held["owner"].startswith(f"process {os.getpid()} on ")
        assert abs(time.time() - held["renewed"]) < 60
        with pytest.raises(UsageError, match=f"process {os.getpid()} on "), locked(REMOTE):
            pass
        assert json.loads(memory_files[REMOTE_LOCK]) == held
    assert memory_files == {}


def test_a_run_that_fails_gives_the_remote_lock_back(memory_files, quick):
    with pytest.raises(ZeroDivisionError), locked(REMOTE):
        raise ZeroDivisionError
    assert memory_files == {}


@pytest.mark.parametrize("missing", [FileNotFoundError, None], ids=["at once", "when it is read"])
def test_a_remote_output_that_is_new(memory_files, quick, monkeypatch, missing):
    monkeypatch.setattr(MemoryFileSystem, "missing", missing)
    with locked(REMOTE):
        assert REMOTE_LOCK in memory_files


def test_a_dead_runs_remote_lock_is_taken_over(memory_files, quick):
    memory_files[REMOTE_LOCK] = claim(age_seconds=STALE_SECONDS + 1)
    with locked(REMOTE):
        assert json.loads(memory_files[REMOTE_LOCK])["token"] != "other"


def test_a_live_runs_remote_lock_is_not(memory_files, quick):
    memory_files[REMOTE_LOCK] = before = claim(age_seconds=STALE_SECONDS - 10)
    with pytest.raises(UsageError, match="process 1 on elsewhere"), locked(REMOTE):
        pass
    assert memory_files == {REMOTE_LOCK: before}


def test_of_two_claims_at_once_the_later_one_holds(memory_files, monkeypatch):
    """Both have seen a free output; the other's claim comes behind this one's."""

    def other_claims(_seconds: float) -> None:
        memory_files[REMOTE_LOCK] = claim("the other")

    monkeypatch.setattr(lock.time, "sleep", other_claims)
    with pytest.raises(UsageError, match="the other"), locked(REMOTE):
        pass
    assert json.loads(memory_files[REMOTE_LOCK])["owner"] == "the other"  # and is left alone


@pytest.mark.parametrize("runs", [2, 5])
def test_of_many_at_once_exactly_one_holds(memory_files, monkeypatch, runs):
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.5)
    together, over = threading.Barrier(runs), threading.Event()
    outcomes: list[str] = []

    def run() -> None:
        together.wait()
        try:
            with locked(REMOTE):
                outcomes.append("held")
                over.wait(10)
        except UsageError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(runs)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(outcomes) == runs)
    over.set()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["held"] + ["refused"] * (runs - 1)


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_a_remote_lock_is_renewed_also_after_a_refusal(memory_files, quick, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
    with locked(REMOTE):
        first = json.loads(memory_files[REMOTE_LOCK])
        MemoryFileSystem.stops.append(CodedError(403))
        wait_for(lambda: not MemoryFileSystem.stops)
        wait_for(lambda: json.loads(memory_files[REMOTE_LOCK])["renewed"] > first["renewed"])
        assert json.loads(memory_files[REMOTE_LOCK])["token"] == first["token"]
    assert memory_files == {}


def test_a_remote_lock_that_cannot_be_written(memory_files, quick, monkeypatch):
    memory_files[REMOTE_LOCK] = claim(age_seconds=STALE_SECONDS + 1)
    calls = []

    def refuse(self, path, *args, **options):
        calls.append(path)
        raise CodedError(403)

    monkeypatch.setattr(MemoryFileSystem, "create", refuse)
    with pytest.raises(StorageError, match="403"), locked(REMOTE):
        pass
    assert calls == [REMOTE_LOCK]


def test_a_run_that_was_taken_for_dead_ends(memory_files, quick, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.01)
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with locked(REMOTE):
            memory_files[REMOTE_LOCK] = others = claim()
            assert ended.wait(timeout=30)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert memory_files == {REMOTE_LOCK: others}  # neither renewed nor removed
