"""Runs in processes of their own, to be killed: a real start, or a quick one by fork.

A real start takes seconds of imports. Where only the run itself matters, a clean process imports
everything once and forks for each run (multiprocessing's forkserver).
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.catalog import ROOT, command_line, environment

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pipeline.job", "transformers", "soundfile", __name__])
PATIENCE_S = 120.0
MARK = "PYTHON_MARK_OF_A_TEST"  # decoders keep only what begins with PYTHON
CHANGES = frozenset("os.rename os.remove os.mkdir os.rmdir os.truncate".split())


def wait_until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Poll until ``condition`` gives something true, which is returned."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError(f"{what}: not within {patience_s} s")


def segments(output: Path) -> list[str]:
    """Names of the journal's segments of finished tracks."""
    return [path.name for path in output.glob("journal/*/tracks-*.parquet")]


def family_of(mark: str) -> dict[int, str]:
    """Process ids and command lines of all that has a mark in its environment."""
    marked, found = f"{MARK}={mark}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marked in (folder / "environ").read_bytes().split(b"\0"):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(folder.name)] = line
        except OSError:  # it ended meanwhile, or is none of ours
            continue
    return {pid: line for pid, line in found.items() if line}  # zombies have none


class Started:
    """The program in a session of its own, with everything that it starts marked."""

    def __init__(self, output: Path, *options: str, program: str = "pipeline.main") -> None:
        self._mark = uuid.uuid4().hex
        self._folder = tempfile.TemporaryDirectory(prefix="run-")
        self._errors = Path(self._folder.name) / "stderr"
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command_line(output, *options, program=program),
                cwd=ROOT,
                env=environment(**{MARK: self._mark}),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stderr(self) -> list[str]:
        return self._errors.read_text(encoding="utf-8").splitlines()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def family(self) -> dict[int, str]:
        """Process ids and command lines of all that has the mark."""
        return family_of(self._mark)

    def kill_all(self) -> None:
        """SIGKILL to the launcher and its group."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def kill_launcher(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        workers = [pid for pid, line in self.family().items() if "-m pipeline.worker" in line]
        os.kill(workers[0], signal.SIGKILL)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        return self._process.wait(patience_s)

    def close(self) -> None:
        """End what is left of it, also if a test has failed."""
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._folder.cleanup()


class Crash:
    """Kills this process at the n-th change of a file under a folder, seen by an audit hook.

    Without a number it only counts.
    """

    def __init__(self, folder: str, number: int | None) -> None:
        self.changes = 0
        self._folder = folder
        self._number = number

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._is_change(event, arguments):
            self.changes += 1
            if self.changes == self._number:
                os.kill(os.getpid(), signal.SIGKILL)

    def _is_change(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) != 0
        else:
            path, changes = arguments[0] if arguments else None, event in CHANGES
        named = isinstance(path, (str, os.PathLike))
        return changes and named and os.fspath(path).startswith(self._folder)


def _run(
    program: str, output: str, options: tuple[str, ...], crash_at: int | None, errors: str
) -> None:
    """In the fork: the program, up to its exit."""
    os.setsid()
    stderr = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.root.handlers.clear()  # those of the process that forks
    from transforms.storage import retry

    main = importlib.import_module(program).main

    retry.PATIENCE_SECONDS = 2.0  # in place of minutes
    crash = Crash(output, crash_at)
    sys.addaudithook(crash)
    status = main([f"--output={output}", *options])
    Path(f"{errors}.changes").write_text(str(crash.changes))
    sys.exit(status)


def _call(call: Callable[[], Any], folder: str, crash_at: int) -> None:
    sys.addaudithook(Crash(folder, crash_at))
    call()


def call_and_crash(call: Callable[[], Any], folder: Path, crash_at: int) -> bool:
    """Call in a fork, with a kill at a change under ``folder``; whether that was reached."""
    process = FORKS.Process(target=_call, args=(call, str(folder), crash_at))
    process.start()
    process.join(PATIENCE_S)
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the call ended with {process.exitcode}")
    return process.exitcode != 0


class Forked:
    """The same in a fork, of one worker; ``crash_at`` as :class:`Crash` counts."""

    def __init__(
        self,
        output: Path,
        *options: str,
        crash_at: int | None = None,
        program: str = "pipeline.main",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="run-")
        self._errors = Path(self._folder.name) / "stderr"
        arguments = program, str(output), ("--workers=1", *options), crash_at, str(self._errors)
        self._process = FORKS.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def stderr(self) -> list[str]:
        return self._errors.read_text(encoding="utf-8").splitlines()

    @property
    def changes(self) -> int:
        """Of files under the output, in a run that came to its end."""
        return int(Path(f"{self._errors}.changes").read_text())

    @property
    def is_over(self) -> bool:
        return self._process.exitcode is not None

    def kill_all(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        """The exit status, negative for a signal."""
        self._process.join(PATIENCE_S)
        status = self._process.exitcode
        if status is None:
            raise TimeoutError(f"the run is not over within {PATIENCE_S} s")
        return status

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._folder.cleanup()
