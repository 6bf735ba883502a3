"""Java, in whose place a shell script stands here, ends with the program that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.processes import wait_until

START = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"


@pytest.fixture
def java(tmp_path, monkeypatch) -> Path:
    """Writes its process id and arguments down and goes on."""
    told = tmp_path / "told"
    program = tmp_path / "java"
    program.write_text(f'#!/bin/sh\necho "$$" "$@" >{told}.new\nmv {told}.new {told}\nsleep 600\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return told


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_java_ends_with_its_parent(java) -> None:
    command = [sys.executable, "-m", "pipeline.java", "-jar", "a b.jar"]
    starter = [sys.executable, "-c", START, *command]
    with subprocess.Popen(starter, start_new_session=True) as parent:
        try:
            pid, *arguments = wait_until(java.exists, "java") and java.read_text().split(" ", 1)
            assert arguments == ["-jar a b.jar\n"]
            assert is_running(int(pid))
            parent.kill()
            wait_until(lambda: not is_running(int(pid)), "the end of java")
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
