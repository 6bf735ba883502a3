from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from transforms.audio.decoder_child import child_environment
from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.errors import WorkerError

ROOT = Path(__file__).parents[3]


def test_child_environment() -> None:
    kept = {"PATH": "a", "LC_ALL": "b", "PYTHONHASHSEED": "1", "DYLD_X": "c", "HOME": "d"}
    secret = {"TOKEN": "x", "GOOGLE_APPLICATION_CREDENTIALS": "y", "MY_PATH": "z", "PATHX": "w"}
    made = child_environment(kept | secret | {"PYTHONPATH": "/p"})
    assert {name: made[name] for name in kept} == kept
    assert not secret.keys() & made.keys()
    assert made["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/p"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "import sys; sys.exit('it is cold')"), "it is cold"),
        ((sys.executable, "-c", "print('x' * 200)"), "a header of"),
        ((sys.executable, "-m", "no_such_module"), "no_such_module"),
    ],
)
def test_a_child_that_does_not_start_is_no_files_fault(tmp_path, command, told) -> None:
    sandbox = Sandbox(DecoderLimits(command=command))
    with pytest.raises(WorkerError, match=told) as caught:
        sandbox.open(tmp_path / "any.mp3")
    assert command[0] in str(caught.value)


def test_a_worker_without_files_left_is_no_files_fault(tmp_path, monkeypatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none_left, raising=False)
    with pytest.raises(WorkerError, match="Too many open files"):
        Sandbox().open(tmp_path / "any.mp3")
