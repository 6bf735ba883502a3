"""The server that forks worker processes: here with a stand-in for Beam's worker."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from pipeline import forkserver
from pipeline.forkserver import ForkServer
from tests.checkpoints import make_checkpoint
from transforms.models.checkpoint import fingerprint_of

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="workers are not forked there")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server whose workers run what is in WORK instead of Beam's worker."""
    stand_in = tmp_path / "site"
    stand_in.mkdir()
    (stand_in / "stand_in.py").write_text(
        textwrap.dedent("""\
            import os
            import sys
            from pipeline import worker

            beams_worker = worker.work
            worker.work = lambda: exec(os.environ["WORK"])
            worker.main(sys.argv[1:])
        """)
    )
    monkeypatch.setenv("PYTHONPATH", f"{stand_in}{os.pathsep}{Path.cwd()}")
    monkeypatch.setattr(forkserver, "PROGRAM", "stand_in")
    with contextlib.closing(ForkServer()) as made:
        yield made


def run(server, work, **environment):
    return server.run_worker({"WORK": textwrap.dedent(work), **environment})


@pytest.mark.parametrize("status", [0, 1, 7])
def test_the_exit_status_of_a_worker(server, status):
    assert run(server, f"sys.exit({status})") == status


def test_the_signal_that_ended_a_worker(server):
    assert run(server, "os.kill(os.getpid(), 9)") == -signal.SIGKILL


def test_an_error_in_a_worker_ends_it_alone(server):
    assert run(server, "raise ValueError('meant to be seen')") == 1
    assert run(server, "pass") == 0


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("raise RuntimeError('no runner')", 1)])
def test_a_worker_ends_without_cleaning_up(server, tmp_path, monkeypatch, end, status):
    """What is cleaned up may be in use by a thread that still works on a bundle."""
    work = f"""
        import atexit
        from pathlib import Path
        from apache_beam.runners.worker import sdk_worker_main

        def main(_arguments):
            {end}

        atexit.register(Path("cleaned up").touch)
        sdk_worker_main.main = main
        beams_worker()
    """
    monkeypatch.chdir(tmp_path)
    assert run(server, work) == status
    assert not (tmp_path / "cleaned up").exists()


def test_workers_get_the_environment_and_folder_of_the_caller_as_they_are_now(
    server, tmp_path, monkeypatch
):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SET_LATER", "yes")
    work = """
        from pathlib import Path
        Path("told").write_text(os.environ["SET_LATER"] + os.environ["ONLY_HERE"])
    """
    assert run(server, work, ONLY_HERE="!") == 0
    assert (folder / "told").read_text() == "yes!"


def test_workers_run_side_by_side(server, tmp_path):
    """Each waits for the file of the other."""
    work = f"""
        import time
        from pathlib import Path
        own, other = sorted(["a", "b"], key=lambda n: n != os.environ["NAME"])
        Path({str(tmp_path)!r}, own).touch()
        while not Path({str(tmp_path)!r}, other).exists():
            time.sleep(0.01)
    """
    statuses = {}

    def start(name):
        statuses[name] = run(server, work, NAME=name)

    threads = [threading.Thread(target=start, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert statuses == {"a": 0, "b": 0}


def test_weights_are_loaded_before_the_fork(server, tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    settings = {
        "model": str(folder), "fingerprint": fingerprint_of(folder),
        "device": "cpu", "precision": "float32", "batch_size": 2,
    }  # fmt: skip
    server.load(kind="vit", **settings)
    work = f"""
        from transforms.models.vit import load_vit
        load_vit(**{settings!r})
        sys.exit(load_vit.cache_info().misses)
    """
    assert run(server, work) == 1  # the server's, none of its own


def test_weights_that_cannot_be_loaded_are_the_worker_s_to_tell(server, tmp_path):
    folder = make_checkpoint(tmp_path / "model")
    fingerprint = fingerprint_of(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    server.load(
        kind="vit", model=str(folder), fingerprint=fingerprint,
        device="cpu", precision="float32", batch_size=2,
    )  # fmt: skip
    assert run(server, "pass") == 0


def test_a_worker_has_one_thread_and_ignores_ctrl_c(server):
    work = """
        import signal
        os.kill(os.getpid(), signal.SIGINT)
        sys.exit(len(os.listdir("/proc/self/task")) + 10)
    """
    assert run(server, work) == 11


def test_workers_end_with_the_server_and_the_caller_is_told(server):
    process = server._process
    threading.Timer(0.5, process.kill).start()
    with pytest.raises(RuntimeError, match="the server of the worker processes ended"):
        run(server, "import time; time.sleep(600)")
    assert not server.is_running
    with pytest.raises(RuntimeError, match="the server of the worker processes ended"):
        run(server, "pass")


def test_a_new_server_after_one_that_ended(monkeypatch):
    monkeypatch.setattr(forkserver, "_current", None)
    with contextlib.ExitStack() as stack:
        first = forkserver.fork_server()
        stack.callback(first.close)
        assert forkserver.fork_server() is first
        first._process.kill()
        first._reader.join(timeout=60)
        second = forkserver.fork_server()
        stack.callback(second.close)
        assert second is not first
        assert second.is_running
